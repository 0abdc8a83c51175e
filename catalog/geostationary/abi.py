"""The Advanced Baseline Imager of the GOES-R series, as catalogues know it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from catalog.geostationary.bands import BANDS
from catalog.geostationary.names import (
    PLATFORMS,
    SECTORS,
    bucket,
    nearly_a_name,
    normalise_platform,
    parse_name,
    parse_sector,
    platforms_for,
    product,
)
from catalog.geostationary.naming import Naming

if TYPE_CHECKING:
    from catalog.publish.model import Observatory

__all__ = ["ABI_NAMES"]


def _enters(platform: str | None, sector: str | None, folder: str) -> bool:
    """Leave out folders named as another product (``ABI-L2-FDCC``) or another platform's bucket (``noaa-goes17``)."""
    if re.fullmatch(r"ABI-L(1b-Rad[FCM]|2-\w+)", folder):
        return bool(re.fullmatch(r"ABI-L1b-Rad[FCM]" if sector is None else product(sector), folder))
    if re.fullmatch(r"noaa-goes\d\d", folder):
        return platform is None or folder == bucket(platform)
    return True


def _observatory() -> Observatory:
    from catalog.geostationary.observatory import GOES  # noqa: PLC0415  (it takes pandas and PROJ with it)

    return GOES


ABI_NAMES = Naming(
    title="ABI",
    platforms=PLATFORMS,
    satellites=f"{', '.join(PLATFORMS)} (or say east or west)",
    product="ABI-L1b-Rad",
    sectors=SECTORS,
    moving=frozenset({"M1", "M2"}),
    bands=BANDS["abi"],
    online=True,
    parse=parse_name,
    normalise=normalise_platform,
    parse_sector=parse_sector,
    spans=platforms_for,
    observatory=_observatory,
    numbers={platform: int(platform.removeprefix("goes")) for platform in PLATFORMS},
    platform_attributes={"long_name": "GOES satellite number"},
    enters=_enters,
    nearly=nearly_a_name,
)
