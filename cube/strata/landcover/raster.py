"""Categorical rasters: what class lies at a place."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine

from cube.strata.hdf4 import opened
from cube.strata.landcover.legends import legend_of, parse_legend
from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded
from stratacube.images import open_image

__all__ = ["NODATA", "OFF_EARTH", "LandCover", "Raster", "open_landcover"]

NODATA, OFF_EARTH = 254, 255
"""Codes of pixels under which there is no class, and which miss the Earth."""
_MOST_CLASSES = 250
_FINEST_DEGREES = 0.0042
"""Cells need not be smaller than half a pixel of 1 km: the coarsest overview that is as fine serves."""
_METRES = 111_320.0
"""A degree of latitude."""
_LAYERS = ("Majority_Land_Cover_Type_1", "LC_Type1")
"""Data sets of MCD12C1 and MCD12Q1 that hold the IGBP classes."""


@dataclass(frozen=True)
class Raster:
    """Cells of one file."""

    name: str
    values: npt.NDArray[Any]
    """(rows, columns) integers."""
    transform: Affine
    """From column and row to coordinates, of a raster with north up."""
    crs: pyproj.CRS | None
    """None where coordinates are longitude and latitude in degrees, on whatever ellipsoid: no datum is shifted."""
    nodata: int | None
    names: Mapping[int, str]

    def cells(self, lon: npt.NDArray[Any], lat: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Which of some places the raster covers, and the values of the cells that those lie in.

        Parameters
        ----------
        lon, lat : ndarray of float64
            Degrees; a place that is NaN is not covered.
        """
        step_x, step_y = self.transform.a, -self.transform.e
        rows, cols = self.values.shape
        if self.crs is None:
            across = ((lon - self.transform.c) % 360.0) / step_x
            down = (self.transform.f - lat) / step_y
        else:
            x, y = self._from_lonlat.transform(lon, lat)
            across, down = (x - self.transform.c) / step_x, (self.transform.f - y) / step_y
        with np.errstate(invalid="ignore"):
            inside = (across >= 0) & (across < cols) & (down >= 0) & (down < rows)
        return inside, self.values[down[inside].astype("i4"), across[inside].astype("i4")]

    @cached_property
    def _from_lonlat(self) -> pyproj.Transformer:
        return pyproj.Transformer.from_crs("EPSG:4326", self.crs, always_xy=True)


