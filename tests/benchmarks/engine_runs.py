"""What is measured on each engine, as a process of its own that may be started by mpirun.

``main(NAME, ENGINE, WORKERS, FOLDER, NUMBER)`` writes what it found as JSON into FOLDER. It is imported to be run, for
workers must find its tasks.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from cube.engine_choice import choose_engine
from cube.job.engine import Workers
from cube.job.folder import BuildFolder
from cube.job.job import run_job  # noqa: F401  (what a build imports)
from cube.job.ranks import Ranks
from cube.job.run import Run

COLUMNS = 15
"""Of cells, over a scene."""


@dataclass(frozen=True)
class Small:
    """A task that does nothing, or fails."""

    number: int
    fails: bool = False

    @property
    def key(self) -> str:
        return f"small {self.number}"

    def run(self) -> None:
        if self.fails:
            raise ValueError("injected")


def in_folder(root: Path, engine: str, workers: int, what: Callable[[Run], dict[str, Any]]) -> dict[str, Any]:
    """Do something with a claim, a ledger and workers, as the job does."""
    folder = BuildFolder(root / "build")
    with (
        folder.opened({}, "0" * 16, overwrite=True) as fence,
        Workers(workers, choose_engine(engine) or "local", (__name__,), fence) as pool,
    ):
        run = Run(folder, pool, 2, lambda entry: ())
        for _ in run.do([Small(-n) for n in range(1, 2 * pool.number + 1)], Small.run, "starting"):
            pass  # workers start, and import what they need
        return what(run)


def small(root: Path, engine: str, workers: int, number: int) -> dict[str, Any]:
    """Tasks that do nothing, one in twenty of which fails: through claim, ledger with fsync, and progress."""

    def what(run: Run) -> dict[str, Any]:
        begun = time.perf_counter()
        tasks = (Small(n, n % 20 == 7) for n in range(number))
        for outcome in run.do(tasks, Small.run, "small tasks", number):
            status = "failed" if outcome.error else "done"
            run.record(outcome.task.key, status, figures={"seconds": outcome.seconds}, files=outcome.written)
        wall = time.perf_counter() - begun
        lines = [json.loads(line) for line in run.folder.ledger.read_text().splitlines()]
        keys = Counter(line["key"] for line in lines if line["key"].startswith("small "))
        statuses = Counter(line["status"] for line in lines if line["key"].startswith("small "))
        return {"wall": wall, "once": set(keys.values()) == {1} and len(keys) == number, **statuses}

    return in_folder(root, engine, workers, what)


def tiles(root: Path, engine: str, workers: int, number: int) -> dict[str, Any]:
    """So many shards of 32 tiles, each of a second or more."""
    from datetime import datetime

    from cube.config import AbiConfig
    from cube.geostationary.run import AbiBuild
    from cube.testing import write_abi_archive

    archive = root / "abi"
    if not archive.exists():
        write_abi_archive(
            archive, start=datetime(2020, 7, 1, 16), hours=1.5, channels=(1, 7, 13), shape_2km=(600, 600), workers=1
        )
    given = {"local_data_dir": archive, "domain": "M1", "channels": [1, 7, 13], "num_tiles": 32 * number}
    given |= {"output_dir": root / "tiles", "steps": 7, "step_minutes": 10, "shard_mb": 28.8, "overwrite": True}
    given |= {"tile_size": 256, "screen": "off", "engine": engine, "workers": workers}
    return built(AbiBuild(AbiConfig.load(None, given)), engine, workers, "shard-")


def composites(root: Path, engine: str, workers: int, number: int) -> dict[str, Any]:
    """So many cells, each of a second or more for its pixels are fine, and the scenes under them."""
    from cube.sentinel2.config import Sentinel2Config
    from cube.sentinel2.grid import make_grid, write_grid
    from cube.sentinel2.run import Sentinel2Build
    from tests.sentinel2.scenery import EPSG, FIRST, SIDE, ULX, ULY, make_scene

    archive, rows, cell = root / "safe", max(1, number // COLUMNS), SIDE * 20 // COLUMNS
    if not archive.exists():
        for n in range(12):
            make_scene(n, FIRST + timedelta(days=5 * n), bands=("B02", "B03", "B04")).write(archive)
    bounds = (ULX, ULY - rows * cell, ULX + COLUMNS * cell, ULY)
    write_grid(make_grid(cell, bounds, f"EPSG:{EPSG}"), root / "grid.csv")
    given = {"safe_dir": archive, "grid_csv": root / "grid.csv", "work_dir": root / "composites", "overwrite": True}
    given |= {"start": "2021-06-01", "end": "2021-09-30", "bands": ["B02", "B03", "B04"]}
    given |= {"tr": [0.32, 0.32], "tap": True}
    return built(
        Sentinel2Build(Sentinel2Config.load(None, {**given, "engine": engine, "workers": workers})),
        engine,
        workers,
        "cell ",
    )


def built(source: Any, engine: str, workers: int, tasks: str) -> dict[str, Any]:
    """Plan, and time what workers do; also how long their tasks take, by how their names begin."""
    with (
        source.folder.opened(source.described(), source.digest(), overwrite=True) as fence,
        Workers(workers, choose_engine(engine) or "local", source.modules, fence) as pool,
    ):
        run = Run(source.folder, pool, 2, lambda entry: ())
        source.find(run)
        source.plan(run)
        begun = time.perf_counter()
        source.build(run)
        wall = time.perf_counter() - begun
        took = [e.figures["seconds"] for key, e in run.ledger.entries.items() if key.startswith(tasks)]
        return {"wall": wall, "tasks": len(took), "task": median(took), "failed": len(run.ledger.problems())}


def main(name: str, engine: str, workers: str, folder: str, number: str) -> None:
    """Measure one thing, on rank 0 where there are several."""

    def work() -> dict[str, Any]:
        function = {"small": small, "tiles": tiles, "composites": composites}[name]
        return function(Path(folder), engine, int(workers), int(number))

    if Ranks.here().number > 1:
        from cube.job.engine.mpi import together

        found = together(work)
    else:
        found = work()
    if Ranks.here().mine == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
