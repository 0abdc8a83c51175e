"""Pixels in their place: coordinates that other libraries understand, selection by places, other projections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.projections import parse_projection, read_views
from cube.instrument import instrument_of
from stratacube.errors import UsageError
from stratacube.guard import reason_of

__all__ = ["coordinates", "mapping_variable", "one_tile", "pixels_at", "projection_of", "reproject", "within_bbox"]

D = TypeVar("D", xr.Dataset, xr.DataArray)


def coordinates(grid: FixedGrid, suffix: str = "") -> dict[str, xr.Variable]:
    """Coordinates of the columns and rows of a grid.

    Parameters
    ----------
    grid
        The pixels.
    suffix
        Of the dimensions' names, where a dataset has several grids.

    Returns
    -------
    dict
        ``x`` and ``y`` of the pixels' centres in metres, which is scan angle times the height of the satellite: the
        projection coordinates of PROJ's ``geos``. ``x_rad`` and ``y_rad`` are the scan angles in radians.
    """
    height, found = grid.projection.perspective_point_height, {}
    for axis, angles in (("x", grid.x), ("y", grid.y)):
        name, dims = f"projection_{axis}_coordinate", (axis + suffix,)
        shared = {"standard_name": name, "axis": axis.upper()}
        found[axis + suffix] = xr.Variable(dims, angles * height, {**shared, "units": "m"})
        found[f"{axis}{suffix}_rad"] = xr.Variable(dims, angles, {"long_name": "scan angle", "units": "rad"})
    return found


def mapping_variable(projection: GeosProjection) -> xr.Variable:
    """Grid mapping of a projection, a scalar that goes with any selection when it is a coordinate."""
    return xr.Variable((), np.int32(0), {**projection.cf_attributes(), "crs_wkt": projection.crs.to_wkt()})


def one_tile(tiles: xr.Dataset, tile: int) -> xr.Dataset:
    """Take one tile of an opened store, in its place on the Earth.

    Parameters
    ----------
    tiles
        As :func:`cube.open_tiles` gives them.
    tile
        Number of the tile; negative ones count from the end.

    Returns
    -------
    Dataset
        The tile's variables of (time, y, x), lazy where they were, with ``x`` and ``y`` in metres, scan angles
        ``x_rad`` and ``y_rad``, and the grid mapping as a coordinate; so that ``.rio`` (after ``import rioxarray``),
        ``.odc`` (after ``import odc.geo.xr``) and CF readers know where it lies. Bands that are kept at pixels of
        their own have coordinates of their own.

    Raises
    ------
    UsageError
        If there is no such tile, or these are not tiles.
    """
    if "tile" not in tiles.dims or "x_left" not in tiles:
        raise UsageError("`tiles` are not tiles of a store with a dimension 'tile'; give what open_tiles returns")
    number, count = int(tile), tiles.sizes["tile"]
    if not -count <= number < count:
        raise UsageError(f"`tile` is {number}, but there are {count} tiles; give 0 to {count - 1}")
    number %= count
    view = read_views(tiles)[number]
    others = [str(name) for name in tiles.variables if "grid_mapping_name" in tiles[name].attrs]
    data = tiles.drop_vars([*others, *({"projection"} & {*map(str, tiles.variables)})]).isel(tile=number)
    side = _side(tiles)
    for dim in [str(d) for d in data.dims if str(d) == "x" or str(d).startswith("x_")]:
        suffix = dim.removeprefix("x")
        if suffix == "_coarse" or "y" + suffix not in data.dims:  # of a few angles between the pixels
            continue
        height, width = data.sizes["y" + suffix], data.sizes[dim]
        pixel = side / width
        left, top = float(data["x_left"]), float(data["y_top"])
        grid = FixedGrid(view, left + pixel / 2, top - pixel / 2, pixel, -pixel, height, width)
        data = data.assign_coords(coordinates(grid, suffix))
    mapping = others[0].removesuffix("_0") if others else "projection"
    data = data.assign_coords({mapping: mapping_variable(view)})
    for variable in data.data_vars.values():
        if variable.ndim >= 2 and str(variable.dims[-1]).startswith("x") and variable.dims[-1] != "x_coarse":
            variable.attrs["grid_mapping"] = mapping
    return data


def _side(tiles: xr.Dataset) -> float:
    """Side of a tile in radians."""
    grid = str(tiles.attrs["grid"])
    grid = "1km" if grid == "native" else grid  # tiles whose bands have pixels of their own are counted so
    metres = float(grid.removesuffix("km").removesuffix("m")) * (1000 if grid.endswith("km") else 1)
    (pixel,) = {r.pixel_urad for r in instrument_of(tiles.attrs).scan.resolutions if r.metres == metres}
    return float(tiles.attrs["tile_size"]) * pixel * 1e-6


def pixels_at(data: D, latitude: Any, longitude: Any) -> D:
    """Select the pixels that see some places.

    Parameters
    ----------
    data
        On a grid with ``x`` and ``y`` in metres, such as a group of :func:`cube.open_abi` or :func:`one_tile`.
    latitude, longitude
        Degrees: two numbers, or arrays of one shape, whose dimension is then called ``place``.

    Returns
    -------
    Dataset or DataArray
        Lazily the pixel that each place lies in; whatever was lazy stays so.

    Raises
    ------
    UsageError
        If a place is not seen by the satellite, or lies outside the grid.
    """
    view = projection_of(data)
    lat, lon = np.broadcast_arrays(np.asarray(latitude, "f8"), np.asarray(longitude, "f8"))
    x, y = (angle * view.perspective_point_height for angle in view.to_angles(lon, lat))
    picked = {}
    for axis, values in (("x", x), ("y", y)):
        centres = data[axis].values
        step = (centres[-1] - centres[0]) / max(1, len(centres) - 1) if len(centres) > 1 else np.inf
        position = np.rint((values - centres[0]) / step)
        outside = ~((position >= 0) & (position < len(centres)))  # of what is not seen, too
        if outside.any():
            first = np.flatnonzero(outside.ravel())[0]
            place = f"latitude {lat.ravel()[first]:g}, longitude {lon.ravel()[first]:g}"
            seen = "lies outside of these pixels" if np.isfinite(values.ravel()[first]) else "is not seen from there"
            raise UsageError(f"{place} {seen}; give places within them")
        position = position.astype("i8")
        picked[axis] = xr.Variable((), position) if position.ndim == 0 else xr.Variable("place", position)
    return data.isel(picked)


def within_bbox(data: D, bbox: Sequence[float]) -> D:
    """Cut the smallest rectangle of pixels that holds what lies in a box.

    Parameters
    ----------
    data
        As for :func:`pixels_at`.
    bbox
        West, south, east and north in degrees; a box over the antimeridian has a west greater than its east.

    Raises
    ------
    UsageError
        If this is not a box, or the satellite sees none of it here.
    """
    try:
        west, south, east, north = map(float, bbox)
    except (TypeError, ValueError) as error:
        raise UsageError(f"`bbox` is {bbox!r}; give west, south, east and north in degrees") from error
    if not (-90 <= south < north <= 90):
        raise UsageError(f"`bbox` has south {south:g} and north {north:g}; give south < north between -90 and 90")
    view = projection_of(data)
    # A box is a curved shape to the satellite, which may see a part of it only: all of its own pixels' places decide.
    x, y = data["x"].values, data["y"].values
    lon, lat = view.to_lonlat(*(v / view.perspective_point_height for v in np.meshgrid(x, y, sparse=True)))
    inside = (lat >= south) & (lat <= north) & ((lon - west) % 360 <= (east - west) % 360 + 360 * (east - west >= 360))
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        raise UsageError(f"`bbox` {west:g} {south:g} {east:g} {north:g} holds none of these pixels; give another")
    return data.isel(y=slice(rows[0], rows[-1] + 1), x=slice(cols[0], cols[-1] + 1))


def reproject(data: D, how: Any, *, resampling: str = "nearest", **grid: Any) -> D:
    """Bring pixels into another projection, lazily.

    Parameters
    ----------
    data
        As for :func:`pixels_at`.
    how
        A CRS, such as ``"EPSG:4326"``, or an ``odc.geo.geobox.GeoBox``.
    resampling
        ``nearest``, ``bilinear`` or any other of GDAL's.
    **grid
        Of a CRS: ``resolution`` in its units, ``shape`` and others of ``odc.geo.xr.xr_reproject``.

    Returns
    -------
    Dataset or DataArray
        NaN where the satellite sees nothing.

    Raises
    ------
    UsageError
        If there is no such projection or resampling, or it shows nothing of these pixels.
    """
    projection_of(data)
    images = data
    if isinstance(data, xr.Dataset):
        images = data[[n for n, v in data.data_vars.items() if v.dims[-2:] == ("y", "x") and v.dtype.kind == "f"]]
    images = images.drop_vars([n for n in ("x_rad", "y_rad") if n in images.coords])
    import odc.geo.xr  # noqa: PLC0415  (a second, which opening a cube need not wait for)

    try:
        return odc.geo.xr.xr_reproject(images, how, resampling=resampling, **grid)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise UsageError(f"pixels cannot be brought to {how} by {resampling}: {reason_of(error)}") from error


def projection_of(data: xr.Dataset | xr.DataArray) -> GeosProjection:
    """Projection of the grid of pixels, by their grid mapping.

    Raises
    ------
    UsageError
        If they have none, or no ``x`` and ``y``.
    """
    for coordinate in data.coords.values():
        if coordinate.attrs.get("grid_mapping_name") == "geostationary" and {"x", "y"} <= {*data.coords}:
            return parse_projection(coordinate.attrs)
    raise UsageError(
        "`data` has no x and y in metres with their grid mapping; give a group of open_abi, or one_tile of open_tiles"
    )
