"""Exact statistics of a store by counting: how often each stored count occurs, per packing.

Counts are 16-bit, so a band's distribution is a table of 65,536 numbers for each set of calibration coefficients that
occurs (a few per satellite). Tables add up, so any partition of a store over processes or machines gives the same
statistics to the last bit, and every quantity and percentile follows from them without reading again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

from cube.summary import BandStatistics, describe, physical_of, rounded_numbers
from loaders.batch import PackedBatch
from loaders.engines import read_on_engine
from loaders.shared_room import room_told, with_room
from loaders.tiles import TileDataset
from loaders.workers import worker_context

__all__ = ["Tally", "describe", "tally"]

_COUNTS = 65536
_TILES_A_PART = 16
Laws = tuple[tuple[tuple[str, str], ...], tuple[str, ...]]
"""Laws of a band's quantities by their names, and the names of the coefficients in a key's numbers."""
Key = tuple[str, str, Laws, tuple[float, ...]]


@dataclass
class Tally:
    """How often each count occurs, by split, band and calibration (laws; scale, offset and coefficients)."""

    tables: dict[Key, npt.NDArray[np.int64]] = field(default_factory=dict)
    pixels: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Pixels looked at, valid or not, by split and band."""
    tiles: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        """Take in another part of the same, or of another, store."""
        for key, table in other.tables.items():
            self.tables[key] = self.tables[key] + table if key in self.tables else table
        self.pixels += other.pixels
        self.tiles += other.tiles
        return self

    def count(self, batch: PackedBatch, splits: Iterable[str]) -> None:
        """Take in a batch of whole tiles."""
        assert batch.packing is not None
        packing = batch.packing.numpy()
        coefficients = np.full((*packing.shape[:-1], len(batch.coefficient_names)), np.nan, "f4")
        if batch.coefficients is not None:
            coefficients = batch.coefficients.numpy()
        for i, split in enumerate(splits):
            self.tiles += 1
            for times, part in batch.stored().items():
                values, masks = part.values[i].numpy(), part.mask[i].numpy()
                for c, image in zip(part.bands, values, strict=True):
                    band, rule = batch.bands[c], batch.rules[c]
                    mask, laws = masks[part.masks.index(rule.mask)], (rule.laws, batch.coefficient_names)
                    usable = mask & masks.dtype.type(1 << rule.bit) != 0
                    self.pixels[split, band] += image.size * times**2
                    for t in range(len(image)):
                        numbers = rounded_numbers(packing[i, t, c], coefficients[i, t, c])
                        key = split, band, laws, tuple(numbers.tolist())
                        self._add(key, image[t][usable[t]], times**2)

    def _add(self, key: Key, counts: npt.NDArray[np.uint16], times: int) -> None:
        """Add counts, each of which stands for so many pixels of the grid."""
        if counts.size:
            table = self.tables.setdefault(key, np.zeros(_COUNTS, "i8"))
            found = np.bincount(counts)
            table[: len(found)] += found * times

    def splits(self) -> list[str]:
        """Names of the splits seen."""
        return sorted({split for split, _ in self.pixels})

    def bands(self, split: str | None, quantity: str) -> dict[str, BandStatistics]:
        """Statistics of each band that has the quantity; of all splits together if ``split`` is None."""
        parts: dict[str, list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]] = defaultdict(list)
        for (name, band, laws, numbers), table in self.tables.items():
            if split is None or name == split:
                there = np.flatnonzero(table)
                values = _physical(laws, there, numbers, quantity)
                if values is not None:
                    usable = np.isfinite(values)
                    parts[band].append((values[usable], table[there][usable]))
        return {band: describe(*map(np.concatenate, zip(*parts[band], strict=True))) for band in sorted(parts)}


class Parts(Dataset[Tally]):
    """The parts of some stores, each counted when asked for: by this process, or by a DataLoader's workers."""

    def __init__(self, counted: Sequence[tuple[TileDataset, Sequence[str]]]) -> None:
        self.counted = counted
        self.parts = [
            (which, start, min(start + _TILES_A_PART, len(dataset)))
            for which, (dataset, _) in enumerate(counted)
            for start in range(0, len(dataset), _TILES_A_PART)
        ]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, part: int) -> Tally:
        """Count one part, a tile at a time."""
        which, start, stop = self.parts[part]
        dataset, splits = self.counted[which]
        counted = Tally()
        for i in range(start, stop):
            counted.count(dataset.__getitems__([i]), [splits[i]])
        return counted


def tally(counted: Sequence[tuple[TileDataset, Sequence[str]]], workers: int = 0, engine: Any = None) -> Tally:
    """Count the tiles of some datasets, each with the splits of its tiles: here, by workers or on an engine."""
    if engine is not None:
        parts = Parts(counted)
        return _sum(read_on_engine(parts, len(parts), _sum, engine, workers, "parts counted"))
    with room_told():
        for dataset, _ in counted:
            dataset.share_memory()
    read = DataLoader(
        Parts(counted), batch_size=None, num_workers=workers, multiprocessing_context=worker_context(workers)
    )
    return _sum(with_room(read))


def _sum(parts: Iterable[Tally]) -> Tally:
    """Put parts together."""
    total = Tally()
    for part in parts:
        total += part
    return total


def _physical(
    laws: Laws, counts: npt.NDArray[np.intp], numbers: tuple[float, ...], quantity: str
) -> npt.NDArray[np.float64] | None:
    """Values of counts, by the law that everything decodes by; None if the band has no such quantity."""
    law = dict(laws[0]).get(quantity)
    if law is None:
        return None
    return physical_of(counts, law, laws[1], numbers)
