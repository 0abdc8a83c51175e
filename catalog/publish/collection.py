"""The collection of all tiles, the catalogue above it and the catalogues by day below it."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalog.publish import vocabulary as voc
from catalog.publish.assets import STORE, THUMBNAIL, finest_resolution, lineage, store_asset
from catalog.publish.cards import CARDS
from catalog.publish.companions import companions
from catalog.publish.datacube import StoreInfo
from catalog.publish.footprints import enclosing_box
from catalog.publish.frame import Geostationary
from catalog.publish.model import TileBuild
from catalog.publish.public import file_fields, is_public, shown
from catalog.publish.renders import tile_renders
from catalog.publish.values import relative, timestamp

__all__ = ["Tally", "collection", "day_catalog", "root_catalog"]

SUMMARISED = (
    "platform",
    "stratacube:sector",
    "stratacube:stratum",
)
RANGED = ("view:off_nadir", "view:incidence_angle", "view:sun_elevation")

BESIDE = (
    ("plan", "plan.parquet", voc.PARQUET_TYPE, "Plan: one row a tile", "metadata"),
    ("references", "references", "inode/directory", "Kerchunk references of the source files", "references"),
    ("virtual_cube", "references/collection.json", voc.JSON_TYPE, "Virtual cube, band by band and era", "metadata"),
    ("contact_sheet", "previews/contact_sheet.png", "image/png", "Contact sheet", "overview"),
    ("report", "report.md", "text/markdown", "Report of the build", "metadata"),
    ("sources", "sources.json", voc.GEOJSON_TYPE, "Source scans found", "metadata"),
    ("sources", "sources.parquet", voc.PARQUET_TYPE, "Source scans found, in one stac-geoparquet table", "metadata"),
    (
        "completeness",
        "completeness.csv",
        "text/csv",
        "Completeness: scan by channel",
        "metadata",
    ),
)
"""Assets of the collection, where their files are: key, path, media type, title, role. ``config.yaml`` and
``errors.csv`` are none: they name folders of the machine. What they tell others stands in the collection and items."""

_REWRITTEN = "report"
"""An asset that a later run may write again, and so has no digest here."""
_LEADING = ("references", "virtual_cube", "sources")
"""Assets that lead to files of the archive, and are none where these lie on this machine."""


class Tally:
    """What the items of a collection have in common, gathered one item at a time."""

    def __init__(self, summarised: Sequence[str] = ()) -> None:
        self.summarised = sorted([*SUMMARISED, *summarised])
        self.values: dict[str, set[str]] = defaultdict(set)
        self.ranges: dict[str, tuple[float, float]] = {}
        self.bounds = array("d")
        """West, south, east and north of one item after the other: of a million, tuples take ten times as much."""
        self.start = "9999"
        self.end = ""

    def add(self, item: Mapping[str, Any]) -> None:
        """Take an item into account."""
        properties = item["properties"]
        for name in self.summarised:
            if properties.get(name) is not None:
                self.values[name].add(properties[name])
        for name in RANGED:
            if name in properties:
                value = properties[name]
                low, high = self.ranges.get(name, (value, value))
                self.ranges[name] = min(low, value), max(high, value)
        self.bounds.extend(item["bbox"])
        self.start = min(self.start, properties["start_datetime"], properties["datetime"], key=_in_time)
        self.end = max(self.end, properties["end_datetime"], properties["datetime"], key=_in_time)

    def summaries(self) -> dict[str, Any]:
        """Return the summaries object."""
        ranges = {name: {"minimum": low, "maximum": high} for name, (low, high) in self.ranges.items()}
        return {name: sorted(self.values[name]) for name in self.summarised if self.values[name]} | ranges

    def extent(self) -> dict[str, Any]:
        """Return the extent object."""
        box = enclosing_box(np.frombuffer(self.bounds).reshape(-1, 4))
        return {"spatial": {"bbox": [list(box)]}, "temporal": {"interval": [[self.start, self.end]]}}


def _in_time(text: str) -> str:
    """Sort key of RFC 3339 texts: with the Z, a fraction of a second would sort before the whole one."""
    return text.rstrip("Z")


def collection(
    output: Path, build: TileBuild, store: StoreInfo, tally: Tally, projection: Geostationary | None
) -> dict[str, Any]:
    """Return the collection, its links to items or days not yet added; with the projection that all tiles share."""
    folder, observatory = "tiles", build.observatory
    place = projection.proj_fields() if projection else {}
    assets: dict[str, Any] = {"store": {"href": relative(STORE, folder), **store_asset(build, store)}}
    for key, path, media_type, title, role in BESIDE:
        if (output / path).exists() and (key not in _LEADING or is_public(output / path)):
            href = relative(path, folder)
            told = {} if key == _REWRITTEN else file_fields(output / path)
            assets[key] = {"href": href, "type": media_type, "title": title, "roles": [role], **told}
    assets |= companions(output, folder)
    renders = tile_renders(output, build.bands, store)
    for key, path, media_type, title, role in CARDS:
        assets[key] = {"href": relative(path, folder), "type": media_type, "title": title, "roles": [role]}
    assets["index"] = {
        "href": "./items.parquet",
        "type": voc.PARQUET_TYPE,
        "title": "Index: all items in one stac-geoparquet table",
        "roles": ["index"],
    }
    return {
        "type": "Collection",
        "stac_version": voc.STAC_VERSION,
        "stac_extensions": sorted(
            [
                *(voc.DATACUBE, voc.EO, voc.PROCESSING, voc.RASTER, voc.SAT, voc.SCIENTIFIC, voc.VIEW, voc.ZARR),
                *([voc.FILE] if any("file:size" in asset for asset in assets.values()) else []),
                *([voc.PROJECTION] if place else []),
                *([voc.RENDER] if renders else []),
                *observatory.extensions,
            ]
        ),
        "id": build.id,
        "title": build.title,
        "description": build.description,
        "keywords": [
            observatory.mission,
            *observatory.instruments,
            "Zarr",
            *sorted(tally.values["stratacube:stratum"]),
        ],
        # "other" with a link: open data of agencies have no SPDX identifier.
        "license": "other",
        "created": timestamp(build.created),
        "sci:citation": (
            f"{build.title} ({build.id}), made with stratacube {build.version} from {observatory.origin} of "
            f"{observatory.provider['name']}, {build.created:%Y}."
        ),
        **({"sci:publications": [*map(dict, observatory.publications)]} if observatory.publications else {}),
        "providers": _providers(build),
        "extent": tally.extent(),
        "summaries": {
            "mission": [observatory.mission],
            "constellation": [observatory.mission],
            "instruments": list(observatory.instruments),
            "gsd": [finest_resolution(build)],
            "sat:orbit_state": ["geostationary"],
            **tally.summaries(),
        },
        "cube:dimensions": _dimensions(store, tally),
        "cube:variables": _variables(build, store),
        "item_assets": {"tiles": {**store_asset(build, store), **place}, "thumbnail": THUMBNAIL},
        **({"renders": renders} if renders else {}),
        "stratacube:grid": build.grid,
        "stratacube:tile_size": build.tile_size,
        "stratacube:seed": build.seed,
        **({"stratacube:time_means": build.time_means} if build.time_means else {}),
        "stratacube:dropped": dict(sorted(build.dropped.items())),
        "stratacube:config": shown(build.config),
        "stratacube:config_hash": build.config_hash,
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": voc.JSON_TYPE, "title": build.title},
            {"rel": "parent", "href": "../catalog.json", "type": voc.JSON_TYPE, "title": build.title},
            dict(observatory.license_link),
        ],
        "assets": assets,
    }


def _providers(build: TileBuild) -> list[dict[str, Any]]:
    return [
        dict(build.observatory.provider),
        {
            "name": "stratacube",
            "description": "Chose, cut and packed the tiles.",
            "roles": ["processor"],
            "processing:lineage": lineage(build),
            "processing:datetime": timestamp(build.created),
            "processing:version": build.version,
            "processing:software": {"stratacube": build.version, **build.software},
        },
    ]


def _dimensions(store: StoreInfo, tally: Tally) -> dict[str, Any]:
    """Describe the dimensions of the whole store; all but time are counts, since each tile lies elsewhere."""
    described = {
        "tile": "tiles, in the order of the plan",
        "band": "channels of the per-band coefficients",
        "y": "rows of a tile, north to south",
        "x": "columns of a tile, west to east",
    }
    dimensions: dict[str, Any] = {}
    for dim, size in sorted(store.sizes.items()):
        if dim == "time":
            dimensions[dim] = {
                "type": "temporal",
                "description": "steps of a tile, asked for at requested_time, seen at observation_time or scan_start",
                "extent": [tally.start, tally.end],
                "step": None,
            }
            continue
        words = described.get(dim) or described.get(dim.split("_")[0], dim)
        dimensions[dim] = {"type": "index", "description": words, "extent": [0, size - 1], "step": 1}
    return dimensions


def _variables(build: TileBuild, store: StoreInfo) -> dict[str, Any]:
    """Describe all variables but those that share their name with a dimension, as the extension asks."""
    bands = {band.name for band in build.bands}
    return {
        name: variable.to_cube("data" if name in bands else "auxiliary")
        for name, variable in store.variables.items()
        if name not in store.sizes
    }


def day_catalog(build: TileBuild, day: str, tile_ids: list[str]) -> dict[str, Any]:
    """Return the catalogue of one day's tiles."""
    links = [
        {"rel": "root", "href": "../../catalog.json", "type": voc.JSON_TYPE, "title": build.title},
        {"rel": "parent", "href": "../collection.json", "type": voc.JSON_TYPE, "title": build.title},
    ]
    links += [{"rel": "item", "href": f"./{i}.json", "type": voc.GEOJSON_TYPE, "title": i} for i in tile_ids]
    return {
        "type": "Catalog",
        "stac_version": voc.STAC_VERSION,
        "id": f"{build.id}-{day}",
        "title": day,
        "description": f"The {len(tile_ids)} tiles whose event is on {day} (UTC).",
        "links": links,
    }


def root_catalog(build: TileBuild) -> dict[str, Any]:
    """Return the catalogue at the top of the output folder."""
    return {
        "type": "Catalog",
        "stac_version": voc.STAC_VERSION,
        "id": f"{build.id}-catalog",
        "title": build.title,
        "description": build.description,
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": voc.JSON_TYPE, "title": build.title},
            {"rel": "child", "href": "./tiles/collection.json", "type": voc.JSON_TYPE, "title": build.title},
        ],
    }
