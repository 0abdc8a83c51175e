"""A build of ABI tiles, as the job runs it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any

from catalog.geostationary.completeness import completeness, write_completeness
from catalog.geostationary.fetch import FetchTask, local_copy
from catalog.geostationary.items import load_items, save_items
from catalog.geostationary.scans import Scan, SourceFile
from catalog.geostationary.shelf import ScanShelf
from cube.config import AbiConfig, default_workers
from cube.geostationary.counting import write_statistics
from cube.geostationary.cutting import Cutting
from cube.geostationary.edited_plan import edited_plan
from cube.geostationary.estimate import estimate
from cube.geostationary.find import find, in_period, period_of
from cube.geostationary.findings import Findings
from cube.geostationary.folder import AbiFolder
from cube.geostationary.grid import GeosProjection
from cube.geostationary.growth import grown_plan
from cube.geostationary.headers import Headers
from cube.geostationary.index import IndexTask, index_file
from cube.geostationary.layout import TileLayout
from cube.geostationary.pictures import has_previews
from cube.geostationary.plan import Screen, make_plan
from cube.geostationary.plan_map import draw_plan
from cube.geostationary.plan_table import Plan, PlanTable, write_plan
from cube.geostationary.predecessor import tables_alone, tell_idle, with_predecessors_defaults
from cube.geostationary.publish import Publication, publish
from cube.geostationary.references import IndexLater, write_references
from cube.geostationary.refusals import remedy_of
from cube.geostationary.screening import Screened, Screening
from cube.geostationary.split_words import split_words
from cube.geostationary.store import TileStore
from cube.geostationary.tiles import shard_key
from cube.job.job import run_job
from cube.job.ledger import Problem
from cube.job.parts import Part
from cube.job.run import Run
from cube.job.source import Manner, Planned
from cube.registry import INSTRUMENTS
from stratacube.choices import many
from stratacube.command import Answer
from stratacube.errors import SourceError, StratacubeError, UsageError
from stratacube.files import remove, remove_strays

__all__ = ["AbiBuild", "run_abi"]

_log = logging.getLogger(__name__)

_PATIENCE = 8
"""Scans in a row of which the server gives nothing, after which the rest is not tried."""


def run_abi(config: AbiConfig) -> Answer:
    """Run all of a build that is not yet done.

    Returns
    -------
    Answer
        Code 0 if every product was made whole, 1 if something is missing from them; ``errors.csv`` says what.

    Raises
    ------
    StratacubeError
        If the build cannot be made at all.
    """
    config = with_predecessors_defaults(config)
    if not config.archive:
        return tables_alone(config)
    build = AbiBuild(config)
    tell_idle(config, build.layout)
    with INSTRUMENTS.blamed(build.layout.instrument_name):
        return run_job(build, dry_run=config.dry_run)


class AbiBuild:
    """What is ABI's in the five steps; see :class:`cube.job.source.Source`.

    Parameters
    ----------
    config
        What to make.
    """

    modules: Sequence[str] = ()
    problem_columns = {  # noqa: RUF012  (a constant of the class)
        "kind": "kind",
        "reason": "reason",
        "product": "tile_id",
        "input": "scan_id",
        "part": "channel",
        "href": "href",
    }

    def __init__(self, config: AbiConfig) -> None:
        self.config = config
        self.folder = AbiFolder(config.output_dir)
        self.names = config.dialect.names
        self.layout = TileLayout.of(config)
        self.headers = Headers(self.folder.index, config.s3_endpoint, config.retries)
        self.manner = Manner(
            engine=config.engine,
            workers=config.workers or default_workers(),
            retries=config.retries,
            task_minutes=config.task_minutes,
            overwrite=config.overwrite,
            plan_only=config.plan_only,
            allow_missing=config.allow_missing,
            shard=config.shard,
            publish_only=config.publish_only,
        )
        self._drawn: Plan | None = None
        self.unfetched: list[tuple[SourceFile, str]] = []

    def described(self) -> dict[str, Any]:
        """What determines the tiles."""
        return self.config.described()

    def digest(self) -> str:
        """Hash of that."""
        return self.config.digest()

    def estimate(self) -> Iterator[tuple[str, str]]:
        """Say what would be read and written."""
        return estimate(self.config, self.folder, self.layout, self.manner)

    def find(self, run: Run) -> None:
        """List the scans of the archive; a run can be replayed offline from the list."""

        def make() -> None:
            scans = find(self.config)
            start, end = period_of(self.config)
            asked = [s for s in scans if in_period((start, end), s)]
            table = completeness(asked, self.config.channels, start=start, end=end, names=self.names.names)
            write_completeness(table, self.folder.completeness)
            save_items(self.folder.sources_of(len(scans)), scans, naming=self.names)
            run.say("found %s, %s", many(len(scans), "scan"), many(sum(len(s.files) for s in scans), "file"))

        run.keep("find", make, lambda: [self.folder.sources, self.folder.completeness], mark=self.folder.sources)

    def plan(self, run: Run) -> Planned:
        """Choose places, times and windows."""
        grows = self._grows(run)
        screened = self._screen(run, anew=grows)

        def make() -> None:
            plan = self._drawn or self._draw(run, screened)
            if grows:
                plan = grown_plan(self.table, plan)
            draw_plan(self.folder.plan_map, plan.rows.frame(["longitude", "latitude", "stratum"]), plan.tallies)
            write_plan(plan, self.folder.plan)

        def parts() -> list[Path]:
            return [self.folder.plan, *(t for t in (self.folder.plan_map, *self.folder.tables) if t.exists())]

        if run.keep("plan", make, parts, mark=self.folder.plan, fixed=not grows, anew=grows):
            self.__dict__.pop("table", None)
            for problem in self.table.problems:
                run.say("%s: %s", problem.kind, f"{problem.input} {problem.reason}".strip())
            for line in split_words(self.config.split_rule, self.table, self.layout.side):
                run.say("%s", line)
        return Planned(len(self.table.shard_numbers), self.table.words, list(filter(None, [self._shortage])))

    @property
    def _shortage(self) -> str | None:
        return self.table.shortage(self.config.num_tiles, remedy_of(self.config, self.table))

    def _grows(self, run: Run) -> bool:
        """Whether the plan that is there is to have more tiles."""
        wanted = self.config.num_tiles
        if wanted is None or "plan" not in run.ledger.entries or not run.holds(["plan"]):
            return False
        return wanted > (self.table.tiles if self.table.asked is None else self.table.asked)

    def _screen(self, run: Run, *, anew: bool) -> Screened | None:
        """Look at the files that tiles would be cut from; which those are, drawing the plan tells."""
        planned = "plan" in run.ledger.entries or self.folder.plan.exists()
        screened = "screen" in run.ledger.entries or self.folder.screening.exists()
        if self.config.screen == "off" or (planned and not screened):
            return None  # what an earlier version planned is built as it was planned

        def make() -> None:
            config, scans = self.config, load_items(self.folder.sources, self.names, packed=True)
            full = config.screen == "full"
            screening = Screening(run, config.good_dqf, full, self.folder.index, config.s3_endpoint, scans)
            if full:
                screening(scans)
            self._drawn = self._draw(run, screening, scans)
            screening.write(self.folder.screening)
            run.say("%s", screening.words)

        run.keep("screen", make, lambda: [self.folder.screening], mark=self.folder.screening, anew=anew)
        return Screened(self.folder.screening)

    def _draw(self, run: Run, screen: Screen | None, scans: Sequence[Scan] | None = None) -> Plan:
        scans = scans or load_items(self.folder.sources, self.names, packed=True)
        if self.config.plan is not None:
            return edited_plan(self.config.plan, self.config, scans, self.headers, screen)
        return make_plan(self.config, scans, self.headers, self.folder.root, run.workers, screen)

    @cached_property
    def table(self) -> PlanTable:
        """The plan, once it is written."""
        return PlanTable(self.folder.plan, self._projection)

    @cached_property
    def store(self) -> TileStore:
        """What the tiles are written into; what an earlier version planned is made as it would have made it."""
        layout = replace(self.layout, observed=self.table.time_means is not None)
        return TileStore(self.config, self.folder, layout, self.table)

    @cached_property
    def shelf(self) -> ScanShelf:
        """The scans found, where their files lie now."""
        return ScanShelf(self.folder.sources, self._localised, self.names)

    def _localised(self, scan: Scan) -> Scan:
        """With ``download``, files that have been fetched are read from disk."""
        if not self.config.download:
            return scan
        copies = {c: local_copy(f, self._archive) for c, f in scan.files.items() if f.href.startswith("s3://")}
        return replace(scan, files={channel: copies.get(channel) or file for channel, file in scan.files.items()})

    @property
    def _archive(self) -> Path:
        return self.config.local_data_dir or self.folder.archive

    def describe(self, run: Run) -> None:
        """Write the template of the store."""
        self.store.describe(run)

    def build(self, run: Run) -> None:
        """Fetch, index, and make every shard that the ledger does not know as done."""
        done = self._done(run, self.table.shard_numbers)
        found = Findings(self.folder)
        if len(done) == len(self.table.shard_numbers) and run.holds(["arrays", "references"]) and not found.there:
            self.store.gather(run, anew=False)
            self._count(run)
            return
        described = self.store.describe(run)
        if not described:  # what an earlier version wrote of tiles into the arrays alone is lost with them
            done = {n for n in done if self.folder.numbers_of(n).exists()}
        if self.config.download:
            self._fetch(run, self.table.named)
        cutting = Cutting(self.config, self.folder, self.table, self.shelf, self.store)
        told = found.take_in(run)
        lost = self._unfit(self.table.framed)
        new = told if self.manner.publish_only else lost  # the others, jobs of parts knew when they began
        stale = cutting.stale(done, new, found.knowing(self.table.shard_numbers))
        unreadable = lost | self._index(run, self.table.framed)
        unreadable |= cutting.cut(run, done - stale, unreadable)
        found.put_away()
        self.store.gather(run, anew=not described)
        self._count(run)
        run.keep("references", lambda: self._refer(run, unreadable), lambda: [self.folder.references], anew=run.changed)

    def _count(self, run: Run) -> None:
        """Sum up what the tasks counted; what an earlier version cut was not counted."""
        paths = [self.folder.counts_of(n) for n in self.table.shard_numbers]
        if all(path.exists() for path in paths):
            make = partial(
                write_statistics, self.folder.statistics, self.layout, paths, self.table.tiles, self.config.digest()
            )
            run.keep("statistics", make, lambda: [self.folder.statistics], anew=run.changed)

    def build_part(self, run: Run, part: Part) -> str:
        """Make a part's share of the shards."""
        run.require("arrays", self.folder.tiles)
        if self._grows(run):
            raise UsageError("the plan has fewer tiles than `num_tiles`: run this with `plan_only` instead of `shard`")
        mine = part.share(self.table.shard_numbers)
        scans, found = self.table.framed_of(mine), Findings(self.folder, part)
        if self.config.download:
            self._fetch(run, scans)
        cutting = Cutting(self.config, self.folder, self.table, self.shelf, self.store)
        lost, done = found.lost(), self._done(run, mine)
        unreadable = self._unfit(scans) | lost | self._index(run, scans)
        cutting.cut_some(run, mine, done - cutting.stale(done, lost), unreadable, found.note)
        return many(len(mine), "shard")

    def _fetch(self, run: Run, scans: Sequence[str]) -> None:
        """Bring whole files of some scans to disk; without ``download`` byte ranges are read in place."""
        in_vain = 0

        def tasks() -> Iterator[FetchTask]:
            for name in scans:
                files = tuple(f for f in self.shelf[name].files.values() if f.href.startswith("s3://"))
                if in_vain >= _PATIENCE:
                    reason = f"not tried: the server had given nothing of {_PATIENCE} scans in a row"
                    self.unfetched += [(file, reason) for file in files]
                elif files:
                    yield FetchTask(f"fetch {name}", files, self._archive, self.config.s3_endpoint)

        for outcome in run.do(tasks(), FetchTask.fetch, "fetching", len(scans)):
            if outcome.result is None:
                raise outcome.fault if isinstance(outcome.fault, StratacubeError) else SourceError(outcome.error or "")
            self.unfetched += outcome.result[0]
            in_vain = in_vain + 1 if outcome.result[1] else 0
        self.__dict__.pop("shelf", None)  # it may hold scans from before

    def _done(self, run: Run, shards: Sequence[int]) -> set[int]:
        """Shards that were made and are there as they were written."""
        keys = {shard_key(n): n for n in shards}
        done = {keys[key] for key in run.done(keys, self.manner.standing)}
        told = {n: run.ledger.entries[shard_key(n)].figures.get("tiles") for n in done}
        return done - {n for n, tiles in self.table.cut_by_growth().items() if told.get(n) != tiles}

    def _index(self, run: Run, scans: Sequence[str]) -> dict[str, str]:
        """Index every file of some scans, into the cache; return why some could not be, by address."""
        total = remote = readable = 0
        for name in scans:
            scan = self.shelf[name]
            total += len(scan.files)
            remote += any(f.href.startswith("s3://") for f in scan.files.values())
        tasks = (
            IndexTask(files[channel], self.folder.index, self.config.s3_endpoint)
            for name in scans
            for files in [self.shelf[name].files]
            for channel in sorted(files)
        )
        retries = self.manner.retries if remote else 0  # a disk does not fail now and then
        first, unreadable = "", {}
        for outcome in run.do(tasks, IndexTask.warm, "indexing", total, retries):
            first = first or outcome.task.key
            readable += outcome.result is not None
            if outcome.result is None:
                unreadable[outcome.task.key] = outcome.error or ""
        if not run.alone:
            return unreadable  # whether nothing at all is readable, no part knows
        remove_strays(self.folder.index)  # a cache, of which the ledger knows nothing
        if not readable:
            raise SourceError(f"none of the {total} planned files is readable; the first is {first}")
        return unreadable

    def _unfit(self, scans: Sequence[str]) -> dict[str, str]:
        """Files of some scans that screening found not fit to be used, and why, by address."""
        if self.config.screen == "off" or not self.folder.screening.exists():
            return {}
        lost = Screened(self.folder.screening).lost
        return {href: why for n in self.table.framed for href, why in lost(self.shelf[n].files, n).items()}

    def _projection(self, scan_id: str) -> GeosProjection:
        return self.headers.of(self.shelf[scan_id]).grid.projection

    def _refer(self, run: Run, unreadable: Mapping[str, str]) -> None:
        """Write the virtual cube of the scans that tiles were cut from, a month at a time."""
        if not run.holds(["references"]):
            # What lists it passes over what is there, so that a lost leaf would stay lost: it is made from nothing.
            remove(self.folder.references)
        files = (f for name in self.table.framed for f in self.shelf[name].files.values() if f.href not in unreadable)
        for _, month in groupby(sorted(files, key=_month), key=_month):
            later = (
                IndexLater(file, partial(index_file, file, self.folder.index, self.config.s3_endpoint))
                for file in month
            )
            write_references(later, self.folder.references)

    def problems(self, run: Run) -> Iterator[Problem]:
        """Everything absent, in a stable order."""
        yield from self.table.problems
        if shortage := self._shortage:
            yield Problem("product", shortage)
        for block in self.table.blocks(["tile_id", "scan_ids", "requested_times", "missing"]):
            for row in block.itertuples():
                for lack in row.missing:
                    band, _, step = lack.partition("@")
                    scan = row.scan_ids[int(step)]
                    when = f"scan {scan}" if scan else f"no scan near {row.requested_times[int(step)]}"
                    reason = f"{band} is not in the archive ({when})"
                    yield Problem("missing", reason, row.tile_id, scan, str(self.names.number(band)))
        for file, reason in self.unfetched:
            yield Problem("source", reason, part=str(file.channel), href=file.href)

    def publish(self, run: Run, problems: Sequence[Problem]) -> None:
        """Draw, report and describe the tiles."""
        laps = {step: run.seconds(step) or 0.0 for step in ("find", "screen", "plan", "arrays", "references")}
        tasks = (entry.figures for key, entry in run.ledger.entries.items() if key.startswith("shard-"))
        laps["tiles"] = sum(figures.get("seconds", 0.0) for figures in tasks)
        unmade = len({p.product for p in problems if p.kind == "product"})
        build = Publication(self.config, self.folder, self.table, self.shelf, self.headers)
        run.keep(
            "publish",
            lambda: publish(build, problems, laps, run),
            lambda: [p for p in self.folder.published if p.exists() or self.folder.catalog.exists()],
            mark=self.folder.catalog,
            anew=run.changed or not has_previews(self.folder, self.table.tiles - unmade, self.config.previews),
        )


def _month(file: SourceFile) -> str:
    return f"{file.start:%Y-%m}"
