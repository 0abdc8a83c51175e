"""Infilling, regression, and models whose predictions begin from them, against numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stratacube.errors import UsageError
from tests.training.small import small_model, small_run
from training import regression
from training.baselines import fit_regression
from training.batches import Batch
from training.config import validate
from training.demo import _verdict
from training.evaluation import evaluate
from training.infill import infill
from training.models import MaskedAutoencoder, draw_masks, load_model
from training.models.start import Start
from training.runs import open_run
from training.trainer import Trainer
from training.validate import Report

START = {"start": "regression", "detail": 8}


def test_infilling_keeps_what_is_seen_and_lays_a_plane_over_the_rest() -> None:
    rows, columns = np.meshgrid(np.arange(37), np.arange(50), indexing="ij")
    plane = torch.from_numpy(0.3 * rows - 0.1 * columns + 5).float()[None, None, None]
    visible = torch.ones_like(plane, dtype=torch.bool)
    visible[..., 8:16, 16:24] = False
    seen = plane.masked_fill(~visible, torch.nan)
    filled = infill(seen, visible)
    assert filled[visible].equal(plane[visible])
    assert (filled - plane).abs().max() < 0.15  # of a patch over which it changes by 3.2
    assert infill(seen, torch.zeros_like(visible)).eq(0).all()


def _related(random: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Five bands of one frame that go together, some pixels of them invalid."""
    mixing = random.normal(size=(5, 5))
    pixels = np.moveaxis(random.normal(size=(samples, 1, 12, 12, 5)) @ mixing + random.normal(size=5), -1, 2)
    return pixels.astype("f4"), random.random(pixels.shape) > 0.02


def test_a_regression_is_least_squares_on_what_is_seen_at_each_pixel() -> None:
    pixels, valid = _related(np.random.default_rng(0), 40)
    nothing = torch.full((40, 1), 0)
    filled = torch.from_numpy(np.where(valid, pixels, np.nan))
    regression = fit_regression([Batch(filled, torch.from_numpy(valid), nothing, nothing[:, 0])])
    whole = valid.all(axis=2)[:, 0]
    known = np.moveaxis(pixels[:, 0], 1, -1)[whole].astype("f8")
    visible = torch.ones(1, 1, 5, 12, 12, dtype=torch.bool)
    visible[:, :, [0, 3], :, :6] = False  # two choices of bands, and none in a corner
    visible[:, :, [2], :, 6:] = False
    visible[..., 0, 0] = False
    predicted = regression(filled[:1], visible & torch.from_numpy(valid[:1]), nothing[:1]).numpy()[0, 0]
    for hidden, columns in (([0, 3], slice(0, 6)), ([2], slice(6, 12))):
        seen = [band for band in range(5) if band not in hidden]
        design = np.column_stack([known[:, seen], np.ones(len(known))])
        coefficients = np.linalg.lstsq(design, known[:, hidden], rcond=None)[0]
        here = whole[0].copy()
        here[0, 0] = False
        rows, places = np.nonzero(here[:, columns])
        places = places + columns.start
        truth = np.column_stack([pixels[0, 0][seen][:, rows, places].T, np.ones(len(rows))]) @ coefficients
        # Moments of pairs are of a few more pixels than those of which all bands are valid.
        assert np.abs(predicted[hidden][:, rows, places].T - truth).max() < 0.1
    assert np.abs(predicted[:, 0, 0] - known.mean(0)).max() < 0.1  # nothing seen: the mean


