"""Grids in metres for an area: polar stereographic, equal-area about the pole, and UTM.

Pixels of EPSG:4326 crowd towards the pole: at 70 N one of 20 m is 6.8 m wide, and a build has 2.9 times as many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import shapely

from cube.sentinel2.cell_selection import box_polygon, select_cells
from cube.sentinel2.grid import box_around, grid_cells, make_grid
from stratacube.errors import UsageError

__all__ = ["CELL_METRES", "crowding", "grid_of_preset", "preset_command"]

CELL_METRES = 20_000.0
"""Side of a cell of a preset: 1000 pixels of 20 m."""

_ARCTIC = (-180.0, 60.0, 180.0, 90.0)
_POLAR = "EPSG:3413"
"""NSIDC's polar stereographic north: the grid of most Arctic data sets; true to scale at 70 N."""

_LAEA = {180: 3571, -150: 3572, -100: 3573, -40: 3574, 10: 3575, 90: 3576}
"""WGS 84 / North Pole LAEA of six regions, by the meridian that points down."""

_HALF = 3_600_000.0
"""About the distance of 58 N from the pole, in either; domains are squares of twice that."""

_WIDEST = 12.0
"""Degrees at the equator of an area that one UTM zone of 6 is made for."""

_CROWDED = 1.5
"""Times as many pixels from which it is worth a word."""


def grid_of_preset(preset: str, cell_size: float | None = None, bbox: Sequence[float] | None = None) -> pd.DataFrame:
    """Make the grid of a preset over an area.

    Cells are counted from one corner a preset, so that the grids of two areas have the same cells where they meet.

    Parameters
    ----------
    preset
        ``arctic`` (EPSG:3413), ``arctic-laea`` (the nearest of EPSG:3571 to 3576, equal-area) or ``utm`` (the zone of
        the middle of the area).
    cell_size
        Metres, 20,000 by default.
    bbox
        West, south, east and north in degrees; of ``arctic`` and ``arctic-laea`` all north of 60 N by default.

    Returns
    -------
    pandas.DataFrame
        As of :func:`cube.sentinel2.grid.make_grid`, of the cells that share ground with the area.

    Raises
    ------
    UsageError
        If the area is none on the globe or lies where the projection is of no use, there is none for ``utm``, or the
        size of cells is no positive number.
    """
    size = CELL_METRES if cell_size is None else cell_size
    if bbox is None and preset == "utm":
        raise UsageError("`preset` utm needs an area, which tells the zone; give `bbox`")
    if not 0 < size < math.inf:
        raise UsageError(f"`cell_size` is {size}; give a positive number")
    west, south, east, north = box_polygon(bbox or _ARCTIC).bounds
    if preset == "utm" and not _fits_a_zone(west, south, east, north):
        raise UsageError(
            f"`preset` utm is of one zone, 6 degrees wide, and `bbox` is {east - west:g} degrees wide; give `preset` "
            "arctic or arctic-laea, or areas of a few degrees one by one"
        )
    if preset != "utm" and south < 55:
        raise UsageError(
            f"`preset` {preset} is of the Arctic, and `bbox` begins at {south:g} N; give `preset` utm, or an area "
            "north of 55 N"
        )
    middle = (west + east) / 2
    code, corner = _projection(preset, (middle + 180) % 360 - 180, (south + north) / 2, size)
    xmin, ymin, xmax, ymax = _reach((west, south, east, north), code)
    left, right = (corner[0] + size * f((v - corner[0]) / size) for v, f in ((xmin, math.floor), (xmax, math.ceil)))
    top, bottom = (corner[1] - size * f((corner[1] - v) / size) for v, f in ((ymax, math.floor), (ymin, math.ceil)))
    frame = make_grid(size, (left, bottom, right, top), code, corner=corner)
    if east - west >= 360:  # a ring about the pole; no cell of a domain about it lies on both sides of an axis
        corners = np.abs([frame[["xmin", "ymin"]].to_numpy(), frame[["xmax", "ymax"]].to_numpy()])
        to_degrees = pyproj.Transformer.from_crs(code, "EPSG:4326", always_xy=True)
        _, northernmost = to_degrees.transform(*corners.min(axis=0).T)
        _, southernmost = to_degrees.transform(*corners.max(axis=0).T)
        return frame[(northernmost >= south) & (southernmost <= north)].reset_index(drop=True)
    wanted = {c.id for c in select_cells(grid_cells(frame), bbox=[west, south, (east + 180) % 360 - 180, north])}
    return frame[frame["tile_id_rc"].isin(wanted)].reset_index(drop=True)


def _projection(preset: str, lon: float, lat: float, size: float) -> tuple[str, tuple[float, float]]:
    """CRS of a preset at a place, and the north-western corner that its cells are counted from."""
    if preset == "utm":
        zone = int((lon + 180) // 6) + 1
        south = 10_000_000.0 if lat < 0 else 9_400_000.0
        return f"EPSG:{(32700 if lat < 0 else 32600) + min(zone, 60)}", (0.0, math.ceil(south / size) * size)
    half = math.ceil(_HALF / size) * size
    if preset == "arctic":
        return _POLAR, (-half, half)
    meridian = min(_LAEA, key=lambda m: abs((lon - m + 180) % 360 - 180))
    return f"EPSG:{_LAEA[meridian]}", (-half, half)


def _fits_a_zone(west: float, south: float, east: float, north: float) -> bool:
    """Whether UTM is of use in one zone, whose scale is off by half a per cent at twice the width of a zone."""
    nearest = max(south, -north, 0.0)
    return east - west < 180 and (east - west) * math.cos(math.radians(nearest)) <= _WIDEST


def _reach(bbox: tuple[float, float, float, float], crs: str) -> tuple[float, float, float, float]:
    """Bounds of an area in a CRS, its inside and the pole included."""
    lon, lat = np.meshgrid(np.linspace(bbox[0], bbox[2], 181), np.linspace(bbox[1], bbox[3], 61))
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def crowding(latitude: float) -> float:
    """Pixels of EPSG:4326 for one of a grid in metres of the same height."""
    return 1 / max(math.cos(math.radians(latitude)), 1e-3)


def preset_command(areas: Sequence[shapely.Geometry] | npt.NDArray[np.object_]) -> str | None:
    """Say what EPSG:4326 costs over some areas in degrees, and how that is avoided; None where it costs little.

    None too of an area south of 60 N that no UTM zone is wide enough for: there is no preset for it.
    """
    west, south, east, north = box_around(areas)
    latitude = float(south + north) / 2
    times = crowding(latitude)
    if times < _CROWDED:
        return None
    preset = "arctic" if south >= 60 else "utm"
    if preset == "utm" and not _fits_a_zone(west, south, east + 360 if west > east else east, north):
        return None
    where = " ".join(f"{v:.6g}" for v in (west, south, east, north))
    return (
        f"EPSG:4326 takes {times:.1f} times the pixels of a grid in metres at {abs(latitude):.0f} "
        f"{'N' if latitude >= 0 else 'S'}; without that: make-grid --preset {preset} --bbox {where} --output grid.csv, "
        "and `grid_csv` grid.csv"
    )
