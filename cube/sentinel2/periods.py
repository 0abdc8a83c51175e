"""Periods of a build that makes a composite of each: seasons, months, years; read from a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from stratacube.choices import many
from stratacube.errors import UsageError
from stratacube.guard import named
from stratacube.inside import why_not_a_name
from stratacube.settings import End, Settings, Start, local_path, refuse_empty

__all__ = ["Period", "periods_of", "refuse_odd_periods"]

_COLUMNS = ("period", "start", "end")
_MOST = 10_000
"""Each is a composite of every cell."""


class Period(Settings):
    """One period, of which a composite is made."""

    period: str = Field(description="its name, which files and items carry")
    start: Start = Field(description="first moment, ISO 8601 UTC")
    end: End = Field(description="end, exclusive; a date alone means that whole day")

    @field_validator("period")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        # Without _, which joins it to a cell's id, so that no two composites have one name.
        if not re.fullmatch(r"[A-Za-z0-9.-]+", name) or why_not_a_name(name):
            raise ValueError("names become parts of file names: use letters, digits, . and -")
        return name

    def holds(self, moment: datetime) -> bool:
        """Whether a moment lies in it."""
        return self.start <= moment < self.end


def periods_of(value: Any) -> Any:
    """Return the periods of a table, which is named; what is a list already stays as it is.

    Parameters
    ----------
    value
        Path of a CSV with the columns ``period``, ``start`` and ``end``; or a list, or None.

    Raises
    ------
    UsageError
        If the file cannot be read, or holds no such table.
    """
    if not isinstance(value, str | Path):
        return value
    path = Path(local_path(value))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"`periods` {path} cannot be read ({reason}); give a CSV of {','.join(_COLUMNS)}") from error
    if not rows or not set(_COLUMNS) <= rows[0].keys():
        told = f"has the columns {', '.join(map(str, rows[0]))}" if rows else "holds no row"
        raise UsageError(f"`periods` {path} {told}; give a CSV of {','.join(_COLUMNS)}, one period a row")
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(Period.check({name: str(row[name] or "").strip() for name in _COLUMNS}))
        except UsageError as error:
            raise UsageError(f"`periods` {path}, line {number + 2}: {error}") from error
    with named(f"`periods` {path}"):
        _refuse_alike(found)
    return sorted(found, key=lambda p: (p.start, p.end, p.period))


def _refuse_alike(periods: Sequence[Period]) -> None:
    seen = dict[str, str]()
    for one in periods:
        refuse_empty(one.start, one.end, (f"start of {one.period}", f"end of {one.period}"))
        other = seen.get(one.period.lower())
        if other is not None:
            told = (
                f"name {other} twice" if other == one.period else f"name {other} and {one.period}, alike but for case"
            )
            raise UsageError(f"`periods` {told}; give each its own name, for files and items carry it")
        seen[one.period.lower()] = one.period


def refuse_odd_periods(periods: Sequence[Period], start: datetime, end: datetime) -> None:
    """Refuse periods that hold no moment, lie outside of the build's, or share a name.

    Raises
    ------
    UsageError
        If one does.
    """
    if not 0 < len(periods) <= _MOST:
        raise UsageError(f"`periods` are {len(periods)}; give 1 to {many(_MOST, 'row')}")
    _refuse_alike(periods)
    for one in periods:
        if one.start < start or one.end > end:
            raise UsageError(
                f"period {one.period} ({one.start} to {one.end}) is not within `start` {start} and `end` {end}; "
                "leave these two out, or widen them"
            )
