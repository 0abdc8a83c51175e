"""Builds on each engine: the same bits, and each part killed in turn. Real processes: Dask's, and ranks of mpirun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest

import stratacube
from stratacube.errors import StratacubeError, UsageError
from tests.ground.processes import wait_for
from tests.job.racing import PATIENCE, Build, Command, Race, assert_as_undisturbed, contents
from tests.job.test_ranks import MPIRUN, ROOT, needs_mpirun, outside
from tests.job.test_signals import SOON, held, session

pytestmark = [
    pytest.mark.slow,
    # rasterio multiplies affine transforms by an operator that affine wants to retire
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


@dataclass(frozen=True)
class Engine:
    flags: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()


ENGINES = {
    "local": Engine(),
    "dask": Engine(("--engine", "dask")),
    "mpi": Engine((), (str(MPIRUN), "--oversubscribe", "-n", "3")),
}
ENDED = {"dask": (130, 143), "mpi": (1, 137, 143)}
each = pytest.mark.parametrize("name", ["dask", pytest.param("mpi", marks=needs_mpirun)])


@pytest.fixture(autouse=True)
def _as_root(monkeypatch: pytest.MonkeyPatch, starter: Any) -> None:
    """Mpirun wants to be told that root knows what it does."""
    known = {name: value for name, value in outside().items() if name.startswith("OMPI_ALLOW")}
    starter.environment.update(known)


def at(race: Race, name: str, step: str = "building", *flags: str) -> tuple[Build, list[int], Path]:
    """Start a build on an engine that waits at a step."""
    return held(race, step, 2, *ENGINES[name].flags, *flags, launcher=ENGINES[name].launcher)


def finishes(race: Race, name: str, undisturbed: Path) -> None:
    """The same command goes on to the same products."""
    build = race.begin(*ENGINES[name].flags, workers=2, launcher=ENGINES[name].launcher)
    assert build.wait() == 0, build.said.read_text()
    assert_as_undisturbed(race.folder, undisturbed)


def all_ended(build: Build) -> None:
    """Nothing that a build started outlives it for long."""
    wait_for(lambda: not session(build), SOON)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("local 4", "sentinel2"),
        pytest.param("local 4", "abi", marks=pytest.mark.long),
        ("dask", "abi"),
        pytest.param("dask", "sentinel2", marks=pytest.mark.long),
        pytest.param("mpi", "sentinel2", marks=needs_mpirun),
        pytest.param("mpi", "abi", marks=[needs_mpirun, pytest.mark.long]),
    ],
)
def test_the_same_on_every_engine(racing: Race, undisturbed: Path, name: str) -> None:
    engine = ENGINES[name.partition(" ")[0]]
    build = racing.begin(*engine.flags, workers=4 if name == "local 4" else 2, launcher=engine.launcher)
    assert build.wait() == 0, build.said.read_text()
    assert "Traceback" not in build.said.read_text()
    assert_as_undisturbed(racing.folder, undisturbed)
    all_ended(build)


def test_a_killed_worker_of_dask_is_replaced(racing: Race, undisturbed: Path) -> None:
    build, workers, hold = at(racing, "dask")
    os.kill(workers[0], signal.SIGKILL)
    hold.unlink()
    assert build.wait() == 0, build.said.read_text()
    all_ended(build)
    assert_as_undisturbed(racing.folder, undisturbed)


@needs_mpirun
def test_a_killed_rank_ends_all_of_them(racing: Race, undisturbed: Path) -> None:
    build, workers, _ = at(racing, "mpi")
    os.kill(workers[0], signal.SIGKILL)
    until = time.monotonic() + SOON
    assert build.wait() != 0
    assert time.monotonic() < until
    said = build.said.read_text()
    assert f"(process {workers[0]}) was killed on " in said, said
    assert "SIGTERM" not in said, said
    assert "run the same command again to go on" in said, said
    all_ended(build)
    finishes(racing, "mpi", undisturbed)


@pytest.mark.long
@needs_mpirun
def test_a_rank_outlives_the_launchers_signal_by_a_moment(racing: Race) -> None:
    """The launcher sends it to all when one was killed; so rank 0 can tell that one from those."""
    build, workers, _ = at(racing, "mpi")
    rank, begun = psutil.Process(workers[0]), time.monotonic()
    rank.terminate()
    wait_for(lambda: not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE, SOON)
    assert time.monotonic() - begun > 0.4
    assert build.wait() != 0
    all_ended(build)


@each
def test_a_killed_driver_takes_all_with_it(racing: Race, undisturbed: Path, name: str) -> None:
    build, workers, _ = at(racing, name)
    driver = build.pid if name == "dask" else _ranks(build)[0]
    assert driver not in workers
    os.kill(driver, signal.SIGKILL)
    until = time.monotonic() + SOON
    assert build.wait() != 0
    wait_for(lambda: not session(build), until - time.monotonic())
    finishes(racing, name, undisturbed)


def _ranks(build: Build) -> list[int]:
    """Processes of the ranks, by rank."""
    found = {}
    for child in psutil.Process(build.pid).children(recursive=True):
        rank = child.environ().get("OMPI_COMM_WORLD_RANK")
        if rank is not None:
            found.setdefault(int(rank), child.pid)
    return [found[rank] for rank in sorted(found)]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("dask", signal.SIGINT),
        pytest.param("dask", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("mpi", signal.SIGTERM, marks=needs_mpirun),
        pytest.param("mpi", signal.SIGINT, marks=[needs_mpirun, pytest.mark.long]),
    ],
)
def test_a_signal_ends_it_in_a_sentence(racing: Race, undisturbed: Path, name: str, number: signal.Signals) -> None:
    """SIGTERM comes to the launcher alone, Ctrl-C to all processes of a terminal."""
    build, _, _ = at(racing, name)
    until = time.monotonic() + SOON
    (os.killpg if number == signal.SIGINT else os.kill)(build.pid, number)
    code = build.wait()
    said = build.said.read_text()
    assert code in ENDED[name], (code, said)
    if name == "dask":
        assert said.rstrip().endswith("run the same command again to go on from here"), said
        assert "Traceback" not in said
    wait_for(lambda: not session(build), until - time.monotonic())
    finishes(racing, name, undisturbed)


@pytest.mark.long
@needs_mpirun
def test_a_rank_0_that_is_told_to_end_does_not_wait_for_tasks(racing: Race) -> None:
    """As by a site's own means, which know nothing of the launcher; what the others are at does not end."""
    build, _, _ = at(racing, "mpi")
    os.kill(_ranks(build)[0], signal.SIGTERM)
    until = time.monotonic() + SOON
    assert build.wait() in ENDED["mpi"], build.said.read_text()
    assert time.monotonic() < until
    assert "stopped by SIGTERM; run the same command again to go on from here" in build.said.read_text()
    all_ended(build)


