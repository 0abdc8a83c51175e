"""Faults of a soak, each of those that fit what runs."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.job.hurting import Trouble, fill
from tests.soak.builds import Running, tell


class Faults:
    """What can be done to builds.

    Parameters
    ----------
    rng
        Which of them, and to whom.
    trouble
        The server that some builds read from.
    disk
        The small file system that folders lie on; None where it could not be mounted.
    workers
        The process above the workers of Dask.
    """

    def __init__(self, rng: random.Random, trouble: Trouble, disk: Path | None, workers: int) -> None:
        self.rng, self.trouble, self.disk, self._dask = rng, trouble, disk, workers
        self.done: list[str] = []
        self._undo: list[tuple[float, Callable[[], object]]] = []

    def inject(self, running: Running) -> None:
        """Do something to a build that is at it."""
        kinds = ["kill a worker", "stop a worker for 5 s"]
        kinds += ["fill the disk for 3 s"] * (self.disk is not None)
        kinds += ["kill the driver", "SIGTERM to the driver"] * (not running.lives)
        kinds += ["503 of S3 for 5 s", "answers of S3 cut short for 5 s"] * (
            "--s3-endpoint" in running.race.command.flags
        )
        kind = self.rng.choice(kinds)
        self.done.append(kind)
        tell(f"    {kind} ({running.engine})")
        if kind == "fill the disk for 3 s":
            assert self.disk is not None
            ballast = fill(self.disk, self.rng.choice((0, 20_000)))
            self._later(3, ballast.unlink)
        elif "S3" in kind:
            self.trouble.begin(always="503" if "503" in kind else "truncated")
            self._later(5, self.trouble.begin)
        elif "driver" in kind:
            _signal(running.pid, signal.SIGTERM if "SIGTERM" in kind else signal.SIGKILL)
        else:
            self._hurt(self._worker(running), stop="stop" in kind)

    def _worker(self, running: Running) -> int:
        with suppress(psutil.NoSuchProcess, IndexError):
            if running.engine == "driver, dask":
                return self.rng.choice([c.pid for c in psutil.Process(self._dask).children(recursive=True)])
            return self.rng.choice(running.workers())
        return 0

    def _hurt(self, process: int, *, stop: bool) -> None:
        _signal(process, signal.SIGSTOP if stop else signal.SIGKILL)
        if stop:
            self._later(5, lambda: _signal(process, signal.SIGCONT))

    def _later(self, seconds: float, what: Callable[[], object]) -> None:
        self._undo.append((time.monotonic() + seconds, what))

    def mend(self, *, all_of_it: bool = False) -> None:
        """Undo what has lasted long enough."""
        due = [entry for entry in self._undo if all_of_it or entry[0] <= time.monotonic()]
        for entry in due:
            self._undo.remove(entry)
            entry[1]()


def _signal(process: int, number: int) -> None:
    if process:
        with suppress(ProcessLookupError):
            os.kill(process, number)
