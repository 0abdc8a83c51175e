"""Which cells of a grid a build makes: by a box, a polygon, or their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape

from cube.sentinel2.grid import Cell, footprint
from stratacube.errors import UsageError

__all__ = ["select_cells"]


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
        named = {**{c.alias: c for c in kept if c.alias}, **{c.id: c for c in kept}}
        unknown = [i for i in ids if i not in named]
        if unknown:
            raise UsageError(f"cell {unknown[0]} is not in the grid of {len(kept)} cells")
        kept = list(dict.fromkeys(named[i] for i in ids))
    for area in (_box(bbox) if bbox is not None else None, shape(polygon) if polygon is not None else None):
        if area is not None:
            near = _overlaps(footprint(kept), area)
            kept = [c for c, n in zip(kept, near, strict=True) if n]
    if not kept:
        told = f"bbox {' '.join(map(str, bbox))}" if bbox is not None else "the polygon"
        raise UsageError(f"{told} touches none of the {len(cells)} cells of the grid")
    return kept


def _box(bbox: Sequence[float]) -> Any:
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
