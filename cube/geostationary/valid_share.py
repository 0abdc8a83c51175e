"""How much of a tile is usable in each scan of its time window, told by quality flags before any tile is cut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import Scan, SourceFile
from cube.geostationary.file_index import FileIndex
from cube.geostationary.grid import Window
from cube.geostationary.headers import Headers
from cube.geostationary.layout import TileLayout, TileSpec
from cube.geostationary.read import read_windows
from cube.strata.windows import Frame
from stratacube.errors import SourceError, UnavailableError

__all__ = ["ValidShares"]

_CHUNKS = 2048
"""Chunks that are kept, some 100 MB of flags: those under the steps of the tiles at hand, which share scans."""


class ValidShares:
    """Shares of good pixels under tiles, of one band of each size of pixel.

    Parameters
    ----------
    layout
        Of the tiles; of its bands the first of each native size of pixel is looked at.
    headers
        Where indexes of files come from.
    good_flags
        Quality flags of pixels that are valid.
    """

    def __init__(self, layout: TileLayout, headers: Headers, good_flags: Collection[int]) -> None:
        self._layout, self._headers = layout, headers
        self._good = np.isin(np.arange(256), list(good_flags))
        sizes = {layout.band(c).pixel_urad: c for c in sorted(layout.channels, reverse=True)}
        self.channels = sorted(sizes.values())
        self._chunks: OrderedDict[tuple[str, int, int], npt.NDArray[np.bool_]] = OrderedDict()
        self._indexes: OrderedDict[str, FileIndex] = OrderedDict()

    def added(self, frames: Sequence[Frame], tile: TileSpec) -> list[Frame]:
        """Frames with their share of valid pixels, where it can be told."""
        return [f if f.scan is None else replace(f, valid_fraction=self.of(f.scan, tile)) for f in frames]

    def of(self, scan: Scan, tile: TileSpec) -> float | None:
        """Mean share of the bands that can be read; None where none can: that it is damaged, screening will tell.

        Raises
        ------
        UnavailableError
            If a file could not be read now.
        """
        shares = []
        for channel in self.channels:
            if channel not in scan.files:
                continue
            try:
                index = self._index(scan.files[channel])
                window, _ = self._layout.source_window(tile, index.grid, channel)
                shares.append(self._share(index, window))
            except UnavailableError:
                raise
            except SourceError:
                continue
        return sum(shares) / len(shares) if shares else None

    def _index(self, file: SourceFile) -> FileIndex:
        if file.href not in self._indexes:
            self._indexes[file.href] = self._headers.index(file)
        self._indexes.move_to_end(file.href)
        while len(self._indexes) > _CHUNKS // 16:
            self._indexes.popitem(last=False)
        return self._indexes[file.href]

    def _share(self, index: FileIndex, window: Window) -> float:
        """Share of good pixels of a window, of chunks each of which is decoded once."""
        table, href = index.dqf, index.source.href
        tall, wide = table.chunks
        rows = range(window.row // tall, -(-(window.row + window.height) // tall))
        cols = range(window.col // wide, -(-(window.col + window.width) // wide))
        wanted = [(r, c) for r in rows for c in cols]
        lacking = [(r, c) for r, c in wanted if (href, r, c) not in self._chunks]
        windows = [
            Window(r * tall, c * wide, min(tall, table.shape[0] - r * tall), min(wide, table.shape[1] - c * wide))
            for r, c in lacking
        ]
        flags = [np.empty((w.height, w.width), table.picked_dtype) for w in windows]
        if windows:
            read_windows(index, "dqf", windows, flags, self._headers.endpoint_url)
        for (r, c), found in zip(lacking, flags, strict=True):
            self._chunks[href, r, c] = self._good[found.astype("u1", copy=False)]
        good = 0
        for r, c in wanted:
            self._chunks.move_to_end((href, r, c))
            top, left = window.row - r * tall, window.col - c * wide
            rows_in = slice(max(0, top), max(0, top + window.height))
            cols_in = slice(max(0, left), max(0, left + window.width))
            good += int(np.count_nonzero(self._chunks[href, r, c][rows_in, cols_in]))
        while len(self._chunks) > _CHUNKS:
            self._chunks.popitem(last=False)
        return good / (window.height * window.width)
