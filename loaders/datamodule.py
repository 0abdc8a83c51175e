"""Tile stores for Lightning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any

import torch

from catalog.splits import SplitRule
from loaders.augment import View
from loaders.batch import Batch, PackedBatch
from loaders.compatibility import make_importable
from loaders.held_out import refuse_leaks
from loaders.loader import Loader, Source, WorkerKind
from loaders.mixture import Mixture
from loaders.order import Tail
from loaders.statistics import make_decoder
from loaders.tiles import OnError, TileDataset
from stratacube.errors import UsageError

make_importable()

from lightning.pytorch import LightningDataModule  # noqa: E402  (importable from here on)

__all__ = ["TileDataModule"]


class TileDataModule(LightningDataModule):
    """Train, validate and test on tiles of one or more stores; every option is a plain value, to come from a config.

    Batches travel as stored and are decoded on the model's device. Checkpoints hold where the training stream stood,
    so a resumed run goes on with the next batch, on any number of ranks and workers.

    Parameters
    ----------
    store
        One store, or several that are mixed.
    batch_size
        Samples of one batch on one rank.
    shares
        Of each of several stores in an epoch; None gives every sample once.
    train, val, test
        Conditions on the tiles' table; None leaves that loader out. Tiles to be judged on that share pixels and times
        with those learned from are refused.
    bands, weights, labels, fields, targets, on_error, storage_options, cache_dir, cache_gb
        See :class:`loaders.tiles.TileDataset`; weights are of training.
    split
        Keys of :class:`catalog.splits.SplitRule`, which makes the column ``split`` anew.
    steps, crop, align, flips, rotations
        See :class:`loaders.augment.View`; training places crops and steps at random, the others in the centre.
    statistics, quantity, fill
        See :func:`loaders.tiles.tile_loader`.
    seed, length, tail, workers, prefetch, workers_are, whole_batches
        See :class:`loaders.loader.Loader`; length and tail are of training.
    """

    def __init__(
        self,
        store: Any,
        batch_size: int,
        *,
        shares: Sequence[float] | None = None,
        train: str | None = "split == 'train'",
        val: str | None = "split == 'val'",
        test: str | None = "split == 'test'",
        bands: Sequence[str | int] | None = None,
        weights: str | Mapping[str, Mapping[Any, float]] | None = None,
        labels: str | Sequence[str] = (),
        fields: Sequence[str] = (),
        targets: Sequence[str] = (),
        split: Mapping[str, Any] | None = None,
        on_error: OnError = "raise",
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | None = None,
        cache_gb: float = 100.0,
        steps: int | None = None,
        crop: int | None = None,
        align: int = 1,
        flips: bool = False,
        rotations: bool = False,
        statistics: Any = None,
        quantity: str = "radiance",
        fill: float = 0.0,
        seed: int = 0,
        length: int | None = None,
        tail: Tail = "drop",
        workers: int = 0,
        prefetch: int = 2,
        workers_are: WorkerKind = "processes",
        whole_batches: bool = False,
    ) -> None:
        super().__init__()
        self.stores = list(store) if isinstance(store, (list, tuple)) else [store]
        self.batch_size, self.shares = batch_size, shares
        self.where = {"train": train, "val": val, "test": test}
        self.weights = weights
        self.reading: dict[str, Any] = {
            "bands": bands,
            "labels": labels,
            "fields": fields,
            "targets": targets,
            "split": None if split is None else _rule(split),
            "on_error": on_error,
            "storage_options": storage_options,
            "cache_dir": cache_dir,
            "cache_gb": cache_gb,
        }
        self.train_view = View(steps, crop, align, "random", flips, rotations)
        self.view = View(steps, crop, align)
        self.seed, self.length, self.tail = seed, length, tail
        self.workers, self.prefetch, self.workers_are = workers, prefetch, workers_are
        self.whole_batches = whole_batches
        self.decoder = make_decoder(statistics, quantity, fill)

    def train_dataloader(self) -> Loader | list[Any]:
        """Shuffled batches, as stored."""
        return self._loader("train", self.train_view, self.weights, shuffle=True, tail=self.tail, length=self.length)

    def val_dataloader(self) -> Loader | list[Any]:
        """Batches in the order of the store, each tile once."""
        return self._loader("val", self.view, None, shuffle=False)

    def test_dataloader(self) -> Loader | list[Any]:
        """Batches in the order of the store, each tile once."""
        return self._loader("test", self.view, None, shuffle=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Decode on the device that the batch was moved to."""
        with torch.no_grad():
            decoded: Batch = self.decoder(batch) if isinstance(batch, PackedBatch) else batch
        return decoded

    def _loader(self, part: str, view: View, weights: Any, **options: Any) -> Loader | list[Any]:
        if self.where[part] is None:
            return []
        parts = self._datasets(part, view, weights)
        for dataset in parts:
            dataset.require(self.decoder.quantity)
        if part != "train" and self.where["train"] is not None:
            learned = self._datasets("train", self.train_view, None)
            refuse_leaks(learned, parts, f"give `split`, or `train` and `{part}`")
        source: Source = parts[0] if len(parts) == 1 else Mixture(parts, self.shares if part == "train" else None)
        rank, ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return Loader(
            source,
            self.batch_size,
            seed=self.seed,
            rank=rank,
            ranks=ranks,
            workers=self.workers,
            prefetch=self.prefetch,
            workers_are=self.workers_are,
            device=None,
            pin_memory=torch.cuda.is_available(),
            whole_batches=self.whole_batches,
            **options,
        )

    def _datasets(self, part: str, view: View, weights: Any) -> list[TileDataset]:
        where = self.where[part]
        return [TileDataset(store, where=where, view=view, weights=weights, **self.reading) for store in self.stores]


def _rule(keys: Mapping[str, Any]) -> SplitRule:
    known = [field.name for field in fields_of(SplitRule)]
    if unknown := sorted(set(keys) - set(known)):
        raise UsageError(f"`split` has the keys {', '.join(unknown)}; give some of {', '.join(known)}")
    return SplitRule(**keys)
