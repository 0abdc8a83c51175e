"""Which source pixels count: scene classes, dilation, and the class map matched to a band's grid by geotransform."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cube.sentinel2.lattice import Window
from cube.sentinel2.resample import SourceGrid
from cube.sentinel2.vocabulary import MASK_CLASSES

__all__ = ["MASK_CLASSES", "class_mask", "class_window", "on_band_grid"]


def class_mask(scl: npt.NDArray[np.uint8], masked: Iterable[int], dilation: int = 0) -> npt.NDArray[np.bool_]:
    """Return where a scene classification leaves a pixel valid.

    Parameters
    ----------
    scl
        Scene classes; values above 11 are no class and never valid.
    masked
        Classes to mask; class 0 (no data) always is.
    dilation
        Pixels by which masked areas grow, in all directions; the edge of the data does not.
    """
    table = np.zeros(256, bool)
    table[1:12] = True
    table[[c for c in masked if 0 <= c < 256]] = False
    valid = table[scl]
    if dilation > 0:
        y, x = np.ogrid[-dilation : dilation + 1, -dilation : dilation + 1]
        disc = x * x + y * y <= dilation * dilation
        grown = ndimage.binary_dilation(~valid & (scl != 0), structure=disc)
        valid &= ~grown
    return valid


def class_window(window: Window, band: SourceGrid, classes: SourceGrid, reach: int) -> Window:
    """Return the window of the class map under a window of a band, with what dilation can reach from."""
    rows, cols = _edges(window, band, classes)
    top, left = int(np.floor(rows[0] + 1e-6)) - reach, int(np.floor(cols[0] + 1e-6)) - reach
    bottom, right = int(np.ceil(rows[-1] - 1e-6)) + reach, int(np.ceil(cols[-1] - 1e-6)) + reach
    whole = Window(0, 0, classes.height, classes.width)
    return Window(top, left, bottom - top, right - left).intersect(whole)


def on_band_grid(
    valid: npt.NDArray[np.bool_], at: Window, window: Window, band: SourceGrid, classes: SourceGrid
) -> npt.NDArray[np.bool_]:
    """Return the mask on a window of a band's grid.

    A band pixel smaller than a class pixel takes the class it lies in; a larger one is valid where all that it
    covers is. Outside of the class map nothing is valid.

    Parameters
    ----------
    valid
        Mask on window ``at`` of the class map.
    """
    rows, cols = _edges(window, band, classes)
    for axis, (edges, offset) in enumerate(((rows, at.row), (cols, at.col))):
        # Grids of one tile share their corner: edges are whole class pixels up to rounding.
        first = np.floor(edges[:-1] + 1e-6).astype("i8") - offset
        last = np.ceil(edges[1:] - 1e-6).astype("i8") - offset
        valid = _all_between(valid, first, last, axis)
    return valid


def _edges(
    window: Window, band: SourceGrid, classes: SourceGrid
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]:
    """Pixel edges of a band's window in pixels of the class map."""
    a, _, c, _, e, f = band.transform
    ca, _, cc, _, ce, cf = classes.transform
    rows = (f + e * np.arange(window.row, window.end_row + 1) - cf) / ce
    cols = (c + a * np.arange(window.col, window.end_col + 1) - cc) / ca
    return rows, cols


def _all_between(
    valid: npt.NDArray[np.bool_], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64], axis: int
) -> npt.NDArray[np.bool_]:
    size = valid.shape[axis]
    result = np.ones([len(first) if a == axis else n for a, n in enumerate(valid.shape)], bool)
    for step in range(int((last - first).max(initial=1))):
        index = np.minimum(first + step, last - 1)
        inside = (index >= 0) & (index < size)
        taken = np.take(valid, np.clip(index, 0, max(0, size - 1)), axis=axis) if size else np.zeros_like(result)
        result &= taken & np.expand_dims(inside, 1 - axis)
    return result
