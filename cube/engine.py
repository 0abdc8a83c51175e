"""Where tasks run: one loop over any ``concurrent.futures.Executor``.

A task is a picklable object with a ``key``; a function of it runs in a worker. The loop keeps a bounded number in
flight, retries what may pass on a second try, survives workers that die, and tells how far it is.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, Generic, Protocol, TypeVar

from tqdm import tqdm

from stratacube.errors import StratacubeError

__all__ = ["ENGINES", "InlineExecutor", "Outcome", "Task", "Workers", "run_tasks"]

LOG_INTERVAL = 15.0
_BACK_OFF = 0.5


class Task(Protocol):
    """Anything picklable with a name of its own."""

    @property
    def key(self) -> str:
        """Unique name of the task within a run."""


T = TypeVar("T", bound=Task)
R = TypeVar("R")


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one task: its result, or the sentence that says why there is none."""

    task: T
    result: R | None
    error: str | None
    seconds: float


class InlineExecutor(Executor):
    """Runs each task in the calling process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run and return a finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (an executor hands on whatever its task raised)
            future.set_exception(error)
        return future


def local_executor(workers: int, modules: Sequence[str] = ()) -> Executor:
    """Processes of this machine, that know some modules from the start; with one worker, this process itself."""
    if workers == 1:
        return InlineExecutor()
    # zarr and HDF5 keep threads and locks that do not survive a fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules or _PRELOADED))
    forkserver.ensure_running()  # imports while the caller still prepares its tasks
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


_PRELOADED = ("numpy", "pandas", "xarray", "zarr", "scipy.sparse", "rasterio.features", "pyproj")
"""Imported once by the server that workers are forked from: slow to import, and without threads of their own."""


def _begin_worker() -> None:
    """Processes are the parallelism: libraries inside a worker start no threads unless the user set a number."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        threading.Thread(target=_end_with, args=(driver.sentinel,), daemon=True).start()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GDAL_NUM_THREADS", "BLOSC_NTHREADS"):
        os.environ.setdefault(name, "1")


def _end_with(driver: int) -> None:
    """End when the driver does, though it was killed: else the task goes on beside the next run, in its files."""
    multiprocessing.connection.wait([driver])
    os._exit(1)


ENGINES: dict[str, Callable[[int, Sequence[str]], Executor]] = {"local": local_executor}
"""Engines by name: each makes an executor for a number of workers and the modules they need."""


class Workers:
    """The workers of a run, kept from step to step; they start while the first steps still prepare their tasks.

    Parameters
    ----------
    engine
        Name in :data:`ENGINES`.
    number
        How many tasks run at once.
    modules
        Modules of the functions that will run, where the time it takes a worker to import them counts. They must
        start no thread when imported.
    """

    def __init__(self, number: int = 1, engine: str = "local", modules: Sequence[str] = ()) -> None:
        self.number, self.engine, self.modules = number, engine, modules
        self._executor: Executor | None = None

    def __enter__(self) -> Workers:
        self._executor = ENGINES[self.engine](self.number, self.modules)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(wait=True)

    @property
    def executor(self) -> Executor:
        """Where tasks are submitted."""
        if self._executor is None:
            self._executor = ENGINES[self.engine](self.number, self.modules)
        return self._executor

    def replace(self) -> None:
        """Start anew after a worker died."""
        self._stop(wait=False)

    def _stop(self, *, wait: bool) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=wait, cancel_futures=True)
            self._executor = None


def run_tasks(
    tasks: Sequence[T],
    function: Callable[[T], R],
    workers: Workers,
    *,
    retries: int = 2,
    label: str = "tasks",
) -> Iterator[Outcome[T, R]]:
    """Run a function over tasks and yield each outcome as it comes.

    Parameters
    ----------
    tasks
        What to do; order of submission.
    function
        Picklable function of one task.
    workers
        Where.
    retries
        How often a task is tried again after an error of the machine (OSError, a dead worker).
    label
        What the progress line calls the tasks.

    Yields
    ------
    Outcome
        One per task, in the order they finish.
    """
    waiting = deque((task, 0, 0.0) for task in tasks)
    running: dict[Future[R], tuple[T, int, float]] = {}
    alone = InlineExecutor() if len(tasks) == 1 else None  # starting workers takes longer
    try:
        with _progress(len(tasks), label) as advance:
            while waiting or running:
                while waiting and len(running) < 2 * workers.number and waiting[0][2] <= time.monotonic():
                    task, attempt, _ = waiting.popleft()
                    try:
                        running[(alone or workers.executor).submit(function, task)] = task, attempt, time.monotonic()
                    except BrokenExecutor:
                        waiting.appendleft((task, attempt, 0.0))
                        workers.replace()
                if not running:
                    time.sleep(max(0.0, waiting[0][2] - time.monotonic()))
                    continue
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    task, attempt, started = running.pop(future)
                    error = future.exception()
                    if error is not None and attempt < retries and isinstance(error, (OSError, BrokenExecutor)):
                        waiting.append((task, attempt + 1, time.monotonic() + _BACK_OFF * 2**attempt))
                        continue
                    advance()
                    yield Outcome(
                        task,
                        None if error else future.result(),
                        None if error is None else describe_error(error),
                        time.monotonic() - started,
                    )
    finally:
        for future in running:
            future.cancel()


def describe_error(error: BaseException) -> str:
    """One sentence for what a task raised."""
    if isinstance(error, BrokenExecutor):
        return "a worker process was killed, perhaps out of memory; try fewer --workers or a smaller --tile-size"
    if isinstance(error, StratacubeError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def _progress(total: int, label: str) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, a line now and then in a batch log."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=label, unit="") as bar:
            yield lambda: _ignore(bar.update())
        return
    done, start, last = 0, time.monotonic(), time.monotonic()

    def advance() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= LOG_INTERVAL or (done == total and now - start >= LOG_INTERVAL):
            last = now
            left = (now - start) / done * (total - done)
            sys.stderr.write(f"{label}: {done} of {total} done, about {left:.0f} s left\n")
            sys.stderr.flush()

    yield advance


def _ignore(_: object) -> None:
    """Make a function that returns something one that returns nothing."""


def iterate(items: Iterable[Any], label: str) -> Iterator[Any]:
    """Iterate with the same progress display as tasks have."""
    items = list(items)
    with _progress(len(items), label) as advance:
        for item in items:
            yield item
            advance()
