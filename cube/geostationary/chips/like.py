"""Tiles of a build as the chips that SatVision-Pix4D writes of cloud systems, which its trainers read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from catalog.geostationary.shelf import ScanShelf
from cube.decode import to_radiance
from cube.geostationary.dialect import dialect_of
from cube.geostationary.folder import AbiFolder
from cube.geostationary.grid import FixedGrid
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.tilestore import open_tiles
from cube.sun import solar_angles
from stratacube.errors import UsageError

__all__ = ["names_of_chips", "tiles_as_chips"]

PIXEL = 28e-6
"""Radians along a side of SatVision-Pix4D's pixels, those of its 10848 x 10848 frame."""
BANDS = 16


def names_of_chips(folder: AbiFolder) -> list[str]:
    """Names of the files of a build's tiles."""
    return [_name(row) for block in PlanTable(folder.plan).blocks() for row in block.itertuples()]


def tiles_as_chips(folder: AbiFolder, wanted: set[str]) -> Iterator[tuple[str, dict[str, npt.NDArray[Any]]]]:
    """Yield name and arrays of tiles, one after another.

    Every value that is not fill is kept, whatever its quality flag; a band that the build does not have is NaN. Of
    pixels of 0.5 km it is every second one.

    Parameters
    ----------
    folder
        Of a finished build.
    wanted
        Names of the files to make.

    Raises
    ------
    UsageError
        If the build's pixels are not those of chips.
    """
    config = folder.described()
    _refuse_other_pixels(folder, config)
    store = open_tiles(str(folder.root), "counts")
    names = dialect_of(str(config["satellite"]).split()[0]).names
    table, shelf = PlanTable(folder.plan), ScanShelf(folder.sources, naming=names)
    views = table.projections
    for block in table.blocks():
        for row in block.itertuples():
            if _name(row) not in wanted:
                continue
            size, half = int(config["tile_size"]), PIXEL / 2
            grid = FixedGrid(views[row.projection], row.x_left + half, row.y_top - half, PIXEL, -PIXEL, size, size)
            files = [shelf[name].files if name else {} for name in row.scan_ids]
            sources = [[at[c].href if c in at else "" for c in range(1, BANDS + 1)] for at in files]
            yield _name(row), _chip(store.isel(tile=row.tile), row, grid, np.array(sources), config)


def _refuse_other_pixels(folder: AbiFolder, config: Mapping[str, Any]) -> None:
    if config["grid"] != "1km":
        raise UsageError(
            f"{folder.root} has pixels of the grid {config['grid']}, and chips have those of 1km; build anew"
        )
    if 2 in config["channels"] and config.get("half_km", "mean") == "mean":
        raise UsageError(
            f"{folder.root} has averages of C02, and chips have every second pixel of it; build anew with "
            "`half_km=keep` or `half_km=decimate`, or without C02"
        )


def _name(row: Any) -> str:
    system = getattr(row, "system_id", None)
    what = row.tile_id if system is None or pd.isna(system) else f"sys{int(system)}"
    return f"{row.platform.upper()}_abi_{row.event_time:%Y%m%dT%H%M}_{what}.npz"


def _chip(
    tile: xr.Dataset, row: Any, grid: FixedGrid, sources: npt.NDArray[np.str_], config: Mapping[str, Any]
) -> dict[str, npt.NDArray[Any]]:
    size, steps = grid.width, len(row.scan_ids)
    chip = np.full((steps, BANDS, size, size), np.nan, "f4")
    numbers = tile["band"].values.tolist()
    for place, number in enumerate(numbers):
        band = tile[f"C{number:02d}"]
        counts = band.values
        if counts.shape[-1] == 2 * size:
            counts = counts[:, ::2, ::2]
        scale, offset = (tile[n].values[:, place, None, None] for n in ("packing_scale", "packing_offset"))
        there = (counts != band.attrs["_FillValue"]) & np.isfinite(scale)
        chip[:, number - 1] = np.where(there, to_radiance(counts, scale, offset), np.float32("nan"))
    pixels = np.arange(size, dtype="f8")
    longitude, latitude = grid.lonlat(pixels[:, None], pixels[None, :])
    actual = tile["scan_mid"].values.astype("M8[us]")
    zenith = np.stack([solar_angles(time, longitude, latitude)[0] for time in actual]).astype("f4")
    seen, _ = grid.projection.view_angles(longitude, latitude)
    requested = np.asarray(list(row.requested_times), "M8[us]")
    event = np.datetime64(row.event_time, "us")
    told = {
        "system_id": None if pd.isna(getattr(row, "system_id", None)) else int(row.system_id),
        "convection_datetime": str(event),
        "convection_timestep_index": int(np.abs(requested - event).argmin()),
        "center_latitude": float(row.latitude),
        "center_longitude": float(row.longitude),
        "abi_center_y": int(row.row) + size // 2,
        "abi_center_x": int(row.col) + size // 2,
        "tile_size": size,
        "n_timesteps": steps,
        "step_minutes": config["step_minutes"],
        "satellite": row.platform.upper(),
        "satellite_region": "west" if grid.projection.longitude_of_projection_origin < -100 else "east",
        "satellite_longitude": grid.projection.longitude_of_projection_origin,
        "source_product": config["product"],
        "source_root": str(config.get("local_data_dir") or ""),
    }
    return {
        "chip": chip,
        "timestamps": np.datetime_as_string(actual),
        "requested_timestamps": np.datetime_as_string(requested),
        "bands": np.arange(1, BANDS + 1, dtype="i2"),
        "latitude": latitude.astype("f4"),
        "longitude": longitude.astype("f4"),
        "solar_zenith_angle": zenith,
        "view_zenith_angle": np.broadcast_to(seen.astype("f4"), zenith.shape),
        "source_files": sources,
        "metadata": np.array(json.dumps(told)),
    }
