"""The one door to data: what a config's data section stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch

from catalog.errors import UsageError
from loaders.augment import View
from loaders.batch import Batch as LoadedBatch
from loaders.loader import Loader
from loaders.mixture import Mixture
from loaders.statistics import BandStatistics, make_decoder
from loaders.statistics import Statistics as StoredStatistics
from loaders.tiles import TileDataset
from training.batches import Batch, Data, Statistics, to_minutes
from training.config import PretrainConfig
from training.models import ModelConfig
from training.settings_data import BlobsData, StoreData, TilesData
from training.synthetic import CLASSES, MemoryLoader, moving_blobs, unit_statistics

__all__ = ["TileBatches", "open_data"]


def open_data(config: PretrainConfig, rank: int, ranks: int, device: torch.device) -> Data:
    """Open what a run reads.

    Parameters
    ----------
    config
        The run.
    rank, ranks
        Which part of the samples is ours.
    device
        Where stored counts are decoded.

    Raises
    ------
    UsageError
        If the data are not there, do not fit the model, or are both learned from and judged on.
    """
    if isinstance(config.data, BlobsData):
        return _blobs(config, config.data, rank, ranks)
    return _tiles(config, config.data, rank, ranks, device)


def _blobs(config: PretrainConfig, blobs: BlobsData, rank: int, ranks: int) -> Data:
    model = config.model

    def make(samples: int, seed: int) -> MemoryLoader:
        data = moving_blobs(
            samples,
            model.frames,
            len(model.bands),
            model.height_width,
            seed=seed,
            invalid=blobs.invalid,
            shuffle_time=blobs.shuffle_time,
        )
        order = config.seed if seed == 0 else None
        return MemoryLoader(data, blobs.batch_size, seed=order, rank=rank, ranks=ranks)

    picture = blobs.model_dump_json(exclude={"batch_size", "validation_samples"})
    return Data(
        make(blobs.samples, 0),
        make(blobs.validation_samples, 1) if blobs.validation_samples else None,
        unit_statistics(model.bands),
        hashlib.sha256(picture.encode()).hexdigest()[:16],
        CLASSES,
    )


class TileBatches:
    """Batches of ``loaders`` as the trainer takes them.

    Parameters
    ----------
    loader
        A loader that decodes.
    label
        Which of its labels is the class.
    """

    def __init__(self, loader: Loader, label: str | None) -> None:
        self.loader, self.label = loader, label

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for loaded in self.loader:
            assert isinstance(loaded, LoadedBatch)
            times = loaded.meta["time"].cpu().numpy().astype("datetime64[us]")
            yield Batch(
                loaded.pixels,
                loaded.valid,
                to_minutes(times).to(loaded.pixels.device),
                loaded.meta["sample"],
                loaded.labels[self.label] if self.label is not None else None,
            )

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: after the last batch handed out."""
        return dict(self.loader.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another loader of the same data stood, with any number of ranks and workers."""
        self.loader.load_state_dict(dict(state))


def _tiles(config: PretrainConfig, tiles: TilesData, rank: int, ranks: int, device: torch.device) -> Data:
    model = config.model
    train = [_dataset(store, tiles, model, training=True) for store in tiles.stores]
    held_out = [_dataset(store, tiles, model, training=False) for store in tiles.validation_stores or tiles.stores]
    _refuse_overlap(train, held_out)
    decoder = make_decoder(tiles.statistics, tiles.quantity)

    def loader(datasets: list[TileDataset], stores: tuple[StoreData, ...], *, training: bool) -> TileBatches:
        weighted = training and any(a.weight != b.weight for a, b in pairwise(stores))
        source = (
            Mixture(datasets, [s.weight for s in stores] if weighted else None) if len(datasets) > 1 else datasets[0]
        )
        made = Loader(
            source,
            tiles.batch_size,
            shuffle=training,
            seed=config.seed,
            rank=rank,
            ranks=ranks,
            workers=tiles.workers if training else min(tiles.workers, 1),
            prefetch=tiles.prefetch,
            device=device,
            decoder=decoder,
            tail="drop" if training else "even",
        )
        return TileBatches(made, tiles.label)

    training = loader(train, tiles.stores, training=True)
    if not len(training):
        raise UsageError(
            f"{sum(map(len, train))} tiles do not fill one batch of {tiles.batch_size} on {ranks} ranks; use fewer or"
            " relax data.where"
        )
    return Data(
        training,
        loader(held_out, tiles.validation_stores or tiles.stores, training=False),
        _statistics(tiles, model.bands),
        training.loader.source.fingerprint,
        tuple(train[0].classes.get(tiles.label, ())) if tiles.label is not None else (),
    )


def _dataset(store: StoreData, tiles: TilesData, model: ModelConfig, *, training: bool) -> TileDataset:
    height, width = model.height_width
    if height != width:
        raise UsageError(f"samples of tile stores are square, model.image_size {height} x {width} is not")
    view = View(
        steps=model.frames,
        crop=height,
        align=model.patch_size,
        where=tiles.place if training else "centre",
        flips=training and tiles.flips,
        rotations=training and tiles.rotations,
    )
    return TileDataset(
        store.path,
        bands=model.bands,
        view=view,
        where=tiles.where if training else tiles.validation_where,
        weights=tiles.weights if training else None,
        labels=(tiles.label,) if tiles.label is not None else (),
        on_error=tiles.on_error,
        storage_options=tiles.storage_options,
    )


def _refuse_overlap(train: list[TileDataset], held_out: list[TileDataset]) -> None:
    for learned in train:
        for judged in held_out:
            shared = set(learned.tiles.tolist()) & set(judged.tiles.tolist()) if learned.url == judged.url else set()
            if shared:
                raise UsageError(
                    f"{len(shared)} tiles of {learned.url} are both learned from and judged on; set data.where and"
                    " data.validation_where so that they share none"
                )


def _statistics(tiles: TilesData, bands: tuple[str, ...]) -> Statistics:
    stored = StoredStatistics.load(tiles.statistics)
    chosen = [stored.bands()[band] for band in bands]
    units = {"radiance": "W m-2 sr-1 um-1 (C01-C06), mW m-2 sr-1 (cm-1)-1 (C07-C16)", "reflectance": "1"}
    units |= {"brightness_temperature": "K", "mixed": "1 (C01-C06), K (C07-C16)"}
    return Statistics(
        bands,
        tuple(band.mean for band in chosen),
        tuple(band.std for band in chosen),
        tuple(_span(band) for band in chosen),
        units[tiles.quantity],
        f"{tiles.statistics}: {stored.provenance}",
    )


def _span(band: BandStatistics) -> float:
    """Range between the outermost percentiles, or six deviations where there are no percentiles."""
    ends = sorted(band.percentiles, key=float)
    span = band.percentiles[ends[-1]] - band.percentiles[ends[0]] if len(ends) > 1 else 0.0
    return span if span > 0 else 6 * band.std
