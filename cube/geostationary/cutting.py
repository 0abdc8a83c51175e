"""Cutting all tiles of a plan, a shard at a time, and once more those that would hold what only cutting found unfit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from catalog.geostationary.scans import SourceFile
from catalog.geostationary.shelf import ScanShelf
from cube.config import AbiConfig
from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import Frame, TileSpec
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.screen_file import FileRecord
from cube.geostationary.screening import add_unfit
from cube.geostationary.store import TileStore
from cube.geostationary.tiles import ShardResult, ShardTask, build_shard
from cube.job.engine import Outcome
from cube.job.ledger import Problem
from cube.job.run import Run

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

    def cut(self, run: Run, done: set[int], unreadable: Mapping[str, str]) -> dict[str, str]:
        """Make every shard that is not done.

        A file that is found not fit to be used in the pixels of some tiles is one that was screened out: its record is
        changed, and the shards that have other pixels of it are made once more, without. So the store does not depend
        on the order of shards, nor on where a run was killed. What is found the second time was found the first.

        Parameters
        ----------
        run
            Whose workers cut.
        done
            Numbers of shards that are made.
        unreadable
            Files to do without, and why, by address.

        Returns
        -------
        dict
            The files that were found not fit, and why, by address.
        """

        def note(records: Sequence[FileRecord]) -> None:
            change = partial(add_unfit, self.folder.screening, records)
            run.keep("screen", change, lambda: [self.folder.screening], anew=True)

        return self.cut_some(run, self.table.shard_numbers, done, unreadable, note)

    def cut_some(
        self,
        run: Run,
        shards: Sequence[int],
        done: set[int],
        unreadable: Mapping[str, str],
        note: Callable[[Sequence[FileRecord]], None],
    ) -> dict[str, str]:
        """Make those of some shards that are not done, as :meth:`cut` does; ``note`` keeps what is found not fit."""
        found = self._cut(run, [n for n in shards if n not in done], unreadable)
        if not found:
            return {}
        # Of several that tell of one file the first shard is quoted, whichever was made first.
        records = {record.href: record for shard in sorted(found, reverse=True) for record in found[shard]}
        note(list(records.values()))
        lost = {href: record.error for href, record in records.items()}
        knowing = {shard: {record.href for record in some} for shard, some in found.items()}
        again = self.stale(set(shards), lost, knowing)
        self._cut(run, sorted(again), {**unreadable, **lost})
        return lost

    def stale(self, made: set[int], lost: Mapping[str, str], knowing: Mapping[int, set[str]] | None = None) -> set[int]:
        """Of shards that were made, those that hold pixels of files that were found not fit to be used.

        Parameters
        ----------
        made
            Their numbers.
        lost
            Such files, by address.
        knowing
            By shard, those that it was made without.
        """
        if not lost or not made:
            return set()
        used: dict[int, set[str]] = defaultdict(set)
        for shard, rows in self.table.shards(sorted(made)):
            names = {name for scans in rows["scan_ids"] for name in scans if name}
            used[shard] = {f.href for name in sorted(names) for f in self.shelf[name].files.values()}
        return {shard for shard, hrefs in used.items() if hrefs & lost.keys() - (knowing or {}).get(shard, set())}

    def _cut(self, run: Run, shards: Sequence[int], unreadable: Mapping[str, str]) -> dict[int, list[FileRecord]]:
        """Make shards; return what was found not fit to be used in them, by shard."""
        found = {}
        for outcome in run.do(self._tasks(unreadable, shards), build_shard, "building", total=len(shards)):
            _record(run, outcome)
            if outcome.result is not None and outcome.result.unfit:
                found[outcome.task.shard] = outcome.result.unfit
        return found

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
                labels=tuple(f"{row.stratum}/{getattr(row, 'split', '')}" for row in rows.itertuples()),
                counts=self.folder.counts_of(shard),
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
        "tiles": len(task.tiles),
    }
    status = "partial" if result.problems else "done"
    run.record(task.key, status, result.problems, figures, result.empty, outcome.written)
