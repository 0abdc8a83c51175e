"""Batches of several sources: samples of each apart, in one order, with masks that follow their places in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from loaders.apart import Apart, DecodeParts, Parts
from loaders.cubes import CubeDataset
from loaders.loader import Loader
from loaders.order import Share
from loaders.statistics import Statistics as StoredStatistics
from loaders.tiles import TileDataset
from stratacube.errors import UsageError
from training.batches import Batch, Data
from training.config import PretrainConfig
from training.data import TileBatches, open_data
from training.leaks import refuse_leaks, refuse_leaks_of_cubes
from training.models import ModelConfig, TokenMask, draw_masks
from training.settings_data import CubesData, MixtureData

__all__ = ["MixedBatch", "MixedBatches", "MixedMask", "masks_of", "open_mixture"]


@dataclass(frozen=True)
class MixedMask:
    """Masks of a mixed batch, by name of the source."""

    parts: dict[str, TokenMask]

    def to(self, device: torch.device) -> MixedMask:
        """Copy to a device."""
        return MixedMask({name: part.to(device) for name, part in self.parts.items()})

    def pin_memory(self) -> MixedMask:
        """Copy to page-locked memory."""
        return MixedMask({name: part.pin_memory() for name, part in self.parts.items()})


@dataclass(frozen=True)
class MixedBatch:
    """Samples of several sources on the way to the model."""

    parts: dict[str, Batch]
    """By name of the source; those of which the batch has samples."""
    places: dict[str, tuple[int, ...]]
    """Of the samples of each, in the order of the batch."""

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def inputs(self, mask: Any) -> tuple[dict[str, Any], ...]:
        """Give what the model takes, by name of the source."""
        named = ({name: getattr(part, what) for name, part in self.parts.items()} for what in _INPUTS)
        return (*named, mask.parts)

    def valid_share(self) -> Tensor:
        """Share of the valid pixels, each sample weighing the same; a scalar on the device."""
        return torch.stack([part.valid_share() * (len(part) / len(self)) for part in self.parts.values()]).sum()

    def to(self, device: torch.device) -> MixedBatch:
        """Copy to a device."""
        return replace(self, parts={name: part.to(device) for name, part in self.parts.items()})


_INPUTS = ("pixels", "valid", "minutes")


def masks_of(model: ModelConfig, seed: int, numbers: Sequence[int], batch: Batch | MixedBatch) -> TokenMask | MixedMask:
    """Draw the masks of a batch.

    Parameters
    ----------
    model, seed
        As of :func:`training.models.draw_masks`.
    numbers
        Of the samples in the stream of samples, in the order of the batch.
    batch
        Whose masks.
    """
    if isinstance(batch, Batch):
        return draw_masks(model, seed, numbers)
    places = batch.places.items()
    return MixedMask({n: draw_masks(model.part(n), seed, [numbers[i] for i in chosen]) for n, chosen in places})


class MixedBatches(TileBatches):
    """Batches of ``loaders.apart`` as the trainer takes them."""

    def __init__(self, loader: Loader) -> None:
        super().__init__(loader, None)

    def stream(self, share: Share, first: int) -> Iterator[Any]:
        """Go through the epochs without an end, by steps that any number of ranks shares."""
        for loaded in self.loader.stream(share, first):
            assert isinstance(loaded, Parts)
            yield MixedBatch({name: self._taken(part) for name, part in loaded.parts.items()}, loaded.places)


def open_mixture(
    config: PretrainConfig,
    rank: int,
    ranks: int,
    device: torch.device,
    *,
    stored: Mapping[str, StoredStatistics],
    strict: bool = True,
) -> Data:
    """Open what a run on a mixture reads.

    Parameters
    ----------
    config, rank, ranks, device, strict
        As of :func:`training.data.open_data`.
    stored
        By name of the part, statistics that take the place of the config's.

    Raises
    ------
    UsageError
        If the data are not there, do not fit the model, or are both learned from and judged on, also in another part.
    """
    mixture = config.data
    assert isinstance(mixture, MixtureData)
    parts = {
        name: open_data(config.part(name), rank, ranks, device, stored=stored.get(name), strict=strict)
        for name in mixture.parts
    }
    _refuse_leaks_between(mixture, parts, strict=strict)
    loaders = {name: _loader(data.train) for name, data in parts.items()}
    shares = None if mixture.shares is None else [mixture.shares[name] for name in parts]
    source = Apart({name: loader.source for name, loader in loaders.items()}, shares)
    loader = Loader(
        source,  # type: ignore[arg-type]
        mixture.batch_size,
        seed=config.seed,
        rank=rank,
        ranks=ranks,
        workers=mixture.workers,
        prefetch=mixture.prefetch,
        device=device,
        decoder=DecodeParts({name: loader.decoder for name, loader in loaders.items()}),
    )
    if loader.samples < mixture.batch_size:
        raise UsageError(
            f"{loader.samples} samples do not fill one batch of {mixture.batch_size}; take a smaller data.batch_size"
        )
    first = next(iter(parts.values()))
    weights = mixture.shares or {name: float(loaders[name].samples) for name in parts}
    total = sum(weights.values())
    return replace(
        first,
        train=MixedBatches(loader),
        fingerprint=source.fingerprint,
        parts=parts,
        shares={name: weight / total for name, weight in weights.items()},
    )


def _loader(batches: Any) -> Loader:
    assert isinstance(batches, TileBatches)
    return batches.loader


def _refuse_leaks_between(mixture: MixtureData, parts: Mapping[str, Data], *, strict: bool) -> None:
    """Refuse what one part learns from and another is judged on; within a part that is looked at when it is opened."""
    for one, other in permutations(mixture.parts, 2):
        held_out = parts[other].validation
        if held_out is None:
            continue
        train, judged = (_sources(_loader(batches).source) for batches in (parts[one].train, held_out))
        tiles = [[s for s in side if isinstance(s, TileDataset)] for side in (train, judged)]
        cubes = [[s for s in side if isinstance(s, CubeDataset)] for side in (train, judged)]
        learned, target = mixture.parts[one], mixture.parts[other]
        if all(tiles):
            refuse_leaks(*tiles, strict=strict)
        if all(cubes):
            assert isinstance(learned, CubesData)
            assert isinstance(target, CubesData)
            refuse_leaks_of_cubes(learned, target.validation_cubes or target.cubes, *cubes, strict=strict)


def _sources(source: Any) -> Sequence[Any]:
    return getattr(source, "sources", (source,))
