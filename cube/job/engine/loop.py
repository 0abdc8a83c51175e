"""One loop over any ``concurrent.futures.Executor``.

A task is a picklable object with a ``key``; a function of it runs in a worker. The loop takes tasks as it needs them,
keeps a bounded number in flight, retries what may pass on a second try, survives workers that die, and tells how far it
is. In a worker a task is fenced by the claim of its build, and what it writes is recorded.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cube.engine_choice import EngineChoice, choose_engine
from cube.job.engine.base import EngineExecutor, EngineLostError, stalled_for
from cube.job.engine.worker import Task, ThreadsError, here, in_worker
from cube.registry import ENGINES
from stratacube.claim import Fence
from stratacube.errors import ClaimLostError, StratacubeError, UsageError
from stratacube.files import Written
from stratacube.progress import iterate, progress

__all__ = ["Outcome", "Task", "Workers", "iterate", "run_tasks"]

_BACK_OFF = 0.5
"""Seconds before a task's second attempt; doubles with each. A worker killed for memory frees it within that."""

_LOOK = 1.0
"""Seconds after which the loop looks whether all is well, if nothing ends before."""

_LIVES = 2
"""How often a task is tried again at least whose worker died: of those that were in the pool, one is to blame."""


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
        Name in :data:`cube.registry.ENGINES`, the same with its options, or an executor of the caller's.
    modules
        Modules of the functions that will run, where the time it takes a worker to import them counts. They must
        start no thread when imported.
    fence
        Claim of the folder that the tasks write to; what they write below it is recorded.
    limit
        Seconds after which workers of whom none came to an end are taken for stalled, and ended.

    Raises
    ------
    UsageError
        If there would be none, or it is not an engine.
    """

    def __init__(
        self,
        number: int = 1,
        engine: str | Executor | EngineChoice = "local",
        modules: Sequence[str] = (),
        fence: Fence | None = None,
        limit: float = math.inf,
    ) -> None:
        if number < 1:
            raise UsageError(f"`workers` is {number}; give 1 or more")
        self.engine = choose_engine(engine) or EngineChoice("local")
        self.modules, self.fence, self.limit = modules, fence, limit
        self.replaced = 0
        """How often workers were ended at their tasks because one of them died; each may have left half of a file."""
        self._number = number
        self._executor: Executor | None = None

    def __enter__(self) -> Workers:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop(wait=True, at_once=kind is not None)

    @property
    def number(self) -> int:
        """How many tasks run at once."""
        there = self._executor.number if isinstance(self._executor, EngineExecutor) else None
        return there or self._number

    @property
    def executor(self) -> Executor:
        """Where tasks are submitted."""
        return self._executor or self._start()

    def _start(self) -> Executor:
        with ENGINES.blamed(self.engine.name):
            started = self.engine.start(self._number, self.modules)
        if isinstance(started, EngineExecutor):
            started.limit = self.limit
        self._executor = started
        return started

    @property
    def patience(self) -> float:
        """Seconds after which workers of whom none came to an end are ended."""
        return self.limit + (self._executor.grace if isinstance(self._executor, EngineExecutor) else 0.0)

    def watch(self) -> bool:
        """Whether workers are at work."""
        return not isinstance(self._executor, EngineExecutor) or self._executor.watch()

    def submit(self, *call: Any) -> Future[Any]:
        """Have a function called, somewhere."""
        with ENGINES.blamed(self.engine.name):
            future: Future[Any] = self.executor.submit(*call)
            if not isinstance(future, Future):
                raise TypeError(f"its executor gives {future!r}, which is not a concurrent.futures.Future")
        return future

    def replace(self) -> None:
        """Start anew after a worker died.

        Raises
        ------
        EngineLostError
            If that is not ours to do.
        """
        self.replaced += 1
        why = self._executor.irreplaceable if isinstance(self._executor, EngineExecutor) else ""
        if self.engine.executor is not None:
            why = why or f"the {self.engine.name} that was given as `engine` has broken, or its workers do not answer"
        if why:
            raise EngineLostError(f"{why}; what was done is kept: run the same command again to go on")
        self._stop(wait=False, at_once=True)

    def _stop(self, *, wait: bool, at_once: bool) -> None:
        if self._executor is not None and self.engine.executor is None:
            if at_once and isinstance(self._executor, EngineExecutor):
                self._executor.end()
            self._executor.shutdown(wait=wait, cancel_futures=True)
            self._executor = None


def run_tasks(
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
        How often a task is tried again after an error of the machine (OSError, MemoryError); after the death of a
        worker, which may have been at another task, twice at least.
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
    UsageError
        If the engine runs tasks in threads of this process.
    PlugError
        If the engine is another package's and fails.
    """
    total = len(tasks) if total is None and isinstance(tasks, Sized) else total
    flight = _Flight(tasks, function, workers, retries)
    try:
        with progress(total, label) as advance:
            while flight.fill():
                for outcome in (*flight.ended(), *flight.given_up()):
                    advance()
                    yield outcome
    finally:
        flight.cancel()


