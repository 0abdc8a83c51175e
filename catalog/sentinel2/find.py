"""Finding products, wherever they are listed: the first step of a build, kept whole so that it can be replayed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.sentinel2.convert import OTHER_LEVEL, Access, item_from_product, product_from_item, products_from_items
from catalog.sentinel2.destination import asks_cdse
from catalog.sentinel2.eopf import is_eopf, read_eopf
from catalog.sentinel2.eopf_tree import Read, read_plainly, with_arrays, with_trees
from catalog.sentinel2.items import Product
from catalog.sentinel2.lists import write_query_manifest
from catalog.sentinel2.names import CDSE_STAC
from catalog.sentinel2.odata import CDSE_ODATA, search_odata
from catalog.sentinel2.packed import PackedItems
from catalog.sentinel2.query import Query
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.saved import load_items, save_items
from catalog.sentinel2.search import COLLECTION, nothing_found, search_stac
from catalog.sentinel2.select import Dropped, Selection, counted, judge_unread, select_products
from catalog.sentinel2.signed import signed_again, unsigned, was_signed
from stratacube.addresses import plain_url
from stratacube.errors import SourceError, UsageError

__all__ = ["Found", "find_products", "find_safe", "look_again", "save_found"]


@dataclass(frozen=True)
class Found:
    """What a search gave."""

    selection: Selection
    """Products to use, and those dropped with the reasons."""
    all_products: tuple[Product, ...]
    """Also the dropped ones."""
    items: Sequence[Mapping[str, Any]]
    """All of them as STAC items, as they came: what is saved."""
    note: str = ""
    """What went otherwise than asked, in a sentence."""

    @property
    def products(self) -> tuple[Product, ...]:
        """Products to use."""
        return self.selection.products


def find_products(
    query: Query,
    *,
    items: Path | None = None,
    safe_dir: Path | None = None,
    stac_url: str = CDSE_STAC,
    collection: str = COLLECTION,
    odata_url: str = CDSE_ODATA,
    access: Access = "https",
    fresh: Callable[[], Iterable[Any]] | None = None,
    may_lack: bool = False,
    read: Read = read_plainly,
) -> Found:
    """Find the products that a query wants.

    Parameters
    ----------
    query
        What is wanted.
    items
        A saved search to take instead of asking anyone.
    safe_dir
        A folder of SAFE products to take instead.
    stac_url, collection
        STAC API to ask.
    odata_url
        Asked where CDSE's STAC API fails.
    access
        Which address of the files to take.
    fresh
        Where a saved search has lost the signatures of its addresses, the items that have them.
    may_lack
        Whether nothing found, or nothing of it wanted, is an answer too.
    read
        How the metadata of products is read of which an item has the address alone; by default with no credentials but
        CDSE's.

    Raises
    ------
    UsageError
        If the source given is not such a thing, nothing is found, or nothing of it is wanted; one sentence.
    SourceError
        If no source answers, or nothing is left because products cannot be read.
    """
    note, refused = "", list[Dropped]()
    if items is not None:
        listed: Sequence[Mapping[str, Any]] = load_items(items)
        if fresh is not None and was_signed(listed):
            listed = signed_again(listed, fresh())
        listed, lost = with_trees(listed, read, access)
        products, refused = products_from_items(listed, access, lost)
        where = str(items)
    elif safe_dir is not None:
        products, refused = find_safe(safe_dir)
        listed, where = PackedItems(map(item_from_product, products)), str(safe_dir)
    else:
        where = plain_url(stac_url)
        try:
            listed, lost = with_trees(search_stac(query, stac_url, collection), read, access)
            products, refused = products_from_items(listed, access, lost)
        except SourceError as error:
            if not asks_cdse(stac_url):
                raise
            where, note = odata_url, f"the STAC API failed ({error}); the OData catalogue was asked instead"
            try:
                products, refused = search_odata(query, odata_url, access=access)
            except SourceError as second:
                raise SourceError(f"{error}; nor did the OData catalogue help: {second}") from second
            listed = PackedItems(map(item_from_product, products))
    if not products and not refused and not may_lack:
        raise nothing_found(query, where)
    return _selected(query, where, products, refused, listed, note, may_lack=may_lack)


def _selected(
    query: Query,
    where: str,
    products: Sequence[Product],
    refused: Sequence[Dropped],
    items: Sequence[Mapping[str, Any]],
    note: str,
    *,
    may_lack: bool,
) -> Found:
    chosen = select_products(products, query)
    selection = Selection(chosen.products, (*judge_unread(refused, query), *chosen.dropped))
    if not selection.products and not may_lack:
        told = f"none of {len(selection.dropped)} products in {where} is wanted: {counted(selection.dropped)}"
        if any(d.fault for d in selection.dropped):
            raise SourceError(f"{told}; mend those that cannot be read, or widen the filters or the period")
        raise UsageError(f"{told}; widen the filters or the period")
    return Found(selection, tuple(products), items, note)


def find_safe(folder: Path) -> tuple[list[Product], list[Dropped]]:
    """Read all products below a folder, SAFE and EOPF's Zarr, at any depth.

    One that cannot be understood is dropped with the reason.

    Raises
    ------
    UsageError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; give the folder of SAFE products as `safe_dir`")
    products: list[Product] = []
    dropped: list[Dropped] = []
    for safe in _safe_folders(folder):
        name = safe.name.removesuffix(".SAFE").removesuffix(".zarr")
        try:
            products.append(read_folder(safe))
        except SourceError as error:
            other = "_MSIL1C_" in name
            dropped.append(Dropped(name, OTHER_LEVEL if other else str(error), fault=not other, href=str(safe)))
    return products, dropped


