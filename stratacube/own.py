"""Settings that say where secrets go: a user's own, given with the command and taken from no file."""

from __future__ import annotations

from pathlib import Path

from pydantic.config import JsonDict

from stratacube.errors import UsageError

__all__ = ["OWN_ONLY", "refuse_from_file"]

OWN_ONLY: JsonDict = {"how": "own"}
"""Marks such fields (by ``json_schema_extra``); they are no part of a digest."""


def refuse_from_file(key: str, mark: object, file: Path) -> None:
    """Refuse a key of a configuration file whose field is marked so.

    Raises
    ------
    UsageError
        If it is.
    """
    if mark == OWN_ONLY:
        raise UsageError(
            f"`{key}` in {file} is not taken from a file: passwords and keys would go where whoever wrote it says; "
            f"remove it, and give `{key}` with the command"
        )
