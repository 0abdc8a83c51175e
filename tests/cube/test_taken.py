"""Tiles that are taken are packed, and a plan's rows are made of them in blocks: as of the objects themselves."""

from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catalog.geostationary.scans import Scan
from catalog.leaks import Extents
from catalog.splits import SplitRule
from cube.config import AbiConfig
from cube.geostationary import taken
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.layout import TileLayout
from cube.geostationary.outline import footprint_ring
from cube.geostationary.plan_table import Plan, PlanTable, write_plan
from cube.geostationary.projections import distinct
from cube.geostationary.taken import Spot, Taken
from cube.strata.base import Candidate
from cube.strata.select import Placed
from cube.strata.windows import Frame
from stratacube.parquet import read_frame, write_frame

START, STEP, STEPS, ABOUT = datetime(2020, 7, 1), timedelta(minutes=10), 3, 5
CHANNELS = (7, 13)
GRIDS = [
    FixedGrid(GeosProjection(35786023.0, 6378137.0, 6356752.31414, lon, "x"), -0.06, 0.09, 56e-6, -56e-6, 3000, 2500)
    for lon in (-75.0, -137.0)
]
SEEDS = {"random": 3, "convection": 4}


@pytest.fixture
def layout(tmp_path: Path) -> TileLayout:
    values = {"output_dir": str(tmp_path), "channels": [*CHANNELS], "grid": "2km", "tile_size": 16, "steps": STEPS}
    return TileLayout.of(AbiConfig.load(None, values))


def scan(number: int, platform: str = "goes16") -> Scan:
    start = START + number * STEP + timedelta(seconds=17)  # later than it is asked for
    channels = CHANNELS[: 1 + (number % 7 > 0)]  # some lack a channel
    return Scan(platform, "ABI-L1b-RadC", "C", 6, start, start + STEP, dict.fromkeys(channels, None))  # type: ignore[arg-type]


