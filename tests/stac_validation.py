"""Offline validation of STAC: pystac's core schemas, and schemas of our own for the extensions we write.

The schemas in ``tests/schemas`` are stricter than the official ones where this project always does more (UTC
times end in Z, a null ``proj:code`` comes with a CRS) and leave out fields that it never writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource

SCHEMAS = Path(__file__).parent / "schemas"
EXTENSION = "https://stac-extensions.github.io/"
PREFIXES = {
    "classification": "classification",
    "cube": "datacube",
    "eo": "eo",
    "file": "file",
    "goes": "goes",
    "processing": "processing",
    "proj": "projection",
    "raster": "raster",
    "sat": "sat",
    "sci": "scientific",
    "view": "view",
    "xarray": "xarray-assets",
    "zarr": "zarr",
}
"""Extension by the prefix of its fields."""


def validate_stac(obj: Mapping[str, Any]) -> None:
    """Check an item, a catalogue, a collection or an item collection, and what JSON schemas cannot say of it.

    Raises
    ------
    AssertionError
        With every violation: where it is and what is wrong.
    """
    if obj["type"] == "FeatureCollection":
        for item in obj["features"]:
            validate_stac(item)
        return
    problems = [*_core(obj), *_extensions(obj), *_fields_declared(obj), *_geometry(obj), *_times(obj)]
    assert not problems, f"{obj['type']} {obj['id']}:\n  " + "\n  ".join(problems)


def _core(obj: Mapping[str, Any]) -> Iterator[str]:
    kind = {"Feature": "item", "Catalog": "catalog", "Collection": "collection"}[obj["type"]]
    for error in _core_validator(kind).iter_errors(obj):
        yield f"core at {error.json_path}: {error.message[:300]}"


@cache
def _core_validator(kind: str) -> Draft7Validator:
    schemas = get_local_schema_cache()
    registry: Registry[Any] = Registry().with_resources(
        (uri, Resource.from_contents(schema)) for uri, schema in schemas.items()
    )
    schema = schemas[f"https://schemas.stacspec.org/v1.1.0/{kind}-spec/json-schema/{kind}.json"]
    return Draft7Validator(schema, registry=registry, format_checker=FormatChecker())


def _extensions(obj: Mapping[str, Any]) -> Iterator[str]:
    for uri in obj.get("stac_extensions", []):
        validator = _extension_validator(uri)
        if validator is None:
            yield f"{uri} has no schema in {SCHEMAS.name}/; write one"
            continue
        for error in validator.iter_errors(obj):
            yield f"{uri} at {error.json_path}: {error.message[:300]}"


@cache
def _extension_validator(uri: str) -> Draft202012Validator | None:
    name, version = uri.removeprefix(EXTENSION).split("/")[:2]
    path = SCHEMAS / f"{name}-{version}.json"
    if not uri.startswith(EXTENSION) or not path.is_file():
        return None
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def _fields_declared(obj: Mapping[str, Any]) -> Iterator[str]:
    """Every extension used is declared, and every one declared is used."""
    used = {PREFIXES[prefix] for prefix in _prefixes(obj) if prefix in PREFIXES}
    used |= {"render"} if "renders" in obj else set()  # its field has no prefix
    declared = {uri.removeprefix(EXTENSION).split("/")[0] for uri in obj.get("stac_extensions", [])}
    for name in sorted(used - declared):
        yield f"fields of the {name} extension are used but it is not in stac_extensions"
    for name in sorted(declared - used):
        yield f"the {name} extension is declared but none of its fields is used"


def _prefixes(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if ":" in key:
                yield key.split(":")[0]
            yield from _prefixes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _prefixes(inner)


def _geometry(obj: Mapping[str, Any]) -> Iterator[str]:
    """RFC 7946: longitudes within 180 degrees, rings closed and counterclockwise, the box around them."""
    geometry = obj.get("geometry")
    if not geometry or geometry["type"] not in ("Polygon", "MultiPolygon"):
        return
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    for polygon in polygons:
        ring = polygon[0]
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
        if ring[0] != ring[-1] or area <= 0:
            yield "a ring is not closed and counterclockwise"
        if max(abs(x) for x, _ in ring) > 180 or max(abs(y) for _, y in ring) > 90:
            yield "a ring leaves the range of longitudes or latitudes"
    points = [point for polygon in polygons for point in polygon[0]]
    west, south, east, north = obj["bbox"]
    inside = all(south <= y <= north and (x - west) % 360 <= (east - west) % 360 + 1e-9 for x, y in points)
    if not inside:
        yield f"bbox {obj['bbox']} does not hold the geometry"


def _times(obj: Mapping[str, Any]) -> Iterator[str]:
    properties = obj.get("properties", {})
    start, end = properties.get("start_datetime"), properties.get("end_datetime")
    # A fraction sorts after the whole second only without the Z.
    if start and end and start.rstrip("Z") > end.rstrip("Z"):
        yield f"start_datetime {start} is after end_datetime {end}"
