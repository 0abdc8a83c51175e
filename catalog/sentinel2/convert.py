"""STAC items of CDSE, Earth Search, Planetary Computer and our own, read as products; and products as items.

Source: STAC 1.1.0 with the extensions eo 2.0.0, file 2.1.0, grid 1.1.0, processing 1.2.0, projection 2.0.0, sat
and view, as CDSE uses them; Earth Search and Planetary Computer use ``s2:`` properties for the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import unquote

from catalog.sentinel2.checksums import multihash, read_checksum
from catalog.sentinel2.eopf_arrays import arrays_listed
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.names import (
    ProductName,
    asset_key,
    normalise_baseline,
    normalise_tile,
    parse_datastrip,
    parse_datatake,
    parse_product_name,
)
from catalog.sentinel2.outlines import footprint_bbox
from catalog.sentinel2.packed_assets import PackedAssets
from catalog.sentinel2.select import Dropped
from catalog.sentinel2.tiles import check_grid, tile_grid
from stratacube.addresses import plain_url, why_odd
from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded
from stratacube.times import format_time, parse_time

__all__ = [
    "OTHER_LEVEL",
    "Access",
    "asset_fields",
    "href_of",
    "images_of",
    "item_from_product",
    "number_of",
    "product_from_item",
    "products_from_items",
]

Access = Literal["https", "s3", "local"]

_METADATA = ("product_metadata", "granule_metadata", "safe_manifest")
_COMMON_NAMES = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "swir16": "B11",
    "swir22": "B12",
    "visual": "TCI",
}
_BANDS = re.compile(r"B0[1-9]|B8A|B1[12]|SCL|AOT|WVP|TCI")
_KINDS = ("S2MSI2A", "S02MSIL2A")
"""Types of products of level 2A, as SAFE and EOPF name them."""
_DATASTRIP = "stratacube:datastrip_start"


@dataclass(frozen=True)
class _Identity:
    """What an item says of itself beside its files."""

    id: str
    tile: str
    platform: str
    datatake_start: datetime
    baseline: str
    relative_orbit: int | None
    discriminator: datetime | None


OTHER_LEVEL = "is not of level 2A"


def products_from_items(
    items: Iterable[Mapping[str, Any]], access: Access = "https", lost: Mapping[int, str] | None = None
) -> tuple[list[Product], list[Dropped]]:
    """Read items as products; those that cannot be read are returned with the reason and their place in the list.

    Parameters
    ----------
    items
        As an API gave them.
    access
        Which address of a file to take.
    lost
        By place, why a product that is known cannot be read.
    """
    products, refused = [], []
    for place, item in enumerate(items):
        try:
            if lost and place in lost:
                raise SourceError(lost[place])
            products.append(product_from_item(item, access))
        except SourceError as error:
            other = _is_of_other_level(item)
            reason = OTHER_LEVEL if other else str(error)
            refused.append(Dropped(_name(item) or f"item {place + 1}", reason, fault=not other, place=place))
    return products, refused


def _name(item: Any) -> str:
    name = item.get("id") if isinstance(item, Mapping) else None
    return name if isinstance(name, str) else ""


def _is_of_other_level(item: Any) -> bool:
    """Whether an item says that it is of another level; one that says nothing may be a damaged one of ours."""
    told = item.get("properties") if isinstance(item, Mapping) else None
    kind = (told.get("product:type") or told.get("s2:product_type")) if isinstance(told, Mapping) else None
    return "_MSIL1C_" in _name(item) or (isinstance(kind, str) and kind not in _KINDS)


def product_from_item(item: Mapping[str, Any], access: Access = "https") -> Product:
    """Read an item of level 2A.

    Parameters
    ----------
    item
        As an API gave it.
    access
        Which address of a file to take where there are several: ``https`` or ``s3``; ``local`` is as ``s3``, whose
        keys are also the paths of a mirror on disk.

    Raises
    ------
    SourceError
        If the item is not one of a level 2A product, or lacks what tells which.
    """
    wrong = f"item {_name(item) or 'without a name'} does not describe a Sentinel-2 L2A product"
    with guarded(wrong, "mend it, or leave it out"):
        try:
            return _product(item, access)
        except UsageError as error:
            raise SourceError(f"{wrong} ({error})") from error


def _product(item: Mapping[str, Any], access: Access) -> Product:
    if not isinstance(item, Mapping):
        raise TypeError(f"it is a {type(item).__name__}, not an object")
    properties, assets = item["properties"], item["assets"]
    told = _identity(item, properties)
    tile_grid(told.tile)
    files = arrays_listed(href_of(a, access) for a in assets.values()) | dict(_assets(assets, properties, access))
    product = Product(
        id=told.id,
        tile=told.tile,
        platform=told.platform,
        datatake_start=told.datatake_start,
        datastrip_start=_datastrip(properties),
        baseline=told.baseline,
        processing_time=_processing_time(properties, told),
        relative_orbit=told.relative_orbit,
        cloud_cover=number_of(properties.get("eo:cloud_cover")),
        sun_elevation=_sun(properties),
        bbox=footprint_bbox(item.get("geometry"), told.tile),
        geometry=item.get("geometry"),
        offset_applied=properties.get("earthsearch:boa_offset_applied") is True,
        assets=PackedAssets(files),
    )
    for key, asset in files.items():
        if asset.proj_code is not None and asset.shape is not None and asset.transform is not None:
            check_grid(f"{told.id}, {key}", told.tile, asset.proj_code, asset.shape, asset.transform)
    return product


def _identity(item: Mapping[str, Any], properties: Mapping[str, Any]) -> _Identity:
    """Tell which product an item is of: by the product's name where it is given, else by properties."""
    for candidate in (item["id"], properties.get("s2:product_uri"), properties.get("sentinel:product_id")):
        if isinstance(candidate, str):
            with suppress(SourceError):
                name = parse_product_name(candidate)
                start = _exact(properties, name)
                identifier = candidate.rstrip("/").rpartition("/")[2].removesuffix(".SAFE")
                return _Identity(
                    identifier, name.tile, name.platform, start, name.baseline, name.relative_orbit, name.discriminator
                )
    taken = parse_datatake(str(properties.get("eopf:datatake_id") or properties.get("s2:datatake_id") or ""))
    tile = normalise_tile(str(properties.get("grid:code") or properties.get("s2:mgrs_tile") or ""))
    kind = properties.get("product:type") or properties.get("s2:product_type")
    if taken is None or tile is None or kind not in _KINDS:
        raise ValueError("neither a product name of level 2A, nor product type S2MSI2A with datatake and tile")
    platform, start, baseline = taken
    if not _name(item):
        raise ValueError("it has no id")
    version = properties.get("processing:version") or properties.get("s2:processing_baseline")
    orbit = properties.get("sat:relative_orbit")
    return _Identity(
        item["id"],
        tile,
        platform,
        start,
        normalise_baseline(version) if version else baseline,
        None if orbit is None else int(orbit),
        None,
    )


