"""Rasters read by their own blocks, each decoded once and kept only as long as some cell still needs it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError

from catalog.sentinel2.items import Asset
from catalog.sentinel2.places import is_remote
from cube.sentinel2.lattice import Window, union
from cube.sentinel2.rasters import gdal_reason, open_raster
from stratacube.addresses import plain_url
from stratacube.errors import SourceError

__all__ = ["BlockReader", "Decoded"]


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
    remote
        Whether it may also lie elsewhere, and be read by ranges.

    Raises
    ------
    SourceError
        If the file is absent, of another size than listed, or no raster.
    """

    def __init__(self, asset: Asset, decoded: Decoded, *, remote: bool = False) -> None:
        self.href, self.decoded = plain_url(asset.href) if is_remote(asset.href) else asset.href, decoded
        self._raster = open_raster(asset, remote=remote)
        self.grid, self.block = self._raster.grid, self._raster.block
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
        self._raster.close()

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
        out = np.zeros((window.height, window.width), self._raster.dtype)
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
        return self._areas.get(block, self.place(block)) if self._raster.by_area else self.place(block)

    def _decode(self, block: tuple[int, int]) -> npt.NDArray[Any]:
        if block not in self._kept:
            area = self._area(block)
            try:
                self._kept[block] = self._raster.decode(area)
            except (RasterioError, OSError, SourceError) as error:
                raise SourceError(f"{self.href} cannot be decoded at block {block} ({gdal_reason(error)})") from error
            self.decoded.blocks += 1
            self.decoded.pixels += area.height * area.width
            self.decoded.seen.add((self.href, *block))
        return self._kept[block]

    def forget(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Let go of blocks."""
        for block in blocks:
            self._kept.pop(block, None)
