"""What is done, what failed and why, and what was written: one JSON line a finished task, by the driver alone.

The file only grows; the last line of a key stands. A line that a crash cut short is ignored, and so is one that is not
ours: nothing half-written is ever taken as done. Before each line the claim of the folder is checked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from stratacube.files import Written, check_guards
from stratacube.inside import is_inside

__all__ = ["Entry", "Ledger", "Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One input that was dropped, or one product that could not be made, and why."""

    kind: str
    """``missing`` (not in the archive), ``source`` (unreadable), ``product`` (could not be made), ``avoided`` (an
    input that another one replaced by rule: nothing is missing for it)."""
    reason: str
    product: str = ""
    """The tile or cell."""
    input: str = ""
    """The scan or scene."""
    part: str = ""
    """Its channel or band."""
    href: str = ""


_OLD_NAMES = {"tile_id": "product", "scan_id": "input", "channel": "part"}
"""Fields of problems in ledgers of 0.1.0."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The last word on one task."""

    key: str
    status: str
    """``done``, ``partial`` (made, with dropped inputs), ``failed``, or ``begun`` (what is left to do needs the files
    that the entry lists)."""
    problems: tuple[Problem, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    """Arrays that hold nothing but fill here, of which there is no shard to look for."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else is to be known of it again."""
    files: tuple[Written, ...] | None = ()
    """What was written; None in entries of 0.1.0, which did not record it."""


class Ledger:
    """Entries by task key, in a file that only grows.

    What the tasks wrote is many times all else and seldom asked for: it stays in the file (:meth:`files_of`).

    Parameters
    ----------
    path
        The JSON-lines file; it need not exist yet.
    beneath
        Ledgers whose entries stand where this one has none; they are not written to.
    brief
        Prefix of keys of tasks of whose entries key and status are read alone, where nothing went wrong: of a million
        tiles the rest takes a quarter of a minute. For looking; what is then wrong in a line is not seen.
    """

    def __init__(self, path: Path, beneath: Iterable[Path] = (), *, brief: str | None = None) -> None:
        self.path = path
        self._brief = None if brief is None else _head_of(brief)
        self.entries: dict[str, Entry] = {}
        self._places: dict[str, tuple[Path, int, int]] = {}
        for one in (*beneath, path):
            self.overlay(one)

    def overlay(self, path: Path) -> None:
        """Have the entries of another ledger stand over those of this one, in memory alone."""
        if path.exists():
            with path.open("rb") as file:
                place = 0
                for line in file:
                    self._take(self._read(line), path, place, len(line))
                    place += len(line)

    def _read(self, line: bytes) -> Entry | None:
        head = None if self._brief is None or not line.endswith(b"]}\n") else self._brief.match(line)
        return _parse(line) if head is None else Entry(head[1].decode(), head[2].decode())

    def _take(self, entry: Entry | None, path: Path, place: int, size: int) -> None:
        if entry is not None:
            self.entries[entry.key] = replace(entry, files=()) if entry.files else entry
            self._places[entry.key] = path, place, size

    def record(self, *entries: Entry) -> None:
        """Append entries and make them durable before anything builds on them.

        Raises
        ------
        ClaimLostError
            If another process has taken the folder over.
        """
        check_guards(self.path)
        lines = [json.dumps(asdict(entry)).encode() + b"\n" for entry in entries]
        with self.path.open("ab") as file:
            place = file.seek(0, os.SEEK_END)
            if place and not self._ends_in_newline():
                place += file.write(b"\n")
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        for entry, line in zip(entries, lines, strict=True):
            self._take(entry, self.path, place, len(line))
            place += len(line)

    def _ends_in_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def files_of(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[Written, ...] | None]]:
        """Yield what each task wrote, None where that was not recorded; keys without an entry are passed over."""
        known = sorted((self._places[key], key) for key in keys if key in self._places)
        for path, of_one in groupby(known, key=lambda told: told[0][0]):
            with path.open("rb") as file:
                for (_, place, size), key in of_one:
                    file.seek(place)
                    entry = _parse(file.read(size))
                    yield key, None if entry is None else entry.files

    def problems(self) -> list[Problem]:
        """All problems of the entries that stand, in task order."""
        return [p for key in sorted(self.entries) for p in self.entries[key].problems]


def _head_of(prefix: str) -> re.Pattern[bytes]:
    """How the line of a task begins that went well, as :meth:`Ledger.record` writes it."""
    key = re.escape(prefix).encode()
    return re.compile(rb'\{"key": "(%s[\w-]*)", "status": "([a-z]+)", "problems": \[\], "' % key)


def _parse(line: bytes) -> Entry | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        problems = tuple(Problem(**{_OLD_NAMES.get(k, k): _text(v) for k, v in p.items()}) for p in fields["problems"])
        written = fields.get("files")
        if not all(is_inside(str(path)) for path, *_ in written or ()):
            return None  # of another's making: what it lists would be read, and removed where it is not as listed
        figures, facts, empty = dict(fields.get("figures", {})), dict(fields.get("facts", {})), fields.get("empty", ())
        if not all(isinstance(n, int | float) for n in figures.values()):
            return None
        if not all(isinstance(word, str) for word in (*facts.values(), *empty)):
            return None
        return Entry(
            str(fields["key"]),
            str(fields["status"]),
            problems,
            figures,
            tuple(empty),
            facts,
            None if written is None else tuple(Written(str(p), int(s), str(d)) for p, s, d in written),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _text(value: object) -> str:
    """Text of a field; a channel 0 of 0.1.0 was none."""
    return "" if value == 0 else str(value)
