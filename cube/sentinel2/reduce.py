"""From a stack of observations to one value a pixel: exact, blind to NaN, in strips of rows of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.registry import REDUCERS
from cube.sentinel2.vocabulary import reducer_name

__all__ = [
    "BEST",
    "COUNT",
    "MEAN",
    "MEDIAN",
    "MEDOID",
    "Layers",
    "Reducer",
    "count_of",
    "known_votes",
    "nan_median",
    "nan_percentile",
    "parse_reducer",
    "present",
]

_F = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layers:
    """What a reducer gives that is no band: written beside them, named by ``also``."""

    names: Callable[[tuple[int, ...]], tuple[str, ...]]
    """Of the layers, in order, of a build that takes observations of some months of the year."""
    dtype: str
    nodata: float
    """Stored where there is nothing; NaN of floating numbers."""
    unit: str
    about: str
    """What they are, in words."""
    around: str = ""
    """Reducer whose result ``reduce`` is given; by default the build's own."""
    compares: bool = False
    """Whether observations are compared with the build's own result, which then has to be of the bands' quantity."""
    counts: bool = False
    """Whether they are numbers of observations: ``reduce`` is given where these are, bool, in place of them."""


@dataclass(frozen=True)
class Reducer:
    """A way to reduce.

    ``reduce`` takes a float32 stack, shape (bands, votes, rows, cols), and returns float32 of shape (bands, rows,
    cols), NaN where there is nothing. One with ``layers`` takes the composite, shape (bands, rows, cols), and the day
    of each vote since 1970 besides, and returns an array of shape (layers, rows, cols).
    """

    name: str
    joint: bool
    """Whether it needs all bands of a pixel at once."""
    reduce: Callable[..., npt.NDArray[Any]]
    counts: bool = False
    """Whether it counts observations: its values are numbers of them, not of the bands' quantity."""
    clearest_first: bool = False
    """Whether votes come in order of the clouds their products are said to have; else in order of time."""
    layers: Layers | None = None
    """What it gives besides bands; None of one that gives bands."""


_PIXELS = 16384
"""Pixels that are sorted at once: their votes stay in the processor's cache."""

_FEW = 24
"""Up to so many votes a network of minima and maxima over all pixels is faster than a sort of each pixel's."""


_Places = npt.NDArray[np.intp]
_Counts = npt.NDArray[np.unsignedinteger[Any]]

Ranks = Callable[[_Places], tuple[_Places, _Places]]
"""From how many votes there are to the ranks of two of them, 0 for the least."""

Mix = Callable[[_F, _F, _Counts], npt.NDArray[Any]]
"""From those two, and how many there are, to a value."""


def present(votes: _F) -> npt.NDArray[np.bool_]:
    """Tell which votes are numbers."""
    return np.asarray(votes == votes)  # noqa: PLR0124  (false for NaN, and faster than isnan)


