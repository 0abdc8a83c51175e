"""Several processes, over gloo, against one process with the whole batch; and by torchrun, as users start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.forks import begin_ranks, end
from tests.training.ranks import main as train
from training.models.weights import read_weights

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_server_with_torch")]


def run(folder: Path, strategy: str, batch: int, *, ranks: int, stop: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    codes = end(begin_ranks(folder, ranks, train, folder, strategy, batch, stop))
    assert codes == [0] * ranks, [(folder / f"said-{rank}").read_text()[-4000:] for rank in range(ranks)]


def outcome(folder: Path, step: int = 6) -> tuple[dict[str, Tensor], list[dict[str, float]], list[dict[str, float]]]:
    _, weights, _ = read_weights(folder / f"checkpoints/step_{step:08d}/weights.safetensors")
    tables = [(folder / f"{name}.jsonl").read_text().splitlines() for name in ("metrics", "validation")]
    return weights, *([json.loads(line) for line in lines] for lines in tables)


def assert_close(one: Path, other: Path) -> None:
    weights, rows, judged = outcome(one)
    others, other_rows, other_judged = outcome(other)
    for name, weight in weights.items():
        assert torch.allclose(weight, others[name], atol=5e-5), name
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in other_rows], rel=1e-4)
    for row, same in zip(judged, other_judged, strict=True):
        assert row["pixels"] == same["pixels"]
        assert row["rmse"] == pytest.approx(same["rmse"], rel=1e-4)
        assert row["loss"] == pytest.approx(same["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    run(folder, "auto", 4, ranks=1)
    return folder


def test_one_rank_speaks_for_all(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = ("run.devices=2", "run.strategy=ddp", "optimizer.steps=2", "data.samples=64", "logs.every_steps=1")
    command = [*launch, "-m", "training.pretrain", "--config", "cpu_smoke", "--output-dir", str(tmp_path / "run")]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert sum("done: " in line for line in done.stderr.splitlines()) == 1


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2"])
def test_two_ranks_equal_one_with_twice_the_batch(single: Path, tmp_path: Path, strategy: str) -> None:
    run(tmp_path, strategy, 2, ranks=2)
    assert_close(single, tmp_path)


def test_a_run_goes_on_with_another_number_of_ranks_and_strategy(single: Path, tmp_path: Path) -> None:
    run(tmp_path, "fsdp", 2, ranks=2, stop=2)
    run(tmp_path, "ddp", 2, ranks=2, stop=4)
    run(tmp_path, "fsdp", 2, ranks=2)
    assert_close(single, tmp_path)