def some_tiles(number: int, seed: int = 0) -> Iterator[Placed[Spot]]:
    """Tiles of two satellites, with gaps, systems and details of all kinds."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        grid, platform = (GRIDS[0], "goes16") if rng.random() < 0.7 else (GRIDS[1], "goes17")
        event, row, col = int(rng.integers(3, 40)), *map(int, rng.integers(0, 1000, 2) * 2)
        frames = tuple(
            Frame(START + n * STEP, None if n % 11 == 0 else scan(n, platform), 0) for n in range(event, event + STEPS)
        )
        system = int(rng.integers(1, 5)) if rng.random() < 0.3 else None
        details: dict[str, Any] = {"scan_id": f"näher {i}", "share": float(rng.random()), "steps": {"no": "text"}}
        details |= {"class_name": "deep"} if system else {"event_id": "storm"} if rng.random() < 0.1 else {}
        stratum = "random" if system is None else "convection"
        chance = float(rng.random())
        candidate = Candidate(START, 1.0, 2.0, stratum, 2.0, chance, platform, system, details)
        place = [float(v) for v in rng.uniform(-60, 60, 3)]
        first = scan(event, platform)
        spot = Spot(first, grid, row, col, frames, int(rng.integers(ABOUT)), tuple(rng.random(ABOUT)), (row + 8, col))
        yield Placed(candidate, first.start, *place, spot, first.start, spot.content)  # type: ignore[call-arg, misc]


def slow_rows(layout: TileLayout, tiles: list[Placed[Spot]], splits: list[str]) -> pd.DataFrame:
    """Rows of a plan, one tile after the other: the rule that the packed form is held to."""
    views = distinct(placed.payload.grid.projection for placed in tiles)
    rows: list[dict[str, Any]] = []
    order = sorted(
        range(len(tiles)),
        key=lambda n: (tiles[n].time, tiles[n].payload.scan.id, tiles[n].payload.row, tiles[n].payload.col),
    )
    for number in order:
        placed, spot, candidate = tiles[number], tiles[number].payload, tiles[number].candidate
        name = f"{spot.scan.platform}_C_{placed.time:%Y%m%dT%H%M%S}_r{spot.row:05d}_c{spot.col:05d}"
        told = {k: v for k, v in candidate.details.items() if isinstance(v, str | int | float)}
        rows.append(
            {
                "tile": len(rows),
                "tile_id": name if candidate.system_id is None else f"{name}_s{candidate.system_id}",
                "stratum": candidate.stratum,
                "platform": spot.scan.platform,
                "sector": "C",
                "event_time": np.datetime64(placed.time, "us"),
                "event_scan": spot.scan.id,
                "latitude": placed.latitude,
                "longitude": placed.longitude,
                "view_zenith": placed.view_zenith,
                "projection": views.index(spot.grid.projection),
                "x_left": spot.grid.left + spot.col * spot.grid.dx,
                "y_top": spot.grid.top + spot.row * spot.grid.dy,
                "row": spot.row,
                "col": spot.col,
                "event_row": spot.pixel[0],
                "event_col": spot.pixel[1],
                "probability": candidate.probability,
                "score": spot.scores[spot.start],
                "weight": 2.0,
                "class": "deep" if candidate.system_id else "",
                "rank": number,
                "seed": SEEDS[candidate.stratum],
                "system_id": candidate.system_id,
                "requested_times": [f.time for f in spot.frames],
                "scan_ids": [f.scan.id if f.scan else "" for f in spot.frames],
                "scan_starts": [f.scan.start if f.scan else None for f in spot.frames],
                "missing": [
                    f"{layout.band(c).name}@{step}"
                    for step, f in enumerate(spot.frames)
                    for c in CHANNELS
                    if f.scan is None or c not in f.scan.files
                ],
                "details": json.dumps(told),
                "window_start": spot.start,
                "window_scores": [*spot.scores],
                "split": splits[number],
                "shard": len(rows) // layout.tiles_per_shard,
            }
        )
    return pd.DataFrame(rows)


def plain(value: Any) -> Any:
    """A cell as Python has it."""
    if isinstance(value, list | np.ndarray):
        return [plain(v) for v in value]
    if value is None or value is pd.NaT or (isinstance(value, np.datetime64) and np.isnat(value)) or value is pd.NA:
        return None
    if isinstance(value, np.datetime64 | pd.Timestamp):
        return pd.Timestamp(value).to_pydatetime()
    if isinstance(value, float) and np.isnan(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def test_rows_are_those_of_the_tiles_one_by_one(layout: TileLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken, "ROW_GROUP", 40)
    tiles = [*some_tiles(150)]
    packed = Taken()
    for placed in tiles:
        packed.append(placed)
    splits = [("train", "val", "gap")[n % 3] for n in range(len(tiles))]
    rows = packed.rows(CHANNELS, SEEDS, layout, np.array(splits))
    assert [len(block) for block in rows.blocks()] == [40, 40, 40, 30]
    assert rows.projections == distinct(grid.projection for grid in GRIDS)
    found, slow = rows.frame(), slow_rows(layout, tiles, splits)
    assert [*found] == [*slow]
    for name in slow:
        assert [plain(v) for v in found[name]] == [plain(v) for v in slow[name]], name
    kinds: Mapping[str, str] = {"event_time": "datetime64[us]", "system_id": "Int64", "tile": "int64", "shard": "int64"}
    assert {name: str(found[name].dtype) for name in kinds} == kinds
    assert len({tuple(m) for m in found["missing"]}) > 2
    framed = {f.scan.id for placed in tiles for f in placed.payload.frames if f.scan}
    assert packed.framed == framed
    assert {s.id for s in packed.scans} == framed | {placed.payload.scan.id for placed in tiles}


def test_what_tiles_cover_is_told_in_parts(layout: TileLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken, "ROW_GROUP", 40)
    tiles = [
        replace(p, payload=replace(p.payload, row=1400 + p.payload.row // 8, col=1000 + p.payload.col // 8))
        for p in some_tiles(100, seed=1)
    ]
    packed = Taken()
    for placed in tiles:
        packed.append(placed)
    parts = [*packed.extents(layout.side)]
    assert [len(part) for part in parts] == [40, 40, 20]
    whole, times = Extents.join(parts), [[f.scan.start if f.scan else f.time for f in p.payload.frames] for p in tiles]
    slow = Extents.of(
        [footprint_ring(p.payload.grid.projection, *p.payload.corner, layout.side) for p in tiles],
        [min(t) for t in times],
        [max(t) for t in times],
        [p.candidate.system_id or p.candidate.details.get("event_id") for p in tiles],
    )
    for name in ("start", "end", "systems"):
        assert (getattr(whole, name) == getattr(slow, name)).all(), name
    assert (whole.footprints.corners == slow.footprints.corners).all()
    # Systems live on from one part into the next.
    rule = SplitRule(block_km=60, block_hours=1, gap_km=1, gap_hours=0.1, shares={"train": 0.5, "val": 0.5})
    assert (rule.assign_parts(parts) == rule.assign(slow)).all()
    alone = np.concatenate([rule.assign(part) for part in parts])
    assert (alone != rule.assign(slow)).any()


def test_a_tile_fills_some_hundred_bytes() -> None:
    """As objects each fills three kilobytes."""
    tiles, frames = some_tiles(3000), tuple(Frame(START + n * STEP, scan(n), 0) for n in range(STEPS))
    packed = Taken()
    tracemalloc.start()
    try:
        for placed in tiles:
            packed.append(replace(placed, payload=replace(placed.payload, frames=frames)))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / 3000 < 500


def test_a_shard_of_small_tiles_is_no_endless_task(layout: TileLayout) -> None:
    assert replace(layout, tile_size=8, steps=1, channels=(13,)).tiles_per_shard == 4096
    assert replace(layout, tile_size=512, steps=7).tiles_per_shard == 9


def test_plans_of_before_tell_the_tiles_of_a_shard_by_the_first(layout: TileLayout, tmp_path: Path) -> None:
    """Stores of theirs may have more tiles in a shard than new ones."""
    packed = Taken()
    for placed in some_tiles(50):
        packed.append(placed)
    rows = packed.rows(CHANNELS, SEEDS, layout).mapped(lambda block: block.assign(shard=block["tile"] // 20))
    plan = Plan(rows, Counter(), [], "start", [], 50, 20)
    write_plan(plan, tmp_path / "plan.parquet")
    assert PlanTable(tmp_path / "plan.parquet").per_shard == 20
    write_frame(tmp_path / "before.parquet", _without(read_frame(tmp_path / "plan.parquet"), "per_shard"))
    assert PlanTable(tmp_path / "before.parquet").per_shard == 20


def _without(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table without one of its attributes."""
    frame.attrs = {key: value for key, value in frame.attrs.items() if key != name}
    return frame
