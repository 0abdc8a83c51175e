"""Where and when the windows of a cube lie, for splits within it and for the checker of splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from pyproj import CRS, Transformer

from catalog.leaks import Extents
from loaders.cubes import CubeDataset
from stratacube.errors import UsageError

__all__ = ["crs_of", "rings_of", "unit_of", "window_extents"]

Floats = npt.NDArray[np.float64]

_SIDE = 5
"""Points along a side of an outline: sides of a map are no arcs."""
_ANY_TIME = np.datetime64("1970-01-01T00:00", "us")
"""Of cubes without times: they all are of one."""


def window_extents(cube: xr.Dataset | xr.DataArray, windows: CubeDataset) -> Extents:
    """What the windows of a cube cover, wherever they are moved within their reach.

    Parameters
    ----------
    cube
        With coordinates of its last two dimensions, and a grid mapping (``spatial_ref``).
    windows
        Made of it.

    Raises
    ------
    UsageError
        If the cube does not say where it lies.
    """
    first, end = windows.reach()
    return _extents(cube, windows.dims, first, end)


def _extents(cube: xr.Dataset | xr.DataArray, dims: tuple[str, ...], first: Any, end: Any) -> Extents:
    start, last = _times(cube, dims, first, end)
    return Extents.of(list(rings_of(cube, dims, first, end)), start, last)


def rings_of(cube: xr.Dataset | xr.DataArray, dims: tuple[str, ...], first: Any, end: Any) -> Floats:
    """Outlines of boxes of a cube, longitudes and latitudes in degrees; infinite where the Earth is not seen.

    Parameters
    ----------
    cube
        As of :func:`window_extents`.
    dims
        Of its bands; the last two are the image.
    first, end
        (boxes, dims): first index, and that after the last.

    Raises
    ------
    UsageError
        If the cube does not say where it lies.
    """
    edges = [_edges(cube, d) for d in dims[-2:]]
    to_earth = Transformer.from_crs(crs_of(cube), "EPSG:4326", always_xy=True)
    share = np.arange(_SIDE) / _SIDE
    ones = np.ones(_SIDE)
    across = np.concatenate([share, ones, 1 - share, 0 * ones])
    down = np.concatenate([0 * ones, share, ones, 1 - share])
    sides = [(e[a][:, None], e[b][:, None]) for e, a, b in zip(edges, first[:, -2:].T, end[:, -2:].T, strict=True)]
    (top, bottom), (left, right) = sides
    lon, lat = to_earth.transform(left + (right - left) * across, top + (bottom - top) * down)
    rings: Floats = np.stack([lon, lat], axis=-1)
    return rings


def _edges(cube: xr.Dataset | xr.DataArray, dim: str) -> Floats:
    """Coordinates of the borders of pixels, one more than those."""
    if dim not in cube.coords or cube.sizes[dim] < 2:
        raise UsageError(f"the cube has no coordinates of {dim}, so it does not say where it lies; it cannot be split")
    centres = cube[dim].values.astype("f8")
    step = centres[1] - centres[0]
    found: Floats = np.append(centres - step / 2, centres[-1] + step / 2) * unit_of(cube, dim)
    return found


def unit_of(cube: xr.Dataset | xr.DataArray, dim: str) -> float:
    """Metres of the CRS a unit of a coordinate: of scan angles the height from which they are seen."""
    if cube[dim].attrs.get("units") not in ("rad", "radian", "radians"):
        return 1.0
    heights = [
        v.attrs["perspective_point_height"] for v in cube.coords.values() if "perspective_point_height" in v.attrs
    ]
    if isinstance(cube, xr.Dataset):
        heights += [v.attrs["perspective_point_height"] for v in cube.values() if "perspective_point_height" in v.attrs]
    return float(heights[0]) if heights else 1.0


def crs_of(cube: xr.Dataset | xr.DataArray) -> CRS:
    """CRS of a cube, by its grid mapping.

    Raises
    ------
    UsageError
        If it has none.
    """
    for variable in cube.coords.values() if isinstance(cube, xr.DataArray) else cube.variables.values():
        text = variable.attrs.get("crs_wkt") or variable.attrs.get("spatial_ref")
        if text:
            return CRS.from_user_input(text)
    raise UsageError("the cube does not tell its CRS (no grid mapping with crs_wkt), so it cannot be split by place")


def _times(cube: xr.Dataset | xr.DataArray, dims: tuple[str, ...], first: Any, end: Any) -> tuple[Any, Any]:
    if "time" in dims and "time" in cube.coords and cube["time"].dtype.kind == "M":
        (start, last), place = _periods(cube), dims.index("time")
        return start[first[:, place]], last[end[:, place] - 1]
    same = np.full(len(first), _ANY_TIME)
    return same, same


def _periods(cube: xr.Dataset | xr.DataArray) -> tuple[Any, Any]:
    """First and last moment of each time: of a composite those of its period, whose end belongs to the next."""
    times = cube["time"]
    name = times.encoding.get("bounds", times.attrs.get("bounds"))
    known = cube.coords if isinstance(cube, xr.DataArray) else cube.variables
    if name not in known:
        return times.values.astype("M8[us]"), times.values.astype("M8[us]")
    bounds = np.asarray(known[name].values, "M8[us]")
    return bounds[:, 0], np.maximum(bounds[:, 0], bounds[:, 1] - np.timedelta64(1, "us"))