def _exact(properties: Mapping[str, Any], name: ProductName) -> datetime:
    """Start of the datatake with its milliseconds, where the item's time is that and not the tile's own."""
    for key in ("datetime", "start_datetime"):
        if properties.get(key):
            time = parse_time(properties[key])
            if time.replace(microsecond=0) == name.sensing:
                return time
    return name.sensing


def _datastrip(properties: Mapping[str, Any]) -> datetime | None:
    if properties.get(_DATASTRIP):
        return parse_time(properties[_DATASTRIP])
    return parse_datastrip(str(properties.get("eopf:datastrip_id") or properties.get("s2:datastrip_id") or ""))


def _processing_time(properties: Mapping[str, Any], told: _Identity) -> datetime:
    for key in ("processing:datetime", "s2:generation_time"):
        if properties.get(key):
            return parse_time(properties[key])
    if told.discriminator is None:
        raise ValueError("no time of processing")
    return told.discriminator


def _sun(properties: Mapping[str, Any]) -> float | None:
    elevation, zenith = properties.get("view:sun_elevation"), properties.get("s2:mean_solar_zenith")
    found = elevation if elevation is not None or zenith is None else 90.0 - float(zenith)
    # below the horizon some processings write NaN
    return float(found) if found is not None and math.isfinite(float(found)) else None


def _assets(
    assets: Mapping[str, Mapping[str, Any]], properties: Mapping[str, Any], access: Access
) -> Iterable[tuple[str, Asset]]:
    for name, asset in assets.items():
        key = _key(name, asset)
        if key is not None:
            transform, shape = asset.get("proj:transform"), asset.get("proj:shape")
            yield (
                key,
                Asset(
                    href=href_of(asset, access),
                    size=_size(asset.get("file:size")),
                    checksum=read_checksum(asset.get("file:checksum")),
                    proj_code=_projection(asset) or (_projection(properties) if shape else None),
                    shape=(int(shape[0]), int(shape[1])) if shape else None,
                    transform=tuple(float(n) for n in transform[:6]) if transform else None,  # type: ignore[arg-type]
                ),
            )


