"""One loop over any ``concurrent.futures.Executor``.

A task is a picklable object with a ``key``; a function of it runs in a worker. The loop takes tasks as it needs them,
keeps a bounded number in flight, retries what may pass on a second try, survives workers that die, and tells how far it
is. In a worker a task is fenced by the claim of its build, and what it writes is recorded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cube.job.engine.local import InlineExecutor, LocalExecutor
from cube.registry import ENGINES
from stratacube.claim import Fence
from stratacube.errors import ClaimLostError, StratacubeError
from stratacube.files import Written, recorded
from stratacube.progress import iterate, progress

__all__ = ["Outcome", "Task", "Workers", "iterate", "run_tasks"]

_BACK_OFF = 0.5
"""Seconds before a task's second attempt; doubles with each. A worker killed for memory frees it within that."""

_LIVES = 2
"""How often a task is tried again at least whose worker died: of those that were in the pool, one is to blame."""


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
    written: tuple[Written, ...] = ()
    """What the task wrote below the build's folder."""
    fault: BaseException | None = None
    """What it raised."""


class Workers:
    """The workers of a run, kept from step to step; they start while the first steps still prepare their tasks.

    Parameters
    ----------
    number
        How many tasks run at once.
    engine
        Name in :data:`cube.registry.ENGINES`.
    modules
        Modules of the functions that will run, where the time it takes a worker to import them counts. They must
        start no thread when imported.
    fence
        Claim of the folder that the tasks write to; what they write below it is recorded.
    """

    def __init__(
        self,
        number: int = 1,
        engine: str = "local",
        modules: Sequence[str] = (),
        fence: Fence | None = None,
    ) -> None:
        self.number, self.engine, self.modules, self.fence = number, engine, modules, fence
        self.replaced = 0
        """How often workers were ended at their tasks because one of them died; each may have left half of a file."""
        self._executor: Executor | None = None

    def __enter__(self) -> Workers:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop(wait=True, at_once=kind is not None)

    @property
    def executor(self) -> Executor:
        """Where tasks are submitted."""
        return self._executor or self._start()

    def _start(self) -> Executor:
        started: Executor = ENGINES.load(self.engine)(self.number, self.modules)
        self._executor = started
        return started

    def replace(self) -> None:
        """Start anew after a worker died."""
        self.replaced += 1
        self._stop(wait=False, at_once=True)

    def _stop(self, *, wait: bool, at_once: bool) -> None:
        if self._executor is not None:
            if at_once and isinstance(self._executor, LocalExecutor):
                self._executor.end()
            self._executor.shutdown(wait=wait, cancel_futures=True)
            self._executor = None


def _in_worker(function: Callable[[T], R], task: T, fence: Fence | None) -> tuple[R, tuple[Written, ...]]:
    """Run a task: nothing takes its name once the claim is lost, and what does is told."""
    if fence is None:
        return function(task), ()
    fence.check()  # a worker that outlives its claim begins nothing, of which its end would leave the half
    with fence.guard(), recorded(fence.root) as written:
        return function(task), tuple(written)


def run_tasks(  # noqa: PLR0912  (one loop reads better whole)
    tasks: Iterable[T],
    function: Callable[[T], R],
    workers: Workers,
    *,
    total: int | None = None,
    retries: int = 2,
    label: str = "tasks",
) -> Iterator[Outcome[T, R]]:
    """Run a function over tasks and yield each outcome as it comes.

    Parameters
    ----------
    tasks
        What to do, in order of submission; taken one by one, as workers come free.
    function
        Picklable function of one task.
    workers
        Where.
    total
        How many tasks there are, where they cannot be counted beforehand.
    retries
        How often a task is tried again after an error of the machine (OSError); after the death of a worker, which may
        have been at another task, twice at least.
    label
        What the progress line calls the tasks.

    Yields
    ------
    Outcome
        One per task, in the order they finish.

    Raises
    ------
    ClaimLostError
        If another process has taken the folder over.
    """
    total = len(tasks) if total is None and isinstance(tasks, Sized) else total
    coming, again = iter(tasks), deque[tuple[T, int, float]]()
    running: dict[Future[tuple[R, tuple[Written, ...]]], tuple[T, int, float]] = {}
    alone = InlineExecutor() if total == 1 else None  # starting workers takes longer
    try:
        with progress(total, label) as advance:
            while True:
                while len(running) < 2 * workers.number:
                    if again and again[0][2] <= time.monotonic():
                        task, attempt, _ = again.popleft()
                    elif (following := next(coming, None)) is not None:
                        task, attempt = following, 0
                    else:
                        break
                    try:
                        submit = (alone or workers.executor).submit
                        started = time.monotonic()
                        future = submit(_in_worker, function, task, workers.fence)
                        running[future] = task, attempt, started
                    except BrokenExecutor:
                        again.appendleft((task, attempt, 0.0))
                        workers.replace()
                if not running and not again:
                    return
                if not running:
                    time.sleep(max(0.0, again[0][2] - time.monotonic()))
                    continue
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in finished:
                    task, attempt, started = running.pop(future)
                    error = future.exception()
                    if isinstance(error, ClaimLostError):
                        raise error
                    tries = max(retries, _LIVES) if isinstance(error, BrokenExecutor) else retries
                    if error is not None and attempt < tries and isinstance(error, (OSError, BrokenExecutor)):
                        again.append((task, attempt + 1, time.monotonic() + _BACK_OFF * 2**attempt))
                        continue
                    advance()
                    result, written = (None, ()) if error else future.result()
                    sentence = None if error is None else describe_error(error)
                    yield Outcome(task, result, sentence, time.monotonic() - started, written, error)
    finally:
        for future in running:
            future.cancel()


def describe_error(error: BaseException) -> str:
    """One sentence for what a task raised."""
    if isinstance(error, BrokenExecutor):
        return "a worker process was killed, perhaps out of memory; try fewer `workers`"
    if isinstance(error, StratacubeError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
