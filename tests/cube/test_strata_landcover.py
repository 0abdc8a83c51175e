"""Land cover: footprints against pixels looked up one by one, rasters of all kinds, draws by class, a whole build."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

import cube
from catalog.geostationary.scans import Scan
from cube.config import AbiConfig
from cube.geostationary.grid import FixedGrid, GeosProjection, Window
from cube.geostationary.run import run_abi
from cube.strata import SampleRequest
from cube.strata.landcover.footprints import class_image, footprint_counts
from cube.strata.landcover.legends import IGBP, shares_of
from cube.strata.landcover.raster import NODATA, OFF_EARTH, open_landcover
from cube.strata.landcover.sampler import LandcoverSampler
from cube.strata.turns import turns
from cube.testing import write_mcd12c1
from stratacube.errors import SourceError, UsageError

VIEW = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)
EDGE = 28e-6 * 10847 / 2
DISK = FixedGrid(VIEW, -EDGE, EDGE, 28e-6, -28e-6, 10848, 10848)
START = datetime(2020, 7, 1, 16)


def write_raster(path: Path, values: NDArray[Any], transform: Affine, crs: str = "EPSG:4326", **more: Any) -> Path:
    rows, columns = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=rows,
        width=columns,
        count=1,
        dtype=values.dtype,
        crs=crs,
        transform=transform,
        **more,
    ) as out:
        out.write(values, 1)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole Earth in cells of half a degree: bands of classes, and some without any."""
    values = np.random.default_rng(5).choice(
        np.array([0, 2, 7, 12, 255], "u1"), (360, 720), p=[0.5, 0.2, 0.15, 0.1, 0.05]
    )
    folder = tmp_path_factory.mktemp("world")
    return write_raster(folder / "MCD12C1.tif", values, Affine(0.5, 0, -180, 0, -0.5, 90), nodata=255)


def pixels_one_by_one(path: Path, grid: FixedGrid) -> NDArray[np.int64]:
    """Value of the raster under each pixel's centre; -1 off the Earth. By PROJ and rasterio alone."""
    with rasterio.open(path) as source:
        values, transform = source.read(1), source.transform
    height = VIEW.perspective_point_height
    geos = pyproj.CRS.from_proj4(f"+proj=geos +sweep=x +lon_0=-75 +h={height} +a=6378137 +b=6356752.31414")
    x, y = np.meshgrid(grid.x * height, grid.y * height)
    lon, lat = pyproj.Transformer.from_crs(geos, geos.geodetic_crs, always_xy=True).transform(x, y)
    seen = np.isfinite(lon)
    col = (np.where(seen, lon, 0.0) - transform.c) / transform.a
    row = (np.where(seen, lat, 0.0) - transform.f) / transform.e
    found = values[np.floor(row).astype(int), np.floor(col).astype(int) % values.shape[1]].astype("i8")
    return np.where(seen, found, -1)


