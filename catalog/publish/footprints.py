"""Footprints as GeoJSON wants them (RFC 7946): counterclockwise, and cut at the antimeridian."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import MultiPolygon, Polygon

from stratacube.errors import StratacubeError

__all__ = ["Box", "enclosing_box", "footprint"]

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees; west is greater than east where the antimeridian is crossed."""

DECIMALS = 5
"""Of a degree: a metre."""
STRAIGHT = 4e-3
"""Degrees by which an outline may leave out a bend: half a pixel of 1 km; of a small one, a hundredth of its extent."""


def footprint(ring: npt.ArrayLike) -> tuple[dict[str, Any], Box]:
    """Geometry and bounding box of a ring of longitudes and latitudes.

    Parameters
    ----------
    ring : array_like
        Shape (points, 2), degrees, open or closed, either way round. Neighbouring points are less than 180
        degrees apart; it does not enclose a pole (no geostationary view does).

    Returns
    -------
    geometry : dict
        A GeoJSON Polygon, or a MultiPolygon cut at the antimeridian. Points without which it is the same to
        :data:`STRAIGHT` are left out.
    bbox : Box
        Its bounds, RFC 7946 section 5.2.

    Raises
    ------
    StratacubeError
        If the ring has no area or is not finite.
    """
    points = np.asarray(ring, dtype="f8").reshape(-1, 2)
    if not np.isfinite(points).all() or len({*map(tuple, points.tolist())}) < 3:
        raise StratacubeError(
            f"a footprint needs three or more finite points, got {points.tolist()}; clip it at the limb first"
        )
    outline = np.column_stack([_unwrap(points[:, 0]), points[:, 1]])
    polygon = Polygon(outline).simplify(min(STRAIGHT, float(np.ptp(outline, axis=0).min()) / 100))
    parts = _parts(polygon)
    boxes = [part.bounds for part in parts]
    box = (boxes[0][0], min(b[1] for b in boxes), boxes[-1][2], max(b[3] for b in boxes))
    rings = [[_ring(part)] for part in parts]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}, _round(box)
    return {"type": "MultiPolygon", "coordinates": rings}, _round(box)


def enclosing_box(boxes: Iterable[Box] | npt.NDArray[np.float64]) -> Box:
    """Return the smallest box around boxes, over the antimeridian where that is smaller; an array has shape (n, 4)."""
    bounds = np.array(boxes if isinstance(boxes, np.ndarray) else [*boxes], "f8").reshape(-1, 4)
    south, north = float(bounds[:, 1].min()), float(bounds[:, 3].max())
    starts = bounds[:, 0] % 360.0
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], (starts + (bounds[:, 2] - bounds[:, 0]) % 360.0)[order]
    # How far the arcs before each one reach; before the first, those that go round.
    reach = np.maximum.accumulate([ends.max() - 360.0, *ends[:-1]])
    gaps = starts - reach
    widest = int(gaps.argmax())
    if gaps[widest] <= 0.0:
        return -180.0, south, 180.0, north
    west, east = _round((_wrap(float(starts[widest])), _wrap(float(reach[widest]))))
    return west, south, east, north


def _unwrap(longitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Continuous longitudes whose smallest is in [-180, 180)."""
    continuous: npt.NDArray[np.float64] = np.unwrap(longitude, period=360.0)
    turns = int(np.floor((continuous.min() + 180.0) / 360.0))
    return continuous - 360.0 * turns


def _parts(polygon: Polygon) -> list[Polygon]:
    """Return the pieces west and east of the antimeridian, west (longitudes near 180) first."""
    if polygon.bounds[2] <= 180.0:
        return [polygon]
    valid = polygon if polygon.is_valid else polygon.buffer(0)
    west = valid.intersection(shapely.box(-180.0, -90.0, 180.0, 90.0))
    east = valid.intersection(shapely.box(180.0, -90.0, 540.0, 90.0))
    return [*_polygons(west, 0.0), *_polygons(east, -360.0)]


def _polygons(shape: Any, shift: float) -> list[Polygon]:
    """Return the polygons of a shape with area, moved by ``shift`` degrees of longitude."""
    pieces = shape.geoms if isinstance(shape, MultiPolygon) else [shape]
    return [
        Polygon([(x + shift, y) for x, y in piece.exterior.coords])
        for piece in pieces
        if isinstance(piece, Polygon) and not piece.is_empty
    ]


def _ring(polygon: Polygon) -> list[list[float]]:
    """Return closed, counterclockwise coordinates."""
    exterior = polygon.exterior if polygon.exterior.is_ccw else polygon.exterior.reverse()
    points: list[list[float]] = (shapely.get_coordinates(exterior).round(DECIMALS) + 0.0).tolist()
    return points


def _wrap(longitude: float) -> float:
    """Longitude in (-180, 180]."""
    return 180.0 - (180.0 - longitude) % 360.0


def _round(values: tuple[float, ...]) -> Any:
    """Round, without negative zeros, as the points are: a double that is decimal to its last digit."""
    return tuple((np.round(values, DECIMALS) + 0.0).tolist())
