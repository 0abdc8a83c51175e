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
from cube.sentinel2.cell_store import CellStore
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.layers import added, layers_of
from cube.sentinel2.products import NODATA, Values, encoding, is_known, write_cog
from cube.sentinel2.reduce import Layers, count_of, parse_reducer, present
from cube.sentinel2.scenes import PIECE, SceneResult, let_go_of_weights, piece_path
from cube.sentinel2.vocabulary import BAND_RESOLUTIONS
from stratacube.errors import StratacubeError
from stratacube.files import whole_folder, write_json

__all__ = ["CellResult", "CellTask", "ScratchLostError", "Vote", "cell_file", "process_cell"]

STRIP_BYTES = 8_000_000
"""Size of a stack of observations that is reduced at once: what is asked of it besides finds it in the processor's
cache still. Sorting takes a few times as much."""


@dataclass(frozen=True)
class Vote:
    """One datatake over a cell: folders of the tiles it was seen in, the first that is valid counts."""

    datatake: str
    folders: tuple[Path, ...]
    day: int = 0
    """Since 1970."""


class ScratchLostError(StratacubeError):
    """Scenes or kept values that were written and are not there any more, as where a cleaner of old files passes."""


@dataclass(frozen=True, kw_only=True)
class CellTask:
    """One cell."""

    cell: str
    period: str = ""
    """Name of the period, where there are several."""
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
    also: tuple[str, ...] = ()
    """Reducers whose layers are made besides."""
    months: tuple[int, ...] = ()
    """Of the year, of which there may be observations."""
    store: CellStore | None = None
    """Of the cell's own, to write."""

    @property
    def key(self) -> str:
        """Unique name of the task within a run."""
        return f"cell {self.name}"

    @property
    def name(self) -> str:
        """Name of the composite, unlike all others."""
        return f"{self.cell}_{self.period}" if self.period else self.cell


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
    layers: dict[str, npt.NDArray[Any]]
    statistics: dict[str, dict[str, float]]


def cell_file(name: str, band: str, reducer: str) -> str:
    """Return the predecessor's name of a product, ``cell_<id>_<band>_median_clip.tif``, or ours of what is no band.

    Of several periods, the name of a cell's composite has the period after the id.
    """
    return f"cell_{name}_{band}_{reducer}_clip.tif" if band in BAND_RESOLUTIONS else f"cell_{name}_{band}.tif"


def process_cell(task: CellTask) -> CellResult:
    """Reduce the observations of a cell and write its products, band by band unless the reducer needs all at once.

    Raises
    ------
    ScratchLostError
        If a piece of a scene is gone: without it the cell would be wrong in silence.
    """
    let_go_of_weights()
    try:
        with whole_folder(task.kept, digests=False) if task.kept is not None else nullcontext(None) as kept:
            result = _process(task, _Pieces(task), _Kept(kept))
    except FileNotFoundError as error:
        raise ScratchLostError(f"{error.filename} is gone") from error
    write_json(task.result, asdict(result), indent=1)
    return result


def _process(task: CellTask, pieces: _Pieces, kept: _Kept) -> CellResult:
    inside = _inside(task)
    if task.store is not None:
        task.store.begin(layers_of(task.also, task.months))

    def make(bands: slice) -> _Made:
        values, seen, layers = _reduce(task, bands, pieces)
        known, statistics = inside.copy(), {}
        for band, data in zip(task.bands[bands], values, strict=True):
            data[~inside] = np.nan
            known &= ~np.isnan(data)
            statistics[band] = _write(task, band, data, int(inside.sum()))
            kept.save(band, data)
            if task.store is not None:
                task.store.save(band, data)
        return _Made(known, seen, layers, statistics)

    together = len(task.bands) if task.also or parse_reducer(task.reducer).joint else 1
    groups = [slice(first, first + together) for first in range(0, len(task.bands), together)]
    known, count = inside.copy(), np.full(inside.shape, np.iinfo("u2").max, "u2")
    statistics: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(max_workers=task.threads) as threads:
        for made in threads.map(make, groups):
            known &= made.known
            np.minimum(count, made.seen, out=count)
            statistics |= made.statistics
            for name, layer in made.layers.items():
                statistics[name] = _write_layer(task, name, layer, inside, kept)
            del made
    count[~inside] = 0
    _write_plain(task, "count", count, 0, "1")
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
    told = {"PERIOD": task.period} if task.period else {}
    return {**dict(task.tags), "CELL": task.cell, **told, "REDUCER": task.reducer}


