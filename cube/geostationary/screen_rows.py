"""What the pixels of one chunk look like: rows that are fill, repeated, saturated, noise, or belie their flags.

All of it from a few of the columns where that is enough: a file is to take milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.geostationary.screen_seams import LEAST, NARROWEST, changes, seams, smoothed

__all__ = [
    "FLAGS",
    "NOISE",
    "ROW_FAULTS",
    "SCATTER",
    "Look",
    "contradictory",
    "is_dense",
    "look_at",
    "repeated",
    "saturated",
]

ROW_FAULTS = ("fill", "repeated", "saturated", "noise", "contradictory")
"""What a row of pixels may be."""
FLAGS = 5
"""Values of quality flags that are told apart; others count together."""
_NARROW = 64
"""Pixels of a row below which nothing is said of noise and stripes: of ABI's chunks half a row has 113 and more."""
_ACROSS = 4
"""Every so many columns are looked at where a row is not needed whole."""
_DISTINCT = 3
"""Counts that a row spans at least before it is said to repeat another: a row of night is often one count or two."""
_CHANGES = 0.1
"""Share of a row's pixels that differ from the one before at least, for the same: rows without noise, as of synthetic
files, that change along them in up to 6 % of their pixels are sometimes the same; instruments are not as quiet."""
SCATTER = 0.02
"""Share of the range of counts that a row scatters by at least before it may be noise; the instrument's own is less."""
NOISE = 0.7
"""Mean square of the differences of neighbours by twice the variance, above which a row is noise. White noise has 1; of
the rows of a real file at most 6 in 1,000 have more than this, over broken low cloud."""
_PARTS = 4
"""Parts along each side of a chunk, whose means are compared with those of other times."""
_THERE = 0.9
"""Share of a part's pixels that must have a count."""
_CONTRADICTORY = 0.05
"""Share of a row in which counts and flags say different things before it is called contradictory."""

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Look:
    """What was seen in a chunk."""

    rows: int
    pixels: int
    valid: int
    """Pixels with a count, and flags that are good."""
    flags: tuple[int, ...]
    """Pixels by flag, 0 to 4, and of other flags."""
    faults: tuple[int, ...]
    """Rows with each of :data:`ROW_FAULTS`."""
    uneven: float
    """Sum over rows of how far their means lie from those of the rows around, in counts."""
    between: int
    """Rows that this is the sum of: those that have all their counts, as the two beside them have."""
    middle: float
    """Median count; NaN where there is none."""
    variance: float
    """Of the counts."""
    empty: int
    """Pixels without a count."""
    seams: int
    """Places where a row has nothing to do with the next, as where rows were moved."""
    blocks: Pixels
    """Mean counts of 4 x 4 parts; NaN where the chunk has rows with pixels without a count."""


def look_at(
    images: Sequence[tuple[Pixels, Pixels]],
    fill: int,
    top: int,
    usable: npt.NDArray[np.bool_],
    no_value: int | None,
) -> list[Look]:
    """Look at the pixels of some chunks of one width.

    Parameters
    ----------
    images
        Of each, counts and flags of one shape; flags as bytes.
    fill
        The count that stands for none.
    top
        The highest count.
    usable
        Of each of the 256 flags, whether it is good.
    no_value
        The flag of a pixel without a count; None where there is none.
    """
    rows = _Rows.of(np.concatenate([counts for counts, _ in images]), top)
    ends = np.cumsum([len(counts) for counts, _ in images]).tolist()
    return [
        _look(*image, rows.between(end - len(image[0]), end), fill, top, usable, no_value)
        for image, end in zip(images, ends, strict=True)
    ]


