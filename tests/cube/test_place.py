"""Pixels in their place, as other libraries see them: rioxarray, odc-geo, pyproj, satpy's areas."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401
import pyproj
import pytest
import rioxarray  # noqa: F401
import xarray as xr
from odc.geo.geobox import GeoBox

import cube
from cube.build import main
from cube.testing import write_abi_archive
from stratacube.errors import UsageError

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning"),  # odc-geo calls it
    # rasterio hides it itself while it warps, but two of dask's threads undo one another's hiding
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


@pytest.fixture(scope="module")
def node(small_archive: Path) -> xr.Dataset:
    return cube.open_abi(small_archive, bands=["C13"], lonlat=True)["2km"].to_dataset()


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that keeps the pixels of 0.5 km."""
    root = tmp_path_factory.mktemp("fine")
    write_abi_archive(
        root / "archive",
        start=datetime(2020, 7, 1, 16),
        hours=1 / 6,
        channels=(2, 13),
        shape_2km=(120, 120),
        workers=1,
    )
    out = root / "out"
    flags = "--domain M1 --channels 2 13 --tile-size 64 --steps 1 --num-tiles 3 --workers 1 --half-km keep"
    assert main(["abi", "--local-data-dir", str(root / "archive"), *flags.split(), "--output-dir", str(out)]) == 0
    return out


def places(crs: pyproj.CRS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*np.meshgrid(x, y))


@pytest.mark.parametrize("name", ["radiance", "dqf", "brightness_temperature"])
def test_one_variable_knows_where_it_lies(node: xr.Dataset, name: str) -> None:
    image = node[name].isel(time=2, band=0)
    lon, lat = places(pyproj.CRS(image.rio.crs.to_wkt()), image.x.values, image.y.values)
    np.testing.assert_allclose(lon, node["longitude"], atol=1e-6)
    np.testing.assert_allclose(lat, node["latitude"], atol=1e-6)
    box = image.odc.geobox
    assert box.shape == (300, 300)
    centre = box.affine @ (0.5, 0.5)
    lon, lat = places(box.crs.proj, np.array(centre[:1]), np.array(centre[1:]))
    corner = [float(node[name][0, 0]) for name in ("longitude", "latitude")]
    assert [lon[0, 0], lat[0, 0]] == pytest.approx(corner, abs=1e-6)
    assert image.rio.bounds() == pytest.approx((*box.boundingbox,))


def test_a_real_scan_lies_where_satpy_puts_it(abi_data: Path) -> None:
    satpy = pytest.importorskip("satpy")
    path = sorted(abi_data.rglob("OR_ABI-L1b-RadM1-M6C13_G17*.nc"))[0]
    scene = satpy.Scene([str(path)], reader="abi_l1b")
    scene.load(["C13"])
    area = scene["C13"].attrs["area"]
    when = datetime.strptime(path.name.split("_s")[1][:13], "%Y%j%H%M%S")
    period = when - timedelta(minutes=1), when + timedelta(minutes=1)
    tree = cube.open_abi(abi_data, ["C13"], *period, platform="goes17", sector="M1")
    found = tree["2km"].to_dataset()
    x, y = area.get_proj_vectors()
    np.testing.assert_allclose(found["x"], x, atol=20)  # a hundredth of a pixel
    np.testing.assert_allclose(found["y"], y, atol=20)
    lon, lat = area.get_lonlat(70, 120)
    pixel = cube.pixels_at(found, lat, lon)
    assert (int(np.abs(found.y.values - float(pixel.y)).argmin()), float(pixel.x)) == (70, float(found.x[120]))


def test_places_are_found_by_latitude_and_longitude(node: xr.Dataset) -> None:
    rng = np.random.default_rng(5)
    rows, cols = rng.integers(0, 300, (2, 40))
    x = node.x.values[cols] + rng.uniform(-0.49, 0.49, 40) * 2004
    y = node.y.values[rows] + rng.uniform(-0.49, 0.49, 40) * 2004
    crs = pyproj.CRS(node["radiance"].rio.crs.to_wkt())
    lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    image = node["brightness_temperature"].isel(time=0, band=0)
    found = cube.pixels_at(image, lat, lon)
    assert found.dims == ("place",)
    np.testing.assert_array_equal(found, image.values[rows, cols])
    one = cube.pixels_at(image, float(lat[0]), float(lon[0]))
    assert one.dims == ()
    assert float(one) == image.values[rows[0], cols[0]]
    with pytest.raises(UsageError, match=r"latitude 5, longitude 100 is not seen from there"):
        cube.pixels_at(image, 5, 100)
    with pytest.raises(UsageError, match=r"latitude -5, longitude -62 lies outside of these pixels"):
        cube.pixels_at(image, [5.0, -5.0], -62)


