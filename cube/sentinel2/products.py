"""What a build writes: Cloud Optimized GeoTIFFs per cell and band, and one Zarr store over the lattice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import zarr
from affine import Affine

from cube.job.store import ArraySpec, LedgeredStore, create_store, write_region
from cube.sentinel2.lattice import Lattice, Window, union
from cube.sentinel2.periods import Period
from cube.sentinel2.reduce import Layers, parse_reducer
from cube.sentinel2.time_axis import time_arrays, write_times
from stratacube.files import whole_file

__all__ = [
    "NODATA",
    "Encoding",
    "Shard",
    "ZarrLayout",
    "create_composites",
    "encoding",
    "is_known",
    "paste",
    "write_cog",
]

NODATA = -9999
Values = Literal["dn", "reflectance", "int16"]
Shard = tuple[int, ...]
"""Row and column of a shard; before them the period, where the store has a time axis."""

_INNER = 512
_CONVENTIONS = [
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial:",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v0.1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v0.1/README.md",
        "description": "Spatial coordinate information",
    },
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj:",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/proj/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/proj/blob/v1/README.md",
        "description": "Coordinate reference system information for geospatial data",
    },
]


@dataclass(frozen=True)
class Encoding:
    """How harmonised numbers are stored: ``stored * scale`` is in ``unit``."""

    dtype: str
    factor: float
    """Stored value of one harmonised count."""
    scale: float
    unit: str = "1"

    def encode(self, values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Encode; NaN becomes -9999. Integers are rounded to even and held within int16."""
        missing = np.isnan(values)
        if self.dtype == "int16":
            limits = np.iinfo("i2")
            rounded = np.clip(np.rint(np.where(missing, NODATA, values)), limits.min, limits.max)
            return np.asarray(rounded, "i2")
        scaled = values * np.float32(self.factor) if self.factor != 1 else values
        return np.where(missing, np.float32(NODATA), scaled)


def encoding(values: Values, reducer: str) -> Encoding:
    """Return the encoding of a kind of values."""
    if parse_reducer(reducer).counts:
        return Encoding("int16" if values == "int16" else "float32", 1.0, 1.0)
    return {
        "dn": Encoding("float32", 1.0, 0.0001),
        "reflectance": Encoding("float32", 0.0001, 1.0),
        "int16": Encoding("int16", 1.0, 0.0001),
    }[values]


def write_cog(
    path: Path,
    values: npt.NDArray[Any],
    transform: Affine,
    crs: str,
    *,
    nodata: float,
    name: str,
    scale: float = 1.0,
    unit: str = "1",
    tags: Mapping[str, str],
    compress: str = "ZSTD",
) -> None:
    """Write one band as a Cloud Optimized GeoTIFF, under its name only when it is whole.

    Parameters
    ----------
    path
        The file.
    values
        Shape (rows, cols).
    transform, crs
        Where the pixels are.
    nodata
        Value of pixels that hold nothing.
    name
        Name of the band.
    scale, unit
        ``values * scale`` is in ``unit``.
    tags
        Metadata of the file.
    compress
        ``ZSTD`` or ``DEFLATE``.
    """
    options = {
        "COMPRESS": compress,
        "PREDICTOR": "YES",  # 3 for floats, 2 for integers
        "BLOCKSIZE": 512,
        "OVERVIEW_RESAMPLING": "AVERAGE" if values.dtype.kind == "f" else "NEAREST",
        "NUM_THREADS": 1,
        "BIGTIFF": "IF_SAFER",
    }
    if compress == "ZSTD":
        options["LEVEL"] = 1  # 3 takes a third longer for three per cent, GDAL's 9 three times as long for five
    with (
        whole_file(path) as part,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(
            part,
            "w",
            driver="COG",
            height=values.shape[0],
            width=values.shape[1],
            count=1,
            dtype=values.dtype,
            crs=crs,
            transform=transform,
            nodata=nodata,
            **options,
        ) as file,
    ):
        file.write(values, 1)
        file.set_band_description(1, name)
        file.scales, file.offsets, file.units = (scale,), (0.0,), (unit,)
        file.update_tags(**tags)
        file.update_tags(1, **_statistics(values, nodata))


def is_known(values: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_]:
    """Tell where there is something: neither what stands for nothing nor NaN, which equals not even itself."""
    known = np.asarray(values != nodata)
    return known & ~np.isnan(values) if values.dtype.kind == "f" else known


