"""Bounds of footprints, also across the antimeridian."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from catalog.sentinel2.query import BBox
from catalog.sentinel2.tiles import tile_bbox

__all__ = ["footprint_bbox", "ring_bbox"]


def footprint_bbox(geometry: Mapping[str, Any] | None, tile: str) -> BBox:
    """Bounds of a footprint, or of the tile where that is none: footprints decide nothing.

    Parameters
    ----------
    geometry
        GeoJSON, as it came.
    tile
        Such as ``33TWL``.
    """
    with suppress(TypeError, ValueError, LookupError, AttributeError):
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]  # type: ignore[index]
        return ring_bbox([(float(p[0]), float(p[1])) for polygon in polygons for p in polygon[0]])
    return tile_bbox(tile)


def ring_bbox(ring: Iterable[tuple[float, float]]) -> BBox:
    """West, south, east and north of longitudes and latitudes in degrees, west > east across the antimeridian.

    Raises
    ------
    ValueError
        If they are none.
    """
    points = list(ring)
    if not all(abs(x) <= 360 and abs(y) <= 90 for x, y in points):
        raise ValueError("not longitudes and latitudes")
    lon, lat = [(p[0] + 180) % 360 - 180 if abs(p[0]) > 180 else p[0] for p in points], [p[1] for p in points]
    if max(lon) - min(lon) > 180:
        return min(x for x in lon if x >= 0), min(lat), max(x for x in lon if x < 0), max(lat)
    return min(lon), min(lat), max(lon), max(lat)
