"""Small builds that take a second or two, of archives that are written for them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cube.sentinel2.grid import make_grid, write_grid
from cube.testing import write_abi_archive
from tests.job.racing import Command
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

CELL = 2000
TILES = ("--tile-size", "64", "--num-tiles", "6", "--steps", "2", "--step-minutes", "10", "--shard-mb", "0.02")


def of_abi(root: Path) -> Command:
    """Six tiles in two shards, of three scans of two bands."""
    _write_scans(root, datetime(2020, 7, 1, 16))
    source = ("--local-data-dir", str(root), "--domain", "M1", "--channels", "7", "13")
    return Command("abi", (*source, *TILES), "--output-dir")


def of_sentinel2(root: Path) -> Command:
    """Four cells of three scenes of one band, as GeoTIFF and Zarr."""
    for number in range(3):
        make_scene(number, FIRST + timedelta(days=5 * number), bands=("B02",)).write(root / "safe")
    bounds = (ULX, ULY - 2 * CELL, ULX + 2 * CELL, ULY)
    write_grid(make_grid(CELL, bounds, f"EPSG:{EPSG}"), root / "grid.csv")
    source = ("--safe-dir", str(root / "safe"), "--grid-csv", str(root / "grid.csv"))
    period = ("--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02")
    return Command(
        "sentinel2", (*source, *period, "--tr", "20", "20", "--tap", "--products", "cog", "zarr"), "--work-dir"
    )


def of_bucket(root: Path, endpoint: str) -> Command:
    """As :func:`of_abi`, of scans of another day that are written to be put into a bucket."""
    _write_scans(root, datetime(2020, 9, 1, 16))
    period = ("--start-dt", "2020-09-01T16:00", "--end-dt", "2020-09-01T17:00", "--s3-endpoint", endpoint)
    return Command("abi", (*period, "--domain", "M1", "--channels", "7", "13", *TILES), "--output-dir")


def _write_scans(root: Path, start: datetime) -> None:
    write_abi_archive(root, start=start, hours=1 / 3, channels=(7, 13), shape_2km=(150, 150), workers=1)
