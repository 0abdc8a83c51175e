"""Right values of heads, probes, features and splits that a break in the code would change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from loaders import held_out
from tests.training.small import BANDS, small_model, small_run
from tests.training.test_data import STATISTICS, tiles_run
from tests.training.test_splits import at_one_time
from training import finetuning, normalising, probing
from training.batches import Batch, Data
from training.compute import make_fabric
from training.config import RunConfig
from training.data import open_data
from training.embed_sources import TileSource
from training.finetuned import Tuning
from training.head_training import HeadTraining
from training.heads import Head
from training.labels import Label
from training.models import MaskedAutoencoder
from training.models.loss import patch_statistics
from training.runs import Opened, open_run
from training.synthetic import MemoryLoader, moving_blobs, unit_statistics
from training.trainer import Trainer
from training.validate import validate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A model that has learned nothing, and how it would be opened."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = small_run(folder, model={"norm_pix_loss": False})
    return Opened(MaskedAutoencoder(config.model).eval(), config, {}, folder, folder / "none", 0)


def blobs(samples: int = 6) -> Batch:
    return moving_blobs(samples, 3, len(BANDS), (16, 16), seed=0, invalid=0.2)


def test_patches_are_normalised_by_their_valid_pixels_alone() -> None:
    target, valid = 280 + torch.randn(4, 9, 2), torch.rand(4, 9, 2) > 0.4
    mean, deviation = patch_statistics(target, valid)
    for number in range(4):
        good = target[number][valid[number]]
        assert float(mean[number]) == pytest.approx(float(good.mean()), rel=1e-5)
        assert float(deviation[number]) == pytest.approx(float(good.std()), rel=1e-3)


def test_a_validation_hides_the_same_of_a_sample_whatever_its_batch(opened: Opened) -> None:
    fabric, statistics = make_fabric(RunConfig(accelerator="cpu", devices=1)), unit_statistics(BANDS)
    losses = [
        validate(opened.model, MemoryLoader(blobs(), size, seed=None), statistics, fabric, seed=0).loss
        for size in (2, 3, 6)
    ]
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-5)


def test_some_of_many_samples_are_spread_over_all() -> None:
    assert normalising._spread(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert normalising._spread(np.arange(10), 99).tolist() == [*range(10)]


class Tiles:
    """As `loaders.tiles.TileDataset`: hours of its tiles, and their systems."""

    def __init__(self, hours: list[tuple[int, int]], systems: list[str]) -> None:
        times = np.array(hours, "M8[h]")
        self.tiles = np.arange(len(hours))
        self.store = SimpleNamespace(times=lambda: times, table=pd.DataFrame({"system_id": systems}))

    def __len__(self) -> int:
        return len(self.tiles)


def test_tiles_are_near_by_time_or_by_system() -> None:
    """The first of the others lasts longer than the second, which begins later."""
    others = [Tiles([(0, 100), (10, 11)], ["7", "8"])]
    side: Any = [Tiles([(50, 51), (200, 201), (200, 201), (-9, -8)], ["", "8", "0", ""])]
    ((_, found),) = held_out._near(side, others)  # type: ignore[arg-type]
    assert found.tolist() == [0, 1]


def test_numbers_of_classes_are_alike_in_all_stores(placed: Path, tmp_path: Path) -> None:
    """One has one class alone, which is the second of the other's."""
    one = at_one_time(tmp_path / "one", placed)
    plan = pd.read_parquet(one / "plan.parquet")
    plan.assign(stratum="random").to_parquet(one / "plan.parquet")
    sides = {"stores": [{"path": str(one)}], "validation_stores": [{"path": str(placed)}], "label": "stratum"}
    sides["validation_where"] = "stratum == 'convection'"
    data = open_data(tiles_run(tmp_path, placed, data=sides), 0, 1, CPU, strict=False)
    assert data.validation is not None
    told = [{data.names[int(n)] for n in next(iter(loader)).labels} for loader in (data.train, data.validation)]
    assert told == [{"random"}, {"convection"}]


def test_the_second_image_of_a_tile_has_its_later_frames(placed: Path) -> None:
    """Tiles of four steps, by models of two frames and of four."""
    known = normalising.BandStatistics
    statistics = normalising.StoredStatistics(
        "radiance", {"train": {band: known(9, *numbers, 0.0, 1.0) for band, numbers in STATISTICS.items()}}
    )
    two, four = (
        TileSource(
            placed, small_model("temporal", bands=tuple(STATISTICS), frames=n, groups=None), statistics, "radiance"
        )
        for n in (2, 4)
    )
    assert (two.samples, four.samples) == (24, 12)
    later, whole = two.read(7, 0, 32), four.read(3, 0, 32)
    assert torch.equal(later.pixels, whole.pixels[2:])
    assert later.minutes.tolist() == whole.minutes[2:].tolist()
    assert two.place(7, (32, 32)).times.tolist() == four.place(3, (32, 32)).times[2:].tolist()


