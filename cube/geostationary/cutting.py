"""Cutting all tiles of a plan, a shard at a time, and once more those that would hold what only cutting found unfit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from catalog.geostationary.scans import SourceFile
from catalog.geostationary.shelf import ScanShelf
from cube.config import AbiConfig
from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import Frame, TileSpec
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.screen_file import FileRecord
from cube.geostationary.screening import Screened, add_unfit, unfit_rows
from cube.geostationary.store import TileStore
from cube.geostationary.tiles import ShardResult, ShardTask, build_shard, shard_key
from cube.job.engine import Outcome
from cube.job.ledger import Problem
from cube.job.run import Run
from stratacube.parquet import read_frame, write_frame

__all__ = ["Cutting"]


class Cutting:
    """Makes the shards of a build.

    Parameters
    ----------
    config
        Of the build.
    folder
        Of the build.
    table
        The plan.
    shelf
        The scans found, where their files lie.
    store
        What the tiles are written into.
    """

    def __init__(
        self, config: AbiConfig, folder: AbiFolder, table: PlanTable, shelf: ScanShelf, store: TileStore
    ) -> None:
        self.config, self.folder, self.table, self.shelf, self.store = config, folder, table, shelf, store
        self.screened = config.screen != "off" and folder.screening.exists()

    def cut(self, run: Run, to_do: Sequence[int], unreadable: Mapping[str, str]) -> dict[str, str]:
        """Make some shards of a whole build.

        A file that is found not fit to be used in the pixels of some tiles is one that was screened out: its record is
        changed, and the shards that have other pixels of it are made once more, without. So the store does not depend
        on the order of shards, nor on where a run was killed. What is found the second time was found the first.

        Parameters
        ----------
        run
            Whose workers cut.
        to_do
            Numbers of the shards.
        unreadable
            Files to do without, and why, by address.

        Returns
        -------
        dict
            The files that were found not fit, and why, by address.
        """
        found = self._cut(run, to_do, unreadable)
        if not found:
            return {}
        self._unfit(run, unfit_rows(found))
        lost = {record.href: record.error for record in found}
        self._cut(run, sorted(self.stale(run, self.table.shard_numbers, lost)), {**unreadable, **lost})
        return lost

    def cut_part(self, run: Run, part: str, to_do: Sequence[int], unreadable: Mapping[str, str]) -> None:
        """Make some shards beside other jobs.

        What is found not fit lies in a file until a run of the whole build takes it in (:meth:`take_in`): other jobs
        have other pixels of it.
        """
        found = self._cut(run, to_do, unreadable)
        if found:
            path = self.folder.unfit_of(part)
            run.keep(f"unfit {part}", lambda: write_frame(path, unfit_rows(found)), lambda: [path], anew=True)

    def take_in(self, run: Run) -> None:
        """Have the record of the screening know what jobs of parts found not fit."""
        paths = self.folder.all_unfit()
        if not paths or not self.screened:
            return
        rows = pd.concat([read_frame(path) for path in paths], ignore_index=True)
        known = Screened(self.folder.screening)([self.shelf[name] for name in rows["scan"].unique()])
        new = rows[[row.channel not in known.get(row.scan, {}) for row in rows.itertuples()]]
        if len(new):
            self._unfit(run, new.drop_duplicates(["scan", "channel"]))

    def _unfit(self, run: Run, rows: pd.DataFrame) -> None:
        record = self.folder.screening
        run.keep("screen", partial(add_unfit, record, rows), lambda: [record], anew=True)

    def stale(self, run: Run, made: Iterable[int], lost: Mapping[str, str]) -> set[int]:
        """Of shards that were made, those that hold pixels of files that were found not fit to be used.

        Parameters
        ----------
        run
            Whose ledger tells which files a shard was made without.
        made
            Their numbers.
        lost
            Such files, by address.
        """
        wanted = set(made)
        if not lost or not wanted:
            return set()
        used: dict[int, set[str]] = defaultdict(set)
        for shard, rows in self.table.shards(sorted(wanted)):
            names = {name for scans in rows["scan_ids"] for name in scans if name}
            used[shard] = {f.href for name in sorted(names) for f in self.shelf[name].files.values()} & lost.keys()
        entries = run.ledger.entries
        return {n for n, hrefs in used.items() if hrefs - {p.href for p in entries[shard_key(n)].problems}}

    def _cut(self, run: Run, to_do: Sequence[int], unreadable: Mapping[str, str]) -> list[FileRecord]:
        """Make shards; return what was found not fit to be used in them, each file once."""
        found: dict[str, FileRecord] = {}
        for outcome in run.do(self._tasks(unreadable, to_do), build_shard, "building", total=len(to_do)):
            _record(run, outcome)
            if outcome.result is not None:
                found |= {record.href: record for record in outcome.result.unfit}
        return [found[href] for href in sorted(found)]

    def _tasks(self, unreadable: Mapping[str, str], shards: Sequence[int]) -> Iterator[ShardTask]:
        fills, views = self.store.fills(), self.table.projections
        for shard, rows in self.table.shards(shards):
            tiles, frames = [], []
            for position, row in enumerate(rows.itertuples()):
                tiles.append(TileSpec(row.tile_id, row.x_left, row.y_top, views[row.projection]))
                for step, name in enumerate(row.scan_ids):
                    if name:
                        scan = self.shelf[name]
                        lost = _lost(scan.files, unreadable)
                        frames.append(Frame(position, step, name, scan.start, scan.files, lost))
            yield ShardTask(
                shard=shard,
                first=int(rows["tile"].iloc[0]),
                tiles=tuple(tiles),
                frames=tuple(frames),
                requested=tuple(tuple(np.asarray(list(t), "M8[us]")) for t in rows["requested_times"]),
                layout=self.store.layout,
                fills=fills,
                good_flags=tuple(self.config.good_dqf),
                store=self.folder.tiles,
                numbers=self.folder.numbers_of(shard),
                cache=self.folder.index,
                endpoint_url=self.config.s3_endpoint,
                min_valid=self.config.min_valid,
                screened=self.screened,
            )


def _lost(files: Mapping[int, SourceFile], unreadable: Mapping[str, str]) -> dict[int, tuple[SourceFile, str]]:
    """Files that could not be indexed, or are not fit to be used, and why."""
    return {c: (f, unreadable[f.href]) for c, f in files.items() if f.href in unreadable}


def _record(run: Run, outcome: Outcome[ShardTask, ShardResult]) -> None:
    task, result = outcome.task, outcome.result
    if result is None:
        reason = outcome.error or ""
        run.record(task.key, "failed", [Problem("product", reason, tile.tile_id) for tile in task.tiles])
        return
    figures = {
        "seconds": outcome.seconds,
        "chunks": result.read.chunks,
        "bytes": result.read.bytes,
        "requests": result.read.requests,
        "valid_share": sum(result.valid_shares) / len(result.valid_shares),
        "lowest_valid": min(result.valid_shares),
        "lattice_shift": result.shift,
    }
    status = "partial" if result.problems else "done"
    run.record(task.key, status, result.problems, figures, result.empty, outcome.written)
