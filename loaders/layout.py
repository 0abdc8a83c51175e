"""How windows lie on a cube, and on its chunks in storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xbatcher import BatchSchema  # type: ignore[import-untyped]

from cube.mosaic import CELLS
from stratacube.errors import UsageError

__all__ = ["cells_of", "holding", "stored_chunks", "touched", "window_starts", "windows_of_cells"]

Indices = npt.NDArray[np.int64]


def stored_chunks(image: xr.Variable, dims: Sequence[str]) -> Indices | None:
    """Sides of the chunks of an image in storage; None where they are not known, or Dask looks after them."""
    stored = image.encoding.get("chunks")
    if stored is None or len(stored) != image.ndim or image.chunks:
        return None
    return np.array([dict(zip(image.dims, stored, strict=True))[d] for d in dims])


def touched(lows: Indices, highs: Indices, chunks: Indices) -> Indices:
    """Count the stored chunks that boxes touch."""
    counts: Indices = ((highs - 1) // chunks - lows // chunks + 1).prod(axis=-1)
    return counts


def window_starts(dim: str, length: int, size: int, overlap: int, *, edges: bool = False) -> Indices:
    """First indices of xbatcher's windows along one dimension; with edges of one more that ends where it does."""
    if not 0 <= overlap < size:
        raise UsageError(f"overlap {overlap} along {dim} is not less than the window's {size}")
    axis = xr.Dataset(coords={dim: np.arange(length)})
    schema = BatchSchema(axis, input_dims={dim: size}, input_overlap={dim: overlap} if overlap else None)
    starts = np.array([window[dim].start for window in schema.selectors[0]])
    return np.append(starts, length - size) if edges and starts[-1] < length - size else starts


def cells_of(cube: xr.Dataset | xr.DataArray, dims: Sequence[Any]) -> Indices | None:
    """Pixels of a cube that its cells hold: first row and column, and those after the last, shape (cells, 4).

    None where all pixels are alike: the cube is no mosaic of cells, or what says where they lie was left behind.
    """
    if CELLS not in cube.coords or not all(d in cube.coords and cube.sizes[d] > 1 for d in dims[-2:]):
        return None
    edges = np.asarray(cube[CELLS].values)
    found = []
    for dim, low, high in zip(dims[-2:], edges[:, [1, 0]].T, edges[:, [3, 2]].T, strict=True):
        at = cube[dim].values
        step = at[1] - at[0]
        ends = np.stack([(low - at[0]) / step, (high - at[0]) / step]) + 0.5
        found.append(np.clip(np.rint(np.sort(ends, axis=0)), 0, len(at)))
    return np.stack([found[0][0], found[1][0], found[0][1], found[1][1]], axis=1).astype("i8")


def holding(cells: Indices, rows: tuple[Indices, int], cols: tuple[Indices, int]) -> npt.NDArray[np.bool_]:
    """Which windows hold a pixel of a cell.

    Parameters
    ----------
    cells
        Of :func:`cells_of`.
    rows, cols
        First indices of the windows along each dimension, ascending, and their size.

    Returns
    -------
    numpy.ndarray
        Shape (windows down, windows across).
    """
    held = np.zeros((len(rows[0]), len(cols[0])), bool)
    for top, left, bottom, right in cells:
        if bottom > top and right > left:
            down, across = (
                slice(np.searchsorted(starts, low - size, "right"), np.searchsorted(starts, high, "left"))
                for (starts, size), low, high in ((rows, top, bottom), (cols, left, right))
            )
            held[down, across] = True
    return held


def windows_of_cells(
    cube: xr.Dataset | xr.DataArray, dims: Sequence[Any], starts: Sequence[Indices], sizes: Indices
) -> Indices | None:
    """Numbers of the windows that hold some of a cell, where the cells of a mosaic lie apart; None if all do.

    Parameters
    ----------
    cube
        A mosaic (:func:`cube.mosaic.open_cells`), or any other cube.
    dims
        Of its bands; the last two are the image.
    starts
        First indices of the windows along each dimension.
    sizes
        Of windows along each dimension.
    """
    cells = cells_of(cube, dims)
    if cells is None:
        return None
    held = holding(cells, (starts[-2], int(sizes[-2])), (starts[-1], int(sizes[-1])))
    counts = [len(s) for s in starts[:-2]]
    return None if held.all() else np.flatnonzero(np.broadcast_to(held, (*counts, *held.shape)))
