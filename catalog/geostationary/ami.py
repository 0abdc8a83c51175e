"""The Advanced Meteorological Imager of GEO-KOMPSAT-2A, as catalogues know it.

Source of the names: Korea Meteorological Administration, National Meteorological Satellite Center, GK-2A AMI Level 1B
Data User Manual.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from catalog.geostationary.bands import Band
from catalog.geostationary.naming import FileName, Naming, Span
from stratacube.errors import UsageError

if TYPE_CHECKING:
    from catalog.publish.model import Observatory

__all__ = ["AMI_NAMES", "BANDS", "CADENCE"]

BANDS = {
    band.channel: band
    for band in (
        Band("vi004", 1, 0.470, 0.04, "blue"),
        Band("vi005", 2, 0.509, 0.028, "green"),
        Band("vi006", 3, 0.639, 0.08, "red"),
        Band("vi008", 4, 0.863, 0.034, "nir"),
        Band("nr013", 5, 1.37, 0.014, "cirrus"),
        Band("nr016", 6, 1.61, 0.04, "swir16"),
        Band("sw038", 7, 3.83, 0.18),
        Band("wv063", 8, 6.21, 0.84),
        Band("wv069", 9, 6.94, 0.40),
        Band("wv073", 10, 7.33, 0.18),
        Band("ir087", 11, 8.59, 0.35),
        Band("ir096", 12, 9.62, 0.38),
        Band("ir105", 13, 10.35, 0.47, "lwir"),
        Band("ir112", 14, 11.23, 0.66, "lwir11"),
        Band("ir123", 15, 12.36, 1.11, "lwir12"),
        Band("ir133", 16, 13.29, 0.57),
    )
}
"""By channel number. The wavelengths are those that the temperatures of the files are defined by; a name, and the
attribute ``channel_center_wavelength`` of a file, give them to one or two digits only."""

CADENCE = {"FD": timedelta(minutes=10), "ELA": timedelta(minutes=2), "LA": timedelta(minutes=2)}
"""Between scans of an area: full disk, extended local area, local area."""

_PIXELS = {"vi004": 10, "vi005": 10, "vi006": 5, "vi008": 10}
"""As names have them, in units of 100 m, where they are not 20."""
_FIRST, _LAST = 2018, 2100
"""Years of files: GK-2A was launched in 2018."""
_CHANNELS = {band.name: band for band in BANDS.values()}
_NAME = re.compile(r"gk2a_ami_le1b_([a-z]{2}\d{3})_([a-z]{2,3}?)(\d{3})([a-z]{2})_(\d{12})\.nc", re.IGNORECASE)
_LIKE = re.compile(r"(?!\.).*gk2a_ami_le1b_.*\.nc4?(\.(gz|bz2|xz|zst|zip))?", re.IGNORECASE)
_PRODUCT = re.compile(r"AMI-L1b(?:-(FD|ELA|LA))?", re.IGNORECASE)


def _read(name: str) -> FileName | str | None:
    """What a name tells; why it is not read, where it looks like one of AMI's; None for any other."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    band, area, pixel, projection, stamp = match.groups()
    sector, known = area.upper(), _CHANNELS.get(band.lower())
    wrong = None
    if known is None:
        wrong = f"band {band!r} is none of AMI's"
    elif sector not in CADENCE:
        wrong = f"area code {area!r} is unknown; the areas read are {', '.join(c.lower() for c in CADENCE)}"
    elif int(pixel) != _PIXELS.get(known.name, 20):
        wrong = f"pixels of {int(pixel) / 10:g} km are not those of {band}, {_PIXELS.get(known.name, 20) / 10:g} km"
    elif projection.lower() != "ge":
        wrong = f"projection {projection!r} is not geostationary (ge)"
    if wrong or known is None:
        return wrong
    try:
        start = datetime.strptime(stamp, "%Y%m%d%H%M")
    except ValueError:
        return f"{stamp!r} is not a time"
    if not _FIRST <= start.year < _LAST:
        return f"{stamp!r} is not a time of AMI's"
    product, sector = sys.intern(f"AMI-L1b-{sector}"), sys.intern(sector)  # one text for all files
    return FileName("gk2a", product, sector, 0, known.channel, start, start + CADENCE[sector], start)


def _parse(name: str) -> FileName | None:
    found = _read(name)
    return found if isinstance(found, FileName) else None


def _nearly(name: str) -> str | None:
    found = _read(name)
    if found is None and _LIKE.fullmatch(name):
        return "its form is not gk2a_ami_le1b_BAND_AREA_TIME.nc"
    return found if isinstance(found, str) else None


def _normalise(name: str) -> str:
    if re.sub(r"[-_ ]", "", name.strip().lower()) in ("gk2a", "geokompsat2a"):
        return "gk2a"
    raise UsageError(f"satellite {name!r} is unknown; AMI flies on gk2a")


def _sector(product: str, domain: str | None = None) -> str:
    match = _PRODUCT.fullmatch(product.strip())
    if match is None:
        raise UsageError(f"product {product!r} is not AMI's, which gk2a carries; leave `product` out or give AMI-L1b")
    told, asked = (match[1] or "").upper(), (domain or "").strip().upper()
    if asked and asked not in CADENCE:
        raise UsageError(f"domain {domain!r} is unknown; the areas of AMI are {', '.join(CADENCE)}")
    if told and asked and told != asked:
        raise UsageError(f"product {product} and domain {domain} contradict each other; leave `domain` out")
    return asked or told or "FD"


def _spans(name: str, start: datetime | None, end: datetime | None) -> list[Span]:
    return [(_normalise(name), start, end)]


def _observatory() -> Observatory:
    from catalog.publish.model import Observatory  # noqa: PLC0415  (it takes pandas and PROJ with it)

    return Observatory(
        mission="GEO-KOMPSAT-2",
        instruments=("AMI",),
        origin="GK-2A AMI L1B radiances",
        lineage="Counts of AMI L1B radiances",
        level="L1B",
        extension=None,
        summarised=("sat:platform_international_designator",),
        provider={
            "name": "KMA",
            "description": "National Meteorological Satellite Center: the satellite and its L1B radiances.",
            "roles": ["licensor", "producer"],
            "url": "https://nmsc.kma.go.kr/enhome/",
        },
        license_link={
            "rel": "license",
            "href": "https://nmsc.kma.go.kr/enhome/",
            "type": "text/html",
            "title": "GK-2A data of KMA's National Meteorological Satellite Center: its terms of use; cite KMA",
        },
        platform_name=lambda platform: "GK-2A",
        fields=lambda row, sources: {"sat:platform_international_designator": "2018-100A"},
    )


AMI_NAMES = Naming(
    title="AMI",
    platforms=("gk2a",),
    satellites="gk2a",
    product="AMI-L1b",
    sectors=tuple(CADENCE),
    moving=frozenset({"LA"}),
    bands=BANDS,
    online=False,
    parse=_parse,
    normalise=_normalise,
    parse_sector=_sector,
    spans=_spans,
    observatory=_observatory,
    numbers={"gk2a": 1},
    platform_attributes={"long_name": "satellite", "flag_values": [1], "flag_meanings": "gk2a"},
    nearly=_nearly,
)
