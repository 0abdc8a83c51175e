"""What an archive holds: source files, the scans they make up, and how to pick among them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.completeness import completeness, write_completeness
from catalog.geostationary.naming import Naming, lineage_of
from stratacube.errors import UsageError
from stratacube.times import shifted

if TYPE_CHECKING:
    from catalog.geostationary.archives import Archive

__all__ = [
    "Identity",
    "Scan",
    "SourceFile",
    "better",
    "completeness",
    "find_scans",
    "group_scans",
    "nearest_scan",
    "write_completeness",
]

SAME_SCAN = timedelta(seconds=5)
"""Channels of one scan start within tenths of a second; scans of one sector are at least 30 s apart."""

Identity = tuple[str, str, str, int, datetime]
"""Platform, product with its lineage, sector, channel and start: the same for all issues of a file."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One channel file of a scan, as its name tells. Times are naive UTC."""

    href: str
    """Absolute local path or ``s3://`` URL."""
    size: int
    """Bytes."""
    tag: str
    """What changes when the content does: modification time in ns (local) or ETag (S3)."""
    platform: str
    """Such as ``goes16``."""
    product: str
    """Such as ``ABI-L1b-RadF``; that of several regions has their common letter."""
    sector: str
    """Such as ``F``, ``C``, ``M1`` or ``M2``."""
    mode: int
    channel: int
    start: datetime
    end: datetime
    created: datetime

    @property
    def identity(self) -> Identity:
        """What all issues of this file share."""
        return self.platform, self.product, self.sector, self.channel, self.start


@dataclass(frozen=True, slots=True)
class Scan:
    """The channel files of one platform, sector and start. Times are naive UTC."""

    platform: str
    product: str
    sector: str
    mode: int
    start: datetime
    """Earliest start of its channels."""
    end: datetime
    files: Mapping[int, SourceFile]
    """By channel number; a missing channel has no entry."""

    @property
    def id(self) -> str:
        """Identifier: platform, product with sector, and start to the tenth of a second."""
        return _id_of(self.platform, self.product, self.sector, self.start)


@lru_cache(1 << 16)  # more than a year's full disks: planning asks for it a score of times a tile
def _id_of(platform: str, product: str, sector: str, start: datetime) -> str:
    lineage = lineage_of(product)
    product = product.removesuffix(lineage)
    product = product if product.endswith(sector) else product[:-1] + sector
    return f"{platform}_{product}{lineage}_s{start:%Y%j%H%M%S}{start.microsecond // 100_000}"


def better(a: SourceFile, b: SourceFile | None) -> SourceFile:
    """Of two files of one channel and scan, the one to read.

    The latest creation time wins; of equal ones the larger (a copy cut short is never that), then the first path.
    """
    if b is None:
        return a
    if (a.created, a.size) != (b.created, b.size):
        return max(a, b, key=lambda file: (file.created, file.size))
    return min(a, b, key=lambda file: file.href)


def group_scans(files: Iterable[SourceFile]) -> list[Scan]:
    """Put channel files together into scans.

    Parameters
    ----------
    files
        In any order; platforms and sectors may be mixed, and a channel may come twice (see :func:`better`).

    Returns
    -------
    list of Scan
        By start, then platform and sector.
    """
    groups: list[list[SourceFile]] = []
    for file in sorted(files, key=lambda f: (f.platform, f.product, f.sector, f.start, f.channel)):
        first = groups[-1][0] if groups else None
        if (
            first is not None
            and (first.platform, first.product, first.sector) == (file.platform, file.product, file.sector)
            and file.start - first.start <= SAME_SCAN
        ):
            groups[-1].append(file)
        else:
            groups.append([file])
    scans = [_scan(group) for group in groups]
    return sorted(scans, key=lambda scan: (scan.start, scan.platform, scan.sector))


def _scan(group: list[SourceFile]) -> Scan:
    """Make one scan of files sorted by start."""
    best: dict[int, SourceFile] = {}
    for file in group:
        best[file.channel] = better(file, best.get(file.channel))
    files = {channel: best[channel] for channel in sorted(best)}
    first = min(files.values(), key=lambda file: (file.start, file.channel))
    end = max(file.end for file in files.values())
    return Scan(first.platform, first.product, first.sector, first.mode, first.start, end, files)


def find_scans(
    archive: Archive,
    *,
    platform: str,
    sector: str,
    channels: Sequence[int] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    naming: Naming = ABI_NAMES,
) -> list[Scan]:
    """Find the scans of a period.

    Parameters
    ----------
    archive
        Where to look.
    platform
        Any spelling of a platform, or ``east`` or ``west``, which follow the date.
    sector
        One of the imager's.
    channels
        Channels to keep; None keeps all. A scan with none of them is left out. Start, end and identifier of a scan
        are those of all its channels in the archive, whichever are kept.
    start, end
        Period in which scans start, naive UTC, end exclusive; None is open (local archives only).
    naming
        Names of the imager.

    Returns
    -------
    list of Scan
        By start.

    Raises
    ------
    UsageError
        An unknown platform or channel, an empty period, or an open one on S3.
    SourceError
        If the archive cannot be listed.
    """
    if start is not None and end is not None and end <= start:
        raise UsageError(f"the period from {start} to {end} is empty; give an end after the start")
    kept = set(naming.bands) if channels is None else set(channels)
    if unknown := sorted(kept - naming.bands.keys()):
        raise UsageError(f"channel {unknown[0]} is unknown; {naming.title} has {naming.told_bands}")
    found: list[Scan] = []
    for name, left, right in naming.spans(platform, start, end):
        # A scan whose channels start on both sides of a bound is whole or absent, never cut.
        files = archive.files(name, sector, _shifted(left, -SAME_SCAN), _shifted(right, SAME_SCAN))
        found += [
            scan
            for scan in group_scans(files)
            if (left is None or left <= scan.start) and (right is None or scan.start < right)
        ]
    subsets = (replace(s, files={c: f for c, f in s.files.items() if c in kept}) for s in found)
    return [scan for scan in subsets if scan.files]


def _shifted(time: datetime | None, by: timedelta) -> datetime | None:
    return None if time is None else shifted(time, by)


def nearest_scan(
    scans: Sequence[Scan], time: datetime, tolerance: timedelta, *, channels: Iterable[int] | None = None
) -> Scan | None:
    """Return the scan that starts nearest to a time.

    Parameters
    ----------
    scans
        Of one sector, sorted by start.
    time
        Wanted, naive UTC.
    tolerance
        How far from it a scan may start, inclusive.
    channels
        If given, scans with more of these channels come before nearer ones with fewer.

    Returns
    -------
    Scan or None
        None where no scan starts within the tolerance. Of two equally near ones, the earlier.
    """
    if channels is None:
        at = bisect_left(scans, time, key=_start)
        near = scans[max(at - 1, 0) : at + 1]
    else:
        near = scans[
            bisect_left(scans, time - tolerance, key=_start) : bisect_right(scans, time + tolerance, key=_start)
        ]
    wanted = set(channels or ())
    within = [scan for scan in near if abs(scan.start - time) <= tolerance]
    return min(within, key=lambda scan: (len(wanted - scan.files.keys()), abs(scan.start - time)), default=None)


def _start(scan: Scan) -> datetime:
    return scan.start
