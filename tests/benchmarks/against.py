"""This code against an earlier commit of it, turn by turn: ``python -m tests.benchmarks --against COMMIT``.

CPU time is compared, of a process and all its children: on a machine that others use too, wall clock tells of them. In
a turn the old code runs twice and the new one once, each in a process of its own on the same inputs; the order changes
from turn to turn, so that what drifts (the clock of the CPU, its caches, its neighbours) falls on both alike. What is
told of a row is the median of the turns' ratios, new to old, with its confidence interval, and the same of the old code
against itself: the noise.

Inputs are real pixels where the samples are there, each used once (no two tiles share a place and a time), else those
of the synthetic archive; what has to be built first is built by the old code.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.benchmarks.against_inputs import Inputs, help_of
from tests.benchmarks.table import CHECKOUT

__all__ = ["Compared", "Median", "median_of", "part"]

TURNS = 9
"""The fewest that are asked for; the interval is then from the second smallest ratio to the second largest."""
SLOWER = 1.03
"""A row is slower if all of its interval is above this: less is within what the layout of a binary in memory does."""
HELP_SECONDS = 0.3
"""Most CPU seconds of ``COMMAND --help``: what still feels immediate."""
CONFIDENCE = 0.95
ORDERS = ("old new again", "again new old", "new old again", "again old new", "old again new", "new again old")
"""Every order of the three runs of a turn, each after its mirror image: a steady drift cancels within two turns."""


@dataclass(frozen=True)
class Median:
    """Median of paired ratios, with bounds that hold it with a probability of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} | {self.low:.3f} - {self.high:.3f}"


def median_of(ratios: Sequence[float]) -> Median:
    """Median with the interval of order statistics.

    Each ratio is above the true median with a probability of a half, whatever their distribution, so the number below
    it is binomial; the interval leaves out as many at both ends as keep the coverage at 95 % or more (Conover,
    Practical Nonparametric Statistics, section 3.2). With fewer than six ratios all of them are in it, and it covers
    less.
    """
    ordered, left_out = sorted(ratios), 0
    n = len(ordered)
    while 1 - 2 * sum(math.comb(n, i) for i in range(left_out + 2)) / 2**n >= CONFIDENCE:
        left_out += 1
    return Median(statistics.median(ordered), ordered[left_out], ordered[n - 1 - left_out])


@dataclass
class Compared:
    """One row: what the turns measured."""

    group: str
    what: str
    old: list[float] = field(default_factory=list)
    """CPU seconds, turn by turn."""
    new: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)
    """Of the old code once more."""
    note: str = ""
    most: float | None = None
    """CPU seconds that the new code may take."""

    @property
    def ratio(self) -> Median | None:
        """New to old."""
        return _paired(self.new, self.old)

    @property
    def noise(self) -> Median | None:
        """Old to old."""
        return _paired(self.again, self.old)

    @property
    def verdict(self) -> str:
        """``slower``, ``faster``, ``same`` or ``not told apart``, and whether a bound is broken.

        ``same`` is said only where the turns rule out that it is slower; the others where they do not differ enough.
        """
        ratio, words = self.ratio, []
        if ratio is not None:
            known = {"**slower**": ratio.low > SLOWER, "faster": ratio.high < 1 / SLOWER, "same": ratio.high <= SLOWER}
            words.append(next((word for word, holds in known.items() if holds), "not told apart"))
        if self.most is not None and self.new:
            within = statistics.median(self.new) < self.most
            words.append(f"under {self.most:g} s" if within else f"**over {self.most:g} s**")
        return ", ".join(words)

    @property
    def met(self) -> bool:
        """Whether the new code is not slower, and within its bound."""
        return "**" not in self.verdict


def _paired(above: Sequence[float], below: Sequence[float]) -> Median | None:
    return median_of([a / b for a, b in zip(above, below, strict=True)]) if above and below else None


def part(commit: str, scratch: Path, turns: int, groups: Sequence[str]) -> tuple[str, bool]:
    """Compare, and return the table as Markdown and whether nothing is slower.

    Parameters
    ----------
    commit
        The old code.
    scratch
        Folder whose inputs are kept from run to run.
    turns
        How many; six or more for an interval of 95 %.
    groups
        Which groups of rows; all if empty.
    """
    versions = f"new: {_git('describe', '--always', '--dirty')}; old: {_git('rev-parse', '--short', commit)}"
    rows: list[Compared] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worktree goes then, too
    with worktree(commit) as old:
        sides = {"old": old, "new": CHECKOUT, "again": old}
        run = Runner(sides, scratch / "run")
        inputs = Inputs.prepare(scratch / _git("rev-parse", commit), lambda *a: run.command("old", *a))
        for name, measured in _groups(inputs, run).items():
            if not groups or name in groups:
                started = time.monotonic()
                rows += _turns(measured, turns)
                sys.stderr.write(f"  {name}: {time.monotonic() - started:.0f} s\n")
    return _text(rows, turns, versions, inputs.told), all(row.met for row in rows)


GROUPS = ("tiles", "workers", "index", "loader", "cells", "help")


@dataclass(frozen=True)
class Measured:
    """Rows that one process measures."""

    group: str
    rows: dict[str, str]
    """What a row is called, by the name the process gives it."""
    run: Callable[[str], dict[str, Any] | None]
    """Measures a side; None where it has nothing to measure."""
    most: float | None = None


