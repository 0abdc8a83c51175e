"""Scans as STAC items, and collections of them from which the same scans are read back.

Source: STAC 1.1.0 with the extensions goes 1.0.0, eo 2.0.0, file 2.1.0 and, where the projection is known,
projection 2.0.0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyproj

from catalog.geostationary.bands import BANDS
from catalog.geostationary.names import orbital_slot, parse_name
from catalog.geostationary.observatory import GOES_EXTENSION, IMAGE_TYPES
from catalog.geostationary.scans import Scan, SourceFile
from catalog.publish.footprints import footprint
from stratacube.errors import SourceError
from stratacube.files import whole_file
from stratacube.times import format_time, parse_time

__all__ = ["load_items", "save_items", "scan_from_item", "scan_item"]

_EXTENSIONS = [
    GOES_EXTENSION,
    "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_MODES = (3, 4, 6)
"""Scan modes that the goes extension knows."""

_HEAD = '{"type":"FeatureCollection","features":['
_TAIL = "]}"


def scan_item(
    scan: Scan, *, geometry: npt.ArrayLike | None = None, projection: pyproj.CRS | None = None
) -> dict[str, Any]:
    """Describe a scan as a STAC item with one asset per channel, ``C01`` ..

    Parameters
    ----------
    scan
        The scan.
    geometry
        Outline of the sector: longitude and latitude in degrees, shape (corners, 2); null in the item if None.
    projection
        Projection of the fixed grid, where a file has been opened.

    Returns
    -------
    dict
        The item, without links.
    """
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [*_EXTENSIONS],
        "id": scan.id,
        "geometry": None,
        "properties": _properties(scan),
        "links": [],
        "assets": {f"C{channel:02d}": _asset(file) for channel, file in scan.files.items()},
    }
    if geometry is not None:
        item["geometry"], bbox = footprint(geometry)
        item["bbox"] = list(bbox)
    if projection is not None:
        item["stac_extensions"].append(_PROJECTION)
        item["properties"] |= {"proj:code": None, "proj:wkt2": projection.to_wkt()}
    return item


def _properties(scan: Scan) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "datetime": format_time(scan.start, "shortest"),
        "start_datetime": format_time(scan.start, "shortest"),
        "end_datetime": format_time(scan.end, "shortest"),
        "mission": "GOES",
        "constellation": "GOES",
        "platform": f"GOES-{scan.platform.removeprefix('goes')}",
        "instruments": ["ABI"],
        "goes:orbital_slot": orbital_slot(scan.platform, scan.start),
        "goes:system_environment": "OR",
        "goes:image_type": IMAGE_TYPES[scan.sector[0]],
    }
    if len(scan.sector) == 2:
        properties["goes:mesoscale_image_number"] = int(scan.sector[1])
    if scan.mode in _MODES:
        properties["goes:mode"] = str(scan.mode)
    return properties


def _asset(file: SourceFile) -> dict[str, Any]:
    band = BANDS["abi"][file.channel]
    described: dict[str, Any] = {"name": band.name}
    if band.common_name:
        described["eo:common_name"] = band.common_name
    return {
        "href": file.href,
        "type": "application/netcdf",
        "roles": ["data"],
        "created": format_time(file.created, "shortest"),
        "file:size": file.size,
        "stratacube:tag": file.tag,
        "bands": [{**described, "eo:center_wavelength": band.wavelength, "eo:full_width_half_max": band.fwhm}],
    }


def scan_from_item(item: dict[str, Any]) -> Scan:
    """Read a scan back from what :func:`scan_item` made of it.

    Raises
    ------
    SourceError
        If the item is not one of an ABI scan.
    """
    try:
        files = {}
        for asset in item["assets"].values():
            name = parse_name(asset["href"].rpartition("/")[2])
            if name is not None:
                file = SourceFile(asset["href"], asset["file:size"], asset["stratacube:tag"], *name)
                files[file.channel] = file
        first = min(files.values(), key=lambda file: (file.start, file.channel))
        properties = item["properties"]
        start, end = parse_time(properties["start_datetime"]), parse_time(properties["end_datetime"])
        mode = int(properties.get("goes:mode", first.mode))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        called = item.get("id", "one without an id") if isinstance(item, dict) else item
        raise SourceError(f"item {called} does not describe an ABI scan ({type(error).__name__}: {error})") from error
    return Scan(first.platform, first.product, first.sector, mode, start, end, files)


def save_items(path: Path, scans: Iterable[Scan], *, item: Callable[[Scan], dict[str, Any]] = scan_item) -> None:
    """Write scans as a STAC ItemCollection, one item a line, whole or not at all.

    Parameters
    ----------
    path
        The file.
    scans
        Taken one by one, so that memory does not grow with their number.
    item
        Describes a scan.
    """
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(_HEAD)
        for i, scan in enumerate(scans):
            file.write(",\n" if i else "\n")
            file.write(json.dumps(item(scan), separators=(",", ":"), ensure_ascii=False, allow_nan=False))
        file.write(f"\n{_TAIL}\n")


def load_items(path: Path) -> list[Scan]:
    """Read the scans of an ItemCollection, as :func:`save_items` was given them.

    Raises
    ------
    SourceError
        If the file cannot be read, or is not an item collection of ABI scans.
    """
    try:
        return [scan_from_item(item) for item in _features(path)]
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, SourceError):
            raise SourceError(f"{path}: {error}; remove the file to list the archive again") from error
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SourceError(f"{path} cannot be read ({reason}); remove it to list the archive again") from error
    except json.JSONDecodeError as error:
        raise SourceError(f"{path} is not JSON ({error}); remove it to list the archive again") from error


def _features(path: Path) -> Iterator[Any]:
    """Items of a collection, line by line where it is laid out so: parsed at once, a year takes gigabytes."""
    with open(path, encoding="utf-8") as file:
        if file.readline().rstrip("\n") == _HEAD:
            for line in file:
                if line.rstrip("\n") == _TAIL:
                    return
                yield json.loads(line.rstrip("\n").removesuffix(","))
            raise SourceError("it breaks off before its end")
        file.seek(0)
        collection = json.load(file)
        if not isinstance(collection, dict) or collection.get("type") != "FeatureCollection":
            raise SourceError("it is not an item collection")
        yield from collection.get("features", [])