@pytest.mark.long
def test_workers_of_dask_that_hang_are_replaced(racing: Race, undisturbed: Path) -> None:
    """As on a file system that does not answer."""
    build, workers, hold = at(racing, "dask", "building", "--task-minutes", "0.5")
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    hold.unlink()
    assert build.wait() == 0, build.said.read_text()
    all_ended(build)
    assert_as_undisturbed(racing.folder, undisturbed)


@pytest.mark.long
@needs_mpirun
def test_a_rank_that_hangs_for_good_ends_all_of_them(racing: Race, undisturbed: Path) -> None:
    build, workers, hold = at(racing, "mpi", "building", "--task-minutes", "0.05")
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    hold.unlink()
    assert build.wait() != 0
    assert "a rank does not answer" in build.said.read_text()
    for worker in workers:
        if psutil.pid_exists(worker):
            os.kill(worker, signal.SIGCONT)
    all_ended(build)
    finishes(racing, "mpi", undisturbed)


@pytest.mark.long
@needs_mpirun
def test_a_read_that_hangs_in_a_rank_is_interrupted(racing: Race, undisturbed: Path) -> None:
    """Its task fails, the others are made, and the same command makes the rest."""
    build, _, hold = at(racing, "mpi", "building", "--task-minutes", "0.05", "--retries", "0")
    assert build.wait() == 1
    assert "did not end within 0.05 minutes" in build.said.read_text()
    hold.unlink()
    finishes(racing, "mpi", undisturbed)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler of Dask with two workers, each process by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dask = [sys.executable, "-m", "dask"]
    home = {"cwd": ROOT, "env": {**outside(), "OMP_NUM_THREADS": "1"}, "stderr": subprocess.DEVNULL}
    address = f"tcp://127.0.0.1:{port}"
    one = subprocess.Popen([*dask, "scheduler", "--port", str(port), "--no-dashboard"], **home)  # type: ignore[call-overload]
    words = ["worker", address, "--nworkers", "2", "--nthreads", "1", "--no-dashboard"]
    others = subprocess.Popen([*dask, *words, "--local-directory", str(tmp_path)], **home)  # type: ignore[call-overload]
    try:
        yield address, one
    finally:
        for process in (others, one):
            process.terminate()
            process.wait(60)


