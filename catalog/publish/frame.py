"""Where a tile lies on the fixed grid, in the terms of the projection and view extensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyproj

__all__ = ["Geostationary", "TileFrame", "geostationary"]


@dataclass(frozen=True)
class Geostationary:
    """What is asked of a geostationary projection for every tile, worked out once."""

    geod: pyproj.Geod
    """Its ellipsoid."""
    height: float
    """Perspective point height in metres: a metre of the projection is a scan angle times this."""
    longitude: float
    """Longitude of the satellite in degrees east."""
    wkt: str
    """WKT 2, from which every reader of the projection extension can make the CRS; short, for each item has it."""

    def proj_fields(self) -> dict[str, Any]:
        """Fields of the projection extension that say which it is: a fixed grid has no code of an authority."""
        return {"proj:code": None, "proj:wkt2": self.wkt}


def geostationary(crs: pyproj.CRS) -> Geostationary:
    """Return the facts of a projection."""
    cf = crs.to_cf()
    geod = crs.get_geod()
    if geod is None:  # a projection of no datum; never so for a fixed grid
        raise ValueError(f"{crs.name} has no ellipsoid")
    return Geostationary(
        geod,
        float(cf["perspective_point_height"]),
        float(cf["longitude_of_projection_origin"]),
        crs.to_wkt("WKT2_2019_SIMPLIFIED"),
    )


@dataclass(frozen=True)
class TileFrame:
    """A square of pixels: scan angles of its outer north-west corner and side of a pixel, in radians."""

    projection: Geostationary
    x_left: float
    y_top: float
    pixel: float
    size: int

    @property
    def transform(self) -> list[float]:
        """Affine transform from column and row to metres."""
        height = self.projection.height
        step = self.pixel * height
        return [round(m, 6) for m in (step, 0.0, self.x_left * height, 0.0, -step, self.y_top * height)]

    @property
    def off_nadir(self) -> float:
        """Angle at the satellite between nadir and the tile's centre, in degrees."""
        half = self.pixel * self.size / 2
        x, y = self.x_left + half, self.y_top - half
        return round(float(np.degrees(np.arccos(np.cos(x) * np.cos(y)))), 3)

    def azimuth(self, longitude: float, latitude: float) -> float:
        """Direction from the sub-satellite point to a place, in degrees clockwise from north."""
        forward, _, _ = self.projection.geod.inv(self.projection.longitude, 0.0, longitude, latitude)
        return round(float(forward) % 360.0, 3) % 360.0

    def proj_fields(self) -> dict[str, Any]:
        """Fields of the projection extension that say where in its CRS it lies."""
        return {
            "proj:shape": [self.size, self.size],
            "proj:transform": self.transform,
        }
