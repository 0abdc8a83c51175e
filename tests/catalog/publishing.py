"""A small build to publish: real geometry, made-up pixels. Shared by the tests of publishing."""

from __future__ import annotations

import warnings
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import zarr
import zarr.errors

from catalog.geostationary.observatory import GOES
from catalog.publish import BandInfo, TileBuild

CREATED = datetime(2026, 11, 20, 12, 0, 0)
PIXEL = 28e-6
SIZE = 32
STEPS = 3

BANDS = [
    BandInfo(
        name="C02",
        title="red",
        center_wavelength=0.64,
        fwhm=0.1,
        units="W m-2 sr-1 um-1",
        resolution=500.0,
        common_name="red",
    ),
    BandInfo(
        name="C13",
        title="clean longwave window",
        center_wavelength=10.35,
        units="mW m-2 sr-1 (cm-1)-1",
        resolution=2000.0,
    ),
]


def projection(longitude: float) -> pyproj.CRS:
    return pyproj.CRS.from_cf(
        {
            "grid_mapping_name": "geostationary",
            "perspective_point_height": 35786023.0,
            "semi_major_axis": 6378137.0,
            "semi_minor_axis": 6356752.31414,
            "latitude_of_projection_origin": 0.0,
            "longitude_of_projection_origin": longitude,
            "sweep_angle_axis": "x",
        }
    )


PROJECTIONS = {"goes16": projection(-75.0), "goes17": projection(-137.0)}


def write_store(path: Path, tiles: int, *, native: bool = False) -> None:
    """A store of the contract's layout, as far as a catalogue describes it."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    fills = {"C02": 4095, "C13": 65535}
    for name, fill in fills.items():
        suffix, size = "", SIZE
        if native:
            suffix, size = ("_500m", 2 * SIZE) if name == "C02" else ("_2km", SIZE // 2)
        array = group.create_array(
            name,
            shape=(tiles, STEPS, size, size),
            dtype="uint16",
            chunks=(1, STEPS, size, size),
            dimension_names=("tile", "time", f"y{suffix}", f"x{suffix}"),
            fill_value=0,
        )
        array.attrs.update({"_FillValue": fill, "units": "1", "long_name": f"{name} counts"})
    group["C13"].attrs.update({"scale_factor": 0.04572892, "add_offset": -1.6443})
    group.create_array("band", shape=(2,), dtype="int8", dimension_names=("band",))
    group.create_array("stratum", shape=(tiles,), dtype="int8", dimension_names=("tile",))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)  # says that v3 does not specify it yet
        zarr.consolidate_metadata(path)


@cache
def to_ground(platform: str) -> pyproj.Transformer:
    crs = PROJECTIONS[platform]
    return pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)


def centre_and_ring(platform: str, x_left: float, y_top: float) -> tuple[float, float, list[list[float]]]:
    """Navigated with PROJ, so that the footprint's truth does not come from the code under test."""
    inverse = to_ground(platform)
    height, side = 35786023.0, PIXEL * SIZE
    corners = [(0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1), (0, 0.5)]
    ring = [list(inverse.transform((x_left + u * side) * height, (y_top - v * side) * height)) for u, v in corners]
    lon, lat = inverse.transform((x_left + side / 2) * height, (y_top - side / 2) * height)
    return lon, lat, ring


def source(scan: str, start: datetime) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/goes/v1.0.0/schema.json"],
        "id": scan,
        "collection": "noaa",
        "geometry": {"type": "Point", "coordinates": [-75.0, 0.0]},
        "bbox": [-75.0, 0.0, -75.0, 0.0],
        "properties": {
            "datetime": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "start_datetime": f"{start:%Y-%m-%dT%H:%M:%SZ}",
            "end_datetime": f"{start + timedelta(seconds=57):%Y-%m-%dT%H:%M:%SZ}",
            "goes:mode": "6",
        },
        "links": [{"rel": "self", "href": "/elsewhere/item.json"}],
        "assets": {"C13": {"href": "archive/C13.nc", "roles": ["data"]}},
    }


