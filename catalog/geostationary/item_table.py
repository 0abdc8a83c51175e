"""STAC items in one stac-geoparquet table, read a row group at a time and only as far as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.publish.geoparquet import ItemModel
from stratacube.errors import UsageError
from stratacube.files import whole_file
from stratacube.guard import guarded
from stratacube.times import format_time, naive_utc

__all__ = ["AGAIN", "ItemTable", "is_table", "write_table"]

AGAIN = "remove it to list the archive again"
"""The remedy for a list that cannot be read."""
_ROW_GROUP = 512
"""Items that lie together, and are held at once while they are written. One that is asked for costs reading them all,
but each group adds a description of every column to the end of the file: of 180 columns, some 15 kB."""
_KEPT = 4
"""Row groups held while items are asked for: the moments around one lie in one group, or in two."""
_LINK = {"rel": "", "href": ""}
_FIXED = {"type", "stac_version", "stac_extensions", "id", "geometry", "bbox", "links", "assets", "collection"}
"""Columns that are not properties."""


def is_table(path: Path) -> bool:
    """Whether a file is named as a table of items."""
    return path.suffix == ".parquet"


def write_table(path: Path, items: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """Write items as stac-geoparquet, whole or not at all.

    Parameters
    ----------
    path
        The file.
    items
        Gives the items, twice the same: for the columns and for the rows. They are taken one by one, and memory does
        not grow with their number. One whose geometry is null gets an empty polygon, and a box of NaN.

    Raises
    ------
    UsageError
        If there are none.

    References
    ----------
    https://github.com/radiantearth/stac-geoparquet-spec
    """
    # The library brings geopandas: a second that only this format should pay.
    from stac_geoparquet.arrow import to_parquet  # noqa: PLC0415

    model = ItemModel()
    for item in items():
        model.add(item)
    if not model.count:
        raise UsageError("GeoParquet cannot hold no item at all; list more of the archive")
    model.item |= {"links": [_LINK]}
    schema = model.batch([]).schema
    rows = iter(items())
    batches = iter(lambda: list(islice(rows, _ROW_GROUP)), [])
    written = 0

    def converted() -> Iterator[pa.RecordBatch]:
        nonlocal written
        for batch in batches:
            written += len(batch)
            yield model.batch(batch)

    with whole_file(path) as part:
        # Bounds of columns serve those who look for a time or an id; of 16 addresses a row they would double the end.
        bounded = [field.name for field in schema if field.name not in _FIXED - {"id"}]
        reader = pa.RecordBatchReader.from_batches(schema, converted())
        to_parquet(reader, part, compression="zstd", write_statistics=bounded, write_page_checksum=True)
        if written != model.count:
            raise UsageError(
                f"{model.count} items were to be written to {path}, and {written} came; give them in a list, "
                "not as what can be gone through once"
            )


class ItemTable:
    """Items of a stac-geoparquet table, of each the part that is asked for.

    The file is open only while it is read. What is held is the place of each item and a few row groups.

    Parameters
    ----------
    path
        The file.
    properties, fields
        Names of the properties and of the fields of assets to read. All assets have the first field; one where it is
        null is not of the item.

    Raises
    ------
    SourceError
        If the file cannot be read, or is not such a table.
    """

    def __init__(self, path: Path, properties: Sequence[str], fields: Sequence[str]) -> None:
        self.path = path
        self._fields = fields
        with self._guarded():
            self._metadata = pq.read_metadata(path)
            schema = self._metadata.schema.to_arrow_schema()
            self._properties = [name for name in properties if name in schema.names]
            assets = schema.field("assets").type
            named = {a.name: [field.name for field in a.type] for a in assets}
            self._assets = {asset: [f for f in fields if f in names] for asset, names in named.items()}
            if less := [asset for asset, read in self._assets.items() if fields[0] not in read]:
                raise ValueError(f"its assets {less[0]} have no field {fields[0]}")
            self.places = {
                name: (group, row)
                for group in range(self._metadata.num_row_groups)
                for row, name in enumerate(self._read(group, ["id"])["id"].to_pylist())
            }
            """By id: row group, and row in it."""
        self._group = lru_cache(_KEPT)(self._read_group)

    def _guarded(self) -> AbstractContextManager[None]:
        return guarded(f"{self.path} is not a stac-geoparquet table", AGAIN)

    def _read(self, group: int, columns: list[str]) -> pa.Table:
        # In this thread alone, and not ahead: see stratacube.parquet.
        with pq.ParquetFile(
            self.path, metadata=self._metadata, pre_buffer=False, page_checksum_verification=True
        ) as file:
            return file.read_row_group(group, columns=columns, use_threads=False)

    def _read_group(self, group: int) -> tuple[dict[str, pa.Array], dict[str, dict[str, pa.Array]]]:
        """Columns of properties, and of the fields of each asset."""
        leaves = [f"assets.{asset}.{field}" for asset, fields in self._assets.items() for field in fields]
        table = self._read(group, ["id", *self._properties, *leaves])
        assets = table["assets"].combine_chunks()
        return (
            {name: table[name].combine_chunks() for name in ("id", *self._properties)},
            {name: {f: assets.field(name).field(f) for f in fields} for name, fields in self._assets.items()},
        )

    def item(self, place: tuple[int, int]) -> dict[str, Any]:
        """Return what was asked for of an item.

        Parameters
        ----------
        place
            One of ``places``.

        Raises
        ------
        SourceError
            If the file is damaged there.
        """
        group, row = place
        with self._guarded():
            return self._item(*self._group(group), lambda column: column[row].as_py())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield what was asked for of every item, in the order of the file."""
        for group in range(self._metadata.num_row_groups):
            with self._guarded():
                own, assets = self._read_group(group)
                listed = {name: column.to_pylist() for name, column in own.items()}
                lists = {a: {name: column.to_pylist() for name, column in f.items()} for a, f in assets.items()}
                items = [self._item(listed, lists, itemgetter(row)) for row in range(len(listed["id"]))]
            yield from items

    def _item(
        self, own: Mapping[str, Any], assets: Mapping[str, Mapping[str, Any]], picked: Callable[[Any], Any]
    ) -> dict[str, Any]:
        """Make an item of its place in every column."""
        properties = {name: _plain(picked(own[name])) for name in self._properties}
        found = {name: {field: picked(column) for field, column in f.items()} for name, f in assets.items()}
        return {
            "id": picked(own["id"]),
            "properties": {name: value for name, value in properties.items() if value is not None},
            "assets": {name: asset for name, asset in found.items() if asset.get(self._fields[0]) is not None},
        }


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return format_time(naive_utc(value), "shortest") if hasattr(value, "tzinfo") else value