class _Flight(Generic[T, R]):
    """Tasks on their way: those still to come, those in the workers' hands, and those to be tried again."""

    def __init__(self, tasks: Iterable[T], function: Callable[[T], R], workers: Workers, retries: int) -> None:
        self.function, self.workers, self.retries = function, workers, retries
        self.coming, self.again = iter(tasks), deque[tuple[T, int, float]]()
        self.running: dict[Future[tuple[R, tuple[Written, ...]]], tuple[T, int, float]] = {}
        self.idle, self.looked = 0.0, time.monotonic()

    def fill(self) -> bool:
        """Hand out as many tasks as may be in flight; return whether any is, or will be."""
        while len(self.running) < 2 * self.workers.number:
            if self.again and self.again[0][2] <= time.monotonic():
                task, attempt, _ = self.again.popleft()
            elif (following := next(self.coming, None)) is not None:
                task, attempt = following, 0
            else:
                break
            try:
                started = time.monotonic()
                future = self.workers.submit(in_worker, self.function, task, self.workers.fence, here())
                self.running[future] = task, attempt, started
            except BrokenExecutor:
                self.again.appendleft((task, attempt, 0.0))
                self.workers.replace()
        return bool(self.running or self.again)

    def ended(self) -> Iterator[Outcome[T, R]]:
        """Wait a while, and yield what has ended and is not tried again."""
        if not self.running:
            time.sleep(max(0.0, self.again[0][2] - time.monotonic()))
            return
        finished, _ = wait(self.running, timeout=_LOOK, return_when=FIRST_COMPLETED)
        at_work = finished or self.workers.watch()
        for future in finished:
            task, attempt, started = self.running.pop(future)
            error = _fault_of(future)
            if isinstance(error, (ClaimLostError, EngineLostError)):
                raise error
            if isinstance(error, ThreadsError):
                raise UsageError(
                    f"`engine={self.workers.engine.name}` runs tasks in threads of one process; what a task writes is "
                    "recorded and fenced by process, so take an engine of processes, such as `engine=local`"
                )
            tries = max(self.retries, _LIVES) if isinstance(error, BrokenExecutor) else self.retries
            if error is not None and attempt < tries and isinstance(error, (OSError, MemoryError, BrokenExecutor)):
                self.again.append((task, attempt + 1, time.monotonic() + _BACK_OFF * 2**attempt))
                continue
            result, written = (None, ()) if error else future.result()
            sentence = None if error is None else describe_error(error)
            yield Outcome(task, result, sentence, time.monotonic() - started, written, error)
        # Not by the clock alone: a driver that was stopped, or busy with an outcome, has not waited.
        now = time.monotonic()
        self.idle = 0.0 if finished or not at_work else self.idle + min(now - self.looked, 2 * _LOOK)
        self.looked = now

    def given_up(self) -> Iterator[Outcome[T, R]]:
        """End the workers if none of them came to an end of its task for so long; each task gets a second chance.

        Workers take the next task at once, so that all that are at one have been at it for the whole time.
        """
        if self.idle < self.workers.patience:
            return
        stalled, self.running, self.idle = list(self.running.values()), {}, 0.0
        self.workers.replace()
        for place, (task, attempt, started) in enumerate(stalled):
            if place >= self.workers.number:  # it has not begun
                self.again.append((task, attempt, 0.0))
            elif attempt == 0:
                self.again.append((task, 1, 0.0))
            else:
                fault = TimeoutError(stalled_for(self.workers.limit))
                yield Outcome(task, None, str(fault), time.monotonic() - started, (), fault)

    def cancel(self) -> None:
        """Take back what has not begun."""
        for future in self.running:
            future.cancel()


def _fault_of(future: Future[Any]) -> BaseException | None:
    """What a task raised; that nobody but its engine took it back is the engine's fault."""
    try:
        return future.exception()
    except CancelledError:
        return EngineLostError("the engine gave its tasks back; run the same command again to go on")


def describe_error(error: BaseException) -> str:
    """One sentence for what a task raised."""
    if isinstance(error, TimeoutError):
        return str(error)
    if isinstance(error, BrokenExecutor):
        return "a worker process was killed, perhaps out of memory or time; try fewer `workers`"
    if isinstance(error, MemoryError):
        told = " ".join(str(error).split())[:200] or "MemoryError"
        return f"a worker found no more memory ({told}); try fewer `workers`"
    if isinstance(error, StratacubeError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
