"""How NOAA names ABI L1b files, buckets and prefixes, and which satellite was East or West when.

Source: GOES-R Product Definition and Users' Guide, volume 3, appendix A (file names); the handovers are those of
https://www.goes-r.gov/users/transitionToOperations18.html and its siblings for GOES-16, -17 and -19.
"""

from __future__ import annotations

import calendar
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache

from catalog.geostationary.naming import REPROCESSED, FileName, Span
from stratacube.errors import UsageError
from stratacube.times import shifted

__all__ = [
    "PLATFORMS",
    "SECTORS",
    "FileName",
    "bucket",
    "floor_hour",
    "hours",
    "nearly_a_name",
    "normalise_platform",
    "orbital_slot",
    "parse_name",
    "parse_sector",
    "platforms_for",
    "prefix",
    "product",
]

PLATFORMS = ("goes16", "goes17", "goes18", "goes19")
SECTORS = ("F", "C", "M1", "M2")
HOUR = timedelta(hours=1)

_NAME = re.compile(
    r"(OR|RP)_(ABI-L1b-Rad(?:F|C|M(?=[12])))([12]?)-M(\d{1,2})C(0[1-9]|1[0-6])_G(1[6-9])"
    r"_s(\d{14})_e(\d{14})_c(\d{14})(?:-\d{6}_\d)?\.nc4?"
)
"""``RP`` is of the reprocessed record; EUMETCast adds a channel and a number to the creation."""
_LIKE = re.compile(r"(?!\.).*ABI-L1b-Rad.*\.(nc4?|h5|hdf5?)(\.(gz|bz2|xz|zst|zip))?", re.IGNORECASE)
_PARTS = (
    (r"OR_|RP_", "it does not begin with OR_ (operational) or RP_ (reprocessed)"),
    (r"ABI-L1b-Rad(F|C|M1|M2)-", "its sector is none of F, C, M1 and M2"),
    (r"M\d{1,2}C(0[1-9]|1[0-6])_", "its mode or channel is none of ABI's, such as M6C13"),
    (r"G1[6-9]_", "its satellite is none of G16 to G19"),
    (r"s\d{14}_e\d{14}_c\d{14}(-\d{6}_\d)?(?!\d)", "its times are not three of 14 digits, such as s20193002000275"),
    (r"\.nc4?$", "its suffix is not .nc"),
)
"""What a name is made of, in order, and why it is not read where that is not there."""
_PRODUCT = re.compile(r"(?:ABI-)?L1b-Rad(F|C|M|M1|M2)?(-Reproc)?", re.IGNORECASE)
_SLOTS = {
    "east": (("goes16", datetime(2017, 12, 18)), ("goes19", datetime(2025, 4, 7))),
    "west": (("goes17", datetime(2019, 2, 12)), ("goes18", datetime(2023, 1, 4))),
}
"""Operational satellites of each slot with the UTC day they entered service, in order."""


def parse_name(name: str) -> FileName | None:
    """Read a file name; None where it is not that of an ABI L1b file.

    Parameters
    ----------
    name
        ``OR_ABI-L1b-Rad{F|C|M1|M2}-M{mode}C{bb}_G{nn}_s{YYYYDDDHHMMSSt}_e..._c....nc``, without a folder; also as
        EUMETCast spells it.
    """
    found = _read(name)
    return found if isinstance(found, FileName) else None


def nearly_a_name(name: str) -> str | None:
    """Why a file name that looks like one of ABI L1b is not read; None for any other."""
    if _LIKE.fullmatch(name) is None:
        return None
    found = _read(name)
    if found is None:
        return _why_not(name)
    return found if isinstance(found, str) else None


def _read(name: str) -> FileName | str | None:
    """What a name tells; why it is not read, where its form is right; None for any other."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    system, product_name, region, mode, channel, satellite, *stamps = match.groups()
    if bool(region) != product_name.endswith("M"):
        return None
    try:
        start, end, created = map(_moment, stamps)
    except ValueError as error:
        return str(error)
    if end < start:
        return f"it ends at {end}, before it starts at {start}"
    sector = f"{product_name[-1]}{region}"
    product_name += REPROCESSED if system == "RP" else ""
    # One text for all files: a year has 800,000 of them, and what they share is a third of what they fill.
    platform, product_name, sector = map(sys.intern, (f"goes{satellite}", product_name, sector))
    return FileName(platform, product_name, sector, int(mode), int(channel), start, end, created)


def _why_not(name: str) -> str:
    rest = name
    for pattern, why in _PARTS:
        found = re.match(pattern, rest)
        if found is None:
            return why
        rest = rest[found.end() :]
    return "it goes on after .nc"


@lru_cache(4096)
def _moment(stamp: str) -> datetime:
    """``YYYYDDDHHMMSSt`` as a time; strptime is ten times slower, and a year has 800,000 names.

    The channels of a scan share most of their times, which are kept for that.
    """
    year, day, hour, minute, second = (
        int(stamp[:4]),
        int(stamp[4:7]),
        int(stamp[7:9]),
        int(stamp[9:11]),
        int(stamp[11:13]),
    )
    days = 366 if calendar.isleap(year) else 365
    # 60: a leap second. No imager of these flew before 2000, nor can times far from ours be reckoned with.
    if not (2000 <= year < 2100 and 1 <= day <= days and hour < 24 and minute < 60 and second <= 60):
        raise ValueError(f"{stamp} is not a time")
    microseconds = 100_000 * int(stamp[13])
    return datetime(year, 1, 1) + timedelta(day - 1, second, microseconds, minutes=minute, hours=hour)


def product(sector: str, lineage: str = "") -> str:
    """Product of a sector, as buckets and layouts spell it: ``ABI-L1b-RadM`` for ``M1``."""
    return f"ABI-L1b-Rad{sector[0]}{lineage}"


def bucket(platform: str) -> str:
    """Name of the S3 bucket of a platform."""
    return f"noaa-{platform}"


def prefix(sector: str, hour: datetime, lineage: str = "") -> str:
    """Folder of an hour's files, in a bucket or in a local archive: ``ABI-L1b-RadF/YYYY/DDD/HH``."""
    return f"{product(sector, lineage)}/{hour:%Y/%j/%H}"