LABEL = Label("two", "numbers", ("a", "b"))


def labelled(batch: Batch) -> Batch:
    return replace(batch, labels=torch.stack([batch.samples * 2.0, batch.samples * -1.0 + 40], 1))


def training(opened: Opened, encoder: Any, steps: int = 100) -> tuple[HeadTraining, Batch]:
    batch = labelled(blobs())
    tuned = finetuning._begin(opened, LABEL, [LABEL.truth(batch)], Tuning(encoder), CPU)
    data = Data(MemoryLoader(batch, 6, seed=0), None, unit_statistics(BANDS), "x")
    return HeadTraining(tuned, data, Tuning(encoder, steps), {}), batch


def test_random_encoders_are_not_the_trained_one(opened: Opened) -> None:
    one, other = (training(opened, "random")[0].tuned.model.state_dict() for _ in range(2))
    trained = opened.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not torch.equal(one["embeddings.0.weight"], trained["embeddings.0.weight"])
    assert training(opened, "frozen")[0].tuned.model is opened.model


def test_heads_warm_up_and_encoders_follow_slowly_with_gradients_cut(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, batch = training(replace(opened, model=MaskedAutoencoder(opened.model.config)), "tuned")
    loss = Head.loss
    monkeypatch.setattr(Head, "loss", lambda *told: 1e6 * loss(*told))
    for optimizer in run.optimizers.values():
        monkeypatch.setattr(optimizer, "zero_grad", lambda: None)
    run._step(batch)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in run.optimizers.items()}
    assert rates == pytest.approx({"head": 1e-3 / 10, "encoder": 1e-4 / 10})
    squares = [p.grad.square().sum() for p in run.parameters if p.grad is not None]
    assert float(torch.stack(squares).sum().sqrt()) == pytest.approx(1.0, rel=1e-3)


def test_numbers_are_told_in_their_own_units(opened: Opened) -> None:
    run, batch = training(opened, "none")
    mean, deviation = run.tuned.scale
    assert mean.tolist() == pytest.approx([5.0, 37.5])
    with torch.no_grad():
        answer = run.tuned.head(None, batch)
    assert torch.allclose(run.tuned.predict(batch), answer * deviation + mean)
    known = run.tuned.head.label.truth(batch).values
    error = run.tuned.head.loss(answer, LABEL.truth(replace(batch, labels=(known - mean) / deviation)))
    assert float(error.detach()) == pytest.approx(
        float(((run.tuned.predict(batch) - known) / deviation).square().mean())
    )
    run._step(batch)
    assert run.losses == pytest.approx([float(error.detach())], rel=1e-5)  # learned in units of the deviation


def test_a_probe_has_features_by_frame_and_group_in_the_order_of_samples(opened: Opened) -> None:
    config = opened.model.config
    features = probing._features(opened.model, blobs())
    assert features.shape == (6, config.frames * len(config.group_indices) * config.dimensions.embed_dim)
    numbered: dict[str, Any] = {"number": lambda batch: batch.samples[:, None].float()}
    found, known = probing._extract(numbered, MemoryLoader(labelled(blobs()), 2, seed=3), None, CPU)
    assert found["number"].flatten().tolist() == [*range(6)]
    assert known.labels is not None
    assert known.labels[:, 0].tolist() == [0, 2, 4, 6, 8, 10]


def test_what_is_told_without_looking_is_of_the_training_samples() -> None:
    truth, expected = torch.tensor([[1.0], [3.0]]), torch.zeros(3, 1)
    assert probing._trivial(truth, expected, 0).tolist() == [[2.0]] * 3
    assert probing._trivial(torch.tensor([1, 2, 2]), torch.tensor([0, 0]), 3).tolist() == [2, 2]


def test_a_probe_compares_with_weights_that_learned_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Trainer(small_run(tmp_path))
    run.fit(1)
    taken: list[MaskedAutoencoder] = []
    monkeypatch.setattr(
        probing, "_features", lambda model, batch: (taken.append(model), batch.valid.float().mean((3, 4)).flatten(1))[1]
    )
    probing.probe(open_run(tmp_path))
    assert len({id(model) for model in taken}) == 2
    weights = [model.state_dict()["embeddings.0.weight"] for model in taken[:2]]
    assert not torch.equal(*weights)