def _groups(inputs: Inputs, run: Runner) -> dict[str, list[Measured]]:
    """Everything that is measured; the names are :data:`GROUPS`."""
    screens = {side: "--screen" in run.text(side, "abi", "--help") for side in ("old", "new")}
    screens["again"] = screens["old"]
    tiles = Measured(
        "Tiles",
        {
            "start": "one tile, a first command: Python's start and all imports are in it",
            "one": "one tile, work alone",
            "cut": "one tile, work alone, its scans not looked at (`--screen off`)",
            "many": f"{inputs.MANY} tiles, work alone",
        },
        lambda side: run.script(side, "commands", runs=inputs.tile_runs(run.out, screens=screens[side])),
    )
    workers = Measured(
        "Tiles",
        {"": f"{inputs.MANY} tiles, the whole command with 2 worker processes, their start in it"},
        lambda side: run.tree(side, *inputs.many(run.out, workers=2)),
    )
    index = Measured(
        "Index",
        {"made": "index_file, made and saved", "cached": "index_file, from what was saved"},
        lambda side: run.script(side, "index", **inputs.index(run.out)),
    )
    loader = Measured(
        "Loader",
        {"": "tile_loader to float32, in one process"},
        lambda side: run.script(side, "loader", **inputs.loader),
    )
    cells = Measured(
        "Sentinel-2", inputs.cell_rows, lambda side: run.script(side, "commands", runs=inputs.cell_runs(run.out))
    )
    known = {side: help_of(run.text(side, "--help")) for side in ("old", "new")}

    def help_row(command: str) -> Measured:
        def measure(side: str) -> dict[str, Any] | None:
            there = not command or command in known["new" if side == "new" else "old"]
            return run.tree(side, *[command] * bool(command), "--help") if there else None

        return Measured(
            "`--help`, Python's start in it", {"": f"`{command} --help`".replace("` ", "`")}, measure, HELP_SECONDS
        )

    helps = [help_row(command) for command in ("", *dict.fromkeys([*known["old"], *known["new"]]))]
    groups = ([tiles], [workers], [index], [loader], [cells], helps)
    return dict(zip(GROUPS, groups, strict=True))


def _turns(several: Sequence[Measured], turns: int) -> list[Compared]:
    """Run all sides in turn; a first run of each is not counted, for it writes bytecode and fills the page cache."""
    found = {
        (i, row): Compared(m.group, what, most=m.most) for i, m in enumerate(several) for row, what in m.rows.items()
    }
    made: dict[int, dict[str, str]] = defaultdict(dict)
    for i, measured in enumerate(several):
        for side in ("old", "new"):
            first = measured.run(side)
            if first is not None:
                made[i][side] = first["made"]
        for order, _ in zip(cycle(ORDERS), range(turns), strict=False):
            for side in order.split():
                result = measured.run(side)
                for row, seconds in (result["seconds"] if result else {}).items():
                    getattr(found[i, row], side).append(seconds)
    for (i, _), row in found.items():
        if len(set(made[i].values())) > 1:
            row.note = "not the same work: old and new name other products"
    return list(found.values())


class Runner:
    """Runs processes of either side.

    Parameters
    ----------
    sides
        Folder of each side's code.
    out
        Folder that every process begins without.
    """

    def __init__(self, sides: dict[str, Path], out: Path) -> None:
        self.sides, self.out = sides, out

    def script(self, side: str, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a function of ``timed.py`` on a side's code."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        script = Path(__file__).with_name("timed.py")
        done = self._python(side, "-P", str(script), name, input=json.dumps(arguments, default=str))
        found: dict[str, Any] = json.loads(done.splitlines()[-1])
        return found

    def tree(self, side: str, *arguments: Any) -> dict[str, Any]:
        """Measure a command of ``cube.build`` with all its processes."""
        return self.script(side, "tree", command=[sys.executable, "-m", "cube.build", *map(str, arguments)])

    def command(self, side: str, *arguments: Any) -> None:
        """Run a command of ``cube.build``."""
        self.text(side, *arguments)

    def text(self, side: str, *arguments: Any) -> str:
        """Run a command of ``cube.build``, and return what it writes."""
        return self._python(side, "-m", "cube.build", *map(str, arguments))

    def _python(self, side: str, *arguments: str, input: str = "") -> str:
        # Threads that wait for work spin, and names in another order make other dictionaries: noise on both sides.
        environment = os.environ | {
            "PYTHONPATH": str(self.sides[side]),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "STRATACUBE_CACHE": str(self.out / "cache"),
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            input=input,
            capture_output=True,
            text=True,
            cwd=self.sides[side],
            env=environment,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{side} code: python {' '.join(arguments)[:300]} failed: {done.stderr[-2000:]}")
        return done.stdout


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A worktree of a commit in a temporary folder, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "old"
        _git("worktree", "add", "--detach", str(path), commit)
        try:
            yield path
        finally:
            _git("worktree", "remove", "--force", str(path))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _text(rows: Sequence[Compared], turns: int, versions: str, told: str) -> str:
    heads = ("", "old", "new", "new / old", "95 %", "old / old", "95 %", "", "note")
    lines = [
        "## Against an earlier commit, by CPU time",
        "",
        f"{versions}. {turns} turns of old, new and old once more, in changing order, each in a process of its own; "
        "CPU seconds of the process and all its children (medians), and the median of the turns' ratios with its 95 % "
        f"interval. Slower means that all of the interval is over {SLOWER}. {told}",
        "",
        f"| {' | '.join(heads)} |",
        "|---|--:|--:|--:|--:|--:|--:|---|---|",
    ]
    for row in rows:
        figures = [f"{statistics.median(s):.3g} s" if s else "" for s in (row.old, row.new)]
        ratios = [str(m) if m else " | " for m in (row.ratio, row.noise)]
        lines.append(f"| {row.group}: {row.what} | {' | '.join([*figures, *ratios, row.verdict, row.note])} |")
    return re.sub(r" +\|", " |", "\n".join(lines)) + "\n"
