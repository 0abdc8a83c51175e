from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from loaders.batch import Batch
from loaders.datamodule import TileDataModule
from loaders.loader import Loader
from loaders.tiles import tile_loader
from stratacube.errors import UsageError

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*dataloader' does not have many workers",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:Trying to infer the `batch_size`",
    "ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning 2.6 with torch 2.13
)


class Watcher(pl.LightningModule):
    """Learns nothing; remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.validated: list[int] = []
        self.sums: list[float] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        assert isinstance(batch, Batch)
        self.seen.append(batch.meta["tile"].tolist())
        self.sums.append(float(batch.pixels.double().sum()))
        return self.weight * batch.pixels.mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        self.validated += batch.meta["tile"].tolist()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(store: Path, folder: Path, *, resume: Path | None = None, workers: int = 0) -> Watcher:
    data = TileDataModule(
        store, 2, train="tile >= 3", val="tile < 3", crop=16, align=8, flips=True, steps=2, seed=5, workers=workers
    )
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", devices=1, logger=False, callbacks=[keep], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    model = Watcher()
    trainer.fit(model, data, ckpt_path=resume, weights_only=False if resume else None)
    return model


def test_resumed_training_sees_what_it_would_have_seen(store: Path, tmp_path: Path) -> None:
    whole = fit(store, tmp_path)
    assert len(whole.seen) == 3 * 4
    assert whole.validated == [0, 1, 2] * 3
    for step in (2, 4, 7):
        resumed = fit(store, tmp_path, resume=tmp_path / f"step={step}.ckpt")
        assert resumed.seen == whole.seen[step:]
        assert resumed.sums == whole.sums[step:]


@pytest.mark.parametrize("part", ["val", "test"])
def test_tiles_on_both_sides_are_refused(store: Path, part: str) -> None:
    data = TileDataModule([store, store], 2, train="tile >= 2", val="tile < 3", test="tile < 3")
    with pytest.raises(UsageError, match=rf"2 tiles learned from share pixels .*give `split`, or `train` and `{part}`"):
        getattr(data, f"{part}_dataloader")()


def test_several_stores_and_no_validation(store: Path) -> None:
    data = TileDataModule([store, store], 4, shares=[1, 2], train="tile >= 0", val=None, length=12)
    train: Any = data.train_dataloader()
    assert sum(len(b) for b in train) == 12
    assert data.val_dataloader() == []


def test_options_are_those_of_the_loader(make_store: Callable[..., Path]) -> None:
    """All that ``tile_loader`` takes comes from a config too; stores of two sizes in whole batches."""
    small, large = make_store(size=16, tiles=6), make_store(tiles=12)
    config = yaml.safe_load(
        f"""
        store: [{small}, {large}]
        batch_size: 3
        train: tile >= 0
        bands: [C03, 13]
        weights: {{stratum: {{random: 1, convection: 2}}}}
        labels: [stratum]
        fields: [view_zenith]
        statistics: {{C03: [50, 20], C13: [150, 60]}}
        whole_batches: true
        workers: 1
        workers_are: threads
        """
    )
    data = TileDataModule(**config)
    batches: list[Any] = [data.on_after_batch_transfer(b, 0) for b in data.train_dataloader()]
    assert {b.pixels.shape[-1] for b in batches} == {16, 32}
    assert {b.bands for b in batches} == {("C03", "C13")}
    assert all(b.meta["view_zenith"].shape == (3, 8, 8) and b.labels["stratum"].shape == (3,) for b in batches)
    assert data.decoder.mean == {"C03": 50, "C13": 150}
    # What Lightning decides is left out: who we are, where decoding happens, what is shuffled. Views are spelled out.
    taken = set(inspect.signature(tile_loader).parameters) | set(inspect.signature(Loader).parameters)
    taken -= {"options", "source", "view", "where", "decoder", "rank", "ranks", "device", "pin_memory", "shuffle"}
    assert taken <= set(inspect.signature(TileDataModule).parameters)
