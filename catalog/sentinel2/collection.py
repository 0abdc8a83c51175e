"""The STAC collection of a build of composites, and what its items share with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import zarr

from catalog.publish import vocabulary as voc
from catalog.publish.cards import CARDS
from catalog.publish.companions import companions
from catalog.publish.datacube import StoreInfo
from catalog.publish.footprints import Box
from catalog.publish.public import file_fields, shown
from catalog.publish.values import timestamp

__all__ = [
    "BAND_FACTS",
    "COG_TYPE",
    "INDEX",
    "CompositeBuild",
    "band_object",
    "composite_collection",
    "lineage",
    "store_asset",
]

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
INDEX = "items.parquet"
"""All items in one table."""

_BESIDE = (
    ("plan", "plan.parquet", voc.PARQUET_TYPE, "Plan: one row a cell", "metadata"),
    ("report", "report.md", "text/markdown", "Report of the build", "metadata"),
)
"""Assets of the collection, where their files are: key, path, media type, title, role. ``config.yaml`` and
``errors.csv`` are none: they name folders of the machine. What they tell others stands in the collection and items."""
_REWRITTEN = "report"
"""An asset that a later run may write again, and so has no digest here."""
_NOTICE = "https://sentinel.esa.int/documents/247904/690755/Sentinel_Data_Legal_Notice"

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
    mosaics: Mapping[str, str] = field(default_factory=dict)
    """By band, the VRT of all its GeoTIFFs, relative to the output folder."""
    preset: str | None = None
    """Name of the earlier pipeline whose rule was followed."""
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What is made of each pixel besides bands and count, by name: what STAC tells of a band."""


def lineage(build: CompositeBuild) -> str:
    """Return how the pixels came to be, in words."""
    return (
        "Sentinel-2 L2A counts with each product's own offset added, masked by scene classes, resampled once to the "
        f"lattice, one observation a datatake, reduced by {build.reducer}."
    )


def band_object(build: CompositeBuild, name: str, statistics: Mapping[str, float]) -> dict[str, Any]:
    """Return the STAC band object of a band."""
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


def store_asset(build: CompositeBuild, store: StoreInfo) -> dict[str, Any]:
    """Return the asset fields of the Zarr store, without its address."""
    return {
        "type": voc.ZARR_TYPE,
        "title": "All cells of the build on one lattice (Zarr v3)",
        "roles": ["data"],
        **store.asset_fields,
        "bands": [band_object(build, b, {}) for b in build.bands],
    }


