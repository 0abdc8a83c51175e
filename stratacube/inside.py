"""Whether a name from elsewhere stays in the folder it is put in: the one place that decides.

Ids of cells and tiles, paths of a ledger, keys of a bucket become paths. What is linked into a folder counts as lying
in it: scratch is linked to other disks everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from stratacube.errors import UsageError

__all__ = ["LONGEST_NAME", "is_inside", "refuse_other_json", "why_not_a_name"]

LONGEST_NAME = 150
"""Bytes of a name; file systems take 255, and more is put before and behind it."""


def why_not_a_name(name: str) -> str | None:
    """Say why a text cannot be the name of a file, or None."""
    if name in ("", ".", ".."):
        return "names a folder, or nothing"
    if "/" in name or "\\" in name or not name.isprintable():
        return "has a slash, a backslash or a control character"
    size = len(name.encode(errors="replace"))
    return f"has {size} bytes, and {LONGEST_NAME} are the most" if size > LONGEST_NAME else None


def is_inside(path: str) -> bool:
    """Whether a path, relative to a folder and with forward slashes, leads to something in it."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path


def refuse_other_json(path: Path, key: str, what: str) -> None:
    """Refuse a name of a file to write under which something else lies: before hours are spent on what it will hold.

    Parameters
    ----------
    path
        The file; what is not there may be written.
    key
        What the files have that may be written over.
    what
        What these are, in words.

    Raises
    ------
    UsageError
        If the file is there and is another.
    """
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or key not in found:
        raise UsageError(f"{path} is there and does not hold {what}; give another `output`, or remove it")
