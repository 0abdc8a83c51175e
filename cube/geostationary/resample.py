"""From a band's native pixels to the tile grid: copy, repeat, or average the valid counts.

Averages are stored as counts of a finer packing: the mean of n valid counts times ``count_factor``, rounded to the
nearest even integer. With twelve parts a count the mean of one to four pixels (2 x 2) is exact; with sixteen parts
the mean of sixteen (4 x 4) is exact when all are valid and within 1/32 count otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AVERAGE_FILL", "average", "count_factor", "repeat"]

AVERAGE_FILL = 65535
Counts = npt.NDArray[np.uint16]
Mask = npt.NDArray[np.bool_]


def count_factor(ratio: int, max_count: int) -> int:
    """Parts of a source count in one stored count when ``ratio`` x ``ratio`` pixels are averaged."""
    return min({1: 1, 2: 12, 4: 16}[ratio], (AVERAGE_FILL - 1) // max_count)


def average(counts: Counts, good: Mask, ratio: int, factor: int) -> tuple[Counts, Mask]:
    """Mean of the good counts in blocks of ``ratio`` x ``ratio`` pixels, times ``factor``.

    Parameters
    ----------
    counts, good : ndarray
        Native counts and which of them may be used, (ratio h, ratio w).
    ratio
        Native pixels along the side of a grid pixel.
    factor
        Stored parts of a count, from :func:`count_factor`.

    Returns
    -------
    stored, valid : ndarray
        (h, w); a block without a good pixel holds :data:`AVERAGE_FILL` and is not valid.
    """
    if good.all() and factor % (ratio * ratio) == 0:
        total = _block_sum(counts, ratio)
        return (total * np.uint32(factor // (ratio * ratio))).astype("u2"), np.ones(total.shape, bool)
    total = _block_sum(np.where(good, counts, np.uint16(0)), ratio)
    number = _block_sum(good, ratio)
    valid = number > 0
    stored = np.rint(total * float(factor) / np.maximum(number, 1)).astype("u2")
    stored[~valid] = AVERAGE_FILL
    return stored, valid


def repeat(values: npt.NDArray[Any], ratio: int) -> npt.NDArray[Any]:
    """Repeat each pixel ``ratio`` times along both axes."""
    return values.repeat(ratio, axis=-1).repeat(ratio, axis=-2)  # rows last: whole rows copy faster than pixels


def _block_sum(values: npt.NDArray[Any], ratio: int) -> npt.NDArray[np.uint32]:
    """Sum over blocks as strided slices: rows first, which vectorises, then columns."""
    rows = values[0::ratio].astype("u4")
    for i in range(1, ratio):
        rows += values[i::ratio]
    total = rows[:, 0::ratio].copy()
    for i in range(1, ratio):
        total += rows[:, i::ratio]
    return total
