from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stratacube.errors import StratacubeError, UsageError
from tests.training.small import small_run
from training import pretrain
from training.checkpoint import Checkpoints
from training.config import OptimizerConfig, PretrainConfig, print_config
from training.models import MaskedAutoencoder, load_model
from training.optimizer import Schedule, parameter_groups
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
WEIGHTS = "weights.safetensors"


def train(config: PretrainConfig, stop_at: int | None = None) -> Trainer:
    trainer = Trainer(config)
    trainer.fit(stop_at)
    return trainer


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    moments = {
        f"{number}.{name}": value
        for number, state in trainer.optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    averages = {f"average.{n}": v for n, v in trainer.average.values.items()} if trainer.average else {}
    return {**trainer.model.state_dict(), **moments, **averages}


def assert_same(one: Trainer, other: Trainer) -> None:
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


SETTINGS = {
    "model": {"drop_path": 0.2},
    "optimizer": {"lr": 1e-3, "steps": 9, "warmup_steps": 2, "clip": 1.0, "accumulate": 2, "ema": 0.9},
    "validation": {"every_epochs": 0.7},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Trainer:
    """An uninterrupted run: three epochs of three steps, with dropped paths, accumulation and averaging."""
    return train(small_run(tmp_path_factory.mktemp("whole"), **SETTINGS))


@pytest.mark.parametrize("stops", [(1,), (3,), (4, 8), (2, 3, 5)])
def test_a_run_interrupted_at_any_step_goes_on_bit_equal(whole: Trainer, tmp_path, stops: tuple[int, ...]) -> None:
    config = small_run(tmp_path, **SETTINGS)
    for stop in stops:
        stopped = train(config, stop_at=stop)
        assert stopped.step == stop
        assert not stopped.done
        torch.manual_seed(stop)  # what happens between the runs does not matter
    resumed = train(config)
    assert_same(whole, resumed)
    assert resumed.losses == whole.losses
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    truth = [json.loads(line) for line in (whole.config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"], r["lr"]) for r in rows] == [(r["step"], r["loss"], r["lr"]) for r in truth]
    assert [entry["step"] for entry in resumed.manifest["resumed"]] == list(stops)


def test_a_crash_after_a_save_leaves_no_rows_twice(tmp_path) -> None:
    config = small_run(tmp_path, checkpoints={"every_steps": 3})
    train(config)
    last = tmp_path / "checkpoints" / "step_00000009"
    last.rename(last.with_name(".step_00000009.partial"))  # a save that was cut off is no checkpoint
    kept = (last.with_name(".step_00000009.partial") / WEIGHTS).read_bytes()
    train(config)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", *map(str, range(1, 10))]
    assert (last / WEIGHTS).read_bytes() == kept


def test_the_seed_decides(tmp_path) -> None:
    runs = [train(small_run(tmp_path / name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert_same(runs[0], runs[1])
    assert not torch.equal(runs[0].model.mask_token, runs[2].model.mask_token)


def test_accumulated_batches_equal_one_large_batch(tmp_path) -> None:
    small = {"lr": 1e-3, "steps": 3, "warmup_steps": 0, "clip": 0.5}
    one = train(small_run(tmp_path / "one", optimizer={**small, "accumulate": 1}, data={"batch_size": 8}))
    two = train(small_run(tmp_path / "two", optimizer={**small, "accumulate": 2}, data={"batch_size": 4}))
    for name, weight in one.model.state_dict().items():
        assert torch.allclose(weight, two.model.state_dict()[name], atol=2e-5), name


def test_checkpoints_kept_are_the_newest_and_the_best(tmp_path) -> None:
    kept = Checkpoints(tmp_path, keep_last=2, keep_best=1)
    losses = {1: 0.5, 2: 0.1, 3: 0.4, 4: 0.3}
    for step in range(1, 5):
        kept.write(step, lambda folder: (folder / "file").write_text("x"))
        kept.drop_old(losses)
    assert kept.steps() == [2, 3, 4]
    assert kept.latest() == tmp_path / "step_00000004"


def test_a_failing_save_leaves_no_checkpoint(tmp_path) -> None:
    kept = Checkpoints(tmp_path, 2, 0)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        kept.write(1, fail)
    assert kept.latest() is None


def test_another_config_or_other_data_are_refused(tmp_path) -> None:
    train(small_run(tmp_path), stop_at=1)
    with pytest.raises(UsageError, match=r"optimizer\.lr 0\.001 -> 0\.01"):
        Trainer(small_run(tmp_path, optimizer={"lr": 1e-2}))
    with pytest.raises(UsageError, match=r"data\.samples 24 -> 32"):
        Trainer(small_run(tmp_path, data={"samples": 32}))
    with pytest.raises(UsageError, match="holds checkpoints up to step_00000001"):
        Trainer(small_run(tmp_path), resume=False)
    manifest = tmp_path / "checkpoints/step_00000001/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"data_fingerprint": "other"}))
    with pytest.raises(UsageError, match="made from data other"):
        Trainer(small_run(tmp_path))


def test_logs_and_checkpoints_may_change_on_resume(tmp_path) -> None:
    train(small_run(tmp_path), stop_at=1)
    assert train(small_run(tmp_path, logs={"every_steps": 2}, checkpoints={"keep_last": 1}), stop_at=2).step == 2


def test_weights_of_another_run_can_be_the_start(tmp_path) -> None:
    first = train(small_run(tmp_path / "a"), stop_at=2)
    source = tmp_path / "a/checkpoints/step_00000002" / WEIGHTS
    second = Trainer(small_run(tmp_path / "b", init_from=str(source), model={"image_size": 24, "mask_ratio": 0.5}))
    assert second.step == 0
    assert torch.equal(second.model.mask_token, first.model.mask_token)


def test_averages_are_saved_and_judged(whole: Trainer) -> None:
    assert whole.average is not None
    latest = whole.checkpoints.latest()
    assert latest is not None
    averaged = load_model(latest / "ema.safetensors")
    assert torch.equal(averaged.mask_token, whole.average.values["mask_token"])
    assert not torch.equal(averaged.mask_token, load_model(latest / WEIGHTS).mask_token)


def test_the_manifest_names_what_was_run(whole: Trainer) -> None:
    latest = whole.checkpoints.latest()
    assert latest is not None
    manifest = json.loads((latest / "manifest.json").read_text())
    assert manifest["versions"]["torch"] == importlib.metadata.version("torch")
    assert manifest["parameters"] == sum(p.numel() for p in whole.model.parameters())
    assert manifest["statistics"]["bands"] == list(whole.config.model.bands)
    assert len(manifest["config_hash"]) == 64


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path) -> None:
    config = small_run(tmp_path, optimizer={"lr": 1e20, "steps": 9, "warmup_steps": 0, "clip": None})
    with pytest.raises(StratacubeError, match="not finite at step"):
        train(config)


def test_decay_is_for_matrices_only() -> None:
    from tests.training.small import small_model

    model = MaskedAutoencoder(small_model("temporal_group"))
    decayed, free = parameter_groups(model, 0.05)
    names = {id(p): n for n, p in model.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert {"mask_token", "fill", "encoder_norm.weight"} <= {names[id(p)] for p in free["params"]}
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_the_rate_follows_batch_warm_up_and_cosine() -> None:
    config = OptimizerConfig(base_lr=1.5e-4, min_lr=1e-5, epochs=10, warmup_epochs=2)
    schedule = Schedule.of(config, batch=1024, steps_per_epoch=50)
    assert (schedule.steps, schedule.warmup) == (500, 100)
    assert schedule.rate(99) == pytest.approx(6e-4) == schedule.rate(100)
    assert schedule.rate(0) == pytest.approx(6e-6)
    assert schedule.rate(300) == pytest.approx((6e-4 + 1e-5) / 2)
    assert schedule.rate(500) == pytest.approx(1e-5)
    short = Schedule.of(OptimizerConfig(lr=1.0, steps=4, warmup_steps=9), batch=1, steps_per_epoch=1)
    assert [short.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_tensorboard_is_written(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    train(small_run(tmp_path, logs={"every_steps": 1, "tensorboard": True}), stop_at=2)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def _command(folder: Path, *more: str) -> list[str]:
    settings = ["--set", "optimizer.steps=6", "--set", "logs.every_steps=1", "--set", "data.samples=64"]
    command = [sys.executable, "-m", "training.pretrain", "--config", "cpu_smoke", "--output-dir", str(folder)]
    return [*command, *settings, *more]


def test_ctrl_c_saves_after_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer._step

    def interrupted(self: Trainer, *given: Any) -> Any:
        norm = step(self, *given)
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)
        return norm

    monkeypatch.setattr(Trainer, "_step", interrupted)
    (tmp_path / "run.yaml").write_text(print_config(small_run(tmp_path / "run")))
    assert pretrain.main(["-c", str(tmp_path / "run.yaml")]) == 130
    assert Checkpoints(tmp_path / "run" / "checkpoints", 1, 0).steps() == [2]


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path) -> None:
    long = ["--set", "optimizer.steps=100000", "--set", "validation.every_epochs=null"]
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\n")
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "77"}
    process = subprocess.Popen(_command(tmp_path / "run", *long), cwd=ROOT, env=environment)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert (tmp_path / "asked").read_text().split() == ["requeue", "77"]
    saved = Checkpoints(tmp_path / "run/checkpoints", 1, 0).steps()
    assert len(saved) == 1
    rows = metrics.read_text().splitlines()
    assert rows[-1].startswith(f"{saved[0]},")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_learns_the_same_and_goes_on_uncompiled(tmp_path: Path) -> None:
    shallow = {"depth": 1}  # each layer more is some seconds of the compiler's
    plain = train(small_run(tmp_path / "plain", model=shallow))
    compiled = small_run(tmp_path / "compiled", model=shallow, run={"compile": True})
    train(compiled, stop_at=5)
    finished = train(small_run(tmp_path / "compiled", model=shallow))  # where it runs may change on resume
    first, second = state_of(plain), state_of(finished)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-2, atol=3e-4)  # a step moves by 1e-3
