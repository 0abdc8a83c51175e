"""A plan that was edited: its rows are checked, and built as they stand."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catalog.geostationary.scans import Scan
from cube.config import AbiConfig
from cube.geostationary.headers import Headers, PlannedHeaders
from cube.geostationary.layout import TileLayout, TileSpec
from cube.geostationary.parts import time_means_of
from cube.geostationary.plan import Screen
from cube.geostationary.plan_table import Plan
from cube.geostationary.taken import Spot, Taken
from cube.strata.base import Candidate
from cube.strata.select import Placed
from cube.strata.streams import Tally
from cube.strata.windows import Frame
from stratacube.choices import many
from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded
from stratacube.parquet import read_frame

__all__ = ["edited_plan"]

_log = logging.getLogger(__name__)

_NEEDED = ("event_scan", "row", "col", "scan_ids", "requested_times")
_KEPT = ("probability", "weight", "class", "seed", "score")
"""Columns that are taken over where they are there; what else a plan tells follows from the needed ones."""
_WORD = re.compile(r"[^\s,'\"\[\]]+")


def edited_plan(
    path: Path, config: AbiConfig, scans: Sequence[Scan], headers: Headers, screen: Screen | None = None
) -> Plan:
    """Take the tiles of a plan that someone edited.

    Parameters
    ----------
    path
        ``plan.parquet`` of a build, or such a table as CSV, of which rows were removed or changed. Needed are
        ``event_scan``, ``row``, ``col`` (multiples of 2 but on the 2 km grid), ``scan_ids`` and ``requested_times``.
    config
        The build.
    scans
        All scans found.
    headers
        Where grids of scans come from.
    screen
        Looks at the scans that tiles are cut from; files that are not fit are left out of the tiles, and told.

    Raises
    ------
    SourceError
        If the file cannot be read.
    UsageError
        If it lacks a column, or a row cannot be built: the first fault, and how many more; the log has each.
    """
    with guarded(f"{path} is not a plan", "give a plan.parquet or a CSV of its columns"):
        rows = pd.read_csv(path, keep_default_na=False) if path.suffix.lower() == ".csv" else read_frame(path)
    lacking = [name for name in _NEEDED if name not in rows]
    if lacking or rows.empty:
        told = f"lacks {', '.join(lacking)}" if lacking else "has no row"
        raise UsageError(f"`plan` {path} {told}; give a plan.parquet of a build, edited")
    check = _Check(config, scans, PlannedHeaders(headers, scans))
    tiles, found = Taken(), Counter[str]()
    faults: list[str] = []
    known: dict[Any, int] = {}
    for number, row in enumerate(rows.to_dict("records"), start=1):
        try:
            placed = check.placed(row)
            if placed.content in known:
                raise ValueError(f"it has the same pixels and times as row {known[placed.content]}")
            known[placed.content] = number
            tiles.append(placed)
            found[placed.candidate.stratum] += 1
        except (ValueError, TypeError, SourceError) as error:
            faults.append(f"row {number}: {' '.join(str(error).split())}")
    if faults:
        for fault in faults:
            _log.warning("%s, %s", path, fault)
        more = f"; {many(len(faults) - 1, 'more row')} cannot be built either" if len(faults) > 1 else ""
        raise UsageError(f"`plan` {path} cannot be built: {faults[0]}{more}")
    if screen is not None:
        screen(sorted(tiles.scans, key=lambda scan: (scan.start, scan.id)))
    rule, layout = config.split_rule, check.layout
    splits = None if rule is None else rule.assign_parts(tiles.extents(layout.side))
    planned = tiles.rows(config.channels, dict.fromkeys(found, config.seed), layout, splits)
    kept = {name: rows[name].to_numpy() for name in _KEPT if name in rows}
    tallies = [Tally(name, "", number, number, number) for name, number in sorted(found.items())]
    means = str(rows.attrs.get("time_means") or time_means_of(config))
    return Plan(
        planned.mapped(lambda block: block.assign(**{name: told[block["rank"]] for name, told in kept.items()})),
        Counter(),
        [],
        means,
        tallies,
        None,
        min(layout.tiles_per_shard, len(tiles)),
    )


class _Check:
    """Makes tiles of rows, or raises why not."""

    def __init__(self, config: AbiConfig, scans: Sequence[Scan], headers: PlannedHeaders) -> None:
        self.config, self.headers, self.layout = config, headers, TileLayout.of(config)
        self.scans: Mapping[str, Scan] = {scan.id: scan for scan in scans}
        self.tolerance = timedelta(minutes=config.tolerance_minutes)

    def placed(self, row: Mapping[str, Any]) -> Placed[Spot]:
        """Tile of a row."""
        scan = self._scan(row["event_scan"])
        grid, size, align = self.headers.grid(scan, self.layout.pixel), self.layout.tile_size, self.layout.align
        top, left = (self._corner(name, row[name], n) for name, n in zip(("row", "col"), grid.shape, strict=True))
        lon, lat = (float(v) for v in grid.lonlat(top + (size - 1) / 2, left + (size - 1) / 2))
        if top % align or left % align or not np.isfinite(lat):
            told = f"the tile's centre at row {top}, col {left} is not on the Earth"
            raise ValueError(f"row {top}, col {left} are not multiples of {align}" if np.isfinite(lat) else told)
        tile = TileSpec("", grid.left + left * grid.dx, grid.top + top * grid.dy, grid.projection)
        frames = self._frames(row, scan, tile)
        start = _whole(row.get("window_start"), 0)
        spot = Spot(scan, grid, top, left, tuple(frames), 0, (1.0,), self._pixel(row, top, left))
        zenith = float(grid.projection.view_angles(lon, lat)[0])
        candidate = Candidate(
            scan.start,
            lat,
            lon,
            str(row.get("stratum") or self.config.stratification),
            1.0,
            1.0,
            scan.platform,
            _whole(row.get("system_id"), None),
            {"window_start": start} if start else {},
        )
        return Placed(candidate, scan.start, lat, lon, zenith, spot, scan.start, spot.content)

    def _scan(self, name: Any) -> Scan:
        if str(name) not in self.scans:
            raise ValueError(f"scan {name!r} is not among the {len(self.scans)} scans found")
        return self.scans[str(name)]

    def _corner(self, name: str, value: Any, pixels: int) -> int:
        corner, last = int(value), pixels - self.layout.tile_size
        if corner != float(value) or not 0 <= corner <= last:
            raise ValueError(f"{name} is {value}, not a whole number in 0 to {last}")
        return corner

    def _pixel(self, row: Mapping[str, Any], top: int, left: int) -> tuple[int, int]:
        """The event's pixel, of a tile that still lies about it; else the one in its middle."""
        middle = tuple(corner + self.layout.tile_size // 2 for corner in (top, left))
        told = tuple(_whole(row.get(name), None) for name in ("event_row", "event_col"))
        near = all(n is not None and abs(n - m) <= self.layout.align for n, m in zip(told, middle, strict=True))
        return told if near else middle  # type: ignore[return-value]

    def _frames(self, row: Mapping[str, Any], event: Scan, tile: TileSpec) -> list[Frame]:
        names, times = _words(row["scan_ids"]), [_time(t) for t in _words(row["requested_times"])]
        steps = self.config.steps
        if len(names) != steps or len(times) != steps:
            raise ValueError(f"it has {len(names)} scans and {len(times)} times, and the build {many(steps, 'step')}")
        if times != sorted(set(times)):
            raise ValueError("its times do not follow one another")
        twice = next((name for name, n in Counter(names).items() if name and n > 1), None)
        if twice:
            raise ValueError(f"scan {twice} is in it twice")
        if not any(names) or ("" in names and not self.config.allow_missing):
            raise ValueError("a step has no scan; give one, or `allow_missing`")
        return [self._frame(name, time, event, tile) for name, time in zip(names, times, strict=True)]

    def _frame(self, name: str, time: datetime, event: Scan, tile: TileSpec) -> Frame:
        channels = self.config.channels
        if not name:
            return Frame(time, None, len(channels))
        scan = self._scan(name)
        if (scan.platform, scan.sector) != (event.platform, event.sector):
            raise ValueError(f"scan {name} is of {scan.platform} {scan.sector}, the event of another view")
        if abs(scan.start - time) > self.tolerance:
            raise ValueError(
                f"scan {name} starts at {scan.start}, more than {self.config.tolerance_minutes:g} min from {time}"
            )
        header = self.headers.of(scan)
        self.layout.source_window(tile, header.grid, header.source.channel)
        return Frame(time, scan, sum(c not in scan.files for c in channels))


def _words(value: Any) -> list[str]:
    """A list, or what CSV makes of one."""
    if isinstance(value, str):
        return _WORD.findall(value)
    return ["" if one is None else str(one) for one in value]


def _time(value: str) -> datetime:
    try:
        time: datetime = pd.Timestamp(value).to_pydatetime(warn=False)
    except ValueError:
        raise ValueError(f"time is {value!r}, not ISO 8601") from None
    return time


def _whole(value: Any, default: Any) -> Any:
    """A whole number, where one is given."""
    return default if value is None or pd.isna(value) or value == "" else int(value)
