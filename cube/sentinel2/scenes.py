"""The first half of a build, one task an acquisition: decode, mask, harmonise, resample to the lattice.

An acquisition is what one datatake saw of one tile: one product, or the halves of a tile cut by two datastrips. Its
result is a folder of pieces, float32 arrays of shape (bands, rows, cols) over squares of the lattice, one per cell and
square where anything is valid. The folder takes its name only when it is whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from catalog.sentinel2.items import Product
from cube.sentinel2.acquisitions import Acquisition
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.digests import Check, verify
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.resample import Method, Resampler, SourceGrid, SourceMap, margin, source_map
from cube.sentinel2.sampling import CellSamples
from cube.sentinel2.source import MaskRule, ProductSource
from stratacube.errors import SourceError
from stratacube.files import whole_folder

__all__ = [
    "PIECE",
    "SceneResult",
    "SceneTask",
    "folder_of",
    "piece_path",
    "process_scene",
]

SCENE = "scene.json"
"""In the folder of an acquisition: what came of it."""

PIECE = 768
"""Side of a piece in lattice pixels, a multiple of the resampler's nodes: what a worker holds at once."""

GDAL_OPTIONS = {"GDAL_CACHEMAX": 32, "GDAL_NUM_THREADS": "1", "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
"""Blocks are kept by us, for as long as a cell needs them, so GDAL's own cache can be small."""


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """One acquisition and the cells it reaches."""

    acquisition: Acquisition
    cells: tuple[tuple[str, Window], ...]
    lattice: Lattice
    bands: tuple[tuple[str, str], ...]
    """Band and its asset key."""
    method: Method
    masked: tuple[int, ...]
    dilation: int
    folder: Path
    """Where the folders of all acquisitions lie."""
    checks: tuple[Check, ...] = ()
    """Files to hold against their digests before anything is read of their products."""

    @property
    def key(self) -> str:
        """Unique name of the task within a run."""
        return f"scene {self.acquisition.key}"

    @property
    def result(self) -> Path:
        """Folder of the result."""
        return self.folder / self.acquisition.key


@dataclass(frozen=True)
class SceneResult:
    """What came of an acquisition; kept beside its pieces."""

    cells: tuple[str, ...]
    bands: tuple[str, ...]
    products: tuple[str, ...]
    """Products that were read."""
    pieces: tuple[tuple[str, int, int, int], ...]
    """Cell, first row, first column and bytes of each piece that was written: a file that is not there is a loss, and
    only where none is listed was nothing seen."""
    dropped: tuple[tuple[str, str, str], ...] = ()
    """Product, its file or folder, and why it was dropped."""
    remarks: tuple[tuple[str, str], ...] = ()
    """Product, and what is odd about it."""
    verified: tuple[tuple[str, str], ...] = ()
    """File, and what it was when its digest was the one listed."""
    blocks: int = 0
    skipped: int = 0
    pixels: int = 0
    seconds: float = 0.0

    @classmethod
    def load(cls, folder: Path) -> SceneResult | None:
        """Read the result in a folder, None where there is no whole one."""
        try:
            kept = json.loads((folder / SCENE).read_text())
            kept = {
                k: tuple(tuple(i) if isinstance(i, list) else i for i in v) if isinstance(v, list) else v
                for k, v in kept.items()
            }
            return cls(**kept)
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def is_whole(self, folder: Path) -> bool:
        """Whether every piece lies in the folder as it was written."""
        try:
            return all((folder / c / _piece_name(r, k)).stat().st_size == n for c, r, k, n in self.pieces)
        except OSError:
            return False


def piece_path(folder: Path, cell: str, piece: Window) -> Path:
    """Return the file of a piece in an acquisition's folder."""
    return folder / cell / _piece_name(piece.row, piece.col)


def _piece_name(row: int, col: int) -> str:
    return f"{row}_{col}.npy"


def process_scene(task: SceneTask) -> SceneResult:
    """Process an acquisition; an unreadable product is dropped whole, so that all bands see the same scenes."""
    begun = time.monotonic()
    there = SceneResult.load(task.result)
    wanted = {p.id for p in task.acquisition.products}
    reached = there is not None and {*there.cells} >= {c for c, _ in task.cells} and {*there.products} == wanted
    if there is not None and reached and there.is_whole(task.result):
        return there  # a scene that lacks a product is made anew: the file may have been mended
    with whole_folder(task.result, digests=False) as part:
        return _make(task, part, begun)


def _make(task: SceneTask, part: Path, begun: float) -> SceneResult:
    """Fill the folder of an acquisition."""
    good, spoilt = verify(task.checks)
    dropped = [(p.id, *spoilt[p.id]) for p in task.acquisition.products if p.id in spoilt]
    products = [p for p in task.acquisition.products if p.id not in spoilt]
    decoded, pieces, remarks = Decoded(), list[tuple[str, int, int, int]](), list[tuple[str, str]]()
    while True:
        for left in part.iterdir():  # of a try before
            shutil.rmtree(left)
        decoded, pieces, remarks = Decoded(), [], []
        try:
            if products:
                with rasterio.Env(**GDAL_OPTIONS):
                    pieces = list(_Scene(task, products, decoded, remarks).write(part))
            break
        except _ProductError as error:
            products.remove(error.product)
            dropped.append((error.product.id, error.href, str(error)))
    result = SceneResult(
        cells=tuple(c for c, _ in task.cells),
        bands=tuple(b for b, _ in task.bands),
        products=tuple(p.id for p in products),
        dropped=tuple(dropped),
        remarks=tuple(remarks),
        verified=tuple(good.items()),
        blocks=decoded.blocks,
        skipped=decoded.skipped,
        pixels=decoded.pixels,
        seconds=time.monotonic() - begun,
        pieces=tuple(pieces),
    )
    (part / SCENE).write_text(json.dumps(asdict(result)))
    return result


class _ProductError(Exception):
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
class _Piece:
    """A square of a cell and the source pixels under it, by grid."""

    cell: str
    window: Window
    maps: dict[SourceGrid, SourceMap] = field(default_factory=dict)
    sources: dict[SourceGrid, Window] = field(default_factory=dict)
    masks: dict[SourceGrid, list[_Mask]] = field(default_factory=dict)
    """Of each product."""


class _Scene:
    """All products of an acquisition, open."""

    def __init__(
        self, task: SceneTask, products: Sequence[Product], decoded: Decoded, remarks: list[tuple[str, str]]
    ) -> None:
        self.task, self.products, self.decoded, self.remarks = task, products, decoded, remarks

    def write(self, folder: Path) -> Iterator[tuple[str, int, int, int]]:
        """Write the pieces, and yield what lists them."""
        with ExitStack() as opened:
            rule, keys = MaskRule(self.task.masked, self.task.dilation), dict(self.task.bands)
            sources: list[ProductSource] = []
            for product in self.products:
                with _attributed_to(product):
                    source = opened.enter_context(ProductSource(product, keys, rule, self.decoded))
                    if sources and source.grids() != sources[0].grids():
                        raise SourceError(
                            f"{product.id} is not on the grid of {sources[0].product.id}, of the same tile"
                        )
                    sources.append(source)
                    self.remarks += [(product.id, text) for text in source.remarks]
            samples = {cell: CellSamples(window, len(keys)) for cell, window in self.task.cells}
            pieces = self._pieces(sources[0])
            _mask(pieces, sources)
            for piece, ended in _with_last_uses(pieces, lambda piece: _bands(piece, sources)):
                values = self._values(piece, sources)
                if values is not None:
                    path = piece_path(folder, piece.cell, piece.window)
                    path.parent.mkdir(exist_ok=True)
                    np.save(path, values)
                    samples[piece.cell].take(piece.window, values)
                    yield piece.cell, piece.window.row, piece.window.col, path.stat().st_size
                for reader, blocks in ended:
                    reader.forget(blocks)
        for cell, taken in samples.items():
            taken.write(folder, cell)

    def _pieces(self, source: ProductSource) -> list[_Piece]:
        """Squares that the tile reaches, from north to south in the tile: blocks can be let go of early."""
        grids = list(dict.fromkeys(source.grids().values()))
        found = []
        for cell, window in self.task.cells:
            for square in window.split(PIECE):
                piece = _Piece(cell, square)
                for grid in grids:
                    mapped = source_map(self.task.lattice, square, grid)
                    reach = max(margin(self.task.method, s) for s in mapped.stretch())
                    piece.maps[grid], piece.sources[grid] = mapped, mapped.source_window(grid, reach)
                if all(w.height and w.width for w in piece.sources.values()):
                    found.append(piece)
        return sorted(
            found, key=lambda p: (p.sources[grids[0]].row, p.sources[grids[0]].col, p.window.row, p.window.col)
        )

    def _values(self, piece: _Piece, sources: Sequence[ProductSource]) -> npt.NDArray[np.float32] | None:
        """All bands of a piece on the lattice; None where nothing is valid."""
        out = np.empty((len(self.task.bands), piece.window.height, piece.window.width), "f4")
        filled, known = set(), False
        for grid, packed in piece.masks.items():
            window = piece.sources[grid]
            masks = [mask.valid for mask in packed]
            if not any(m.any() for m in masks):
                continue
            weights = Resampler(piece.maps[grid], window, self.task.method)
            prepared, bound = None, None
            for index, (band, _) in enumerate(self.task.bands):
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


def _mask(pieces: Sequence[_Piece], sources: Sequence[ProductSource]) -> None:
    """Read the scene classes under all pieces: they tell what has to be decoded of the bands."""
    for piece, ended in _with_last_uses(pieces, lambda piece: _classes(piece, sources)):
        for grid, window in piece.sources.items():
            piece.masks[grid] = []
            for source in sources:
                with _attributed_to(source.product):
                    piece.masks[grid].append(_Mask.of(window, source.valid(window, grid)))
        for reader, blocks in ended:
            reader.forget(blocks)


def _fuse(
    band: str, window: Window, sources: Sequence[ProductSource], masks: Sequence[npt.NDArray[np.bool_]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Merge the halves of a tile on its own grid: the first product that is valid counts."""
    with _attributed_to(sources[0].product):
        values, there = sources[0].values(band, window, masks[0])
    for source, mask in zip(sources[1:], masks[1:], strict=True):
        wanted = mask & ~there
        if wanted.any():
            with _attributed_to(source.product):
                more, found = source.values(band, window, wanted)
            values[found] = more[found]
            there = there | found
    return values, there


class _attributed_to:
    """Tie an unreadable source to its product."""

    def __init__(self, product: Product) -> None:
        self.product = product

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, value: BaseException | None, trace: Any) -> None:
        if isinstance(value, SourceError):
            raise _ProductError(self.product, str(value)) from value


_Blocks = list[tuple[BlockReader, list[tuple[int, int]]]]


def _with_last_uses(
    pieces: Sequence[_Piece], reads: Callable[[_Piece], Iterator[tuple[BlockReader, Window]]]
) -> Iterator[tuple[_Piece, _Blocks]]:
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


def _classes(piece: _Piece, sources: Sequence[ProductSource]) -> Iterator[tuple[BlockReader, Window]]:
    for source in sources:
        for grid, window in piece.sources.items():
            yield source.classes, source.class_window(window, grid)


def _bands(piece: _Piece, sources: Sequence[ProductSource]) -> Iterator[tuple[BlockReader, Window]]:
    for number, source in enumerate(sources):
        for reader in source.bands.values():
            yield reader, piece.masks[reader.grid][number].box