def test_a_start_uses_other_bands_and_surroundings_and_knows_how_far_it_is_off() -> None:
    """Two bands that are one, but for noise: hidden here, told by the other; hidden in both, by what is around."""
    random = np.random.default_rng(1)
    rows, columns = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    waves = [np.sin(rows / random.uniform(4, 9) + random.uniform(0, 6)) + columns / 16 for _ in range(48)]
    pixels = torch.from_numpy(
        np.stack([np.stack([w, -w]) + random.normal(0, 0.01, (2, 32, 32)) for w in waves])
    ).float()
    pixels = (pixels + torch.from_numpy(random.normal(0, 3, (48, 1, 1, 1))).float())[:, None]  # levels of the scenes
    config = small_model("group", bands=("B1", "B2"), groups=(("B1",), ("B2",)), image_size=32, **START)
    model, valid = MaskedAutoencoder(config), torch.ones_like(pixels, dtype=torch.bool)
    assert isinstance(model.start, Start)
    visible = ~model.hidden(draw_masks(config, 0, range(48)))
    model.start.fit([(pixels[:40], valid[:40], visible[:40])])
    seen, truth = visible[40:], pixels[40:]
    started = model.start(truth.masked_fill(~seen, torch.nan), seen, torch.zeros_like(truth))
    apart = torch.full((8, 1, 1, 1, 1), 40.0)  # another level, as day has beside night, changes nothing else
    moved = model.start((truth + apart).masked_fill(~seen, torch.nan), seen, torch.zeros_like(truth))
    assert (moved.estimate - apart).allclose(started.estimate, atol=1e-3)
    error = started.estimate - truth
    told = ~seen & seen.flip(2)
    nowhere = ~seen & ~seen.flip(2)
    around = (infill(truth, seen) - truth)[nowhere].square().mean().sqrt()
    assert error[told].square().mean().sqrt() < 0.25
    assert error[nowhere].square().mean().sqrt() < 1.05 * around
    for kind in (told, nowhere):
        assert 0.5 < (error[kind] / started.deviation[kind]).square().mean().sqrt() < 2


def test_a_run_begins_at_the_regression_and_keeps_it_whatever_stops_it(tmp_path: Path) -> None:
    config = small_run(tmp_path / "one", model=START, optimizer={"lr": 1e-3, "steps": 8, "warmup_steps": 2, "ema": 0.5})
    first = Trainer(config)
    batch = next(iter(first.data.train))
    mask = draw_masks(config.model, 3, range(len(batch)))
    with torch.no_grad():
        begun = first.model.reconstruct(batch.pixels, batch.valid, batch.minutes, mask)
    assert all(not head.weight.any() for head in first.model.heads)  # so what it says is the regression
    seen = batch.valid & ~first.model.hidden(mask)
    assert first.model.start is not None
    with torch.no_grad():
        started = first.model.start(batch.pixels, seen, torch.zeros_like(batch.pixels))
    assert first.model.images(begun.patches).allclose(started.estimate, atol=1e-5)
    errors = ((started.estimate - batch.pixels) / started.deviation).numpy() ** 2
    wanted = (batch.valid & first.model.hidden(mask)).numpy()
    assert float(begun.loss) == pytest.approx(
        np.mean([e[w].mean() for e, w in zip(errors, wanted, strict=True)]), rel=1e-4
    )
    assert not first.fit(stop_at=3)
    again = Trainer(config)
    assert again.step == 3
    assert again.model.start is not None
    assert again.model.start.covariance.equal(first.model.start.covariance)
    assert again.fit()
    whole = Trainer(small_run(tmp_path / "two", model=START, optimizer=config.optimizer.model_dump()))
    assert whole.fit()
    assert all(
        a.equal(b) for a, b in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True)
    )
    assert sum(head.weight.abs().sum() for head in again.model.heads) > 0
    opened = open_run(tmp_path / "one")  # the averaged weights, which have no means of their own
    assert opened.model.start is not None
    assert opened.model.start.mean.equal(whole.model.start.mean)
    report = evaluate(opened, tmp_path / "judged", pictures=0)
    error = {row["method"]: row["rmse"] for row in report.rows if row["band"] == "B1"}
    assert error["model"] < min(error["interpolation"], error["spatial infill"])
    assert json.loads((tmp_path / "judged" / "evaluation.json").read_text())["samples"] == 6
    assert load_model(opened.weights, image_size=32).config.image_size == 32