def _write(task: CellTask, band: str, data: npt.NDArray[np.float32], pixels: int) -> dict[str, float]:
    """Write the product of a band and return its statistics, in the unit of the scaled values."""
    kind = encoding(task.values, task.reducer)
    if task.cog:
        write_cog(
            task.folder / cell_file(task.name, band, task.reducer),
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
    return _statistics(data[~np.isnan(data)], kind.factor * kind.scale, pixels)


def _write_plain(task: CellTask, name: str, data: npt.NDArray[Any], nodata: float, unit: str) -> None:
    """Write what is no band."""
    if task.store is not None:
        task.store.save(name, data)
    if task.cog:
        write_cog(
            task.folder / cell_file(task.name, name, ""),
            data,
            task.lattice.transform(task.window),
            task.lattice.crs,
            nodata=nodata,
            name=name,
            unit=unit,
            tags=_tags(task),
            compress=task.compress,
        )


def _write_layer(
    task: CellTask, name: str, held: npt.NDArray[Any], inside: npt.NDArray[np.bool_], kept: _Kept
) -> dict[str, float]:
    """Write a layer, with nothing outside of the cell's outline, and return its statistics."""
    kind = layers_of(task.also, task.months)[name]
    held[~inside] = kind.nodata
    data = held.astype(kind.dtype, copy=False)
    _write_plain(task, name, data, kind.nodata, kind.unit)
    kept.save(name, data)
    return _statistics(held[is_known(held, kind.nodata)], 1.0, int(inside.sum()))


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


def _reduce(
    task: CellTask, bands: slice, pieces: _Pieces
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16], dict[str, npt.NDArray[Any]]]:
    """Reduce some bands over the whole cell in strips of bounded memory; their least observations, and layers."""
    reducer = parse_reducer(task.reducer)
    number = len(task.bands[bands])
    values = np.full((number, task.window.height, task.window.width), np.nan, "f4")
    observations = np.zeros(values.shape[1:], "u2")
    kinds = layers_of(task.also, task.months)
    layers = {name: np.full(values.shape[1:], kind.nodata, _held(kind, task)) for name, kind in kinds.items()}
    for piece in task.window.split(PIECE):
        down, across = piece.within(task.window)
        seen = [(paths, v.day) for v in task.votes if (paths := pieces.of(v, piece))]
        files, days = [paths for paths, _ in seen], np.array([day for _, day in seen], "i8")
        shape = len(task.bands), piece.height, piece.width
        rows = max(1, STRIP_BYTES // (4 * task.threads * number * max(1, len(files)) * piece.width))
        for start in range(0, piece.height, rows):
            strip = slice(start, min(start + rows, piece.height))
            here = slice(down.start + strip.start, down.start + strip.stop)
            stack = _stack(files, shape, number, bands.start, strip)
            there = present(stack)
            observations[here, across] = np.stack([count_of(band) for band in there]).min(axis=0)
            with REDUCERS.blamed(task.reducer):
                values[:, here, across] = reducer.reduce(stack)
            more = added(task.also, task.months, stack, there, values[:, here, across], days, task.reducer)
            for name, layer in more.items():
                layers[name][here, across] = layer
    return values, observations, layers


def _held(kind: Layers, task: CellTask) -> str:
    """Type of a layer in memory: a month's count is at most that of the votes, and there are up to twelve."""
    return "u1" if kind.counts and len(task.votes) < 256 else kind.dtype


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


def _statistics(known: npt.NDArray[Any], scale: float, pixels: int) -> dict[str, float]:
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
