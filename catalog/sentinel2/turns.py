"""Several builds that fetch into one folder: one of them at a time brings a file, the others wait and find it there.

A file is claimed as a build's folder is (:mod:`stratacube.claim`): by tickets, so that it holds between nodes, where
the locks of the kernel may not. Of an owner that died it is free at once on its node, and within two minutes elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from catalog.sentinel2.download import local_faults
from stratacube.claim import claimed
from stratacube.errors import ClaimedError, UsageError

__all__ = ["turn"]

_TICKETS = ".claims"
_POLL, _LONGEST_POLL = 0.05, 2.0


@contextmanager
def turn(root: Path, name: str, go_on: Callable[[], None]) -> Iterator[bool]:
    """Be the only one who brings a file.

    Parameters
    ----------
    root
        Folder that files are fetched into.
    name
        What is claimed.
    go_on
        Raises if there is no use in waiting any more.

    Yields
    ------
    bool
        Whether another one had it meanwhile, and perhaps brought it.

    Raises
    ------
    DiskError
        If the folder cannot be written, or the disk is full.
    """
    home, waited, pause = root / _TICKETS, False, _POLL
    with local_faults(home):
        home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        while (claim := _claimed(home, name)) is None:
            go_on()
            waited = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)
        stack.enter_context(claim)
        yield waited


def _claimed(home: Path, name: str) -> ExitStack | None:
    """Claim a file, None where another one has it."""
    stack = ExitStack()
    try:
        # Not as a folder of files is: who loses this claim may finish, for what it brings is checked and whole.
        stack.enter_context(claimed(home, home / name, told=home.parent / name))
    except ClaimedError:
        return None
    except UsageError as error:
        with local_faults(home / name):
            raise error.__cause__ or error from None
    return stack
