"""Errors that are a sentence for the user: what was wrong, with both values, and the remedy."""

from __future__ import annotations

__all__ = [
    "ClaimLostError",
    "ClaimedError",
    "EncodingMismatchError",
    "SourceError",
    "StratacubeError",
    "UsageError",
]


class StratacubeError(Exception):
    """Base of every error the command line prints as one sentence (exit code 1)."""


class UsageError(StratacubeError, ValueError):
    """Wrong use or configuration (exit code 2)."""


class ClaimedError(UsageError):
    """A folder in which another process is at work (exit code 2)."""


class ClaimLostError(StratacubeError, PermissionError):
    """A folder that another process has taken over: this one may write no more."""


class SourceError(StratacubeError, OSError):
    """A source that cannot be listed, opened or read."""


class EncodingMismatchError(StratacubeError, ValueError):
    """Arrays of different encodings that must not be joined in one virtual array."""
