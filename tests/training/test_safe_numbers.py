"""What is learned from is exact, what is not finite goes nowhere, and what is told of time and data is so."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stratacube.errors import StratacubeError, UsageError
from tests.training.small import small_model, small_run
from training.config import OptimizerConfig
from training.meter import Meter
from training.models import MaskedAutoencoder, draw_masks
from training.models.weights import read_weights
from training.optimizer import Average, adamw, step_if
from training.stopping import StopRequest
from training.trainer import Trainer

WEIGHTS = "weights.safetensors"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true"])
def test_targets_and_loss_are_of_32_bits_whatever_the_arithmetic(tmp_path: Path, precision: str) -> None:
    """A model that predicts zero has the mean square of its targets as its loss."""
    trainer = Trainer(small_run(tmp_path, run={"precision": precision}, model={"norm_pix_loss": False}))
    with torch.no_grad():
        for head in trainer.model.heads:
            head.weight.zero_()
    pixels = 2.71 + 0.01 * torch.randn(2, 3, 5, 16, 16)
    mask = draw_masks(trainer.config.model, 0, range(2))
    loss = trainer.wrapped(
        pixels, torch.ones_like(pixels, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.int64), mask
    )
    trainer.fabric.backward(loss)
    hidden = mask.masked.reshape(2, 3, 3, 16)[:, :, :, :, None, None]
    parts = [hidden[:, :, g].expand(-1, -1, -1, 16, len(group)) for g, group in enumerate(trainer.model.groups)]
    truth = pixels[trainer.model.images(parts)].double().square().mean()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(truth.item(), rel=2e-6)  # of 16 bits it would be 1e-3 off


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, calls = MaskedAutoencoder.forward, iter(range(100))

    def now_and_then(self: MaskedAutoencoder, *inputs: Any) -> Tensor:
        return forward(self, *inputs) * (math.inf if next(calls) in (2, 5) else 1.0)

    monkeypatch.setattr(MaskedAutoencoder, "forward", now_and_then)
    trainer = Trainer(small_run(tmp_path, checkpoints={"every_steps": 1, "keep_last": 9}))
    assert trainer.fit()
    rows = rows_of(tmp_path)
    assert [row["skipped"] for row in rows] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert (
        [row["step"] for row in rows if row["loss"] is None]
        == [3, 6]
        == [r["step"] for r in rows if not r["grad_norm"]]
    )
    second, third, fourth = (read_weights(trainer.checkpoints.path(step) / WEIGHTS)[1] for step in (2, 3, 4))
    assert all(torch.equal(value, third[name]) for name, value in second.items())
    assert not torch.equal(fourth["mask_token"], third["mask_token"])
    assert all(torch.isfinite(value).all() for value in fourth.values())
    assert Trainer(small_run(tmp_path)).watch.skipped == 2


def test_a_run_that_only_skips_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = MaskedAutoencoder.forward
    monkeypatch.setattr(MaskedAutoencoder, "forward", lambda self, *inputs: forward(self, *inputs) * math.nan)
    with pytest.raises(
        StratacubeError, match="not finite at step 5 and was not in the 5 steps up to it, which were skip"
    ):
        Trainer(small_run(tmp_path)).fit()
    assert not list(tmp_path.glob("checkpoints/step_*"))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, asynchronous: bool) -> None:
    """Though the log is not due, and the step before was fine."""
    quiet = {"logs": {"every_steps": 100}, "checkpoints": {"every_steps": 1, "asynchronous": asynchronous}}
    Trainer(small_run(tmp_path, **quiet)).fit(2)
    trainer = Trainer(small_run(tmp_path, **quiet))
    with torch.no_grad():
        trainer.model.bridge.weight[3, 3] = math.inf
    with pytest.raises(StratacubeError, match=r"weights are not finite at step 3 .*go on from .*step_00000002"):
        trainer.fit()
    assert trainer.checkpoints.steps() == [1, 2]


def test_the_scale_of_gradients_is_kept(tmp_path: Path) -> None:
    config = small_run(tmp_path, run={"precision": "16-mixed"})
    first = Trainer(config)
    scaler = first.fabric.strategy.precision.scaler  # type: ignore[attr-defined]
    scaler.load_state_dict({**scaler.state_dict(), "scale": 512.0, "_growth_tracker": 3})
    first.fit(2)
    again = Trainer(config).fabric.strategy.precision.scaler.state_dict()  # type: ignore[attr-defined]
    assert (again["scale"], again["_growth_tracker"]) == (512.0, 5)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_does_not_count_changes_nothing(fused: bool) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    states = []
    for counts in (True, False, True):
        model.weight.grad = torch.ones_like(model.weight)
        step_if(optimizer, torch.tensor(counts), optimizer.step)
        state = optimizer.state[model.weight]
        states.append([model.weight.detach().clone(), *(value.clone() for value in state.values())])
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(states[1], states[2], strict=True))


def test_scaled_gradients_are_no_matter_of_a_fused_step() -> None:
    groups = adamw(MaskedAutoencoder(small_model("group")), OptimizerConfig(lr=1.0, steps=1), 1.0, scaled=True)
    assert not groups.param_groups[0]["fused"]


def test_what_a_step_waits_for_is_part_of_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agree = Trainer._agree

    def late(self: Trainer, request: StopRequest, stop_at: int | None) -> int:
        time.sleep(0.03)  # on GPUs: the step itself is waited for here
        return agree(self, request, stop_at)

    monkeypatch.setattr(Trainer, "_agree", late)
    Trainer(small_run(tmp_path, optimizer={"steps": 4}, logs={"every_steps": 4})).fit()
    (row,) = rows_of(tmp_path)
    assert row["step_s"] > 0.02


def test_a_pause_begins_when_the_device_has_done_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("training.meter.time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(Meter, "synchronise", lambda _: setattr(clock, "now", max(clock.now, 0.1)))  # busy until then
    meter = Meter(small_model("group"), torch.device("cpu"), None)
    meter.count(4)
    with meter.pause():
        clock.now += 0.15
    row = meter.row(2)
    assert row["step_s"] == pytest.approx(0.1)
    assert row["samples_per_s"] == pytest.approx(2 * 4 / row["step_s"])  # of both ranks


def test_the_share_of_valid_pixels_is_told(tmp_path: Path) -> None:
    trainer = Trainer(
        small_run(tmp_path, data={"invalid": 0.3, "samples": 8}, optimizer={"steps": 2}, logs={"every_steps": 2})
    )
    trainer.fit()
    truth = trainer.data.train.data.valid.double().mean().item()  # type: ignore[attr-defined]
    assert rows_of(tmp_path)[0]["valid_share"] == pytest.approx(truth, rel=1e-6)


def test_data_without_a_valid_pixel_are_refused(tmp_path: Path) -> None:
    trainer = Trainer(small_run(tmp_path))
    trainer.data.train.data.valid.zero_()  # type: ignore[attr-defined]
    with pytest.raises(StratacubeError, match="no pixel of any sample of 9 steps is valid"):
        trainer.fit()
    assert not list(tmp_path.glob("checkpoints/step_*"))
    trainer = Trainer(small_run(tmp_path / "judged", validation={"every_epochs": 1}))
    trainer.data.validation.data.valid.zero_()  # type: ignore[union-attr]
    with pytest.raises(StratacubeError, match="none of the 6 validation samples has a masked pixel that is valid"):
        trainer.fit()


def test_a_single_sample_may_have_no_valid_pixel(tmp_path: Path) -> None:
    trainer = Trainer(small_run(tmp_path, data={"samples": 9, "batch_size": 1}))
    first = next(trainer.data.train.stream(trainer.share, 0)).samples
    trainer.data.train.data.valid[first] = False  # type: ignore[attr-defined]
    assert trainer.fit()
    assert rows_of(tmp_path)[0]["valid_share"] == 0


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(UsageError, match=r"seed` is .*: give (0 or more|less than 4\.29497e\+09)"):
        small_run(tmp_path, seed=seed)


def test_an_average_moves_as_its_decay_says() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(model, 0.9)
    expected = 0.0
    for step in range(40):
        nn.init.constant_(model.weight, step + 1.0)
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert average.values["weight"].flatten().tolist() == pytest.approx([expected] * 2, rel=1e-5)