def look_again(
    unread: Sequence[Dropped], query: Query, items: Path | None, access: Access, read: Read = read_plainly
) -> Found:
    """Try once more to read what could not be read when it was found: it may have been mended since.

    Parameters
    ----------
    unread
        What could not be read: SAFE folders by their ``href``, items by their ``place`` in the list.
    query
        What is wanted.
    items
        The list of items.
    access
        Which address of the files to take.
    read
        How the metadata of products is read, as of :func:`find_products`.

    Returns
    -------
    Found
        What can be read now; the rest is dropped.
    """
    listed = load_items(items) if items is not None and items.is_file() and unread else ()
    products: list[Product] = []
    dropped: list[Dropped] = []
    for one in unread:
        try:
            if one.href:
                products.append(read_folder(Path(one.href)))
            elif 0 <= one.place < len(listed):
                products.append(product_from_item(with_arrays(listed[one.place], read, access), access))
            else:
                dropped.append(one)
        except SourceError as error:
            dropped.append(replace(one, reason=str(error)))
    return Found(Selection(tuple(products), tuple(judge_unread(dropped, query))), tuple(products), ())


def read_folder(folder: Path) -> Product:
    """Describe the product in a folder, SAFE or EOPF's Zarr."""
    return read_eopf(folder) if is_eopf(folder) else read_safe(folder)


def _safe_folders(folder: Path) -> Iterator[Path]:
    """Folders of products in the order of their paths; folders linked twice or to themselves are entered once."""
    entered: set[tuple[int, int]] = set()
    for root, folders, _ in os.walk(folder, onerror=_unreadable, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        if root.endswith(".SAFE") or is_eopf(Path(root)):
            folders.clear()
            yield Path(root)


def _unreadable(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error


def save_found(found: Found, indices: Path, *, geoparquet: bool = False, queried: datetime | None = None) -> Path:
    """Save a search: ``items.json`` (and ``items.parquet``) to replay it, ``query_manifest.csv`` to read it.

    ``items.json`` comes last: where it is, the others are. Addresses are saved without their signatures, which are
    passwords and run out.

    Parameters
    ----------
    found
        The search.
    indices
        Folder of the lists.
    geoparquet
        Write the table too.
    queried
        When it was made, UTC; now by default.

    Returns
    -------
    Path
        The item collection.
    """
    used = (p.id for p in found.products)
    manifest = indices / "query_manifest.csv"
    write_query_manifest(manifest, found.all_products, used, found.selection.dropped, queried, found.items)
    if geoparquet:
        save_items(indices / "items.parquet", PackedItems(map(unsigned, found.items)))
    path = indices / "items.json"
    save_items(path, map(unsigned, found.items))
    return path
