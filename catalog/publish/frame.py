"""Where a tile lies on the fixed grid, in the terms of the projection, datacube and view extensions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyproj

__all__ = ["Geostationary", "TileFrame", "geostationary"]


@dataclass(frozen=True)
class Geostationary:
    """What is asked of a geostationary projection for every tile, worked out once."""

    crs: pyproj.CRS
    height: float
    """Perspective point height in metres: a metre of the projection is a scan angle times this."""
    longitude: float
    """Longitude of the satellite in degrees east."""
    wkt: str
    """WKT 2, from which every reader of the projection extension can make the CRS."""


@cache
def geostationary(crs: pyproj.CRS) -> Geostationary:
    """Return the facts of a projection."""
    cf = crs.to_cf()
    return Geostationary(
        crs,
        float(cf["perspective_point_height"]),
        float(cf["longitude_of_projection_origin"]),
        crs.to_wkt(),
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
        return [step, 0.0, self.x_left * height, 0.0, -step, self.y_top * height]

    @property
    def bbox(self) -> list[float]:
        """West, south, east, north in metres."""
        step, _, left, _, _, top = self.transform
        return [left, top - step * self.size, left + step * self.size, top]

    @property
    def off_nadir(self) -> float:
        """Angle at the satellite between nadir and the tile's centre, in degrees."""
        half = self.pixel * self.size / 2
        x, y = self.x_left + half, self.y_top - half
        return round(float(np.degrees(np.arccos(np.cos(x) * np.cos(y)))), 3)

    def azimuth(self, longitude: float, latitude: float) -> float:
        """Direction from the sub-satellite point to a place, in degrees clockwise from north."""
        geod = self.projection.crs.get_geod()
        if geod is None:  # a projection of no datum; never so for a fixed grid
            raise ValueError(f"{self.projection.crs.name} has no ellipsoid")
        forward, _, _ = geod.inv(self.projection.longitude, 0.0, longitude, latitude)
        return round(float(forward) % 360.0, 3) % 360.0

    def proj_fields(self) -> dict[str, Any]:
        """Fields of the projection extension: the fixed grid has no code of an authority."""
        return {
            "proj:code": None,
            "proj:wkt2": self.projection.wkt,
            "proj:shape": [self.size, self.size],
            "proj:transform": self.transform,
            "proj:bbox": self.bbox,
        }

    def dimension(self, axis: str, length: int) -> dict[str, Any]:
        """Return the dimension object of ``axis`` (``x`` or ``y``) with ``length`` pixels."""
        west, south, east, north = self.bbox
        extent = [west, east] if axis == "x" else [south, north]
        step = (extent[1] - extent[0]) / length
        return {
            "type": "spatial",
            "axis": axis,
            "extent": extent,
            "step": step if axis == "x" else -step,
            "unit": "m",
            "reference_system": self.projection.wkt,
        }
