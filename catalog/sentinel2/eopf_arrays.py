"""Arrays of a product in EOPF's Zarr form: where they lie in it, and what is said of each.

The form is that of the EOPF core Python modules 2.x (Zarr v2) and of products since baseline 05.12 (Zarr v3): counts
with scale, offset and fill in the arrays' attributes. In their GeoZarr form, reflectances are floats.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.sentinel2.items import Asset
from catalog.sentinel2.metadata import OFFSET, QUANTIFICATION
from catalog.sentinel2.places import is_remote, local_path
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = [
    "ArrayFacts",
    "arrays_listed",
    "asset_of",
    "facts_of",
    "image_places",
    "is_array",
    "product_arrays",
    "read_array",
    "read_attributes",
]

_REFLECTANCE = "measurements/reflectance"
_CLASSES = "conditions/mask/l2a_classification"
_PIXELS = (10, 20, 60)
_BANDS = ("b01", "b02", "b03", "b04", "b05", "b06", "b07", "b08", "b8a", "b09", "b11", "b12")
_LARGEST = 10980
"""Rows and columns of a whole tile at 10 m."""

_REMEDY = "copy the product again, or leave it out"


@dataclass(frozen=True)
class ArrayFacts:
    """What the metadata of an array says."""

    shape: tuple[int, int]
    proj_code: str
    transform: tuple[float, float, float, float, float, float]
    offset: int
    """To add to counts, of which 10000 are a reflectance of 1; 0 for classes."""
    is_float: bool
    """Whether it holds reflectances and not counts."""


def is_array(path: Path) -> bool:
    """Whether a folder holds a Zarr array (or group)."""
    return (path / ".zarray").is_file() or (path / "zarr.json").is_file()


def read_attributes(folder: Path) -> Mapping[str, Any]:
    """Return the attributes of a group or an array, of either version of Zarr.

    Raises
    ------
    SourceError
        If it is neither.
    """
    with guarded(f"{folder} is not a Zarr group or array that can be read", _REMEDY):
        return _described(folder)[1]


def _described(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Metadata and attributes."""
    if (folder / "zarr.json").is_file():
        document = json.loads((folder / "zarr.json").read_bytes())
        return document, document.get("attributes", {})
    array = folder / ".zarray"
    document = json.loads(array.read_bytes()) if array.is_file() else {}
    attributes = folder / ".zattrs"
    return document, json.loads(attributes.read_bytes()) if attributes.is_file() else {}


def read_array(folder: Path) -> ArrayFacts:
    """Read the metadata of an image.

    Parameters
    ----------
    folder
        Of the array.

    Raises
    ------
    SourceError
        If it is no image, does not tell where it lies, or is packed otherwise than processings do.
    """
    with guarded(f"{folder} is not an image of an EOPF product that can be read", _REMEDY):
        document, attributes = _described(folder)
    return facts_of(str(folder), document, attributes)


def facts_of(folder: str, document: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayFacts:
    """Read the metadata of an image that is at hand.

    Parameters
    ----------
    folder
        Of the array, for sentences.
    document, attributes
        Of ``zarr.json``, or ``.zarray`` and ``.zattrs``.

    Raises
    ------
    SourceError
        As of :func:`read_array`.
    """
    with guarded(f"{folder} is not an image of an EOPF product that can be read", _REMEDY):
        return _facts(folder, document, attributes)


def _facts(folder: str, document: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayFacts:
    rows, cols = (int(n) for n in document["shape"])
    if not (0 < rows <= _LARGEST and 0 < cols <= _LARGEST):
        raise SourceError(f"{folder} has {rows} x {cols} pixels where a tile has up to {_LARGEST}; {_REMEDY}")
    kind = str(document.get("dtype") or document["data_type"]).lstrip("<|=").replace("uint", "u").replace("float", "f")
    if kind not in ("u1", "u8", "u2", "u16", "f4", "f32"):
        raise SourceError(f"{folder} holds values of type {kind} where images have counts or float32; {_REMEDY}")
    is_float = kind.startswith("f")
    transform = attributes.get("proj:transform") or attributes["spatial:transform"]
    numbers = tuple(float(n) for n in transform[:6])
    code = attributes.get("proj:code") or f"EPSG:{int(attributes['proj:epsg'])}"
    return ArrayFacts((rows, cols), str(code), numbers, _offset(folder, attributes, is_float), is_float)  # type: ignore[arg-type]


def _offset(folder: str, attributes: Mapping[str, Any], is_float: bool) -> int:
    """Offset in counts. What floats hold is unpacked already: they are packed again as every product is since 04.00."""
    if is_float:
        return OFFSET
    if _CLASSES in folder.replace(os.sep, "/"):
        return 0
    scale, offset = float(attributes["scale_factor"]), float(attributes.get("add_offset", 0))
    found = round(offset * QUANTIFICATION)
    odd = abs(scale * QUANTIFICATION - 1) > 1e-6 or abs(offset * QUANTIFICATION - found) > 1e-3
    if odd or found not in (0, OFFSET):
        raise SourceError(
            f"{folder} has scale_factor {scale:g} and add_offset {offset:g} where processings have "
            f"{1 / QUANTIFICATION:g} and 0 or {OFFSET / QUANTIFICATION:g}; {_REMEDY}"
        )
    if int(attributes.get("fill_value", 0) or 0) != 0:
        raise SourceError(f"{folder} has fill_value {attributes['fill_value']} where no data is 0; {_REMEDY}")
    return found


def arrays_listed(places: Iterable[str]) -> dict[str, Asset]:
    """Return the images of the first product in Zarr form among some addresses: an item may give its folder alone."""
    for place in places:
        if place.rstrip("/").endswith(".zarr") and not is_remote(place):
            return dict(product_arrays(local_path(place)))
    return {}


def product_arrays(folder: Path) -> Iterator[tuple[str, Asset]]:
    """Yield the images of a product by the keys that their files have in a SAFE folder, such as ``B02_20m``.

    Parameters
    ----------
    folder
        The product's.
    """
    for key, inside in image_places():
        path = folder / inside
        if is_array(path):
            yield key, asset_of(str(path), read_array(path))


def image_places() -> Iterator[tuple[str, str]]:
    """Yield the key of each image that a product may have, and where it then lies in it."""
    for pixel in _PIXELS:
        yield from ((f"{name.upper()}_{pixel}m", f"{_REFLECTANCE}/r{pixel}m/{name}") for name in _BANDS)
        yield f"SCL_{pixel}m", f"{_CLASSES}/r{pixel}m/scl"


def asset_of(href: str, facts: ArrayFacts) -> Asset:
    """Describe an image."""
    return Asset(href=href, proj_code=facts.proj_code, shape=facts.shape, transform=facts.transform)
