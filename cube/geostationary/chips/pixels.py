"""Pixels under tiles by SatVision-Pix4D's rule: every value that is not fill, and of 0.5 km every second one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from catalog.geostationary.scans import SourceFile
from cube.decode import to_radiance
from cube.geostationary.file_index import FileIndex
from cube.geostationary.grid import Window
from cube.geostationary.headers import Headers
from cube.geostationary.layout import TileLayout, TileSpec
from cube.geostationary.read import read_windows
from stratacube.errors import SourceError

__all__ = ["BANDS", "PIXEL", "ChipPixels"]

PIXEL = 28e-6
"""Radians along a side of SatVision-Pix4D's pixels, those of its 10848 x 10848 frame."""
BANDS = 16

Ints = npt.NDArray[np.int64]


class ChipPixels:
    """Cuts chips out of the tiles of a store, and out of its archive where the tiles lack something.

    A tile lacks a row or a column where a chip's corner is odd, and C02 where the store has averages of it.

    Parameters
    ----------
    config
        What the build was told.
    endpoint_url
        S3 endpoint, of an archive on S3.
    """

    def __init__(self, config: Mapping[str, Any], endpoint_url: str | None) -> None:
        self.layout, self.headers = TileLayout.of(dict(config)), Headers(None, endpoint_url)
        averaged = config["grid"] == "1km" and config.get("half_km", "mean") == "mean"
        self.of_archive = {c for c in config["channels"] if averaged and self.layout.band(c).pixel_urad < 28}
        """Channels of which the store has averages."""
        self._index = lru_cache(512)(self.headers.index)

    def cut(
        self, tile: xr.Dataset, spec: TileSpec, files: Sequence[Mapping[int, SourceFile]], shift: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        """Cut one chip.

        Parameters
        ----------
        tile
            Of the store, as counts.
        spec
            Where the tile lies.
        files
            Of each step, by channel.
        shift
            How many rows and columns the chip begins before the tile.

        Returns
        -------
        ndarray
            Radiances (time, 16, y, x); NaN where there is none.

        Raises
        ------
        SourceError
            If the archive does not give what the tile lacks.
        """
        size = self.layout.tile_size
        rows, cols = (np.arange(size) - n for n in shift)
        chip = np.full((len(files), BANDS, size, size), np.nan, "f4")
        for place, channel in enumerate(tile["band"].values.tolist()):
            scale, offset = (tile[n].values[:, place] for n in ("packing_scale", "packing_offset"))
            there = np.flatnonzero(np.isfinite(scale))  # a step that lacks the band has no packing
            if channel not in self.of_archive:
                stored = _stored(tile[f"C{channel:02d}"], scale, offset, size)
                chip[:, channel - 1] = _moved(stored, rows, cols)
            for step in there.tolist():
                image = chip[step, channel - 1]
                for r, c in self._lacking(channel, rows, cols):
                    image[np.ix_(r, c)] = self._read(files[step][channel], spec, channel, rows[r], cols[c])
        return chip

    def _lacking(self, channel: int, rows: Ints, cols: Ints) -> list[tuple[Ints, Ints]]:
        """Rows and columns of a chip, by their numbers in it, that the store does not have."""
        every = np.arange(self.layout.tile_size)
        if channel in self.of_archive:
            return [(every, every)]
        out = [every[(n < 0) | (n >= len(every))] for n in (rows, cols)]
        return [pair for pair in ((out[0], every), (every, out[1])) if all(map(len, pair))]

    def _read(self, file: SourceFile, spec: TileSpec, channel: int, rows: Ints, cols: Ints) -> npt.NDArray[np.float32]:
        """Radiances of pixels of the 1 km grid, counted from the tile's corner, from a file."""
        try:
            index = self._index(file)
            window, _ = self.layout.source_window(spec, index.grid, channel)
            return _radiances(index, window, rows, cols, self.headers.endpoint_url)
        except SourceError as error:
            told = f"C{channel:02d} of {spec.tile_id} is wanted from the archive, for the store lacks pixels of it"
            raise SourceError(f"{told}: {error}") from error


def _radiances(
    index: FileIndex, window: Window, rows: Ints, cols: Ints, endpoint_url: str | None
) -> npt.NDArray[np.float32]:
    """Radiances at rows and columns of the 1 km grid, counted from the corner of a window of the file's own pixels."""
    ratio = PIXEL / abs(index.grid.dx)
    of, sizes = index.rad, (index.grid.height, index.grid.width)
    # Of four pixels of 0.5 km the north-western one; of 2 km the one that holds the pixel.
    native = [first + np.floor(n * ratio + 1e-3).astype("i8") for first, n in ((window.row, rows), (window.col, cols))]
    if any(n.min() < 0 or n.max() >= size for n, size in zip(native, sizes, strict=True)):
        raise SourceError(f"{index.source.href} does not reach so far")
    top, left = (int(n.min()) for n in native)
    box = Window(top, left, int(native[0].max()) - top + 1, int(native[1].max()) - left + 1)
    found = np.empty((box.height, box.width), of.picked_dtype)
    read_windows(index, "rad", [box], [found], endpoint_url)
    counts = found[np.ix_(native[0] - top, native[1] - left)]
    return np.where(counts != of.fill, to_radiance(counts, index.scale, index.offset), np.float32("nan"))


def _stored(
    band: xr.DataArray, scale: npt.NDArray[Any], offset: npt.NDArray[Any], size: int
) -> npt.NDArray[np.float32]:
    """Radiances of a tile's own pixels of 1 km (time, y, x)."""
    counts = band.values
    step = counts.shape[-1] // size
    if step > 1:
        counts = counts[:, ::step, ::step]
    elif step == 0:  # a store that keeps the files' own pixels
        counts = counts.repeat(size // counts.shape[-1], 1).repeat(size // counts.shape[-1], 2)
    there = (counts != band.attrs["_FillValue"]) & np.isfinite(scale)[:, None, None]
    return np.where(there, to_radiance(counts, scale[:, None, None], offset[:, None, None]), np.float32("nan"))


def _moved(image: npt.NDArray[np.float32], rows: Ints, cols: Ints) -> npt.NDArray[np.float32]:
    """Pixels of an image at rows and columns; NaN beyond it."""
    found = np.full_like(image, np.nan)
    r, c = (np.flatnonzero((n >= 0) & (n < len(n))) for n in (rows, cols))
    found[:, r[:, None], c] = image[:, rows[r][:, None], cols[c]]
    return found