def test_a_box_is_cut(node: xr.Dataset) -> None:
    box = (-63.0, 4.0, -61.0, 6.0)
    cut = cube.within_bbox(node, box)
    lon, lat = node["longitude"].values, node["latitude"].values
    inside = (lon >= -63) & (lon <= -61) & (lat >= 4) & (lat <= 6)
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    np.testing.assert_array_equal(cut.y, node.y[rows[0] : rows[-1] + 1])
    np.testing.assert_array_equal(cut.x, node.x[cols[0] : cols[-1] + 1])
    assert cube.within_bbox(node, (170, -90, -50, 90)).sizes == node.sizes  # over the antimeridian
    assert cube.within_bbox(node, (-180, -90, 180, 90)).sizes == node.sizes
    for bad, said in (
        ((-63, 6, -61, 4), "south 6 and north 4"),
        ((-63, 4, -61), "give west, south, east and north"),
        ((20, 4, 30, 6), "20 4 30 6 holds none of these pixels"),
    ):
        with pytest.raises(UsageError, match=said):
            cube.within_bbox(node, bad)


def test_other_projections_in_one_call(node: xr.Dataset) -> None:
    image = node["brightness_temperature"].isel(time=0, band=0)
    box = GeoBox.from_bbox((-63, 4, -61, 6), "EPSG:4326", resolution=0.05)
    there = cube.reproject(image, box)
    assert there.shape == (40, 40)
    lon, lat = np.meshgrid(there.longitude.values, there.latitude.values)
    nearest = cube.pixels_at(image, lat.ravel(), lon.ravel()).values.reshape(40, 40)
    assert (there.values == nearest).mean() > 0.97  # GDAL approximates the transform to an eighth of a pixel
    whole = cube.reproject(node, "EPSG:3857", resampling="bilinear", resolution=5000)
    assert {*whole.data_vars} == {"radiance", "dqf", "brightness_temperature"}
    assert whole["radiance"].chunks is not None
    for how, by in (("EPSG:999999", "nearest"), ("EPSG:4326", "best")):
        with pytest.raises(UsageError, match=f"cannot be brought to {how} by {by}"):
            cube.reproject(image, how, resampling=by)
    with pytest.raises(UsageError, match="no x and y in metres"):
        cube.reproject(image.drop_vars("goes_imager_projection"), "EPSG:4326")


def test_one_tile_is_an_object_in_its_place(tiles: Path) -> None:
    opened = cube.open_tiles(tiles)
    for number in (0, -1):
        tile = cube.one_tile(opened, number)
        band = tile["C13"].isel(time=0)
        lon, lat = places(pyproj.CRS(band.rio.crs.to_wkt()), band.x.values[31:33], band.y.values[31:33])
        assert (lon.mean(), lat.mean()) == pytest.approx((float(tile.longitude), float(tile.latitude)), abs=2e-4)
        assert pyproj.CRS(band.odc.geobox.crs).to_cf()["longitude_of_projection_origin"] == -75
        np.testing.assert_array_equal(tile["C13"], opened["C13"].isel(tile=number))
    fine = tile["C02"]
    assert float(fine["x_500m"][1] - fine["x_500m"][0]) == pytest.approx(14e-6 * 35786023)
    assert float(fine["x_500m"].mean()) == pytest.approx(float(tile["x"].mean()))
    assert cube.reproject(tile["C13"], "EPSG:4326").isnull().mean() < 0.5
    for bad, said in ((3, "`tile` is 3, but there are 3 tiles; give 0 to 2"), (-4, "`tile` is -4")):
        with pytest.raises(UsageError, match=said):
            cube.one_tile(opened, bad)
    with pytest.raises(UsageError, match="give what open_tiles returns"):
        cube.one_tile(tile, 0)


def test_one_tile_of_bands_at_pixels_of_their_own(tiles: Path, tmp_path: Path) -> None:
    archive = str(tiles.parent / "archive")
    flags = "--domain M1 --channels 2 13 --tile-size 64 --steps 1 --num-tiles 1 --workers 1 --grid native"
    assert main(["abi", "--local-data-dir", archive, *flags.split(), "--output-dir", str(tmp_path)]) == 0
    tile = cube.one_tile(cube.open_tiles(tmp_path), 0)
    with xr.open_dataset(next(Path(archive).rglob("*C13*.nc"))) as scan:
        left = float(tile["x_left"])
        column = int(np.abs(scan["x"].values - (left + 28e-6)).argmin())
        metres = float(scan["goes_imager_projection"].attrs["perspective_point_height"])
        np.testing.assert_allclose(tile["C13"]["x_2km"], scan["x"].values[column : column + 32] * metres, atol=15)
    assert tile.sizes["x_500m"] == 4 * tile.sizes["x_2km"] == 128


def test_the_code_of_a_report_runs_where_it_stands(tiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tiles)
    blocks = re.findall(r"```python\n(.*?)```", (tiles / "report.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "report.md", "exec"), {})
    import matplotlib.pyplot as plt

    axes = plt.gcf().axes[0]
    assert axes.get_ylim()[1] > axes.get_ylim()[0] > 0  # north is up
    assert axes.get_xlabel().endswith("[m]")
    plt.close()
