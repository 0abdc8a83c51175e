"""The predecessor's lists of products and scenes: its columns first, as its code has them, ours behind.

``query_manifest.csv`` has a row a product, ``scene_index.csv`` a row a scene. What is known of each file is in a list
of its own, ``scene_files.csv``, so that whoever counts scenes by the predecessor's list still does.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.sentinel2.eopf_arrays import is_array
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.packed import item_text
from catalog.sentinel2.places import is_remote, local_candidates, local_path
from catalog.sentinel2.saved import whole_list
from catalog.sentinel2.select import Dropped
from stratacube.addresses import plain_url
from stratacube.errors import SourceError

__all__ = ["Told", "mark_fetched", "write_query_manifest", "write_scene_files", "write_scene_index"]

_MANIFEST = (
    *("Id", "Name", "ContentDate", "queried_utc"),
    *("product_id", "tile", "platform", "sensing_time", "datastrip_time", "baseline", "processing_time"),
    *("relative_orbit", "cloud_cover", "sun_elevation", "west", "south", "east", "north", "size_bytes"),
    *("status", "reason"),
)
_SCENES = (
    *("scene_id", "product_name", "epsg", "xmin", "ymin", "xmax", "ymax", "xres", "yres", "ncols", "nrows"),
    *("tile_xml_path", "added_utc"),
    *("product_id", "tile", "sensing_time", "baseline", "files", "fetched", "decision", "reason"),
)
_FILES = (
    *("product_id", "tile", "sensing_time", "baseline", "band", "resolution", "path", "size_bytes", "fetched"),
    *("verified", "decision", "reason"),
)
_ID = re.compile(r"/Products\(([0-9A-Fa-f-]{36})\)")
"""A product's number in CDSE's catalogue, as the addresses of its files tell it."""
_GRANULE = re.compile(r"/(?:Nodes\()?GRANULE\)?/(?:Nodes\()?([^()/]+)\)?/")


@dataclass(frozen=True)
class Told:
    """What a build knows of a file and its product."""

    verified: str = ""
    """How the file was verified, or why it was not."""
    decision: str = ""
    """On the product: used, marked, or refused."""
    reason: str = ""


def _nothing(_: Product, __: str, ___: str) -> Told:
    return Told()


def write_query_manifest(
    path: Path,
    products: Iterable[Product],
    used: Iterable[str],
    dropped: Iterable[Dropped],
    queried: datetime | None = None,
    items: Iterable[Mapping[str, Any]] = (),
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
    queried
        When they were searched, UTC; now by default.
    items
        All of them as they came: they may tell more addresses than those that are used.
    """
    products = list(products)
    numbers = _numbers(products, items)
    kept, reasons = set(used), {d.id: d.reason for d in dropped}
    when = _utc(queried or datetime.now(UTC))
    rows: list[dict[str, Any]] = []
    for product in products:
        sizes = [a.size for a in product.assets.values() if a.size is not None]
        begun = f"{product.datatake_start:%Y-%m-%dT%H:%M:%S.%f}Z"
        rows.append(
            {
                "Id": numbers.get(product.id, ""),
                "Name": f"{product.id}.SAFE",
                "ContentDate": str({"Start": begun, "End": begun}),
                "queried_utc": when,
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
    lost = {"queried_utc": when, "status": "dropped"}
    rows += [{**lost, "Name": i, "product_id": i, "reason": r} for i, r in reasons.items() if i not in listed]
    _write_rows(path, _MANIFEST, rows)


def _numbers(products: Sequence[Product], items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Numbers of products in CDSE's catalogue; items are looked into only where addresses do not tell all."""
    hrefs = {p.id: "\n".join(a.href for a in p.assets.values()) for p in products}
    found = {name: told[1] for name, text in hrefs.items() if (told := _ID.search(text))}
    if len(found) < len(hrefs):
        for item in items:
            if isinstance(item, Mapping) and item.get("id") in hrefs and (told := _ID.search(item_text(item))):
                found.setdefault(str(item["id"]), told[1])
    return found


def write_scene_index(
    path: Path,
    products: Iterable[Product],
    root: Path | None = None,
    told: Callable[[Product, str, str], Told] = _nothing,
    pixel: int = 20,
) -> None:
    """Write the scenes of products, one row each, with the grid of their images.

    Parameters
    ----------
    path
        The CSV file.
    products
        The products.
    root
        Folder that remote files are fetched into.
    told
        Of a product, the key of a file and its path: what a build knows of it.
    pixel
        Size of the pixels whose grid is told, metres.
    """
    _write_rows(path, _SCENES, (_scene(product, root, told, pixel) for product in products))


def _scene(
    product: Product, root: Path | None, told: Callable[[Product, str, str], Told], pixel: int
) -> dict[str, Any]:
    images = [(key, _where(product, key, asset, root)) for key, asset in _images(product)]
    document = product.assets.get("granule_metadata")
    xml = "" if document is None else _where(product, "granule_metadata", document, root)
    granule = next((m[1] for a in product.assets.values() if (m := _GRANULE.search(a.href))), product.id)
    known = told(product, *images[0]) if images else Told()
    return {
        "scene_id": granule,
        "product_name": f"{product.id}.SAFE",
        **_grid(product, pixel),
        "tile_xml_path": xml,
        "added_utc": _utc(datetime.fromtimestamp(local_path(xml).stat().st_mtime, UTC)) if _fetched(xml) else "",
        "product_id": product.id,
        "tile": product.tile,
        "sensing_time": product.datatake_start.isoformat(),
        "baseline": product.baseline,
        "files": len(images),
        "fetched": sum(_fetched(where) for _, where in images),
        "decision": known.decision,
        "reason": known.reason,
    }


def _grid(product: Product, pixel: int) -> dict[str, Any]:
    """Grid of images of a size; none where no catalogue and no file on disk tells it yet."""
    for key, asset in _images(product):
        if key.endswith(f"_{pixel}m") and asset.proj_code and asset.shape and asset.transform:
            (rows, cols), (dx, _, left, _, dy, top) = asset.shape, asset.transform
            return {
                "epsg": asset.proj_code.rpartition(":")[2],
                **{"xmin": float(left), "ymin": float(top + rows * dy), "xmax": float(left + cols * dx)},
                **{"ymax": float(top), "xres": float(abs(dx)), "yres": float(abs(dy)), "ncols": cols, "nrows": rows},
            }
    return {}


def write_scene_files(
    path: Path,
    products: Iterable[Product],
    root: Path | None = None,
    told: Callable[[Product, str, str], Told] = _nothing,
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
        Of a product, the key of a file and its path: what a build knows of it.
    """
    rows = (
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
            **vars(told(product, key, where)),
        }
        for product in products
        for key, asset in _images(product)
        for where in (_where(product, key, asset, root),)
    )
    _write_rows(path, _FILES, rows)


def mark_fetched(path: Path) -> None:
    """Say in a list of files which of them are on disk by now."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{**row, "fetched": _fetched(row["path"])} for row in csv.DictReader(file)]
    _write_rows(path, _FILES, rows)


def _images(product: Product) -> Iterator[tuple[str, Asset]]:
    return ((k, a) for k, a in sorted(product.assets.items()) if not k.endswith(("_metadata", "_manifest")))


def _where(product: Product, key: str, asset: Asset, root: Path | None) -> str:
    if not is_remote(asset.href):
        return asset.href
    if root is None:
        return plain_url(asset.href)
    try:
        places = local_candidates(product, key, asset, [root])
    except SourceError:  # such an address is not fetched from either
        return plain_url(asset.href)
    return str(next((p for p in places if _is_there(p)), places[0]))


def _fetched(where: str) -> int:
    return int(bool(where) and not is_remote(where) and _is_there(local_path(where)))


def _is_there(path: Path) -> bool:
    """Whether an image or a document is on disk; an image of EOPF's form is a folder."""
    return path.is_file() or is_array(path)


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}Z"


def _blank(value: Any) -> Any:
    return "" if value is None else value


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with whole_list(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
