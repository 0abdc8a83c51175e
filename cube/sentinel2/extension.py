"""A later end, or later periods, in a folder whose build is planned: what is known of how far its search reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cube.job.ledger import Entry, Ledger

__all__ = ["is_extension", "note_extension", "note_searched", "searched_until"]

_SEARCHED = "searched"
"""Key of the ledger; only builds that were extended have it."""


def is_extension(before: Mapping[str, Any], described: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of another build with a later end, and with periods of the time that it adds."""
    differing = {key for key in {*before, *described} if before.get(key) != described.get(key)}
    if not {"end"} <= differing <= {"end", "items", "periods"}:
        return False
    try:
        since, until = (datetime.fromisoformat(str(told["end"])) for told in (before, described))
        return until > since and _periods_grow(before.get("periods") or (), described.get("periods") or (), since)
    except (KeyError, TypeError, ValueError):
        return False


def _periods_grow(before: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]], since: datetime) -> bool:
    """Whether nothing of the periods changes before a moment: what is known of that time stays as it is.

    Those that are added come behind the others, so that each keeps its place in the store.
    """
    if bool(before) != bool(now) or len(now) < len(before):
        return False
    for one, other in zip(before, now, strict=False):
        ended, ends = (datetime.fromisoformat(p["end"]) for p in (one, other))
        alike = (one["period"], one["start"]) == (other["period"], other["start"])
        if not (alike and (ended == ends or (ended == since and ends > since))):
            return False
    return all(datetime.fromisoformat(p["start"]) >= since for p in now[len(before) :])


def note_extension(ledger: Path, before: Mapping[str, Any]) -> None:
    """Remember, before the configuration is replaced, the end until which products were searched."""
    there = Ledger(ledger)
    if _SEARCHED not in there.entries:
        there.record(_entry(str(before["end"])))


def note_searched(ledger: Ledger, end: datetime) -> None:
    """Remember that products are known until an end."""
    ledger.record(_entry(end.isoformat()))


def _entry(end: str) -> Entry:
    return Entry(_SEARCHED, "done", facts={"end": end})


def searched_until(ledger: Ledger) -> datetime | None:
    """The end until which products are known, of a build that was extended; None of others."""
    entry = ledger.entries.get(_SEARCHED)
    return None if entry is None else datetime.fromisoformat(entry.facts["end"])
