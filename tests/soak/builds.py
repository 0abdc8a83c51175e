"""Builds of a soak: who runs them, and on what."""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.job.racing import ROOT, Race, Starter
from tests.job.test_ranks import MPIRUN, outside

MPI = (str(MPIRUN), "--oversubscribe", "-n", "3")


def tell(*words: str) -> None:
    """Say something at once."""
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


class Driver:
    """The process that lives through the whole soak, and builds by local workers or those of a scheduler."""

    def __init__(self, starter: Starter) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.soak.driver"],
            cwd=ROOT,
            env=starter.environment,
            stdin=-1,
            stdout=-1,
            text=True,
        )
        self.pid = self._process.pid
        self.held: dict[str, float] = {}

    def begin(self, arguments: list[str], said: Path) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"arguments": arguments, "said": str(said)}) + "\n")
        self._process.stdin.flush()

    def code(self) -> int | None:
        """Exit code of what it was told to run, None while it is at it."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(0):
                return None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver ended with {self._process.wait()}")
        self.held = json.loads(line)
        return int(self.held.pop("code"))

    def end(self) -> None:
        self._process.communicate()


class Running:
    """One attempt at a build."""

    def __init__(self, race: Race, driver: Driver, engine: str, scheduler: str) -> None:
        self.race, self.engine, self._driver = race, engine, driver
        self.said = race.aside / f"said-{len(list(race.aside.glob('said-*')))}"
        self.lives = engine.startswith("driver")
        """Whether its driver outlives it."""
        if self.lives:
            flags = ("--engine", "dask", f"scheduler={scheduler}") if engine == "driver, dask" else ()
            driver.begin(race.command.arguments(race.folder, *flags, "--workers", "2"), self.said)
            self.pid = driver.pid
        else:
            build = race.begin(workers=2, launcher=MPI if engine == "mpi" else ())
            self.pid, self.said = build.pid, build.said

    def code(self) -> int | None:
        return self._driver.code() if self.lives else self.race.builds[-1].code()

    def workers(self) -> list[int]:
        """Processes of it but the first of all, and the one that Python has for what is left of semaphores."""
        try:
            children = psutil.Process(self.pid).children(recursive=True)
            return [child.pid for child in children if "resource_tracker" not in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            return []


@contextmanager
def scheduler(scratch: Path) -> Iterator[tuple[str, int, int]]:
    """A scheduler of Dask: its address and process, and the process above its two workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    home = {"cwd": ROOT, "env": {**outside(), "OMP_NUM_THREADS": "1"}, "stderr": subprocess.DEVNULL}
    dask, port = [sys.executable, "-m", "dask"], address.rpartition(":")[2]
    words = [
        "worker",
        address,
        "--nworkers",
        "2",
        "--nthreads",
        "1",
        "--no-dashboard",
        "--local-directory",
        str(scratch),
    ]
    one = subprocess.Popen([*dask, "scheduler", "--port", port, "--no-dashboard"], **home)  # type: ignore[call-overload]
    others = subprocess.Popen([*dask, *words, "--local-directory", str(scratch)], **home)  # type: ignore[call-overload]
    try:
        yield address, one.pid, others.pid
    finally:
        for process in (others, one):
            process.terminate()
            process.wait(60)
