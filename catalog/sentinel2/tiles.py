"""Where the tiles of Sentinel-2 lie: squares of the military grid (MGRS), laid on pixels of 60 m.

A tile is named after the 100 km square at its north-western corner and reaches 109.8 km east and south from there. Its
corner lies on multiples of 60 m, so that pixels of 10, 20 and 60 m fit: west and north of the square's, counted from
the central meridian's false easting and from the equator.

Source: NGA.STND.0037, appendix A (letters of the squares); ESA, Sentinel-2 level-1C tiling grid (corners), with which
the real metadata of 24 tiles agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyproj
import shapely

from stratacube.errors import SourceError

__all__ = ["SIDE", "Ground", "TileGrid", "beside", "check_grid", "size_remark", "tile_bbox", "tile_grid", "touches"]

SIDE = 109_800
"""Metres along a tile."""

_SQUARE = 100_000
_STEP = 60
_COLUMNS = ("ABCDEFGH", "JKLMNPQR", "STUVWXYZ")
"""Letters from the west, of zones 1, 2, 3 and so on in turn."""
_ROWS = "ABCDEFGHJKLMNPQRSTUV"
"""Letters from the equator to the north, again and again; those of even zones begin at F."""
_BANDS = "CDEFGHJKLMNPQRSTUVWX"
"""Of 8 degrees each, from 80 S."""
_METRES_A_DEGREE = 110_900.0
"""Of latitude, about: it tells cycles of 2,000 km apart."""
_FALSE_NORTHING = 10_000_000
_TILE = re.compile(r"(\d{2})([A-Z])([A-Z])([A-Z])")


class Ground(NamedTuple):
    """A rectangle in a CRS."""

    proj_code: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


class TileGrid(NamedTuple):
    """A tile's place."""

    proj_code: str
    ulx: int
    uly: int
    """North-western corner in metres."""

    @property
    def ground(self) -> Ground:
        """All of the tile."""
        return Ground(self.proj_code, self.ulx, self.uly - SIDE, self.ulx + SIDE, self.uly)


def tile_grid(tile: str) -> TileGrid:
    """Return where a tile lies, by its name.

    Parameters
    ----------
    tile
        Such as ``33TWL``.

    Raises
    ------
    SourceError
        If there is no such square.
    """
    match = _TILE.fullmatch(tile)
    if match is None or not 1 <= int(match[1]) <= 60:
        raise SourceError(f"{tile!r} is not the name of a Sentinel-2 tile (such as 33TWL)")
    zone, band = int(match[1]), _BANDS.find(match[2])
    column, row = _COLUMNS[(zone - 1) % 3].find(match[3]), _ROWS.find(match[4])
    if min(band, column, row) < 0:
        raise SourceError(f"tile {tile} does not exist: zone {zone} has no square {match[2]} {match[3]}{match[4]}")
    north = (row - (5 if zone % 2 == 0 else 0)) % len(_ROWS) * _SQUARE
    cycle = len(_ROWS) * _SQUARE
    # Band X is of 12 degrees, which moves its middle by less than what tells one cycle from the next.
    middle = (8 * band - 76) * _METRES_A_DEGREE
    north += cycle * round((middle - north - _SQUARE / 2) / cycle)
    south = match[2] < "N"
    uly = math.ceil((north + _SQUARE) / _STEP) * _STEP + (_FALSE_NORTHING if south else 0)
    ulx = math.floor((column + 1) * _SQUARE / _STEP) * _STEP
    return TileGrid(f"EPSG:{(32700 if south else 32600) + zone}", ulx, uly)


@lru_cache(maxsize=4096)
def _outline(ground: Ground) -> shapely.Polygon:
    """Outline in longitude and latitude; across the antimeridian it goes on beyond 180 degrees."""
    box = shapely.box(*ground[1:])
    ring = np.array(box.segmentize(max(ground.xmax - ground.xmin, ground.ymax - ground.ymin) / 8).exterior.coords)
    lon, lat = pyproj.Transformer.from_crs(ground.proj_code, "EPSG:4326", always_xy=True).transform(*ring.T)
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
    return shapely.Polygon(np.column_stack([lon, lat]))


def tile_bbox(tile: str) -> tuple[float, float, float, float]:
    """West, south, east, north of a tile in degrees; west > east across the antimeridian."""
    west, south, east, north = _outline(tile_grid(tile).ground).bounds
    west, east = ((x + 180) % 360 - 180 for x in (west, east))
    return west, south, east, north


def touches(ground: Ground, box: tuple[float, float, float, float]) -> bool:
    """Whether some ground lies under a box of degrees, west <= east."""
    outline, wanted = _outline(ground), shapely.box(*box)
    return any(outline.intersects(shapely.affinity.translate(wanted, turn)) for turn in (-360.0, 0.0, 360.0))


def check_grid(name: str, tile: str, proj_code: str | None, shape: tuple[int, int], transform: Sequence[float]) -> None:
    """Refuse a grid that cannot be its tile's. One of a part of a tile may lie anywhere: see :func:`beside`.

    Parameters
    ----------
    name
        What tells the grid, for the message.
    tile
        The tile that it should be of.
    proj_code
        Its CRS.
    shape
        Rows and columns.
    transform
        Pixel to CRS in affine order.

    Raises
    ------
    SourceError
        If it is elsewhere.
    """
    try:
        there = tile_grid(tile)
    except SourceError as error:
        raise SourceError(f"{name}: {error}") from error
    dx, b, ulx, d, dy, uly = (float(n) for n in transform[:6])
    rows, cols = shape
    wrong = f"{name}: tile {tile} lies in {there.proj_code} with its corner at {there.ulx} {there.uly}"
    if proj_code != there.proj_code:
        raise SourceError(f"{wrong}, but its grid is said to be in {proj_code}; fetch the product again")
    known = 0 < dx < SIDE and dy == -dx and rows >= 1 and cols >= 1 and max(rows, cols) * dx <= SIDE
    if b or d or not known or not (math.isfinite(ulx) and math.isfinite(uly)):
        raise SourceError(
            f"{name}: {rows} x {cols} pixels of {dx:g} x {dy:g} m from {ulx:.10g} {uly:.10g} are not the grid of a tile"
        )
    if min(rows, cols) * dx == SIDE and (ulx, uly) != (there.ulx, there.uly):
        raise SourceError(f"{wrong}, but its grid begins at {ulx:.10g} {uly:.10g}; fetch the product again")


def beside(tile: str, shape: tuple[int, int], transform: Sequence[float]) -> bool:
    """Whether some of a grid does not lie on its tile.

    Parameters
    ----------
    tile, shape, transform
        As of :func:`check_grid`; the corner and the far edges are compared.
    """
    there, (rows, cols) = tile_grid(tile), shape
    east, south = transform[2] - there.ulx, there.uly - transform[5]
    return min(east, south) < 0 or east + cols * transform[0] > SIDE or south - rows * transform[4] > SIDE


def size_remark(shape: tuple[int, int] | None, transform: Sequence[float] | None) -> str:
    """Say that a grid is of a part of a tile; empty where it is of a whole one, or not known."""
    if shape is None or transform is None:
        return ""
    side = round(SIDE / transform[0])
    if tuple(shape) == (side, side):
        return ""
    return f"{shape[0]} x {shape[1]} pixels of {transform[0]:g} m where a whole tile has {side} x {side}"
