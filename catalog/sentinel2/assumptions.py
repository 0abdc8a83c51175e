"""What is taken for granted of CDSE's items, held against an item: its documentation changes, and its generator too.

Source: https://documentation.dataspace.copernicus.eu/APIs/STAC.html, and items recorded from the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from catalog.sentinel2.checksums import read_checksum
from catalog.sentinel2.convert import product_from_item
from catalog.sentinel2.names import (
    ProductName,
    normalise_baseline,
    normalise_platform,
    normalise_tile,
    parse_datastrip,
    parse_datatake,
    parse_product_name,
)
from stratacube.errors import SourceError, StratacubeError

__all__ = ["ASSUMPTIONS", "broken_by"]

_KEYS = (
    *(f"B{n:02d}_20m" for n in (1, 2, 3, 4, 5, 6, 7, 11, 12)),
    *("B8A_20m", "SCL_20m", "SCL_60m", "B02_10m", "B03_10m", "B04_10m", "B08_10m", "B09_60m"),
)
_NOT_KEYS = ("B08_20m", "SCL_10m")
_SIDE = 109_800
"""Metres along a tile."""

Item = Mapping[str, Any]
Rule = Callable[[Item, ProductName], str | None]


def _keys(item: Item, _: ProductName) -> str | None:
    missing = [k for k in _KEYS if k not in item["assets"]]
    more = [k for k in _NOT_KEYS if k in item["assets"]]
    told = [f"no asset {' '.join(missing)}"] * bool(missing) + [f"an asset {' '.join(more)}"] * bool(more)
    return " and ".join(told) or None


def _metadata(item: Item, _: ProductName) -> str | None:
    for key, name in (("product_metadata", "MTD_MSIL2A.xml"), ("granule_metadata", "MTD_TL.xml")):
        href = str(item["assets"].get(key, {}).get("href"))
        if not href.endswith(name):
            return f"{key} is {href.rpartition('/')[2]}, not {name}"
    return None


def _addresses(item: Item, _: ProductName) -> str | None:
    asset = item["assets"]["SCL_20m"]
    href, other = str(asset.get("href")), str(asset.get("alternate", {}).get("https", {}).get("href"))
    if not href.startswith("s3://eodata/"):
        return f"href is {href[:60]}, not in s3://eodata"
    node = urlsplit(other)
    if node.scheme not in ("https", "http") or "/Nodes(" not in node.path or not node.path.endswith("/$value"):
        return f"alternate.https.href is {other[:60]}, not a node that is asked by HTTP"
    return None


def _grid(item: Item, _: ProductName) -> str | None:
    asset = item["assets"]["SCL_20m"]
    code, shape, transform = (asset.get(f"proj:{name}") for name in ("code", "shape", "transform"))
    if not str(code).startswith("EPSG:32"):
        return f"proj:code is {code!r}, not that of a UTM zone"
    if not transform or len(transform) < 6 or transform[0] <= 0:
        return f"proj:transform is {transform}"
    side = round(_SIDE / transform[0])
    return None if shape == [side, side] else f"proj:shape is {shape}, not {side} x {side} pixels of {transform[0]:g} m"


def _sizes(item: Item, _: ProductName) -> str | None:
    size = item["assets"]["SCL_20m"].get("file:size")
    return None if isinstance(size, int) and size > 0 else f"file:size is {size!r}"


def _digests(item: Item, _: ProductName) -> str | None:
    told = item["assets"]["SCL_20m"].get("file:checksum")
    return None if read_checksum(told) else f"file:checksum {str(told)[:20]!r} is neither of MD5 nor of SHA3-256"


def _baseline(item: Item, name: ProductName) -> str | None:
    told = str(item["properties"].get("processing:version"))
    return None if normalise_baseline(told) == name.baseline else f"processing:version {told}, not {name.baseline}"


def _acquisition(item: Item, name: ProductName) -> str | None:
    told = item["properties"]
    found = {
        "eopf:datatake_id": parse_datatake(str(told.get("eopf:datatake_id"))) is not None,
        "eopf:datastrip_id": parse_datastrip(str(told.get("eopf:datastrip_id"))) is not None,
        "grid:code": normalise_tile(str(told.get("grid:code"))) == name.tile,
        "sat:relative_orbit": told.get("sat:relative_orbit") == name.relative_orbit,
        "platform": normalise_platform(str(told.get("platform"))) == name.platform,
    }
    wrong = [f"{key} {told.get(key)!r}" for key, fits in found.items() if not fits]
    return " and ".join(wrong) or None


def _clouds(item: Item, _: ProductName) -> str | None:
    cover = item["properties"].get("eo:cloud_cover")
    return None if isinstance(cover, int | float) and 0 <= cover <= 100 else f"eo:cloud_cover is {cover!r}"


def _offset(item: Item, _: ProductName) -> str | None:
    """Look whether the offset is the generator's literal still: it is never taken for a fact."""
    asset = item["assets"]["B02_20m"]
    told = [part["raster:offset"] for part in (asset, *asset.get("bands", ())) if "raster:offset" in part]
    return f"raster:offset of B02_20m is {told[0]}, not -0.1" if told and told[0] != -0.1 else None


def _read(item: Item, _: ProductName) -> str | None:
    """Read it as a build does, which refuses what contradicts its tile and its name."""
    try:
        product_from_item(item)
    except SourceError as error:
        return str(error)
    return None


ASSUMPTIONS: Mapping[str, Rule] = {
    "assets have CDSE's keys": _keys,
    "metadata are MTD_MSIL2A.xml and MTD_TL.xml": _metadata,
    "files lie in s3://eodata and behind an https node": _addresses,
    "rasters tell CRS, shape and transform": _grid,
    "files tell their size": _sizes,
    "digests are told apart by their length": _digests,
    "processing:version is the baseline of the name": _baseline,
    "datatake, datastrip, tile, orbit and platform are told": _acquisition,
    "cloud cover is a percentage": _clouds,
    "raster:offset is a literal": _offset,
    "items can be read": _read,
}
"""By what is assumed, what says how an item breaks it."""


def broken_by(item: Item) -> Iterator[tuple[str, str]]:
    """Say what of the assumptions an item breaks.

    Parameters
    ----------
    item
        As it came.

    Yields
    ------
    assumption, found : str
        What is assumed, and what was found.
    """
    try:
        name = parse_product_name(str(item.get("id")))
    except StratacubeError as error:
        yield "an item's id is its product's name", str(error)
        return
    for assumption, rule in ASSUMPTIONS.items():
        found: str | None = "the item has no such part"
        with suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):
            found = rule(item, name)
        if found is not None:
            yield assumption, found
