"""Seams: rows that have nothing to do with the next, as where rows were moved, lost or come from elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LEAST", "NARROWEST", "bands", "changes", "seams", "smoothed"]

_TOGETHER, _AROUND, _FEWEST = 4, 3, 5
"""Columns of which the mean is taken, against the instrument's noise; rows on each side that a seam is compared with;
and means in a row before anything is said of seams."""
NARROWEST = _TOGETHER * _FEWEST
"""Columns below which nothing is said of seams."""
_SEAM, LEAST = 4.0, 0.007
"""How much more than the rows around a seam's differ, and by what share of the range of counts at least. In 12,800
windows of real files, of 64 to 512 pixels, none has."""
_ALIKE, _SHARPER, _COLUMNS, _STEP = 0.85, 1.5, 0.35, 4.0
"""What tells a seam from an edge of a cloud that runs along a row. Over an edge the pattern goes on, with a correlation
of the two rows of 0.85 and more; or few of the columns have it, less than 0.35 of them changing by 1.5 times what they
change by around; or all that have it change by about the same, with a fourth of the change or less beside that."""
_BAND = 32
"""Rows of a band at most that is told by both of its ends; what is taller has many rows to be told by."""
_END, _FAINT, _MOST, _CHANGED = 2.0, 0.003, 0.4, 0.001
"""Of both ends: how much more their rows differ than those around, by what share of the range of counts at least, the
share of columns that change by half as much again as anywhere around, and by what share of the range. Of 35,959
windows of real files, of 64 to 512 pixels, none has two rows so near that do; one row has in some, and more in a
synthetic sky, where an edge of a cloud may be as sharp. Faint stripes of GOES-17 reach 0.002 of the range."""

Pixels = npt.NDArray[Any]


def seams(some: Pixels, top: int) -> int:
    """Places where a row has nothing to do with the next, by some columns of each.

    Rows differ there by much more than those around them do, most edges of clouds being less sharp and not along a row,
    and the pattern breaks off. What one row is brighter than another as a whole does not count: that is striping.

    Parameters
    ----------
    some
        Counts (row, column) of every so many columns.
    top
        The highest count.
    """
    if len(some) < 3 * _AROUND or some.shape[1] < NARROWEST:
        return 0
    mean = smoothed(some)
    apart = changes(mean)
    if apart.max() <= LEAST * top:
        return 0
    sharp = np.flatnonzero(apart[_AROUND:-_AROUND] > np.maximum(_SEAM * _around(apart), LEAST * top))
    return sum(_breaks_off(mean[row : row + 2 * _AROUND + 2], LEAST / 2 * top) for row in sharp)


def bands(counts: Pixels, top: int) -> int:
    """Bands of a few rows that have nothing to do with those above and below, as where rows were moved.

    One end of such a band may be as faint as an edge of a cloud; two are not, where all columns are looked at.

    Parameters
    ----------
    counts
        (row, column), as floats.
    top
        The highest count.
    """
    if len(counts) < 3 * _AROUND or counts.shape[1] < NARROWEST:
        return 0
    mean = smoothed(counts)
    apart = np.abs(mean[1:] - mean[:-1])
    whole = apart.sum(axis=1) / np.float32(apart.shape[1])
    ends = np.flatnonzero(whole[_AROUND:-_AROUND] > np.maximum(_END * _around(whole), _FAINT * top))
    if len(ends) < 2:
        return 0
    least = np.maximum(_SHARPER * _around(apart)[ends], _CHANGED * top)
    ends = ends[(apart[_AROUND:-_AROUND][ends] > least).mean(axis=1) > _MOST]
    return int((np.diff(ends) <= _BAND).sum())


def _around(values: Pixels) -> Pixels:
    """The largest of the rows on both sides of each; nothing of those at the edges, for a cloud may begin there."""
    number = len(values) - 2 * _AROUND
    most: Pixels = np.maximum.reduce([values[k : k + number] for k in range(2 * _AROUND + 1) if k != _AROUND])
    return most


def smoothed(some: Pixels) -> Pixels:
    """Means of four columns each: column by column, as a mean along an axis of four costs numpy five times as much."""
    wide = some.shape[1] // _TOGETHER
    mean = some[:, : wide * _TOGETHER : _TOGETHER].copy()
    for k in range(1, _TOGETHER):
        mean += some[:, k : wide * _TOGETHER : _TOGETHER]
    mean /= _TOGETHER
    return mean


def changes(mean: Pixels) -> Pixels:
    """By how much each row but the first is unlike the one before, beside being brighter as a whole."""
    steps, wide = mean[1:] - mean[:-1], np.float32(mean.shape[1])
    apart: Pixels = np.abs(steps - steps.sum(axis=1, keepdims=True) / wide).sum(axis=1) / wide
    return apart


def _breaks_off(mean: Pixels, least: float) -> bool:
    """Whether the pattern of the rows above breaks off between the two in the middle, in more than an edge of a cloud.

    ``least`` is what a column changes by at least before that counts.
    """
    steps = mean[1:] - mean[:-1]
    above, below = (row - row.mean() for row in mean[_AROUND : _AROUND + 2].astype("f8"))
    if above @ below >= _ALIKE * np.sqrt((above @ above) * (below @ below)):
        return False
    striped = np.median(steps, axis=1, keepdims=True)
    if _sharper(np.abs(steps - striped), least).mean() <= _COLUMNS:
        return False
    across, edge = steps[_AROUND], _sharper(np.abs(steps), least)
    step = np.median(across[edge]) if edge.any() else 0.0
    beside = np.minimum(np.abs(across), np.abs(across - step))
    return bool(np.abs(across).mean() < _STEP * beside.mean())


def _sharper(sizes: Pixels, least: float) -> Pixels:
    """Which columns change more in the middle than anywhere around."""
    around = np.delete(sizes, _AROUND, axis=0).max(axis=0)
    sharper: Pixels = sizes[_AROUND] > np.maximum(_SHARPER * around, least)
    return sharper
