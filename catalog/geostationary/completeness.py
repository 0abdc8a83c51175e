"""What a period should hold and what the archive has of it: scans by channels, as a table."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratacube.files import whole_file

if TYPE_CHECKING:
    import pandas as pd

    from catalog.geostationary.scans import Scan

__all__ = ["completeness", "write_completeness"]

_LONGEST_GAP = 1000
"""Scans absent in a row that get a row each; a longer gap is one row."""
_NOMINAL_MESOSCALE = timedelta(minutes=1)


def completeness(
    scans: Sequence[Scan],
    channels: Iterable[int],
    cadence: timedelta | None = None,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    names: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Table of scans by channels, with rows for the scans that should be there and are not.

    The cadence of each platform, sector and mode is the most common gap between its scans, where at least two gaps
    agree on it (and never less than a minute in a mesoscale sector, which is scanned twice a minute only at times).

    Parameters
    ----------
    scans
        Sorted by start.
    channels
        Channels wanted: the columns.
    cadence
        Time between scans, instead of the inferred one.
    start, end
        Period (end exclusive) whose edges are looked at too; without it, gaps between scans only.
    names
        Of the channels; ``C01`` .. by default.

    Returns
    -------
    DataFrame
        ``scan`` (identifier; empty for an absent scan), ``platform``, ``sector``, ``start`` (actual, or expected for
        an absent scan), one boolean column a channel (by its name), ``status``: ``complete``, ``missing C02 C05``
        or ``no scan``. A gap of more than 1,000 scans is one row that gives their number.
    """
    import pandas as pd  # noqa: PLC0415  (whoever asks for help comes by here)

    wanted = {channel: names[channel] if names else f"C{channel:02d}" for channel in sorted(set(channels))}
    rows: list[tuple[datetime, dict[str, Any]]] = []
    for (platform, sector), group in _by_sector(scans):
        rows += [(scan.start, _present(scan, wanted)) for scan in group]
        for expected, status in _absent(group, cadence, start, end):
            blank = dict.fromkeys(wanted.values(), False)
            absent = {"scan": "", "platform": platform, "sector": sector, "start": expected}
            rows.append((expected, {**absent, **blank, "status": status}))
    columns = ["scan", "platform", "sector", "start", *wanted.values(), "status"]
    table = pd.DataFrame([row for _, row in sorted(rows, key=lambda item: item[0])], columns=columns)
    return table.astype({"start": "datetime64[ns]"} | dict.fromkeys(wanted.values(), "bool"))


def write_completeness(table: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV, whole or not at all."""
    with whole_file(path) as part:
        table.to_csv(part, index=False)


def _by_sector(scans: Sequence[Scan]) -> Iterator[tuple[tuple[str, str], list[Scan]]]:
    groups: dict[tuple[str, str], list[Scan]] = {}
    for scan in scans:
        groups.setdefault((scan.platform, scan.sector), []).append(scan)
    yield from sorted(groups.items())


def _present(scan: Scan, wanted: Mapping[int, str]) -> dict[str, Any]:
    has = {name: channel in scan.files for channel, name in wanted.items()}
    missing = [name for name, there in has.items() if not there]
    status = f"missing {' '.join(missing)}" if missing else "complete"
    return {
        "scan": scan.id,
        "platform": scan.platform,
        "sector": scan.sector,
        "start": scan.start,
        **has,
        "status": status,
    }


def _absent(
    scans: list[Scan], cadence: timedelta | None, start: datetime | None, end: datetime | None
) -> Iterator[tuple[datetime, str]]:
    """Give the expected starts without a scan, each with its status."""
    steps = _cadences(scans, cadence)
    for before, after in itertools.pairwise(scans):
        step = steps.get(before.mode)
        if step:
            count = round((after.start - before.start) / step) - 1
            yield from _gap(before.start, step, count)
    first, last = scans[0], scans[-1]
    step = steps.get(first.mode)
    if start is not None and step:
        count = max(0, (first.start - start) // step)
        yield from _gap(first.start - (count + 1) * step, step, count)
    step = steps.get(last.mode)
    if end is not None and step:
        # The scan that would start exactly at the end is not of the period.
        yield from _gap(last.start, step, max(0, -((last.start - end) // step) - 1))


def _cadences(scans: list[Scan], given: timedelta | None) -> dict[int, timedelta]:
    """Time between scans by scan mode; modes whose cadence cannot be told have none."""
    if given is not None:
        return {scan.mode: given for scan in scans}
    gaps: dict[int, Counter[int]] = {}
    for before, after in itertools.pairwise(scans):
        if before.mode == after.mode:
            # Starts scatter by tenths of a second.
            seconds = round((after.start - before.start).total_seconds())
            gaps.setdefault(before.mode, Counter())[seconds] += 1
    found = {}
    for mode, counts in gaps.items():
        most = max(counts.values())
        if most >= 2:
            step = timedelta(seconds=min(gap for gap, count in counts.items() if count == most))
            found[mode] = max(step, _NOMINAL_MESOSCALE) if scans[0].sector.startswith("M") else step
    return found


def _gap(before: datetime, step: timedelta, count: int) -> Iterator[tuple[datetime, str]]:
    if count > _LONGEST_GAP:
        yield before + step, f"no scan ({count} expected until {before + count * step})"
    else:
        yield from ((before + i * step, "no scan") for i in range(1, count + 1))
