"""Searches kept on disk: item collections (JSON or GeoParquet) to replay, and the predecessor's two lists.

The columns of ``query_manifest.csv`` and ``scene_index.csv`` are named after what the predecessor's README says the
files hold; their names there are not documented.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.packed import PackedItems, item_text
from catalog.sentinel2.places import is_remote, local_candidates, local_path
from catalog.sentinel2.select import Dropped
from stratacube.addresses import plain_url
from stratacube.errors import SourceError, StratacubeError, UsageError
from stratacube.files import PART, whole_file

__all__ = ["load_items", "mark_fetched", "save_items", "write_query_manifest", "write_scene_index"]

_HEAD = '{"type":"FeatureCollection","features":['
_TAIL = "]}"
_PARQUET = (".parquet", ".geoparquet")
_MANIFEST = (
    "product_id",
    "tile",
    "platform",
    "sensing_time",
    "datastrip_time",
    "baseline",
    "processing_time",
    "relative_orbit",
    "cloud_cover",
    "sun_elevation",
    "west",
    "south",
    "east",
    "north",
    "size_bytes",
    "status",
    "reason",
)
_SCENES = (
    "product_id",
    "tile",
    "sensing_time",
    "baseline",
    "band",
    "resolution",
    "path",
    "size_bytes",
    "fetched",
    "verified",
    "decision",
    "reason",
)


def save_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write items whole or not at all: GeoParquet if the name ends so, else a STAC ItemCollection, one item a line.

    Raises
    ------
    SourceError
        If the file cannot be written.
    """
    if path.suffix in _PARQUET and not items:
        raise UsageError(f"{path.name}: GeoParquet cannot hold no item at all")
    with _written(path) as part:
        if path.suffix in _PARQUET:
            _write_parquet(part, items)
        else:
            with part.open("w", encoding="utf-8") as file:
                file.write(_HEAD)
                for i, item in enumerate(items):
                    file.write((",\n" if i else "\n") + item_text(item))
                file.write(f"\n{_TAIL}\n")


@contextmanager
def _written(path: Path) -> Iterator[Path]:
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


def _write_parquet(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write a table by way of a file with an item a line, which is read in batches: memory stays small."""
    # The library brings geopandas: seconds that only this format should pay.
    from stac_geoparquet.arrow import parse_stac_ndjson_to_parquet  # noqa: PLC0415

    lines = path.with_name(f"{path.stem}.lines{PART}")
    try:
        with lines.open("w", encoding="utf-8") as file:
            file.writelines(item_text(item) + "\n" for item in items)
        parse_stac_ndjson_to_parquet(lines, path, chunk_size=4096, compression="zstd")
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
            f"{path} is no STAC ItemCollection ({' '.join(str(error).split())[:120]}); save one from a search"
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


def write_query_manifest(
    path: Path, products: Iterable[Product], used: Iterable[str], dropped: Iterable[Dropped]
) -> None:
    """Write what a search found, one row a product, and why some is not used.

    Parameters
    ----------
    path
        The CSV file.
    products
        All that was found.
    used
        Ids of those that are used.
    dropped
        The others; some of them may be no products.
    """
    kept, reasons = set(used), {d.id: d.reason for d in dropped}
    rows: list[dict[str, Any]] = []
    for product in products:
        sizes = [a.size for a in product.assets.values() if a.size is not None]
        rows.append(
            {
                "product_id": product.id,
                "tile": product.tile,
                "platform": product.platform,
                "sensing_time": product.datatake_start.isoformat(),
                "datastrip_time": product.datastrip_start.isoformat() if product.datastrip_start else "",
                "baseline": product.baseline,
                "processing_time": product.processing_time.isoformat(),
                "relative_orbit": _blank(product.relative_orbit),
                "cloud_cover": _blank(product.cloud_cover),
                "sun_elevation": _blank(product.sun_elevation),
                **dict(zip(("west", "south", "east", "north"), product.bbox, strict=True)),
                "size_bytes": sum(sizes) if sizes else "",
                "status": "used" if product.id in kept else "dropped",
                "reason": "" if product.id in kept else reasons.get(product.id, ""),
            }
        )
    listed = {r["product_id"] for r in rows}
    rows += [{"product_id": i, "status": "dropped", "reason": r} for i, r in reasons.items() if i not in listed]
    _write_rows(path, _MANIFEST, rows)


def write_scene_index(
    path: Path,
    products: Iterable[Product],
    root: Path | None = None,
    told: Callable[[Product, str, str], tuple[str, str, str]] = lambda *_: ("", "", ""),
) -> None:
    """Write the image files of products, one row a file, and whether it is on disk.

    Parameters
    ----------
    path
        The CSV file.
    products
        The products.
    root
        Folder that remote files are fetched into: the path of one is where it comes to lie.
    told
        Of a product, the key of a file and its path: how it was verified, what was decided on the product, and why.
    """
    rows = [
        {
            "product_id": product.id,
            "tile": product.tile,
            "sensing_time": product.datatake_start.isoformat(),
            "baseline": product.baseline,
            "band": key.rpartition("_")[0],
            "resolution": key.rpartition("_")[2],
            "path": where,
            "size_bytes": _blank(asset.size),
            "fetched": _fetched(where),
            **dict(zip(("verified", "decision", "reason"), told(product, key, where), strict=True)),
        }
        for product in products
        for key, asset in sorted(product.assets.items())
        if not key.endswith(("_metadata", "_manifest"))
        for where in (_where(product, key, asset, root),)
    ]
    _write_rows(path, _SCENES, rows)


def mark_fetched(path: Path) -> None:
    """Say in an index of scenes which of its files are on disk by now."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{**row, "fetched": _fetched(row["path"])} for row in csv.DictReader(file)]
    _write_rows(path, _SCENES, rows)


def _where(product: Product, key: str, asset: Asset, root: Path | None) -> str:
    if not is_remote(asset.href):
        return asset.href
    if root is None:
        return plain_url(asset.href)
    try:
        places = local_candidates(product, key, asset, [root])
    except SourceError:  # such an address is not fetched from either
        return plain_url(asset.href)
    return str(next((p for p in places if p.is_file()), places[0]))


def _fetched(where: str) -> int:
    return int(not is_remote(where) and local_path(where).is_file())


def _blank(value: Any) -> Any:
    return "" if value is None else value


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with _written(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
