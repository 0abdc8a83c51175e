"""What every benchmark shares: a row of figures, a timed fresh process, a Markdown table.

A module ``bench_*.py`` in this folder defines ``rows(scratch: Path, quick: bool) -> list[Row]``; ``python -m
tests.benchmarks`` finds it by its name.
"""

from __future__ import annotations

import gc
import importlib
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Measured", "Row", "compare", "markdown", "measure", "race", "reset_peak"]

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 2**20
_TARGET = re.compile(r"(ratio|ours) (<=|>=|<|>) ([\d.]+)( theirs)?")


@dataclass(frozen=True)
class Row:
    """One comparison."""

    section: str
    """Heading of the table it stands in."""
    what: str
    ours: float | None
    """Figure of this project, in ``unit``."""
    theirs: float | None
    """Figure of what it is compared with, in ``unit``; None where there is nothing to compare with."""
    unit: str
    ratio: float | None
    """How many times better ours is: below 1 where we lose."""
    target: str | None = None
    """``ratio >= 100``, ``ours < 500`` (in ``unit``) or ``ours <= 1.5 theirs``."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        match = _TARGET.fullmatch(self.target)
        if match is None:
            raise ValueError(f"target {self.target!r} is not like 'ratio >= 100', 'ours < 5' or 'ours < 2 theirs'")
        left = self.ratio if match[1] == "ratio" else self.ours
        right = float(match[3]) * ((self.theirs or 0.0) if match[4] else 1.0)
        if left is None:
            return False
        return {"<=": left <= right, ">=": left >= right, "<": left < right, ">": left > right}[match[2]]


def compare(
    section: str,
    what: str,
    ours: float | None,
    theirs: float | None,
    unit: str,
    *,
    higher_is_better: bool = False,
    target: str | None = None,
    note: str = "",
) -> Row:
    """Make a row, with the ratio that follows from its figures."""
    ratio = None
    if ours and theirs:
        ratio = ours / theirs if higher_is_better else theirs / ours
    return Row(section, what, ours, theirs, unit, ratio, target, note)


@dataclass(frozen=True)
class Measured:
    """What a function cost in a process of its own."""

    seconds: float
    """Wall clock, without imports and preparation."""
    cpu: float
    """CPU seconds of the same stretch, of all threads."""
    peak: float
    """Largest resident set of the process, imports included, in MiB."""
    idle: float
    """Resident set before the stretch, in MiB."""
    result: Any
    """What the function returned, through JSON."""


Stretch = Callable[..., Generator[None, None, Any]]
"""Prepares, yields, does what is timed, may yield again to stop the clock, and returns what JSON can hold."""


def measure(function: Stretch, /, **arguments: Any) -> Measured:
    """Run a function of a module of this folder in a fresh process.

    Parameters
    ----------
    function
        Of module level; a generator that yields where the clock starts, and where it stops unless that is its end.
    arguments
        Its keyword arguments, as JSON can hold them (paths become text).

    Raises
    ------
    RuntimeError
        If the process fails; the text is the end of what it wrote.
    """
    module = sys.modules[function.__module__]
    name = f"{__package__}.{Path(str(module.__file__)).stem}"
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.table", name, function.__name__],
        input=json.dumps(arguments, default=str),
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}.{function.__name__} failed: {done.stderr[-2000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def race(runners: Mapping[str, tuple[Stretch, Mapping[str, Any]]], rounds: int) -> dict[str, Measured]:
    """Measure several functions in turn, some rounds long: the fastest of each, with its largest peak.

    Taking turns spreads what else the machine does over all of them.
    """
    found: dict[str, list[Measured]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, (function, arguments) in runners.items():
            found[name].append(measure(function, **arguments))
    best = {}
    for name, several in found.items():
        fastest = min(several, key=lambda m: m.seconds)
        peak = max(m.peak for m in several)
        best[name] = Measured(fastest.seconds, min(m.cpu for m in several), peak, fastest.idle, fastest.result)
    return best


def markdown(rows: Sequence[Row]) -> str:
    """One table of one section's rows."""
    lines = ["| | ours | theirs | times better | target | met | note |", "|---|--:|--:|--:|---|---|---|"]
    for row in rows:
        met = {None: "", True: "yes", False: "**no**"}[row.met]
        ratio = "" if row.ratio is None else f"{_number(row.ratio)}x"
        figures = [f"{_number(v)} {row.unit}" if v is not None else "" for v in (row.ours, row.theirs)]
        target = (row.target or "").replace("ratio", "times better")
        cells = (row.what, *figures, ratio, target, met, row.note)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Three significant digits, without exponents."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.2g}"


def _resident(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process in MiB.

    Linux carries ``ru_maxrss`` over from the parent through exec; the status file tells of this program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return float(re.search(rf"{field}:\s+(\d+) kB", status.read_text())[1]) / 1024  # type: ignore[index]
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / MIB if sys.platform == "darwin" else largest / 1024


def reset_peak() -> float:
    """Forget the largest resident set so far, and return the present one, in MiB: what came before does not count."""
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")
    return _resident("VmRSS")


def _child(module: str, name: str) -> None:
    """Body of the fresh process: prepare, time, tell."""
    stretch = getattr(importlib.import_module(module), name)(**json.loads(sys.stdin.read()))
    result: list[Any] = []

    def whole() -> Generator[None, None, None]:
        result.append((yield from stretch))

    stretch_and_result = whole()
    next(stretch_and_result)
    gc.collect()
    idle, wall, cpu = _resident("VmRSS"), time.perf_counter(), time.process_time()
    next(stretch_and_result, None)
    told = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    told |= {"peak": _resident("VmHWM"), "idle": idle}
    for _ in stretch_and_result:
        pass
    told |= {"result": result[0]}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    _child(*sys.argv[1:])
