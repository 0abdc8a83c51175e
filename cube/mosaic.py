"""The rasters of a build's cells as one cube on their lattice, opened lazily: cells are windows, nothing is copied.

What lies where is read from the build's STAC items, so that a build on a server opens as one on a disk. A raster is
opened when a pixel of it is asked for, and a pixel that no cell holds is none.
"""

from __future__ import annotations

import atexit
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr
import zarr
from affine import Affine
from rasterio.errors import RasterioError
from xarray.backends import BackendArray
from xarray.core import indexing

from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded, reason_of

__all__ = ["CELLS", "open_cells"]

CELLS = "cell_bounds"
"""Coordinate of a mosaic: xmin, ymin, xmax and ymax of each cell, shape (cell, bound), in units of the CRS."""

_TIFF, _ZARR = "image/tiff", "application/vnd.zarr"
_OPEN = 64
"""Rasters that a process holds open at once: Slurm nodes allow 1024 files, and loaders have several workers."""

_IMAGE = "GTiff"
"""What a build writes; GDAL would follow a file of another kind to whatever its text names."""
_GDAL = {"GDAL_CACHEMAX": 64, "GDAL_NUM_THREADS": "1", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
"""GDAL's own cache would grow to a twentieth of the memory of the machine."""

_BLOCK = 512
_NO_PERIOD = ("", "", "")


@dataclass(frozen=True)
class _Layer:
    """How one kind of raster is stored."""

    dtype: str
    nodata: float | None
    scale: float
    attributes: Mapping[str, Any]
    is_band: bool
    """Else it says something of the bands, such as how many observations are behind a pixel."""

    @property
    def decoded(self) -> np.dtype[Any]:
        """Type of what is read: bands are numbers of their unit, counts stay whole."""
        return np.dtype("f4" if self.dtype.startswith("float") or self.scale != 1 else self.dtype)

    def decode(self, stored: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Values, and where there are any."""
        known = np.ones(stored.shape, bool) if self.nodata is None else stored != self.nodata
        if stored.dtype.kind == "f":
            known &= ~np.isnan(stored)
        if self.scale == 1:
            return stored, known
        # in double, then rounded once, as xarray decodes a store by CF
        return (stored * np.float64(self.scale)).astype("f4"), known


@dataclass(frozen=True)
class _Raster:
    """One raster of a cell."""

    href: str
    array: str
    """Name of the array where ``href`` is a Zarr store; empty for a GeoTIFF."""


class _Mosaic(BackendArray):
    """One band of all cells. Where cells overlap, as those that are no rectangles may, the first that knows counts."""

    def __init__(
        self,
        layer: _Layer,
        windows: npt.NDArray[np.int64],
        rasters: Sequence[_Raster],
        shape: tuple[int, int],
        options: Mapping[str, Any],
    ) -> None:
        self.layer, self.windows, self.rasters = layer, windows, tuple(rasters)
        self.shape, self.dtype, self.options = shape, layer.decoded, dict(options)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self.read)

    def read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        """Read rows and columns."""
        rows, cols = (np.arange(n)[k] for n, k in zip(self.shape, key, strict=True))
        if not rows.size or not cols.size:
            return np.empty(np.shape(rows) + np.shape(cols), self.dtype)
        low, high = (rows.min(), cols.min()), (rows.max() + 1, cols.max() + 1)
        box = self._box(*map(int, (*low, *high)))
        found: npt.NDArray[Any] = box[(rows - low[0])[..., None], cols - low[1]] if rows.ndim else box[0, cols - low[1]]
        return found.reshape(np.shape(rows) + np.shape(cols))

    def _box(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[Any]:
        """Read rows and columns of the lattice's window."""
        missing = np.nan if self.dtype.kind == "f" else self.layer.nodata or 0
        out = np.full((bottom - top, right - left), missing, self.dtype)
        free = np.ones(out.shape, bool)
        first, end = self.windows[:, :2], self.windows[:, :2] + self.windows[:, 2:]
        meets = (first < [bottom, right]).all(axis=1) & (end > [top, left]).all(axis=1)
        for number in np.flatnonzero(meets):
            row, col, height, width = map(int, self.windows[number])
            rows, cols = slice(max(top, row), min(bottom, row + height)), slice(max(left, col), min(right, col + width))
            part = _within(rows, row), _within(cols, col)
            values, known = self.layer.decode(_read_part(self.rasters[number], part, (height, width), self.options))
            here = _within(rows, top), _within(cols, left)
            take = known & free[here]
            np.copyto(out[here], values, where=take)
            free[here] &= ~take
        return out


class _Steps(BackendArray):
    """One band of all cells in each period, dimensions (time, y, x)."""

    def __init__(self, steps: Sequence[_Mosaic]) -> None:
        self.steps, self.dtype = tuple(steps), steps[0].dtype
        self.shape = (len(steps), *steps[0].shape)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> npt.NDArray[Any]:
        first, within = key[0], key[1:]
        if isinstance(first, int | np.integer):
            return self.steps[first].read(within)
        found = [step.read(within) for step in self.steps[first]]
        return np.stack(found) if found else np.empty((0, *self.steps[0].read(within).shape), self.dtype)


def _within(part: slice, start: int) -> slice:
    return slice(part.start - start, part.stop - start)


def _read_part(
    raster: _Raster, part: tuple[slice, slice], shape: tuple[int, int], options: Mapping[str, Any]
) -> npt.NDArray[Any]:
    """Read rows and columns of one raster.

    Raises
    ------
    SourceError
        If it is not there, is not of the cell's shape, or does not decode.
    """
    where = raster.href if not raster.array else f"{raster.href}/{raster.array}"
    try:
        opened, lock = _opened(raster, json.dumps(options, sort_keys=True, default=str), _state(raster.href))
        if tuple(opened.shape) != shape:
            raise ValueError(f"it has {tuple(opened.shape)} pixels where its item says {shape}")
        if raster.array:
            return np.asarray(opened[part])
        with lock, rasterio.Env(**_GDAL):  # GDAL's handles are no two threads' at once
            return np.asarray(opened.read(1, window=tuple((s.start, s.stop) for s in part)))
    except Exception as error:  # whatever a codec raises of damaged bytes
        raise SourceError(f"{where} cannot be read ({_why(error)}); run the build again to make it") from error


def _state(href: str) -> tuple[int, int]:
    """What tells a file from one that was put in its place since."""
    if "://" in href:
        return 0, 0
    found = Path(href).stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=_OPEN)
def _opened(raster: _Raster, options: str, _: tuple[int, int]) -> tuple[Any, Lock]:
    """Open a raster, or find it open; in each process anew."""
    given = json.loads(options)
    if raster.array:
        return zarr.open_array(f"{raster.href}/{raster.array}", mode="r", storage_options=given or None), Lock()
    with rasterio.Env(**_GDAL):
        if "://" not in raster.href:
            return rasterio.open(raster.href, driver=_IMAGE), Lock()
        files, path = fsspec.core.url_to_fs(raster.href, **given)
        return rasterio.open(path, driver=_IMAGE, opener=files), Lock()


atexit.register(_opened.cache_clear)  # closed later, files that Python serves could not be read by GDAL any more


def _why(error: Exception) -> str:
    return reason_of(error.__cause__ if isinstance(error, RasterioError) and error.__cause__ else error)


def open_cells(place: str, options: Mapping[str, Any] | None = None) -> xr.Dataset | None:
    """Open the cells of a build lazily, as one cube without Dask.

    Parameters
    ----------
    place
        Folder of a build whose cells are files of their own; path or URL.
    options
        For fsspec.

    Returns
    -------
    xarray.Dataset or None
        One variable a band and layer, dimensions (y, x), and before them (time,), the starts of the periods, where the
        build has several. NaN where there is none, in the unit that their scale gives; :data:`CELLS` says where cells
        lie. None if no such build has been published at the place.

    Raises
    ------
    UsageError
        If the cells are on no common lattice.
    SourceError
        If an item is not there or says too little.
    """
    files, folder = fsspec.core.url_to_fs(place, **dict(options or {}))
    if not files.exists(f"{folder}/collection.json"):
        return None
    shown = f"{place}/collection.json"
    with guarded(f"{shown} does not describe the cells of a build", "run the build again to make it"):
        collection = json.loads(files.cat_file(f"{folder}/collection.json"))
        paths = [
            posixpath.normpath(f"{folder}/{link['href']}") for link in collection["links"] if link["rel"] == "item"
        ]
        texts = files.cat(paths) if paths else {}
        items = [json.loads(text) for _, text in sorted(texts.items())]
        root = str(files.unstrip_protocol(folder)) if "://" in place else folder
        cells = [(item["properties"], dict(_rasters(item, root))) for item in items]
    if not any(rasters for _, rasters in cells):
        return None
    if any("stratacube:lattice_row" not in told for told, _ in cells):
        raise UsageError(
            f"cells of {place} have pixels counted from their own corners, so they are no one cube; open them one by "
            "one by their items"
        )
    with guarded(f"{shown} does not describe the cells of a build", "run the build again to make it"):
        return _joined(cells, str(collection.get("title", "")), dict(options or {}))


def _rasters(item: Mapping[str, Any], root: str) -> Iterator[tuple[str, tuple[_Raster, _Layer]]]:
    """Rasters of an item by name; of a cell that has GeoTIFFs and a store the latter, which is read faster."""
    for asset in sorted(item["assets"].values(), key=lambda a: str(a.get("type")).startswith(_ZARR)):
        kind = str(asset.get("type", ""))
        if not kind.startswith(_TIFF) and not (kind.startswith(_ZARR) and "cell" in asset["roles"]):
            continue
        href = asset["href"]
        path = href if "://" in href or href.startswith("/") else f"{root}/{posixpath.normpath(f'items/{href}')}"
        for band in asset["bands"]:
            name = str(band["name"])
            about = {"units": band["unit"]} if "unit" in band else {}
            about |= {"long_name": band["description"]} if "description" in band else {}
            if " since " in about.get("units", ""):
                about["_FillValue"] = band["nodata"]  # dates are decoded by CF
            nodata = band.get("nodata")
            missing = None if nodata is None else float(nodata) if nodata == "nan" else nodata
            scale, is_band = float(band.get("raster:scale", 1)), "eo:common_name" in band
            layer = _Layer(band["data_type"], missing, scale, about, is_band)
            yield name, (_Raster(path, name if kind.startswith(_ZARR) else ""), layer)


def _period(told: Mapping[str, Any]) -> tuple[str, str, str]:
    """Start, end and name of a cell's period, by which periods are in order, where a build has several."""
    name = told.get("stratacube:period")
    return (str(told["start_datetime"]), str(told["end_datetime"]), str(name)) if name else _NO_PERIOD


def _joined(
    cells: Sequence[tuple[Mapping[str, Any], Mapping[str, tuple[_Raster, _Layer]]]], title: str, options: dict[str, Any]
) -> xr.Dataset:
    """Lay all cells on one grid."""
    placed = np.array(
        [[t["stratacube:lattice_row"], t["stratacube:lattice_col"], *t["proj:shape"]] for t, _ in cells], "i8"
    )
    corner = placed[:, :2].min(axis=0)
    windows = placed - [*corner, 0, 0]
    height, width = (int(n) for n in (windows[:, :2] + windows[:, 2:]).max(axis=0))
    told = cells[0][0]
    dx, _, left, _, dy, top = (float(v) for v in told["proj:transform"])
    first = windows[0]
    x = left + (np.arange(width) - first[1] + 0.5) * dx
    y = top + (np.arange(height) - first[0] + 0.5) * dy
    of_cells = [_period(told) for told, _ in cells]
    periods = sorted(dict.fromkeys(of_cells))
    several = periods != [_NO_PERIOD]
    images = {}
    for name in dict.fromkeys(n for _, rasters in cells for n in rasters):
        layer = next(rasters[name][1] for _, rasters in cells if name in rasters)
        steps = []
        for period in periods:
            some = [i for i, (_, r) in enumerate(cells) if name in r and of_cells[i] == period]
            steps.append(_Mosaic(layer, windows[some], [cells[i][1][name][0] for i in some], (height, width), options))
        array: BackendArray = _Steps(steps) if several else steps[0]
        dims = ("time", "y", "x") if several else ("y", "x")
        image = xr.Variable(dims, indexing.LazilyIndexedArray(array), dict(layer.attributes))
        image.encoding["chunks"] = (*(1,) * several, min(_BLOCK, height), min(_BLOCK, width))
        images[name] = image
    bands = {n for _, rasters in cells for n, (_, layer) in rasters.items() if layer.is_band}
    for name in bands:
        images[name].attrs["ancillary_variables"] = " ".join(n for n in images if n not in bands)
    bounds = np.array(list(dict.fromkeys(tuple(t["proj:bbox"]) for t, _ in cells)))  # once, in however many periods
    axes: dict[str, Any] = {"y": y, "x": x, CELLS: (("cell", "bound"), bounds)}
    if several:
        axes["time"] = np.array([start.removesuffix("Z") for start, _, _ in periods], "M8[ns]")
        axes["period"] = ("time", [name for _, _, name in periods])
    cube = xr.Dataset(images, axes, {"title": title})
    crs = pyproj.CRS.from_user_input(told.get("proj:code") or told["proj:wkt2"])
    transform = Affine(dx, 0, float(x[0] - dx / 2), 0, dy, float(y[0] - dy / 2))
    cube = cube.rio.write_crs(crs).rio.write_transform(transform).rio.write_coordinate_system()
    return xr.decode_cf(cube, decode_coords="all")
