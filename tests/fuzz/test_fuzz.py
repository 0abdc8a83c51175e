"""The fuzzer finds what it is there for, and finds nothing in the parsers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "names-abi",
    "product-xml",
    "stac-items",
    "grid-csv",
    "config-tiles",
    "plan",
    "ledger",
    "statistics",
    "transfers",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.first
def test_two_hundred_damaged_inputs_of_every_parser_are_results_or_sentences() -> None:
    done = run("--cases", "200", "--seed", "1")
    assert done.returncode == 0, done.stdout[-20_000:]


def test_five_damaged_inputs_of_some_parsers_are_results_or_sentences() -> None:
    done = run("--cases", "5", "--seed", "5", *QUICK)
    assert done.returncode == 0, done.stdout[-20_000:]
    taken = {words[0]: int(words[1]) for words in map(str.split, done.stdout.splitlines()[1:]) if words}
    assert taken == dict.fromkeys(QUICK, 5) | {"all": 5 * len(QUICK)}
