"""The main job: find, plan, build, publish; each step is skipped when its result is there."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import yaml

from catalog.sentinel2.items import Product
from cube.config import default_workers
from cube.engine import Outcome, Task, Workers, run_tasks
from cube.ledger import Entry, Ledger, Problem
from cube.sentinel2.composite import CellResult, CellTask, Vote, process_cell
from cube.sentinel2.config import GridConfig, Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.forecast import forecast, scratch_bytes
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.lattice import Window
from cube.sentinel2.plan import Plan, PlannedCell, choose_cells, make_plan, write_plan
from cube.sentinel2.products import Values, ZarrLayout, create_composites, encoding, paste
from cube.sentinel2.publish import publish
from cube.sentinel2.scenes import NO_SPACE, SceneResult, SceneTask, process_scene
from cube.sentinel2.supply import Supply, find
from stratacube.errors import StratacubeError

__all__ = ["MODULES", "run_make_grid", "run_sentinel2"]

MODULES = process_scene.__module__, process_cell.__module__
"""Of the functions that workers run."""

T = TypeVar("T", bound=Task)
R = TypeVar("R")


def run_make_grid(config: GridConfig) -> int:
    """Write a grid of cells and return the exit code.

    Raises
    ------
    UsageError
        If the bounds are no whole number of cells, the CRS is unknown, or the file cannot be written.
    """
    xmin, ymin, xmax, ymax = config.bounds
    frame = make_grid(config.cell_size, (xmin, ymin, xmax, ymax), config.crs)
    write_grid(frame, config.output)
    sys.stderr.write(f"{len(frame)} cells: {config.output}\n")
    return 0


def run_sentinel2(config: Sentinel2Config, products: Sequence[Product] | None = None) -> int:
    """Run all of a build that is not yet done.

    Parameters
    ----------
    config
        What to make.
    products
        Products to choose from instead of a search.

    Returns
    -------
    int
        0 if every product was made whole, 1 if something is missing from them; ``errors.csv`` says what.

    Raises
    ------
    StratacubeError
        If the build cannot be made at all.
    """
    folder = Sentinel2Folder(config.work_dir)
    cells = choose_cells(config)
    if config.dry_run:
        return forecast(config, make_plan(config, cells, find(config, folder, cells, products)))
    folder.claim(config.described(), config.digest(), overwrite=config.overwrite)
    say = _Log(folder.log)
    with Workers(config.workers or default_workers(), config.engine, MODULES) as workers:
        found = find(config, folder, cells, products)
        plan = make_plan(config, cells, found)
        write_plan(plan, folder.plan, folder.selected)
        say(f"{len(found)} products, those left out are in {folder.left_out}")
        say(f"planned {len(plan.cells)} cells from {len(plan.acquisitions)} acquisitions: {folder.plan}")
        if config.plan_only:
            return 0
        job = _Job(config, folder, plan, workers)
        job.build()
        publish(config, folder, plan, job.results(), job.dropped())
        return _finish(folder, plan, job, say)


class _Log:
    """Says what happens, and keeps it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def __call__(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        with self.path.open("a") as file:
            file.write(text + "\n")


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
        return f"shard {self.index[0]} {self.index[1]}"


def _write_shard(task: _ShardTask) -> None:
    kind = encoding(task.values, task.reducer)
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


class _Job:
    """Steps from the plan to the finished products."""

    def __init__(self, config: Sentinel2Config, folder: Sentinel2Folder, plan: Plan, workers: Workers) -> None:
        self.config, self.folder, self.plan, self.workers = config, folder, plan, workers
        self.ledger = Ledger(folder.ledger)
        self.supply = Supply(config, folder)
        self.layout = ZarrLayout.of([p.window for p in plan.cells])
        self.kept = folder.tmp / "cells"

    def build(self) -> None:
        """Make every cell that the ledger does not know as done."""
        if "zarr" in self.config.products:
            self._create_store()
        for turn in self._turns():
            dropped = self._scenes(turn)
            self._cells(turn, dropped)
            if not self.config.keep_tmp:
                shutil.rmtree(self.folder.scenes, ignore_errors=True)
        if "zarr" in self.config.products:
            self._shards()
        if not self.config.keep_tmp and not self._failed():
            shutil.rmtree(self.folder.tmp, ignore_errors=True)

    def _failed(self) -> bool:
        return any(e.status == "failed" for e in self.ledger.entries.values())

    def _turns(self) -> Iterator[list[PlannedCell]]:
        """Cells to make, as many at a time as tmp has room for their scenes."""
        turn: list[PlannedCell] = []
        held = 0.0
        for cell in self.plan.cells:
            if self.ledger.is_done(f"cell {cell.cell.id}"):
                continue
            size = scratch_bytes(cell, len(self.config.bands))
            if turn and held + size > self.config.tmp_gb * 1e9:
                yield turn
                turn, held = [], 0.0
            turn.append(cell)
            held += size
        if turn:
            yield turn

    def _run(self, tasks: Sequence[T], function: Callable[[T], R], label: str) -> Iterator[Outcome[T, R]]:
        for outcome in run_tasks(
            tasks,
            function,
            self.workers,
            retries=self.config.retries,
            label=label,
        ):
            if outcome.error is not None and (NO_SPACE in outcome.error or self.folder.is_full()):
                raise StratacubeError(
                    f"the disk under {self.folder.root} is full; free some and run the same command again to go on"
                )
            yield outcome

    def _scenes(self, turn: Sequence[PlannedCell]) -> dict[str, list[tuple[str, str, str]]]:
        """Bring the scenes of some cells onto the lattice; return what was dropped, by acquisition."""
        reached: dict[str, list[tuple[str, Window]]] = {}
        for cell in turn:
            for key in cell.acquisitions:
                reached.setdefault(key, []).append((cell.cell.id, cell.window))
        used = [self.plan.acquisitions[key] for key in reached]
        dropped: dict[str, list[tuple[str, str, str]]] = {}
        for batch in self.supply.batches(used, self.workers.number):
            tasks = [
                SceneTask(
                    acquisition=acquisition,
                    cells=tuple(reached[acquisition.key]),
                    lattice=self.plan.lattice,
                    bands=self.config.asset_keys(),
                    method=self.config.resampling,
                    masked=tuple(self.config.mask_classes),
                    dilation=self.config.mask_dilation,
                    folder=self.folder.scenes,
                )
                for acquisition in batch
            ]
            for outcome in self._run(tasks, process_scene, "scenes"):
                dropped[outcome.task.acquisition.key] = self._record_scene(outcome)
        return dropped

    def _record_scene(self, outcome: Outcome[SceneTask, SceneResult]) -> list[tuple[str, str, str]]:
        figures: dict[str, float] = {"seconds": outcome.seconds}
        result = outcome.result
        if result is not None:
            lost = [(name, href, self.supply.reason(name, why)) for name, href, why in result.dropped]
            figures |= {"blocks": result.blocks, "skipped": result.skipped, "pixels": result.pixels}
        else:
            # Without its scene a cell would be wrong in silence: it is made from the others and marked partial.
            lost = [(p.id, "", str(outcome.error)) for p in outcome.task.acquisition.products]
        self.ledger.record(Entry(outcome.task.key, "partial" if lost else "done", (), figures))
        return lost

    def _cells(self, turn: Sequence[PlannedCell], dropped: dict[str, list[tuple[str, str, str]]]) -> None:
        threads = max(1, self.workers.number // max(1, len(turn)))
        tasks = [self._cell_task(cell, threads) for cell in turn]
        places = {cell.cell.id: cell for cell in turn}
        for outcome in self._run(tasks, process_cell, "cells"):
            task, result = outcome.task, outcome.result
            missing = [drop for key in places[task.cell].acquisitions for drop in dropped[key]]
            problems = [Problem("source", why, task.cell, name, href=href) for name, href, why in missing]
            if result is None:
                problems.append(Problem("product", str(outcome.error), task.cell))
                self.ledger.record(Entry(task.key, "failed", tuple(problems)))
                continue
            _write_json(self.folder.result(task.cell), asdict(result))
            figures = {"seconds": outcome.seconds, "valid_share": result.valid_share}
            self.ledger.record(Entry(task.key, "partial" if problems else "done", tuple(problems), figures))

    def _cell_task(self, planned: PlannedCell, threads: int) -> CellTask:
        config, cell = self.config, planned.cell
        return CellTask(
            cell=cell.id,
            window=planned.window,
            outline=cell.outline,
            lattice=self.plan.lattice,
            bands=tuple(config.bands),
            votes=self._votes(planned),
            reducer=config.reducer,
            values=config.values,
            folder=self.folder.composites / cell.id,
            cog="cog" in config.products,
            compress=config.compress,
            kept=self.kept / cell.id if "zarr" in config.products else None,
            threads=threads,
            tags=(
                ("PERIOD_START", config.start.isoformat() + "Z"),
                ("PERIOD_END", config.end.isoformat() + "Z"),
                ("SOFTWARE", f"stratacube {importlib.metadata.version('stratacube')}"),
                ("CONFIG_HASH", config.digest()),
            ),
        )

    def _votes(self, planned: PlannedCell) -> tuple[Vote, ...]:
        """Group the acquisitions of a cell by datatake; the least clouded first for ``best``, else in order of time."""
        datatakes: dict[str, list[str]] = {}
        for key in planned.acquisitions:
            datatakes.setdefault(self.plan.acquisitions[key].datatake, []).append(key)
        votes = []
        for name, keys in datatakes.items():
            members = sorted((self.plan.acquisitions[k] for k in keys), key=lambda a: a.rank)
            clouds = [p.cloud_cover for a in members for p in a.products if p.cloud_cover is not None]
            cloud = float(np.mean(clouds)) if clouds and self.config.reducer == "best" else 0.0
            order = cloud, members[0].datatake_start, name
            votes.append((order, Vote(name, tuple(self.folder.scenes / a.key for a in members))))
        return tuple(vote for _, vote in sorted(votes, key=lambda v: v[0]))

    def _create_store(self) -> None:
        attributes = {
            "title": f"Sentinel-2 L2A {self.config.reducer} composites",
            "source": "Copernicus Sentinel-2 level 2A surface reflectance",
            "time_coverage_start": self.config.start.isoformat() + "Z",
            "time_coverage_end": self.config.end.isoformat() + "Z",
            "stratacube_version": importlib.metadata.version("stratacube"),
            "config": yaml.safe_dump(self.config.described(), sort_keys=False),
            "config_hash": self.config.digest(),
        }
        kind = encoding(self.config.values, self.config.reducer)
        create_composites(self.folder.store, self.plan.lattice, self.layout, self.config.bands, kind, attributes)

    def _shards(self) -> None:
        """Put the cells that were made into the shards they lie in; a shard is written whole by one worker."""
        shards: dict[tuple[int, int], list[tuple[Window, Path]]] = {}
        for cell in self.plan.cells:
            kept = self.kept / cell.cell.id
            if kept.exists():
                for index in self.layout.shards_of(cell.window):
                    shards.setdefault(index, []).append((cell.window, kept))
        tasks = [
            _ShardTask(
                index,
                self.layout,
                self.folder.store,
                tuple(self.config.bands),
                self.config.values,
                self.config.reducer,
                tuple(cells),
            )
            for index, cells in sorted(shards.items())
        ]
        for outcome in self._run(tasks, _write_shard, "shards"):
            error, key = outcome.error, outcome.task.key
            problems: tuple[Problem, ...] = (
                () if error is None else (Problem("product", f"{key} of {self.folder.store}: {error}"),)
            )
            self.ledger.record(Entry(key, "failed" if error else "done", problems))

    def results(self) -> dict[str, CellResult]:
        """What each finished cell holds."""
        found = {}
        for planned in self.plan.cells:
            entry = self.ledger.entries.get(f"cell {planned.cell.id}")
            if entry is not None and entry.status != "failed":
                found[planned.cell.id] = CellResult.load(self.folder.result(planned.cell.id))
        return found

    def dropped(self) -> list[Problem]:
        """Everything dropped or not made, in a stable order."""
        return self.ledger.problems()


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)


def _finish(folder: Sentinel2Folder, plan: Plan, job: _Job, say: _Log) -> int:
    """Write ``errors.csv`` and say how it went."""
    empty = sorted(name for name, result in job.results().items() if result.valid_share == 0)
    if empty:
        say(f"{len(empty)} cells hold no pixel valid in all bands, such as {empty[0]}; their products say so")
    problems = job.dropped()
    if not problems:
        folder.errors.unlink(missing_ok=True)
        folder.phase1_errors.unlink(missing_ok=True)
        say(f"done: {len(plan.cells)} cells in {folder.root}")
        return 0
    frame = pd.DataFrame([vars(p) for p in problems]).rename(columns={"tile_id": "cell", "scan_id": "product"})
    frame = frame[["kind", "reason", "cell", "product", "href"]]
    frame.to_csv(folder.errors, index=False)
    frame[frame["kind"] == "source"].drop(columns="cell").drop_duplicates().to_csv(folder.phase1_errors, index=False)
    say(f"{len(plan.cells)} cells in {folder.root}, with what follows missing from them:")
    for (kind, reason), count in frame.groupby(["kind", "reason"]).size().sort_values(ascending=False).head(10).items():
        say(f"  {count:6d} x {kind}: {reason}")
    say(f"every case is in {folder.errors}; mend the files and run the same command again to fill them in")
    return 1
