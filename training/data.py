"""The one door to data: what a config's data section stands for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loaders.augment import View
from loaders.batch import Batch as LoadedBatch
from loaders.cubes import CubeDataset, open_cube
from loaders.labels import share_classes
from loaders.loader import Loader, Source
from loaders.mixture import Mixture
from loaders.order import Share
from loaders.statistics import Statistics as StoredStatistics
from loaders.statistics import make_decoder
from loaders.tiles import TileDataset
from loaders.windows import window_extents
from stratacube.errors import UsageError
from training.batches import Batch, Data, minutes_of
from training.config import PretrainConfig
from training.leaks import refuse_leaks, refuse_leaks_of_cubes
from training.models import ModelConfig
from training.models.codes import NO_TIME
from training.normalising import normalisation, own_statistics, warn_of_foreign
from training.settings_data import BlobsData, CubeData, CubesData, StoreData, TilesData
from training.synthetic import CLASSES, MemoryLoader, moving_blobs, unit_statistics

__all__ = ["TileBatches", "learned_from", "open_data", "write_own"]


def open_data(
    config: PretrainConfig,
    rank: int,
    ranks: int,
    device: torch.device,
    *,
    stored: StoredStatistics | None = None,
    strict: bool = True,
) -> Data:
    """Open what a run reads.

    Parameters
    ----------
    config
        The run.
    rank, ranks
        Which part of the samples is ours.
    device
        Where stored counts are decoded.
    stored
        Statistics that take the place of the config's: those that a model was trained with.
    strict
        Refuse data that are both learned from and judged on; else warn.

    Raises
    ------
    UsageError
        If the data are not there, do not fit the model, or are both learned from and judged on.
    """
    if isinstance(config.data, BlobsData):
        return _blobs(config, config.data, rank, ranks)
    if isinstance(config.data, CubesData):
        return _cubes(config, config.data, _Opening(config, config.data, rank, ranks, device, stored), strict=strict)
    return _tiles(config, config.data, _Opening(config, config.data, rank, ranks, device, stored), strict=strict)


def learned_from(config: PretrainConfig) -> list[TileDataset] | list[CubeDataset]:
    """Open what a run learns from, without its loaders."""
    if isinstance(config.data, TilesData):
        return [_dataset(store, config.data, config.model, training=True) for store in config.data.stores]
    assert isinstance(config.data, CubesData)
    return [_windows(cube, config.data, config.model, training=True) for cube in config.data.cubes]


def write_own(config: PretrainConfig, file: Path) -> None:
    """Take statistics of the samples that a run learns from, and of no others, and write them."""
    assert not isinstance(config.data, BlobsData)
    file.parent.mkdir(parents=True, exist_ok=True)
    own_statistics(learned_from(config), config.data.quantity).save(file)


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
        return map(self._taken, self.loader)

    @property
    def samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return self.loader.samples

    def stream(self, share: Share, first: int) -> Iterator[Batch]:
        """Go through the epochs without an end, by steps that any number of ranks shares."""
        return map(self._taken, self.loader.stream(share, first))

    def identity(self) -> dict[str, Any]:
        """Name the samples and their order."""
        return self.loader.identity()

    def check(self, identity: Mapping[str, Any]) -> None:
        """Refuse what is of other samples, or of another order."""
        self.loader.check(identity)

    def _taken(self, loaded: Any) -> Batch:
        assert isinstance(loaded, LoadedBatch)
        return Batch(
            loaded.pixels,
            loaded.valid,
            _minutes(loaded),
            loaded.meta["sample"],
            loaded.labels[self.label] if self.label is not None else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: after the last batch handed out."""
        return dict(self.loader.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another loader of the same data stood, with any number of ranks and workers."""
        self.loader.load_state_dict(dict(state))


def _tiles(config: PretrainConfig, tiles: TilesData, opening: _Opening, *, strict: bool) -> Data:
    train = [_dataset(store, tiles, config.model, training=True) for store in tiles.stores]
    stores = tiles.validation_stores or tiles.stores
    held_out = [_dataset(store, tiles, config.model, training=False) for store in stores]
    refuse_leaks(train, held_out, strict=strict)
    if tiles.label is not None:
        share_classes([*train, *held_out], tiles.label)
    for dataset in (*train, *held_out):
        dataset.require(tiles.quantity)
    units = _same_units([d.units(tiles.quantity) for d in (*train, *held_out)], tiles.quantity)
    training = opening.loader(train, [s.weight for s in tiles.stores], training=True, label=tiles.label)
    if strict and opening.rank == 0:
        warn_of_foreign(tiles, train)
    return Data(
        training,
        opening.loader(held_out, [1.0] * len(stores), training=False, label=tiles.label),
        normalisation(tiles, config.model.bands, units, opening.stored),
        training.loader.source.fingerprint,
        tuple(train[0].classes.get(tiles.label, ())) if tiles.label is not None else (),
    )


def _cubes(config: PretrainConfig, cubes: CubesData, opening: _Opening, *, strict: bool) -> Data:
    train = [_windows(cube, cubes, config.model, training=True) for cube in cubes.cubes]
    judged = cubes.validation_cubes or (cubes.cubes if cubes.split is not None else ())
    held_out = [_windows(cube, cubes, config.model, training=False) for cube in judged]
    refuse_leaks_of_cubes(cubes, judged, train, held_out, strict=strict)
    units = _same_units([w.units for w in (*train, *held_out)], cubes.quantity)
    training = opening.loader(train, [c.weight for c in cubes.cubes], training=True)
    if strict and opening.rank == 0:
        warn_of_foreign(cubes, train)
    return Data(
        training,
        opening.loader(held_out, [1.0] * len(held_out), training=False) if held_out else None,
        normalisation(cubes, config.model.bands, units, opening.stored),
        training.loader.source.fingerprint,
    )


def _minutes(batch: LoadedBatch) -> Tensor:
    """Times of a batch's frames; cubes without a time dimension have none."""
    if "time" not in batch.meta:
        return torch.full(batch.pixels.shape[:2], NO_TIME, device=batch.pixels.device)
    return minutes_of(batch.meta["time"])


@dataclass(frozen=True)
class _Opening:
    """What the loaders of a run have in common."""

    config: PretrainConfig
    data: TilesData | CubesData
    rank: int
    ranks: int
    device: torch.device
    stored: StoredStatistics | None

    def loader(
        self, datasets: Sequence[Source], weights: Sequence[float], *, training: bool, label: str | None = None
    ) -> TileBatches:
        """Batches of one or several data sets, mixed by weight if the weights differ."""
        shares = list(weights) if len(set(weights)) > 1 else None
        source = datasets[0] if len(datasets) == 1 else Mixture(datasets, shares)
        made = Loader(
            source,
            self.data.batch_size,
            shuffle=training,
            seed=self.config.seed,
            rank=self.rank,
            ranks=self.ranks,
            workers=self.data.workers,
            prefetch=self.data.prefetch,
            device=self.device,
            decoder=make_decoder(self.stored or self.data.statistics, self.data.quantity),
        )
        if training and made.samples < self.data.batch_size:
            raise UsageError(
                f"{made.samples} samples do not fill one batch of {self.data.batch_size}; take a smaller"
                " data.batch_size, or relax data.where"
            )
        return TileBatches(made, label)


def _windows(cube: CubeData, cubes: CubesData, model: ModelConfig, *, training: bool) -> CubeDataset:
    opened = open_cube(cube.path, cubes.storage_options)
    missing = [band for band in model.bands if band not in opened]
    if missing:
        raise UsageError(f"{cube.path} has {', '.join(map(str, opened.data_vars))}, not {', '.join(missing)}")
    rows, columns = map(str, opened[model.bands[0]].dims[-2:])
    window = {rows: model.height_width[0], columns: model.height_width[1]}
    if model.frames > 1:
        window["time"] = model.frames
    windows = CubeDataset(
        opened,
        window,
        overlap={rows: cubes.overlap, columns: cubes.overlap} if cubes.overlap else None,
        sampling=cubes.sampling if training else "grid",
        variables=model.bands,
        flips=training and cubes.flips,
        rotations=training and cubes.rotations,
    )
    if cubes.split is not None:
        splits = cubes.split.rule().assign(window_extents(opened, windows))
        windows.choose(np.flatnonzero(splits == ("train" if training else "val")))
    return windows


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
        split=None if tiles.split is None else tiles.split.rule(),
    )


def _same_units(sources: Iterable[Mapping[str, str]], quantity: str) -> dict[str, str]:
    """Units of each band where a source tells them; what is learned from and judged on together has the same."""
    known: dict[str, str] = {}
    for units in sources:
        for band, unit in units.items():
            if unit and known.setdefault(band, unit) != unit:
                raise UsageError(
                    f"{quantity} of {band} is in {known[band]} in one source and in {unit} in another; take one kind"
                )
    return known
