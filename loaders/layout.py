"""How windows lie on a cube, and on its chunks in storage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr
from xbatcher import BatchSchema  # type: ignore[import-untyped]

from stratacube.errors import UsageError

__all__ = ["stored_chunks", "touched", "window_starts"]

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


def window_starts(dim: str, length: int, size: int, overlap: int) -> Indices:
    """First indices of xbatcher's windows along one dimension."""
    if not 0 <= overlap < size:
        raise UsageError(f"overlap {overlap} along {dim} is not less than the window's {size}")
    axis = xr.Dataset(coords={dim: np.arange(length)})
    schema = BatchSchema(axis, input_dims={dim: size}, input_overlap={dim: overlap} if overlap else None)
    return np.array([window[dim].start for window in schema.selectors[0]])