def count_of(there: npt.NDArray[np.bool_]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Count what is true along axis 0."""
    small = np.dtype("u1" if len(there) < 256 else "u2")  # sums of bytes are done many at a time
    return np.asarray(there.view("u1").sum(axis=0, dtype=small))


def known_votes(votes: _F) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Count the votes along axis 0 that are numbers."""
    return count_of(present(votes))


def _ranked(votes: _F) -> tuple[_F, _Places, int]:
    """Sort the votes of some pixels, shape (votes, pixels); NaN, or infinity in its place, ranks last.

    Returns
    -------
    ordered : ndarray
        All of them, flat.
    places : ndarray
        Where those of each rank begin.
    step : int
        From one pixel to the next.
    """
    number, pixels = votes.shape
    if number > _FEW:
        return np.sort(np.ascontiguousarray(votes.T), axis=1).ravel(), np.arange(number), number
    rows = np.empty((number + 1, pixels), "f4")
    np.fmin(votes, np.float32(np.inf), out=rows[:number])  # a number instead of none
    row, spare = list(range(number)), number  # the lesser go to the row that is free: nothing is copied
    for i, j in _network(number):
        np.minimum(rows[row[i]], rows[row[j]], out=rows[spare])
        np.maximum(rows[row[i]], rows[row[j]], out=rows[row[j]])
        row[i], spare = spare, row[i]
    return rows.ravel(), np.array(row) * pixels, 1


@lru_cache
def _network(count: int) -> tuple[tuple[int, int], ...]:
    """Pairs to compare, in order, to sort a few values (Batcher 1968, odd-even merge sort)."""
    pairs, p = [], 1
    while p < count:
        k = p
        while k:
            for start in range(k % p, count - k, 2 * k):
                span = range(start, min(start + k, count - k))
                pairs += [(i, i + k) for i in span if i // (2 * p) == (i + k) // (2 * p)]
            k //= 2
        p *= 2
    return tuple(pairs)


def _by_pixel(stack: _F, ranks: Ranks, mix: Mix, dtype: str = "f4") -> npt.NDArray[Any]:
    """Reduce two ranked votes of each pixel along axis 0, some pixels at a time; NaN where there is none."""
    votes = stack.reshape(len(stack), math.prod(stack.shape[1:]))
    out = np.full(votes.shape[1], np.nan, dtype)
    low, high = (np.clip(rank, 0, max(0, len(votes) - 1)) for rank in ranks(np.arange(len(votes) + 1)))
    for start in range(0, votes.shape[1] if len(votes) else 0, _PIXELS):
        some = votes[:, start : start + _PIXELS]
        count, (ordered, places, step) = known_votes(some), _ranked(some)
        pixel = np.arange(0, step * some.shape[1], step)
        below, above = (ordered[places[rank][count] + pixel] for rank in (low, high))
        np.copyto(out[start : start + _PIXELS], mix(below, above, count), where=count > 0)
    return out.reshape(stack.shape[1:])


def _middle(count: _Places) -> tuple[_Places, _Places]:
    return (count - 1) // 2, count // 2


def nan_median(stack: _F) -> _F:
    """Median along axis 0, equal to ``numpy.nanmedian`` bit for bit; NaN where all is NaN."""

    def mean(low: _F, high: _F, count: _Counts) -> _F:
        # the mean of a number with itself may round: an odd count's median is an observation
        return np.where(count & 1, low, (low + high) / np.float32(2))

    return _by_pixel(stack, _middle, mean)


def nan_percentile(stack: _F, percent: float) -> _F:
    """Percentile along axis 0 by linear interpolation, as ``numpy.nanpercentile``."""
    places = np.maximum(np.arange(len(stack) + 1) - 1, 0) * (percent / 100)
    below = np.floor(places).astype(np.intp)
    shares = places - below

    def between(low: _F, high: _F, count: _Counts) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # where nothing is known, infinity stands
            return np.asarray(low + (high.astype("f8") - low) * shares[count])

    def ranks(count: _Places) -> tuple[_Places, _Places]:
        return below, np.minimum(below + 1, np.maximum(count - 1, 0))

    return _by_pixel(stack, ranks, between)


def _exact_median(votes: _F) -> npt.NDArray[np.float64]:
    """Median along axis 0 in double: never rounded."""
    return _by_pixel(votes, _middle, lambda low, high, _: (low.astype("f8") + high) / 2, "f8")


def _median(stack: _F) -> _F:
    return np.stack([nan_median(band) for band in stack])


def _mean(stack: _F) -> _F:
    present = ~np.isnan(stack)
    count = present.sum(axis=1)
    total = np.where(present, stack, 0).sum(axis=1, dtype="f8")
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0), "f4")


def _count(stack: _F) -> _F:
    count = (~np.isnan(stack)).sum(axis=1).astype("f4")
    return np.where(count > 0, count, np.float32(np.nan))


def _medoid(stack: _F) -> _F:
    """Return the observation, seen in all bands, that lies nearest to the median of all bands.

    Of several that are equally near, such as any two, the earliest: medians are taken in double, where the middle
    between two float32 is exact, so that no rounding decides.
    """
    distance = np.zeros(stack.shape[1:], "f8")
    for band in stack:
        distance += (band - _exact_median(band)) ** 2
    return _choose(stack, np.where(np.isnan(distance), np.inf, distance))


def _best(stack: _F) -> _F:
    """Return the first observation that is seen in all bands; votes come best first."""
    lacking = np.isnan(stack).any(axis=0)
    return _choose(stack, np.where(lacking, np.inf, 0.0))


def _choose(stack: _F, cost: npt.NDArray[np.float64]) -> _F:
    if stack.shape[1] == 0:
        return np.full((stack.shape[0], *stack.shape[2:]), np.nan, "f4")
    index = cost.argmin(axis=0)
    chosen = np.take_along_axis(stack, index[None, None], axis=1)[:, 0]
    found = np.isfinite(np.take_along_axis(cost, index[None], axis=0)[0])
    return np.where(found, chosen, np.float32(np.nan))


MEDIAN = Reducer("median", False, _median)
MEAN = Reducer("mean", False, _mean)
COUNT = Reducer("count", False, _count, counts=True)
MEDOID = Reducer("medoid", True, _medoid)
BEST = Reducer("best", True, _best, clearest_first=True)


def parse_reducer(name: str) -> Reducer:
    """Return the reducer of a name: one that is registered, or a percentile such as ``p25``.

    Raises
    ------
    UsageError
        If there is none of the name.
    """
    name = reducer_name(name)
    if name in REDUCERS.names():
        found: Reducer = REDUCERS.load(name)
        return found
    percent = float(name.removeprefix("p"))
    return Reducer(name, False, lambda stack: np.stack([nan_percentile(band, percent) for band in stack]))
