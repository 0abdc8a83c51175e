"""A satellite is moved, or another takes its place: pixels are judged by from where they are seen, tile by tile."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyproj
import pytest
import xarray as xr

import cube
from cube.build import main
from cube.geostationary.grid import GeosProjection
from cube.geostationary.projections import Views, distinct, read_views
from cube.testing import write_abi_file
from stratacube.errors import SourceError, UsageError

HEIGHT = 35786023.0
CORNER = (0.02464, 0.11536)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of a satellite before and after it was moved, as in December 2017."""
    root = tmp_path_factory.mktemp("moved")
    for hour, lon_0 in ((16, -89.5), (17, -75.0), (18, -89.5)):
        start = datetime(2017, 12, 1, hour)
        for channel in (7, 13):
            write_abi_file(root / "archive", channel=channel, start=start, corner=CORNER, shape=(130, 130), lon_0=lon_0)
    given = ["--local-data-dir", str(root / "archive"), "--output-dir", str(root / "out"), "--domain", "M1"]
    shape = ["--channels", "7", "13", "--grid", "2km", "--tile-size", "32", "--steps", "1", "--num-tiles", "8"]
    assert main(["abi", *given, *shape, "--workers", "1", "--tolerance-minutes", "5"]) == 0
    return root / "out"


def origin_of(scan: str, archive: Path) -> float:
    path = next(p for p in archive.rglob("*C13*.nc") if scan.rpartition("_")[2] in p.name)
    with h5py.File(path) as h5:
        return float(np.ravel(h5["goes_imager_projection"].attrs["longitude_of_projection_origin"])[0])


def test_each_tile_knows_its_own_projection(moved: Path) -> None:
    plan = pd.read_parquet(moved / "plan.parquet")
    truth = np.array([origin_of(scan, moved.parent / "archive") for scan in plan["event_scan"]])
    assert {*truth} == {-89.5, -75.0}
    raw = xr.open_zarr(moved / "tiles.zarr", mask_and_scale=False, chunks=None)
    names = raw["projection"].attrs["flag_meanings"].split()
    assert raw["projection"].attrs["flag_values"] == [0, 1]
    assert "grid_mapping" not in raw["C13"].attrs  # each tile has its own
    for row, lon_0 in zip(plan.itertuples(), truth, strict=True):
        mapping = raw[names[int(raw["projection"][row.tile])]].attrs
        assert mapping["longitude_of_projection_origin"] == lon_0
        to_ground = pyproj.Transformer.from_crs(mapping["crs_wkt"], "EPSG:4326", always_xy=True)
        half = 16 * 56e-6
        lon, lat = to_ground.transform((row.x_left + half) * HEIGHT, (row.y_top - half) * HEIGHT)
        np.testing.assert_allclose([lon, lat], [row.longitude, row.latitude], atol=1e-5)
    opened = cube.open_tiles(moved)
    np.testing.assert_array_equal(opened["projection_longitude"], truth)
    assert (opened["projection_height"] == HEIGHT).all()
    assert opened["projection"].dims == ("tile",)


def test_the_catalogue_tells_each_tile_its_own_projection(moved: Path) -> None:
    plan = pd.read_parquet(moved / "plan.parquet")
    for row in plan.itertuples():
        (path,) = (moved / "tiles").rglob(f"{row.tile_id}.json")
        item = json.loads(path.read_text())
        crs = pyproj.CRS.from_wkt(item["properties"]["proj:wkt2"])
        lon_0 = origin_of(row.event_scan, moved.parent / "archive")
        assert crs.to_cf()["longitude_of_projection_origin"] == lon_0
        ring = np.array(item["geometry"]["coordinates"][0])
        to_scan = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        x, y = to_scan.transform(*ring.T)
        assert x.min() / HEIGHT == pytest.approx(row.x_left, abs=3e-7)
        assert y.max() / HEIGHT == pytest.approx(row.y_top, abs=3e-7)