def composite_collection(
    output: Path,
    build: CompositeBuild,
    store: StoreInfo | None,
    cells: Sequence[tuple[str, str]],
    bbox: Box,
    renders: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the collection of a build.

    Parameters
    ----------
    output
        Folder of the build.
    build
        What holds for all cells.
    store
        What its Zarr store holds; None where it has none.
    cells
        Id and name of each.
    bbox
        Of all of them.
    renders
        How images of an item are shown.
    """
    assets = _assets(output, build, store)
    return {
        "type": "Collection",
        "stac_version": voc.STAC_VERSION,
        "stac_extensions": sorted(
            [
                *(voc.EO, voc.PROCESSING, voc.PROJECTION, voc.RASTER, voc.SCIENTIFIC),
                *([voc.FILE] if any("file:size" in a for a in assets.values()) else []),
                *([voc.ZARR, voc.DATACUBE] if store is not None else []),
                *([voc.RENDER] if renders else []),
            ]
        ),
        "id": build.id,
        "title": build.title,
        "description": f"{len(cells)} cells. {lineage(build)}",
        "license": "other",
        "created": timestamp(build.created),
        "keywords": ["Sentinel-2", "MSI", "surface reflectance", "composite", build.reducer],
        "sci:citation": (
            f"{build.title} ({build.id}), made with stratacube {build.version}; contains modified Copernicus Sentinel "
            f"data {_years(build)}."
        ),
        "sci:publications": [
            {
                "doi": "10.5270/S2_-znk9xsj",
                "citation": "European Space Agency: Copernicus Sentinel-2 MSI level 2A, bottom-of-atmosphere "
                "reflectance, collection 1.",
            }
        ],
        "providers": _providers(build),
        "extent": {
            "spatial": {"bbox": [list(bbox)]},
            "temporal": {"interval": [[timestamp(build.start), timestamp(build.end)]]},
        },
        "summaries": {
            "constellation": ["sentinel-2"],
            "instruments": ["msi"],
            "gsd": [build.resolution],
            "processing:level": ["L3"],
            "stratacube:config_hash": [build.config_hash],
            **({"proj:code": [build.crs]} if ":" in build.crs and "[" not in build.crs else {}),
        },
        **({} if store is None else _cube(output, build, store)),
        "stratacube:config": shown(build.config),
        **({"renders": dict(renders)} if renders else {}),
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": voc.JSON_TYPE, "title": build.title},
            {"rel": "parent", "href": "./catalog.json", "type": voc.JSON_TYPE, "title": build.title},
            {"rel": "license", "href": _NOTICE, "type": "application/pdf", "title": "Legal notice on Sentinel data"},
            *(
                {"rel": "item", "href": f"./items/{i}.json", "type": voc.GEOJSON_TYPE, "title": name or i}
                for i, name in cells
            ),
        ],
        "item_assets": {
            "count": {"type": COG_TYPE, "roles": ["metadata"], "title": "Observations behind each pixel"},
            **{b: {"type": COG_TYPE, "roles": ["data"], "bands": [band_object(build, b, {})]} for b in build.bands},
        },
        "assets": assets,
    }


def _years(build: CompositeBuild) -> str:
    last = build.end.year - (1 if build.end == datetime(build.end.year, 1, 1) else 0)
    return str(last) if build.start.year >= last else f"{build.start.year} to {last}"


def _providers(build: CompositeBuild) -> list[dict[str, Any]]:
    return [
        {"name": "European Space Agency", "roles": ["producer", "licensor"], "url": "https://esa.int"},
        {
            "name": "stratacube",
            "description": "Masked, resampled and reduced the scenes.",
            "roles": ["processor"],
            "processing:lineage": lineage(build),
            "processing:datetime": timestamp(build.created),
            "processing:version": build.version,
            "processing:software": {"stratacube": build.version},
        },
    ]


def _assets(output: Path, build: CompositeBuild, store: StoreInfo | None) -> dict[str, Any]:
    assets: dict[str, Any] = {}
    if store is not None:
        assets["composites"] = {"href": f"./{build.store}", **store_asset(build, store)}
    for key, path, media_type, title, role in _BESIDE:
        if (output / path).is_file():
            told = {} if key == _REWRITTEN else file_fields(output / path)
            assets[key] = {"href": f"./{path}", "type": media_type, "title": title, "roles": [role], **told}
    assets |= companions(output)
    for name, path in build.mosaics.items():
        assets[f"mosaic_{name}"] = {
            "href": f"./{path}",
            "type": "application/xml",
            "title": f"{name} of all cells (GDAL VRT)",
            "roles": ["metadata" if name.partition("_")[0] == "count" else "data"],
        }
    for key, path, media_type, title, role in CARDS:
        assets[key] = {"href": f"./{path}", "type": media_type, "title": title, "roles": [role]}
    assets["index"] = {
        "href": f"./{INDEX}",
        "type": voc.PARQUET_TYPE,
        "title": "Index: all items in one stac-geoparquet table",
        "roles": ["index"],
    }
    return assets


def _cube(output: Path, build: CompositeBuild, store: StoreInfo) -> dict[str, Any]:
    """Fields of the datacube extension: one lattice for all cells."""
    group = zarr.open_group(output / str(build.store), mode="r")
    code = build.crs.rpartition(":")[2]
    dimensions = {}
    for axis in ("x", "y"):
        centres: Any = group[axis]
        ends = sorted(float(centres[i]) for i in (0, centres.shape[0] - 1))
        dimensions[axis] = {
            "type": "spatial",
            "axis": axis,
            "extent": ends,
            "reference_system": int(code) if code.isdigit() else build.wkt2,
        }
    bands = {*build.bands}
    return {
        "cube:dimensions": dimensions,
        "cube:variables": {
            name: variable.to_cube("data" if name in bands else "auxiliary")
            for name, variable in store.variables.items()
            if name not in dimensions
        },
    }
