"""A build of Sentinel-2 composites, as the job runs it."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from catalog.sentinel2.items import Product
from cube.config import default_workers
from cube.job.engine import Outcome
from cube.job.folder import FORMAT
from cube.job.job import run_job
from cube.job.ledger import Problem
from cube.job.outcome import write_errors
from cube.job.run import Run
from cube.job.source import Manner, Planned
from cube.sentinel2.composite import CellResult, CellTask, ScratchLostError, Vote, process_cell
from cube.sentinel2.config import GridConfig, Sentinel2Config
from cube.sentinel2.estimate import estimate, scratch_bytes
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import Cell, make_grid, write_grid
from cube.sentinel2.lattice import Window
from cube.sentinel2.plan import (
    Plan,
    PlannedCell,
    choose_cells,
    make_plan,
    plan_frame,
    refuse_other_cells,
    write_plan,
)
from cube.sentinel2.products import Values, ZarrLayout, create_composites, encoding, paste
from cube.sentinel2.publish import publish
from cube.sentinel2.scenes import SceneResult, SceneTask, process_scene
from cube.sentinel2.supply import Supply, find, write_scene_list
from stratacube.command import Answer

__all__ = ["MODULES", "Sentinel2Build", "run_make_grid", "run_sentinel2"]

_log = logging.getLogger(__name__)

MODULES = process_scene.__module__, process_cell.__module__
"""Of the functions that workers run."""

_ROUNDS = 3
"""How often cells are made again whose scratch was lost, before they are given up: who cleans tmp as fast as it is
filled will do so again."""

Drops = dict[str, list[tuple[str, str, str]]]
"""By acquisition: product, its file or folder, and why it was dropped."""


def run_make_grid(config: GridConfig) -> Answer:
    """Write a grid of cells.

    Raises
    ------
    UsageError
        If the bounds are no whole number of cells, the CRS is unknown, or the file cannot be written.
    """
    xmin, ymin, xmax, ymax = config.bounds
    frame = make_grid(config.cell_size, (xmin, ymin, xmax, ymax), config.crs)
    write_grid(frame, config.output)
    return Answer(0, [f"{len(frame)} cells: {config.output}"], {"cells": len(frame), "output": str(config.output)})


def run_sentinel2(config: Sentinel2Config, products: Sequence[Product] | None = None) -> Answer:
    """Run all of a build that is not yet done.

    Parameters
    ----------
    config
        What to make.
    products
        Products to choose from instead of a search.

    Returns
    -------
    Answer
        Code 0 if every product was made whole, 1 if something is missing from them; ``errors.csv`` says what.

    Raises
    ------
    StratacubeError
        If the build cannot be made at all.
    """
    return run_job(Sentinel2Build(config, products), dry_run=config.dry_run)


@dataclass(frozen=True)
class _ShardTask:
    """One shard of the Zarr store, and the cells to put into it."""

    index: tuple[int, int]
    layout: ZarrLayout
    store: Path
    bands: tuple[str, ...]
    values: Values
    reducer: str
    cells: tuple[tuple[Window, Path], ...]

    @property
    def key(self) -> str:
        return _shard_key(self.index)


def _shard_key(index: tuple[int, int]) -> str:
    return f"shard {index[0]} {index[1]}"


def _cell_key(cell: str) -> str:
    return f"cell {cell}"


def _write_shard(task: _ShardTask) -> None:
    kind = encoding(task.values, task.reducer)
    try:
        for name in (*task.bands, "count"):
            data = []
            for window, kept in task.cells:
                values = np.load(kept / f"{name}.npy", mmap_mode="r")
                outline = kept / "inside.npy"
                inside = np.load(outline) if outline.exists() else None
                if name == "count" or (kind.dtype == "float32" and kind.factor == 1):
                    data.append((window, values, inside))
                elif kind.dtype == "float32":
                    data.append((window, values * np.float32(kind.factor), inside))
                else:
                    data.append((window, kind.encode(values), inside))
            paste(task.store, task.layout, task.index, {name: data})
    except FileNotFoundError as error:
        raise ScratchLostError(f"{error.filename} is gone") from error


class Sentinel2Build:
    """What is Sentinel-2's in the five steps; see :class:`cube.job.source.Source`.

    Parameters
    ----------
    config
        What to make.
    products
        Products to choose from instead of a search.
    """

    modules: Sequence[str] = MODULES
    problem_columns = {  # noqa: RUF012  (a constant of the class)
        "kind": "kind",
        "reason": "reason",
        "product": "cell",
        "input": "product",
        "href": "href",
    }

    def __init__(self, config: Sentinel2Config, products: Sequence[Product] | None = None) -> None:
        self.config, self.given = config, products
        self.folder = Sentinel2Folder(config.work_dir)
        self.manner = Manner(
            engine=config.engine,
            workers=config.workers or default_workers(),
            retries=config.retries,
            overwrite=config.overwrite,
            plan_only=config.plan_only,
        )
        self.cells: list[Cell] = choose_cells(config)
        self.found: list[Product] = []
        self.supply = Supply(config, self.folder)

    def described(self) -> dict[str, Any]:
        """What determines the composites."""
        return self.config.described()

    def digest(self) -> str:
        """Hash of that."""
        return self.config.digest()

    def estimate(self) -> Iterator[tuple[str, str]]:
        """Say what would be read and written."""
        found = find(self.config, self.folder, self.cells, self.given)
        return estimate(self.config, make_plan(self.config, self.cells, found), self.manner.workers)

    def find(self, run: Run) -> None:
        """Search for products, or list a folder of them; a run can be replayed from the list."""

        def search() -> None:
            self.found = find(self.config, self.folder, self.cells, self.given)

        def parts() -> list[Path]:
            return [p for p in (self.folder.items,) if p.exists()]

        if not run.keep("find", search, parts, mark=self.folder.items, fixed=True) or not self.found:
            search()  # from the list
        write_scene_list(self.folder, self.found)
        run.say("%d products, those left out are in %s", len(self.found), self.folder.left_out)

    def plan(self, run: Run) -> Planned:
        """Lay the cells on the lattice, and find what reaches each."""
        frame = plan_frame(self.planned)
        if self.folder.plan.exists():
            refuse_other_cells(frame, self.folder.plan)
        run.keep(
            "plan",
            lambda: write_plan(frame, self.folder.plan, self.folder.selected),
            lambda: [self.folder.plan, self.folder.selected],
        )
        run.say(
            "planned %d cells from %d acquisitions: %s",
            len(self.planned.cells),
            len(self.planned.acquisitions),
            self.folder.plan,
        )
        return Planned(len(self.planned.cells), f"{len(self.planned.cells)} cells")

    @cached_property
    def planned(self) -> Plan:
        """What to make, once the products are found."""
        return make_plan(self.config, self.cells, self.found)

    @cached_property
    def layout(self) -> ZarrLayout:
        """Of the Zarr store."""
        return ZarrLayout.of([p.window for p in self.planned.cells])

    @property
    def _to_store(self) -> bool:
        return "zarr" in self.config.products

    def build(self, run: Run) -> None:
        """Make every cell that the ledger does not know as done, as many at a time as tmp has room for."""
        if self._to_store:
            self._arrays(run)
        to_do = self._to_do(run)
        for turn in self._turns(to_do):
            self._turn(run, turn)
            if not self.config.keep_tmp:
                shutil.rmtree(self.folder.scenes, ignore_errors=True)
        failed = any(e.status == "failed" for e in run.ledger.entries.values())
        if not self.config.keep_tmp and not failed:
            shutil.rmtree(self.folder.tmp, ignore_errors=True)
        empty = sorted(cell for cell, result in self.results(run) if result.valid_share == 0) if to_do else []
        if empty:
            run.say(
                "%d cells hold no pixel valid in all bands, such as %s; their products say so", len(empty), empty[0]
            )

    def _arrays(self, run: Run) -> None:
        """Write the store's metadata and coordinates."""
        attributes = {
            "title": f"Sentinel-2 L2A {self.config.reducer} composites",
            "source": "Copernicus Sentinel-2 level 2A surface reflectance",
            "time_coverage_start": self.config.start.isoformat() + "Z",
            "time_coverage_end": self.config.end.isoformat() + "Z",
            "stratacube_version": importlib.metadata.version("stratacube"),
            "stratacube_format": FORMAT,
            "config": yaml.safe_dump(self.config.described(), sort_keys=False),
            "config_hash": self.config.digest(),
        }
        kind, store = encoding(self.config.values, self.config.reducer), self.folder.store
        images = {*self.config.bands, "count"}

        def parts() -> Iterator[Path]:
            yield store / "zarr.json"
            for array in sorted(p for p in store.iterdir() if p.is_dir()):
                yield array / "zarr.json" if array.name in images else array

        run.keep(
            "arrays",
            lambda: create_composites(store, self.planned.lattice, self.layout, self.config.bands, kind, attributes),
            parts,
        )

    def _to_do(self, run: Run) -> list[PlannedCell]:
        """Cells that were not made, or of whose products something is not as it was written."""
        done = run.done(_cell_key(p.cell.id) for p in self.planned.cells)
        lost: set[tuple[int, int]] = set()
        if self._to_store:
            shards = {i for p in self.planned.cells for i in self.layout.shards_of(p.window)}
            whole = run.done(_shard_key(i) for i in shards)
            lost = {i for i in shards if _shard_key(i) not in whole}
        return [
            p
            for p in self.planned.cells
            if _cell_key(p.cell.id) not in done or (lost and not lost.isdisjoint(self.layout.shards_of(p.window)))
        ]

    def _turns(self, cells: Sequence[PlannedCell]) -> Iterator[list[PlannedCell]]:
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

    def _turn(self, run: Run, turn: Sequence[PlannedCell]) -> None:
        """Make some cells to their last product; those whose scratch was lost meanwhile once more."""
        left, lost = list(turn), dict[str, str]()
        for _ in range(_ROUNDS):
            begun = self._begun(run, left)
            lost = self._cells(run, [p for p in left if p.cell.id not in begun])
            if self._to_store:
                lost |= self._shards(run, [p for p in left if p.cell.id not in lost])
            left = [p for p in left if p.cell.id in lost]
            if not left:
                return
            _log.warning("what %d cells need in %s was lost (%s); it is made again", len(left), self.folder.tmp, lost)
        for planned in left:
            reason = f"{lost[planned.cell.id]}, and was so {_ROUNDS} times; does something remove files in tmp?"
            run.record(_cell_key(planned.cell.id), "failed", [Problem("product", reason, planned.cell.id)])

    def _begun(self, run: Run, cells: Sequence[PlannedCell]) -> set[str]:
        """Cells that lack nothing but their place in the store."""
        keys = {_cell_key(p.cell.id): p.cell.id for p in cells} if self._to_store else {}
        return {keys[key] for key in run.done(keys, ("begun",))}

    def _scenes(self, run: Run, cells: Sequence[PlannedCell]) -> Drops:
        """Bring the scenes of some cells onto the lattice; return what was dropped."""
        reached: dict[str, list[tuple[str, Window]]] = {}
        for cell in cells:
            for key in cell.acquisitions:
                reached.setdefault(key, []).append((cell.cell.id, cell.window))
        used = [self.planned.acquisitions[key] for key in reached]
        dropped: Drops = {}
        for batch in self.supply.batches(used, run.workers.number):
            tasks = [
                SceneTask(
                    acquisition=acquisition,
                    cells=tuple(reached[acquisition.key]),
                    lattice=self.planned.lattice,
                    bands=self.config.asset_keys(),
                    method=self.config.resampling,
                    masked=tuple(self.config.mask_classes),
                    dilation=self.config.mask_dilation,
                    folder=self.folder.scenes,
                )
                for acquisition in batch
            ]
            for outcome in run.do(tasks, process_scene, "scenes"):
                dropped[outcome.task.acquisition.key] = self._record_scene(run, outcome)
        return dropped

    def _record_scene(self, run: Run, outcome: Outcome[SceneTask, SceneResult]) -> list[tuple[str, str, str]]:
        figures: dict[str, float] = {"seconds": outcome.seconds}
        result = outcome.result
        if result is not None:
            lost = [(name, href, self.supply.reason(name, why)) for name, href, why in result.dropped]
            figures |= {"blocks": result.blocks, "skipped": result.skipped, "pixels": result.pixels}
        else:
            # Without its scene a cell would be wrong in silence: it is made from the others and marked partial.
            lost = [(p.id, "", str(outcome.error)) for p in outcome.task.acquisition.products]
        run.record(outcome.task.key, "partial" if lost else "done", (), figures)
        return lost

    def _cells(self, run: Run, cells: Sequence[PlannedCell]) -> dict[str, str]:
        """Make cells from their scenes; return those whose scratch was lost, and what of it."""
        if not cells:
            return {}
        dropped = self._scenes(run, cells)
        threads = max(1, run.workers.number // len(cells))
        places = {cell.cell.id: cell for cell in cells}
        failed = {key for key, drops in dropped.items() if _all_dropped(self.planned.acquisitions[key].products, drops)}
        tasks = [self._cell_task(cell, threads, failed) for cell in cells]
        lost: dict[str, str] = {}
        for outcome in run.do(tasks, process_cell, "cells"):
            task, result = outcome.task, outcome.result
            missing = [drop for key in places[task.cell].acquisitions for drop in dropped[key]]
            problems = [Problem("source", why, task.cell, name, href=href) for name, href, why in missing]
            if isinstance(outcome.fault, ScratchLostError):
                lost[task.cell] = str(outcome.fault)
            elif result is None:
                problems.append(Problem("product", str(outcome.error), task.cell))
                run.record(task.key, "failed", problems)
            else:
                status = "begun" if self._to_store else "partial" if problems else "done"
                figures = {"seconds": outcome.seconds, "valid_share": result.valid_share}
                run.record(task.key, status, problems, figures, files=outcome.written)
        return lost

    def _cell_task(self, planned: PlannedCell, threads: int, failed: set[str]) -> CellTask:
        config, cell = self.config, planned.cell
        return CellTask(
            cell=cell.id,
            window=planned.window,
            outline=cell.outline,
            lattice=self.planned.lattice,
            bands=tuple(config.bands),
            votes=self._votes(planned, failed),
            reducer=config.reducer,
            values=config.values,
            folder=self.folder.composites / cell.id,
            cog="cog" in config.products,
            compress=config.compress,
            kept=self.folder.kept(cell.id) if self._to_store else None,
            result=self.folder.result(cell.id),
            threads=threads,
            tags=(
                ("PERIOD_START", config.start.isoformat() + "Z"),
                ("PERIOD_END", config.end.isoformat() + "Z"),
                ("SOFTWARE", f"stratacube {importlib.metadata.version('stratacube')}"),
                ("CONFIG_HASH", config.digest()),
            ),
        )

    def _votes(self, planned: PlannedCell, failed: set[str]) -> tuple[Vote, ...]:
        """Group the acquisitions of a cell by datatake; the least clouded first for ``best``, else in order of time."""
        datatakes: dict[str, list[str]] = {}
        for key in planned.acquisitions:
            if key not in failed:
                datatakes.setdefault(self.planned.acquisitions[key].datatake, []).append(key)
        votes = []
        for name, keys in datatakes.items():
            members = sorted((self.planned.acquisitions[k] for k in keys), key=lambda a: a.rank)
            clouds = [p.cloud_cover for a in members for p in a.products if p.cloud_cover is not None]
            cloud = float(np.mean(clouds)) if clouds and self.config.reducer == "best" else 0.0
            order = cloud, members[0].datatake_start, name
            votes.append((order, Vote(name, tuple(self.folder.scenes / a.key for a in members))))
        return tuple(vote for _, vote in sorted(votes, key=lambda v: v[0]))

    def _shards(self, run: Run, cells: Sequence[PlannedCell]) -> dict[str, str]:
        """Put cells into the shards they lie in, each written whole by one worker, and end them with their last one."""
        ready = {p.cell.id: p for p in cells if run.ledger.entries[_cell_key(p.cell.id)].status == "begun"}
        shards: dict[tuple[int, int], list[PlannedCell]] = {}
        for planned in ready.values():
            for index in self.layout.shards_of(planned.window):
                shards.setdefault(index, []).append(planned)
        tasks = [
            _ShardTask(
                index,
                self.layout,
                self.folder.store,
                tuple(self.config.bands),
                self.config.values,
                self.config.reducer,
                tuple((p.window, self.folder.kept(p.cell.id)) for p in members),
            )
            for index, members in sorted(shards.items())
        ]
        lost: dict[str, str] = {}
        failed: dict[str, Problem] = {}
        for outcome in run.do(tasks, _write_shard, "shards"):
            members = shards[outcome.task.index]
            if isinstance(outcome.fault, ScratchLostError):
                lost |= {p.cell.id: str(outcome.fault) for p in members}
            elif outcome.error is not None:
                problem = Problem("product", f"{outcome.task.key} of {self.folder.store}: {outcome.error}")
                failed |= {p.cell.id: problem for p in members}
                run.record(outcome.task.key, "failed", [problem])
            else:
                run.record(outcome.task.key, "done", files=outcome.written)
        for name in ready.keys() - lost.keys():
            self._end(run, name, failed.get(name))
        return lost

    def _end(self, run: Run, cell: str, failed: Problem | None) -> None:
        """Put the last word on a cell into the ledger: its last product is written."""
        entry = run.ledger.entries[_cell_key(cell)]
        _, files = next(iter(run.ledger.files_of([entry.key])))
        scratch = f"{self.folder.tmp.name}/"
        kept = [f for f in files or () if not f.path.startswith(scratch)]
        status = "failed" if failed else "partial" if entry.problems else "done"
        run.record(entry.key, status, entry.problems, entry.figures, files=kept)
        if not self.config.keep_tmp:
            shutil.rmtree(self.folder.kept(cell), ignore_errors=True)

    def results(self, run: Run) -> Iterator[tuple[str, CellResult]]:
        """Yield what each finished cell holds."""
        for planned in self.planned.cells:
            entry = run.ledger.entries.get(_cell_key(planned.cell.id))
            if entry is not None and entry.status in ("done", "partial"):
                yield planned.cell.id, CellResult.load(self.folder.result(planned.cell.id))

    def problems(self, run: Run) -> Iterator[Problem]:
        """Nothing but what the ledger's entries say."""
        yield from ()

    def publish(self, run: Run, problems: Sequence[Problem]) -> None:
        """Draw and describe the composites."""
        rows = list(dict.fromkeys(Problem(p.kind, p.reason, "", p.input, "", p.href) for p in problems))
        columns = {k: v for k, v in self.problem_columns.items() if k != "product"}
        write_errors(self.folder.phase1_errors, [p for p in rows if p.kind == "source"], columns)
        laps = {step: run.seconds(step) or 0.0 for step in ("find", "plan", "arrays")}

        def parts() -> list[Path]:
            previews = sorted(self.folder.composites.glob("*/preview.png"))
            return [*(p for p in self.folder.published if p.exists()), *previews]

        run.keep(
            "publish",
            lambda: publish(self.config, self.folder, self.planned, dict(self.results(run)), problems, laps),
            parts,
            mark=self.folder.catalog,
            anew=run.changed,
        )


def _all_dropped(products: Sequence[Product], drops: Sequence[tuple[str, str, str]]) -> bool:
    """Whether nothing of an acquisition is left: a task that failed wrote no scene at all."""
    return bool(drops) and {p.id for p in products} <= {name for name, _, _ in drops}
