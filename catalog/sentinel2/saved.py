"""Searches kept on disk, to replay: item collections, as JSON or GeoParquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from catalog.sentinel2.packed import PackedItems, item_text
from stratacube.errors import SourceError, StratacubeError, UsageError
from stratacube.files import PART, whole_file

__all__ = ["load_items", "save_items", "whole_list"]

_HEAD = '{"type":"FeatureCollection","features":['
_TAIL = "]}"
_PARQUET = (".parquet", ".geoparquet")


def save_items(path: Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write items whole or not at all: GeoParquet if the name ends so, else a STAC ItemCollection, one item a line.

    Raises
    ------
    UsageError
        If GeoParquet is to hold no item.
    SourceError
        If the file cannot be written.
    """
    with whole_list(path) as part:
        if path.suffix in _PARQUET:
            if not _write_parquet(part, items):
                raise UsageError(f"{path.name}: GeoParquet cannot hold no item at all")
        else:
            with part.open("w", encoding="utf-8") as file:
                file.write(_HEAD)
                for i, item in enumerate(items):
                    file.write((",\n" if i else "\n") + item_text(item))
                file.write(f"\n{_TAIL}\n")


@contextmanager
def whole_list(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all; say in one sentence where that fails."""
    try:
        with whole_file(path) as part:
            yield part
    except StratacubeError:
        raise
    except OSError as error:
        raise SourceError(
            f"{path} cannot be written ({error.strerror or error}); mend that and run the same command again"
        ) from error


def _write_parquet(path: Path, items: Iterable[Mapping[str, Any]]) -> bool:
    """Write a table by way of a file with an item a line, which is read in batches; of no item none: then False."""
    # The library brings geopandas: seconds that only this format should pay.
    from stac_geoparquet.arrow import parse_stac_ndjson_to_parquet  # noqa: PLC0415

    lines = path.with_name(f"{path.stem}.lines{PART}")
    try:
        with lines.open("w", encoding="utf-8") as file:
            file.writelines(item_text(item) + "\n" for item in items)
            if not file.tell():
                return False
        parse_stac_ndjson_to_parquet(lines, path, chunk_size=4096, compression="zstd")
        return True
    finally:
        lines.unlink(missing_ok=True)


def load_items(path: Path) -> PackedItems:
    """Read the items of a saved search: an ItemCollection, one item, or GeoParquet.

    Relative addresses of files are taken from the folder of the file read.

    Raises
    ------
    UsageError
        If there is no such file, or it holds no items.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}; give a saved search (ItemCollection or GeoParquet) as `items`")
    try:
        items = _read_parquet(path) if path.suffix in _PARQUET else _read_json(path)
        return PackedItems(_resolved(item, path.absolute().parent) for item in items)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"{path} is not a STAC ItemCollection ({' '.join(str(error).split())[:120]}); save one from a search"
        ) from error


def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    """Items of a file, line by line where it is laid out so: parsed at once, 10^4 items take gigabytes."""
    with path.open(encoding="utf-8") as file:
        if file.readline().rstrip("\n") == _HEAD:
            for line in file:
                if line.rstrip("\n") == _TAIL:
                    return
                yield json.loads(line.rstrip("\n").removesuffix(","))
            raise UsageError(f"{path} breaks off before its end; save the search again")
        file.seek(0)
        content = json.load(file)
    kind = content.get("type") if isinstance(content, dict) else type(content).__name__
    if kind == "Feature":
        yield content
        return
    if kind != "FeatureCollection":
        raise UsageError(f"{path} holds a {kind}, not a STAC ItemCollection; save one from a search")
    yield from content["features"]


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import Table, parquet  # noqa: PLC0415  (as above)
    from stac_geoparquet.arrow import stac_table_to_items  # noqa: PLC0415

    with parquet.ParquetFile(path) as table:
        for batch in table.iter_batches(1024):
            for item in stac_table_to_items(Table.from_batches([batch])):
                # A table has a column for every asset of any item; where an item lacks it, it is null.
                yield {**item, "assets": {k: _present(a) for k, a in item["assets"].items() if a is not None}}


def _present(fields: Any) -> Any:
    if isinstance(fields, dict):
        return {k: _present(v) for k, v in fields.items() if v is not None}
    return fields


def _resolved(item: Any, folder: Path) -> Any:
    """Item with addresses from the folder; one that is no item is refused by who reads it, and not all of its file."""
    with suppress(AttributeError, TypeError, KeyError):
        return _with_addresses(item, folder)
    return item


def _with_addresses(item: dict[str, Any], folder: Path) -> dict[str, Any]:
    assets = {key: {**a, "href": _absolute(a["href"], folder)} for key, a in item.get("assets", {}).items()}
    return {**item, "assets": assets}


def _absolute(href: str, folder: Path) -> str:
    return href if "://" in href else os.path.normpath(folder / href)