def test_a_scheduler_that_runs(racing: Race, undisturbed: Path, scheduler: tuple[str, subprocess.Popen[bytes]]) -> None:
    """It is used and left alone; killed in the midst, it ends the run in one sentence."""
    address, process = scheduler
    hold = racing.aside / "hold"
    hold.touch()
    build = racing.begin("--engine", "dask", f"scheduler={address}", held=("building", hold))
    wait_for(lambda: list(racing.aside.glob("hold.*")) or build.code() is not None, PATIENCE)
    assert build.code() is None, build.said.read_text()
    process.kill()
    until = time.monotonic() + SOON
    assert build.wait() == 1
    assert time.monotonic() < until
    said = build.said.read_text()
    assert f"error: the connection to Dask's scheduler ({address}) is lost; what was done is kept" in said
    assert "Traceback" not in said
    hold.unlink()
    finishes(racing, "dask", undisturbed)
    gone = racing.begin("--engine", "dask", f"scheduler={address}", "--overwrite")
    assert gone.wait() == 2
    assert f"no scheduler of Dask answers at {address}" in gone.said.read_text()


def _built(command: Command, folder: Path, engine: Executor) -> int:
    archive = command.flags[1]
    settings = {"domain": "M1", "channels": [7, 13], "tile_size": 64, "num_tiles": 6, "steps": 2, "step_minutes": 10}
    answer = stratacube.build(
        "abi", output_dir=folder, local_data_dir=archive, shard_mb=0.02, workers=2, engine=engine, **settings
    )
    return answer.code


def test_an_executor_of_the_callers(
    abi_command: Command, undisturbed: Path, tmp_path: Path, scheduler: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """It is used and not ended; one that breaks ends the run."""
    from distributed import Client

    address, _ = scheduler
    with Client(address, set_as_default=False) as client:
        assert _built(abi_command, tmp_path / "dask", client.get_executor()) == 0
        assert client.submit(abs, -1).result() == 1
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert _built(abi_command, tmp_path / "pool", pool) == 0
        assert pool.submit(abs, -1).result() == 1
        pool.submit(os.abort)
        with pytest.raises(StratacubeError, match="the ProcessPoolExecutor that was given as `engine` has broken"):
            _built(abi_command, tmp_path / "broken", pool)
    expected = contents(undisturbed)
    for name in ("dask", "pool"):
        there = contents(tmp_path / name)
        assert [n for n in expected if n.startswith("tiles.zarr") and there[n] != expected[n]] == []
    with pytest.raises(UsageError, match="`engine=ThreadPoolExecutor` runs tasks in threads"), _threads() as threads:
        _built(abi_command, tmp_path / "threads", threads)


def _threads() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(2)
