"""Sharing an account's limits: requests a second and connections at once, by threads, processes and nodes.

CDSE counts per account, not per process. Each connection is a slot, claimed as a build's folder is: by tickets in a
folder that all nodes see. A slot of a process that died is free at once on its node, and within a minute elsewhere. The
pace of requests lies in a small file, guarded by a file lock; where the file system has none, each process keeps it by
itself.
"""

from __future__ import annotations

import logging
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from stratacube.claim import claimed
from stratacube.errors import ClaimedError
from stratacube.locks import lock

__all__ = ["SLOTS", "Connections", "Pace", "limits_folder"]

_log = logging.getLogger(__name__)

SLOTS = 4
"""Connections that an account may have.

Source: https://documentation.dataspace.copernicus.eu/Quotas.html"""

_LONGEST = 3600.0
"""Seconds beyond which a time in the file is no plan but a clock that was set back."""

_POLL, _LONGEST_POLL = 0.05, 2.0
_LEASE = 10.0
"""Seconds for which a process may keep a slot while it has files to bring."""

_SILENCE = 40.0
"""Seconds of silence after which the holder of a slot is watched, for three of its heartbeats: of a node that died it
is free again within a minute."""


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
        Connections of this process.
    folder
        Folder that all who share the account's connections see, on whatever node; None for this process alone.
    slots
        Connections of all of them together; ``count`` by default.
    """

    def __init__(self, count: int, folder: Path | None = None, slots: int | None = None) -> None:
        self.count, self._folder, self._slots = count, folder, slots or count
        self._here = threading.BoundedSemaphore(count)
        self._lock = threading.Lock()
        self._waiting = 0
        self._kept: list[tuple[ExitStack, float]] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold one connection."""
        with self._lock:
            self._waiting += 1
        with self._here:
            with self._lock:
                self._waiting -= 1
                slot, since = self._kept.pop() if self._kept else (None, time.monotonic())
            if self._folder is None:
                yield
                return
            slot = slot or self._take(self._folder)
            try:
                yield
            finally:
                self._pass_on(slot, since)

    def _pass_on(self, slot: ExitStack, since: float) -> None:
        """Keep a slot for the next thread, which waits; but not for ever, for other processes wait too."""
        with self._lock:
            if self._waiting and time.monotonic() - since < _LEASE:
                self._kept.append((slot, since))
                return
        slot.close()

    def _take(self, folder: Path) -> ExitStack:
        pause, first = _POLL, random.randrange(self._slots)
        while True:
            for number in range(self._slots):
                slot = ExitStack()
                tickets = folder / f"slot-{(first + number) % self._slots}"
                with suppress(ClaimedError):
                    slot.enter_context(claimed(folder, tickets, told=tickets, limit=_SILENCE))
                    return slot
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)


def limits_folder(root: Path, shared: Path | None) -> Path:
    """Folder in which the limits of an account are shared.

    Parameters
    ----------
    root
        Where files are fetched to.
    shared
        What all who use the account see, if there is one.

    Returns
    -------
    Path
        That one, made if need be; ``<root>/.limits`` where it cannot be written, with a warning.
    """
    here = root / ".limits"
    if shared is None:
        return here
    try:
        shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=shared):
            return shared
    except OSError as error:
        told = "%s cannot be written (%s): the account's limits are shared by what fetches into %s alone"
        _log.warning(told, shared, error.strerror, root)
        return here
