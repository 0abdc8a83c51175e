"""Names and numbers of level 2A that a configuration needs: light to import, for every command line does."""

from __future__ import annotations

import re

from cube.registry import REDUCERS
from stratacube.choices import nearest
from stratacube.errors import UsageError

__all__ = ["BAND_RESOLUTIONS", "MASK_CLASSES", "SCL_NAMES", "band_name", "reducer_name"]

BAND_RESOLUTIONS = {
    "B01": (20, 60),
    "B02": (10, 20, 60),
    "B03": (10, 20, 60),
    "B04": (10, 20, 60),
    "B05": (20, 60),
    "B06": (20, 60),
    "B07": (20, 60),
    "B08": (10,),
    "B8A": (20, 60),
    "B09": (60,),
    "B11": (20, 60),
    "B12": (20, 60),
}
"""Pixel sizes in metres at which a product has each band."""

MASK_CLASSES = (0, 1, 2, 3, 7, 8, 9, 10, 11)
"""The predecessor's: all but vegetation, bare soil and water."""

SCL_NAMES = (
    "no_data",
    "saturated_or_defective",
    "dark_area",
    "cloud_shadow",
    "vegetation",
    "not_vegetated",
    "water",
    "unclassified",
    "cloud_medium_probability",
    "cloud_high_probability",
    "thin_cirrus",
    "snow",
)
"""Names of the scene classes 0 to 11."""


def band_name(text: str) -> str:
    """Return ``B04`` for ``b4``, ``B04`` or ``4``; what is not a band, as it is."""
    match = re.fullmatch(r"[Bb]?(\d{1,2})([Aa]?)", text.strip())
    if match is None:
        return text
    return f"B{match[1]}A" if match[2] and len(match[1]) == 1 else f"B{match[1]:0>2}{match[2]}"


def reducer_name(text: str) -> str:
    """Return the name of a reducer as files have it: ``p25`` for ``percentile:25``.

    Raises
    ------
    UsageError
        If there is none of the name.
    """
    known = REDUCERS.names()
    if text in known:
        return text
    digits = text.removeprefix("percentile:").removeprefix("p")
    try:
        percent = float(digits) if digits != text else -1.0
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        told = f"there are {', '.join(known)} and percentiles such as p25"
        raise UsageError(f"reducer {text!r} is unknown; {told}{nearest(text, known)}")
    return f"p{percent:g}"
