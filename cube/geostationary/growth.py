"""A build that grows: more tiles of the same draw are appended to its plan and to its store."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from cube.geostationary.grid import GeosProjection
from cube.geostationary.plan_table import Plan, PlanRows, PlanTable
from cube.geostationary.projections import distinct

__all__ = ["grown_plan"]


def grown_plan(before: PlanTable, plan: Plan) -> Plan:
    """Append to the plan that is there what a larger draw has besides.

    Parameters
    ----------
    before
        The plan that is there; its tiles keep their numbers.
    plan
        The larger draw, which has those of the smaller one.
    """
    rows = before.frame()
    rows.attrs = {"projections": [asdict(view) for view in before.projections]}
    tiles = _grown(rows, plan.tiles, before.per_shard)
    return replace(plan, rows=tiles, per_shard=before.per_shard, grown=(*before.grown, before.tiles))


def _grown(before: pd.DataFrame, after: pd.DataFrame, per_shard: int) -> PlanRows:
    """Rows of before, with the chances of the larger draw, then the new ones in order of time."""
    views = distinct(_views(before) + _views(after))
    keys = [_keys(before), _keys(after)]
    known, found = set(keys[0]), dict(zip(keys[1], after.index, strict=True))
    new = after[[key not in known for key in keys[1]]]
    # Those of before that are not drawn any more, for an archive that has changed, have taken the place of others.
    new = new.sort_values("rank").head(max(0, len(after) - len(before))).sort_index()
    kept = before.copy()
    for name in ("probability", "rank"):
        if name in before:
            here = [found.get(key) for key in keys[0]]
            kept[name] = [
                old if i is None else after.at[i, name] for i, old in zip(here, before[name].tolist(), strict=True)
            ]
    parts = []
    for part, own in ((kept, _views(before)), (new, _views(after))):
        numbers = [views.index(own[n]) for n in part["projection"]]
        parts.append(part.assign(projection=np.array(numbers, "i8")))
    rows = pd.concat(parts, ignore_index=True)
    rows["tile"] = np.arange(len(rows))
    rows["shard"] = rows["tile"] // per_shard
    return PlanRows.of(rows, views)


def _views(plan: pd.DataFrame) -> list[GeosProjection]:
    return [GeosProjection(**told) for told in plan.attrs["projections"]]


def _keys(plan: pd.DataFrame) -> list[tuple[Any, ...]]:
    """What tells the pixels and times of each tile; see :attr:`cube.geostationary.plan_table.Spot.content`."""
    return [
        (round(row.x_left * 1e9), round(row.y_top * 1e9), tuple(name for name in row.scan_ids if name))
        for row in plan.itertuples()
    ]
