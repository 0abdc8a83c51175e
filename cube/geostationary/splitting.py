"""The split of each tile of a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np

from catalog.leaks import Extents
from catalog.splits import SplitRule
from cube.geostationary.outline import footprint_ring
from cube.geostationary.plan_table import Spot
from cube.strata.select import Placed

__all__ = ["splits_of"]


def splits_of(
    rule: SplitRule, side: float, tiles: Sequence[Placed[Spot]], kept: Mapping[int, str] | None = None
) -> list[str]:
    """Split tiles.

    Parameters
    ----------
    rule
        By which.
    side
        Of a tile, in radians.
    tiles
        In the order in which they were drawn.
    kept
        By their numbers, the splits of those that have one already.
    """
    rings = []
    for placed in tiles:
        spot = placed.payload
        left, top = spot.grid.left + spot.col * spot.grid.dx, spot.grid.top + spot.row * spot.grid.dy
        rings.append(footprint_ring(spot.grid.projection, left, top, side))
    times = [_times(placed) for placed in tiles]
    extents = Extents.of(
        rings,
        np.array([min(t) for t in times], "M8[us]"),
        np.array([max(t) for t in times], "M8[us]"),
        [placed.candidate.system_id or placed.candidate.details.get("event_id") for placed in tiles],
    )
    found: list[str] = rule.assign(extents, kept).tolist()
    return found


def _times(placed: Placed[Spot]) -> list[datetime]:
    """When its frames were seen, or are asked for where there is no scan."""
    return [f.scan.start if f.scan else f.time for f in placed.payload.frames]