def images_of(assets: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those assets of an item that are images of a band or of the scene classes."""
    keys = {name: _key(name, asset) or "" for name, asset in assets.items()}
    return [asset for name, asset in assets.items() if keys[name].startswith(("B", "SCL"))]


def _key(name: str, asset: Mapping[str, Any]) -> str | None:
    """CDSE's key of an asset of any API; None for what is neither a band nor metadata.

    Earth Search's ``-jp2`` twins are left out: its offset property speaks of the other ones.
    """
    metadata = name.replace("-", "_")
    if metadata in _METADATA:
        return metadata
    known = asset_key(name) or asset_key(asset["href"])
    if known is not None:
        return known
    band = _COMMON_NAMES.get(name, name.upper())
    if not _BANDS.fullmatch(band):
        return None
    transform = asset.get("proj:transform")
    pixel = transform[0] if transform else asset.get("gsd")
    return f"{band}_{int(pixel)}m" if pixel else None


def href_of(asset: Mapping[str, Any], access: Access) -> str:
    """Address of a file by one way of access, or the only one there is."""
    href = str(asset["href"])
    wanted = "https" if access == "https" else "s3"
    if not href.startswith(f"{wanted}://"):
        other = asset.get("alternate", {}).get(wanted, {}).get("href")
        href = str(other) if other else href
    reason = why_odd(href) if "://" in href else None if href.isprintable() else "has a control character"
    if reason is not None:
        raise ValueError(f"address {plain_url(href)} {reason}")
    # CDSE's own generator writes an empty node into some addresses of MTD_TL.xml.
    return href.replace("/Nodes()/", "/") if "://" in href else unquote(href)


def _size(value: Any) -> int | None:
    if value is None:
        return None
    if int(value) != value or value < 0:
        raise ValueError(f"file:size {value!r} is not a number of bytes")
    return int(value)


def _projection(fields: Mapping[str, Any]) -> str | None:
    if fields.get("proj:code"):
        return str(fields["proj:code"])
    return f"EPSG:{fields['proj:epsg']}" if fields.get("proj:epsg") else None


def number_of(value: Any) -> float | None:
    """Read a number that a catalogue gives as a number or as text; None for none.

    Raises
    ------
    ValueError
        If it is something else, or not finite.
    """
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a number")
    return number


def item_from_product(product: Product) -> dict[str, Any]:
    """Describe a product as an item from which :func:`product_from_item` reads the same product."""
    properties: dict[str, Any] = {
        "datetime": format_time(product.datatake_start),
        "platform": product.platform,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "product:type": "S2MSI2A",
        "grid:code": f"MGRS-{product.tile}",
        "processing:version": product.baseline,
        "processing:datetime": format_time(product.processing_time),
    }
    for name, value in (
        ("sat:relative_orbit", product.relative_orbit),
        ("eo:cloud_cover", product.cloud_cover),
        ("view:sun_elevation", product.sun_elevation),
        (_DATASTRIP, product.datastrip_start and format_time(product.datastrip_start)),
        ("earthsearch:boa_offset_applied", True if product.offset_applied else None),
    ):
        if value is not None:
            properties[name] = value
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
            "https://stac-extensions.github.io/file/v2.1.0/schema.json",
            "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
            "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
            "https://stac-extensions.github.io/view/v1.0.0/schema.json",
        ],
        "id": product.id,
        "geometry": product.geometry,
        "bbox": list(product.bbox),
        "properties": properties,
        "links": [],
        "assets": {key: asset_fields(asset) for key, asset in product.assets.items()},
    }


def asset_fields(asset: Asset) -> dict[str, Any]:
    """Describe a file as an item does."""
    fields = {
        "href": asset.href,
        "file:size": asset.size,
        "file:checksum": multihash(asset.checksum) if asset.checksum else None,
        "proj:code": asset.proj_code,
        "proj:shape": list(asset.shape) if asset.shape else None,
        "proj:transform": list(asset.transform) if asset.transform else None,
    }
    return {name: value for name, value in fields.items() if value is not None}