def test_views_differ_by_all_that_makes_them() -> None:
    """Two satellites at one longitude and two heights see from two places."""
    east = GeosProjection(HEIGHT, 6378137.0, 6356752.31414, -75.0)
    higher = GeosProjection(HEIGHT + 1000, 6378137.0, 6356752.31414, -75.0)
    west = GeosProjection(HEIGHT, 6378137.0, 6356752.31414, -137.0)
    found = Views(distinct([higher, east, west, east]), "goes_imager_projection")
    assert found.projections == [west, east, higher]
    ((name, (dims, numbers, attributes)),) = found.variable([1, 0, 2]).items()
    assert (name, dims, numbers.tolist()) == ("projection", ("tile",), [1, 0, 2])
    assert attributes["flag_meanings"].split() == found.names == [f"goes_imager_projection_{i}" for i in range(3)]
    single = Views(distinct([east, east]), "goes_imager_projection")
    assert single.variable([0, 0]) == {}
    assert single.names == ["goes_imager_projection"]


def test_old_stores_with_one_projection_are_read_and_with_two_refused() -> None:
    attrs = {**GeosProjection(HEIGHT, 6378137.0, 6356752.31414, -75.0).cf_attributes()}
    store = xr.Dataset({"latitude": ("tile", [1.0, 2.0]), "goes_imager_projection": ((), 0, attrs)})
    views = read_views(store)
    assert [views[t].longitude_of_projection_origin for t in views] == [-75.0, -75.0]
    with pytest.raises(KeyError):
        views[2]
    with pytest.raises(SourceError, match="2 grid mappings and does not say which tile has which"):
        read_views(store.assign(another=((), 0, {**attrs, "longitude_of_projection_origin": -89.5})))


def test_a_satellite_that_took_the_place_of_another_is_one_cube(tmp_path: Path) -> None:
    common = {"channel": 13, "corner": CORNER, "shape": (130, 130), "lon_0": -137.0}
    paths = [
        write_abi_file(tmp_path, platform="goes17", start=datetime(2023, 1, 3, 16), **common),
        write_abi_file(tmp_path, platform="goes18", start=datetime(2023, 1, 5, 16), **common),
    ]
    tree = cube.open_abi(tmp_path, platform="west")
    assert tree.attrs["platform"] == "goes17 goes18"
    data = tree["2km"].ds
    assert data["platform"].values.tolist() == ["goes17", "goes18"]
    for i, path in enumerate(paths):
        with h5py.File(path) as h5:
            counts = h5["Rad"][()].view("u2")
            values = counts.astype("f4") * h5["Rad"].attrs["scale_factor"][0] + h5["Rad"].attrs["add_offset"][0]
            values[counts == h5["Rad"].attrs["_FillValue"][0]] = np.nan
        np.testing.assert_array_equal(data["radiance"][i, 0], values)


def test_scans_of_two_satellites_at_one_time_do_not_hide_each_other(tmp_path: Path) -> None:
    for platform in ("goes17", "goes18"):
        write_abi_file(
            tmp_path, platform=platform, channel=13, start=datetime(2022, 8, 4, 16), corner=CORNER, shape=(130, 130),
            lon_0=-137.0,
        )  # fmt: skip
    with pytest.raises(
        UsageError, match=r"goes17 and goes18 both scanned M1 at 2022-08-04 16:00.*choose one with `plat"
    ):
        cube.open_abi(tmp_path)
    assert cube.open_abi(tmp_path, platform="goes18").attrs["platform"] == "goes18"


def test_another_longitude_is_another_view(tmp_path: Path) -> None:
    for hour, lon_0 in ((16, -89.5), (17, -75.0)):
        write_abi_file(
            tmp_path, channel=13, start=datetime(2017, 12, 1, hour), corner=CORNER, shape=(130, 130), lon_0=lon_0
        )
    with pytest.raises(UsageError, match=r"2 views whose pixels do not coincide: goes16 M1 from longitude -89.5"):
        cube.open_abi(tmp_path)
