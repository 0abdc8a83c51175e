"""Writes the STAC catalogue of composites: one item a cell, and the collection of a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy.typing as npt

from catalog.publish import vocabulary as voc
from catalog.publish.footprints import enclosing_box, footprint
from catalog.publish.values import timestamp
from stratacube.files import write_json

__all__ = ["BAND_FACTS", "CellRecord", "CompositeBuild", "publish_cells"]

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
ITEMS = "items"
_EXTENSIONS = (voc.EO, voc.PROCESSING, voc.PROJECTION, voc.RASTER)

BAND_FACTS = {
    "B01": ("coastal", 0.443, 0.020),
    "B02": ("blue", 0.493, 0.065),
    "B03": ("green", 0.560, 0.035),
    "B04": ("red", 0.665, 0.030),
    "B05": ("rededge071", 0.704, 0.015),
    "B06": ("rededge075", 0.741, 0.015),
    "B07": ("rededge078", 0.783, 0.020),
    "B08": ("nir", 0.833, 0.115),
    "B8A": ("nir08", 0.865, 0.020),
    "B09": ("nir09", 0.945, 0.020),
    "B11": ("swir16", 1.614, 0.090),
    "B12": ("swir22", 2.202, 0.175),
}
"""Common name of the EO extension, central wavelength and width in micrometres (Sentinel-2 User Handbook)."""


@dataclass(frozen=True, kw_only=True)
class CompositeBuild:
    """What holds for all cells of a build. Times are naive UTC."""

    id: str
    title: str
    start: datetime
    end: datetime
    """Exclusive."""
    created: datetime
    version: str
    config: Mapping[str, Any]
    config_hash: str
    reducer: str
    crs: str
    wkt2: str
    """Tells the CRS where it has no code."""
    bands: Sequence[str]
    data_type: str
    scale: float
    unit: str
    nodata: float
    resolution: float
    """Nominal pixel in metres."""
    store: str | None = None
    """The Zarr store, relative to the output folder."""


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
    row: int
    col: int
    """North-western pixel on the build's lattice."""
    files: Mapping[str, str]
    """By band; ``count`` besides."""
    preview: str | None
    statistics: Mapping[str, Mapping[str, float]]
    observations: Mapping[str, float]
    valid_share: float
    sources: Mapping[str, str]
    """Products behind the cell: id and where it lies."""
    dropped: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    """Products that were left out for an error: ``product`` and ``reason``."""
    marked: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    """Products that were used though something is odd about them: ``product`` and ``reason``."""


def publish_cells(output: Path, build: CompositeBuild, cells: Sequence[CellRecord]) -> None:
    """Write items, then the collection, then the catalogue.

    Parameters
    ----------
    output
        Folder of the build.
    build
        What holds for all cells.
    cells
        The cells that were made.
    """
    boxes = []
    for cell in cells:
        item = cell_item(build, cell)
        boxes.append(tuple(item["bbox"]))
        write_json(output / ITEMS / f"{cell.id}.json", item)
    if not cells:
        return
    write_json(output / "collection.json", _collection(build, cells, list(enclosing_box(boxes))))
    links = [
        {"rel": "root", "href": "./catalog.json", "type": voc.JSON_TYPE},
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


def cell_item(build: CompositeBuild, cell: CellRecord) -> dict[str, Any]:
    """Return the STAC 1.1.0 item of a cell, with addresses relative to the folder of items."""
    geometry, bbox = footprint(cell.ring)
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
        "stac_extensions": list(_EXTENSIONS),
        "id": cell.id,
        "collection": build.id,
        "geometry": geometry,
        "bbox": list(bbox),
        "properties": {
            "title": f"{build.title}, {cell.id}",
            "datetime": None,
            "start_datetime": timestamp(build.start),
            "end_datetime": timestamp(build.end),
            "created": timestamp(build.created),
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "gsd": build.resolution,
            **projection,
            "proj:shape": list(cell.shape),
            "proj:transform": list(cell.transform),
            "proj:bbox": list(cell.bounds),
            "processing:level": "L3",
            "processing:lineage": _lineage(build),
            "processing:software": {"stratacube": build.version},
            "stratacube:config_hash": build.config_hash,
            "stratacube:cell": cell.alias,
            "stratacube:lattice_row": cell.row,
            "stratacube:lattice_col": cell.col,
            "stratacube:valid_share": cell.valid_share,
            "stratacube:empty": cell.valid_share == 0,
            "stratacube:observations": dict(cell.observations),
            "stratacube:dropped": [dict(d) for d in cell.dropped],
            **({"stratacube:marked": [dict(m) for m in cell.marked]} if cell.marked else {}),
        },
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": voc.JSON_TYPE},
            {"rel": "parent", "href": "../collection.json", "type": voc.JSON_TYPE},
            {"rel": "collection", "href": "../collection.json", "type": voc.JSON_TYPE},
            *(
                {"rel": "derived_from", "href": _source(href), "title": name}
                for name, href in sorted(cell.sources.items())
            ),
        ],
        "assets": _assets(build, cell),
    }


