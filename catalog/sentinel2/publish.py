"""Writes the STAC catalogue of composites: one item a cell, and the collection of a build."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy.typing as npt

from catalog.publish import vocabulary as voc
from catalog.publish.cards import write_cards
from catalog.publish.datacube import StoreInfo, describe_store
from catalog.publish.footprints import Box, enclosing_box, footprint
from catalog.publish.geoparquet import ItemModel, seen_from, write_index
from catalog.publish.public import without_folders
from catalog.publish.values import timestamp
from catalog.sentinel2.collection import (
    BAND_FACTS,
    COG_TYPE,
    INDEX,
    CompositeBuild,
    band_object,
    composite_collection,
    lineage,
    store_asset,
)
from stratacube.files import aside, whole_file, write_json

__all__ = ["BAND_FACTS", "CellRecord", "CompositeBuild", "publish_cells"]

ITEMS = "items"
_NATURAL = ("B04", "B03", "B02")
_WHITE = 0.3
"""Reflectance shown as white."""
_EXTENSIONS = (voc.EO, voc.PROCESSING, voc.PROJECTION, voc.RASTER)
CDSE_ITEMS = "https://stac.dataspace.copernicus.eu/v1/collections/sentinel-2-l2a/items"
"""Items of the products that the Copernicus Data Space has, by their names."""


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One cell. Addresses are relative to the output folder."""

    id: str
    alias: str
    ring: npt.ArrayLike
    """Outline, shape (points, 2): longitude and latitude."""
    shape: tuple[int, int]
    transform: tuple[float, ...]
    """Affine order, six numbers."""
    bounds: tuple[float, float, float, float]
    corner: tuple[int, int] | None
    """Row and column of the north-western pixel on the build's lattice; None where each cell has one of its own."""
    files: Mapping[str, str]
    """By band; ``count`` besides."""
    preview: str | None
    store: str | None = None
    """The cell's own Zarr store."""
    statistics: Mapping[str, Mapping[str, float]]
    observations: Mapping[str, float]
    valid_share: float
    sources: Mapping[str, str]
    """Products behind the cell: id and where it lies."""
    dropped: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    """Products that were left out for an error: ``product`` and ``reason``."""
    period: tuple[str, datetime, datetime] | None = None
    """Name, start and end (exclusive) of its period, where a build has several."""
    marked: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    """Products that were used though something is odd about them: ``product`` and ``reason``."""
    split: str | None = None
    """Where the build has splits."""


def publish_cells(
    output: Path, build: CompositeBuild, cells: Sequence[CellRecord], ready: Callable[[], None] = lambda: None
) -> None:
    """Write items, then the collection, then the catalogue.

    Parameters
    ----------
    output
        Folder of the build.
    build
        What holds for all cells.
    cells
        The cells that were made.
    ready
        Called when all but the catalogue is written, for instance to say how long it took.
    """
    if not cells:
        return
    store = describe_store(output / build.store) if build.store is not None else None
    model, boxes, lines = ItemModel(), list[Box](), aside(output / "items.ndjson")
    try:
        with lines.open("w", encoding="utf-8") as file:
            for item in (cell_item(build, cell, store, output) for cell in cells):  # one at a time: each fills 30 kB
                write_json(output / ITEMS / f"{item['id']}.json", item)
                boxes.append(tuple(item["bbox"]))
                seen = seen_from(item, ITEMS, "")
                file.write(json.dumps(seen, ensure_ascii=False, allow_nan=False) + "\n")
                model.add(seen)
        names = [(cell.id.lower(), cell.alias) for cell in cells]
        described = composite_collection(output, build, store, names, enclosing_box(boxes), _renders(build, cells))
        with whole_file(output / INDEX) as part:
            write_index(lines, part, described, model)
    finally:
        lines.unlink(missing_ok=True)
    write_cards(output, output, described, build.store, "plan.parquet")
    write_json(output / "collection.json", described)
    ready()
    links = [
        {"rel": "root", "href": "./catalog.json", "type": voc.JSON_TYPE, "title": build.title},
        {"rel": "child", "href": "./collection.json", "type": voc.JSON_TYPE, "title": build.title},
    ]
    write_json(
        output / "catalog.json",
        {
            "type": "Catalog",
            "stac_version": voc.STAC_VERSION,
            "id": f"{build.id}-catalog",
            "title": build.title,
            "description": f"Build of {build.title}.",
            "links": links,
        },
    )


