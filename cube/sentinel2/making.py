"""Making cells from scenes, to their last product; what is lost from tmp meanwhile is made again."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.sentinel2.items import Product
from cube.job.engine import Outcome
from cube.job.ledger import Problem
from cube.job.run import Run
from cube.sentinel2.cell_store import CellStore, cell_store_file, store_attributes, stored
from cube.sentinel2.composite import CellTask, ScratchLostError, Vote, process_cell
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.estimate import scratch_bytes
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.judging import Judging
from cube.sentinel2.lattice import Window
from cube.sentinel2.layers import layers_of
from cube.sentinel2.pieces import folder_of
from cube.sentinel2.plan import Plan, PlannedCell
from cube.sentinel2.products import Shard, Values, ZarrLayout, encoding, paste
from cube.sentinel2.record import SceneRecord
from cube.sentinel2.reduce import parse_reducer
from cube.sentinel2.scenes import SceneResult, SceneTask, process_scene
from cube.sentinel2.supply import Supply
from stratacube.files import remove

__all__ = ["MODULES", "Making", "cell_key", "make_again", "shard_key"]

_log = logging.getLogger(__name__)

MODULES = process_scene.__module__, process_cell.__module__
"""Of the functions that workers run."""

_ROUNDS = 3
"""How often cells are made again whose scratch was lost, before they are given up: who cleans tmp as fast as it is
filled will do so again."""

Drops = dict[str, list[tuple[str, str, str]]]
"""By acquisition: product, its file or folder, and why it was dropped."""


@dataclass(frozen=True)
class _ShardTask:
    """One shard of the Zarr store, and the cells to put into it."""

    index: Shard
    layout: ZarrLayout
    store: Path
    bands: tuple[str, ...]
    values: Values
    reducer: str
    cells: tuple[tuple[Window, Path], ...]
    layers: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return shard_key(self.index)


def shard_key(index: Shard) -> str:
    """Name of a shard in the ledger."""
    return " ".join(map(str, ("shard", *index)))


def cell_key(cell: str) -> str:
    """Name of a cell in the ledger."""
    return f"cell {cell}"


def make_again(run: Run, cell: str, reason: str) -> None:
    """Let the ledger know that a cell which was made lacks something: it is made once more."""
    entry = run.ledger.entries.get(cell_key(cell))
    if entry is not None and entry.status in ("done", "begun"):
        _, files = next(iter(run.ledger.files_of([entry.key])))
        run.record(entry.key, "partial", [Problem("source", reason, cell)], entry.figures, files=files or ())


def _write_shard(task: _ShardTask) -> None:
    kind = encoding(task.values, task.reducer)
    try:
        for name in (*task.bands, "count", *task.layers):
            data = []
            for window, kept in task.cells:
                values = _load(kept / f"{name}.npy")
                outline = kept / "inside.npy"
                inside = _load(outline) if outline.exists() else None
                data.append((window, stored(values, kind, is_band=name in task.bands), inside))
            paste(task.store, task.layout, task.index, {name: data})
    except FileNotFoundError as error:
        raise ScratchLostError(f"{error.filename} is gone") from error


def _load(path: Path) -> npt.NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]
    except (EOFError, ValueError) as error:
        raise ScratchLostError(f"{path} is cut short") from error


class Making:
    """Makes cells, as many at a time as tmp has room for: their scenes, then the cells, then their place in the store.

    Parameters
    ----------
    config
        What to make of them.
    folder
        Of the build.
    plan
        The cells, and what reaches each.
    layout
        Of the Zarr store.
    run
        Where tasks run, and what is done.
    foreign
        Shards of the Zarr store that hold cells of other jobs too: they are left to whoever has all of these, and so is
        the end of our cells in them.
    """

    def __init__(
        self,
        config: Sentinel2Config,
        folder: Sentinel2Folder,
        plan: Plan,
        layout: ZarrLayout,
        run: Run,
        foreign: Container[Shard] = frozenset(),
    ) -> None:
        self.config, self.folder, self.plan, self.layout, self.run = config, folder, plan, layout, run
        self.foreign = foreign
        self.supply = Supply(config, folder)
        self.judging = Judging(config, folder, SceneRecord(run.ledger, folder.archive))
        self._to_store = config.one_store

    def turns(self, cells: Sequence[PlannedCell]) -> Iterator[list[PlannedCell]]:
        """Cells to make, as many at a time as tmp has room for their scenes."""
        turn: list[PlannedCell] = []
        held = 0.0
        for cell in cells:
            size = scratch_bytes(cell, len(self.config.bands))
            if turn and held + size > self.config.tmp_gb * 1e9:
                yield turn
                turn, held = [], 0.0
            turn.append(cell)
            held += size
        if turn:
            yield turn

    def make(self, turn: Sequence[PlannedCell]) -> None:
        """Make some cells to their last product; those whose scratch was lost meanwhile once more."""
        left, lost = list(turn), dict[str, str]()
        for _ in range(_ROUNDS):
            begun = self._begun(left)
            lost = self._cells([p for p in left if p.name not in begun])
            if self._to_store:
                lost |= self._shards([p for p in left if p.name not in lost])
            left = [p for p in left if p.name in lost]
            if not left:
                return
            first = next(iter(lost.values()))
            _log.warning("scratch that %d cells need was lost (%s); it is made again", len(left), first)
        for planned in left:
            reason = f"{lost[planned.name]}, and was so {_ROUNDS} times; does something remove files in tmp?"
            self.run.record(cell_key(planned.name), "failed", [Problem("product", reason, planned.name)])

    def _begun(self, cells: Sequence[PlannedCell]) -> set[str]:
        """Cells that lack nothing but their place in the store."""
        keys = {cell_key(p.name): p.name for p in cells} if self._to_store else {}
        return {keys[key] for key in self.run.done(keys, ("begun",))}

    def _scenes(self, cells: Sequence[PlannedCell]) -> Drops:
        """Bring the scenes of some cells onto the lattice; return what was dropped."""
        reached: dict[str, dict[str, Window]] = {}
        for cell in cells:
            for key in cell.acquisitions:
                reached.setdefault(key, {})[cell.cell.id] = cell.window  # once, in however many periods
        lattices = {cell.cell.id: self.plan.lattice_of(cell.cell) for cell in cells}
        used = [self.plan.acquisitions[key] for key in reached]
        dropped: Drops = {}
        for batch in self.supply.batches(used, self.run.workers.number):
            tasks = [
                SceneTask(
                    acquisition=acquisition,
                    cells=tuple(reached[acquisition.key].items()),
                    lattice=self.plan.lattice,
                    bands=self.plan.acquisitions[acquisition.key].keys(self.config.asset_keys()),
                    method=self.config.resampling,
                    masked=tuple(self.config.mask_classes),
                    dilation=self.config.mask_dilation,
                    folder=self.folder.scenes,
                    checks=self.judging.checks(acquisition),
                    own=tuple((c, lattices[c]) for c in reached[acquisition.key]) if self.plan.own_corners else (),
                    floor=self.config.negatives == "zero",
                )
                for acquisition in batch
            ]
            for outcome in self.run.do(tasks, process_scene, "scenes"):
                dropped[outcome.task.acquisition.key] = self._record_scene(outcome)
        return dropped

    def _record_scene(self, outcome: Outcome[SceneTask, SceneResult]) -> list[tuple[str, str, str]]:
        figures: dict[str, float] = {"seconds": outcome.seconds}
        result = outcome.result
        if result is not None:
            self.judging.note(result)
            lost = [(name, href, self.supply.reason(name, why)) for name, href, why in result.dropped]
            figures |= {"blocks": result.blocks, "skipped": result.skipped, "pixels": result.pixels}
        else:
            # Without its scene a cell would be wrong in silence: it is made from the others and marked partial.
            lost = [(p.id, "", str(outcome.error)) for p in outcome.task.acquisition.products]
        self.run.record(outcome.task.key, "partial" if lost else "done", (), figures)
        return lost

    def _cells(self, cells: Sequence[PlannedCell]) -> dict[str, str]:
        """Make cells from their scenes; return those whose scratch was lost, and what of it."""
        if not cells:
            return {}
        dropped = self._scenes(cells)
        self._refuse(cells, dropped)
        threads = max(1, self.run.workers.number // len(cells))
        places = {cell_key(cell.name): cell for cell in cells}
        failed = {key for key, drops in dropped.items() if _all_dropped(self.plan.acquisitions[key].products, drops)}
        tasks = [self._cell_task(cell, threads, failed) for cell in cells]
        lost: dict[str, str] = {}
        for outcome in self.run.do(tasks, process_cell, "cells"):
            task, result = outcome.task, outcome.result
            place = places[task.key]
            missing = [drop for key in place.acquisitions for drop in dropped[key]]
            problems = [Problem("source", why, place.name, name, href=href) for name, href, why in missing]
            if isinstance(outcome.fault, ScratchLostError):
                lost[place.name] = str(outcome.fault)
            elif result is None:
                problems.append(Problem("product", str(outcome.error), place.name))
                self.run.record(task.key, "failed", problems)
            else:
                status = "begun" if self._to_store else "partial" if problems else "done"
                figures = {"seconds": outcome.seconds, "valid_share": result.valid_share}
                self.run.record(task.key, status, problems, figures, files=outcome.written)
        return lost

    def _refuse(self, cells: Sequence[PlannedCell], dropped: Drops) -> None:
        """Add to what was dropped the scenes whose pixels contradict what is said of them."""
        lost = {key: {name for name, _, _ in drops} for key, drops in dropped.items()}
        for key, reason in self.judging.refusals(cells, self.plan.acquisitions, lost).items():
            products = [p for p in self.plan.acquisitions[key].products if p.id not in lost[key]]
            dropped[key] += [(p.id, folder_of(p), f"{p.id}: {reason}") for p in products]

    def _cell_task(self, planned: PlannedCell, threads: int, failed: set[str]) -> CellTask:
        config, cell, of = self.config, planned.cell, planned.period or self.config
        return CellTask(
            cell=cell.id,
            period="" if planned.period is None else planned.period.period,
            window=planned.window,
            outline=cell.outline,
            lattice=self.plan.lattice_of(cell),
            bands=tuple(config.bands),
            votes=self._votes(planned, failed),
            reducer=config.reducer,
            values=config.values,
            folder=self.folder.composites / cell.id,
            cog="cog" in config.products,
            compress=config.compress,
            kept=self.folder.kept(planned.name) if self._to_store else None,
            result=self.folder.result(planned.name),
            threads=threads,
            tags=(
                ("PERIOD_START", of.start.isoformat() + "Z"),
                ("PERIOD_END", of.end.isoformat() + "Z"),
                ("SOFTWARE", f"stratacube {importlib.metadata.version('stratacube')}"),
                ("CONFIG_HASH", config.digest()),
                *((("PRESET", config.preset),) if config.preset else ()),
            ),
            also=tuple(config.also),
            months=config.months_seen(),
            store=self._cell_store(planned) if config.cell_stores else None,
        )

    def _cell_store(self, planned: PlannedCell) -> CellStore:
        config = self.config
        return CellStore(
            path=self.folder.composites / planned.cell.id / cell_store_file(planned.name),
            codec=config.codec,
            attributes=store_attributes(config, planned.period),
            lattice=self.plan.lattice_of(planned.cell),
            window=planned.window,
            kind=encoding(config.values, config.reducer),
            bands=tuple(config.bands),
        )

    def _votes(self, planned: PlannedCell, failed: set[str]) -> tuple[Vote, ...]:
        """Group the acquisitions of a cell by datatake, in the order that the reducer asks for."""
        datatakes: dict[str, list[str]] = {}
        for key in planned.acquisitions:
            if key not in failed:
                datatakes.setdefault(self.plan.acquisitions[key].datatake, []).append(key)
        votes, by_clouds = [], parse_reducer(self.config.reducer).clearest_first
        for name, keys in datatakes.items():
            members = sorted((self.plan.acquisitions[k] for k in keys), key=lambda a: a.rank)
            clouds = [p.cloud_cover for a in members for p in a.products if p.cloud_cover is not None]
            cloud = float(np.mean(clouds)) if clouds and by_clouds else 0.0
            order = cloud, members[0].datatake_start, name
            day = (members[0].datatake_start - datetime(1970, 1, 1)).days
            votes.append((order, Vote(name, tuple(self.folder.scenes / a.key for a in members), day)))
        return tuple(vote for _, vote in sorted(votes, key=lambda v: v[0]))

    def _shards(self, cells: Sequence[PlannedCell]) -> dict[str, str]:
        """Put cells into the shards they lie in, each written whole by one worker, and end them with their last one."""
        ready = {p.name: p for p in cells if self.run.ledger.entries[cell_key(p.name)].status == "begun"}
        shards: dict[Shard, list[PlannedCell]] = {}
        shared = set[str]()
        for planned in ready.values():
            for index in self.layout.shards_of(planned.window, planned.step):
                if index in self.foreign:
                    shared.add(planned.name)
                else:
                    shards.setdefault(index, []).append(planned)
        tasks = [
            _ShardTask(
                index,
                self.layout,
                self.folder.store,
                tuple(self.config.bands),
                self.config.values,
                self.config.reducer,
                tuple((p.window, self.folder.kept(p.name)) for p in members),
                tuple(layers_of(self.config.also, self.config.months_seen())),
            )
            for index, members in sorted(shards.items())
        ]
        lost: dict[str, str] = {}
        failed: dict[str, Problem] = {}
        for outcome in self.run.do(tasks, _write_shard, "shards"):
            members = shards[outcome.task.index]
            if isinstance(outcome.fault, ScratchLostError):
                lost |= {p.name: str(outcome.fault) for p in members}
            elif outcome.error is not None:
                problem = Problem("product", f"{outcome.task.key} of {self.folder.store}: {outcome.error}")
                failed |= {p.name: problem for p in members}
                self.run.record(outcome.task.key, "failed", [problem])
            else:
                self.run.record(outcome.task.key, "done", files=outcome.written)
        for name in ready.keys() - lost.keys() - shared:
            self._end(name, failed.get(name))
        return lost

    def _end(self, cell: str, failed: Problem | None) -> None:
        """Put the last word on a cell into the ledger: its last product is written."""
        entry = self.run.ledger.entries[cell_key(cell)]
        _, files = next(iter(self.run.ledger.files_of([entry.key])))
        scratch = f"{self.folder.tmp.name}/"
        kept = [f for f in files or () if not f.path.startswith(scratch)]
        status = "failed" if failed else "partial" if entry.problems else "done"
        self.run.record(entry.key, status, entry.problems, entry.figures, files=kept)
        if not self.config.keep_tmp:
            remove(self.folder.kept(cell))


def _all_dropped(products: Sequence[Product], drops: Sequence[tuple[str, str, str]]) -> bool:
    """Whether nothing of an acquisition is left: a task that failed wrote no scene at all."""
    return bool(drops) and {p.id for p in products} <= {name for name, _, _ in drops}
