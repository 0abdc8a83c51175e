"""How ESA names Sentinel-2 products, datatakes, datastrips and image files.

Source: Sentinel-2 Products Specification Document, section 3.4 (naming conventions).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from stratacube.errors import SourceError, UsageError

__all__ = [
    "CDSE_STAC",
    "ProductName",
    "asset_key",
    "normalise_baseline",
    "normalise_platform",
    "normalise_tile",
    "parse_datastrip",
    "parse_datatake",
    "parse_product_name",
]

CDSE_STAC = "https://stac.dataspace.copernicus.eu/v1/"
"""The STAC API of the Copernicus Data Space."""

_NAME = re.compile(
    r"(?P<platform>S2[A-D])_MSI(?P<level>L2A)_(?P<sensing>\d{8}T\d{6})_N(?P<baseline>\d{4})_R(?P<orbit>\d{3})"
    r"_T(?P<tile>\d{2}[A-Z]{3})_(?P<discriminator>\d{8}T\d{6})(\.SAFE)?/?$"
)
_DATATAKE = re.compile(r"G(?P<platform>S2[A-D])_(?P<start>\d{8}T\d{6})_\d+_N(?P<baseline>\d\d\.\d\d)")
_DATASTRIP = re.compile(r"_S(\d{8}T\d{6})(?:_|$)")
_IMAGE = re.compile(r"(?:^|_)(?P<key>(?:B\d[\dA]|SCL|AOT|WVP|TCI)_[126]0m)(?:\.(?:jp2|tiff?))?$")
_TIME = "%Y%m%dT%H%M%S"


@dataclass(frozen=True)
class ProductName:
    """What a product's name says."""

    platform: str
    sensing: datetime
    baseline: str
    relative_orbit: int
    tile: str
    discriminator: datetime


def parse_product_name(name: str) -> ProductName:
    """Read the last part of a product's name or path, so that a folder above cannot mislead.

    Raises
    ------
    SourceError
        If it is not the name of an L2A product.
    """
    match = _NAME.search(name.rstrip("/").rpartition("/")[2])
    if match is None:
        raise SourceError(
            f"{name!r} is not the name of a Sentinel-2 L2A product (S2A_MSIL2A_.._N0510_R027_T13VEK_...SAFE)"
        )
    digits = match["baseline"]
    sensing, made = (_time(match[part], name) for part in ("sensing", "discriminator"))
    return ProductName(
        platform=normalise_platform(match["platform"]),
        sensing=sensing,
        baseline=f"{digits[:2]}.{digits[2:]}",
        relative_orbit=int(match["orbit"]),
        tile=match["tile"],
        discriminator=made,
    )


def _time(text: str, name: str) -> datetime:
    try:
        return datetime.strptime(text, _TIME)
    except ValueError as error:
        raise SourceError(f"{name!r} is not the name of a product: there is no time {text}") from error


def parse_datatake(identifier: str) -> tuple[str, datetime, str] | None:
    """Platform, start and baseline of ``GS2A_20200703T103031_026274_N05.00``; None where it is none."""
    match = _DATATAKE.fullmatch(identifier)
    if match is None:
        return None
    return normalise_platform(match["platform"]), datetime.strptime(match["start"], _TIME), match["baseline"]


def parse_datastrip(identifier: str) -> datetime | None:
    """Sensing start in ``S2A_OPER_MSI_L2A_DS_S2RP_.._S20200703T103715_N05.00``; None where there is none."""
    match = _DATASTRIP.search(identifier)
    return datetime.strptime(match[1], _TIME) if match else None


def asset_key(path: str) -> str | None:
    """Key of an image by its file name, ``B02_20m`` for ``.../T32TMT_20200703T103031_B02_20m.jp2``; None for others."""
    match = _IMAGE.search(path.rpartition("/")[2])
    return match["key"] if match else None


def normalise_platform(name: str) -> str:
    """Return ``sentinel-2a`` for ``S2A``, ``Sentinel-2A``, ``sentinel-2a`` or ``2A``.

    Raises
    ------
    UsageError
        If it is no Sentinel-2 satellite.
    """
    match = re.fullmatch(r"(?:s(?:entinel)?[- _]?)?2([a-d])", name.strip().lower())
    if match is None:
        raise UsageError(f"platform {name!r} is unknown; give sentinel-2a, sentinel-2b or sentinel-2c")
    return f"sentinel-2{match[1]}"


def normalise_baseline(text: str) -> str:
    """Return ``05.10`` for ``05.10``, ``5.10``, ``0510`` or ``N0510``.

    Raises
    ------
    UsageError
        If it is not a processing baseline.
    """
    match = re.fullmatch(r"[Nn]?(\d{1,2})\.?(\d\d)", text.strip())
    if match is None:
        raise UsageError(f"processing baseline {text!r} is unknown; give one like 05.10")
    return f"{int(match[1]):02d}.{match[2]}"


def normalise_tile(text: str) -> str | None:
    """Return ``06VVN`` for ``MGRS-6VVN``, ``T06VVN`` or ``06VVN``; None where it is not a tile."""
    match = re.fullmatch(r"(?:MGRS-|T)?(\d{1,2})([A-Z]{3})", text.strip())
    return f"{int(match[1]):02d}{match[2]}" if match else None
