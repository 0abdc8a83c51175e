"""Whole builds far north, across the antimeridian and in other projections, against a landscape known in degrees."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio

from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.run import run_sentinel2
from cube.testing import SafeSpec, write_safe
from tests.sentinel2.squares import square_at

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

SIDE = 300
FIRST = datetime(2021, 6, 1, 0, 30, 1)


def _landscape(lon: np.ndarray, lat: np.ndarray, scale: float) -> np.ndarray:
    """Harmonised numbers, smooth over some pixels and the same on both sides of 180 degrees."""
    turn = np.deg2rad(lon)
    return 2000 + 900 * np.sin(turn * round(scale)) + 700 * np.cos(np.deg2rad(lat) * scale)


def _write(root: Path, epsg: int, place: tuple[float, float], scale: float, number: int) -> None:
    """Write a product whose middle lies at a place in degrees."""
    x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(*place)
    ulx, uly = round(x / 20) * 20 - SIDE * 10, round(y / 20) * 20 + SIDE * 10
    columns, rows = np.meshgrid(ulx + 20 * np.arange(SIDE) + 10, uly - 20 * np.arange(SIDE) - 10)
    lon, lat = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform(columns, rows)
    when = FIRST + timedelta(days=number)
    images = {
        "SCL_20m": np.full((SIDE, SIDE), 4, "u1"),
        "B03_20m": np.rint(_landscape(lon, lat, scale) + 1000).astype("u2"),
    }
    spec = SafeSpec(
        tile=square_at(ulx, uly, epsg), epsg=epsg, ulx=ulx, uly=uly, datatake_start=when, processing_time=when,
        images=images,
    )  # fmt: skip
    write_safe(spec, root, block=128)


def _compare(work: Path, scale: float) -> tuple[int, int, float]:
    """Pixels, pixels with a value, and the largest difference from the landscape."""
    pixels = known = 0
    worst = 0.0
    for path in work.glob("composites/*/*_B03_median_clip.tif"):
        with rasterio.open(path) as file:
            data = file.read(1)
            rows, cols = np.indices(data.shape)
            x, y = file.transform @ np.stack([cols.ravel() + 0.5, rows.ravel() + 0.5])
            lon, lat = pyproj.Transformer.from_crs(file.crs.to_wkt(), 4326, always_xy=True).transform(x, y)
        there = data.ravel() != -9999
        pixels, known = pixels + data.size, known + int(there.sum())
        worst = max(worst, float(np.abs(data.ravel() - _landscape(lon, lat, scale))[there].max(initial=0)))
    return pixels, known, worst


def _build(root: Path, **options: Any) -> int:
    values = {
        "work_dir": root / "w",
        "safe_dir": root / "safe",
        "start": "2021-06-01",
        "end": "2021-06-30",
        "bands": ["B03"],
        "workers": 1,
        "products": ["cog", "zarr"],
        **options,
    }
    return run_sentinel2(Sentinel2Config.load(None, values)).code


def _small_cells(root: Path, size: float, bounds: tuple[float, float, float, float], crs: str = "EPSG:4326") -> Path:
    write_grid(make_grid(size, bounds, crs), root / "grid.csv")
    return root / "grid.csv"


def test_cells_on_both_sides_of_the_antimeridian(tmp_path: Path) -> None:
    """Tiles of zones 60 and 1 reach over the line; both sides are filled by either, and by the other's pixels."""
    scale = 3000
    for number, epsg in enumerate((32660, 32601)):
        _write(tmp_path / "safe", epsg, (180.0, 68.5), scale, number)
    grid = _small_cells(tmp_path, 0.02, (-180.0, 68.44, 180.0, 68.56))
    assert _build(tmp_path, grid_csv=grid, bbox=[179.97, 68.49, -179.97, 68.51]) == 0
    names = {p.name for p in (tmp_path / "w" / "composites").iterdir()}
    assert len(names) == 2 * 2 * 2
    pixels, known, worst = _compare(tmp_path / "w", scale)
    assert known == pixels
    assert worst < 12


@pytest.mark.parametrize("latitude", [60.5, 78.0, 83.3])
def test_cells_far_north_in_degrees(tmp_path: Path, latitude: float) -> None:
    """Pixels of the lattice are up to nine times as narrow as high; tiles of three zones see one place."""
    scale = 2000
    for number, epsg in enumerate((32633, 32632, 32634)):
        _write(tmp_path / "safe", epsg, (15.0, latitude), scale, number)
    row = round((90 - latitude) / 0.02)
    grid = _small_cells(tmp_path, 0.02, (14.98, 90 - 0.02 * (row + 1), 15.02, 90 - 0.02 * (row - 1)))
    assert _build(tmp_path, grid_csv=grid) == 0
    pixels, known, worst = _compare(tmp_path / "w", scale)
    assert known == pixels > 40000
    assert worst < 8
    with rasterio.open(next((tmp_path / "w").glob("composites/*/*_count.tif"))) as file:
        assert (file.read(1) == 3).all()


def test_cells_of_a_polar_projection_join_across_the_antimeridian(tmp_path: Path) -> None:
    """EPSG:3571 has 180 degrees in its middle: a line of cells from one side to the other has no seam."""
    scale = 3000
    for number, epsg in enumerate((32660, 32601)):
        _write(tmp_path / "safe", epsg, (180.0, 68.5), scale, number)
    x, y = pyproj.Transformer.from_crs(4326, 3571, always_xy=True).transform(180.0, 68.5)
    left, top = round(x / 1000) * 1000 - 2000, round(y / 1000) * 1000 + 1000
    grid = _small_cells(tmp_path, 1000, (left, top - 2000, left + 4000, top), "EPSG:3571")
    assert _build(tmp_path, grid_csv=grid) == 0
    pixels, known, worst = _compare(tmp_path / "w", scale)
    assert known == pixels == 8 * 50 * 50
    assert worst < 12


def test_geojson_cut_at_the_antimeridian_is_one_cell(tmp_path: Path) -> None:
    """RFC 7946 has a polygon over the line cut in two; its cell is not the 360 degrees between them."""
    scale = 3000
    for number, epsg in enumerate((32660, 32601)):
        _write(tmp_path / "safe", epsg, (180.0, 68.5), scale, number)
    halves = [
        [[[179.98, 68.49], [180, 68.49], [180, 68.51], [179.98, 68.51], [179.98, 68.49]]],
        [[[-180, 68.49], [-179.98, 68.49], [-179.98, 68.51], [-180, 68.51], [-180, 68.49]]],
    ]
    cell = {
        "type": "Feature",
        "id": "line",
        "properties": {},
        "geometry": {"type": "MultiPolygon", "coordinates": halves},
    }
    (tmp_path / "cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [cell]}))
    assert _build(tmp_path, grid_csv=tmp_path / "cells.geojson") == 0
    pixels, known, worst = _compare(tmp_path / "w", scale)
    assert known == pixels
    assert worst < 12
