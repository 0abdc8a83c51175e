"""Sharing an account's limits: requests a second and connections at once, by threads and by processes.

CDSE counts per account, not per process. What several processes on one machine must share lies in small files of one
folder, guarded by file locks, which end with their holder, so nothing is ever left taken. Where the file system has
no locks each process keeps the limits by itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from catalog.sentinel2.locks import lock

__all__ = ["Connections", "Pace"]

_LONGEST = 3600.0
"""Seconds beyond which a time in the file is no plan but a clock that was set back."""

_POLL = 0.05


class Pace:
    """Spaces requests evenly, and holds all of them back while a server asks for it.

    Parameters
    ----------
    per_second
        Requests started in a second, at most.
    state
        File that all processes on this machine share; None for this process alone.
    sleep
        Waits for some seconds.
    """

    def __init__(
        self, per_second: float, state: Path | None = None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._interval = 1.0 / per_second
        self._state = state
        self._sleep = sleep
        self._lock = threading.Lock()
        self._times = (0.0, 0.0)
        if state is not None:
            state.parent.mkdir(parents=True, exist_ok=True)

    def wait(self) -> None:
        """Return when a request may start."""
        while True:
            self._sleep(self._reserve())
            with self._shared() as (_, held):
                rest = held - time.time()
            if rest <= 0:
                return
            self._sleep(rest)

    def hold(self, seconds: float) -> None:
        """Let no request start for some seconds."""
        with self._shared() as (free, held):
            self._times = free, max(held, time.time() + min(seconds, _LONGEST))

    def _reserve(self) -> float:
        """Take the next free moment; return the seconds until then."""
        with self._shared() as (free, held):
            now = time.time()
            mine = max(now, free)
            self._times = mine + self._interval, held
            return mine - now

    @contextmanager
    def _shared(self) -> Iterator[tuple[float, float]]:
        """Next free moment and end of the hold, to be replaced by setting ``_times``."""
        with self._lock:
            if self._state is None:
                yield self._sane(self._times)
                return
            with open(self._state, "a+b") as file:
                lock(file.fileno())
                file.seek(0)
                self._times = self._sane(_parse(file.read()))
                before = self._times
                yield before
                if self._times != before:
                    file.truncate(0)
                    file.write("{:.6f} {:.6f}".format(*self._times).encode())

    def _sane(self, times: tuple[float, float]) -> tuple[float, float]:
        latest = time.time() + _LONGEST
        free, held = (t if t <= latest else 0.0 for t in times)
        return free, held


def _parse(text: bytes) -> tuple[float, float]:
    try:
        free, held = (float(n) for n in text.split())
    except ValueError:
        return 0.0, 0.0
    return free, held


class Connections:
    """So many connections at once and no more.

    Parameters
    ----------
    count
        Connections of all who share them.
    folder
        Folder of the lock files that all processes on this machine share; None for this process alone.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        self.count, self._folder = count, folder
        self._here = threading.BoundedSemaphore(count)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold one connection."""
        with self._here:
            if self._folder is None:
                yield
                return
            taken = self._take(self._folder)
            try:
                yield
            finally:
                os.close(taken)

    def _take(self, folder: Path) -> int:
        while True:
            for number in range(self.count):
                slot = os.open(folder / f"connection-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                if lock(slot, wait=False):
                    return slot
                os.close(slot)
            time.sleep(_POLL)
