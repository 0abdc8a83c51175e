"""Cloud systems under the pixels of tiles, against the mask looked up pixel by pixel with pyproj."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import pytest
import xarray as xr

from cube.build import main
from cube.strata.cells import CellGrid, SeenGrid
from cube.strata.labels import MaskGrid
from cube.strata.masks import GridImage, find_masks
from cube.strata.readers.tracks import TRACKS
from cube.testing import write_cloud_systems
from loaders.augment import View
from loaders.tiles import TileDataset, tile_loader
from stratacube.errors import UsageError
from stratacube.parquet import read_frame

DAY = datetime(2020, 7, 1)
LAT, LON = np.arange(-5, 20, 0.25), np.arange(285, 310, 0.25)


@pytest.fixture(scope="module")
def built(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of two steps 10 minutes apart, labelled, and at two steps of 20 minutes after the last."""
    root = tmp_path_factory.mktemp("labelled")
    grid = {"latitudes": LAT, "longitudes": LON}
    write_cloud_systems(root / "masks", date=date(2020, 7, 1), steps=range(47, 55), **grid)
    flags = ["--local-data-dir", str(small_archive), "--domain", "M1", "--channels", "13", "--tile-size", "64"]
    flags += ["--steps", "2", "--step-minutes", "10", "--workers", "1", "--screen", "off", "--num-tiles", "6"]
    flags += ["-r", "convection", "-cr", str(root / "masks"), "-o", str(root / "out"), "--systems", "all"]
    assert main(["abi", *flags, "--system-labels", "--forecast-steps", "2"]) == 0
    return root


