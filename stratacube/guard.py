"""One guard a source: whatever a parser or a library raises on one input is one sentence with the input's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stratacube.errors import SourceError, StratacubeError

__all__ = ["guarded", "reason_of"]

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
        In place of any exception but ours, which have their sentence, and an interruption. The cause is kept.
    """
    try:
        yield
    except StratacubeError:
        raise
    except Exception as error:
        told = f"{sentence} ({reason_of(error)})"
        raise SourceError(f"{told}; {remedy}" if remedy else told) from error


def reason_of(error: BaseException) -> str:
    """Return what an exception says, in one line that a user can read."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if "truncated file" in text:  # HDF5's own words stand amid numbers of bytes
        return "truncated file"
    if isinstance(error, KeyError) and error.args and not isinstance(error.args[0], str):
        text = f"it lacks {error.args[0]!r}"
    elif isinstance(error, KeyError) and str(error.args[0]).isidentifier():
        text = f"it lacks {error.args[0]}"
    elif isinstance(error, MemoryError):
        text = f"it asks for more memory than there is{': ' if text else ''}{text}"
    return text[:_LONGEST] or type(error).__name__
