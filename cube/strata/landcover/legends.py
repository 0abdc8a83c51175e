"""Names of land-cover classes, by the number that a cell holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from cube.strata.shares import shares_among, word

__all__ = ["IGBP", "WORLDCOVER", "legend_of", "parse_legend", "shares_of"]

IGBP: Mapping[int, str] = {
    0: "Water Bodies",
    1: "Evergreen Needleleaf Forests",
    2: "Evergreen Broadleaf Forests",
    3: "Deciduous Needleleaf Forests",
    4: "Deciduous Broadleaf Forests",
    5: "Mixed Forests",
    6: "Closed Shrublands",
    7: "Open Shrublands",
    8: "Woody Savannas",
    9: "Savannas",
    10: "Grasslands",
    11: "Permanent Wetlands",
    12: "Croplands",
    13: "Urban and Built-up Lands",
    14: "Cropland/Natural Vegetation Mosaics",
    15: "Permanent Snow and Ice",
    16: "Barren",
    17: "Water Bodies",
}
"""MCD12C1 and MCD12Q1, land cover type 1: User Guide to Collection 6 MODIS Land Cover, table 3. Water is 0 in MCD12C1
and 17 in MCD12Q1."""

WORLDCOVER: Mapping[int, str] = {
    10: "Tree cover",
    20: "Shrubland",
    30: "Grassland",
    40: "Cropland",
    50: "Built-up",
    60: "Bare/sparse vegetation",
    70: "Snow and ice",
    80: "Permanent water bodies",
    90: "Herbaceous wetland",
    95: "Mangroves",
    100: "Moss and lichen",
}
"""ESA WorldCover 2021 v200: Product User Manual, table 3."""

_OF_FILES = {"MCD12": IGBP, "ESA_WorldCover": WORLDCOVER}


def legend_of(file_name: str, legend: str) -> Mapping[int, str]:
    """Names of the classes of a raster.

    Parameters
    ----------
    file_name : str
        Of the raster.
    legend : str
        ``igbp``, ``worldcover``, ``numbers`` (no names), or ``auto``: by how the file is called.
    """
    if legend == "auto":
        return next((names for start, names in _OF_FILES.items() if file_name.startswith(start)), {})
    return {"igbp": IGBP, "worldcover": WORLDCOVER, "numbers": {}}[legend]


def parse_legend(text: str) -> dict[int, str]:
    """Read a legend of lines of a number and a name, as WorldCover's files carry it."""
    lines = (re.match(r"\s*(\d+)\s+(\S.*?)\s*$", line) for line in text.splitlines())
    return {int(found[1]): found[2] for found in lines if found}


def shares_of(asked: Sequence[str], classes: Sequence[int], names: Mapping[int, str]) -> dict[int, float]:
    """Shares of classes in the tiles to be drawn.

    Parameters
    ----------
    asked : sequence of str
        ``class`` or ``class=share``, a class by its number or name; empty for all classes alike.
    classes : sequence of int
        Those that the raster has.
    names : mapping
        By number.

    Raises
    ------
    UsageError
        If a class does not exist, is named twice, or a share is not positive.
    """
    known = {str(number): number for number in classes}
    known |= {word(names[number]): number for number in reversed(classes) if number in names}
    return shares_among(asked, known, "landcover_classes", "the raster has")
