"""What is known of one ABI file: where its chunks lie, how they are encoded, what its numbers mean."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import SourceFile
from cube.geostationary.grid import FixedGrid

__all__ = ["ChunkTable", "Coefficients", "FileIndex"]


@dataclass(frozen=True, eq=False)
class ChunkTable:
    """Where the chunks of one 2-D dataset lie in its file, and how they are encoded."""

    shape: tuple[int, int]
    chunks: tuple[int, int]
    dtype: str
    """NumPy dtype of the decoded bytes, unsigned where the file says ``_Unsigned``."""
    filters: tuple[str, ...]
    """In the order they were applied when writing, e.g. ``("shuffle", "deflate")``."""
    fill: int
    offsets: npt.NDArray[np.int64]
    """Byte offsets, one per chunk of the chunk grid, row by row."""
    sizes: npt.NDArray[np.int64]
    """Byte sizes; 0 for a chunk that was never written and holds the fill value."""

    @property
    def encoding(self) -> tuple[Any, ...]:
        """Everything about the encoding that must agree before two tables are joined."""
        return self.shape, self.chunks, self.dtype, self.filters, self.fill


@dataclass(frozen=True)
class Coefficients:
    """Calibration coefficients of one file; NaN where the file defines none."""

    kappa0: float
    """Reflectance factor of unit radiance: pi d^2 / Esun, or the file's own ``kappa0`` where it lacks those.

    Files write ``kappa0`` rounded to five digits, up to 3e-5 from the quotient of their own Esun and distance.
    """
    planck_fk1: float
    planck_fk2: float
    planck_bc1: float
    planck_bc2: float


@dataclass(frozen=True, eq=False)
class FileIndex:
    """All that is needed to read and decode any pixel of one ABI L1b file."""

    source: SourceFile
    grid: FixedGrid
    rad: ChunkTable
    dqf: ChunkTable
    scale: float
    """Radiance per count (the file's float32)."""
    offset: float
    """Radiance of count 0 (the file's float32)."""
    units: str
    coefficients: Coefficients
    mid_time: np.datetime64
    """The file's ``t``: the middle of the scan, ns, UTC."""
    wavelength: float
    """Central wavelength in micrometres."""
    valid_fraction: float
    """Share of good and conditionally usable pixels, by the file's own count (NaN if it has none)."""

    @cached_property
    def signature(self) -> str:
        """Short digest of the encoding: files may share one virtual array only if theirs are equal.

        It covers dtype, shape, chunks, filters, fill, scale, offset, units and pixel grid, of ``Rad`` and ``DQF``.
        """
        return hashlib.sha256(json.dumps(self.describe_encoding(), sort_keys=True).encode()).hexdigest()[:12]

    def without_chunks(self) -> FileIndex:
        """Return the same without the chunk tables, which are most of it."""
        nothing = np.zeros((0, 0), "i8")
        return replace(
            self,
            rad=replace(self.rad, offsets=nothing, sizes=nothing),
            dqf=replace(self.dqf, offsets=nothing, sizes=nothing),
        )

    def describe_encoding(self) -> dict[str, Any]:
        """Return what the signature is made of, for error messages and stores."""
        grid = self.grid
        return {
            "channel": self.source.channel,
            "rad": self.rad.encoding,
            "dqf": self.dqf.encoding,
            "scale_factor": self.scale,
            "add_offset": self.offset,
            "units": self.units,
            # A hundredth of a pixel: the same grid is written with different rounding by different writers.
            "origin": [round(grid.x0 / grid.dx, 2), round(grid.y0 / grid.dy, 2)],
            "pixel": round(grid.dx * 1e6, 3),
            "projection": asdict(grid.projection),
        }
