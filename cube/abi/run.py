"""The main job: find, plan, fetch, build, publish; each step is skipped when its result is there."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import groupby

import pandas as pd
import yaml

from catalog.abi.completeness import completeness, write_completeness
from catalog.abi.fetch import fetch_files
from catalog.abi.items import load_items, save_items
from catalog.abi.scans import Scan, SourceFile
from cube.abi.find import find, in_period
from cube.abi.forecast import forecast
from cube.abi.grid import GeosProjection
from cube.abi.index import FileIndex, IndexTask, index_file
from cube.abi.layout import TileLayout, TileSpec
from cube.abi.plan import Headers, Plan, make_plan, read_plan, used_scans, write_plan
from cube.abi.publish import publish
from cube.abi.references import write_references
from cube.abi.tiles import Frame, ShardResult, ShardTask, build_shard
from cube.abi.tilestore import create_tile_store, fills_of
from cube.config import AbiConfig, default_workers
from cube.engine import Workers, run_tasks
from cube.folder import BuildFolder
from cube.ledger import Entry, Ledger, Problem
from stratacube.errors import SourceError

__all__ = ["run_abi"]


def run_abi(config: AbiConfig) -> int:
    """Run all of a build that is not yet done.

    Returns
    -------
    int
        0 if every product was made whole, 1 if something is missing from them; ``OUTPUT/errors.csv`` says what.

    Raises
    ------
    StratacubeError
        If the build cannot be made at all.
    """
    if config.dry_run:
        return forecast(config)
    with Workers(config.workers or default_workers(), config.engine) as workers:
        return _run(config, workers)


def _run(config: AbiConfig, workers: Workers) -> int:
    folder = BuildFolder(config.output_dir)
    folder.claim(config.described(), config.digest(), overwrite=config.overwrite)
    timer = _Timer()
    scans = _find(config, folder)
    timer.lap("find")
    plan = _plan(config, folder, scans, workers)
    timer.lap("plan")
    if config.plan_only:
        _say(f"planned {len(plan.tiles)} tiles: {folder.plan}")
        shortage = _shortage(config, plan)
        if shortage:
            _say(shortage)
        return 1 if plan.problems or shortage else 0
    used, unfetched = _fetch(config, folder, used_scans(plan, scans))
    timer.lap("fetch")
    job = _Job(config, folder, plan, used, unfetched, workers)
    if job.is_done():
        return _tell(folder, plan, _write_errors(config, folder, job.problems()))
    job.index()
    timer.lap("index")
    job.build()
    timer.lap("build")
    problems = job.problems()
    shown = _write_errors(config, folder, problems)
    publish(config, folder, plan, used, scans, job.headers, job.projections, problems, timer.laps, workers)
    return _tell(folder, plan, shown)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


@dataclass
class _Timer:
    """Seconds of each step, for the report."""

    laps: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.monotonic)

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self.last = now - self.last, now


def _find(config: AbiConfig, folder: BuildFolder) -> list[Scan]:
    """Scans found, from the saved collection when there is one: a run can be replayed offline."""
    if folder.sources.exists():
        return load_items(folder.sources)
    scans = find(config)
    asked = [s for s in scans if in_period(config, s)]
    table = completeness(asked, config.channels, start=config.start_dt, end=config.end_dt)
    write_completeness(table, folder.completeness)
    save_items(folder.sources, scans)
    _say(f"found {len(scans)} scans, {sum(len(s.files) for s in scans)} files")
    return scans


def _plan(config: AbiConfig, folder: BuildFolder, scans: Sequence[Scan], workers: Workers) -> Plan:
    if folder.plan.exists():
        return read_plan(folder.plan)
    plan = make_plan(config, scans, Headers(folder.index, config.s3_endpoint), folder.root, workers)
    write_plan(plan, folder.plan)
    for problem in plan.problems:
        _say(f"left out: {problem}")
    return plan


def _fetch(
    config: AbiConfig, folder: BuildFolder, used: dict[str, Scan]
) -> tuple[dict[str, Scan], list[tuple[SourceFile, str]]]:
    """With ``--download``, whole files of the scans used come to disk first; else byte ranges are read in place."""
    remote = [f for scan in used.values() for f in scan.files.values() if f.href.startswith("s3://")]
    if not config.download or not remote:
        return used, []
    fetched, failures = fetch_files(remote, config.local_data_dir or folder.archive, endpoint_url=config.s3_endpoint)
    local = {(f.platform, f.sector, f.channel, f.start): f for f in fetched}
    here = {
        scan.id: replace(
            scan, files={c: local.get((f.platform, f.sector, c, f.start), f) for c, f in scan.files.items()}
        )
        for scan in used.values()
    }
    return here, failures


class _Job:
    """Steps from the plan to the finished store."""

    def __init__(
        self,
        config: AbiConfig,
        folder: BuildFolder,
        plan: Plan,
        used: Mapping[str, Scan],
        unfetched: Sequence[tuple[SourceFile, str]],
        workers: Workers,
    ) -> None:
        self.config, self.folder, self.plan, self.used = config, folder, plan, used
        self.layout = TileLayout.of(config)
        self.workers = workers
        self.ledger = Ledger(folder.ledger)
        self.unfetched = list(unfetched)
        self.headers: dict[str, FileIndex] = {}
        self.unreadable: dict[str, str] = {}
        self.projections: dict[int, GeosProjection] = {}

    def index(self) -> None:
        """References of every file the plan names, and the virtual cube of them."""
        framed = {name for names in self.plan.tiles["scan_ids"] for name in names if name}
        files = [self.used[n].files[c] for n in sorted(framed) for c in sorted(self.used[n].files)]
        tasks = [IndexTask(f, self.folder.index, self.config.s3_endpoint) for f in files]
        for outcome in run_tasks(
            tasks,
            IndexTask.header,
            self.workers,
            retries=self.config.retries if any(f.href.startswith("s3://") for f in files) else 0,
            label="indexing",
        ):
            if outcome.result is None:
                self.unreadable[outcome.task.key] = outcome.error or ""
            else:
                self.headers[outcome.task.key] = outcome.result
        if not self.headers:
            raise SourceError(f"none of the {len(files)} planned files is readable; the first is {files[0].href}")
        grids = Headers(self.folder.index, self.config.s3_endpoint)
        for row in self.plan.tiles.itertuples():
            self.projections[int(row.tile)] = grids.of(self.used[row.event_scan]).grid.projection

    def is_done(self) -> bool:
        """Whether every shard is made and all is published."""
        shards = {f"shard-{n:06d}" for n in self.plan.tiles["shard"]}
        return self.folder.catalog.exists() and all(self.ledger.is_done(key) for key in shards)

    def build(self) -> None:
        """Make every shard that the ledger does not know as done."""
        store = self.folder.tiles
        attributes = {
            "title": f"ABI tiles, {self.config.stratification}",
            "stratacube_version": importlib.metadata.version("stratacube"),
            "config": yaml.safe_dump(self.config.described(), sort_keys=False),
            "config_hash": self.config.digest(),
            "source": "NOAA GOES-R ABI L1b radiances",
            "grid": self.config.grid,
            "tile_size": self.config.tile_size,
        }
        kept = self.plan.tiles["shard"].map(lambda n: self.ledger.is_done(f"shard-{n:06d}")).to_numpy(bool)
        create_tile_store(
            store, self.layout, self.plan.tiles, self.used, self.headers, self.projections, attributes, kept
        )
        tasks = [t for t in self._tasks() if not self.ledger.is_done(t.key)]
        for outcome in run_tasks(
            tasks,
            build_shard,
            self.workers,
            retries=self.config.retries,
            label="building",
        ):
            self.ledger.record(_entry(outcome.task, outcome.result, outcome.error, outcome.seconds))
        for _, day in groupby(sorted(self.headers.values(), key=_day), key=_day):
            indexes = [index_file(h.source, self.folder.index, self.config.s3_endpoint) for h in day]
            write_references(indexes, self.folder.references)

    def _tasks(self) -> list[ShardTask]:
        fills = fills_of(self.layout, self.headers, self.folder.tiles)
        tasks = []
        for shard, rows in self.plan.tiles.groupby("shard"):
            tiles, frames = [], []
            for position, row in enumerate(rows.itertuples()):
                tiles.append(TileSpec(row.tile_id, row.x_left, row.y_top, self.projections[int(row.tile)]))
                frames += [
                    Frame(position, step, name, self.used[name].files, self._lost(name))
                    for step, name in enumerate(row.scan_ids)
                    if name
                ]
            tasks.append(
                ShardTask(
                    shard=int(shard),
                    first=int(rows["tile"].iloc[0]),
                    tiles=tuple(tiles),
                    frames=tuple(frames),
                    layout=self.layout,
                    fills=fills,
                    good_flags=tuple(self.config.good_dqf),
                    store=self.folder.tiles,
                    cache=self.folder.index,
                    endpoint_url=self.config.s3_endpoint,
                )
            )
        return tasks

    def _lost(self, scan_id: str) -> dict[int, tuple[SourceFile, str]]:
        files = self.used[scan_id].files
        return {c: (f, self.unreadable[f.href]) for c, f in files.items() if f.href in self.unreadable}

    def problems(self) -> list[Problem]:
        """Everything dropped or absent, in a stable order."""
        found = [*self.ledger.problems(), *(Problem("source", text) for text in self.plan.problems)]
        if shortage := _shortage(self.config, self.plan):
            found.append(Problem("product", shortage))
        for row in self.plan.tiles.itertuples():
            for lack in row.missing:
                band, _, step = lack.partition("@")
                scan = row.scan_ids[int(step)]
                when = f"scan {scan}" if scan else f"no scan near {row.requested_times[int(step)]}"
                found.append(
                    Problem("missing", f"{band} is not in the archive ({when})", row.tile_id, scan, int(band[1:]))
                )
        found += [Problem("source", reason, channel=f.channel, href=f.href) for f, reason in self.unfetched]
        return found


def _shortage(config: AbiConfig, plan: Plan) -> str | None:
    """Say that fewer tiles were planned than asked for, if so."""
    missing = (config.num_tiles or 0) - len(plan.tiles)
    if missing <= 0:
        return None
    refused = ", ".join(f"{reason} ({n})" for reason, n in plan.refused.most_common(3)) or "none was left"
    return f"{missing} of {config.num_tiles} tiles found no place; candidates were left out for: {refused}"


def _day(header: FileIndex) -> date:
    return header.source.start.date()


def _entry(task: ShardTask, result: ShardResult | None, error: str | None, seconds: float) -> Entry:
    if result is None:
        problems = tuple(Problem("product", error or "", tile.tile_id) for tile in task.tiles)
        return Entry(task.key, "failed", problems)
    figures = {
        "seconds": seconds,
        "chunks": result.read.chunks,
        "bytes": result.read.bytes,
        "requests": result.read.requests,
        "valid_share": result.valid_share,
        "lattice_shift": result.shift,
    }
    status = "partial" if result.problems else "done"
    return Entry(task.key, status, tuple(result.problems), figures, tuple(result.empty))


def _write_errors(config: AbiConfig, folder: BuildFolder, problems: Sequence[Problem]) -> pd.DataFrame:
    """Write ``errors.csv`` when there is anything in it, and return its rows."""
    shown = [vars(p) for p in problems if not (config.allow_missing and p.kind == "missing")]
    frame = pd.DataFrame(shown)
    if shown:
        frame.to_csv(folder.errors, index=False)
    else:
        folder.errors.unlink(missing_ok=True)
    return frame


def _tell(folder: BuildFolder, plan: Plan, errors: pd.DataFrame) -> int:
    """Say how it went, and return the exit code."""
    if errors.empty:
        _say(f"done: {len(plan.tiles)} tiles in {folder.tiles}")
        return 0
    _say(f"{len(plan.tiles)} tiles in {folder.tiles}, with what follows missing from them:")
    counts = errors.groupby(["kind", "reason"]).size().sort_values(ascending=False)
    for (kind, reason), count in counts.head(10).items():
        _say(f"  {count:6d} x {kind}: {reason}")
    _say(f"every case is in {folder.errors}; mend the files and run the same command again to fill them in")
    return 1
