"""One task in a worker: fenced by the claim of its build, what it writes recorded, alone in its process."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from cube.job.logfile import LogFile
from stratacube.claim import Fence
from stratacube.files import Written, recorded

__all__ = ["ONE_THREAD", "Place", "Task", "ThreadsError", "here", "in_worker", "keep_to_one_thread", "log_as"]

_log = logging.getLogger(__name__)

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GDAL_NUM_THREADS", "BLOSC_NTHREADS"), "1")
"""Processes are the parallelism: libraries inside a worker start no threads unless the user set a number."""


class Task(Protocol):
    """Anything picklable with a name of its own."""

    @property
    def key(self) -> str:
        """Unique name of the task within a run."""


T = TypeVar("T", bound=Task)
R = TypeVar("R")
Place = tuple[str, int, int]
_OURS = uuid4().hex
"""Of this process, and of those forked from it."""
_busy = threading.Lock()
_logs: dict[str, Any] = {}
"""What this worker calls its log, and the file it is kept in, by folder of logs."""


class ThreadsError(RuntimeError):
    """A task found itself in another thread of the driver, or beside another task."""


def here() -> Place:
    """Process and thread; machines may have processes of one number."""
    return _OURS, os.getpid(), threading.get_ident()


def keep_to_one_thread() -> None:
    """Have libraries that are not yet imported start no threads."""
    for name, number in ONE_THREAD.items():
        os.environ.setdefault(name, number)


def in_worker(function: Callable[[T], R], task: T, fence: Fence | None, driver: Place) -> tuple[R, tuple[Written, ...]]:
    """Run a task: nothing takes its name once the claim is lost, and what does is told."""
    mine = here()
    if (mine[:2] == driver[:2] and mine != driver) or not _busy.acquire(blocking=False):
        raise ThreadsError
    try:
        if fence is None:
            return function(task), ()
        fence.check()  # a worker that outlives its claim begins nothing, of which its end would leave the half
        with fence.guard(), recorded(fence.root) as written, _told(task.key, fence.root):
            return function(task), tuple(written)
    finally:
        _busy.release()


def log_as(name: str) -> None:
    """Have this worker keep a log of its own, of this name, in the folder of each build it works for."""
    _logs[""] = name
    for package in ("cube", "catalog", "stratacube"):
        logging.getLogger(package).setLevel(logging.INFO)


@contextmanager
def _told(key: str, root: Path) -> Iterator[None]:
    """Tell the worker's own log, where it keeps one, what becomes of a task."""
    if not _logs:
        yield
        return
    _keep_log(root / "logs" / _logs[""])
    begun = time.monotonic()
    try:
        yield
    except BaseException as error:
        _log.info("%s: %s: %s", key, type(error).__name__, error)
        raise
    _log.info("%s: %.1f s", key, time.monotonic() - begun)


def _keep_log(path: Path) -> None:
    if _logs.get("kept") == path:
        return
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError:  # a full disk; what the task makes of that is told
        return
    handler = LogFile(path)
    for package in ("cube", "catalog", "stratacube"):
        logger = logging.getLogger(package)
        if "handler" in _logs:
            logger.removeHandler(_logs["handler"])
        logger.addHandler(handler)
    _logs.update(kept=path, handler=handler)
    _log.info("process %d on %s", os.getpid(), os.uname().nodename)