@dataclass(frozen=True)
class LandCover:
    """Rasters of one legend, side by side."""

    rasters: Sequence[Raster]
    classes: tuple[int, ...]
    """Numbers that cells hold, ascending; :meth:`codes` are places in it."""
    names: Mapping[int, str]

    def codes(self, lon: npt.NDArray[Any], lat: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Class of the cell that each place lies in, as a place in :attr:`classes`.

        Parameters
        ----------
        lon, lat : ndarray of float64
            Degrees, NaN off the Earth.

        Returns
        -------
        ndarray of uint8
            :data:`NODATA` where no raster has a class, :data:`OFF_EARTH` where a place is NaN. Of rasters that
            overlap, the first that has a class counts.
        """
        found = np.where(np.isnan(lat), np.uint8(OFF_EARTH), np.uint8(NODATA))
        for raster, table in zip(self.rasters, self._tables, strict=True):
            open_yet = found == NODATA
            if not open_yet.any():
                break
            inside, values = raster.cells(lon[open_yet], lat[open_yet])
            if inside.any():
                some = np.full(int(open_yet.sum()), NODATA, "u1")
                some[inside] = table[values.astype("i8") - self._least]
                found[open_yet] = some
        return found

    @cached_property
    def _least(self) -> int:
        return min(int(raster.values.min()) for raster in self.rasters)

    @cached_property
    def _tables(self) -> list[npt.NDArray[np.uint8]]:
        """By raster, the code of each value less the least there is."""
        most = max(int(raster.values.max()) for raster in self.rasters)
        table = np.full(most - self._least + 1, NODATA, "u1")
        table[np.array(self.classes, "i8") - self._least] = np.arange(len(self.classes))
        tables = []
        for raster in self.rasters:
            own = table.copy()
            if raster.nodata is not None and self._least <= raster.nodata <= most:
                own[raster.nodata - self._least] = NODATA
            tables.append(own)
        return tables


def open_landcover(pattern: str, legend: str = "auto") -> LandCover:
    """Open the rasters of a glob: GeoTIFF or JPEG 2000, or HDF4 of MODIS.

    Parameters
    ----------
    pattern : str
        Path or glob; files are taken in the order of their names.
    legend : str
        See :func:`cube.strata.landcover.legends.legend_of`; names that a file itself has come first.

    Raises
    ------
    UsageError
        If nothing matches, or the cells are no classes.
    SourceError
        If a file cannot be read.
    """
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise UsageError(f"`landcover` is {pattern}: no file matches; give a raster of classes, or a glob of some")
    rasters = [_open(Path(path), legend) for path in paths]
    found: set[int] = set()
    names: dict[int, str] = {}
    for raster in rasters:
        values = set(np.unique(raster.values).tolist()) - {raster.nodata}
        if len(found | values) > _MOST_CLASSES:
            raise UsageError(
                f"{raster.name} holds {len(found | values)} different values: classes are {_MOST_CLASSES} at most; "
                "give a raster of classes"
            )
        found |= values
        names |= raster.names
    if not found:
        raise UsageError(f"`landcover` is {pattern}: no cell has a class; give another raster")
    return LandCover(rasters, tuple(sorted(found)), names)


def _open(path: Path, legend: str) -> Raster:
    raster = _read_hdf4(path, legend) if path.suffix.lower() == ".hdf" else _read_gdal(path, legend)
    if raster.values.dtype.kind not in "iu":
        raise UsageError(f"{path} holds {raster.values.dtype}; classes are whole numbers: give a raster of classes")
    return raster


def _read_gdal(path: Path, legend: str) -> Raster:
    what = f"{path} cannot be read as a raster"
    # Not by any driver of GDAL: some follow what a file says to any other of this machine, and to servers.
    with guarded(what, "fetch it again, or give it as a GeoTIFF"), open_image(str(path)) as source:
        transform, crs = source.transform, source.crs
        if crs is None or transform.b or transform.d or transform.a <= 0 or transform.e >= 0:
            raise SourceError(f"{path} does not say where its cells lie, north up; give a georeferenced raster")
        degrees = transform.a if crs.is_geographic else transform.a / _METRES
        factor = max((f for f in source.overviews(1) if f * degrees <= _FINEST_DEGREES), default=1)
        shape = -(-source.height // factor), -(-source.width // factor)
        values = source.read(1, out_shape=shape)  # nearest: classes are not averaged
        wide, high = source.width / shape[1], source.height / shape[0]
        cells = Affine(transform.a * wide, 0, transform.c, 0, transform.e * high, transform.f)
        own = parse_legend(source.tags().get("legend", "")) if legend == "auto" else {}
        nodata = None if source.nodata is None else int(source.nodata)
        wkt = None if crs.is_geographic else crs.to_wkt()
    names = own or legend_of(path.name, legend)
    return Raster(str(path), values, cells, wkt and pyproj.CRS.from_wkt(wkt), nodata, names)


_STRUCTURE = re.compile(r"^\s*(XDim|YDim|UpperLeftPointMtrs|LowerRightMtrs|Projection|ProjParams)=(.+?)\s*$", re.M)


def _read_hdf4(path: Path, legend: str) -> Raster:
    """Read the grid of an HDF-EOS file; see HDF-EOS Library User's Guide, volume 1, on StructMetadata."""
    with opened(path, "a MODIS land-cover file", sets=_LAYERS) as file:
        layer = next((name for name in _LAYERS if name in file.arrays), None)
        if layer is None:
            raise SourceError(f"{path} has none of {', '.join(_LAYERS)}; give MCD12C1 or MCD12Q1, or a GeoTIFF of it")
        values, attributes = file.array(layer), file.attributes_of[layer]
        told = dict(_STRUCTURE.findall(str(file.attributes["StructMetadata.0"])))
        geographic = told["Projection"] == "GCTP_GEO"
        if not geographic and told["Projection"] != "GCTP_SNSOID":
            raise ValueError(f"its projection is {told['Projection']}, not GCTP_GEO or GCTP_SNSOID")
        if values.shape != (int(told["YDim"]), int(told["XDim"])):
            raise ValueError(f"{layer} is {values.shape}, the grid {told['YDim']} x {told['XDim']}")
        left, top = _corner(told["UpperLeftPointMtrs"], packed=geographic)
        right, bottom = _corner(told["LowerRightMtrs"], packed=geographic)
        if not (right > left and top > bottom):
            raise ValueError(f"its corners are {told['UpperLeftPointMtrs']} and {told['LowerRightMtrs']}")
        radius = 0.0 if geographic else float(told["ProjParams"].strip("()").split(",")[0])
    crs = None if geographic else pyproj.CRS.from_proj4(f"+proj=sinu +R={radius} +units=m +no_defs")
    transform = Affine((right - left) / values.shape[1], 0, left, 0, -(top - bottom) / values.shape[0], top)
    own = {v: k for k, v in attributes.items() if isinstance(v, int) and k not in ("_FillValue", "Unclassified")}
    nodata = attributes.get("_FillValue", 255)
    names = own if own and legend == "auto" else legend_of(path.name, legend)
    return Raster(str(path), values, transform, crs, int(nodata), names)


def _corner(text: str, *, packed: bool) -> Iterator[float]:
    """Coordinates of a corner; of a geographic grid they are packed as DDDMMMSSS.SS."""
    for number in map(float, text.strip("()").split(",")):
        size = abs(number)
        degrees = size // 1e6 + size % 1e6 // 1e3 / 60 + size % 1e3 / 3600
        yield float(np.copysign(degrees, number)) if packed else number
