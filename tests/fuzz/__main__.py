"""Fuzz the readers of foreign bytes: ``python -m tests.fuzz [PARSER ...] --cases 10000 --seed 1``.

Every case damages one whole input, and reads it as a user does. What may come of it is a result, or one sentence that
names the file. A traceback, a hang, memory without bound, or garbage where a digest guards the input is a finding: it
is told with its parser, seed and case, and the input is kept in ``.fuzz/`` of the checkout.
``python -m tests.fuzz PARSER --case N --seed S`` takes one case again, in this process, and shows what is raised.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.fuzz.child import Finding, Inputs
from tests.fuzz.registry import PARSERS
from tests.fuzz.runner import Outcome, fuzz, save_input

KEPT = Path(__file__).resolve().parents[2] / ".fuzz"


def main() -> int:
    """Exit code 1 where something was found."""
    asked = _arguments()
    unknown = sorted({*asked.parsers} - PARSERS.keys())
    if unknown:
        sys.stderr.write(f"parser {unknown[0]} is unknown; there are {', '.join(PARSERS)}\n")
        return 2
    names = asked.parsers or [*PARSERS]
    if asked.case is not None:
        return _replay(names[0], asked.seed, asked.case)
    begun = time.monotonic()
    outcome = fuzz([PARSERS[name] for name in names], asked.cases, asked.seed, asked.jobs)
    _tell(names, outcome, asked.seed, time.monotonic() - begun)
    return int(bool(outcome.findings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=f"all by default: {', '.join(PARSERS)}")
    parser.add_argument("--cases", type=int, default=200, help="a parser; fewer for the slow ones")
    parser.add_argument("--seed", default="1", help="the same cases for the same seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--case", type=int, help="take this case alone, and show what is raised")
    return parser.parse_args()


def _replay(name: str, seed: str, case: int) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Inputs(PARSERS[name], Path(scratch))
        path, data = inputs.damaged(seed, case)
        _say(f"{name}, seed {seed}, case {case}: {path.relative_to(scratch)}, {len(data)} bytes")
        _say(f"kept as {save_input(PARSERS[name], seed, case, KEPT)}")
        _say(repr(inputs.read(path, data))[:2000])
    return 0


def _tell(names: list[str], outcome: Outcome, seed: str, seconds: float) -> None:
    kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in outcome.findings:
        kinds[finding.parser, finding.kind].append(finding)
    _say(f"{'parser':24} {'cases':>7} {'findings':>9} {'kinds':>6} {'ms/case':>8}")
    for name in names:
        taken, mine = outcome.cases[name], [k for k in kinds if k[0] == name]
        found = sum(len(kinds[k]) for k in mine)
        _say(f"{name:24} {taken:7} {found:9} {len(mine):6} {1000 * outcome.seconds[name] / max(1, taken):8.1f}")
    _say(f"{'all':24} {sum(outcome.cases.values()):7} {len(outcome.findings):9} {len(kinds):6} {seconds:6.0f} s")
    for (name, kind), findings in kinds.items():
        first = findings[0]
        _say(f"\n{name}: {kind}: {len(findings)} cases, such as {', '.join(str(f.case) for f in findings[:4])}")
        _say("\n".join(f"    {line}" for line in first.told.strip().splitlines()[-12:]))
        if first.case >= 0:
            _say(f"    kept as {save_input(PARSERS[name], seed, first.case, KEPT)}")
        _say(f"    again: python -m tests.fuzz {name} --case {max(0, first.case)} --seed {seed}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of libraries are of no account
