"""One sentence where shared memory is too small: containers often have 64 MB of it, less than a batch."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from stratacube.errors import StratacubeError
from stratacube.files import human_bytes

__all__ = ["room_told", "with_room"]

T = TypeVar("T")

_PLACE = Path("/dev/shm")
_WORDS = ("shared memory", "(shm)", "bus error")
"""How torch says that there is no room, and what a worker dies of that writes where there is none."""


@contextmanager
def room_told() -> Iterator[None]:
    """Within, what fails for want of shared memory says so.

    Raises
    ------
    StratacubeError
        If it does.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
        if isinstance(error, StratacubeError) or not (full or any(word in str(error).lower() for word in _WORDS)):
            raise
        size = f" ({human_bytes(shutil.disk_usage(_PLACE).total)})" if _PLACE.exists() else ""
        raise StratacubeError(
            f"the shared memory {_PLACE}{size} is too small for worker processes to hand over what they read: give the "
            "container more, as by --shm-size 8g, or take worker threads (`workers_are=threads`) or `workers=0`"
        ) from error


def with_room(batches: Iterable[T]) -> Iterator[T]:
    """Yield what workers read, as :func:`room_told` does."""
    with room_told():
        it = iter(batches)
    while True:
        with room_told():
            try:
                batch = next(it)
            except StopIteration:
                return
        yield batch
