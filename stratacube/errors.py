"""Errors that are a sentence for the user: what was wrong, with both values, and the remedy.

A sentence names parameters in backquotes, as the caller of the library knows them: ``give `start_dt` and `end_dt```, or
with a value ``take `access=s3```. The command line shows its flags instead (see :mod:`stratacube.command`).
"""

from __future__ import annotations

import re

__all__ = [
    "PARAMETER",
    "ClaimLostError",
    "ClaimedError",
    "EncodingMismatchError",
    "PlugError",
    "SourceError",
    "StratacubeError",
    "UnavailableError",
    "UsageError",
]

PARAMETER = re.compile(r"`([\w.]+)(?:=([^`]*))?`")
"""A parameter in a sentence: its name and, where one is given, its value."""


_LONGEST = 1000
"""Letters of a sentence: a damaged input may hold a word of a million."""


class StratacubeError(Exception):
    """Base of every error the command line prints as one sentence (exit code 1)."""

    def __str__(self) -> str:
        """Return the sentence, in the middle cut where it quotes very much of what is wrong: both its ends count."""
        text = super().__str__()
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} [..] {text[-_LONGEST // 2 :]}"

    silent = False
    """Whether another process says it: of several ranks one is enough."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the sentence speaks of."""
        return tuple(dict.fromkeys(found[1] for found in PARAMETER.finditer(str(self))))


class UsageError(StratacubeError, ValueError):
    """Wrong use or configuration (exit code 2)."""


class ClaimedError(UsageError):
    """A folder in which another process is at work (exit code 2)."""


class ClaimLostError(StratacubeError, RuntimeError):
    """A folder that another process has taken over: this one may write no more."""


class PlugError(StratacubeError, RuntimeError):
    """Code of another package that failed while it ran; its own error is the cause."""


class SourceError(StratacubeError, OSError):
    """A source that cannot be listed, opened or read."""


class UnavailableError(SourceError):
    """A source that could not be read now: the machine, the network or a permission is to blame, not its content.

    Nothing follows from it about the source, so nothing may be decided by it.
    """


class EncodingMismatchError(StratacubeError, ValueError):
    """Arrays of different encodings that must not be joined in one virtual array."""
