"""What STAC says of the satellites that the images are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from catalog.geostationary.names import bucket, orbital_slot, parse_name, prefix
from catalog.geostationary.naming import lineage_of
from catalog.publish.model import Observatory

__all__ = ["GOES", "GOES_EXTENSION", "IMAGE_TYPES"]

GOES_EXTENSION = "https://stac-extensions.github.io/goes/v1.0.0/schema.json"

IMAGE_TYPES = {"F": "FULL DISK", "C": "CONUS", "M": "MESOSCALE"}
"""``goes:image_type`` by the first letter of a sector."""

_MODES = (3, 4, 6)
"""Scan modes that the goes extension knows."""

_DESIGNATORS = {
    "goes16": "2016-071A",
    "goes17": "2018-022A",
    "goes18": "2022-021A",
    "goes19": "2024-119A",
}
"""COSPAR identifiers (NASA Space Science Data Coordinated Archive)."""


def _platform_name(platform: str) -> str:
    """Name of a satellite as the extension spells it: ``GOES-16`` for ``goes16``."""
    return f"GOES-{platform.removeprefix('goes')}"


def _fields(row: Any, sources: Sequence[Mapping[str, Any] | str | None]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "goes:system_environment": "OR",
        "goes:orbital_slot": orbital_slot(row.platform, pd.Timestamp(row.event_time).to_pydatetime()),
        "goes:image_type": IMAGE_TYPES[row.sector[0]],
    }
    if row.platform in _DESIGNATORS:
        fields["sat:platform_international_designator"] = _DESIGNATORS[row.platform]
    if row.sector.startswith("M"):
        fields["goes:mesoscale_image_number"] = int(row.sector[1])
    modes = {s["properties"].get("goes:mode") if isinstance(s, Mapping) else None for s in sources}
    mode = modes.pop() if len(modes) == 1 else None
    return fields | ({"goes:mode": mode} if mode else {})


def _of_scan(scan: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "goes:orbital_slot": orbital_slot(scan.platform, scan.start),
        "goes:system_environment": "OR",
        "goes:image_type": IMAGE_TYPES[scan.sector[0]],
    }
    if len(scan.sector) == 2:
        fields["goes:mesoscale_image_number"] = int(scan.sector[1])
    if scan.mode in _MODES:
        fields["goes:mode"] = str(scan.mode)
    return fields


def _public_address(name: str) -> str | None:
    """Where NOAA's buckets have a file."""
    told = parse_name(name)
    if told is None:
        return None
    return f"s3://{bucket(told.platform)}/{prefix(told.sector, told.start, lineage_of(told.product))}/{name}"


GOES = Observatory(
    mission="GOES",
    instruments=("ABI",),
    origin="GOES-R ABI L1b radiances",
    lineage="Counts of ABI L1b radiances",
    level="L1B",
    extension=GOES_EXTENSION,
    summarised=("goes:image_type", "goes:mode", "goes:orbital_slot", "sat:platform_international_designator"),
    provider={
        "name": "NOAA",
        "description": "GOES-R Series Program: the satellites and their L1b radiances.",
        "roles": ["licensor", "producer"],
        "url": "https://www.goes-r.gov",
    },
    license_link={
        "rel": "license",
        "href": "https://registry.opendata.aws/noaa-goes/",
        "type": "text/html",
        "title": "NOAA GOES-R data: open to the public, to be used as desired; cite NOAA",
    },
    platform_name=_platform_name,
    fields=_fields,
    scan_fields=_of_scan,
    publications=(
        {
            "doi": "10.7289/V5BV7DSR",
            "citation": "GOES-R Calibration Working Group and GOES-R Series Program (2017): NOAA GOES-R Series "
            "Advanced Baseline Imager (ABI) Level 1b Radiances. NOAA National Centers for Environmental Information.",
        },
    ),
    public_address=_public_address,
)
