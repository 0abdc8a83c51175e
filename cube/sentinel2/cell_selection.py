"""Which cells of a grid a build makes: by a box, a polygon, or their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape

from cube.sentinel2.grid import Cell, footprint
from stratacube.choices import many
from stratacube.errors import UsageError

__all__ = ["box_polygon", "select_cells"]


def select_cells(
    cells: Sequence[Cell],
    *,
    bbox: Sequence[float] | None = None,
    polygon: Mapping[str, Any] | None = None,
    ids: Sequence[str] | None = None,
) -> list[Cell]:
    """Keep the cells that share area with a box or polygon, or that are named.

    Parameters
    ----------
    cells
        All cells.
    bbox
        West, south, east, north in degrees; west > east means across the antimeridian.
    polygon
        GeoJSON geometry in longitude and latitude.
    ids
        Either name of a cell.

    Raises
    ------
    UsageError
        If nothing is left, an id is unknown, or south > north.
    """
    kept = list(cells)
    if ids is not None:
        if not ids:
            raise UsageError("no cell is named; name one, or give an area instead")
        named = {**{c.alias: c for c in kept if c.alias}, **{c.id: c for c in kept}}
        unknown = [i for i in ids if i not in named]
        if unknown:
            raise UsageError(f"cell {unknown[0]} is not in the grid of {len(kept)} cells")
        kept = list(dict.fromkeys(named[i] for i in ids))
    left = "of the grid" if ids is None else "named"
    areas = {} if bbox is None else {f"bbox {' '.join(map(str, bbox))}": box_polygon(bbox)}
    if polygon is not None:
        areas["the polygon"] = shape(polygon)
    for told, area in areas.items():
        near = _overlaps(footprint(kept), area)
        if not near.any():
            raise UsageError(f"{told} touches none of the {many(len(kept), 'cell')} {left}")
        kept = [c for c, n in zip(kept, near, strict=True) if n]
        left = f"that {told} touches"
    return kept


def box_polygon(bbox: Sequence[float]) -> shapely.Polygon:
    """Return a box in degrees as a polygon, which goes on beyond 180 degrees where west > east.

    Raises
    ------
    UsageError
        If it is none on the globe, or has no area.
    """
    west, south, east, north = (float(b) for b in bbox)
    if south >= north:
        raise UsageError(f"`bbox` has south {south} and north {north}; give west south east north with south < north")
    if not (south >= -90 and north <= 90 and -180 <= west <= 180 and -180 <= east <= 180):
        raise UsageError(f"`bbox` {west} {south} {east} {north} leaves the globe; give degrees, west south east north")
    if west == east:
        raise UsageError(f"`bbox` has west and east both {west}; give an area")
    return shapely.box(west, south, east + 360 if west > east else east, north)


def _overlaps(areas: npt.NDArray[np.object_], wanted: Any) -> npt.NDArray[np.bool_]:
    """Areas that share more than an edge with a polygon, taken round the globe."""
    found = np.zeros(len(areas), bool)
    for turn in (-360.0, 0.0, 360.0):
        moved = shapely.transform(wanted, lambda p, t=turn: p + np.array([t, 0.0]))
        shapely.prepare(moved)
        near = shapely.intersects(moved, areas)
        found[near] |= ~shapely.touches(areas[near], moved)
    return found
