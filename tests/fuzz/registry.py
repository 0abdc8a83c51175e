"""All parsers, by name."""

from __future__ import annotations

from tests.fuzz import builds, geostationary, names, remote, sentinel2, surface, training
from tests.fuzz.parser import Parser

__all__ = ["PARSERS"]

PARSERS: dict[str, Parser] = {
    parser.name: parser
    for family in (names, geostationary, remote, surface, sentinel2, builds, training)
    for parser in family.PARSERS
}