def make_build(output: Path, tiles: int, *, native: bool = False) -> tuple[pd.DataFrame, TileBuild]:
    """Write a store and return the plan and the build that describe it.

    Every third tile is GOES-17's, over the antimeridian; tile 1 lacks a scan.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_store(output / "tiles.zarr", tiles, native=native)
    rows, footprints, sources = [], {}, {}
    first = datetime(2020, 1, 1)
    for tile in range(tiles):
        platform = "goes17" if tile % 3 == 2 else "goes16"
        x_left, y_top = (-0.115, 0.02) if platform == "goes17" else (-0.03 + 0.0001 * (tile % 40), 0.06)
        lon, lat, footprints[tile] = centre_and_ring(platform, x_left, y_top)
        event = first + timedelta(hours=2 * (tile % 36), minutes=20)
        requested = [event + timedelta(minutes=20 * (step - 1)) for step in range(STEPS)]
        starts: list[datetime | None] = [t + timedelta(seconds=26, milliseconds=200) for t in requested]
        scans = [f"{platform}_ABI-L1b-RadM1_s{t:%Y%j%H%M%S}0" for t in requested]
        if tile == 1:
            scans[2], starts[2] = "", None
        sources |= {scan: source(scan, start) for scan, start in zip(scans, starts, strict=True) if scan and start}
        rows.append(
            {
                "tile": tile,
                "tile_id": f"{platform}_M1_{event:%Y%m%dT%H%M%S}_r{tile:05d}_c00128",
                "stratum": "convection" if tile % 2 else "random",
                "platform": platform,
                "sector": "M1",
                "event_time": event,
                "latitude": lat,
                "longitude": lon,
                "x_left": x_left,
                "y_top": y_top,
                "row": tile,
                "col": 128,
                "probability": 0.25,
                "score": float("nan") if tile == 0 else 1.5,
                "system_id": 17 if tile % 2 else None,
                "requested_times": requested,
                "scan_ids": scans,
                "scan_starts": starts,
                "missing": ["C02@2", "C13@2"] if tile == 1 else [],
                "window_start": 3,
                "window_scores": [0.5, 1.5],
                "shard": tile // 4,
            }
        )
    plan = pd.DataFrame(rows).astype({"system_id": "Int64"})
    plan["event_time"] = plan["event_time"].astype("datetime64[ns]")
    angles = pd.DataFrame(
        {"view_zenith": 40.0, "solar_zenith": 30.0, "solar_azimuth": 359.9999}, index=np.arange(tiles)
    )
    build = TileBuild(
        id="abi-tiles-test",
        title="Tiles for a test",
        description="A few tiles.",
        version="0.1.0",
        config={"grid": "1km", "seed": 42},
        config_hash="ab" * 32,
        created=CREATED,
        seed=42,
        grid="native" if native else "1km",
        tile_size=SIZE,
        pixel=PIXEL,
        bands=BANDS,
        observatory=GOES,
        projections=PROJECTIONS,
        footprints=footprints,
        sources=sources,
        errors=pd.DataFrame(
            [
                {"tile": plan["tile_id"][0], "scan": "", "file": "a.nc", "reason": "truncated"},
                {
                    "tile": "",
                    "scan": plan["scan_ids"].iloc[-1 if tiles == 1 else 1][0],
                    "file": "b.nc",
                    "reason": "no DQF",
                },
            ]
        ),
        dropped={"view zenith above 65 degrees": 12},
        angles=angles,
        software={"zarr": "3.1.6"},
    )
    return plan, build


def add_companions(output: Path, plan: pd.DataFrame) -> None:
    """Put the other products of a run where a catalogue looks for them."""
    for name in ("report.md", "config.yaml", "completeness.csv", "errors.csv", "sources.json"):
        (output / name).write_text("{}\n")
    plan.to_parquet(output / "plan.parquet")
    (output / "references").mkdir()
    (output / "previews").mkdir()
    (output / "previews" / "contact_sheet.png").write_bytes(b"")
    for tile_id in plan["tile_id"]:
        (output / "previews" / f"{tile_id}.png").write_bytes(b"")


__all__ = ["add_companions", "make_build", "projection"]
