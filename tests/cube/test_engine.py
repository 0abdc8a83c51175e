"""The engine: retries, dead workers, one sentence an error; the ledger: nothing half-written counts."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cube.job.engine import Workers, local, run_tasks
from cube.job.engine.local import LocalExecutor
from cube.job.ledger import Entry, Ledger, Problem
from stratacube.errors import SourceError


@dataclass(frozen=True)
class Job:
    key: str
    folder: Path
    fail: int = 0
    how: str = "os"

    def run(self) -> str:
        """Fail the first ``fail`` times."""
        marker = self.folder / self.key
        tries = int(marker.read_text() or 0) if marker.exists() else 0  # empty: ended with its pool while writing
        marker.write_text(str(tries + 1))
        if tries < self.fail:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {
                "os": OSError("disk says no"),
                "value": ValueError("bug"),
                "source": SourceError("file is bad"),
                "memory": MemoryError(),
            }[self.how]
        return self.key.upper()


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_has_one_outcome(tmp_path: Path, workers: int) -> None:
    jobs = [Job(f"j{i}", tmp_path) for i in range(9)]
    with Workers(workers) as pool:
        outcomes = list(run_tasks(jobs, Job.run, pool))
        again = list(run_tasks(jobs[:4], Job.run, pool))
    assert sorted(o.result or "" for o in again) == [f"J{i}" for i in range(4)]
    assert sorted(o.result or "" for o in outcomes) == [f"J{i}" for i in range(9)]
    assert all(o.error is None and o.seconds >= 0 for o in outcomes)


def test_errors_of_the_machine_are_tried_again_and_bugs_are_not(tmp_path: Path) -> None:
    jobs = [
        Job("twice", tmp_path, 2),
        Job("often", tmp_path, 9),
        Job("bug", tmp_path, 1, "value"),
        Job("fine", tmp_path),
    ]
    outcomes = {o.task.key: o for o in run_tasks(jobs, Job.run, Workers(), retries=2)}
    assert outcomes["twice"].result == "TWICE"
    assert outcomes["often"].error == "OSError: disk says no"
    assert (tmp_path / "often").read_text() == "3"
    assert outcomes["bug"].error == "ValueError: bug"
    assert (tmp_path / "bug").read_text() == "1"
    assert outcomes["fine"].result == "FINE"
    hogs = [Job("hog", tmp_path, 1, "memory"), Job("hogs", tmp_path, 9, "memory")]
    outcomes = {o.task.key: o for o in run_tasks(hogs, Job.run, Workers(), retries=1)}
    assert outcomes["hog"].result == "HOG"
    assert outcomes["hogs"].error == "a worker found no more memory (MemoryError); try fewer `workers`"
    (last,) = run_tasks([Job("bad", tmp_path, 9, "source")], Job.run, Workers(), retries=0)
    assert last.error == "file is bad"


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    jobs = [Job("victim", tmp_path, 1, "kill"), *(Job(f"j{i}", tmp_path) for i in range(4))]
    with Workers(2) as pool:
        outcomes = {o.task.key: o for o in run_tasks(jobs, Job.run, pool, retries=3)}
        assert {o.result for o in outcomes.values()} == {"VICTIM", "J0", "J1", "J2", "J3"}
        jobs = [Job("doomed", tmp_path, 99, "kill"), Job("bystander", tmp_path)]
        outcomes = {o.task.key: o for o in run_tasks(jobs, Job.run, pool, retries=1)}
    assert "worker process was killed" in (outcomes["doomed"].error or "")


def test_who_shares_a_pool_with_a_worker_that_dies_is_not_blamed(tmp_path: Path) -> None:
    """Even where nothing else is tried again, as of files on a disk."""
    jobs = [Job("victim", tmp_path, 1, "kill"), Job("bad", tmp_path, 9), *(Job(f"j{i}", tmp_path) for i in range(3))]
    with Workers(2) as pool:
        outcomes = {o.task.key: o for o in run_tasks(jobs, Job.run, pool, retries=0)}
    assert outcomes.pop("bad").error == "OSError: disk says no"
    assert {o.result for o in outcomes.values()} == {"VICTIM", "J0", "J1", "J2"}


def test_workers_that_died_between_two_steps_are_replaced(tmp_path: Path) -> None:
    with Workers(2) as pool:
        first = [Job(f"a{i}", tmp_path) for i in range(3)]
        assert len(list(run_tasks(first, Job.run, pool))) == 3
        broken = pool.executor
        assert isinstance(broken, LocalExecutor)
        broken.end()
        _wait(lambda: _refuses(broken))
        outcomes = list(run_tasks([Job(f"b{i}", tmp_path) for i in range(5)], Job.run, pool, retries=0))
    assert sorted(o.result or "" for o in outcomes) == [f"B{i}" for i in range(5)]


def _refuses(executor: LocalExecutor) -> bool:
    try:
        executor.submit(abs, 1)
    except BrokenExecutor:
        return True
    return False


@dataclass(frozen=True)
class Stalling:
    """Hangs as often as told; a worker that hangs is stopped, as no signal but SIGKILL would end it."""

    key: str
    folder: Path
    hangs: int = 0

    def run(self) -> str:
        tries = list(self.folder.glob(f"{self.key}.*"))
        (self.folder / f"{self.key}.{len(tries)}").write_text(str(os.getpid()))
        if len(tries) < self.hangs:
            if multiprocessing.parent_process() is None:
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.key.upper()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_does_not_end_is_given_up_and_the_others_are_made(tmp_path: Path, workers: int) -> None:
    jobs = [
        Stalling("once", tmp_path, 1),
        Stalling("ever", tmp_path, 9),
        Stalling("later", tmp_path, 1),  # when the first two stall it has not begun, and keeps its second chance
        *(Stalling(f"j{i}", tmp_path) for i in range(6)),
    ]
    begun = time.monotonic()
    with Workers(workers, limit=1.5) as pool:
        outcomes = {o.task.key: o for o in run_tasks(jobs, Stalling.run, pool, retries=1)}
    assert time.monotonic() - begun < 30
    assert {k: o.result for k, o in outcomes.items() if k != "ever"} == {k: k.upper() for k in outcomes if k != "ever"}
    assert outcomes["ever"].result is None
    assert "did not end within 0.025 minutes" in (outcomes["ever"].error or "")
    assert "`task_minutes`" in (outcomes["ever"].error or "")
    assert sorted(p.name for p in tmp_path.glob("[elo]*")) == [
        f"{k}.{n}" for k in ("ever", "later", "once") for n in (0, 1)
    ]
    assert {len(list(tmp_path.glob(f"j{i}.*"))) for i in range(6)} == {1}, "none of the others is made twice"
    if workers > 1:
        left = {int(p.read_text()) for p in tmp_path.iterdir()}
        _wait(lambda: not any(psutil.pid_exists(pid) for pid in left))


def _late(*words: Any) -> None:
    time.sleep(3)
    local._begin_worker(*words)


@pytest.mark.slow
def test_the_time_that_workers_take_to_start_counts_against_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that does much else; workers that never come are given up all the same."""
    monkeypatch.setattr(local, "_begin_worker", _late)
    with Workers(2, limit=1.0) as pool:
        outcomes = list(run_tasks([Job("a", tmp_path), Job("b", tmp_path)], Job.run, pool))
        assert [o.error for o in outcomes] == [None, None]
        assert pool.replaced == 0
    monkeypatch.setattr(local, "_STARTING", 0.0)
    with Workers(2, limit=1.0) as pool:
        (outcome,) = run_tasks([Job("c", tmp_path)], Job.run, pool)
    assert "did not end" in (outcome.error or "")


