"""Tiles about CloudSat's track as the chips of SatVision-Pix4D's cutter: bands last, and the profiles beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from catalog.geostationary.scans import SourceFile
from cube.geostationary.chips.pixels import PIXEL
from cube.geostationary.grid import FixedGrid
from cube.strata.cloudsat.granule import AUX_NUMBERS, AUX_PROFILES

__all__ = ["cloudsat_chip", "cloudsat_name"]

_HALF_DISK = 5424
"""Pixels of 1 km from the middle of the full disk to its edges."""
_MEMBERS = {
    "latitude": "latitude",
    "longitude": "longitude",
    "quality": "quality",
    "cloud_layer_base": "layer_base",
    "cloud_layer_top": "layer_top",
    "cloud_layer_type": "layer_type",
    "cloud_layer_count": "layer_count",
    "cloud_class": "class",
    "profile_valid": "valid",
    "abi_row": "abi_row",
    "abi_column": "abi_column",
    "profile_index": "profile_index",
}
"""What a chip calls the variables of the profiles."""
_WHOLE = {
    "abi_row": "i8",
    "abi_column": "i8",
    "profile_index": "i8",
    "cloud_layer_type": "i2",
    "cloud_layer_count": "i2",
}
"""Whole numbers, of which xarray makes others where one is missing."""
_NO_LAYER = -9


def cloudsat_name(row: Any, centre: tuple[int, int], region: str) -> str:
    """Name of the file of a tile.

    Parameters
    ----------
    row
        Of the plan.
    centre
        Row and column of the chip's centre in the sector.
    region
        ``east`` or ``west``.
    """
    told = json.loads(row.details)
    y, x = _in_disk(row, centre)
    return (
        f"{row.platform.upper()}_{region}_abi_cloudsat_{row.event_time:%Y%m%dT%H%M%SZ}_orbit{told['orbit']}"
        f"_r{y}_c{x}_p{told['profile']}_len{told['profiles']}.npz"
    )


def cloudsat_chip(
    image: npt.NDArray[np.float32],
    store: xr.Dataset,
    row: Any,
    grid: FixedGrid,
    centre: tuple[int, int],
    region: str,
    config: Mapping[str, Any],
    files: Sequence[Mapping[int, SourceFile]],
) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a chip.

    Parameters
    ----------
    image
        Radiances (time, band, y, x).
    store
        All tiles and their profiles.
    row
        Of the plan.
    grid
        Of the chip's pixels.
    centre, region
        As of :func:`cloudsat_name`.
    config
        What the build was told.
    files
        Of each step, by channel.

    Returns
    -------
    dict
        By name; ``CloudSat/abi_row`` and ``CloudSat/abi_column`` count in the full disk. Of profiles that are all that
        cross the tile, those in the chip.
    """
    profiles = _profiles(store, row, grid, config)
    channels = [channel - 1 for channel in config["channels"]]
    there = np.asarray(np.isfinite(image[:, channels]).all(axis=1))
    requested = np.asarray(list(row.requested_times), "M8[us]")
    offsets = np.round((requested - _time_of(profiles, row)) / np.timedelta64(1, "m"))
    actual = store["scan_mid"].isel(tile=row.tile).values.astype("M8[us]")
    members = {
        "ABI/chip": np.ascontiguousarray(np.moveaxis(image, 1, -1)),
        "ABI/offsets_minutes": offsets.astype("i4"),
        "ABI/valid_mask": there.astype("i1"),
        "ABI/scan_times": np.char.add(np.datetime_as_string(actual), "Z"),
        "metadata_json": np.array(json.dumps(_told(profiles, row, there, centre, region, config, files))),
    }
    of_cloudsat = {name: profiles[f"cloudsat_{ours}"].values for name, ours in _MEMBERS.items()}
    of_cloudsat |= {n: np.nan_to_num(of_cloudsat[n], nan=_NO_LAYER).astype(kind) for n, kind in _WHOLE.items()}
    seconds = profiles["cloudsat_time"].values.astype("M8[us]").astype("i8") % 86_400_000_000 / 1e6
    of_cloudsat["utc_hour"] = (seconds / 3600).astype("f4")
    of_cloudsat["cloud_binary_mask"] = (of_cloudsat["cloud_class"] > 0).astype("i1")
    for name in (*AUX_PROFILES, *AUX_NUMBERS, "dem_elevation"):
        if f"cloudsat_{name}" in profiles:
            of_cloudsat[name] = profiles[f"cloudsat_{name}"].values
    return members | {f"CloudSat/{name}": values for name, values in of_cloudsat.items()}