def floor_hour(time: datetime) -> datetime:
    """Return the full hour a time lies in."""
    return time.replace(minute=0, second=0, microsecond=0)


def hours(start: datetime, end: datetime) -> Iterator[datetime]:
    """All full hours whose files may start in [start, end), with a neighbour at each side.

    The neighbours hold what a clock read a moment earlier or later put into the wrong folder.
    """
    hour, last = floor_hour(shifted(start, -HOUR)), shifted(end, HOUR)
    while hour < last:
        yield hour
        if hour > datetime.max - HOUR:
            return
        hour += HOUR


def normalise_platform(name: str) -> str:
    """One spelling for a platform.

    Parameters
    ----------
    name
        ``16``, ``G16``, ``goes-16``, ``GOES16``, ``noaa-goes16``, ``goes-r``; or ``east``, ``GOES-West``.

    Returns
    -------
    str
        ``goes16`` .. ``goes19``, ``east`` or ``west``.

    Raises
    ------
    UsageError
        If it is none of these.
    """
    short = re.sub(r"^(noaa-?)?(goes|g(?=\d))?[-_ ]*", "", name.strip().lower())
    short = {"r": "16", "s": "17", "t": "18", "u": "19"}.get(short, short)
    if short in _SLOTS:
        return short
    if f"goes{short}" not in PLATFORMS:
        raise UsageError(f"satellite {name!r} is unknown; ABI flies on {', '.join(PLATFORMS)} (or say east or west)")
    return f"goes{short}"


def parse_sector(product: str, domain: str | None = None) -> str:
    """Sector that a product and a domain name together.

    Parameters
    ----------
    product
        ``ABI-L1b-Rad``, or with the letter of a sector: ``ABI-L1b-RadF``; with its lineage ``ABI-L1b-RadF-Reproc``.
    domain
        ``F``, ``C``, ``M1`` or ``M2``; None to take it from the product (full disk where that has no letter).

    Returns
    -------
    str
        One of :data:`SECTORS`.

    Raises
    ------
    UsageError
        An unknown product or domain, two that contradict each other, or a mesoscale product without its region.
    """
    product = product.strip()
    match = _PRODUCT.fullmatch(product)
    if match is None:
        raise UsageError(
            f"product {product!r} is not read; give ABI-L1b-Rad, ABI-L1b-RadF, -RadC or -RadM, or -RadF-Reproc"
        )
    letter = (match[1] or "").upper()
    sector = (domain or "").strip().upper() or letter or "F"
    if sector == "M" and len(letter) == 2:
        sector = letter
    if sector == "M":
        raise UsageError(f"sector M of product {product} is two regions; choose `domain=M1` or `domain=M2`")
    if sector not in SECTORS:
        raise UsageError(f"domain {domain!r} is unknown; the sectors are {', '.join(SECTORS)}")
    if match[2] and sector[0] == "M":
        raise UsageError(f"product {product} is not there for sector {sector}: F and C were reprocessed")
    if not sector.startswith(letter):
        raise UsageError(
            f"product {product} and domain {domain} contradict each other; "
            f"leave `domain` out, or give the product as ABI-L1b-Rad{sector[0]}"
        )
    return sector


def platforms_for(name: str, start: datetime | None, end: datetime | None) -> list[Span]:
    """Platforms that a name means in a period, with the part of the period that each holds.

    ``east`` is GOES-16 until 2025-04-07, then GOES-19; ``west`` is GOES-17 until 2023-01-04, then GOES-18
    (https://www.nesdis.noaa.gov/news/earth-orbit-noaas-goes-18-now-goes-west). The first satellite of a slot
    also stands for the time before it entered service.

    Parameters
    ----------
    name
        Any spelling of :func:`normalise_platform`.
    start, end
        Period, end exclusive, naive UTC; None is open.

    Returns
    -------
    list of (str, datetime or None, datetime or None)
        Platform, start and end (exclusive), in order of time.
    """
    name = normalise_platform(name)
    if name not in _SLOTS:
        return [(name, start, end)]
    parts = []
    services = _SLOTS[name]
    for i, (platform, entered) in enumerate(services):
        handover = services[i + 1][1] if i + 1 < len(services) else None
        left = start if i == 0 else max(start or entered, entered)
        right = end if handover is None else min(end or handover, handover)
        if left is None or right is None or left < right:
            parts.append((platform, left, right))
    return parts


def orbital_slot(platform: str, time: datetime) -> str:
    """``East``, ``West`` or ``Test`` (check-out and storage), as the STAC GOES extension has it."""
    for slot, services in _SLOTS.items():
        for platform_of_slot, entered in services:
            if platform_of_slot == platform:
                left_service = next((t for p, t in services if t > entered), datetime.max)
                return slot.capitalize() if entered <= time < left_service else "Test"
    return "Test"
