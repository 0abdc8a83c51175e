"""Planning: which tiles to make, from which scans. Nothing of it depends on the number of workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from catalog.geostationary.scans import Scan, nearest_scan
from cube.config import AbiConfig
from cube.geostationary.grid import FixedGrid, Window
from cube.geostationary.headers import Headers, PlannedHeaders
from cube.geostationary.layout import TileLayout, TileSpec
from cube.geostationary.parts import Wanted, limits_of, parts_of, time_means_of
from cube.geostationary.pixel_time import LONGEST_SCAN, seconds_after_start
from cube.geostationary.plan_table import Plan
from cube.geostationary.refusals import why_none
from cube.geostationary.taken import Spot, Taken
from cube.geostationary.valid_share import ValidShares
from cube.job.engine import Workers
from cube.job.ledger import Problem
from cube.strata.base import Candidate, pixel_of, place_tile, refuse_too_large
from cube.strata.select import Limits, Placed, Selection, select
from cube.strata.streams import Stream
from cube.strata.windows import Frame, WindowChoice, choose_window
from cube.sun import solar_angles
from stratacube.errors import SourceError, UnavailableError, UsageError

__all__ = ["Screen", "make_plan"]

DAYLIGHT_ZENITH = 80.0
_AT_ONCE = timedelta(0)


Screen = Callable[[Sequence[Scan]], Mapping[str, Mapping[int, str]]]
"""Of scans, the channels whose files are not fit to be used and why, by scan; scans that are fit are left out."""


def make_plan(
    config: AbiConfig,
    scans: Sequence[Scan],
    headers: Headers,
    tables: Path | None,
    workers: Workers,
    screen: Screen | None = None,
) -> Plan:
    """Sample, place, choose time windows and select; what a scan that is not fit would have given makes way.

    Which candidates there are, in which order, and where their windows lie, is told by the list of scans and the seed
    alone. A scan is screened only when a tile would be cut from it.

    Parameters
    ----------
    config
        The build.
    scans
        All scans found, sorted by start.
    headers
        Where grids of scans come from.
    tables
        Folder for the tables a stratum writes (the metadata and lifetimes of cloud systems); None for none.
    workers
        Where masks are read.
    screen
        What tells which scans are not fit; None for no screening: only scans of which no file opens are none.

    Raises
    ------
    UnavailableError
        If something could not be read now: what would be planned without it is another plan.
    UsageError
        If no tile can be made, saying which limit or lack stands in the way.
    """
    layout = TileLayout.of(config)
    views = PlannedHeaders(headers, scans)
    whole = any(set(config.channels) <= set(s.files) for s in scans)
    parts = parts_of(config, scans, layout, views, workers)
    limits, shares = limits_of(config), ValidShares(layout, headers, config.good_dqf) if config.score_pixels else None
    try:
        planner, selection, taken = _select(
            lambda unfit: _Planner(Wanted.of(config), layout, scans, views, unfit, shares, whole=whole),
            lambda unfit: [
                part.stream(strict=limits.num_tiles is not None and (whole or bool(unfit))) for part in parts
            ],
            limits,
            screen,
        )
        if views.unavailable is not None:
            raise views.unavailable  # whoever asked for it may have gone on without
    except UnavailableError as error:
        told = "no plan was written, for it would be another; when that is mended, run the same command again"
        raise UnavailableError(f"{error}; {told}") from error
    if tables is not None:
        for part in parts:
            part.sampler.write_tables(tables)
    if not len(taken):
        raise UsageError(why_none(config, selection))
    framed = taken.framed  # some of them unfit, for want of others
    noted = list(dict.fromkeys(problem for part in parts for problem in part.sampler.problems))
    avoided = {p.source: p.message for p in noted if p.replaced}
    avoided |= {name: reason for name, reason in planner.avoided.items() if name not in framed}
    problems = [Problem("source", f"{p.source}: {p.message}") for p in noted if not p.replaced]
    problems += [Problem("avoided", reason, input=scan) for scan, reason in sorted(avoided.items())]
    rule = config.split_rule
    splits = None if rule is None else rule.assign_parts(taken.extents(layout.side))
    seeds = {part.name: part.seed for part in parts}
    return Plan(
        taken.rows(config.channels, seeds, layout, splits),
        selection.refused,
        problems,
        time_means_of(config),
        selection.tallies,
        limits.num_tiles,
        min(layout.tiles_per_shard, len(taken)),
    )


def _select(
    planner_of: Callable[[Mapping[str, Mapping[int, str]]], _Planner],
    streams_of: Callable[[Mapping[str, Mapping[int, str]]], Sequence[Stream]],
    limits: Limits,
    screen: Screen | None,
) -> tuple[_Planner, Selection[Spot], Taken]:
    """Select anew until all scans that the tiles are cut from were screened.

    The end does not depend on the order in which scans come to be known as unfit: candidates come in one order, and
    none is taken from an unfit scan, or left out but for a limit or for one.
    """
    unfit: dict[str, Mapping[int, str]] = {}
    screened: set[str] = set()
    while True:
        planner, taken = planner_of(unfit), Taken()
        selection = select(streams_of(unfit), planner.place, limits, keep=taken.append)
        used = {scan.id: scan for scan in taken.scans if scan.id not in screened}
        if screen is None or not used:
            return planner, selection, taken
        screened |= used.keys()
        found = screen(sorted(used.values(), key=lambda scan: (scan.start, scan.id)))
        if not found:
            return planner, selection, taken
        unfit |= found


class _Planner:
    """Turns candidates into placed tiles with a time window."""

    def __init__(
        self,
        wanted: Wanted,
        layout: TileLayout,
        scans: Sequence[Scan],
        headers: PlannedHeaders,
        unfit: Mapping[str, Mapping[int, str]],
        shares: ValidShares | None,
        *,
        whole: bool,
    ) -> None:
        self.wanted, self.layout, self.scans, self.headers, self.unfit = wanted, layout, scans, headers, unfit
        self.whole, self.shares = whole, shares
        self.by_platform: dict[str, list[Scan]] = defaultdict(list)
        for scan in scans:
            self.by_platform[scan.platform].append(scan)
        self._at: dict[tuple[str, datetime, timedelta], list[Frame]] = {}
        self._choices: dict[int, WindowChoice] = {}
        self._reasons: dict[tuple[str, datetime, timedelta, bool], str | None] = {}
        self.avoided: dict[str, str] = {}
        """Scans that candidates gave way for, and why."""

    def place(  # noqa: PLR0911  (each return is a reason)
        self, candidate: Candidate, stream: Stream, strict: bool
    ) -> Placed[Spot] | str:
        """Find the event's scan, the tile around the place, and the best window; or say why not."""
        whole = strict and self.whole
        of_best = self._of_best(candidate, stream) if self.wanted.together else candidate
        if isinstance(of_best, str):
            return of_best
        candidate = of_best
        event = self._event(candidate, by_observation=stream.by_observation)
        if isinstance(event, str):
            return event
        scan, late = event
        if reason := self._impossible_at(scan.platform, candidate.time, late, whole=whole):
            return reason
        grid = self.headers.grid(scan, self.layout.pixel)
        window = self._window(grid, candidate)
        if window is None:
            size, align = self.layout.tile_size, self.layout.align
            refuse_too_large(grid.shape, size, align=align, margin=self.wanted.margin, sector=scan.sector)
            return "tile not inside the sector"
        middle = (self.layout.tile_size - 1) / 2
        lon, lat = (float(v) for v in grid.lonlat(window.row + middle, window.col + middle))
        if not np.isfinite(lat):
            return "tile centre off the Earth"
        tile = TileSpec("", grid.left + window.col * grid.dx, grid.top + window.row * grid.dy, grid.projection)
        after = self._after_start(scan, lon, lat) or _AT_ONCE
        about = self._frames(scan.platform, candidate.time, late)
        frames = self._with_context(about, tile, (lon, lat), after)
        choice = self._choice(frames, candidate, shared=frames is about)
        kept = frames[choice.start : choice.start + self.wanted.steps]
        if reason := self._unfit(kept, whole=whole) or self._gives_way(scan, kept, fit_only=strict):
            return reason
        pixel = pixel_of(grid, candidate.longitude, candidate.latitude)
        spot = Spot(scan, grid, window.row, window.col, tuple(kept), choice.start, tuple(choice.scores), pixel)
        zenith, _ = grid.projection.view_angles(lon, lat)
        return Placed(candidate, scan.start, lat, lon, float(zenith), spot, scan.start + after, spot.content)

    def _choice(self, frames: list[Frame], candidate: Candidate, *, shared: bool) -> WindowChoice:
        """The best window; of frames that other tiles share, and that depend on nothing else, worked out once."""
        pixels = candidate.details.get("system_pixels")
        key = id(frames)  # held by :attr:`_at`: no other list comes to have it
        if shared and pixels is None and key in self._choices:
            return self._choices[key]
        choice = choose_window(
            frames,
            self.wanted.steps,
            event_index=min(range(len(frames)), key=lambda i: abs(self.wanted.minutes_about[i])),
            max_daylight_zenith=DAYLIGHT_ZENITH if self.wanted.daylight else None,
            bands=len(self.layout.instrument.bands),
            system_pixels=pixels,
        )
        if shared and pixels is None:
            self._choices[key] = choice
        return choice

    def _of_best(self, candidate: Candidate, stream: Stream) -> Candidate | str:
        """A candidate as the satellite that sees it best has it, or why none has."""
        best = self._best(candidate, by_observation=stream.by_observation)
        if best is None:
            return "no scan within the tolerance"
        if "scan_id" in candidate.details and best != candidate.platform:  # drawn as a part of that scan
            return f"seen better by {best}"
        return replace(candidate, platform=best)

    def _best(self, candidate: Candidate, *, by_observation: bool) -> str | None:
        """Satellite that sees a place with the lowest view zenith, of those that have a scan of it at the time."""
        zeniths: list[tuple[float, str]] = []
        for platform in self.by_platform:
            try:
                event = self._event(replace(candidate, platform=platform), by_observation=by_observation)
                grid = None if isinstance(event, str) else self.headers.grid(event[0], self.layout.pixel)
            except UnavailableError:
                raise  # no fact about the satellite
            except SourceError:  # none of its scans can be read
                continue
            if grid is not None and self._window(grid, candidate) is not None:
                zenith = float(grid.projection.view_angles(candidate.longitude, candidate.latitude)[0])
                zeniths.append((zenith, platform))
        return min(zeniths)[1] if zeniths else None

    def _window(self, grid: FixedGrid, candidate: Candidate) -> Window | None:
        """Tile of a grid round a candidate's place."""
        return place_tile(
            grid,
            candidate.longitude,
            candidate.latitude,
            self.layout.tile_size,
            align=self.layout.align,
            margin=self.wanted.margin,
        )

    def _event(self, candidate: Candidate, *, by_observation: bool) -> tuple[Scan, timedelta] | str:
        """Scan nearest to an event, and how long after its start the event's time is to be; or why there is none."""
        scans = self.by_platform[candidate.platform] if candidate.platform else self.scans
        late = _AT_ONCE
        if by_observation:
            near = nearest_scan(scans, candidate.time, self.wanted.tolerance + LONGEST_SCAN)
            if near is None:
                return "no scan within the tolerance"
            found = self._after_start(near, candidate.longitude, candidate.latitude)
            if found is None:
                return "tile not inside the sector"
            late = found
        scan = nearest_scan(scans, candidate.time - late, self.wanted.tolerance)
        return "no scan within the tolerance" if scan is None else (scan, late)

    def _after_start(self, scan: Scan, lon: float, lat: float) -> timedelta | None:
        """How long after the start of a scan a place is seen; None where the Earth hides it."""
        header = self.headers.of(scan)
        x, y = header.grid.projection.to_angles(lon, lat)
        seconds = float(seconds_after_start(header, x, y, scan.mode))
        return timedelta(seconds=seconds) if np.isfinite(seconds) else None

    def _unfit(self, frames: Sequence[Frame], *, whole: bool) -> str | None:
        """Why a window may not be kept, if so."""
        if any(f.scan is None for f in frames) and not self.wanted.gaps:
            return f"no run of {self.wanted.steps} scans {self.wanted.told}"
        return "channels missing" if whole and any(f.missing for f in frames) else None

    def _gives_way(self, scan: Scan, frames: Sequence[Frame], *, fit_only: bool) -> str | None:
        """Why a tile is not cut from the event's scan and these frames, if so, noting the scans."""
        used = {s.id: s for s in (scan, *(f.scan for f in frames)) if s is not None}
        damaged, unfit = self.headers.damaged, self.unfit
        bad = {
            name: damaged.get(name) or next(iter(unfit[name].values()))
            for name in used
            if name in damaged or name in unfit
        }
        lost = {name for name in bad if name in damaged or unfit[name].keys() >= used[name].files.keys()}
        if not (bad if fit_only else used.keys() <= lost):
            return None
        self.avoided |= bad
        return "scan not fit to be used"

    def _impossible_at(self, platform: str, time: datetime, late: timedelta, *, whole: bool) -> str | None:
        """Why no window around a time may be kept, wherever the tile, if so."""
        key = platform, time, late, whole
        if key not in self._reasons:
            frames, steps = self._frames(platform, time, late), self.wanted.steps
            reasons = [self._unfit(frames[i : i + steps], whole=whole) for i in range(len(frames) - steps + 1)]
            self._reasons[key] = reasons[0] if all(reasons) else None
        return self._reasons[key]

    def _frames(self, platform: str, time: datetime, late: timedelta) -> list[Frame]:
        """Candidate steps around a time, of one satellite, worked out once; ``late`` as told with the event's scan."""
        key = platform, time, late
        if key not in self._at:
            times = [time + timedelta(minutes=minutes) for minutes in self.wanted.minutes_about]
            frames = [self._frame(platform, t, late) for t in times]
            self._at[key] = _each_scan_once(frames, len(self.layout.channels), late)
        return self._at[key]

    def _with_context(
        self, frames: list[Frame], tile: TileSpec, place: tuple[float, float], after: timedelta
    ) -> list[Frame]:
        """Add what is known of the place: whether a moving sector sees it, the Sun, valid pixels.

        ``place`` is a longitude and latitude, ``after`` how long after the start of a scan it is seen.
        """
        if self.wanted.moving:
            channels = len(self.layout.channels)
            frames = [
                f if f.scan is None or self._sees(f.scan, tile) else replace(f, scan=None, missing=channels)
                for f in frames
            ]
        if self.wanted.daylight:
            seen = [f.scan.start + after if f.scan else f.time for f in frames]
            frames = [
                replace(f, solar_zenith=float(solar_angles(time, *place)[0]))
                for f, time in zip(frames, seen, strict=True)
            ]
        return frames if self.shares is None else self.shares.added(frames, tile)

    def _sees(self, scan: Scan, tile: TileSpec) -> bool:
        header = self.headers.of(scan)
        try:
            self.layout.source_window(tile, header.grid, header.source.channel)
        except SourceError:  # whatever the scan looks at, this it does not
            return False
        return True

    def _frame(self, platform: str, time: datetime, late: timedelta) -> Frame:
        scan = nearest_scan(self.by_platform[platform], time - late, self.wanted.tolerance)
        return Frame(time, scan, sum(scan is None or c not in scan.files for c in self.layout.channels))


def _each_scan_once(frames: list[Frame], channels: int, late: timedelta) -> list[Frame]:
    """Keep a scan for the step it is nearest to: a scan used twice would pretend that nothing moved."""

    def apart(frame: Frame, scan: Scan) -> timedelta:
        return abs(scan.start + late - frame.time)

    nearest: dict[str, Frame] = {}
    for frame in frames:
        if frame.scan is not None:
            known = nearest.get(frame.scan.id)
            if known is None or apart(frame, frame.scan) < apart(known, frame.scan):
                nearest[frame.scan.id] = frame
    return [f if f.scan is None or nearest[f.scan.id] is f else replace(f, scan=None, missing=channels) for f in frames]