def _profiles(store: xr.Dataset, row: Any, grid: FixedGrid, config: Mapping[str, Any]) -> xr.Dataset:
    first, number = (int(store[f"cloudsat_profile_{name}"][row.tile]) for name in ("start", "count"))
    names = [n for n in store.data_vars if store[n].dims[:1] == ("profile",)]
    found = store[names].isel(profile=slice(first, first + number)).load()
    if config.get("profile_selection") != "chip":
        return found
    y, x = _in_disk(row, (row.row, row.col))
    top, left = (round((a - b) / PIXEL) for a, b in ((row.y_top, grid.top), (grid.left, row.x_left)))
    within = [
        (found[f"cloudsat_{n}"].values >= at) & (found[f"cloudsat_{n}"].values < at + grid.width)
        for n, at in (("abi_row", y + top), ("abi_column", x + left))
    ]
    return found.isel(profile=np.flatnonzero(within[0] & within[1]))


def _told(
    profiles: xr.Dataset,
    row: Any,
    there: npt.NDArray[np.bool_],
    centre: tuple[int, int],
    region: str,
    config: Mapping[str, Any],
    files: Sequence[Mapping[int, SourceFile]],
) -> dict[str, Any]:
    details, (y, x) = json.loads(row.details), _in_disk(row, centre)
    middle = int(np.abs(profiles["cloudsat_profile_index"].values - details["profile"]).argmin())
    latitude, longitude = (profiles[f"cloudsat_{n}"].values for n in ("latitude", "longitude"))
    kinds = profiles["cloudsat_class"].values[profiles["cloudsat_valid"].values > 0]
    columns = kinds.max(axis=1, initial=0) > 0
    return {
        "schema_version": 1,
        "satellite": row.platform.upper(),
        "satellite_region": region,
        "cloudsat_orbit": details["orbit"],
        "cloudsat_center_profile": details["profile"],
        "cloudsat_center_time": f"{_time_of(profiles, row)}Z",
        "center_latitude": float(latitude[middle]),
        "center_longitude": float(longitude[middle]),
        "abi_row": y,
        "abi_column": x,
        "abi_valid_fraction": float(there.mean()),
        "margin": config.get("margin", 0),
        "grid_km": 1.0,
        "chip_size": there.shape[-1],
        "profile_selection": config.get("profile_selection"),
        "transect_first_profile": int(profiles["cloudsat_profile_index"].values[0]),
        "transect_last_profile": int(profiles["cloudsat_profile_index"].values[-1]),
        "transect_latitude": [float(latitude.min()), float(latitude.max())],
        "cloudy_profile_percentage": 100 * float(columns.mean()) if len(columns) else None,
        "cloudy_bin_percentage": 100 * float((kinds > 0).mean()) if kinds.size else None,
        "cloudsat_path": details["granule"],
        "abi_paths": [[at[c].href for c in sorted(at)] for at in files],
    }


def _time_of(profiles: xr.Dataset, row: Any) -> np.datetime64:
    """When the profile that the tile lies about was seen."""
    centre = json.loads(row.details)["profile"]
    at = int(np.abs(profiles["cloudsat_profile_index"].values - centre).argmin())
    time: np.datetime64 = profiles["cloudsat_time"].values[at].astype("M8[us]")
    return time


def _in_disk(row: Any, pixel: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the full disk, of those of the tile's sector."""
    corner = _HALF_DISK - row.y_top / PIXEL - row.row, _HALF_DISK + row.x_left / PIXEL - row.col
    return round(pixel[0] + corner[0]), round(pixel[1] + corner[1])