@pytest.mark.parametrize(
    ("model", "run", "told"),
    [
        ({"detail": 8}, {}, "detail 8 adds to start: regression, but start is none"),
        ({"start": "regression", "norm_pix_loss": True}, {}, "norm_pix_loss normalises by patch"),
        (START, {"strategy": "fsdp"}, "works neither with a sharded strategy"),
        (START, {"precision": "bf16-true"}, "works neither with a sharded strategy nor with bf16-true"),
    ],
)
def test_what_does_not_go_with_a_start_is_refused(tmp_path: Path, model: dict, run: dict, told: str) -> None:
    config = small_run(tmp_path).model_dump(mode="json")
    config["model"] |= model
    config["run"] |= run
    with pytest.raises(UsageError, match=told):
        validate(config, "test")


def test_runs_of_before_keep_their_digest(tmp_path: Path) -> None:
    plain, begun = (small_run(tmp_path, model=changes).described()["model"] for changes in ({}, START))
    assert begun == {**plain, **START}
    assert not {*START, "ridge"} & {*plain}
    assert "ridge" not in begun


def test_what_is_seen_is_solved_in_parts_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice of bands a pixel would take the memory of a matrix a pixel."""
    random = np.random.default_rng(4)
    mixing = torch.from_numpy(random.normal(size=(9, 9)))
    covariance, mean = mixing @ mixing.T + torch.eye(9), torch.from_numpy(random.normal(size=9))
    pixels = torch.from_numpy(random.normal(size=(2, 3, 3, 20, 20))).float()
    visible = torch.from_numpy(random.random(pixels.shape) > 0.4)
    solved, solve = [], torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda a, b: (solved.append(len(a)), solve(a, b))[1])
    parts = regression.expected(mean, covariance, pixels, visible)
    assert sum(solved) > 300
    assert max(solved) <= 256
    monkeypatch.setattr(regression, "_TOGETHER", 10**6)
    whole = regression.expected(mean, covariance, pixels, visible)
    assert max(solved) > 300
    assert all(map(torch.equal, parts, whole))


@pytest.mark.parametrize(
    ("rmse", "told"),
    [
        ((1.0, 1.8), "0.70 of band mean, 1.15 of regression; it does not beat regression in 1 of 2 bands"),
        ((0.5, 0.9), "0.35 of band mean, 0.57 of regression; it beats each in every band"),
    ],
)
def test_the_demo_says_what_its_model_does_not_beat(rmse: tuple[float, float], told: str) -> None:
    found = {"model": rmse, "band mean": (2.0, 2.0), "regression": (2.0, 1.0)}
    rows = [
        {"method": method, "band": band, "rmse": error}
        for method, errors in found.items()
        for band, error in zip(("C01", "C02"), errors, strict=True)
    ]
    assert _verdict(Report(0.1, 3, rows)).endswith(told)


@pytest.mark.parametrize(
    ("model", "mean", "told"),
    [
        ((1.0, None), (2.0, None), "0.50 of band mean; it beats each in every band (without C02: no valid hidden"),
        ((1.0, 1.0), (2.0, 0.0), "0.50 of band mean; it beats each in every band (without C02: no valid hidden"),
        ((None, 1.0), (None, 0.0), "no band can be compared (without C01, C02: no valid hidden pixel, or no error"),
    ],
)
def test_the_demo_leaves_out_bands_without_an_error_to_compare(model: tuple, mean: tuple, told: str) -> None:
    """Of a held-out band no hidden pixel may be valid, and a band that is all alike is told by its mean exactly."""
    rows = [
        {"method": method, "band": band, "rmse": error}
        for method, errors in (("model", model), ("band mean", mean))
        for band, error in zip(("C01", "C02"), errors, strict=True)
    ]
    assert told in _verdict(Report(0.1, 3, rows))