def test_workers_that_are_slow_but_come_to_ends_are_left_alone(tmp_path: Path) -> None:
    """The limit is for one task, however many there are."""
    with Workers(2, limit=3.0) as pool:
        outcomes = list(run_tasks([Slow(f"s{i}") for i in range(14)], Slow.run, pool))
    assert [o.error for o in outcomes] == [None] * 14
    assert pool.replaced == 0


@dataclass(frozen=True)
class Slow:
    key: str

    def run(self) -> str:
        time.sleep(0.5)
        return self.key


def test_tasks_are_taken_as_workers_come_free(tmp_path: Path) -> None:
    taken = []

    def jobs() -> Iterator[Job]:
        for i in range(40):
            taken.append(i)
            yield Job(f"j{i}", tmp_path)

    with Workers(2) as pool:
        outcomes = run_tasks(jobs(), Job.run, pool, total=40)
        next(outcomes)
        assert len(taken) <= 8  # two for each worker, and as many as have ended by then
        outcomes.close()  # type: ignore[attr-defined]
        time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) <= 8


@dataclass(frozen=True)
class Sleeper:
    key: str
    folder: Path

    def run(self) -> None:
        """Tell who it is, and take long."""
        (self.folder / f"{self.key}.pid").write_text(str(os.getpid()))
        time.sleep(120)


def sleep_in_workers(folder: Path) -> None:
    """Body of a driver that will be killed."""
    with Workers(2) as pool:
        list(run_tasks([Sleeper("a", folder), Sleeper("b", folder)], Sleeper.run, pool))


def test_no_worker_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    body = "import sys, pathlib, tests.cube.test_engine as t; t.sleep_in_workers(pathlib.Path(sys.argv[1]))"
    driver = subprocess.Popen([sys.executable, "-c", body, str(tmp_path)], cwd=Path(__file__).parents[2])
    told = [tmp_path / "a.pid", tmp_path / "b.pid"]
    _wait(lambda: all(path.exists() and path.read_text() for path in told))
    driver.kill()
    driver.wait()
    _wait(lambda: not any(psutil.pid_exists(int(path.read_text())) for path in told))


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_worker_that_comes_after_its_driver_was_killed_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("forkserver")
    hears, theirs = context.Pipe(duplex=False)
    hears.close()
    late = context.Process(target=local._begin_worker, args=(theirs,))
    late.start()
    late.join()
    assert (late.exitcode, capfd.readouterr().err) == (1, "")


def test_ledger_keeps_the_last_word_and_ignores_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    problem = Problem("source", "truncated", "t1", "s1", "7", "a.nc")
    ledger.record(Entry("a", "partial", (problem,), {"seconds": 1.5}))
    ledger.record(Entry("b", "done"))
    with path.open("ab") as file:
        file.write(b'{"key": "c", "stat')
    again = Ledger(path)
    assert set(again.entries) == {"a", "b"}
    assert again.problems() == [problem]
    assert [again.entries[key].status for key in ("a", "b")] == ["partial", "done"]
    again.record(Entry("a", "done"))
    last = Ledger(path)
    assert last.entries["a"].status == "done"
    assert last.problems() == []
    whole = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
    assert [json.loads(line)["key"] for line in whole] == ["a", "b", "a"]