def test_footprints_of_200_tiles_are_the_pixels_counted_one_by_one(data_folder: Path) -> None:
    raster = data_folder / "landcover" / "MCD12C1.A2019001.006.2020220162300.tif"
    cover = open_landcover(str(raster))
    grid = DISK.window(Window(1200, 1400, 900, 1100))  # the limb, north-west
    rng = np.random.default_rng(0)
    row, col = 2 * rng.integers(0, (900 - 96) // 2, 200), 2 * rng.integers(0, (1100 - 96) // 2, 200)
    counts = footprint_counts(cover, grid, row, col, 96)
    truth = pixels_one_by_one(raster, grid)
    for i in range(200):
        tile = truth[row[i] : row[i] + 96, col[i] : col[i] + 96]
        wanted = [np.count_nonzero(tile == number) for number in (*cover.classes, 255, -1)]
        assert counts[i].tolist() == wanted
    assert (counts[:, -1] > 0).sum() > 20
    assert (counts[:, -1] == 0).sum() > 20


def test_cells_without_a_class_and_pixels_off_the_earth_are_apart(world: Path) -> None:
    cover = open_landcover(str(world))
    grid = DISK.window(Window(900, 2300, 400, 600))
    image = class_image(cover, grid)
    truth = pixels_one_by_one(world, grid)
    assert cover.classes == (0, 2, 7, 12)
    assert {int(n) for n in np.unique(truth)} == {-1, 0, 2, 7, 12, 255}
    for code, value in [*enumerate(cover.classes), (NODATA, 255), (OFF_EARTH, -1)]:
        assert np.array_equal(image == code, truth == value)


def test_odd_origins_and_sizes_are_counted_too(world: Path) -> None:
    cover = open_landcover(str(world))
    grid = DISK.window(Window(4000, 4000, 301, 299))
    row, col = np.array([0, 3, 250, 7]), np.array([1, 0, 248, 11])
    image = class_image(cover, grid)
    counts = footprint_counts(cover, grid, row, col, 51)
    for i in range(4):
        tile = image[row[i] : row[i] + 51, col[i] : col[i] + 51]
        assert counts[i].tolist() == [np.count_nonzero(tile == c) for c in (0, 1, 2, 3, NODATA, OFF_EARTH)]


def test_hdf4_is_the_same_as_its_geotiff(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "landcover"
    one = open_landcover(str(folder / "MCD12Q1.A2001001.h00v08.006.2018142182903.hdf"))
    other = open_landcover(str(folder / "MCD12Q1.A2001001.h00v08.006.2018142182903_LC_Type1.tif"))
    assert np.array_equal(one.rasters[0].values, other.rasters[0].values)
    assert one.rasters[0].transform.almost_equals(other.rasters[0].transform, 1e-3)
    assert one.names[17] == "Water Bodies"
    assert one.classes == other.classes
    lon, lat = np.linspace(-180, -170, 400), np.linspace(0.01, 9.99, 400)
    assert np.array_equal(one.codes(lon, lat), other.codes(lon, lat))
    assert (one.codes(lon, lat) != NODATA).sum() > 100
    world = write_mcd12c1(tmp_path / "MCD12C1.hdf", np.arange(200, dtype="u1").reshape(10, 20) % 17)
    cover = open_landcover(str(world))
    assert cover.rasters[0].transform == Affine(18, 0, -180, 0, -18, 90)
    assert cover.codes(np.array([-179.0, 179.0]), np.array([89.0, -89.0])).tolist() == [0, 199 % 17]
    assert cover.names[13] == "Urban and Built-up Lands"


def test_worldcover_is_read_by_its_overviews(data_folder: Path) -> None:
    cover = open_landcover(str(data_folder / "landcover" / "ESA_WorldCover*.tif"))
    assert cover.rasters[0].values.shape == (1125, 1125)
    assert cover.names[95] == "Mangroves"
    assert set(cover.classes) <= set(cover.names)
    with rasterio.open(data_folder / "landcover" / "ESA_WorldCover_10m_2021_v200_N00E006_Map.tif") as source:
        exact = source.read(1, window=((17_000, 17_320), (32_000, 32_320)))
    lon, lat = 6 + 32_160 / 12_000, 3 - 17_160 / 12_000
    code = int(cover.codes(np.array([lon]), np.array([lat]))[0])
    assert cover.classes[code] in exact if code != NODATA else 0 in exact
    assert cover.codes(np.array([5.99, 9.01]), np.array([1.0, 1.0])).tolist() == [NODATA, NODATA]


def test_rasters_side_by_side_are_one(tmp_path: Path) -> None:
    for i, value in enumerate((10, 30)):
        transform = Affine(0.1, 0, -80 + 10 * i, 0, -0.1, 10)
        write_raster(tmp_path / f"part{i}.tif", np.full((100, 100), value, "i2"), transform, nodata=-1)
    cover = open_landcover(str(tmp_path / "*.tif"), "worldcover")
    assert [cover.names[n] for n in cover.classes] == ["Tree cover", "Grassland"]
    assert cover.codes(np.array([-75.0, -65.0, -55.0]), np.full(3, 5.0)).tolist() == [0, 1, NODATA]


def test_each_raster_has_its_own_cells_without_a_class(tmp_path: Path) -> None:
    for i, nodata in enumerate((0, 9)):
        transform = Affine(1, 0, -80 + 2 * i, 0, -1, 10)
        write_raster(tmp_path / f"part{i}.tif", np.array([[0, 9]], "u1"), transform, nodata=nodata)
    cover = open_landcover(str(tmp_path / "*.tif"))
    assert cover.classes == (0, 9)
    assert cover.codes(np.arange(-79.5, -76), np.full(4, 9.5)).tolist() == [NODATA, 1, 0, NODATA]


def grid_of(_: Scan) -> FixedGrid:
    return DISK.window(Window(3000, 5000, 900, 1000))


def request(**more: Any) -> SampleRequest:
    starts = [START + timedelta(minutes=10 * i) for i in range(5)]
    scans = [Scan("goes16", "ABI-L1b-RadM", "M1", 6, t, t + timedelta(minutes=1), {}) for t in starts]
    return SampleRequest(**{"scans": scans, "grid_of": grid_of, "tile_size": 96, "align": 2, "num_tiles": 40, **more})


def test_classes_are_drawn_in_equal_shares_from_all_their_places(world: Path) -> None:
    sampler = LandcoverSampler(request(), landcover=str(world))
    drawn = list(islice(sampler.candidates(), 40))
    again = list(islice(LandcoverSampler(request(seed=0), landcover=str(world)).candidates(), 60))
    assert again[:40] == drawn
    tally = Counter(c.details["class"] for c in drawn)
    assert max(tally.values()) - min(tally.values()) <= 1
    image = class_image(sampler.cover, grid_of(request().scans[0]))
    for c in drawn:
        row, col = c.details["row"], c.details["col"]
        tile = image[row : row + 96, col : col + 96]
        counts = np.bincount(tile.ravel(), minlength=256)[: len(sampler.cover.classes)]
        assert sampler.cover.classes[int(counts.argmax())] == c.details["class"]
        assert c.details["class_share"] == counts.max() / 96**2


def test_chances_are_those_of_all_places_of_a_class(world: Path) -> None:
    """Of one class, each place is drawn alike; the chances of all are the tiles of that class."""
    wanted = request(num_tiles=8)
    sampler = LandcoverSampler(wanted, landcover=str(world), landcover_classes=["croplands=3", "2"])
    drawn = list(islice(sampler.candidates(), 8))
    assert Counter(c.details["class"] for c in drawn) == {12: 6, 2: 2}
    found = sampler._classed(wanted.scans[0])
    assert found is not None
    image = class_image(sampler.cover, found.places.grid)
    places = 0
    for row in range(0, 900 - 96 + 1, 2):
        for col in range(0, 1000 - 96 + 1, 50):
            counts = np.bincount(image[row : row + 96, col : col + 96].ravel(), minlength=256)[:4]
            bits = np.unpackbits(found.members[3][row // 2])
            assert bool(bits[col // 2]) == (counts.argmax() == 3)
            places += int(counts.argmax() == 3)
    assert places
    cropland = next(c for c in drawn if c.details["class"] == 12)
    assert cropland.probability == pytest.approx(6 / (5 * found.count(3)))


def test_a_share_of_the_pixels_may_decide(world: Path) -> None:
    sampler = LandcoverSampler(request(), landcover=str(world), landcover_classes=["7"], landcover_min_fraction=0.3)
    for c in islice(sampler.candidates(), 20):
        assert c.details["class_share"] >= 0.3


def test_what_cannot_be_is_one_sentence(world: Path, tmp_path: Path) -> None:
    def refused(wanted: SampleRequest | None = None, **options: Any) -> str:
        with pytest.raises((UsageError, SourceError)) as error:
            next(LandcoverSampler(wanted or request(), **{"landcover": str(world), **options}).candidates())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "names 'cropland'; the raster has 0, 2, 7, 12, " in refused(landcover_classes=["cropland"])
    assert "did you mean croplands?" in refused(landcover_classes=["cropland"])
    assert "twice" in refused(landcover_classes=["croplands", "12"])
    assert "share 'many'" in refused(landcover_classes=["12=many"])
    assert "croplands is on 0.99 of the pixels of no tile" in refused(
        landcover_classes=["12"], landcover_min_fraction=0.99
    )
    assert "no file matches" in refused(landcover=str(tmp_path / "none*.tif"))
    (tmp_path / "cut.hdf").write_bytes(b"\x0e\x03\x13\x01" + bytes(100))
    assert "cut.hdf cannot be read as a MODIS land-cover file" in refused(landcover=str(tmp_path / "cut.hdf"))
    whole = write_mcd12c1(tmp_path / "whole.hdf", np.zeros((180, 360), "u1")).read_bytes()
    (tmp_path / "half.hdf").write_bytes(whole[: len(whole) // 2])
    assert "half.hdf cannot be read" in refused(landcover=str(tmp_path / "half.hdf"))
    (tmp_path / "text.hdf").write_text("no")
    assert "it is not an HDF4 file" in refused(landcover=str(tmp_path / "text.hdf"))
    (tmp_path / "text.tif").write_text("no")
    assert "text.tif cannot be read as a raster" in refused(landcover=str(tmp_path / "text.tif"))
    write_raster(tmp_path / "float.tif", np.ones((9, 9), "f4"), Affine(1, 0, -80, 0, -1, 10))
    assert "classes are whole numbers" in refused(landcover=str(tmp_path / "float.tif"))
    write_raster(tmp_path / "many.tif", np.arange(900, dtype="i2").reshape(30, 30), Affine(1, 0, -80, 0, -1, 10))
    assert "holds 900 different values" in refused(landcover=str(tmp_path / "many.tif"))
    far = write_raster(tmp_path / "far.tif", np.ones((9, 9), "u1"), Affine(1, 0, 100, 0, -1, 10))
    assert "each class is the commonest class of no tile" in refused(landcover=str(far))


def test_without_pyhdf_one_sentence_tells_what_to_install(tmp_path: Path) -> None:
    write_mcd12c1(tmp_path / "a.hdf", np.zeros((18, 36), "u1"))
    code = (
        "import sys; sys.modules['pyhdf'] = None\n"
        "from cube.strata.landcover.raster import open_landcover\n"
        f"open_landcover({str(tmp_path / 'a.hdf')!r})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'stratacube[hdf4]'" in found.stderr.splitlines()[-1]


def test_shares_and_turns() -> None:
    assert shares_of([], [0, 12], IGBP) == {0: 1.0, 12: 1.0}
    assert shares_of(["Water bodies=2"], [0, 17], IGBP) == {0: 2.0}
    drawn = list(islice(turns({1: 3.0, 2: 1.0}), 40))
    assert Counter(drawn) == {1: 30, 2: 10}
    assert Counter(drawn[:8]) == {1: 6, 2: 2}


def test_a_build_keeps_the_fractions_of_its_tiles(small_archive: Path, world: Path, tmp_path: Path) -> None:
    config = AbiConfig(
        stratification="landcover",
        landcover=str(world),
        output_dir=tmp_path / "tiles",
        local_data_dir=small_archive,
        domain="M1",
        channels=[13],
        tile_size=64,
        steps=1,
        num_tiles=6,
        workers=1,
        screen="off",
    )
    assert run_abi(config).code == 0
    assert (tmp_path / "tiles" / "landcover_classes.csv").exists()
    opened = cube.open_tiles(tmp_path / "tiles")
    assert opened["landcover"].values.tolist() == [0, 2, 7, 12]
    assert opened["landcover"].attrs["flag_meanings"].split()[3] == "croplands"
    raw = xr.open_zarr(tmp_path / "tiles" / "tiles.zarr")
    pixel = 28e-6
    for tile in range(6):
        left, top = float(raw["x_left"][tile]), float(raw["y_top"][tile])
        view = GeosProjection(
            **{
                name: raw["goes_imager_projection"].attrs[name]
                for name in (
                    "perspective_point_height",
                    "semi_major_axis",
                    "semi_minor_axis",
                    "longitude_of_projection_origin",
                    "sweep_angle_axis",
                )
            }
        )
        grid = FixedGrid(view, left + pixel / 2, top - pixel / 2, pixel, -pixel, 64, 64)
        truth = pixels_one_by_one(world, grid)
        wanted = [np.mean(truth == number) for number in (0, 2, 7, 12)]
        assert opened["landcover_fraction"].values[tile] == pytest.approx(wanted, abs=1e-6)
        assert float(opened["landcover_nodata"][tile]) == pytest.approx(np.mean(truth == 255), abs=1e-6)


def test_a_raster_that_leads_to_other_files_is_refused(tmp_path: Path) -> None:
    """GDAL takes a few lines of XML, whatever they are called, for the raster of any file they name."""
    own = write_raster(tmp_path / "own.tif", np.ones((9, 9), "u1"), Affine(1, 0, -80, 0, -1, 10))
    rasterio.shutil.copy(own, tmp_path / "own.vrt", driver="VRT")
    posing = (tmp_path / "own.vrt").rename(tmp_path / "posing.tif")
    with rasterio.open(posing) as file:
        assert file.read(1).max() == 1, "GDAL alone follows it"
    with pytest.raises(SourceError, match=r"posing.tif cannot be read as a raster .*give it as a GeoTIFF"):
        open_landcover(str(posing))
    assert open_landcover(str(own)).classes == (1,)
