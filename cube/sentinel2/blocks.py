"""Rasters read by their own blocks, each decoded once and kept only as long as some cell still needs it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from catalog.sentinel2.items import Asset
from cube.sentinel2.jpeg2000 import can_decode_areas, decode_area
from cube.sentinel2.lattice import Window, union
from cube.sentinel2.resample import SourceGrid
from stratacube.errors import SourceError

__all__ = ["BlockReader", "Decoded", "gdal_reason"]

_LEAST_SIDE = 64
"""Blocks thinner than this (rows of a plain TIFF) are read several at a time."""


@dataclass
class Decoded:
    """What was decoded."""

    blocks: int = 0
    pixels: int = 0
    skipped: int = 0
    """Blocks under a cell that were not decoded, for the scene classes leave nothing valid in them."""
    seen: set[tuple[str, int, int]] = field(default_factory=set, repr=False)


class BlockReader:
    """One raster file.

    Parameters
    ----------
    asset
        A file on disk.
    decoded
        Counter to add to.

    Raises
    ------
    SourceError
        If the file is absent, of another size than listed, or no raster.
    """

    def __init__(self, asset: Asset, decoded: Decoded) -> None:
        self.href, self.decoded = asset.href, decoded
        self._path = path = Path(asset.href.removeprefix("file://"))
        try:
            size = path.stat().st_size
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror})") from error
        if asset.size is not None and size != asset.size:
            raise SourceError(
                f"{path} has {size} bytes but {asset.size} are listed; remove it and run again to fetch it"
            )
        try:
            with warnings.catch_warnings():
                # an image without a place is refused below, in our words
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._file = rasterio.open(path)
        except (RasterioError, OSError) as error:
            raise SourceError(f"{path} cannot be opened ({gdal_reason(error)})") from error
        transform, crs = self._file.transform, self._file.crs
        if self._file.count != 1 or crs is None or transform.b or transform.d:
            raise SourceError(f"{path} is not a georeferenced image of one band")
        code = ":".join(crs.to_authority() or ("", "")) if crs.to_authority() else crs.to_wkt()
        self.grid = SourceGrid(code, tuple(transform)[:6], self._file.height, self._file.width)
        rows, cols = self._file.block_shapes[0]
        self.block = rows * -(-_LEAST_SIDE // rows), cols * -(-_LEAST_SIDE // cols)
        plain = self._file.driver == "JP2OpenJPEG" and self._file.colorinterp[0] != ColorInterp.palette
        self._by_area = plain and can_decode_areas(path)
        self._areas: dict[tuple[int, int], Window] = {}
        self._kept: dict[tuple[int, int], npt.NDArray[Any]] = {}

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let go of its blocks."""
        self._kept.clear()
        self._file.close()

    def blocks(self, window: Window) -> list[tuple[int, int]]:
        """Return the blocks under a window."""
        if not (window.height and window.width):
            return []
        (rows, cols) = self.block
        return [
            (i, j)
            for i in range(window.row // rows, (window.end_row - 1) // rows + 1)
            for j in range(window.col // cols, (window.end_col - 1) // cols + 1)
        ]

    def place(self, block: tuple[int, int]) -> Window:
        """Return the pixels of a block."""
        (rows, cols), (i, j) = self.block, block
        whole = Window(0, 0, self.grid.height, self.grid.width)
        return Window(i * rows, j * cols, rows, cols).intersect(whole)

    def expect(self, window: Window) -> None:
        """Say that a window will be read; once said of any, only what was said of a block is decoded of it."""
        for block in self.blocks(window):
            part = self.place(block).intersect(window)
            self._areas[block] = union([part, self._areas.get(block, part)])

    def read(self, window: Window, needed: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[Any]:
        """Read a window; blocks that hold no needed pixel of it stay 0 and are not decoded.

        Parameters
        ----------
        window
            Pixels to read, within the raster.
        needed
            Mask of the window; all pixels by default.

        Raises
        ------
        SourceError
            If a block cannot be decoded.
        """
        out = np.zeros((window.height, window.width), self._file.dtypes[0])
        for block in self.blocks(window):
            part = self._area(block).intersect(window)
            there = part.within(window)
            if needed is not None and not needed[there].any():
                self.decoded.skipped += block not in self._kept
                continue
            out[there] = self._decode(block)[part.within(self._area(block))]
        return out

    def _area(self, block: tuple[int, int]) -> Window:
        """Pixels of a block to decode."""
        return self._areas.get(block, self.place(block)) if self._by_area else self.place(block)

    def _decode(self, block: tuple[int, int]) -> npt.NDArray[Any]:
        if block not in self._kept:
            area = self._area(block)
            try:
                self._kept[block] = self._pixels(area)
            except (RasterioError, OSError, SourceError) as error:
                raise SourceError(f"{self.href} cannot be decoded at block {block} ({gdal_reason(error)})") from error
            self.decoded.blocks += 1
            self.decoded.pixels += area.height * area.width
            self.decoded.seen.add((self.href, *block))
        return self._kept[block]

    def _pixels(self, area: Window) -> npt.NDArray[Any]:
        if self._by_area:
            return decode_area(self._path, area, self._file.dtypes[0])
        pixels: npt.NDArray[Any] = self._file.read(1, window=RasterWindow(area.col, area.row, area.width, area.height))
        return pixels

    def forget(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Let go of blocks."""
        for block in blocks:
            self._kept.pop(block, None)


def gdal_reason(error: BaseException) -> str:
    """Return GDAL's own words; rasterio keeps them as the cause."""
    return " ".join(str(error.__cause__ or error).split())[:200]
