"""The first half of a build, one task an acquisition: decode, mask, harmonise, resample to the lattice.

An acquisition is what one datatake saw of one tile: one product, or the halves of a tile cut by two datastrips. Its
result is a folder of pieces, float32 arrays of shape (bands, rows, cols) over squares of the lattice, one per cell and
square where anything is valid. The folder takes its name only when it is whole.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio

from catalog.sentinel2.items import Product
from cube.sentinel2.acquisitions import Acquisition
from cube.sentinel2.blocks import Decoded
from cube.sentinel2.digests import Check, verify
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.pieces import (
    Piece,
    ProductError,
    band_reads,
    mask_pieces,
    open_piece,
    open_sources,
    piece_values,
    with_last_uses,
)
from cube.sentinel2.resample import Method, Resamplers
from cube.sentinel2.sampling import CellSamples
from cube.sentinel2.source import MaskRule, ProductSource
from stratacube.files import whole_folder

__all__ = [
    "PIECE",
    "SceneResult",
    "SceneTask",
    "let_go_of_weights",
    "piece_path",
    "process_scene",
]

SCENE = "scene.json"
"""In the folder of an acquisition: what came of it."""

PIECE = 768
"""Side of a piece in lattice pixels, a multiple of the resampler's nodes: what a worker holds at once."""

GDAL_OPTIONS = {
    **{"GDAL_CACHEMAX": 32, "GDAL_NUM_THREADS": "1", "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"},
    "GDAL_HTTP_NETRC": "NO",
}
"""Blocks are kept by us, for as long as a cell needs them, so GDAL's own cache can be small.

A password of ``~/.netrc`` is for nobody that an item names."""


_weights = Resamplers()
"""Of this worker."""


def let_go_of_weights() -> None:
    """Free what the worker has kept for more scenes."""
    _weights.clear()


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
    own: tuple[tuple[str, Lattice], ...] = ()
    """Lattices of the cells that have one of their own."""
    floor: bool = False
    """Whether what is below 0 is set to 0."""

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
        except ProductError as error:
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
            sources = open_sources(self.products, keys, rule, self.decoded, opened)
            self.remarks += [(s.product.id, text) for s in sources for text in s.remarks]
            samples = {cell: CellSamples(window, len(keys)) for cell, window in self.task.cells}
            pieces = self._pieces(sources[0])
            mask_pieces(pieces, sources)
            for piece, ended in with_last_uses(pieces, lambda piece: band_reads(piece, sources)):
                values = piece_values(piece, sources, list(keys), self.task.method, _weights)
                if values is not None:
                    samples[piece.cell].take(piece.window, values)  # by which scenes are judged: as they are
                    if self.task.floor:
                        np.maximum(values, 0, out=values)
                    path = piece_path(folder, piece.cell, piece.window)
                    path.parent.mkdir(exist_ok=True)
                    np.save(path, values)
                    yield piece.cell, piece.window.row, piece.window.col, path.stat().st_size
                for reader, blocks in ended:
                    reader.forget(blocks)
        for cell, taken in samples.items():
            taken.write(folder, cell)

    def _pieces(self, source: ProductSource) -> list[Piece]:
        """Squares that the tile reaches, from north to south in the tile: blocks can be let go of early."""
        grids = list(dict.fromkeys(source.grids().values()))
        own, method = dict(self.task.own), self.task.method
        squares = [(cell, square) for cell, window in self.task.cells for square in window.split(PIECE)]
        placed = [open_piece(c, s, own.get(c, self.task.lattice), grids, method) for c, s in squares]
        found = [p for p in placed if p is not None]
        return sorted(
            found, key=lambda p: (p.sources[grids[0]].row, p.sources[grids[0]].col, p.window.row, p.window.col)
        )
