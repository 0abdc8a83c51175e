"""Squares of cells over an open acquisition: where they lie in its tile, what is valid of it, and the pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.sentinel2.items import Product
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.resample import Method, Resamplers, SourceGrid, SourceMap, margin, source_map
from cube.sentinel2.source import MaskRule, ProductSource
from stratacube.errors import SourceError

__all__ = [
    "Piece",
    "ProductError",
    "attributed_to",
    "band_reads",
    "folder_of",
    "mask_pieces",
    "open_piece",
    "open_sources",
    "piece_values",
    "with_last_uses",
]


class ProductError(Exception):
    """A product that cannot be used."""

    def __init__(self, product: Product, reason: str) -> None:
        super().__init__(reason)
        self.product = product
        self.href = folder_of(product)


def folder_of(product: Product) -> str:
    """Where the files of a product lie; its name where it has none."""
    return str(Path(next(iter(product.assets.values())).href).parent) if product.assets else product.id


@dataclass(frozen=True)
class _Mask:
    """Valid pixels of a window of a raster. Kept packed, for those of a whole tile are held at once."""

    window: Window
    bits: npt.NDArray[np.uint8]
    box: Window
    """The smallest window that holds all that is valid."""

    @classmethod
    def of(cls, window: Window, valid: npt.NDArray[np.bool_]) -> _Mask:
        rows, cols = (np.flatnonzero(valid.any(axis=axis)) for axis in (1, 0))
        box = Window(window.row, window.col, 0, 0)
        if rows.size:
            height, width = int(rows[-1] - rows[0]) + 1, int(cols[-1] - cols[0]) + 1
            box = Window(window.row + int(rows[0]), window.col + int(cols[0]), height, width)
        return cls(window, np.packbits(valid), box)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Shape of the window."""
        height, width = self.window.height, self.window.width
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).view(bool)


@dataclass
class Piece:
    """A square of a cell and the source pixels under it, by grid."""

    cell: str
    window: Window
    maps: dict[SourceGrid, SourceMap] = field(default_factory=dict)
    sources: dict[SourceGrid, Window] = field(default_factory=dict)
    masks: dict[SourceGrid, list[_Mask]] = field(default_factory=dict)
    """Of each product."""


def open_sources(
    products: Sequence[Product],
    keys: Mapping[str, str],
    rule: MaskRule,
    decoded: Decoded,
    opened: ExitStack,
    *,
    remote: bool = False,
) -> list[ProductSource]:
    """Open the products of an acquisition, until ``opened`` closes them.

    Raises
    ------
    ProductError
        If one cannot be read, or is not on the grid of the first.
    """
    sources: list[ProductSource] = []
    for product in products:
        with attributed_to(product):
            source = opened.enter_context(ProductSource(product, keys, rule, decoded, remote=remote))
            if sources and source.grids() != sources[0].grids():
                raise SourceError(f"{product.id} is not on the grid of {sources[0].product.id}, of the same tile")
            sources.append(source)
    return sources


def open_piece(
    cell: str, window: Window, lattice: Lattice, grids: Iterable[SourceGrid], method: Method
) -> Piece | None:
    """Return a square of a cell with the source pixels under it; None where it misses the tile."""
    piece = Piece(cell, window)
    for grid in grids:
        mapped = source_map(lattice, window, grid)
        reach = max(margin(method, s) for s in mapped.stretch())
        piece.maps[grid], piece.sources[grid] = mapped, mapped.source_window(grid, reach)
    return piece if all(w.height and w.width for w in piece.sources.values()) else None