def cell_item(build: CompositeBuild, cell: CellRecord, store: StoreInfo | None, output: Path) -> dict[str, Any]:
    """Return the STAC 1.1.0 item of a cell, with addresses relative to the folder of items."""
    geometry, bbox = footprint(cell.ring)
    period, start, end = cell.period or ("", build.start, build.end)
    projection: dict[str, Any] = (
        {"proj:code": build.crs}
        if ":" in build.crs and "[" not in build.crs
        else {
            "proj:code": None,
            "proj:wkt2": build.wkt2,
        }
    )
    return {
        "type": "Feature",
        "stac_version": voc.STAC_VERSION,
        "stac_extensions": sorted(
            [*_EXTENSIONS, *([voc.FILE] if cell.files else []), *([voc.ZARR] if store is not None else [])]
        ),
        "id": cell.id.lower(),
        "collection": build.id,
        "geometry": geometry,
        "bbox": list(bbox),
        "properties": {
            "title": f"{build.title}, {cell.id}",
            "datetime": None,
            "start_datetime": timestamp(start),
            "end_datetime": timestamp(end),
            "created": timestamp(build.created),
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": build.resolution,
            **projection,
            "proj:shape": list(cell.shape),
            "proj:transform": list(cell.transform),
            "proj:bbox": list(cell.bounds),
            "processing:level": "L3",
            "processing:lineage": lineage(build),
            "processing:software": {"stratacube": build.version},
            "stratacube:config_hash": build.config_hash,
            "stratacube:cell": cell.alias,
            **({"stratacube:split": cell.split} if cell.split else {}),
            **({"stratacube:period": period} if period else {}),
            **(
                {"stratacube:lattice_row": cell.corner[0], "stratacube:lattice_col": cell.corner[1]}
                if cell.corner is not None
                else {}
            ),
            **({"stratacube:preset": build.preset} if build.preset else {}),
            "stratacube:valid_share": cell.valid_share,
            "stratacube:empty": cell.valid_share == 0,
            "stratacube:observations": dict(cell.observations),
            "stratacube:cell_id": cell.id,
            "stratacube:dropped": [_told(d) for d in cell.dropped],
            **({"stratacube:marked": [_told(m) for m in cell.marked]} if cell.marked else {}),
        },
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": voc.JSON_TYPE, "title": build.title},
            {"rel": "parent", "href": "../collection.json", "type": voc.JSON_TYPE, "title": build.title},
            {"rel": "collection", "href": "../collection.json", "type": voc.JSON_TYPE, "title": build.title},
            *(
                {"rel": "derived_from", "href": _source(name, href), "title": name}
                for name, href in sorted(cell.sources.items())
            ),
        ],
        "assets": _assets(build, cell, store, output),
    }


def _told(scene: Mapping[str, str]) -> dict[str, str]:
    """What is told of a scene that was dropped or marked, without folders of the machine."""
    return {key: without_folders(value) for key, value in scene.items()}


def _source(name: str, href: str) -> str:
    """Address of a product; of one on this machine, where the Copernicus Data Space has it for everyone."""
    return href if "://" in href and not href.startswith("file:") else f"{CDSE_ITEMS}/{name}"


def _assets(build: CompositeBuild, cell: CellRecord, store: StoreInfo | None, output: Path) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    for name, path in cell.files.items():
        band, title = _described(build, cell, name)
        role = "data" if name in BAND_FACTS else "metadata"
        told = {"href": f"../{path}", "type": COG_TYPE, "title": title, "roles": [role], "bands": [band]}
        assets[name] = {**told, "file:size": (output / path).stat().st_size}
    if cell.store is not None:
        assets["composite"] = {
            "href": f"../{cell.store}",
            "type": voc.ZARR_TYPE,
            "title": "The cell (Zarr v3)",
            "roles": ["data", "cell"],
            "bands": [_described(build, cell, name)[0] for name in (*build.bands, "count", *build.layers)],
        }
    if store is not None:
        assets["composites"] = {"href": f"../{build.store}", **store_asset(build, store)}
    if cell.preview is not None:
        assets["preview"] = {
            "href": f"../{cell.preview}",
            "type": "image/png",
            "title": "True colour",
            "roles": ["thumbnail", "overview"],
        }
    return assets


def _described(build: CompositeBuild, cell: CellRecord, name: str) -> tuple[dict[str, Any], str]:
    """What is told of a raster of a cell, and its title."""
    statistics = cell.statistics.get(name, {})
    if name == "count":
        counted = {"minimum": cell.observations["minimum"], "maximum": cell.observations["maximum"]}
        about = "Observations behind each pixel"
        return {"name": "count", "data_type": "uint16", "statistics": counted}, about  # none is a count, too
    if name in build.layers:
        layer = {"name": name, **build.layers[name]}
        told = {**layer, "statistics": dict(statistics)} if statistics else layer
        return told, str(layer["description"]).capitalize()
    return band_object(build, name, statistics), f"{name} {build.reducer}"


def _renders(build: CompositeBuild, cells: Sequence[CellRecord]) -> dict[str, Any]:
    """How the images of an item are shown, for programs that draw them: values are those in the files."""
    most = max((cell.observations["maximum"] for cell in cells), default=1.0)
    renders: dict[str, Any] = {}
    if not any(cell.files for cell in cells):
        return {}
    if set(_NATURAL) <= set(build.bands) and build.scale < 1:  # counts have no colour
        white = _WHITE / build.scale
        title = {"title": "True colour", "assets": list(_NATURAL), "rescale": [[0.0, white]] * 3}
        renders["true_colour"] = {**title, "nodata": build.nodata, "resampling": "bilinear"}
    counted = {"title": "Observations behind each pixel", "assets": ["count"], "rescale": [[0.0, max(most, 1.0)]]}
    return {**renders, "count": {**counted, "nodata": 0, "colormap_name": "viridis", "resampling": "nearest"}}
