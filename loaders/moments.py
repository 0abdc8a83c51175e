"""Statistics of cubes: exact moments, and a table of fine bins for percentiles, box by box in one pass.

A bin is a float32 rounded to 12 significant bits, so bins need no range known before and tables add up. Percentiles
are within 1/4096 of their value; whole numbers up to 4096 and 0 are exact. Boxes are merged in their order in the
cube, whoever read them, so results do not depend on the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch.utils.data import DataLoader, Dataset

from cube.summary import BandStatistics, describe
from loaders.engines import read_on_engine
from loaders.layout import holding
from loaders.shared_room import with_room
from loaders.workers import worker_context
from stratacube.errors import SourceError

__all__ = ["PRECISION", "Box", "Moments", "boxes", "gather"]

PRECISION = "within 1/4096 of their value"

_DROPPED = 12
"""Bits of a float32 that a bin leaves out."""
_ZERO = 1 << (31 - _DROPPED)
"""Place of the value 0 in a table."""
_PIXELS = 2**21
"""Boxes are enlarged to about as many pixels where chunks are smaller."""


@dataclass
class Moments:
    """Count, mean, sum of squared deviations, extremes and table of some values."""

    pixels: int = 0
    """Looked at, valid or not."""
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    bins: npt.NDArray[np.int32] | None = None
    """Bins that hold something, and how much each."""
    weights: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(cls, values: npt.NDArray[np.float32]) -> Moments:
        """Take those of one box, of its finite values."""
        good = values[np.isfinite(values)]
        if not good.size:
            return cls(values.size)
        exact = good.astype("f8")
        mean = float(exact.mean())
        table = np.bincount(_bins(good))
        bins = np.flatnonzero(table)
        squares = float(np.square(exact - mean).sum())
        return cls(
            values.size, good.size, mean, squares, float(good.min()), float(good.max()), bins.astype("i4"), table[bins]
        )

    def __add__(self, other: Moments) -> Moments:
        """Put two together (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance")."""
        if not self.count or not other.count:
            some = self if self.count else other
            return replace(some, pixels=self.pixels + other.pixels)
        assert self.bins is not None
        assert other.bins is not None
        count, apart = self.count + other.count, other.mean - self.mean
        bins, place = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        weights = np.zeros(len(bins), "i8")
        np.add.at(weights, place, np.concatenate([self.weights, other.weights]))
        return Moments(
            self.pixels + other.pixels,
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart**2 * self.count * other.count / count,
            min(self.low, other.low),
            max(self.high, other.high),
            bins,
            weights,
        )

    def describe(self) -> BandStatistics:
        """Sum up."""
        if self.bins is None or self.weights is None:
            return describe(np.empty(0), np.empty(0, "i8"))
        values = _values(self.bins).clip(self.low, self.high)
        deviation = math.sqrt(self.squares / self.count)
        return replace(describe(values, self.weights), mean=self.mean, std=deviation, min=self.low, max=self.high)


@dataclass(frozen=True)
class Box:
    """Some whole chunks of one band of a cube."""

    cube: int
    band: str
    place: tuple[slice, ...]


def boxes(image: xr.Variable, cube: int, band: str, cells: npt.NDArray[np.int64] | None = None) -> list[Box]:
    """Cut a band into boxes of whole chunks; of a mosaic those that hold some of a cell (`loaders.layout.cells_of`)."""
    sides = list(image.encoding.get("chunks") or image.shape)
    for axis in reversed(range(len(sides))):
        sides[axis] = min(image.shape[axis], sides[axis] * max(1, _PIXELS // math.prod(sides)))
    counts = [-(-length // side) for length, side in zip(image.shape, sides, strict=True)]
    places: Iterable[tuple[int, ...]] = np.ndindex(*counts)
    if cells is not None:
        down, across = ((np.arange(counts[axis]) * sides[axis], sides[axis]) for axis in (-2, -1))
        places = map(tuple, np.argwhere(np.broadcast_to(holding(cells, down, across), counts)).tolist())
    return [
        Box(
            cube,
            band,
            tuple(slice(i * n, min((i + 1) * n, end)) for i, n, end in zip(at, sides, image.shape, strict=True)),
        )
        for at in places
    ]


def gather(
    cubes: Sequence[xr.Dataset], wanted: Sequence[Box], workers: int = 0, engine: Any = None
) -> dict[str, Moments]:
    """Read boxes, by this process, by some workers or on an engine, and put together what they hold, by band.

    Raises
    ------
    SourceError
        If a box cannot be read.
    """
    total: dict[str, Moments] = {}
    for box, part in zip(wanted, _read(_Boxes(cubes, wanted), workers, engine), strict=True):
        total[box.band] = total.get(box.band, Moments()) + part
    return total


def _read(wanted: _Boxes, workers: int, engine: Any) -> Iterator[Moments]:
    """Read boxes in their order."""
    if engine is None:
        context = worker_context(workers)
        yield from with_room(DataLoader(wanted, batch_size=None, num_workers=workers, multiprocessing_context=context))
        return
    for some in read_on_engine(wanted, len(wanted), list, engine, workers, "parts counted"):
        yield from some


class _Boxes(Dataset[Moments]):
    """Boxes, each read when asked for."""

    def __init__(self, cubes: Sequence[xr.Dataset], wanted: Sequence[Box]) -> None:
        self.cubes, self.wanted = cubes, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, number: int) -> Moments:
        box = self.wanted[number]
        image = self.cubes[box.cube][box.band].variable[box.place]
        try:
            return Moments.of(image.values.astype("f4"))
        except (OSError, RuntimeError, ValueError) as error:
            place = ", ".join(f"{d} {s.start}:{s.stop}" for d, s in zip(image.dims, box.place, strict=True))
            raise SourceError(f"{box.band} at {place} cannot be read ({error})") from error


def _bins(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Number the bins of values, in their order."""
    bits = values.view("i4")
    magnitude = bits & 0x7FFFFFFF
    ordered = np.where(bits < 0, -magnitude, magnitude) + (1 << (_DROPPED - 1))
    return (ordered >> _DROPPED) + _ZERO


def _values(bins: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """Values that bins stand for."""
    ordered = (bins - _ZERO) << _DROPPED
    magnitude: npt.NDArray[np.float64] = np.abs(ordered).astype("i4").view("f4").astype("f8")
    return np.where(ordered < 0, -magnitude, magnitude)
