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
    "Reducer",
    "known_votes",
    "nan_median",
    "nan_percentile",
    "parse_reducer",
]

_F = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reducer:
    """A way to reduce.

    ``reduce`` takes a float32 stack, shape (bands, votes, rows, cols), and returns float32 of shape (bands, rows,
    cols), NaN where there is nothing.
    """

    name: str
    joint: bool
    """Whether it needs all bands of a pixel at once."""
    reduce: Callable[[_F], _F]
    counts: bool = False
    """Whether it counts observations: its values are numbers of them, not of the bands' quantity."""
    clearest_first: bool = False
    """Whether votes come in order of the clouds their products are said to have; else in order of time."""


_PIXELS = 16384
"""Pixels that are sorted at once: their votes stay in the processor's cache."""

_FEW = 8
"""Up to so many votes a network of minima and maxima over all pixels is faster than a sort of each pixel's."""


Pick = Callable[[npt.NDArray[np.intp]], _F]
"""From a rank for each pixel, 0 for the least, to the vote of that rank."""


def known_votes(votes: _F) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Count the votes along axis 0 that are numbers."""
    present = votes == votes  # noqa: PLR0124  (false for NaN, and faster than isnan)
    small = np.dtype("u1" if len(votes) < 256 else "u2")  # sums of bytes are done many at a time
    return np.asarray(present.view("u1").sum(axis=0, dtype=small))


def _ranked(votes: _F) -> tuple[Pick, npt.NDArray[np.intp]]:
    """Sort the votes of some pixels, shape (votes, pixels); what a rank is, and how many are numbers.

    What ranks behind the numbers is no number, or infinite.
    """
    number, pixels = votes.shape
    count = known_votes(votes).astype(np.intp)
    pixel = np.arange(pixels)
    if number > _FEW:
        by_pixel = np.sort(np.ascontiguousarray(votes.T), axis=1).ravel()
        return lambda rank: by_pixel[pixel * number + rank], count
    ordered = np.fmin(votes, np.float32(np.inf))  # a number instead of none
    spare = np.empty_like(ordered[0])
    for i, j in _network(number):
        np.minimum(ordered[i], ordered[j], out=spare)
        np.maximum(ordered[i], ordered[j], out=ordered[j])
        ordered[i] = spare
    by_vote = ordered.ravel()
    return lambda rank: by_vote[rank * pixels + pixel], count


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


def _by_pixel(stack: _F, reduce: Callable[[Pick, npt.NDArray[np.intp]], npt.NDArray[Any]]) -> _F:
    """Reduce ranked votes along axis 0, some pixels at a time."""
    votes = stack.reshape(len(stack), math.prod(stack.shape[1:]))
    out = np.full(votes.shape[1], np.nan, "f4")
    for start in range(0, votes.shape[1] if len(votes) else 0, _PIXELS):
        pick, count = _ranked(votes[:, start : start + _PIXELS])
        out[start : start + _PIXELS] = np.where(count > 0, reduce(pick, count), np.float32(np.nan))
    return out.reshape(stack.shape[1:])


def nan_median(stack: _F) -> _F:
    """Median along axis 0, equal to ``numpy.nanmedian`` bit for bit; NaN where all is NaN."""

    def middle(pick: Pick, count: npt.NDArray[np.intp]) -> _F:
        low, high = pick(np.maximum(count - 1, 0) // 2), pick(np.minimum(count // 2, len(stack) - 1))
        # the mean of a number with itself may round: an odd count's median is an observation
        return np.asarray(np.where(count % 2 == 1, low, (low + high) / np.float32(2)), "f4")

    return _by_pixel(stack, middle)


def nan_percentile(stack: _F, percent: float) -> _F:
    """Percentile along axis 0 by linear interpolation, as ``numpy.nanpercentile``."""

    def between(pick: Pick, count: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        last = np.maximum(count - 1, 0)
        place = last * (percent / 100)
        below = np.floor(place).astype(np.intp)
        low = pick(below).astype("f8")
        with np.errstate(invalid="ignore"):  # where nothing is known, infinity stands
            return np.asarray(low + (pick(np.minimum(below + 1, last)) - low) * (place - below))

    return _by_pixel(stack, between)


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
    """Return the observation, seen in all bands, that lies nearest to the median of all bands."""
    middle = np.stack([nan_median(band) for band in stack])
    distance = np.zeros(stack.shape[1:], "f8")
    for band, centre in zip(stack, middle, strict=True):
        distance += (band.astype("f8") - centre) ** 2
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
