"""The engine of one machine: worker processes, or with one worker this process itself."""

from __future__ import annotations

import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from cube.job.engine.base import EngineExecutor, stalled_for
from cube.job.engine.worker import keep_to_one_thread

__all__ = [
    "InlineExecutor",
    "LocalExecutor",
    "forking_server",
    "interrupted_after",
    "local_executor",
    "nameless_script",
]

_STARTING = 60.0
"""Seconds that workers are given to start before time counts against their tasks."""


class InlineExecutor(EngineExecutor):
    """Runs each task in the calling process, at once, and interrupts it after its limit."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run and return a finished future."""
        future: Future[Any] = Future()
        try:
            with interrupted_after(self.limit):
                future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (an executor hands on whatever its task raised)
            future.set_exception(error)
        return future


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError within, where signals come: in the main thread, and not in the midst of a library's own work.

    Once more after as long again: what was raised may have been taken for the fault of one file.
    """
    if math.isinf(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise TimeoutError(stalled_for(seconds))

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


class LocalExecutor(ProcessPoolExecutor, EngineExecutor):
    """Worker processes that can be ended at once, whatever they are at.

    Parameters
    ----------
    workers
        How many.
    context
        How they are started.
    """

    def __init__(self, workers: int, context: BaseContext) -> None:
        self._begun, self._came = time.monotonic(), 0
        self._told, theirs = context.Pipe(duplex=False)
        super().__init__(workers, mp_context=context, initializer=_begin_worker, initargs=(theirs,))

    def watch(self) -> bool:
        """Whether all workers have started, which takes a while where much else runs, or have had the time to."""
        while self._told.poll():
            self._told.recv_bytes()
            self._came += 1
        return self._came >= len(self._processes or ()) or time.monotonic() - self._begun > _STARTING

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a task, for which a worker may be started."""
        with _signals_wait(), nameless_script():
            return super().submit(fn, *args, **kwargs)

    def end(self) -> None:
        """Kill the workers: nothing of theirs takes its name any more, not even after they were stopped."""
        for worker in list((self._processes or {}).values()):
            worker.kill()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM wait: a worker whose start they interrupt is known to nobody who would end it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = list[int]()
    before = {n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


@contextmanager
def nameless_script() -> Iterator[None]:
    """Within, workers that start do not run the caller's script again.

    Tasks are functions of modules. A script that calls a build without ``if __name__ == "__main__"`` would call it once
    more in every worker, and all of them would die of the claim.
    """
    script = sys.modules["__main__"]
    known = {name: getattr(script, name) for name in ("__file__", "__spec__") if hasattr(script, name)}
    script.__spec__ = None
    if "__file__" in known:
        del script.__file__
    try:
        yield
    finally:
        for name, value in known.items():
            setattr(script, name, value)


def local_executor(workers: int, modules: Sequence[str] = ()) -> Executor:
    """Processes of this machine, that know some modules from the start; with one worker, this process itself."""
    if workers == 1:
        return InlineExecutor()
    return LocalExecutor(workers, forking_server(modules or _PRELOADED))


def forking_server(modules: Sequence[str]) -> BaseContext:
    """Start the server that worker processes are forked from, which imports some modules once, and say how to ask it.

    A server that runs already is taken as it is: its workers import what it does not know.
    """
    # zarr and HDF5 keep threads and locks that do not survive a fork of this process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    # Ctrl-C reaches every process of a terminal. The driver answers for all: its workers, and the server that they are
    # forked from, never see it, not even while they start.
    resource_tracker.ensure_running()  # which would be started by the server's start, and unblock what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()  # imports while the caller still prepares its tasks
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


_PRELOADED = ("numpy", "pandas", "xarray", "zarr", "scipy.sparse", "rasterio.features", "pyproj")
"""Imported once by the server that workers are forked from: slow to import, and without threads of their own."""


def _begin_worker(driver_hears: Connection) -> None:
    """Processes are the parallelism: libraries inside a worker start no threads unless the user set a number."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a server that someone else started
    # A worker starts no processes. Libraries make locks between processes all the same (numcodecs' Blosc), which only
    # this method leaves without a name: one with a name is complained about when a worker is killed.
    multiprocessing.set_start_method("fork", force=True)
    driver = multiprocessing.parent_process()
    if driver is not None:
        threading.Thread(target=_end_with, args=(driver.sentinel,), daemon=True).start()
    keep_to_one_thread()
    try:
        driver_hears.send_bytes(b".")
        driver_hears.close()
    except BrokenPipeError:  # the driver was killed meanwhile: of a worker that nobody waits for nobody reads the end
        os._exit(1)


def _end_with(driver: int) -> None:
    """End when the driver does, though it was killed: else the task goes on beside the next run, in its files."""
    multiprocessing.connection.wait([driver])
    os._exit(1)
