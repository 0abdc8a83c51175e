"""Items in one table, stac-geoparquet: columns gathered as the items come, rows written in batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from posixpath import join, normpath
from typing import Any

import pyarrow as pa

from catalog.publish.values import relative

__all__ = ["ItemModel", "seen_from", "write_index"]

_BATCH = 4096
"""Items held at once."""
_NOWHERE: dict[str, Any] = {"geometry": {"type": "Polygon", "coordinates": []}, "bbox": [float("nan")] * 4}
"""Where an item without a place lies: stac-geoparquet's library neither writes nor reads a geometry that is null, and
RFC 7946, 3.1, takes one without coordinates for null. The library makes of it what is here."""


def seen_from(item: dict[str, Any], folder: str, table: str) -> dict[str, Any]:
    """Return an item with addresses that hold from the folder of a table; both folders relative to the output's."""
    if folder == table:
        return item

    def moved(holder: dict[str, Any]) -> dict[str, Any]:
        href = holder["href"]
        own = "://" not in href and not href.startswith("/")
        return {**holder, "href": relative(normpath(join(folder, href)), table or ".")} if own else holder

    assets = {name: moved(asset) for name, asset in item["assets"].items()}
    return {**item, "links": [*map(moved, item["links"])], "assets": assets}


class ItemModel:
    """An item with every field that any has, from which each batch gets the same columns."""

    def __init__(self) -> None:
        self.item: dict[str, Any] = {}
        self.count = 0
        self._seen: set[tuple[Any, ...]] = set()

    def add(self, item: dict[str, Any]) -> None:
        """Take an item into account."""
        self.count += 1
        form = (
            tuple((name, _empty(value)) for name, value in item["properties"].items()),
            tuple((name, tuple(asset)) for name, asset in item["assets"].items()),
        )
        if form not in self._seen:
            self._seen.add(form)
            self.item = _joined(self.item, _placed(item))

    def batch(self, items: Iterable[dict[str, Any]]) -> pa.RecordBatch:
        """Return items as rows."""
        # The library brings geopandas: a second that only this format should pay.
        from stac_geoparquet.arrow import parse_stac_items_to_arrow  # noqa: PLC0415

        (batch,) = parse_stac_items_to_arrow([self.item, *map(_placed, items)])
        return batch.slice(1)


def _empty(value: Any) -> bool:
    """Whether a value does not tell its kind."""
    return value is None or (isinstance(value, list) and all(one is None for one in value))


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Fields of both; of a field that both have, the value that tells its kind."""
    both = {**other, **one}
    for name in one.keys() & other.keys():
        if isinstance(one[name], dict) and isinstance(other[name], dict):
            both[name] = _joined(one[name], other[name])
        elif _empty(one[name]):
            both[name] = other[name]
    return both


def _placed(item: dict[str, Any]) -> dict[str, Any]:
    return item if item["geometry"] is not None else item | _NOWHERE


def write_index(lines: Path, path: Path, collection: dict[str, Any] | None, model: ItemModel) -> None:
    """Write items as a stac-geoparquet table.

    Parameters
    ----------
    lines : Path
        The items, one JSON text a line; read in batches, so that memory does not grow with their number.
    path : Path
        The Parquet file.
    collection : dict, optional
        The collection they are of, kept in the file's metadata; None where they are of none.
    model : ItemModel
        It was given all of them.

    References
    ----------
    https://github.com/radiantearth/stac-geoparquet-spec
    """
    from stac_geoparquet.arrow import to_parquet  # noqa: PLC0415  (as above)

    def batches() -> Iterator[pa.RecordBatch]:
        with lines.open(encoding="utf-8") as file:
            while rows := [json.loads(line) for line in islice(file, _BATCH)]:
                yield model.batch(rows)

    waiting = batches()
    first = next(waiting)
    reader = pa.RecordBatchReader.from_batches(first.schema, chain([first], waiting))
    known = None if collection is None else {collection["id"]: collection}
    to_parquet(reader, path, collections=known, compression="zstd")
