"""Which folder or address a source of a lazy cube stands for, and whether references lie there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from upath import UPath

from catalog.geostationary.abi import ABI_NAMES
from catalog.locate import REFERENCES, holds, locate, place_of
from cube.geostationary.reference_stac import COLLECTION
from cube.geostationary.references import is_reference_store
from stratacube.addresses import plain_url
from stratacube.errors import UsageError

__all__ = ["location_of", "reference_store"]


def location_of(source: Any, options: Mapping[str, Any] | None = None) -> str:
    """Path or URL of a source; of a STAC object or document, or the folder of a build, that of its reference store.

    Raises
    ------
    UsageError
        If a document names no reference store.
    """
    place = place_of(source)
    if place is None or (place.endswith(".json") and not _describes(place)):
        return locate(source, REFERENCES, options)
    if _describes(place):
        return str(Path(place).parent)
    inside = Path(place) / "references"
    return str(inside) if "://" not in place and is_reference_store(inside) else place


def _describes(place: str) -> bool:
    """Whether this is the collection that lies in a reference store and describes it."""
    path = Path(place)
    return "://" not in place and path.name == COLLECTION and is_reference_store(path.parent)


def reference_store(location: str, options: Mapping[str, Any] | None = None) -> Path | None:
    """Folder of references that a location is, on disk or in an object store; None for an archive.

    Raises
    ------
    UsageError
        If references lie in the web, where folders cannot be listed.
    """
    if "://" not in location:
        return Path(location) if is_reference_store(Path(location)) else None
    if location.startswith("s3://noaa-") or ABI_NAMES.product in location:  # meant as an archive
        return None
    place = locate(location, REFERENCES, options)
    if not holds(place, "references.json", options):
        return None
    if place.startswith(("http://", "https://")):
        raise UsageError(
            f"{plain_url(place)} holds references, which are read from disk or an object store; copy that folder and "
            "open the copy"
        )
    return cast(Path, UPath(place, **dict(options or {})))  # what is read of a Path it has alike