def _statistics(values: npt.NDArray[Any], nodata: float) -> dict[str, str]:
    """Tags in which GDAL keeps the statistics of a band, of its values as stored; none where there are none.

    Source: GDAL raster data model, metadata of the default domain of a band.
    """
    known = values[is_known(values, nodata)]
    if not known.size:
        return {}
    return {
        "STATISTICS_MINIMUM": repr(float(known.min())),
        "STATISTICS_MAXIMUM": repr(float(known.max())),
        "STATISTICS_MEAN": repr(float(known.mean(dtype="f8"))),
        "STATISTICS_STDDEV": repr(float(known.std(dtype="f8"))),
        "STATISTICS_VALID_PERCENT": f"{100 * known.size / values.size:.4g}",
    }


@dataclass(frozen=True)
class ZarrLayout:
    """Shards of the lattice store: where cells are regular in pixels, one shard is one cell."""

    window: Window
    """The store's pixels of the lattice."""
    shard: tuple[int, int]
    chunk: tuple[int, int]

    @classmethod
    def of(cls, windows: Sequence[Window]) -> ZarrLayout:
        """Lay out a store over cells.

        Cells of one size on a grid of that size become one shard each. Cells whose sides differ by a pixel, as those
        of the predecessor's grid do on its lattice, are as many shards of the largest cell's size.
        """
        whole = union(windows)
        high, wide = max(w.height for w in windows), max(w.width for w in windows)
        sides = []
        for side, offsets in (
            (high, [(w.row - whole.row, w.height) for w in windows]),
            (wide, [(w.col - whole.col, w.width) for w in windows]),
        ):
            regular = all(o % side == 0 and s == side for o, s in offsets)
            chunk = _divisor(side) if regular else math.ceil(side / math.ceil(side / _INNER))
            sides.append((side if regular else chunk * math.ceil(side / chunk), chunk))
        return cls(whole, (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))

    def shard_window(self, index: Shard) -> Window:
        """Return the lattice pixels of a shard."""
        down, across = index[-2:]
        row, col = self.window.row + down * self.shard[0], self.window.col + across * self.shard[1]
        return Window(row, col, *self.shard).intersect(self.window)

    def shards_of(self, window: Window, step: int | None = None) -> list[Shard]:
        """Return the shards that a cell touches; those of a period, where the store has a time axis."""
        row, col = window.row - self.window.row, window.col - self.window.col
        return [
            (i, j) if step is None else (step, i, j)
            for i in range(row // self.shard[0], (row + window.height - 1) // self.shard[0] + 1)
            for j in range(col // self.shard[1], (col + window.width - 1) // self.shard[1] + 1)
        ]


def _divisor(side: int) -> int:
    """Return the largest part of a side that is at most 512 pixels; the side itself if it has no sensible one."""
    parts = [side // n for n in range(1, side + 1) if side % n == 0 and side // n <= _INNER]
    return parts[0] if parts and parts[0] >= 64 else side


def create_composites(
    path: Path,
    lattice: Lattice,
    layout: ZarrLayout,
    bands: Sequence[str],
    kind: Encoding,
    attributes: Mapping[str, Any],
    codec: str,
    periods: Sequence[Period] | None = None,
    layers: Mapping[str, Layers] | None = None,
) -> None:
    """Write the metadata and coordinates of the store; the data of shards already there is kept.

    With ``periods`` it has a time axis before the others: the start of each, and both ends as its bounds.
    """
    whole = layout.window
    transform = lattice.transform(whole)
    crs = pyproj.CRS(lattice.crs)
    padded = tuple(math.ceil(n / s) * s for n, s in zip((whole.height, whole.width), layout.shard, strict=True))
    shape = whole.height, whole.width
    time, steps, ones = ((), (), ()) if periods is None else (("time",), (len(periods),), (1,))
    shard = tuple(min(s, p) for s, p in zip(layout.shard, padded, strict=True))
    band = {"grid_mapping": "spatial_ref", "units": "1"}
    integer = kind.dtype == "int16"
    if integer:
        band["_FillValue"] = NODATA  # type: ignore[assignment]
    if kind.scale != 1:
        band["scale_factor"] = kind.scale  # type: ignore[assignment]
    if layers:
        band["ancillary_variables"] = " ".join(["count", *layers])  # so that no reader takes them for bands
    axis = _axes(crs)
    arrays = {
        name: ArraySpec(
            (*time, "y", "x"),
            (*steps, *shape),
            "<i2" if integer else "<f4",
            (*ones, *layout.chunk),
            (*ones, *shard),
            NODATA if integer else np.nan,
            {**band, "long_name": f"{name} surface reflectance", "standard_name": "surface_bidirectional_reflectance"},
        )
        for name in bands
    }
    counted = {
        "grid_mapping": "spatial_ref",
        "units": "1",
        "long_name": "observations behind each pixel, fewest of all bands",
    }
    arrays["count"] = ArraySpec(
        (*time, "y", "x"), (*steps, *shape), "<u2", (*ones, *layout.chunk), (*ones, *shard), 0, counted
    )
    for name, layer in (layers or {}).items():
        dtype, nothing = np.dtype(layer.dtype).str, layer.nodata
        arrays[name] = replace(arrays["count"], dtype=dtype, fill_value=nothing, attributes=_described(layer))
    if periods is not None:
        arrays |= time_arrays(periods)
    arrays["y"] = ArraySpec(("y",), shape[:1], "<f8", shape[:1], None, np.nan, axis[0])
    arrays["x"] = ArraySpec(("x",), shape[1:], "<f8", shape[1:], None, np.nan, axis[1])
    mapping = {
        **crs.to_cf(),
        "GeoTransform": " ".join(repr(float(v)) for v in transform.to_gdal()),
        "spatial_ref": crs.to_wkt(),
    }
    arrays["spatial_ref"] = ArraySpec((), (), "<i4", (), None, 0, mapping)
    geozarr = {
        "Conventions": "CF-1.11",
        "zarr_conventions": _CONVENTIONS,
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [float(v) for v in tuple(transform)[:6]],
        "spatial:shape": list(shape),
        "spatial:bbox": list(lattice.bounds(whole)),
        "spatial:registration": "pixel",
        **({"proj:code": lattice.crs} if crs.to_authority() else {"proj:wkt2": crs.to_wkt("WKT2_2019")}),
        "lattice": {
            "crs": lattice.crs, "dx": lattice.dx, "dy": lattice.dy, "x0": lattice.x0, "y0": lattice.y0,
            "row": whole.row, "col": whole.col,
        },
    }  # fmt: skip
    create_store(path, arrays, {**geozarr, **attributes}, codec)
    write_region(path, "y", 0, lattice.y(np.arange(whole.row, whole.end_row)))
    write_region(path, "x", 0, lattice.x(np.arange(whole.col, whole.end_col)))
    if periods is not None:
        write_times(path, periods)


def _described(layer: Layers) -> dict[str, Any]:
    """Attributes of a layer; dates are decoded by CF, so what is none must be told."""
    told = {"grid_mapping": "spatial_ref", "units": layer.unit, "long_name": layer.about}
    return {**told, "_FillValue": layer.nodata} if " since " in layer.unit else told


def _axes(crs: pyproj.CRS) -> tuple[dict[str, str], dict[str, str]]:
    if crs.is_geographic:
        return (
            {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
            {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        )
    unit = crs.axis_info[0].unit_name.replace("metre", "m") if crs.axis_info else "m"
    return (
        {"standard_name": "projection_y_coordinate", "units": unit, "axis": "Y"},
        {"standard_name": "projection_x_coordinate", "units": unit, "axis": "X"},
    )


def paste(
    path: Path,
    layout: ZarrLayout,
    index: Shard,
    parts: Mapping[str, Sequence[tuple[Window, npt.NDArray[Any], npt.NDArray[np.bool_] | None]]],
) -> None:
    """Write one shard of each array, whole: what is there, with the given cells over it.

    Parameters
    ----------
    path
        The store.
    layout
        Its shards.
    index
        The shard; the caller is the only one who writes it.
    parts
        By array: windows of the lattice, their stored values, and which of their pixels to write (None for all):
        the windows of cells that are no rectangles overlap.
    """
    place = layout.shard_window(index)
    rows, cols = place.within(layout.window)
    store = LedgeredStore(path)
    for name, cells in parts.items():
        array = zarr.open_array(store, path=name, mode="r+", zarr_format=3)
        at: tuple[int | slice, ...] = (*index[:-2], rows, cols)
        values = np.asarray(array[at])
        for window, data, inside in cells:
            common = window.intersect(place)
            if common.height and common.width:
                own = common.within(window)
                np.copyto(values[common.within(place)], data[own], where=True if inside is None else inside[own])
        array[at] = values
