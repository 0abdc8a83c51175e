"""From a stack of observations to one value a pixel: exact, blind to NaN, in strips of rows of bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog.errors import UsageError

__all__ = ["REDUCERS", "Reducer", "nan_median", "nan_percentile", "parse_reducer"]

_F = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reducer:
    """A way to reduce.

    ``reduce`` takes a float32 stack, shape (bands, votes, rows, cols), which it may change, and returns float32 of
    shape (bands, rows, cols), NaN where there is nothing.
    """

    name: str
    joint: bool
    """Whether it needs all bands of a pixel at once."""
    reduce: Callable[[_F], _F]


def _sorted(stack: _F) -> tuple[_F, npt.NDArray[np.intp]]:
    """Votes in rising order along axis 0, NaN last, and how many are numbers. Sorts in place."""
    count = stack.shape[0] - np.isnan(stack).sum(axis=0)
    stack.sort(axis=0)
    return stack, count


def _pick(ordered: _F, index: npt.NDArray[np.intp]) -> _F:
    picked: _F = np.take_along_axis(ordered, index[None], axis=0)[0]
    return picked


def nan_median(stack: _F) -> _F:
    """Median along axis 0, equal to ``numpy.nanmedian`` bit for bit; NaN where all is NaN. Sorts in place."""
    if stack.shape[0] == 0:
        return np.full(stack.shape[1:], np.nan, "f4")
    ordered, count = _sorted(stack)
    low = _pick(ordered, np.maximum(count - 1, 0) // 2)
    high = _pick(ordered, np.minimum(count // 2, len(ordered) - 1))
    middle = (low + high) / np.float32(2)
    # the mean of a number with itself may round: an odd count's median is an observation
    return np.where(count % 2 == 1, low, middle)


def nan_percentile(stack: _F, percent: float) -> _F:
    """Percentile along axis 0 by linear interpolation, as ``numpy.nanpercentile``. Sorts in place."""
    if stack.shape[0] == 0:
        return np.full(stack.shape[1:], np.nan, "f4")
    ordered, count = _sorted(stack)
    place = np.maximum(count - 1, 0) * (percent / 100)
    below = np.floor(place).astype(np.intp)
    share = place - below
    low = _pick(ordered, below).astype("f8")
    high = _pick(ordered, np.minimum(below + 1, np.maximum(count - 1, 0)))
    return np.asarray(np.where(count > 0, low + (high - low) * share, np.nan), "f4")


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
    middle = np.stack([nan_median(band.copy()) for band in stack])
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


REDUCERS = {
    r.name: r
    for r in (
        Reducer("median", False, _median),
        Reducer("mean", False, _mean),
        Reducer("count", False, _count),
        Reducer("medoid", True, _medoid),
        Reducer("best", True, _best),
    )
}
"""Reducers by name; ``p10`` or ``percentile:10`` is a percentile besides."""


def parse_reducer(name: str) -> Reducer:
    """Return the reducer of a name: median, mean, count, medoid, best, or a percentile such as ``p25``.

    Raises
    ------
    UsageError
        If there is none of the name.
    """
    if name in REDUCERS:
        return REDUCERS[name]
    digits = name.removeprefix("percentile:").removeprefix("p")
    try:
        percent = float(digits) if digits != name else np.nan
    except ValueError:
        percent = np.nan
    if not 0 <= percent <= 100:
        raise UsageError(f"reducer {name!r} is unknown; there are {', '.join(REDUCERS)} and percentiles such as p25")
    return Reducer(f"p{percent:g}", False, lambda stack: np.stack([nan_percentile(band, percent) for band in stack]))
