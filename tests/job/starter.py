"""Starts real builds at a test's command: orders in, answers out, a JSON line each.

What a build imports is imported here once, and each is a fork of this process: many start at the same moment, and cost
little. Run with an order as its argument, it is that build itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import cube.job.folder as folders
from cube.build import main
from stratacube import claim
from tests.job import slowly


class _Standing(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


class _Clock(metaclass=_Standing):
    """A clock that stands: what a build writes of its beginning is the same in all. It stands for ``datetime``."""

    fromisoformat = datetime.fromisoformat

    @staticmethod
    def now(zone: tzinfo) -> datetime:
        return datetime(2021, 7, 1, tzinfo=zone)


def tell(log: str, *words: object) -> None:
    """Add a line to what all builds of a test write to."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (" ".join(map(str, words)) + "\n").encode())
    os.close(handle)


def build(order: dict[str, Any]) -> int:
    """Run a command, and tell when it is past its claim and when it leaves it."""
    for name, value in order.get("settings", {}).items():
        setattr(claim, name, value)
    if order.get("held"):
        source, step, hold = order["held"]
        slowly.at(source, step, Path(hold))
    folders.datetime = _Clock  # type: ignore[assignment,misc]
    claimed = folders.claimed

    @contextmanager
    def told(folder: Path) -> Iterator[claim.Fence]:
        with claimed(folder) as fence:
            tell(order["log"], "enter", fence.number, os.getpid())
            try:
                yield fence
            finally:
                tell(order["log"], "leave", fence.number, os.getpid())

    folders.claimed = told  # type: ignore[assignment]
    return main(order["arguments"])


def _start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if not pid:
        os.setsid()
        handle = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        code = 70
        try:
            code = build(order)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return pid


def _ended(pid: int) -> int | None:
    """Exit code of a build, negative where a signal ended it; None while it runs."""
    there, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if there else None


def _serve() -> None:

    for line in sys.stdin:
        order = json.loads(line)
        answer = _ended(order["ended"]) if "ended" in order else _start(order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(build(json.loads(sys.argv[1])))
    _serve()
