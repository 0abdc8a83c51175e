"""Engines whose workers die or are told off: what becomes of each task. Real workers of Dask."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from cube.job.engine import Workers, run_tasks
from cube.job.engine.base import EngineExecutor, EngineLostError
from cube.job.engine.worker import in_worker
from cube.job.logfile import LogFile
from stratacube.claim import claimed
from stratacube.errors import ClaimLostError, UsageError
from tests.cube.test_engine import Job, Slow


@dataclass(frozen=True)
class Hog:
    """Takes so many megabytes."""

    key: str
    megabytes: int

    def run(self) -> str:
        taken = bytearray(self.megabytes << 20)
        taken[:: 1 << 12] = b"x" * len(taken[:: 1 << 12])
        time.sleep(60 if self.megabytes > 1 else 0)  # it is killed as soon as that is seen
        return self.key.upper()


@pytest.mark.slow
def test_a_task_that_takes_too_much_memory_fails_and_no_other(tmp_path: Path) -> None:
    hogs = [Hog("much", 2000), *(Hog(f"little{i}", 1) for i in range(6))]
    begun = time.monotonic()
    with Workers(2, ["dask", "memory=600MB"]) as pool:  # type: ignore[arg-type]
        outcomes = {o.task.key: o for o in run_tasks(hogs, Hog.run, pool, retries=0)}
    assert time.monotonic() - begun < 120
    assert (
        outcomes.pop("much").error == "a worker process was killed, perhaps out of memory or time; try fewer `workers`"
    )
    assert {o.result for o in outcomes.values()} == {f"LITTLE{i}" for i in range(6)}


@pytest.mark.slow
def test_each_task_has_one_outcome_on_dask(tmp_path: Path) -> None:
    jobs = [
        Job("victim", tmp_path, 1, "kill"),
        Job("bug", tmp_path, 1, "value"),
        Job("bad", tmp_path, 9),
        *(Job(f"j{i}", tmp_path) for i in range(6)),
    ]
    with Workers(2, "dask") as pool:
        outcomes = list(run_tasks(jobs, Job.run, pool, retries=1))
        assert pool.number == 2
        (doomed,) = run_tasks([Job("doomed", tmp_path, 99, "kill")], Job.run, pool, retries=0)
    assert "a worker process was killed" in (doomed.error or "")
    assert (tmp_path / "doomed").read_text() == "3", "Dask's scheduler tries nothing again by itself"
    by_key = {o.task.key: o for o in outcomes}
    assert len(outcomes) == len(by_key) == len(jobs)
    assert by_key.pop("bug").error == "ValueError: bug"
    assert by_key.pop("bad").error == "OSError: disk says no"
    assert {o.result for o in by_key.values()} == {"VICTIM", *(f"J{i}" for i in range(6))}


@pytest.mark.slow
def test_a_scheduler_without_workers_or_with_threads_is_told() -> None:
    from distributed import LocalCluster

    for workers, more, error, told in (
        (
            0,
            ["wait_minutes=0.02"],
            EngineLostError,
            r"had no worker for 0\.02 minutes; start some, or .* `wait_minutes`",
        ),
        (1, [], UsageError, r"has 2 threads, .* start workers with `nthreads=1`"),
    ):
        quiet = {"processes": False, "dashboard_address": ":0", "threads_per_worker": 2}
        with LocalCluster(n_workers=workers, **quiet) as cluster:
            asked = ["dask", f"scheduler={cluster.scheduler_address}", *more]
            with pytest.raises(error, match=told), Workers(1, asked):  # type: ignore[arg-type]
                pass


def test_one_task_goes_through_the_engine(tmp_path: Path) -> None:
    """It may be killed, and the run goes on."""
    with Workers(2) as pool:
        (outcome,) = run_tasks([Job("victim", tmp_path, 9, "kill")], Job.run, pool, retries=0)
    assert "a worker process was killed" in (outcome.error or "")


@dataclass(frozen=True)
class Told:
    """Says which process it is in."""

    key: str

    def run(self) -> int:
        return os.getpid()


class Counting(ProcessPoolExecutor):
    """An executor of the caller's."""

    ended = 0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ended += 1
        super().shutdown(wait, cancel_futures=cancel_futures)


