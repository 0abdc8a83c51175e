"""The pages: one over all items, and one of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from catalog.browse.maps import map_of, time_of
from catalog.browse.records import Asked, Record, Shelf
from stratacube.page import (
    Block,
    Code,
    Facts,
    Page,
    Section,
    Shown,
    Table,
    as_html,
    columns,
    html_of,
)
from stratacube.page.blocks import broken
from stratacube.page.picture import element

__all__ = ["POLICY", "index_page", "item_page", "picture_of"]

POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "form-action 'self'; base-uri 'none'"
)
_AT_ONCE = 48
_MOST_COLUMNS = 62
_FROM = "derived_from"
_TILE = 'import stratacube\n\ntiles = stratacube.open_tiles("{path}")\ntile = stratacube.one_tile(tiles, {index})'
_XARRAY = 'import xarray as xr\n\ndata = xr.open_zarr("{path}")'
_IMAGE = 'import rioxarray\n\nimage = rioxarray.open_rasterio("{path}", masked=True)'
_PLAIN = (str, int, float, bool)


def index_page(shelf: Shelf, asked: Asked, page: int) -> str:
    """Return the page over all items that are asked for."""
    found = shelf.asked(asked)
    last = max(0, (len(found) - 1) // _AT_ONCE)
    page = min(max(page, 0), last)
    shown = found[page * _AT_ONCE : (page + 1) * _AT_ONCE]
    where = map_of(found, f"Map of {len(found)} items", linked=True)
    sections = [
        Section("Where", [Shown(where, "A click leads to the item; below, all are listed.")]),
        Section("When", [*_when(found, asked)]),
    ]
    head = element("h2", "Items", id="items-title")
    inside = head + _pager(asked, page, last) + _gallery(shown)
    gallery = element("section", inside, id="items", aria_labelledby="items-title")
    title = next(iter(shelf.roots)) if len(shelf.roots) == 1 else f"{len(shelf.roots)} catalogs"
    facts = [
        ("Items", f"{len(found):,}", f"of {len(shelf.records):,}"),
        ("Strata", str(len({r.stratum for r in found if r.stratum}) or "none"), ""),
        ("First", found[0].start[:10] if found else "none", found[0].start[11:16] if found else ""),
        ("Last", found[-1].start[:10] if found else "none", found[-1].start[11:16] if found else ""),
    ]
    own = {"extra": _filters(shelf, asked), "after": gallery}
    return html_of(Page(title, "Catalog", [Facts(facts)], sections, **own, policy=POLICY, more=(("Items", "#items"),)))


def _when(found: Sequence[Record], asked: Asked) -> Iterator[Block]:
    """Items by day, or by month or year of longer periods; each column leads to its own."""
    periods = Counter(record.days for record in found if record.start)
    if not periods:
        yield "No item tells its time."
        return
    lengths = ((n, _counted(periods, n)) for n in (10, 7, 4))
    length, counts = next((n, counts) for n, counts in lengths if n == 4 or len(counts) <= _MOST_COLUMNS)
    ends = {10: "", 7: "-31", 4: "-12-31"}[length]
    starts = {10: "", 7: "-01", 4: "-01-01"}[length]
    rows = [
        (name, count, _address(replace(asked, since=name + starts, until=name + ends)))
        for name, count in sorted(counts.items())
    ]
    unit = {10: "day", 7: "month", 4: "year"}[length]
    yield Shown(columns(rows, alt=f"Items by {unit}"), f"Items by {unit}; a click shows those of one.")


def _counted(periods: Mapping[tuple[str, str], int], length: int) -> Counter[str]:
    """How many items there are of each day, month or year; one of a long period is of each that it reaches into."""
    counts: Counter[str] = Counter()
    for (first, last), items in periods.items():
        names = {first[:length], last[:length]}
        if first[:length] < last[:length]:
            names = {str(day)[:length] for day in np.arange(first, np.datetime64(last) + 1, dtype="M8[D]")}
        counts.update(dict.fromkeys(names, items))
    return counts


def _address(asked: Asked, page: int = 0) -> str:
    values = {name: value for name, value in asdict(asked).items() if value}
    return "/?" + urlencode(values | ({"page": page} if page else {}))


def _filters(shelf: Shelf, asked: Asked) -> str:
    choices = {
        "catalog": sorted(shelf.roots),
        "stratum": sorted({r.stratum for r in shelf.records} - {""}),
        "split": sorted({r.split for r in shelf.records} - {""}),
    }
    fields = [
        _field(name, _select(name, options, getattr(asked, name)))
        for name, options in choices.items()
        if len(options) > (name == "catalog")
    ]
    for name, kind in (("since", "date"), ("until", "date"), ("name", "search")):
        given = element("input", name=name, id=name, type=kind, value=getattr(asked, name) or None)
        fields.append(_field(name, given))
    buttons = element("button", "Show", type="submit", class_="main") + element("a", "All items", href="/")
    return element(
        "form", *fields, element("div", buttons, class_="buttons"), class_="filter", action="/", role="search"
    )


def _field(name: str, inside: str) -> str:
    words = {"name": "Name or cell", "since": "From", "until": "To"}.get(name, name.capitalize())
    return element("div", element("label", words, for_=name), inside)


def _select(name: str, options: Sequence[str], chosen: str) -> str:
    told = [element("option", "all", value="")]
    told += [element("option", escape(o), value=o, selected="selected" if o == chosen else None) for o in options]
    return element("select", *told, name=name, id=name)


def _gallery(shown: Sequence[Record]) -> str:
    if not shown:
        return as_html(["No item is as asked for."])
    cards = []
    for record in shown:
        picture = element("img", src=f"/preview/{record.key}", alt="", loading="lazy", width=176, height=176)
        told = escape(" · ".join(filter(None, (record.stratum, record.split, time_of(record)))))
        caption = element("figcaption", element("b", broken(record.id)), "\n", told)
        cards.append(element("a", element("figure", picture, caption), href=f"/item/{record.key}"))
    return element("div", *cards, class_="gallery")


def _pager(asked: Asked, page: int, last: int) -> str:
    if not last:
        return ""
    parts = [element("a", "Previous", href=_address(asked, page - 1), rel="prev")] if page else []
    parts.append(element("span", f"Page {page + 1} of {last + 1}"))
    parts += [element("a", "Next", href=_address(asked, page + 1), rel="next")] if page < last else []
    return element("nav", *parts, class_="pager", aria_label="Pages")


def item_page(shelf: Shelf, record: Record) -> str:
    """Return the page of one item: what it holds, its previews, its sources, and code that opens it."""
    item = shelf.item(record)
    properties = [(name, _told(v)) for name, v in sorted(item["properties"].items()) if v is not None]
    sources = [(link.get("title") or link["href"],) for link in item.get("links", ()) if link.get("rel") == _FROM]
    sections = [
        Section("Where", [Shown(map_of([record], f"Map of {record.id}"))]),
        Section("Properties", [Table(["Property", "Value"], properties)]),
        Section("Assets", [Table(["Asset", "What", "Where"], [*_assets(shelf, record, item["assets"])])]),
        Section("Sources", [Table(["Source"], sources) if sources else "None told."]),
        Section("How to open", [Code(text) for text in _snippets(shelf, record, item["assets"])]),
    ]
    picture = element("img", src=f"/preview/{record.key}", alt=f"Preview of {record.id}", class_="preview")
    extra = element("p", element("a", "All items", href="/")) + picture
    told = (("Stratum", record.stratum), ("Split", record.split), ("Time", time_of(record)))
    facts = Facts([(name, value, "") for name, value in told if value])
    return html_of(Page(record.id, record.catalog, [facts], sections, extra=extra, policy=POLICY))


def _told(value: Any) -> str:
    if isinstance(value, _PLAIN):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_told(v)}" for k, v in value.items())
    if isinstance(value, Sequence):
        return " ".join(map(_told, value))
    return str(value)


def _assets(shelf: Shelf, record: Record, assets: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, asset in assets.items():
        path = shelf.file(record, asset["href"])
        where = asset["href"] if path is None else shelf.within(record, path).as_posix()
        yield name, asset.get("title") or asset.get("type") or "", where


def _snippets(shelf: Shelf, record: Record, assets: Mapping[str, Any]) -> Iterator[str]:
    """Code for what the item has: a tile of a store, images, or an array on a lattice; from where the page runs."""

    def named(path: Path) -> Path:
        return shelf.named[record.catalog] / shelf.within(record, path)

    for asset in assets.values():
        path = shelf.file(record, asset["href"])
        kind, index = str(asset.get("type", "")), asset.get("stratacube:tile_index")
        if path is not None and index is not None:
            yield _TILE.format(path=_quoted(named(path)), index=index)
            yield _XARRAY.format(path=_quoted(named(path))) + f".isel(tile={index})"
        elif path is not None and "vnd.zarr" in kind:
            yield _XARRAY.format(path=_quoted(named(path)))
    image = next((a for a in assets.values() if "geotiff" in str(a.get("type", ""))), None)
    path = None if image is None else shelf.file(record, image["href"])
    if path is not None:
        yield _IMAGE.format(path=_quoted(named(path)))


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')


def picture_of(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """Address and media type of an item's picture, of a kind that browsers show."""
    shown = (a for a in item["assets"].values() if "thumbnail" in a.get("roles", ()))
    return next(((str(a["href"]), a["type"]) for a in shown if a.get("type") in ("image/png", "image/jpeg")), None)
