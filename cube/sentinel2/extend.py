"""Products of the time that a later end adds to a build: found, and put behind those that are known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from catalog.sentinel2.find import Found, find_products
from catalog.sentinel2.items import Product
from catalog.sentinel2.packed import PackedItems
from catalog.sentinel2.saved import load_items, save_items
from catalog.sentinel2.select import Dropped, judge_unread, select_products
from catalog.sentinel2.signed import unsigned
from cube.job.run import Run
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.extension import note_searched
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import Cell
from cube.sentinel2.supply import find, query_of, reading, write_lists, write_unread
from stratacube.choices import many

__all__ = ["extend", "find_more", "products_of"]


def find_more(config: Sentinel2Config, folder: Sentinel2Folder, cells: Sequence[Cell], since: datetime) -> Found:
    """Find the products of the time that was added, and return them behind those that are known.

    What is known of the time before stays as it is, whatever else can be found of it by now.

    Parameters
    ----------
    config
        The build, with its later end.
    folder
        Its folder, with the list of what is known.
    cells
        Its cells.
    since
        The end until which products are known.

    Raises
    ------
    SourceError
        If nothing answers.
    UsageError
        If a folder or a saved search is no such thing, or the list of what is known cannot be read.
    """
    query = query_of(config, cells)
    later = replace(query, start=since)
    listed = config.items is not None or config.safe_dir is not None
    found = find_products(
        query if listed else later,  # of a list, what could not be read before is told by its place in it
        items=config.items,
        safe_dir=config.safe_dir,
        stac_url=config.stac_url,
        access=config.access,
        may_lack=True,
        read=reading(config),
    )
    known = load_items(folder.items)
    names = {_name(item) for item in known}
    before = {p.id for p in found.all_products if p.datatake_start < since}
    new = [item for item in found.items if _name(item) not in names and _name(item) not in before]
    unread = [Dropped(**fields) for fields in json.loads(folder.unread.read_text())] if folder.unread.exists() else []
    faults = [d for d in found.selection.dropped if d.fault]
    old = {d.id for d in unread}
    told = {d.id: d for d in [*unread, *(d for d in faults if d.id in old or judge_unread([d], later)[0].fault)]}
    all_items = PackedItems(map(unsigned, [*known, *new]))
    products = [p for p in found.all_products if p.datatake_start >= since]
    there = find_products(query, items=folder.items, access=config.access, may_lack=True)
    chosen = select_products([*there.all_products, *products], query)
    dropped = (*told.values(), *chosen.dropped)
    return Found(replace(chosen, dropped=dropped), (*there.all_products, *products), all_items, found.note)


def products_of(
    config: Sentinel2Config, folder: Sentinel2Folder, cells: Sequence[Cell], given: Sequence[Product] | None = None
) -> tuple[Product, ...]:
    """Find what a run of a build would use, also where it would find more first; nothing is written.

    Parameters
    ----------
    config
        Of a dry run.
    folder, cells
        Of the build.
    given
        Products to choose from instead of a search.
    """
    if given is None and folder.items.exists() and folder.config.exists():
        since = folder.known_until()
        if since < config.end:
            return find_more(config, folder, cells, since).products
    return find(config, folder, cells, given).products


def _name(item: Any) -> str:
    return str(item.get("id")) if isinstance(item, Mapping) else ""


def extend(run: Run, config: Sentinel2Config, folder: Sentinel2Folder, cells: Sequence[Cell], since: datetime) -> None:
    """Search the time that was added, and keep what is found with what is known.

    Killed on the way, it is done once more from its beginning: what is listed already is not listed twice.
    """
    more = find_more(config, folder, cells, since)
    if more.note:
        run.say("%s", more.note)
    number = sum(p.datatake_start >= since for p in more.products)
    faults = [d for d in more.selection.dropped if d.fault]
    run.keep("find", lambda: save_items(folder.items, more.items), lambda: [folder.items], anew=True)
    run.keep("unread", lambda: write_unread(config, folder, cells, faults), lambda: [folder.unread], anew=True)
    run.keep(
        "lists",
        lambda: write_lists(config, folder, cells, None),
        lambda: [p for p in (folder.manifest, folder.left_out) if p.exists()],
        anew=True,
    )
    note_searched(run.ledger, config.end)
    run.say("the build's end is %s now, not %s: %s more", config.end, since, many(number, "product"))
