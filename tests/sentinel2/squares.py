"""Names of the squares of the military grid, from coordinates: the other way round than the code reads them."""

from __future__ import annotations

import math

import pyproj

_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def square_at(x: float, y: float, epsg: int) -> str:
    """Return the tile whose corner's square of 100 km holds a place in UTM (NGA.STND.0037, appendix A)."""
    zone, south = epsg % 100, epsg >= 32700
    _, lat = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform(x, y)
    bands = _LETTERS[2:22]
    band = bands[min(len(bands) - 1, int((lat + 80) // 8))]
    column = _LETTERS[(8 * ((zone - 1) % 3) + int(x // 100_000) - 1)]
    north = y - (10_000_000 if south else 0)
    row = _LETTERS[:20][(math.floor(north / 100_000) + (0 if zone % 2 else 5)) % 20]
    return f"{zone:02d}{band}{column}{row}"
