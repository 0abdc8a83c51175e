"""The one door to data: what a config's data section stands for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loaders.augment import View
from loaders.batch import Batch as LoadedBatch
from loaders.cell_splits import cell_splits
from loaders.cubes import CubeDataset, open_cube
from loaders.described_windows import LANDCOVER, DescribedWindows
from loaders.labels import share_classes
from loaders.loader import Loader, Source
from loaders.mixture import Mixture
from loaders.order import Share
from loaders.pictures import is_picture
from loaders.statistics import Statistics as StoredStatistics
from loaders.statistics import make_decoder
from loaders.store import TileStore
from loaders.tile_labels import names_by_number
from loaders.tiles import TileDataset
from loaders.windows import window_extents
from stratacube.errors import UsageError
from training.batches import Batch, Data, minutes_of
from training.config import PretrainConfig
from training.leaks import refuse_leaks, refuse_leaks_of_cubes
from training.models import ModelConfig
from training.models.codes import NO_TIME
from training.normalising import normalisation, own_statistics, warn_of_foreign
from training.settings_data import BlobsData, CubeData, CubesData, SplitData, StoreData, TilesData
from training.synthetic import CLASSES, MemoryLoader, moving_blobs, unit_statistics

_log = logging.getLogger(__name__)

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
    assert isinstance(config.data, TilesData)  # a mixture is opened part by part
    return _tiles(config, config.data, _Opening(config, config.data, rank, ranks, device, stored), strict=strict)


def learned_from(config: PretrainConfig) -> Sequence[TileDataset] | Sequence[CubeDataset]:
    """Open what a run learns from, without its loaders."""
    if isinstance(config.data, TilesData):
        return [_dataset(store, config.data, config.model, training=True) for store in config.data.stores]
    assert isinstance(config.data, CubesData)
    return [_windows(cube, config.data, config.model, training=True) for cube in config.data.cubes]


def write_own(config: PretrainConfig, file: Path) -> None:
    """Take statistics of the samples that a run learns from, and of no others, and write them."""
    assert isinstance(config.data, TilesData | CubesData)
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
        dict(enumerate(CLASSES)),
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
            *self._labels(loaded.labels),
        )

    def _labels(self, loaded: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """Labels, and where profiles are, those that are no observations nowhere."""
        if self.label is None:
            return None, None
        at, counts = (loaded.get(f"{self.label}_{part}") for part in ("pixel", "mask"))
        if at is not None and counts is not None:
            at = at.masked_fill(~counts[..., None], -1)
        return loaded[self.label], at

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
        _names(train[0], tiles.label),
        labels=_columns(train, held_out, tiles.label),
    )


def _cubes(config: PretrainConfig, cubes: CubesData, opening: _Opening, *, strict: bool) -> Data:
    train = [_windows(cube, cubes, config.model, training=True) for cube in cubes.cubes]
    judged = cubes.validation_cubes or (cubes.cubes if cubes.split is not None else ())
    held_out = [_windows(cube, cubes, config.model, training=False) for cube in judged]
    refuse_leaks_of_cubes(cubes, judged, train, held_out, strict=strict)
    units = _same_units([w.units for w in (*train, *held_out)], cubes.quantity)
    label = None if cubes.landcover is None else LANDCOVER
    classes = [] if label is None else share_classes([*train, *held_out], label)
    training = opening.loader(train, [c.weight for c in cubes.cubes], training=True, label=label)
    if strict and opening.rank == 0:
        warn_of_foreign(cubes, train)
        if not held_out:
            _log.warning("nothing is held out to be judged on; give `data.split`, or `data.validation_cubes`")
    return Data(
        training,
        opening.loader(held_out, [1.0] * len(held_out), training=False, label=label) if held_out else None,
        normalisation(cubes, config.model.bands, units, opening.stored),
        training.loader.source.fingerprint,
        dict(enumerate(classes)),
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


def _windows(cube: CubeData, cubes: CubesData, model: ModelConfig, *, training: bool) -> DescribedWindows:
    opened = open_cube(cube.path, cubes.storage_options)
    missing = [band for band in model.bands if band not in opened]
    if missing:
        raise UsageError(f"{cube.path} has {', '.join(map(str, opened.data_vars))}, not {', '.join(missing)}")
    rows, columns = map(str, opened[model.bands[0]].dims[-2:])
    window = {rows: model.height_width[0], columns: model.height_width[1]}
    if model.frames > 1:
        window["time"] = model.frames
    windows = DescribedWindows(
        opened,
        window,
        landcover=cubes.landcover,
        overlap={rows: cubes.overlap, columns: cubes.overlap} if cubes.overlap else None,
        sampling=cubes.sampling if training else "grid",
        variables=model.bands,
        flips=training and cubes.flips,
        rotations=training and cubes.rotations,
    )
    if cubes.split is not None:
        windows.choose(np.flatnonzero(_splits(cube, cubes, windows) == ("train" if training else "val")))
    if cubes.min_valid:
        windows.require_valid(cubes.min_valid)
    return windows


def _splits(cube: CubeData, cubes: CubesData, windows: CubeDataset) -> npt.NDArray[np.str_]:
    """The split of each window, by a rule or by what the build of a cube tells."""
    if isinstance(cubes.split, SplitData):
        return cubes.split.rule().assign(window_extents(windows.cube, windows))
    found = cell_splits(cube.path, windows, cubes.storage_options)
    if found is None:
        raise UsageError(
            f"data.split is plan, and {cube.path} has no plan that tells splits; give blocks, such as"
            " {block_km: 100, block_hours: null, gap_km: 5, gap_hours: 0}"
        )
    return found


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
    opened = TileStore.open(store.path, tiles.storage_options)
    label = () if tiles.label is None else (tiles.label,)
    pictures = {name for name in label if is_picture(opened.shapes.get(name, ((),))[0])}
    return TileDataset(
        opened,
        bands=model.bands,
        view=view,
        where=tiles.where if training else tiles.validation_where,
        weights=tiles.weights if training else None,
        labels=tuple(name for name in label if name not in pictures),
        targets=tuple(pictures),
        on_error=tiles.on_error,
        split=None if tiles.split is None else tiles.split.rule(),
        cache_dir=tiles.cache_dir,
        cache_gb=tiles.cache_gb,
    )


def _names(dataset: TileDataset, label: str | None) -> dict[int, str]:
    """What the numbers of a label are called."""
    if label is None:
        return {}
    return dict(enumerate(dataset.classes.get(label, ()))) or names_by_number(dataset.store, label)


def _columns(
    train: Sequence[TileDataset], held_out: Sequence[TileDataset], label: str | None
) -> tuple[Tensor, Tensor] | None:
    """Labels of all samples on both sides, where they are a column of the plan."""
    if label is None:
        return None
    learned, judged = ([d.columns[label] for d in side if label in d.columns] for side in (train, held_out))
    return (torch.cat(learned), torch.cat(judged)) if learned and judged else None


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