def shown(root: Path, time: datetime, longitude: npt.NDArray[Any], latitude: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Number of the system at places, by the nearest cell of the mask."""
    with h5py.File(root / "masks" / "20200701_cloudsystems.nc") as source:
        labels = source["DCS_number"][round((time - DAY) / timedelta(minutes=20))]
    row, col = np.rint((latitude - LAT[0]) / 0.25), np.rint((longitude % 360 - LON[0]) / 0.25)
    inside = (row >= 0) & (row < len(LAT)) & (col >= 0) & (col < len(LON))
    rows, cols = np.where(inside, row, 0).astype(int), np.where(inside, col, 0).astype(int)
    return np.where(inside, labels[rows, cols], -1)


def test_numbers_are_those_of_the_mask_under_each_pixel(built: Path) -> None:
    store = xr.open_zarr(built / "out" / "tiles.zarr", chunks=None)
    plan = read_frame(built / "out" / "plan.parquet")
    view = store["goes_imager_projection"].attrs if "goes_imager_projection" in store else {}
    height = float(view.get("perspective_point_height", 35786023.0))
    lon_0 = float(np.ravel(view.get("longitude_of_projection_origin", -75.0))[0])
    crs = pyproj.CRS.from_proj4(f"+proj=geos +h={height} +a=6378137 +b=6356752.31414 +lon_0={lon_0} +sweep=x")
    to_lonlat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    seen = 0
    for row in plan.itertuples():
        x = row.x_left + 28e-6 * (np.arange(64) + 0.5)
        y = row.y_top - 28e-6 * (np.arange(64) + 0.5)
        longitude, latitude = to_lonlat.transform(*(v * height for v in np.meshgrid(x, y)))
        own = [pd.Timestamp(t).to_pydatetime() for t in row.requested_times]
        ahead = [own[-1] + timedelta(minutes=20 * (i + 1)) for i in range(2)]
        for name, times in (("system_number", own), ("system_number_ahead", ahead)):
            for step, time in enumerate(times):
                nearest = DAY + timedelta(minutes=20 * np.ceil((time - DAY) / timedelta(minutes=20) - 0.5))
                expected = shown(built, nearest, longitude, latitude)
                got = store[name].values[row.tile, step]
                # Cells' edges may be on either side by rounding.
                assert (got != expected).mean() < 0.002, (row.tile, name, step)
                seen += (got > 0).sum()
        assert row.system_id in store["system_number"].values[row.tile]
    assert seen > 1000
    assert store["ahead_minutes"].values.tolist() == [20, 40]


def test_stages_are_quarters_of_the_life_that_the_masks_show(built: Path) -> None:
    store = xr.open_zarr(built / "out" / "tiles.zarr", chunks=None)
    numbers, stages = store["system_number"].values, store["life_stage"].values
    assert ((numbers == 0) == (stages == 0)).all()
    with h5py.File(built / "masks" / "20200701_cloudsystems.nc") as source:
        labels = source["DCS_number"][:]
    present = {int(n): np.flatnonzero((labels == n).any(axis=(1, 2))) for n in np.unique(numbers) if n > 0}
    plan = read_frame(built / "out" / "plan.parquet")
    for row in plan.itertuples():
        for step, time in enumerate(row.requested_times):
            slot = int(np.ceil((pd.Timestamp(time).to_pydatetime() - DAY) / timedelta(minutes=20) - 0.5))
            for n in np.unique(numbers[row.tile, step][numbers[row.tile, step] > 0]).tolist():
                first, last = present[n][0], present[n][-1]
                age = (slot - first + 0.5) / (last - first + 1)
                found = np.unique(stages[row.tile, step][numbers[row.tile, step] == n])
                assert found.tolist() == [1 + int(age * 4)]


def test_loaders_give_inputs_and_targets_cut_alike(built: Path) -> None:
    store = built / "out" / "tiles.zarr"
    names = ["system_number", "life_stage_ahead"]
    whole = TileDataset(store, targets=names)[0]
    raw = xr.open_zarr(store, chunks=None)
    for name in names:
        np.testing.assert_array_equal(whole.labels[name].numpy()[0], raw[name].values[int(whole.meta["tile"][0])])
    view = View(steps=1, crop=32, where="random", flips=True, rotations=True)
    loader = tile_loader(store, 4, view=view, targets=names, shuffle=True, seed=3)
    for batch in loader:
        assert batch.pixels.shape[1:] == (1, 1, 32, 32)
        assert batch.labels["life_stage_ahead"].shape[1:] == (2, 32, 32)
        for i in range(len(batch)):
            tile, (step, row, col, turn) = int(batch.meta["tile"][i]), batch.meta["place"][i].tolist()
            cut = raw["system_number"].values[tile, step : step + 1, row : row + 32, col : col + 32]
            turned = np.rot90(cut, turn % 4, (-2, -1))
            turned = turned[..., ::-1] if turn >= 4 else turned
            np.testing.assert_array_equal(batch.labels["system_number"][i].numpy(), turned)
    with pytest.raises(UsageError, match=r"has no 'C13' for each pixel; it has .*system_number"):
        TileDataset(store, targets=["C13"])


def test_places_lie_in_the_cells_that_they_are_nearest_to() -> None:
    rng = np.random.default_rng(8)
    regular = MaskGrid.of(LAT, LON)
    longitude, latitude = np.meshgrid(LON, LAT)
    cells = CellGrid.of(latitude, longitude)
    lon, lat = rng.uniform(286, 309, 500), rng.uniform(-4, 19, 500)
    expected = np.rint((lat - LAT[0]) / 0.25) * len(LON) + np.rint((lon - LON[0]) / 0.25)
    assert regular.locate(lon - 360, lat).tolist() == expected.tolist()
    # On the sphere the nearest centre is another near a cell's corner.
    assert (cells.locate(lon, lat) == expected).mean() > 0.97
    assert regular.locate(np.array([280.0, np.nan, 300.0]), np.array([0.0, 0.0, 25.0])).tolist() == [-1, -1, -1]
    assert cells.locate(np.array([280.0, np.nan]), np.array([0.0, 0.0])).tolist() == [-1, -1]
    from cube.geostationary.grid import GeosProjection

    view = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)
    angles = np.linspace(-0.05, 0.05, 41)
    seen = SeenGrid(view, angles, angles[::-1])
    rows, cols = rng.integers(0, 41, 100), rng.integers(0, 41, 100)
    assert seen.locate(*seen.place(rows, cols)).tolist() == (rows * 41 + cols).tolist()


def test_outlines_and_cells_show_the_same(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "id,time,wkt\n"
        '3,2020-07-01,"POLYGON ((179 0, -179 0, -179 1, 179 1, 179 0))"\n'
        '4,2020-07-01,"POLYGON ((10 0, 12 0, 12 1, 10 1, 10 0))"\n'
    )
    assert TRACKS.images is not None
    (image,) = TRACKS.images(find_masks(str(tmp_path / "t.csv"))[0][0], {DAY})
    lon, lat = np.array([179.5, -179.5, 11.0, 371.0, 13.0, np.nan]), np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert image.numbers(lon, lat).tolist() == [3, 3, 4, 4, 0, -1]
    grid = MaskGrid.of(np.array([0.0, 1.0]), np.array([10.0, 11.0, 12.0]))
    labelled = GridImage(DAY, grid, np.array([9, 8]), np.array([1, 5]))
    places = np.array([11.1, 12.0, 10.0, 20.0]), np.array([0.1, 1.0, 0.0, 0.0])
    assert labelled.numbers(*places).tolist() == [9, 8, 0, -1]
