"""Tasks on Dask's workers: of this machine, of a scheduler that runs, or in jobs of Slurm that come and go.

A worker is a process with one thread. One that dies, as a job does at the end of its time, costs the tasks it had: they
are tried again elsewhere. A scheduler that dies ends the run: what it knew is lost, but all that was done is in the
ledger.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from cube.job.engine.base import EngineExecutor, EngineLostError
from cube.job.engine.local import nameless_script
from cube.job.engine.plugs import DaskOptions
from cube.job.engine.worker import ONE_THREAD
from stratacube.choices import many
from stratacube.errors import UsageError

__all__ = ["DaskExecutor", "dask_executor"]

_log = logging.getLogger(__name__)

_CLOSING = 10.0
"""Seconds that a cluster is given to end by itself."""

_LOST = 20.0
"""Seconds after which a connection that broke is given up."""

_CONFIG = {
    # A task whose worker died is told at once: the loop decides how often it is tried again, as on every engine.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,  # tasks wait here, not at workers
    "distributed.worker.memory.spill": False,  # results are small, and memory is the tasks'
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.daemon": True,
}


def dask_executor(workers: int, modules: Sequence[str], options: DaskOptions) -> Executor:
    """Start workers, or find those that are there.

    Raises
    ------
    UsageError
        If Dask is not installed, or no scheduler answers.
    """
    try:
        import distributed  # noqa: F401, PLC0415  (an extra, and slow to import)
    except ImportError as error:
        raise UsageError("`engine=dask` needs the package distributed; run: pip install 'stratacube[dask]'") from error
    return DaskExecutor(workers, options)


class DaskExecutor(EngineExecutor):
    """Workers of Dask.

    Parameters
    ----------
    workers
        How many are started.
    options
        Where.
    """

    def __init__(self, workers: int, options: DaskOptions) -> None:
        self.options = options
        self._wanted, self._there, self._looked, self._alone = workers, 0, 0.0, time.monotonic()
        self._keys = set[str]()
        """Of the tasks that are on their way."""
        self._cluster: Any = None
        self._closing = ExitStack()
        with ExitStack() as undo:
            undo.push(lambda *_: self.shutdown(wait=False))
            self._client = self._connected()
            self._first_worker()
            undo.pop_all()

    def _connected(self) -> Any:
        import dask  # noqa: PLC0415
        import distributed  # noqa: PLC0415

        connect: Any = distributed.Client
        options = self.options
        where = {"scheduler_file": str(options.scheduler_file)} if options.scheduler_file else {}
        address = options.scheduler or str(options.scheduler_file)
        self._closing.enter_context(_quiet())
        if options.scheduler is None and options.scheduler_file is None:
            self._closing.enter_context(nameless_script())  # workers are started anew at any time
            self._closing.enter_context(dask.config.set(_CONFIG))
            self._cluster = _slurm(options) if options.cluster == "slurm" else _local(self._wanted, options)
            if options.cluster == "slurm":
                least = self._wanted if options.adapt is None else options.adapt
                # Also where their number is fixed: a job that ended is followed by another.
                self._cluster.adapt(minimum=least, maximum=self._wanted, wait_count=10)
            elif options.adapt is not None:
                self._cluster.adapt(minimum=options.adapt, maximum=self._wanted)
            return connect(self._cluster, timeout=_LOST, set_as_default=False)
        if options.scheduler_file is not None and not options.scheduler_file.is_file():
            raise UsageError(f"`scheduler_file` {address} is not there; start dask scheduler with it first")
        try:
            return connect(options.scheduler, timeout=_LOST, set_as_default=False, **where)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no scheduler of Dask answers at {address} ({' '.join(str(error).split())[:120]}); start one there by "
                "dask scheduler, or leave the option out to start workers here"
            ) from error

    def _first_worker(self) -> None:
        """Wait for a worker; a queue may take its time."""
        told = False
        while not self.watch():
            if not told and time.monotonic() - self._alone > 5:
                _log.info("waiting for the first worker of Dask, for %g minutes at most", self.options.wait_minutes)
                told = True
            time.sleep(0.1)

    @property
    def number(self) -> int:
        """Workers that are there, or those that are to come."""
        return self._there or self._wanted

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call a function."""
        future: Future[Any] = Future()
        try:
            theirs = self._client.submit(fn, *args, **kwargs, pure=False)
        except Exception as error:
            if self._client.status == "running":
                raise
            raise self._lost() from error
        self._keys.add(theirs.key)
        theirs.add_done_callback(lambda done: self._settle(done, future))
        future.add_done_callback(lambda done: theirs.cancel() if done.cancelled() else None)
        return future

    def _settle(self, theirs: Any, future: Future[Any]) -> None:
        """Pass on what became of a task."""
        from distributed import KilledWorker  # noqa: PLC0415

        self._keys.discard(theirs.key)
        if not future.set_running_or_notify_cancel():
            return
        try:
            if theirs.status == "finished":
                future.set_result(theirs.result(timeout=_LOST))
            elif theirs.status == "error":
                error = theirs.exception(timeout=_LOST)
                if isinstance(error, KilledWorker):
                    error = BrokenExecutor(" ".join(str(error).split())[:300])
                future.set_exception(error)
            else:
                future.set_exception(self._lost())
        except Exception as error:  # noqa: BLE001  (the connection broke in between)
            gone = self._client.status != "running"
            future.set_exception(self._lost() if gone else BrokenExecutor(f"its result was lost: {error}"))

    def _lost(self) -> EngineLostError:
        where = self.options.scheduler or self.options.scheduler_file or "this process"
        return EngineLostError(
            f"the connection to Dask's scheduler ({where}) is lost; what was done is kept: start a scheduler and "
            "run the same command again to go on"
        )

    def watch(self) -> bool:
        """Whether there are workers; looked at once a second.

        Raises
        ------
        EngineLostError
            If there is no scheduler any more, or has been no worker for too long.
        UsageError
            If a worker would run several tasks in threads.
        """
        now = time.monotonic()
        if now - self._looked >= 1 or not self._there:
            self._looked = now
            workers = self._workers()
            self._there = len(workers)
            several = next(((name, n) for name, n in workers.items() if n != 1), None)
            if several:
                raise UsageError(
                    f"Dask's worker {several[0]} has {many(several[1], 'thread')}, and a task needs a process of its "
                    "own; start workers with `nthreads=1`"
                )
        if self._there:
            self._alone = now
        elif now - self._alone > 60 * self.options.wait_minutes:
            raise EngineLostError(
                f"Dask has had no worker for {self.options.wait_minutes:g} minutes; start some, or give more "
                "`wait_minutes`, and run the same command again to go on"
            )
        return self._there > 0

    def _workers(self) -> dict[str, int]:
        """Threads of each worker."""
        try:
            found = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=_LOST)
        except Exception as error:
            raise self._lost() from error
        return {str(name): int(worker["nthreads"]) for name, worker in found["workers"].items()}

    def end(self) -> None:
        """Kill the workers that were started here on this machine; of others, have those restarted that are at ours."""
        if self._cluster is not None and self.options.cluster == "local":
            for nanny in list(self._cluster.workers.values()):
                with suppress(OSError, TypeError):
                    os.kill(nanny.pid, signal.SIGKILL)
        elif self._keys:
            with suppress(Exception):  # what is gone is at nothing
                at = self._client.sync(self._client.scheduler.processing, workers=None, callback_timeout=_CLOSING)
                ours = [worker for worker, keys in at.items() if not self._keys.isdisjoint(keys)]
                self._client.restart_workers(ours, timeout=_CLOSING, raise_for_error=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers that were started here."""
        for part in (getattr(self, "_client", None), self._cluster):
            if part is not None:
                with suppress(Exception):  # what is gone need not be closed
                    part.close(timeout=_CLOSING)
        self._cluster = None
        self._closing.close()


def _local(workers: int, options: DaskOptions) -> Any:
    """Worker processes of this machine; whoever else is on it can neither see them nor have them do anything."""
    import distributed  # noqa: PLC0415

    cluster: Any = distributed.LocalCluster
    return cluster(
        n_workers=workers if options.adapt is None else options.adapt,
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard": False},
        memory_limit=options.memory or 0,
        local_directory=None if options.scratch is None else str(options.scratch),
        security=True,
        env=dict(ONE_THREAD) | {name: value for name, value in os.environ.items() if name in ONE_THREAD},
        silence_logs=logging.CRITICAL,
    )


def _slurm(options: DaskOptions) -> Any:
    """Workers in jobs, a worker a core."""
    try:
        from dask_jobqueue.slurm import SLURMCluster  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("`cluster=slurm` needs the package dask-jobqueue: pip install 'stratacube[dask]'") from error
    threads = [f"export {name}=${{{name}:-{number}}}" for name, number in ONE_THREAD.items()]
    return SLURMCluster(
        cores=options.cores,
        processes=options.cores,
        memory=options.memory,
        queue=options.queue,
        account=options.account,
        walltime=options.walltime,
        interface=options.interface,
        local_directory=None if options.scratch is None else str(options.scratch),
        log_directory=None if options.job_logs is None else str(options.job_logs),
        job_extra_directives=[line.strip() for line in options.directives.splitlines() if line.strip()],
        job_script_prologue=[*threads, *options.prologue.splitlines()],
        scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        security=True,
        shared_temp_directory="~",  # for the keys of workers, which none but the user can read
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, Dask's own logs say nothing: what matters is said by the run, in sentences."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    before = {name: logging.getLogger(name).level for name in (*names, "asyncio", "tornado.application")}
    for name in before:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
