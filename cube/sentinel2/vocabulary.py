"""Names and numbers of level 2A that a configuration needs: light to import, for every command line does."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cube.registry import REDUCERS
from stratacube.choices import nearest
from stratacube.errors import UsageError

__all__ = [
    "BAND_RESOLUTIONS",
    "LAYERS",
    "MASK_CLASSES",
    "SCL_NAMES",
    "band_name",
    "reducer_name",
    "refuse_unknown_band",
]

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

_COMMON_NAMES = {
    **dict(zip(("coastal", "blue", "green", "red"), ("B01", "B02", "B03", "B04"), strict=True)),
    **dict(zip(("rededge071", "rededge075", "rededge078"), ("B05", "B06", "B07"), strict=True)),
    **dict(zip(("rededge1", "rededge2", "rededge3"), ("B05", "B06", "B07"), strict=True)),
    **dict(zip(("nir", "nir08", "nir09", "swir16", "swir22"), ("B08", "B8A", "B09", "B11", "B12"), strict=True)),
}
"""Of the STAC EO extension, and those of the red edge that came before it."""
LAYERS = ("emad", "smad", "bcmad", "date", "months")
"""Our reducers that give layers beside a composite."""

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
    """Return ``B04`` for ``b4``, ``B04``, ``4``, ``band 4`` or ``red``; what is not a band, as it is."""
    word = text.strip().lower()
    match = re.fullmatch(r"(?:band[\s_-]*)?b?(\d{1,2})(a?)", word)
    if match is None:
        return _COMMON_NAMES.get(word, text)
    return f"B{match[1].lstrip('0') if match[2] else match[1].zfill(2)}{match[2].upper()}"


def refuse_unknown_band(bands: Sequence[str]) -> None:
    """Refuse bands that level 2A does not have.

    Raises
    ------
    UsageError
        If there is one.
    """
    unknown = next((band for band in bands if band not in BAND_RESOLUTIONS), None)
    if unknown is not None:
        near = nearest(unknown, [*BAND_RESOLUTIONS, *_COMMON_NAMES])
        raise UsageError(f"band {unknown!r} is unknown; level 2A has {', '.join(BAND_RESOLUTIONS)}{near}")


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
        known = [name for name in known if name not in LAYERS]
        told = f"there are {', '.join(known)} and percentiles such as p25"
        raise UsageError(f"reducer {text!r} is unknown; {told}{nearest(text, known)}")
    return f"p{percent:g}"
