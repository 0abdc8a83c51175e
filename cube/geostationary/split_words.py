"""What the planning of a build says of its splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from catalog.finer import MOST, lacking, remedy, told
from catalog.leaks import Extents
from catalog.splits import SplitRule
from cube.geostationary.outline import footprint_ring
from cube.geostationary.plan_table import PlanTable

__all__ = ["split_words"]


def split_words(rule: SplitRule | None, plan: PlanTable, side: float) -> Iterator[str]:
    """Yield how many tiles each split has and, where train or val has none, what would give it some.

    Parameters
    ----------
    rule
        By which they were split; of None nothing is told.
    plan
        With a column of splits.
    side
        Of a tile, in radians.
    """
    if rule is None:
        return
    counts: Counter[str] = Counter()
    for block in plan.blocks(["split"]):
        counts.update(block["split"])
    text = f"splits: {told(counts, rule.shares)}"
    if empty := lacking(rule, counts):
        text += f"; no tile is in {' or '.join(empty)}: {remedy(rule, lambda: _first(plan, side), 'split_')}"
    yield text


def _first(plan: PlanTable, side: float) -> Extents:
    """What the tiles cover that were drawn first, as many as a remedy is tried on, and one more."""
    columns = ["rank", "projection", "x_left", "y_top", "scan_starts", "requested_times", "system_id"]
    rows = plan.frame(columns).nsmallest(MOST + 1, "rank")
    rings = [footprint_ring(plan.projections[r.projection], r.x_left, r.y_top, side) for r in rows.itertuples()]
    times = [_times(r.scan_starts, r.requested_times) for r in rows.itertuples()]
    return Extents.of(rings, [min(t) for t in times], [max(t) for t in times], rows["system_id"].tolist())


def _times(starts: npt.ArrayLike, requested: npt.ArrayLike) -> npt.NDArray[np.datetime64]:
    seen, asked = (np.asarray(times, "M8[us]") for times in (starts, requested))
    return np.where(np.isnat(seen), asked, seen)
