"""Assets that items and collection describe alike: the store with its bands, the thumbnail."""

from __future__ import annotations

from typing import Any

from catalog.publish import vocabulary as voc
from catalog.publish.datacube import StoreInfo
from catalog.publish.model import BandInfo, TileBuild

__all__ = ["STORE", "THUMBNAIL", "band_objects", "finest_resolution", "lineage", "store_asset"]

STORE = "tiles.zarr"
"""The tile store, relative to the output folder."""

THUMBNAIL = {"type": "image/png", "title": "Thumbnail", "roles": ["thumbnail"]}


def store_asset(build: TileBuild, store: StoreInfo) -> dict[str, Any]:
    """Return the asset fields of the tile store, without its address."""
    return {
        "type": voc.ZARR_TYPE,
        "title": "Tile store (Zarr v3)",
        "description": (
            "All tiles of the build; an item's own is at `stratacube:tile_index` along `tile`. "
            "Radiance is counts times packing_scale plus packing_offset."
        ),
        "roles": ["data"],
        **store.asset_fields,
        "bands": band_objects(build, store),
    }


def band_objects(build: TileBuild, store: StoreInfo) -> list[dict[str, Any]]:
    """Return the STAC band objects of a build, in its order."""
    return [_band_object(band, build.grid, store) for band in build.bands]


def _band_object(band: BandInfo, grid: str, store: StoreInfo) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": band.name, "description": band.title}
    if band.common_name:
        fields["eo:common_name"] = band.common_name
    fields["eo:center_wavelength"] = band.center_wavelength
    if band.fwhm:
        fields["eo:full_width_half_max"] = band.fwhm
    fields |= {"gsd": band.resolution, "unit": band.units}
    variable = store.variables.get(band.name)
    if variable is not None:
        fields["data_type"] = variable.data_type
        if variable.nodata is not None:
            fields["nodata"] = variable.nodata
        for key, attribute in (("raster:scale", "scale_factor"), ("raster:offset", "add_offset")):
            value = variable.attributes.get(attribute)
            if isinstance(value, int | float):
                fields[key] = value
    fields["raster:sampling"] = "area"
    fields["raster:spatial_resolution"] = _stored_resolution(band, grid)
    return fields


def _stored_resolution(band: BandInfo, grid: str) -> float:
    """Nominal pixel of a band in the store, in metres."""
    if band.stored is not None:
        return band.stored
    return band.resolution if grid == "native" else voc.GRID_METRES[grid]


def finest_resolution(build: TileBuild) -> float:
    """Nominal pixel of the finest band in the store, in metres."""
    return min(_stored_resolution(band, build.grid) for band in build.bands)


def lineage(build: TileBuild) -> str:
    """Return how the pixels came to be, in words."""
    return (
        f"{build.observatory.lineage}, packed as in the source files where one packing serves; "
        f"{build.lineage or voc.GRID_LINEAGE[build.grid]}; "
        "`valid` tells which pixels the data quality flags let through."
    )
