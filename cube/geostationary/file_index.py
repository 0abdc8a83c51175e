"""What is known of one file: where its chunks lie, how they are encoded, what its numbers mean."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import SourceFile
from cube.geostationary.grid import FixedGrid

__all__ = ["ChunkTable", "FileIndex"]

_FILTERS = ((), ("deflate",), ("shuffle",), ("shuffle", "deflate"))
_LONGEST = 2**16
"""Pixels along a side of an image or a chunk; the full disk has 22,000."""
_HEADER, _FARTHEST = 2**16, 2**48
"""Bytes that deflate may add to what it cannot make smaller, and bytes of the largest file there can be."""
_NOT_TOLD = np.datetime64("NaT", "ns")


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
    bits: int = 0
    """How many bits of a decoded value are the dataset's own, where others are another's; 0 for all."""
    lowest: int = 0
    """The lowest of them."""

    @property
    def encoding(self) -> tuple[Any, ...]:
        """Everything about the encoding that must agree before two tables are joined."""
        own = (self.bits, self.lowest) if self.bits else ()
        return self.shape, self.chunks, self.dtype, self.filters, self.fill, *own

    def refuse_impossible(self) -> None:
        """Refuse what no file has, before memory is taken by it.

        Raises
        ------
        ValueError
            If the encoding is not one that is read, or a chunk lies before the beginning of its file, or is larger than
            deflate can make it.
        """
        if np.dtype(self.dtype).kind not in "iu" or self.filters not in _FILTERS:
            raise ValueError(f"chunks of {self.dtype} with the filters {', '.join(self.filters)} are not read")
        sides = (*self.shape, *self.chunks)
        if len(self.shape) != 2 or not all(isinstance(n, int | np.integer) and 1 <= n <= _LONGEST for n in sides):
            raise ValueError(f"an image of {self.shape} in chunks of {self.chunks} is not read")
        if (
            not all(isinstance(n, int | np.integer) for n in (self.fill, self.bits, self.lowest))
            or self.bits < 0
            or self.lowest < 0
        ):
            raise ValueError(f"{self.fill!r} for fill, in {self.bits!r} bits from {self.lowest!r}, is not read")
        if self.sizes.size:
            across = tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
            if not across == self.offsets.shape == self.sizes.shape or {
                self.offsets.dtype.kind,
                self.sizes.dtype.kind,
            } != {"i"}:
                raise ValueError(f"its table of chunks is {self.sizes.shape} of {self.sizes.dtype}, the image {across}")
            most = 2 * math.prod(self.chunks) * np.dtype(self.dtype).itemsize + _HEADER
            size, first, last = int(self.sizes.max()), int(self.offsets.min()), int(self.offsets.max())
            if int(self.sizes.min()) < 0 or size > most:
                raise ValueError(f"a chunk has {min(size, int(self.sizes.min()))} to {size} bytes; {most} are possible")
            if first < 0 or last > _FARTHEST:
                raise ValueError(f"chunks lie from byte {first} to {last}")

    @property
    def picked_dtype(self) -> np.dtype[Any]:
        """Of what is picked out of decoded values, in the machine's byte order."""
        whole = np.dtype(self.dtype).newbyteorder("=")
        return np.dtype("u1") if 0 < self.bits <= 8 else whole

    def pick(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Own bits of decoded values."""
        if not self.bits:
            return values
        found: npt.NDArray[Any] = (values >> self.lowest) & ((1 << self.bits) - 1)
        return found.astype(self.picked_dtype)


@dataclass(frozen=True, eq=False)
class FileIndex:
    """All that is needed to read and decode any pixel of one file."""

    source: SourceFile
    grid: FixedGrid
    rad: ChunkTable
    """Of the counts."""
    dqf: ChunkTable
    """Of the quality flags."""
    scale: float
    """Radiance per count (the file's float32)."""
    offset: float
    """Radiance of count 0 (the file's float32)."""
    units: str
    coefficients: Mapping[str, float]
    """Numbers that the instrument's laws take, by name; NaN where the file defines none."""
    mid_time: np.datetime64
    """The middle of the scan, ns, UTC."""
    wavelength: float
    """Central wavelength in micrometres."""
    valid_fraction: float
    """Share of good and conditionally usable pixels, by the file's own count (NaN if it has none)."""
    begin_time: np.datetime64 = _NOT_TOLD
    """When the scan began, ns, UTC, where the file tells it better than its name; else not a time."""

    @property
    def start(self) -> np.datetime64:
        """When the scan began, ns, UTC."""
        return np.datetime64(self.source.start, "ns") if np.isnat(self.begin_time) else self.begin_time

    @property
    def is_one_dataset(self) -> bool:
        """Whether the quality flags are bits of the counts' dataset."""
        return self.dqf.bits > 0

    @cached_property
    def signature(self) -> str:
        """Short digest of the encoding: files may share one virtual array only if theirs are equal.

        It covers dtype, shape, chunks, filters, fill, scale, offset, units and pixel grid, of counts and flags.
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
