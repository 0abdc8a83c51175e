"""What damage of inputs found in what training reads again: each is one sentence now."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stratacube.errors import SourceError
from training.checkpoint import read_state
from training.logs import _Table
from training.publication import _evaluation, _extent
from training.runs import open_run

OLD = Path(__file__).resolve().parents[1] / "old" / "training.tar.xz"
STEP = "training/run/checkpoints/step_00000002"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    with tarfile.open(OLD) as tar:
        tar.extractall(tmp_path, [m for m in tar.getmembers() if m.name.startswith(STEP)], filter="data")
    return tmp_path / STEP


@pytest.mark.parametrize("header", ["[]", "{", '{"model": []}', '{"model": {"bands": 7}}', "{}", "[" * 100_000])
def test_weights_of_no_model_are_one_sentence(checkpoint: Path, header: str) -> None:
    path = checkpoint / "ema.safetensors"
    with safe_open(path, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (safe_open is no dict)
    save_file(weights, path, metadata={"stratacube": header})
    with pytest.raises(SourceError, match=rf"^{path} has a header that is not of a model \(.*\); give another"):
        open_run(checkpoint)


@pytest.mark.parametrize("change", [[], {"config": None}, {"config": []}, {"step": "x"}, {"data_fingerprint": None}])
def test_a_manifest_of_no_run_is_one_sentence(checkpoint: Path, change: Any) -> None:
    path = checkpoint / "manifest.json"
    assert open_run(checkpoint).step == 2
    path.write_text(json.dumps({**json.loads(path.read_text()), **change} if change else change))
    with pytest.raises(SourceError, match=rf"^{path} is not the manifest of a run \("):
        open_run(checkpoint)


@pytest.mark.parametrize("state", [[], {"step": 1}])
def test_a_state_of_no_run_is_one_sentence(checkpoint: Path, state: Any) -> None:
    torch.save(state, checkpoint / "state.pt")
    with pytest.raises(SourceError, match=rf"^checkpoint {checkpoint} cannot be read \("):
        read_state(checkpoint)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"step": "x"}'])
def test_a_log_of_no_steps_is_one_sentence(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(SourceError, match=rf"^{tmp_path / 'metrics.jsonl'} is not a log of steps \("):
        _Table(tmp_path, "metrics", 3)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_what_is_published_with_a_model_is_one_sentence_where_it_is_damaged(checkpoint: Path, text: str) -> None:
    opened = open_run(checkpoint)
    (checkpoint / "evaluation").mkdir()
    path = checkpoint / "evaluation" / "evaluation.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=rf"^{path} is not an evaluation"):
        _evaluation(opened)
    path.write_text('{"type": "Collection"}' if text == "{}" else text)
    with pytest.raises(SourceError, match=str(path)):
        _extent(str(path))


def test_a_last_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    table = _Table(tmp_path, "metrics", 9)
    table.write({"step": 3, "loss": 1.5, "skipped": 0})  # and a newer version has more to tell
    table.write({"step": 4, "loss": 1.0, "skipped": 0})
    assert path.read_text().splitlines()[1:3] == ['{"step": 2, "loss": 2.0}', '{"step": 3, "loss": 1.5, "skipped": 0}']
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,skipped\n1,2.5,\n2,2.0,\n3,1.5,0\n4,1.0,0\n"


@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
@pytest.mark.parametrize("kept", [0, 40])
def test_a_file_of_a_checkpoint_that_is_empty_or_cut_off_is_one_sentence(
    checkpoint: Path, name: str, kept: int
) -> None:
    path = checkpoint / name
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SourceError, match=str(checkpoint)):
        read_state(checkpoint) if name == "state.pt" else open_run(checkpoint)
