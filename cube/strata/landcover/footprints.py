"""How many pixels of a footprint are of which class: an image of classes, and sums over its boxes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cube.geostationary.grid import FixedGrid
from cube.strata.landcover.raster import NODATA, OFF_EARTH, LandCover

Ints = npt.NDArray[np.int64]

__all__ = ["box_sums", "class_image", "footprint_counts"]

_PIXELS_AT_ONCE = 1 << 19
"""Longitudes and latitudes of an image are held for so many pixels at once."""
_STRIP = 32


def class_image(cover: LandCover, grid: FixedGrid) -> npt.NDArray[np.uint8]:
    """Class of the cell under the centre of each pixel.

    Parameters
    ----------
    cover : LandCover
        The rasters.
    grid : FixedGrid
        The pixels.

    Returns
    -------
    ndarray of uint8, shape (height, width)
        See :meth:`cube.strata.landcover.raster.LandCover.codes`.
    """
    image = np.empty(grid.shape, "u1")
    columns = np.arange(grid.width)
    step = max(1, _PIXELS_AT_ONCE // grid.width)
    for top in range(0, grid.height, step):
        rows = np.arange(top, min(top + step, grid.height))[:, None]
        image[rows[0, 0] : rows[-1, 0] + 1] = cover.codes(*grid.lonlat(rows, columns))
    return image


def box_sums(image: npt.NDArray[np.uint8], code: int, stride: int) -> npt.NDArray[np.int32]:
    """Integral image of the pixels of one code: how many lie above and to the left of each corner.

    Parameters
    ----------
    image : ndarray of uint8, shape (rows, columns)
        Codes.
    code : int
        The one that is counted.
    stride : int
        Corners are multiples of this many pixels.

    Returns
    -------
    ndarray of int32, shape (rows // stride + 1, columns // stride + 1)
        A box from corner ``a`` to ``b`` holds ``s[b] - s[b0, a1] - s[a0, b1] + s[a]`` of them.
    """
    rows, cols = (n // stride for n in image.shape)
    sums = np.zeros((rows + 1, cols + 1), "i4")
    for top in range(0, rows, _STRIP):  # in strips that stay in the processor's cache
        strip = image[top * stride : min(top + _STRIP, rows) * stride, : cols * stride]
        hits = (strip == code).view("u1").reshape(-1, stride, cols * stride)
        if not hits.any():
            sums[top + 1 : top + 1 + len(hits)] = sums[top]
            continue
        columns = hits.sum(axis=1, dtype="u1")
        blocks = columns[:, ::stride].astype("i4")
        for i in range(1, stride):
            blocks += columns[:, i::stride]
        np.cumsum(blocks, axis=1, out=blocks)
        blocks[0] += sums[top, 1:]
        np.cumsum(blocks, axis=0, out=sums[top + 1 : top + 1 + len(blocks), 1:])
    return sums


def footprint_counts(cover: LandCover, grid: FixedGrid, row: Ints, col: Ints, size: int) -> npt.NDArray[np.int32]:
    """Pixels of each class in square footprints.

    Parameters
    ----------
    cover : LandCover
        The rasters.
    grid : FixedGrid
        The pixels.
    row, col : ndarray of int64, shape (n,)
        North-western pixel of each footprint, which lies in the grid.
    size : int
        Pixels along a side.

    Returns
    -------
    ndarray of int32, shape (n, classes + 2)
        The classes of the rasters in order, then pixels without a class, then pixels off the Earth.
    """
    counts = np.zeros((len(row), len(cover.classes) + 2), "i4")
    for place, sums, stride in _sums_of(cover, grid, row, col, size):
        a, b, s = row // stride, col // stride, size // stride
        counts[:, place] = sums[a + s, b + s] - sums[a, b + s] - sums[a + s, b] + sums[a, b]
    return counts


def _sums_of(
    cover: LandCover, grid: FixedGrid, row: Ints, col: Ints, size: int
) -> Iterator[tuple[int, npt.NDArray[np.int32], int]]:
    """Place, integral image and stride of each code that is there."""
    if not len(row):
        return
    image = class_image(cover, grid)
    present = np.bincount(image.ravel(), minlength=256)
    stride = int(np.gcd.reduce([size, *np.unique(row), *np.unique(col)]))
    stride = next(n for n in (8, 4, 2, 1) if stride % n == 0)
    for place, code in enumerate([*range(len(cover.classes)), NODATA, OFF_EARTH]):
        if present[code]:
            yield place, box_sums(image, code, stride), stride