@dataclass(frozen=True)
class _Rows:
    """What is known of each row: of those of all chunks at once, for numpy takes as long to begin as for a chunk."""

    some: Pixels
    """Every so many of its counts."""
    mean: Pixels
    variance: Pixels
    total: Pixels
    """Mean of all of its counts: a few would leave the scene in it."""
    noisy: npt.NDArray[np.bool_]
    again: npt.NDArray[np.bool_]
    """Whether it may be the one before, by some columns."""
    change: Pixels
    """By how much it is unlike the one before, see :func:`~cube.geostationary.screen_seams.seams`."""

    @classmethod
    def of(cls, counts: Pixels, top: int) -> _Rows:
        some = counts[:, ::_ACROSS].astype("f4")
        mean, variance = _moments(some)
        again, change = np.zeros(len(counts), bool), np.zeros(len(counts), "f4")
        again[1:] = (some[1:] == some[:-1]).all(axis=1)
        if some.shape[1] >= NARROWEST:
            change[1:] = changes(smoothed(some))
        return cls(
            some,
            mean,
            variance,
            counts.sum(axis=1, dtype="u4") / counts.shape[1],
            _noisy(counts, some, variance, top),
            again,
            change,
        )

    def between(self, first: int, stop: int) -> _Rows:
        """Those of one chunk; the first has none before it."""
        return _Rows(*(getattr(self, name)[first:stop] for name in self.__dataclass_fields__))


def _look(
    counts: Pixels,
    flags: Pixels,
    rows: _Rows,
    fill: int,
    top: int,
    usable: npt.NDArray[np.bool_],
    no_value: int | None,
) -> Look:
    highest, by_flag = int(counts.max(initial=0)), _by_flag(flags)
    # Most chunks have all their counts, none of them high, and no flag: what then cannot be is not looked for.
    nothing = counts == fill if highest >= fill else np.broadcast_to(np.False_, counts.shape)
    empty = nothing.sum(axis=1) if highest >= fill else np.zeros(len(counts), "i8")
    whole = empty == 0
    all_there = bool(whole.all())
    if all_there:
        valid = sum(number for number, good in zip(by_flag, usable[:FLAGS], strict=False) if good)
    else:
        valid = int((usable[flags] & ~nothing).sum())
    some, mean, variance = (
        (rows.some, rows.mean, rows.variance)
        if all_there
        else (
            rows.some[whole],
            rows.mean[whole],
            rows.variance[whole],
        )
    )
    uneven, between = _unevenness(rows.total, whole, counts.shape[1])
    sharp = not all_there or rows.change[1:].max(initial=0) > LEAST * top
    return Look(
        rows=len(counts),
        pixels=counts.size,
        valid=valid,
        flags=by_flag,
        faults=(
            int((empty == counts.shape[1]).sum()),
            repeated(counts, empty) if not all_there or rows.again[1:].any() else 0,
            saturated(counts, nothing, top) if highest >= top - 1 else 0,
            int((rows.noisy & whole).sum()),
            contradictory(nothing, empty, flags, no_value) if not all_there or by_flag[0] < flags.size else 0,
        ),
        uneven=uneven,
        between=between,
        middle=_median(some[::_ACROSS]),
        variance=float(variance.sum() / len(mean) + _moments(mean[None])[1][0]) if some.size else 0.0,
        empty=int(empty.sum()),
        seams=seams(some, top) if sharp and is_dense(whole) else 0,
        blocks=_blocks(some) if all_there else _blocks_of_some(counts, nothing),
    )


def _moments(some: Pixels) -> tuple[Pixels, Pixels]:
    """Mean and variance of rows; numpy's own take three times as long of rows as short as these."""
    mean = some.sum(axis=1) / np.float32(some.shape[1])
    apart = some - mean[:, None]
    return mean, np.einsum("ij,ij->i", apart, apart) / np.float32(some.shape[1])


def is_dense(there: Pixels) -> bool:
    """Whether no two rows that follow each other are left out: those beside them are none.

    Parameters
    ----------
    there
        Of each row, whether it is one that is looked at.
    """
    return bool(there.all() or np.diff(np.flatnonzero(there), prepend=-1, append=len(there)).max() <= 2)


def _blocks_of_some(counts: Pixels, nothing: Pixels) -> Pixels:
    """Means of parts of what has a count; NaN where too few have."""
    few = np.s_[:, ::_ACROSS]
    there = _blocks(1.0 - nothing[few].astype("f4"))
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Pixels = _blocks(np.where(nothing[few], 0, counts[few]).astype("f4")) / there
    means[~(there > _THERE)] = np.nan
    return means


