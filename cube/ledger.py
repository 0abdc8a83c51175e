"""What is done, what failed and why: one JSON line a finished task, appended by the driver alone.

A line that a crash cut short is ignored, so nothing half-written is ever taken as done.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Entry", "Ledger", "Problem"]


@dataclass(frozen=True)
class Problem:
    """One input that was dropped, or one product that could not be made, and why."""

    kind: str
    """``missing`` (not in the archive), ``source`` (unreadable), ``product`` (could not be made)."""
    reason: str
    tile_id: str = ""
    scan_id: str = ""
    channel: int = 0
    href: str = ""


@dataclass(frozen=True)
class Entry:
    """The last word on one task."""

    key: str
    status: str
    """``done``, ``partial`` (made, with dropped inputs) or ``failed``."""
    problems: tuple[Problem, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    """Arrays that hold nothing but fill here, of which there is no shard to look for."""


class Ledger:
    """Entries by task key, in a file that only grows.

    Parameters
    ----------
    path
        The JSON-lines file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        if path.exists():
            for line in path.read_bytes().splitlines():
                entry = _parse(line)
                if entry is not None:
                    self.entries[entry.key] = entry

    def record(self, entry: Entry) -> None:
        """Append an entry and make it durable before anything builds on it."""
        torn = self.path.exists() and self.path.stat().st_size and not self._ends_in_newline()
        with self.path.open("ab") as file:
            file.write((b"\n" if torn else b"") + json.dumps(asdict(entry)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[entry.key] = entry

    def _ends_in_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def is_done(self, key: str) -> bool:
        """Whether a task needs no second run: a partial one is tried again, for its inputs may have been mended."""
        entry = self.entries.get(key)
        return entry is not None and entry.status == "done"

    def problems(self) -> list[Problem]:
        """All problems of the entries that stand, in task order."""
        return [p for key in sorted(self.entries) for p in self.entries[key].problems]


def _parse(line: bytes) -> Entry | None:
    try:
        fields: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    problems = tuple(Problem(**p) for p in fields["problems"])
    return Entry(fields["key"], fields["status"], problems, fields.get("figures", {}), tuple(fields.get("empty", ())))
