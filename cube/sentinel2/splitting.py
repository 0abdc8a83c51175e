"""The split of each composite of a plan, and what a run and its report say of splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from catalog.finer import MOST, lacking, remedy, told
from catalog.leaks import Extents
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import footprint
from cube.sentinel2.plan import Plan, PlannedCell
from stratacube.parquet import read_frame

__all__ = ["split_words", "splits_of", "splits_of_cells", "told_splits"]

_ALONG = 8
"""Points along a side of a cell: sides that are straight on its map are no arcs."""
_LAST = np.timedelta64(1, "us")
"""The end of a period belongs to the next."""


def splits_of(config: Sentinel2Config, plan: Plan) -> dict[str, str]:
    """Split composites by what their cells cover and how long their periods last.

    Returns
    -------
    dict
        By the name of each; empty where the build is to have no splits.
    """
    rule = config.split_rule
    if rule is None:
        return {}
    # Without blocks of time the periods of a cell are all of one split.
    known = {_key(config, p): p for p in plan.cells}
    found = rule.assign(_extents(config, [*known.values()])).tolist()
    by_key = dict(zip(known, found, strict=True))
    return {p.name: by_key[_key(config, p)] for p in plan.cells}


def splits_of_cells(plan: Plan, splits: Mapping[str, str]) -> dict[str, str]:
    """The split of each cell; empty where periods of one cell are of several."""
    by_cell: dict[str, set[str]] = {}
    for planned in plan.cells if splits else ():
        by_cell.setdefault(planned.cell.id, set()).add(splits[planned.name])
    return {cell: names.pop() for cell, names in by_cell.items()} if all(len(n) == 1 for n in by_cell.values()) else {}


def split_words(config: Sentinel2Config, plan: Plan, splits: Mapping[str, str]) -> Iterator[str]:
    """Yield how many composites each split has and, where train or val has none, what would give it some."""
    rule = config.split_rule
    if rule is None or not splits:
        return
    counts = Counter(splits.values())
    text = f"splits: {told(counts, rule.shares)}"
    if empty := lacking(rule, counts):
        kind = "cell" if config.periods is None else "composite"
        mended = remedy(rule, lambda: _extents(config, plan.cells[: MOST + 1]), "split_")
        text += f"; no {kind} is in {' or '.join(empty)}: {mended}"
    yield text


def told_splits(path: Path) -> dict[str, str]:
    """What a plan says of the split of each composite; empty where it says nothing, as those of older versions."""
    frame: pd.DataFrame = read_frame(path)
    return dict(zip(frame["cell"], frame["split"], strict=True)) if "split" in frame else {}


def _key(config: Sentinel2Config, planned: PlannedCell) -> tuple[str, int | None]:
    return planned.cell.id, planned.step if config.split_hours else None


def _extents(config: Sentinel2Config, planned: Sequence[PlannedCell]) -> Extents:
    areas = footprint([p.cell for p in planned])
    west, south, east, north = shapely.bounds(areas).T
    dense = shapely.segmentize(areas, np.maximum(east - west, north - south) / _ALONG)
    spans = [_span(config, p) for p in planned]
    start, end = (np.array(times, "M8[us]") for times in zip(*spans, strict=True))
    return Extents.of([shapely.get_coordinates(area) for area in dense], start, np.maximum(start, end - _LAST))


def _span(config: Sentinel2Config, planned: PlannedCell) -> tuple[datetime, datetime]:
    period = planned.period
    return (config.start, config.end) if period is None else (period.start, period.end)
