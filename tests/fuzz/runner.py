"""Parsers spread over processes; one that dies or stands still costs one case, and is a finding."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.fuzz.child import CPU_SECONDS, Finding, Inputs, take_cases
from tests.fuzz.parser import Parser

__all__ = ["Outcome", "fuzz", "save_input"]

_FORK = get_context("fork")
_STANDING = 12 * CPU_SECONDS
"""Seconds by the clock without a word from a process, after which it is ended."""
_SPAN = 1000
"""Cases of one process, for which inputs are laid down once."""


@dataclass
class Outcome:
    """What came of a run."""

    cases: Counter[str] = field(default_factory=Counter)
    """Taken, by parser."""
    seconds: Counter[str] = field(default_factory=Counter)
    """By the clock, by parser."""
    findings: list[Finding] = field(default_factory=list)


@dataclass
class _Worker:
    parser: Parser
    cases: range
    process: BaseProcess
    pipe: Connection
    case: int | None = None
    heard: float = field(default_factory=time.monotonic)
    begun: float = field(default_factory=time.monotonic)


def fuzz(parsers: Sequence[Parser], cases: int, seed: str, jobs: int) -> Outcome:
    """Take the first cases of a seed of each parser."""
    for name in {parser.imports for parser in parsers} - {""}:
        import_module(name)
    outcome = Outcome()
    scratch = Path(tempfile.mkdtemp(prefix="fuzz"))
    waiting = list(reversed([*_spans(parsers, cases)]))
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                worker = _started(*waiting.pop(), seed, scratch)
                workers[worker.pipe] = worker
            for pipe in wait([*workers], timeout=1.0):
                if not _listened(workers[pipe], outcome):  # type: ignore[index]
                    rest = _ended(workers.pop(pipe), outcome)  # type: ignore[arg-type]
                    waiting += [rest] if rest else []
            for worker in workers.values():
                if time.monotonic() - worker.heard > _STANDING:
                    os.kill(worker.process.pid or 0, signal.SIGKILL)
    finally:
        for worker in workers.values():
            worker.process.kill()
        shutil.rmtree(scratch, ignore_errors=True)
    return outcome


def _spans(parsers: Iterable[Parser], cases: int) -> Iterator[tuple[Parser, range]]:
    for parser in parsers:
        most = max(1, round(cases * parser.share))
        for begin in range(0, most, _SPAN):
            yield parser, range(begin, min(most, begin + _SPAN))


def _started(parser: Parser, cases: range, seed: str, scratch: Path) -> _Worker:
    ours, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_work, args=(theirs, parser, cases, seed, scratch))
    process.start()
    theirs.close()
    return _Worker(parser, cases, process, ours)


def _work(pipe: Connection, parser: Parser, cases: range, seed: str, scratch: Path) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)  # libraries of C write there as they like
    os.dup2(nowhere, 2)
    folder = Path(tempfile.mkdtemp(prefix="inputs", dir=scratch))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        for word in take_cases(Inputs(parser, folder), seed, cases):
            pipe.send(word)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the harness's fault or that of whole inputs)
        told = "".join(traceback.format_exception(error))[-4000:]
        pipe.send(Finding(parser.name, -1, "whole inputs are not read", told))
    pipe.send(None)
    shutil.rmtree(folder, ignore_errors=True)
    pipe.close()
    os._exit(0)  # threads of libraries are of no account


def _listened(worker: _Worker, outcome: Outcome) -> bool:
    """Take what a process says; False when it will say no more."""
    try:
        word = worker.pipe.recv()
    except (EOFError, OSError):
        return False
    worker.heard = time.monotonic()
    if isinstance(word, Finding):
        outcome.findings.append(word)
    elif word is None:
        worker.case, worker.cases = None, range(0)
    else:
        worker.case = word
        outcome.cases[worker.parser.name] += 1
    return True


def _ended(worker: _Worker, outcome: Outcome) -> tuple[Parser, range] | None:
    """What a process that ended too early has left to do."""
    worker.process.join(10)
    outcome.seconds[worker.parser.name] += time.monotonic() - worker.begun
    if not worker.cases:
        return None
    code = worker.process.exitcode
    if worker.case is None:
        told = f"the process ended with status {code}"
        outcome.findings.append(Finding(worker.parser.name, -1, "whole inputs are not read", told))
        return None
    told = "it stood still, and was ended" if code == -signal.SIGKILL else f"the process ended with status {code}"
    outcome.findings.append(Finding(worker.parser.name, worker.case, told, ""))
    return worker.parser, range(worker.case + 1, worker.cases.stop)


def save_input(parser: Parser, seed: str, case: int, into: Path) -> Path:
    """Write what a case damages into a folder, and return its path."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    try:
        path, data = Inputs(parser, folder).damaged(seed, case)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    target = into / f"{parser.name}-{seed}-{case}" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target