def piece_values(
    piece: Piece,
    sources: Sequence[ProductSource],
    bands: Sequence[str],
    method: Method,
    kept: Resamplers | None = None,
) -> npt.NDArray[np.float32] | None:
    """Return the bands of a masked piece on the lattice, shape (bands, rows, cols); None where nothing is valid.

    Parameters
    ----------
    piece
        Masked.
    sources
        The products, open.
    bands
        Of them.
    method
        Kernel.
    kept
        Weights that were made before.
    """
    kept = kept or Resamplers()
    out = np.empty((len(bands), piece.window.height, piece.window.width), "f4")
    filled, known = set(), False
    for grid, packed in piece.masks.items():
        window = piece.sources[grid]
        masks = [mask.valid for mask in packed]
        if not any(m.any() for m in masks):
            continue
        weights = kept.get(piece.maps[grid], grid, window, method)
        prepared, bound = None, None
        for index, band in enumerate(bands):
            if sources[0].bands[band].grid != grid:
                continue
            values, there = _fuse(band, window, sources, masks)
            if not there.any():
                continue
            if bound is None or prepared is None or not np.array_equal(bound, there):
                prepared, bound = weights.prepare(there), there
            prepared.apply(values, out[index])
            known |= bool(prepared.known.any())
            filled.add(index)
    out[[i for i in range(len(out)) if i not in filled]] = np.nan
    return out if known else None


def mask_pieces(pieces: Sequence[Piece], sources: Sequence[ProductSource]) -> None:
    """Read the scene classes under all pieces: they tell what has to be decoded of the bands."""
    for piece, ended in with_last_uses(pieces, lambda piece: _classes(piece, sources)):
        for grid, window in piece.sources.items():
            piece.masks[grid] = []
            for source in sources:
                with attributed_to(source.product):
                    piece.masks[grid].append(_Mask.of(window, source.valid(window, grid)))
        for reader, blocks in ended:
            reader.forget(blocks)


def _fuse(
    band: str, window: Window, sources: Sequence[ProductSource], masks: Sequence[npt.NDArray[np.bool_]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Merge the halves of a tile on its own grid: the first product that is valid counts."""
    with attributed_to(sources[0].product):
        values, there = sources[0].values(band, window, masks[0])
    for source, mask in zip(sources[1:], masks[1:], strict=True):
        wanted = mask & ~there
        if wanted.any():
            with attributed_to(source.product):
                more, found = source.values(band, window, wanted)
            values[found] = more[found]
            there = there | found
    return values, there


class attributed_to:
    """Tie an unreadable source to its product."""

    def __init__(self, product: Product) -> None:
        self.product = product

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, value: BaseException | None, trace: Any) -> None:
        if isinstance(value, SourceError):
            raise ProductError(self.product, str(value)) from value


_Blocks = list[tuple[BlockReader, list[tuple[int, int]]]]


def with_last_uses(
    pieces: Sequence[Piece], reads: Callable[[Piece], Iterator[tuple[BlockReader, Window]]]
) -> Iterator[tuple[Piece, _Blocks]]:
    """Pieces in turn, each with the blocks that none after it needs; the readers know all that will be read before."""
    last: dict[tuple[BlockReader, tuple[int, int]], int] = {}
    for number, piece in enumerate(pieces):
        for reader, window in reads(piece):
            reader.expect(window)
            last.update(((reader, block), number) for block in reader.blocks(window))
    ends: list[dict[BlockReader, list[tuple[int, int]]]] = [{} for _ in pieces]
    for (reader, block), number in last.items():
        ends[number].setdefault(reader, []).append(block)
    for piece, ended in zip(pieces, ends, strict=True):
        yield piece, list(ended.items())


def _classes(piece: Piece, sources: Sequence[ProductSource]) -> Iterator[tuple[BlockReader, Window]]:
    for source in sources:
        for grid, window in piece.sources.items():
            yield source.classes, source.class_window(window, grid)


def band_reads(piece: Piece, sources: Sequence[ProductSource]) -> Iterator[tuple[BlockReader, Window]]:
    """Yield what a masked piece needs of each band: the smallest window that holds all that is valid."""
    for number, source in enumerate(sources):
        for reader in source.bands.values():
            yield reader, piece.masks[reader.grid][number].box
