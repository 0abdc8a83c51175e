"""Scans as STAC items, and collections of them from which the same scans are read back.

Source: STAC 1.1.0 with the extensions goes 1.0.0, eo 2.0.0, file 2.1.0 and, where the projection is known,
projection 2.0.0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyproj

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.bands import Band
from catalog.geostationary.item_table import AGAIN, ItemTable, is_table, write_table
from catalog.geostationary.naming import Naming
from catalog.geostationary.packed_files import PackedFiles
from catalog.geostationary.scans import Scan, SourceFile
from catalog.publish.footprints import footprint
from catalog.publish.model import Observatory
from stratacube.errors import SourceError
from stratacube.files import whole_file
from stratacube.guard import guarded
from stratacube.times import format_time, parse_time

__all__ = ["load_items", "open_table", "save_items", "scan_from_item", "scan_item", "scan_of"]

_EXTENSIONS = [
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"

_HEAD = '{"type":"FeatureCollection","features":['
_TAIL = "]}"


def scan_item(
    scan: Scan,
    *,
    geometry: npt.ArrayLike | None = None,
    projection: pyproj.CRS | None = None,
    naming: Naming = ABI_NAMES,
) -> dict[str, Any]:
    """Describe a scan as a STAC item with one asset per channel, such as ``C01``.

    Parameters
    ----------
    scan
        The scan.
    geometry
        Outline of the sector: longitude and latitude in degrees, shape (corners, 2); null in the item if None.
    projection
        Projection of the fixed grid, where a file has been opened.
    naming
        Names of the imager.

    Returns
    -------
    dict
        The item, without links.
    """
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [*naming.observatory().extensions, *_EXTENSIONS],
        "id": scan.id,
        "geometry": None,
        "properties": _properties(scan, naming.observatory()),
        "links": [],
        "assets": {naming.bands[c].name: _asset(file, naming.bands[c]) for c, file in scan.files.items()},
    }
    if geometry is not None:
        item["geometry"], bbox = footprint(geometry)
        item["bbox"] = list(bbox)
    if projection is not None:
        item["stac_extensions"].append(_PROJECTION)
        item["properties"] |= {"proj:code": None, "proj:wkt2": projection.to_wkt()}
    return item


def _properties(scan: Scan, observatory: Observatory) -> dict[str, Any]:
    return {
        "datetime": format_time(scan.start, "shortest"),
        "start_datetime": format_time(scan.start, "shortest"),
        "end_datetime": format_time(scan.end, "shortest"),
        "mission": observatory.mission,
        "constellation": observatory.mission,
        "platform": observatory.platform_name(scan.platform),
        "instruments": list(observatory.instruments),
        **observatory.scan_fields(scan),
    }


def _asset(file: SourceFile, band: Band) -> dict[str, Any]:
    described: dict[str, Any] = {"name": band.name}
    if band.common_name:
        described["eo:common_name"] = band.common_name
    return {
        "href": file.href,
        "type": "application/netcdf",
        "roles": ["data"],
        **({"created": format_time(file.created, "shortest")} if file.created != file.start else {}),
        "file:size": file.size,
        "stratacube:tag": file.tag,
        "bands": [{**described, "eo:center_wavelength": band.wavelength, "eo:full_width_half_max": band.fwhm}],
    }


def scan_from_item(item: dict[str, Any], naming: Naming = ABI_NAMES) -> Scan:
    """Read a scan back from what :func:`scan_item` made of it.

    Raises
    ------
    SourceError
        If the item is not one of a scan of the imager.
    """
    called = item.get("id", "one without an id") if isinstance(item, dict) else item
    with guarded(f"item {called} does not describe an {naming.title} scan"):
        files = {}
        for asset in item["assets"].values():
            name = naming.parse_path(asset["href"])
            if name is not None:
                size, tag = asset["file:size"], asset["stratacube:tag"]
                if not isinstance(size, int) or not isinstance(tag, str):
                    raise TypeError(f"channel {name.channel} has file:size {size!r} and stratacube:tag {tag!r}")
                files[name.channel] = SourceFile(asset["href"], size, tag, *name)
        first = min(files.values(), key=lambda file: (file.start, file.channel))
        properties = item["properties"]
        start, end = parse_time(properties["start_datetime"]), parse_time(properties["end_datetime"])
        mode = int(properties.get("goes:mode", first.mode))
    # A table has its assets in an order of its own.
    return Scan(first.platform, first.product, first.sector, mode, start, end, dict(sorted(files.items())))


def save_items(
    path: Path,
    scans: Collection[Scan],
    *,
    item: Callable[[Scan], dict[str, Any]] | None = None,
    naming: Naming = ABI_NAMES,
) -> None:
    """Write scans whole or not at all: as stac-geoparquet if the name ends so, else an ItemCollection, one item a line.

    Parameters
    ----------
    path
        The file; ``.parquet`` is stac-geoparquet.
    scans
        Described one by one, so that memory does not grow with their number.
    item
        Describes a scan; :func:`scan_item` by default.
    naming
        Names of the imager.

    Raises
    ------
    UsageError
        If there are no scans to write as stac-geoparquet.
    """
    describe = item or partial(scan_item, naming=naming)
    if is_table(path):
        write_table(path, lambda: map(describe, scans))
        return
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(_HEAD)
        for i, scan in enumerate(scans):
            file.write(",\n" if i else "\n")
            file.write(json.dumps(describe(scan), separators=(",", ":"), ensure_ascii=False, allow_nan=False))
        file.write(f"\n{_TAIL}\n")


def load_items(path: Path, naming: Naming = ABI_NAMES, *, packed: bool = False) -> list[Scan]:
    """Read the scans of a collection, as :func:`save_items` was given them.

    Parameters
    ----------
    path
        The file.
    naming
        Names of the imager.
    packed
        Keep their files as :class:`~catalog.geostationary.packed_files.PackedFiles`: for who goes through very many
        scans, and looks at the files of few.

    Raises
    ------
    SourceError
        If the file cannot be read, or is not a collection of scans of the imager.
    """
    items = open_table(path) if is_table(path) else _features(path)
    scans = (scan_of(path, item, naming) for item in items)
    return [replace(scan, files=PackedFiles(scan.files, naming)) for scan in scans] if packed else [*scans]


def scan_of(path: Path, item: Any, naming: Naming) -> Scan:
    """Read a scan back from an item of a file; see :func:`scan_from_item`.

    Raises
    ------
    SourceError
        If the item is not one of a scan of the imager; naming the file.
    """
    try:
        return scan_from_item(item, naming)
    except SourceError as error:
        raise SourceError(f"{path}: {error}; {AGAIN}") from error


def open_table(path: Path) -> ItemTable:
    """Open a table of scans: of each item what :func:`scan_from_item` needs.

    Raises
    ------
    SourceError
        If the file cannot be read, or is not a table of items.
    """
    return ItemTable(path, ("start_datetime", "end_datetime", "goes:mode"), ("href", "file:size", "stratacube:tag"))


def _features(path: Path) -> Iterator[Any]:
    """Items of a collection, line by line where it is laid out so: parsed at once, a year takes gigabytes."""
    with guarded(f"{path} cannot be read", AGAIN), open(path, encoding="utf-8") as file:
        try:
            if file.readline().rstrip("\n") == _HEAD:
                for line in file:
                    if line.rstrip("\n") == _TAIL:
                        return
                    yield json.loads(line.rstrip("\n").removesuffix(","))
                raise SourceError(f"{path}: it breaks off before its end; {AGAIN}")
            file.seek(0)
            collection = json.load(file)
        except json.JSONDecodeError as error:
            raise SourceError(f"{path} is not JSON ({error}); {AGAIN}") from error
    if not isinstance(collection, dict) or collection.get("type") != "FeatureCollection":
        raise SourceError(f"{path} is not an item collection; {AGAIN}")
    yield from collection.get("features", [])
