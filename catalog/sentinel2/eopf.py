"""A product in EOPF's Zarr form on disk, SAFE's successor."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.sentinel2.convert import number_of
from catalog.sentinel2.eopf_arrays import product_arrays, read_attributes
from catalog.sentinel2.items import Product
from catalog.sentinel2.names import parse_product_name
from catalog.sentinel2.outlines import footprint_bbox
from catalog.sentinel2.tiles import check_grid
from stratacube.errors import SourceError
from stratacube.guard import guarded
from stratacube.times import parse_time

__all__ = ["is_eopf", "read_eopf"]

_FOLDER = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_.*\.zarr")


def is_eopf(folder: Path) -> bool:
    """Whether a folder is named as a product in Zarr form is."""
    return _FOLDER.fullmatch(folder.name) is not None


def read_eopf(folder: Path) -> Product:
    """Describe the product in a Zarr folder.

    Parameters
    ----------
    folder
        ``..zarr``, named after the product.

    Returns
    -------
    Product
        Its assets are the arrays that are there.

    Raises
    ------
    SourceError
        If its metadata cannot be understood or contradicts itself.
    """
    with guarded(f"{folder} is not an EOPF product that can be read", "copy it again, or leave it out"):
        return _read(folder)


def _read(folder: Path) -> Product:
    attributes = read_attributes(folder)
    item, other = attributes.get("stac_discovery") or {}, attributes.get("other_metadata") or {}
    called = folder.name.removesuffix(".zarr")
    name = str(item.get("id") or called).removesuffix(".SAFE").removesuffix(".zarr")
    named = parse_product_name(name)
    if is_eopf(folder) and name != called:
        raise SourceError(f"{folder} holds the product {name}; give it its name, or copy what it is named after")
    told: dict[str, Any] = item.get("properties") or {}
    baseline = told.get("eopf:baseline") or named.baseline
    if baseline != named.baseline:
        raise SourceError(f"{folder} is named {name} but its eopf:baseline is {baseline}; copy the product again")
    assets = dict(product_arrays(folder))
    if not any(key.startswith("B") for key in assets):
        raise SourceError(f"{folder} has no bands under measurements/reflectance; copy the product again")
    for asset in assets.values():
        check_grid(asset.href, named.tile, asset.proj_code, asset.shape or (0, 0), asset.transform or ())
    zenith = number_of(other.get("mean_sun_zenith_angle_in_deg_for_all_bands_all_detectors"))
    return Product(
        id=name,
        tile=named.tile,
        platform=named.platform,
        datatake_start=_start(told, named.sensing, folder),
        # No datastrip is named. Two halves of a tile were seen at other times, two processings of one were not.
        datastrip_start=parse_time(other["mean_sensing_time"]) if other.get("mean_sensing_time") else None,
        baseline=named.baseline,
        processing_time=parse_time(told["created"]) if told.get("created") else named.discriminator,
        relative_orbit=named.relative_orbit,
        cloud_cover=number_of(told.get("eo:cloud_cover")),
        sun_elevation=None if zenith is None else 90.0 - zenith,
        bbox=footprint_bbox(item.get("geometry"), named.tile),
        geometry=item.get("geometry"),
        assets=assets,
    )


def _start(told: dict[str, Any], sensing: datetime, folder: Path) -> datetime:
    """Start of the datatake with its milliseconds."""
    if not told.get("start_datetime"):
        return sensing
    start = parse_time(told["start_datetime"])
    if start.replace(microsecond=0) != sensing:
        raise SourceError(f"{folder} begins at {sensing} by its name but at {start} by its metadata; copy it again")
    return start
