"""How versions are compared: intervals, verdicts, what counts as CPU time, and the worktree of the old code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from scipy.stats import binom

from tests.benchmarks.against import Compared, median_of, worktree
from tests.benchmarks.against_inputs import help_of
from tests.benchmarks.real_crops import SCANS, real_crops

ROOT = Path(__file__).resolve().parents[1]
TIMED = ROOT / "tests" / "benchmarks" / "timed.py"
LEAVES_AN_ORPHAN = """
import os, time
if not os.fork():
    time.sleep(0.2)  # the command has ended by now
    while time.process_time() < 0.5:
        pass
"""


@pytest.mark.parametrize("turns", [6, 9, 12, 25])
def test_the_interval_is_the_shortest_of_order_statistics_that_covers_95_percent(turns: int) -> None:
    ordered = [1 + i / 100 for i in range(turns)]
    found = median_of(ordered[::-1])
    left_out = ordered.index(found.low)
    assert found.high == ordered[-1 - left_out]
    assert 1 - 2 * binom.cdf(left_out, turns, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(left_out + 1, turns, 0.5) < 0.95
    assert found.value == pytest.approx(1 + (turns - 1) / 200)


def test_nine_turns_leave_out_one_at_either_end() -> None:
    found = median_of([1.0, 9.0, 1.1, 1.2, 0.1, 1.3, 1.4, 1.5, 1.6])
    assert (found.low, found.value, found.high) == (1.0, 1.3, 1.6)


@pytest.mark.parametrize(
    ("new", "verdict"), [(1.04, "**slower**"), (1.02, "same"), (0.9, "faster")], ids=["slower", "same", "faster"]
)
def test_a_row_is_slower_if_all_of_its_interval_is(new: float, verdict: str) -> None:
    row = Compared("", "", old=[2.0] * 9, new=[2.0 * new] * 9, again=[2.0] * 9)
    assert (row.verdict, row.met) == (verdict, verdict != "**slower**")
    assert row.noise is not None
    assert row.noise.value == 1
    one_quick_turn = Compared("", "", old=[2.0] * 9, new=[2.0 * new] * 7 + [1.9, 1.99], again=[])
    assert one_quick_turn.met
    assert one_quick_turn.verdict == ("not told apart" if new > 1.03 else verdict)


def test_a_bound_is_on_the_median_of_the_new_code() -> None:
    assert Compared("", "", new=[0.2, 0.4, 0.2], most=0.3).met
    over = Compared("", "", new=[0.2, 0.4, 0.4], most=0.3)
    assert (over.verdict, over.met) == ("**over 0.3 s**", False)


def test_orphans_count() -> None:
    """The server that workers are forked from is one."""
    given = json.dumps({"command": [sys.executable, "-c", LEAVES_AN_ORPHAN]})
    done = subprocess.run(
        [sys.executable, TIMED, "tree"],
        input=given,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1])["seconds"][""] > 0.5


def test_commands_are_read_from_the_help() -> None:
    command = [sys.executable, "-m", "cube.build", "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"abi", "sentinel2", "status", "verify"} <= set(help_of(told.stdout))


def test_tiles_that_codecs_are_compared_on_hold_nothing_twice(data_folder: Path) -> None:
    """Every crop is where the file has it, in one place only; no scan is of the time of another."""
    (crops,) = (c for c in real_crops(data_folder, steps=7, size=200, most=9) if c.scan == "M1, day")
    (path,) = (data_folder / SCANS["M1, day"]).parent.glob("*C13_*")
    with h5py.File(path) as file:
        image = file["Rad"][:].view("u2")
    blocks = image.reshape(5, 100, 5, 100).swapaxes(1, 2).reshape(25, 100, 100)
    assert crops.bands[13].shape == (3, 7, 100, 100)
    found = [[i for i, b in enumerate(blocks) if (b == crop).all()] for crop in crops.bands[13].reshape(-1, 100, 100)]
    assert found == [[i] for i in range(21)]
    assert crops.bands[1].shape == (3, 7, 200, 200)
    assert (crops.valid["2km"] & (1 << 12) != 0).mean() > 0.99
    files = [next(iter(data_folder.glob(pattern))).name for pattern in SCANS.values()]
    assert len({name.partition("_s")[2][:11] for name in files}) == len(SCANS)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout of the repository")
def test_the_worktree_goes_when_a_comparison_fails() -> None:
    seen = []

    def fail() -> None:
        with worktree("HEAD") as old:
            assert (old / "cube" / "build.py").exists()
            seen.append(old)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    (old,) = seen
    assert not old.exists()
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(old) not in listed.stdout