def _source(href: str) -> str:
    return href if "://" in href or href.startswith("/") else f"../{href}"


def _lineage(build: CompositeBuild) -> str:
    return (
        "Sentinel-2 L2A counts with each product's own offset added, masked by scene classes, resampled once to the "
        f"lattice, one observation a datatake, reduced by {build.reducer}."
    )


def _assets(build: CompositeBuild, cell: CellRecord) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    for name, path in cell.files.items():
        if name == "count":
            counted = {"minimum": cell.observations["minimum"], "maximum": cell.observations["maximum"]}
            band = {"name": "count", "data_type": "uint16", "nodata": 0, "statistics": counted}
            title = "Observations behind each pixel"
        else:
            band, title = _band(build, name, cell.statistics.get(name, {})), f"{name} {build.reducer}"
        role = "metadata" if name == "count" else "data"
        assets[name] = {"href": f"../{path}", "type": COG_TYPE, "title": title, "roles": [role], "bands": [band]}
    if build.store is not None:
        assets["composites"] = {
            "href": f"../{build.store}",
            "type": voc.ZARR_TYPE,
            "title": "All cells of the build on one lattice (Zarr v3)",
            "roles": ["data"],
            "bands": [_band(build, b, {}) for b in build.bands],
        }
    if cell.preview is not None:
        assets["preview"] = {
            "href": f"../{cell.preview}",
            "type": "image/png",
            "title": "True colour",
            "roles": ["thumbnail", "overview"],
        }
    return assets


def _band(build: CompositeBuild, name: str, statistics: Mapping[str, float]) -> dict[str, Any]:
    common, wavelength, width = BAND_FACTS[name]
    band: dict[str, Any] = {
        "name": name,
        "eo:common_name": common,
        "eo:center_wavelength": wavelength,
        "eo:full_width_half_max": width,
        "data_type": build.data_type,
        "nodata": build.nodata,
        "unit": build.unit,
        "raster:scale": build.scale,
        "raster:offset": 0.0,
        "raster:spatial_resolution": build.resolution,
    }
    return {**band, "statistics": dict(statistics)} if statistics else band


def _collection(build: CompositeBuild, cells: Sequence[CellRecord], bbox: list[float]) -> dict[str, Any]:
    return {
        "type": "Collection",
        "stac_version": voc.STAC_VERSION,
        "stac_extensions": list(_EXTENSIONS),
        "id": build.id,
        "title": build.title,
        "description": f"{len(cells)} cells. {_lineage(build)}",
        "license": "other",
        "keywords": ["Sentinel-2", "MSI", "surface reflectance", "composite"],
        "providers": [{"name": "European Space Agency", "roles": ["producer", "licensor"], "url": "https://esa.int"}],
        "extent": {
            "spatial": {"bbox": [bbox]},
            "temporal": {"interval": [[timestamp(build.start), timestamp(build.end)]]},
        },
        "summaries": {
            "gsd": [build.resolution],
            "proj:code": [build.crs],
            "processing:level": ["L3"],
            "stratacube:config_hash": [build.config_hash],
        },
        "stratacube:config": dict(build.config),
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": voc.JSON_TYPE},
            {"rel": "parent", "href": "./catalog.json", "type": voc.JSON_TYPE},
            {
                "rel": "license",
                "href": "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice",
                "type": "application/pdf",
            },
            *(
                {"rel": "item", "href": f"./{ITEMS}/{c.id}.json", "type": voc.GEOJSON_TYPE, "title": c.id}
                for c in cells
            ),
        ],
        "item_assets": {
            "count": {"type": COG_TYPE, "roles": ["metadata"], "title": "Observations behind each pixel"},
            **{b: {"type": COG_TYPE, "roles": ["data"], "bands": [_band(build, b, {})]} for b in build.bands},
        },
    }
