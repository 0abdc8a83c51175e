"""Polygons of GeoJSON files that users bring."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape

__all__ = ["joined", "polygon_of"]


def polygon_of(feature: Any) -> Any:
    """Return the polygon of a GeoJSON feature, or of a geometry.

    Raises
    ------
    ValueError
        If it has none; shapely raises other things too.
    """
    if not isinstance(feature, dict):
        raise ValueError(f"it is a {type(feature).__name__}, not an object")
    geometry = feature.get("geometry", feature)
    if not isinstance(geometry, dict):
        raise ValueError("it has no geometry")
    with np.errstate(invalid="ignore"):  # told below
        outline = shape(geometry)
    if shapely.is_empty(shapely.get_parts(outline)).any():  # GEOS ends the process over one when it is cut into pieces
        raise ValueError("a part of it is empty")
    if not np.isfinite(shapely.get_coordinates(outline)).all():
        raise ValueError("a corner of it is not a number")
    return outline


def joined(outline: Any) -> Any:
    """Join parts cut at the antimeridian, as RFC 7946 has them; the polygon goes on beyond 180 degrees."""
    west, _, east, _ = outline.bounds
    if outline.geom_type != "MultiPolygon" or west > -180 or east < 180:
        return outline
    turned = [
        shapely.transform(p, lambda q: q + np.array([360.0, 0.0])) if p.bounds[2] <= 0 else p for p in outline.geoms
    ]
    return shapely.union_all(turned)