def test_an_executor_of_the_callers_is_used_and_not_ended() -> None:
    with Counting(1, mp_context=multiprocessing.get_context("spawn")) as mine:
        with Workers(3, mine) as pool:
            there = {o.result for o in run_tasks([Told("a"), Told("b")], Told.run, pool)}
        assert mine.ended == 0
        assert there == {mine.submit(os.getpid).result()}
        with (
            Workers(3, mine) as pool,
            pytest.raises(EngineLostError, match="the Counting that was given as `engine` has"),
        ):
            list(run_tasks([Job("a", Path(), 9, "abort"), Told("b")], _end_or_tell, pool))  # type: ignore[list-item]


def _end_or_tell(task: object) -> int:
    if isinstance(task, Job):
        os._exit(1)
    return os.getpid()


def test_a_log_for_which_there_is_no_room_is_let_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The run tells of the full disk, not the logs of driver and ranks."""
    log = tmp_path / "logs" / "pipeline.log"
    log.parent.mkdir()
    log.symlink_to("/dev/full")
    handler = LogFile(log)
    handler.emit(logging.LogRecord("cube", logging.INFO, "", 1, "found %d scans", (3,), None))
    handler.close()
    nowhere = LogFile(tmp_path / "none" / "pipeline.log")
    nowhere.emit(logging.LogRecord("cube", logging.INFO, "", 1, "found %d scans", (3,), None))
    assert capfd.readouterr().err == ""
    good = LogFile(tmp_path / "good.log")
    good.emit(logging.LogRecord("cube", logging.INFO, "", 1, "found %d", ("three",), None))
    good.close()
    assert "TypeError" in capfd.readouterr().err


class Lost(EngineExecutor):
    """Its tasks never end, and are taken back once."""

    def __init__(self, *, takes_back: bool) -> None:
        self.takes_back, self.watched = takes_back, 0

    def submit(self, *_: object, **__: object) -> Future[object]:  # type: ignore[override]
        future = Future[object]()
        if self.takes_back:
            future.cancel()
            future.set_running_or_notify_cancel()
        return future

    def watch(self) -> bool:
        self.watched += 1
        if self.watched == 3:
            raise EngineLostError("none will come again")
        return False


def test_what_an_engine_loses_ends_the_run() -> None:
    with Workers(1, Lost(takes_back=True)) as pool, pytest.raises(EngineLostError, match="gave its tasks back"):
        list(run_tasks([Told("a")], Told.run, pool))


def test_time_without_workers_counts_against_no_task() -> None:
    lost = Lost(takes_back=False)
    with Workers(1, lost, limit=1.0) as pool, pytest.raises(EngineLostError, match="none will come again"):
        list(run_tasks([Told("a")], Told.run, pool))
    assert pool.replaced == 0


def test_a_worker_that_outlives_its_claim_begins_nothing(tmp_path: Path) -> None:
    """What it would begin is in the way of the run that has the folder now."""
    begun, elsewhere = list[Told](), ("elsewhere", 1, 1)
    with claimed(tmp_path) as fence:
        in_worker(begun.append, Told("a"), fence, elsewhere)
    with pytest.raises(ClaimLostError):
        in_worker(begun.append, Told("b"), fence, elsewhere)
    assert begun == [Told("a")]


def test_two_tasks_at_once_in_one_process_are_refused() -> None:
    """As in a worker with threads, of a scheduler that is not ours: what one writes would be told of the other."""
    driver = "elsewhere", 1, 1
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(in_worker, Slow.run, Slow(key), None, driver) for key in "ab"]
        faults = [future.exception() for future in both]
    assert sorted(type(fault).__name__ for fault in faults) == ["NoneType", "ThreadsError"]
