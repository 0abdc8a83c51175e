"""The second half of a build, one task a cell: one vote a pixel and datatake, reduced and written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.features import geometry_mask

from cube.registry import REDUCERS
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.products import NODATA, Values, encoding, write_cog
from cube.sentinel2.reduce import known_votes, parse_reducer
from cube.sentinel2.scenes import PIECE, SceneResult, piece_path
from stratacube.errors import StratacubeError
from stratacube.files import whole_folder, write_json

__all__ = ["CellResult", "CellTask", "ScratchLostError", "Vote", "cell_file", "process_cell"]

STRIP_BYTES = 48_000_000
"""Size of a stack of observations that is reduced at once; sorting takes a few times as much."""


@dataclass(frozen=True)
class Vote:
    """One datatake over a cell: folders of the tiles it was seen in, the first that is valid counts."""

    datatake: str
    folders: tuple[Path, ...]


class ScratchLostError(StratacubeError):
    """Scenes or kept values that were written and are not there any more, as where a cleaner of old files passes."""


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """One cell."""

    cell: str
    window: Window
    outline: str
    """GeoJSON geometry in the lattice's CRS, empty for a rectangle."""
    lattice: Lattice
    bands: tuple[str, ...]
    votes: tuple[Vote, ...]
    """In the order in which ``best`` takes them."""
    reducer: str
    values: Values
    folder: Path
    """The cell's folder of products; none is written there unless ``cog`` is set."""
    cog: bool
    compress: str
    kept: Path | None
    """Where the stored values are kept for the Zarr store."""
    result: Path
    """File for what the cell holds."""
    threads: int = 1
    """Bands that are made at once, where there are more workers than cells."""
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Unique name of the task within a run."""
        return f"cell {self.cell}"


@dataclass(frozen=True)
class CellResult:
    """What a cell holds."""

    cell: str
    valid_share: float
    """Share of the cell's pixels, within its outline, that hold a value in every band."""
    observations: dict[str, float]
    """Least, most and mean observations of a pixel."""
    statistics: dict[str, dict[str, float]] = field(default_factory=dict)
    """By band, of the values scaled to their unit: minimum, maximum, mean, stddev, valid_percent."""
    datatakes: tuple[str, ...] = ()
    """Datatakes that gave at least one valid pixel."""
    pixels: int = 0
    """Pixels within the cell's outline, of which the shares are."""

    @classmethod
    def load(cls, path: Path) -> CellResult:
        """Read a result that was kept as JSON."""
        kept = json.loads(path.read_text())
        return cls(**{**kept, "datatakes": tuple(kept["datatakes"])})


@dataclass(frozen=True)
class _Made:
    """Some bands of a cell, written."""

    known: npt.NDArray[np.bool_]
    """Where all of them hold a value."""
    seen: npt.NDArray[np.uint16]
    """Least observations of any."""
    statistics: dict[str, dict[str, float]]


def cell_file(cell: str, band: str, reducer: str) -> str:
    """Return the predecessor's name of a product, ``cell_<id>_<band>_median_clip.tif``, or ours of its ``count``."""
    if band == "count":
        return f"cell_{cell}_count.tif"
    return f"cell_{cell}_{band}_{reducer}_clip.tif"


def process_cell(task: CellTask) -> CellResult:
    """Reduce the observations of a cell and write its products, band by band unless the reducer needs all at once.

    Raises
    ------
    ScratchLostError
        If a piece of a scene is gone: without it the cell would be wrong in silence.
    """
    try:
        with whole_folder(task.kept, digests=False) if task.kept is not None else nullcontext(None) as kept:
            result = _process(task, _Pieces(task), _Kept(kept))
    except FileNotFoundError as error:
        raise ScratchLostError(f"{error.filename} is gone") from error
    write_json(task.result, asdict(result), indent=1)
    return result


def _process(task: CellTask, pieces: _Pieces, kept: _Kept) -> CellResult:
    inside = _inside(task)

    def make(bands: slice) -> _Made:
        values, seen = _reduce(task, bands, pieces)
        known, statistics = inside.copy(), {}
        for band, data in zip(task.bands[bands], values, strict=True):
            data[~inside] = np.nan
            known &= ~np.isnan(data)
            statistics[band] = _write(task, band, data, int(inside.sum()))
            kept.save(band, data)
        return _Made(known, seen, statistics)

    together = len(task.bands) if parse_reducer(task.reducer).joint else 1
    groups = [slice(first, first + together) for first in range(0, len(task.bands), together)]
    known, count = inside.copy(), np.full(inside.shape, np.iinfo("u2").max, "u2")
    statistics: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(max_workers=task.threads) as threads:
        for made in threads.map(make, groups):
            known &= made.known
            np.minimum(count, made.seen, out=count)
            statistics |= made.statistics
            del made
    count[~inside] = 0
    if task.cog:
        path = task.folder / cell_file(task.cell, "count", task.reducer)
        transform = task.lattice.transform(task.window)
        tags = _tags(task)
        write_cog(path, count, transform, task.lattice.crs, nodata=0, name="count", tags=tags, compress=task.compress)
    kept.save("count", count)
    if task.outline:
        kept.save("inside", inside)
    number = count[inside]
    return CellResult(
        cell=task.cell,
        valid_share=float(known.sum() / max(1, inside.sum())),
        observations={
            "minimum": float(number.min()) if number.size else 0.0,
            "maximum": float(number.max()) if number.size else 0.0,
            "mean": float(number.mean()) if number.size else 0.0,
        },
        statistics=statistics,
        datatakes=tuple(sorted({v.datatake for v in task.votes for p in task.window.split(PIECE) if pieces.of(v, p)})),
        pixels=number.size,
    )


