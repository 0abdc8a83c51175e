"""Items of the source scans, each in a file of its own so that a link to it opens."""

from __future__ import annotations

import copy
import posixpath
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from catalog.publish import vocabulary as voc
from catalog.publish.values import relative

__all__ = ["SOURCES", "source_end", "source_href", "source_item"]

SOURCES = "sources"
"""The folder of the items, relative to the output folder."""

Source = Mapping[str, Any] | str
"""The item of a scan, or the address of one."""


def source_href(scan: str, source: Source) -> str:
    """Address of a source's item, absolute or relative to the output folder."""
    return source if isinstance(source, str) else f"{SOURCES}/{scan}.json"


def source_end(source: Source | None) -> pd.Timestamp | None:
    """Naive UTC time at which a scan ended; None where only its address is known."""
    if not isinstance(source, Mapping):
        return None
    end = source["properties"].get("end_datetime") or source["properties"].get("datetime")
    return pd.Timestamp(end).tz_localize(None) if end else None


def source_item(source: Mapping[str, Any], public: Callable[[str], str | None] = lambda name: None) -> dict[str, Any]:
    """Return the item of a scan as it stands on its own, out of its item collection.

    Its relative addresses are taken as relative to the output folder. Files of an archive on this machine are told by
    where the agency has them; of those that it is not known to have, none is told.
    """
    item = copy.deepcopy(dict(source))
    structural = ("self", "root", "parent", "collection")
    links = [link for link in item.get("links", []) if link["rel"] not in structural]
    assets = item.get("assets", {})
    for name, asset in [*assets.items()]:
        if _is_local(asset["href"]):
            asset["href"] = public(posixpath.basename(asset["href"]))
        if asset["href"] is None:
            del assets[name]
    for holder in (*links, *assets.values()):
        holder["href"] = _moved(holder["href"])
    item["links"] = [{"rel": "root", "href": "../catalog.json", "type": voc.JSON_TYPE}, *links]
    item.pop("collection", None)  # it names a collection of the archive, which is not part of this catalogue
    return item


def _is_local(href: str) -> bool:
    return href.startswith(("/", "file:"))


def _moved(href: str) -> str:
    """Address from the folder of sources; a URL's or an absolute path's stays."""
    if "://" in href or href.startswith("/"):
        return href
    return relative(posixpath.normpath(href), SOURCES)
