"""How far long work is: a line in the log now and then, or, where a command asked for it, a bar on the terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["LOG_INTERVAL", "bars", "iterate", "progress"]

LOG_INTERVAL = 15.0
"""Seconds between two lines: often enough to see that a job lives, seldom enough for a batch log."""

_log = logging.getLogger(__name__)
_bars = False

T = TypeVar("T")


def bars(on: bool) -> None:
    """Show bars instead of lines from now on; for commands whose standard error is a terminal."""
    global _bars  # noqa: PLW0603  (of the process, as the terminal is)
    _bars = on


@contextmanager
def progress(total: int | None, label: str) -> Iterator[Callable[[], None]]:
    """Give a function to call after each piece of work.

    Parameters
    ----------
    total
        How many pieces there are, where that is known.
    label
        What they are.
    """
    if _bars:
        from tqdm import tqdm  # noqa: PLC0415  (commands that show no bar begin without it)

        with tqdm(total=total, desc=label, unit="") as bar:

            def advance() -> None:
                bar.update()

            yield advance
        return
    done, start = 0, time.monotonic()
    last = start

    def tell() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if now - last >= LOG_INTERVAL or (done == total and now - start >= LOG_INTERVAL):
            last = now
            if total is None:
                _log.info("%s: %d done", label, done)
            else:
                _log.info(
                    "%s: %d of %d done, about %.0f s left", label, done, total, (now - start) / done * (total - done)
                )

    yield tell


def iterate(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate, telling how far it is."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(total, label) as advance:
        for item in items:
            yield item
            advance()