def _tags(task: CellTask) -> dict[str, str]:
    return {**dict(task.tags), "CELL": task.cell, "REDUCER": task.reducer}


def _write(task: CellTask, band: str, data: npt.NDArray[np.float32], pixels: int) -> dict[str, float]:
    """Write the product of a band and return its statistics, in the unit of the scaled values."""
    kind = encoding(task.values, task.reducer)
    if task.cog:
        write_cog(
            task.folder / cell_file(task.cell, band, task.reducer),
            kind.encode(data),
            task.lattice.transform(task.window),
            task.lattice.crs,
            nodata=NODATA,
            name=band,
            scale=kind.scale,
            unit=kind.unit,
            tags=_tags(task),
            compress=task.compress,
        )
    return _statistics(data, kind.factor * kind.scale, pixels)


class _Pieces:
    """The pieces of a cell that its scenes wrote, as they listed them."""

    def __init__(self, task: CellTask) -> None:
        self.cell = task.cell
        self.listed: dict[Path, set[tuple[int, int]]] = {}
        for folder in {f for vote in task.votes for f in vote.folders}:
            scene = SceneResult.load(folder)
            if scene is None:
                raise ScratchLostError(f"{folder} is gone")
            self.listed[folder] = {(row, col) for cell, row, col, _ in scene.pieces if cell == task.cell}

    def of(self, vote: Vote, piece: Window) -> list[Path]:
        """Files of a vote over a piece."""
        at = piece.row, piece.col
        return [piece_path(f, self.cell, piece) for f in vote.folders if at in self.listed[f]]


def _reduce(task: CellTask, bands: slice, pieces: _Pieces) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]]:
    """Reduce some bands over the whole cell in strips of bounded memory; with them, their least observations."""
    reducer = parse_reducer(task.reducer)
    number = len(task.bands[bands])
    values = np.full((number, task.window.height, task.window.width), np.nan, "f4")
    observations = np.zeros(values.shape[1:], "u2")
    for piece in task.window.split(PIECE):
        down, across = piece.within(task.window)
        files = [paths for v in task.votes if (paths := pieces.of(v, piece))]
        shape = len(task.bands), piece.height, piece.width
        rows = max(1, STRIP_BYTES // (4 * task.threads * number * max(1, len(files)) * piece.width))
        for start in range(0, piece.height, rows):
            strip = slice(start, min(start + rows, piece.height))
            here = slice(down.start + strip.start, down.start + strip.stop)
            stack = _stack(files, shape, number, bands.start, strip)
            observations[here, across] = np.stack([known_votes(band) for band in stack]).min(axis=0)
            with REDUCERS.blamed(task.reducer):
                values[:, here, across] = reducer.reduce(stack)
    return values, observations


def _stack(
    files: Sequence[Sequence[Path]], shape: tuple[int, int, int], number: int, first: int, rows: slice
) -> npt.NDArray[np.float32]:
    """Observations, shape (bands, votes, rows, cols): one of a datatake, whichever tile it was seen in."""
    stack = np.empty((number, len(files), rows.stop - rows.start, shape[2]), "f4")
    for vote, tiles in enumerate(files):
        for band in range(number):
            values = stack[band, vote]
            _read_rows(tiles[0], shape, first + band, rows, values)
            for more in tiles[1:]:
                other = np.empty_like(values)
                _read_rows(more, shape, first + band, rows, other)
                np.copyto(values, other, where=np.isnan(values))
    return stack


def _read_rows(path: Path, shape: tuple[int, int, int], band: int, rows: slice, out: npt.NDArray[np.float32]) -> None:
    """Read rows of a band of a piece. Not mapped: mapped pages of all scenes would count as memory of the worker."""
    _, height, width = shape
    header = path.stat().st_size - 4 * math.prod(shape)
    if header < 0:
        raise ScratchLostError(f"{path} is cut short")
    with path.open("rb", buffering=0) as file:
        file.seek(header + 4 * width * (band * height + rows.start))
        if file.readinto(out.data.cast("B")) != out.nbytes:
            raise ScratchLostError(f"{path} ends within row {rows.stop} of band {band}")


def _inside(task: CellTask) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies in the cell's outline."""
    shape = task.window.height, task.window.width
    if not task.outline:
        return np.ones(shape, bool)
    transform = task.lattice.transform(task.window)
    return np.asarray(geometry_mask([json.loads(task.outline)], shape, transform, invert=True), bool)


def _statistics(values: npt.NDArray[np.float32], scale: float, pixels: int) -> dict[str, float]:
    known = values[~np.isnan(values)]
    if not known.size:
        return {"valid_percent": 0.0}
    return {
        "minimum": float(known.min()) * scale,
        "maximum": float(known.max()) * scale,
        "mean": float(known.mean(dtype="f8")) * scale,
        "stddev": float(known.std(dtype="f8")) * scale,
        "valid_percent": 100.0 * known.size / max(1, pixels),
    }


class _Kept:
    """Values for the Zarr store, kept in a folder, if one is given."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def save(self, name: str, data: npt.NDArray[Any]) -> None:
        if self.folder is not None:
            np.save(self.folder / f"{name}.npy", data)