def _median(counts: Pixels) -> float:
    """Near enough: the upper of two in the middle. NaN of nothing."""
    return float(np.partition(counts, counts.size // 2, axis=None)[counts.size // 2]) if counts.size else float("nan")


def _blocks(some: Pixels) -> Pixels:
    """Means of parts, row by row."""
    tall, wide = (n // _PARTS for n in some.shape)
    if not tall or not wide:
        return np.full(_PARTS**2, np.nan, "f4")
    # Down the columns first: numpy adds whole rows much faster than it adds along two axes at once.
    rows = some[: tall * _PARTS, : wide * _PARTS].reshape(_PARTS, tall, wide * _PARTS).sum(axis=1)
    means: Pixels = rows.reshape(_PARTS, _PARTS, wide).sum(axis=2).ravel() / np.float32(tall * wide)
    return means


def _by_flag(flags: Pixels) -> tuple[int, ...]:
    """Pixels by flag: nearly all images are of good pixels alone, which is told at once."""
    if not flags.max(initial=0):
        return flags.size, *(0,) * FLAGS
    counted = np.bincount(flags[flags > 0], minlength=FLAGS + 1)
    return flags.size - int(counted.sum()), *(int(n) for n in counted[1:FLAGS]), int(counted[FLAGS:].sum())


def repeated(counts: Pixels, empty: Pixels) -> int:
    """Rows that are the one before to the last count, and not for want of anything to see."""
    same = (counts[1:] == counts[:-1]).all(axis=1)
    if not same.any():
        return 0
    rows = counts[1:][same & (empty[1:] < counts.shape[1])]
    if not len(rows):
        return 0
    spans = rows.max(axis=1).astype("i8") - rows.min(axis=1)
    changes = (rows[:, 1:] != rows[:, :-1]).mean(axis=1)
    return int(((spans >= _DISTINCT) & (changes >= _CHANGES)).sum())


def saturated(counts: Pixels, nothing: Pixels, top: int) -> int:
    """Rows half or more of which are the two highest counts, the fill apart."""
    high = (counts >= top - 1) & ~nothing
    return int((2 * high.sum(axis=1) >= counts.shape[1]).sum()) if high.any() else 0


def _noisy(counts: Pixels, some: Pixels, variance: Pixels, top: int) -> npt.NDArray[np.bool_]:
    """Rows in which a pixel tells nothing of the next."""
    scattered = variance >= (SCATTER * top) ** 2
    if not scattered.any() or counts.shape[1] < _NARROW:
        return np.zeros(len(counts), bool)
    second = counts[:, 1 :: 2 * _ACROSS]
    apart = some[:, ::2][:, : second.shape[1]] - second
    steps = np.einsum("ij,ij->i", apart, apart) / np.float32(apart.shape[1])
    noisy: npt.NDArray[np.bool_] = scattered & (steps > 2 * NOISE * variance)
    return noisy


def contradictory(nothing: Pixels, empty: Pixels, flags: Pixels, no_value: int | None) -> int:
    """Rows with counts that are said to be none, and good pixels without a count."""
    denied = np.zeros(flags.shape, bool) if no_value is None else flags == no_value
    if not empty.any() and not denied.any():
        return 0
    wrong = ((nothing & (flags <= 1)) | (~nothing & denied)).sum(axis=1)
    return int((wrong > _CONTRADICTORY * nothing.shape[1]).sum())


def _unevenness(mean: Pixels, whole: npt.NDArray[np.bool_], width: int) -> tuple[float, int]:
    """How far means of rows lie from those around, in sum: second differences, for a scene changes from row to row.

    A pixel without a count takes its row from the sum, and the two beside it, but not the chunk.
    """
    if len(mean) < 3 or width < _NARROW:
        return 0.0, 0
    apart = np.abs(mean[1:-1] - (mean[:-2] + mean[2:]) / 2)
    there = whole[1:-1] & whole[:-2] & whole[2:]
    return float(apart[there].sum()), int(there.sum())
