"""One guard a source: whatever a parser or a library raises on one input is one sentence with the input's name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from stratacube.errors import SourceError, StratacubeError, UnavailableError, UsageError

__all__ = ["guarded", "is_of_machine", "named", "reason_of"]

_OF_MACHINE = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "EACCES", "EPERM", "ENOENT", "ENXIO", "ENODEV", "EREMOTEIO", "ENOLINK", "EBUSY", "EAGAIN"),
        *("ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ENOTCONN", "ESHUTDOWN", "EHOSTDOWN"),
        *("EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EINTR"),
    )
    if hasattr(errno, name)  # some are Linux's own
)
"""What the system says when it could not read, whatever the bytes are; h5py hands it through.

What was listed and is not there any more is no fact about it either. A folder in a file's place (EISDIR) is one.
"""

_LONGEST = 160
"""Letters of a library's own words that are told: some print the whole of what they could not read."""


@contextmanager
def guarded(sentence: str, remedy: str = "") -> Iterator[None]:
    """Turn whatever is raised while one input is read into one SourceError that names it.

    Parsers of foreign bytes may raise anything: KeyError, OverflowError, RecursionError, MemoryError, what their
    libraries have of their own. A list of them is never whole, and what is not on it would end all for one bad input.
    So nothing but the reading of one input belongs into the block: no writing, and no code that has no input to blame.

    Parameters
    ----------
    sentence
        With the input's name, such as ``/a/b.nc is not a readable scan``; the reason is added in brackets.
    remedy
        What to do, where there is something.

    Raises
    ------
    SourceError
        In place of any exception but ours, which have their sentence, and an interruption. The cause is kept. It is
        an :class:`~stratacube.errors.UnavailableError` where not the input but the machine is to blame.
    """
    try:
        yield
    except StratacubeError:
        raise
    except Exception as error:
        told = f"{sentence} ({reason_of(error)})"
        kind = UnavailableError if is_of_machine(error) else SourceError
        raise kind(f"{told}; {remedy}" if remedy else told) from error


def is_of_machine(error: BaseException) -> bool:
    """Whether an exception says that something could not be read now, rather than what it holds."""
    # Clients of object stores raise the classes without a number.
    classes = TimeoutError, ConnectionError, PermissionError, FileNotFoundError
    return isinstance(error, classes) or (isinstance(error, OSError) and error.errno in _OF_MACHINE)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put an input's name before our own sentences about what it holds, where they do not tell it yet.

    Parameters
    ----------
    name
        Of the input, such as its path.

    Raises
    ------
    UsageError, SourceError
        The same, with the name.
    """
    try:
        yield
    except (UsageError, SourceError) as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


def reason_of(error: BaseException) -> str:
    """Return what an exception says, in one line that a user can read."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, OSError) and error.errno is not None and "errno = " in text:  # HDF5 tells of its call too
        return os.strerror(error.errno)
    if "truncated file" in text:  # HDF5's own words stand amid numbers of bytes
        return "truncated file"
    if isinstance(error, KeyError) and error.args and not isinstance(error.args[0], str):
        text = f"it lacks {error.args[0]!r}"
    elif isinstance(error, KeyError) and error.args and str(error.args[0]).isidentifier():
        text = f"it lacks {error.args[0]}"
    elif isinstance(error, MemoryError):
        text = f"it asks for more memory than there is{': ' if text else ''}{text}"
    return text[:_LONGEST] or type(error).__name__
