"""Locks on files, which the kernel gives back when their holder dies."""

from __future__ import annotations

import errno
import fcntl

__all__ = ["lock"]

_WITHOUT = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)
"""File systems without locks, such as Lustre mounted without ``flock``."""


def lock(descriptor: int, *, wait: bool = True) -> bool:
    """Lock an open file until it is closed.

    Parameters
    ----------
    descriptor
        Of the open file.
    wait
        Until whoever holds the lock lets go.

    Returns
    -------
    bool
        False if another one holds it. True also where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise
    return True
