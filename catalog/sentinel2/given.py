"""Products, by whatever a user has of them: folders, files, STAC documents and objects, alone or in lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from catalog.locate import Document, document_of, items_of, place_of
from catalog.sentinel2.convert import product_from_item
from catalog.sentinel2.eopf_tree import open_reader, with_arrays
from catalog.sentinel2.find import find_safe
from catalog.sentinel2.items import Product
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.saved import load_items
from stratacube.addresses import plain_url
from stratacube.errors import SourceError, UsageError

__all__ = ["given_products"]

_WANTED = "give STAC items, the path of a saved search, or folders of products"
_TABLES = (".parquet", ".geoparquet")


def given_products(source: Any, options: Mapping[str, Any] | None = None) -> list[Product]:
    """Read all products that something stands for.

    Parameters
    ----------
    source
        A product, a SAFE folder, a folder of them, a saved search, a STAC item, item collection, collection or catalog
        (path, URL, content or object of pystac), a search of pystac-client, or a list of any of these.
    options
        For fsspec, where documents lie on S3 or in the web.

    Raises
    ------
    UsageError
        If it is none of these.
    SourceError
        If a product cannot be read.
    """
    products = [*_products(source, dict(options or {}))]
    if not products:
        raise UsageError(f"no items are given; {_WANTED}")
    return products


def _products(source: Any, options: Mapping[str, Any]) -> Iterator[Product]:
    if isinstance(source, Product):
        yield source
        return
    place = place_of(source)
    if place is not None and not place.partition("?")[0].endswith((".json", ".geojson")):
        yield from _lying(place)
    elif callable(getattr(source, "item_collection", None)):  # a search that pystac-client has not yet asked
        yield from _products(source.item_collection(), options)
    elif place is not None or isinstance(source, Mapping) or hasattr(source, "to_dict"):
        yield from _described(source, options)
    elif isinstance(source, Iterable):
        for one in source:
            yield from _products(one, options)
    else:
        raise UsageError(f"`items` is a {type(source).__name__}; {_WANTED}")


def _lying(place: str) -> Iterator[Product]:
    """Products of a folder or of a table of items."""
    if "://" in place:
        raise UsageError(
            f"{plain_url(place)} is not a STAC document; give the address of an item, or a SAFE folder on disk"
        )
    folder = Path(place)
    if folder.suffix in _TABLES:
        yield from (product_from_item(item) for item in load_items(folder))
    elif not folder.is_dir():
        raise UsageError(f"there is no {folder}; {_WANTED}")
    elif folder.name.endswith(".SAFE") or any(folder.glob("MTD_MSI*.xml")):
        yield read_safe(folder)
    else:
        products, dropped = find_safe(folder)
        for fault in (d for d in dropped if d.fault):
            raise SourceError(f"{fault.href or fault.id}: {fault.reason}")
        if not products:
            raise UsageError(
                f"{folder} holds no product of level 2A; give SAFE or EOPF Zarr folders, or a saved search"
            )
        yield from products


def _described(source: Any, options: Mapping[str, Any]) -> Iterator[Product]:
    document = document_of(source, options)
    assert document is not None
    found = [*items_of(document, options)]
    if not found:
        raise UsageError(f"{document.name} has no items; give some, or the catalog they are in")
    for item in found:
        yield product_from_item(with_arrays(_whole(item), open_reader(options)))


def _whole(item: Document) -> Mapping[str, Any]:
    """Item with addresses that hold from anywhere; of one that does not tell where it lies, as they are."""
    if item.place is None or not isinstance(item.body.get("assets"), Mapping):
        return item.body
    moved = {
        name: {**asset, "href": item.absolute(asset["href"])}
        if isinstance(asset, Mapping) and "href" in asset
        else asset
        for name, asset in item.body["assets"].items()
    }
    return {**item.body, "assets": moved}
