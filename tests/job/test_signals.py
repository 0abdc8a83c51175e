"""Ctrl-C and SIGTERM at every step of a build, and workers that are killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from stratacube.claim import CLAIM
from tests.ground.processes import wait_for
from tests.job.racing import ENDS, PATIENCE, Build, Race, assert_as_undisturbed

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

STEPS = {
    "abi": ("find", "plan", "indexing", "building", "drawing", "publish"),
    "sentinel2": ("find", "plan", "scenes", "cells", "shards", "publish"),
}
IN_WORKERS = ("indexing", "building", "drawing", "scenes", "cells")
SOON = 60.0
"""Seconds within which all is over."""


def held(
    one: Race, step: str, workers: int, *flags: str, launcher: Sequence[str] = ()
) -> tuple[Build, list[int], Path]:
    """Start a build that waits at a step; also the processes that are at it, and the file that holds them."""
    hold = one.aside / f"hold-{len(one.builds)}"
    hold.touch()
    build = one.begin(*flags, workers=workers, held=(step, hold), launcher=launcher)

    def at_it() -> list[int]:
        return [int(path.suffix[1:]) for path in one.aside.glob(f"{hold.name}.*")]

    wait_for(lambda: at_it() or build.code() is not None, PATIENCE)
    assert build.code() is None, build.said.read_text()
    if workers > 1 and step in IN_WORKERS:
        wait_for(lambda: len(at_it()) == workers, PATIENCE)
        assert build.pid not in at_it()
    return build, at_it(), hold


def session(build: Build) -> list[int]:
    """Processes that a build started, and are there."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == build.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.mark.parametrize(
    ("source", "steps", "workers", "number"),
    [
        ("abi", ("building", "publish"), 1, signal.SIGTERM),
        *(
            pytest.param(source, steps[first::2], workers, number, marks=pytest.mark.slow)
            for source, steps in STEPS.items()
            for first, workers, number in (
                (source != "abi", 1, signal.SIGTERM),
                (source == "abi", 2, signal.SIGINT),
            )
        ),
        *(
            pytest.param(source, steps, workers, number, marks=[pytest.mark.slow, pytest.mark.long])
            for source, steps in STEPS.items()
            for workers in (1, 2)
            for number in (signal.SIGTERM, signal.SIGINT)
        ),
    ],
)
def test_a_signal_at_any_step_ends_it_tidily(
    racing: Race, undisturbed: Path, steps: Sequence[str], workers: int, number: signal.Signals
) -> None:
    """Ctrl-C comes to all processes of a terminal, SIGTERM (of kill) to the driver alone.

    Each step meets one of them; the tests of minutes send both to each, with one worker and with two.
    """
    one = racing
    for step in steps:
        build, _, _ = held(one, step, workers)
        one.interrupt(build, number, all_of_it=number == signal.SIGINT)
        until = time.monotonic() + SOON
        assert build.wait() == ENDS[number][0], build.said.read_text()
        wait_for(lambda build=build: not session(build), until - time.monotonic())
        ticket = max((one.folder / CLAIM).iterdir())
        assert b"ended x" in ticket.read_bytes(), step
    assert one.begin().wait() == 0
    one.judge()
    assert_as_undisturbed(one.folder, undisturbed)


@pytest.mark.parametrize(
    ("source", "step"),
    [
        ("abi", "building"),
        *(
            pytest.param(source, step, marks=pytest.mark.slow)
            for source, steps in STEPS.items()
            for step in steps
            if step in IN_WORKERS and step != "building"
        ),
    ],
)
def test_a_killed_worker_is_replaced(racing: Race, undisturbed: Path, step: str) -> None:
    build, workers, hold = held(racing, step, 2)
    os.kill(workers[0], signal.SIGKILL)
    hold.unlink()
    assert build.wait() == 0, build.said.read_text()
    wait_for(lambda: not session(build), SOON)
    assert_as_undisturbed(racing.folder, undisturbed)


def test_stopped_workers_do_not_hold_up_the_end(racing: Race) -> None:
    """As on a file system that does not answer."""
    build, workers, _ = held(racing, "building", 2)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    os.kill(build.pid, signal.SIGTERM)
    until = time.monotonic() + SOON
    assert build.wait() == 143, build.said.read_text()
    wait_for(lambda: not session(build), until - time.monotonic())


@pytest.mark.slow
def test_a_build_whose_workers_are_stopped_goes_on_without_them(racing: Race, undisturbed: Path) -> None:
    build, workers, hold = held(racing, "building", 2, "--task-minutes", "0.05")
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    hold.unlink()
    assert build.wait() == 0, build.said.read_text()
    wait_for(lambda: not session(build), SOON)
    assert_as_undisturbed(racing.folder, undisturbed)
