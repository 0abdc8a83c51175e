"""The synthetic archive against real files, satpy, xarray, the grid's geometry and its own masks."""

from __future__ import annotations

import zlib
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj
import pytest
import satpy
import xarray as xr
from h5py import h5, h5a
from pyorbital import astronomy

from cube.testing import (
    label_systems,
    write_abi_archive,
    write_abi_file,
    write_abi_full_disk,
    write_cloud_systems,
    write_monthly_cloud_systems,
)
from cube.testing.abi.geometry import HEIGHT, Grid, angles_of, earth_edge, ground_of, view_zenith
from cube.testing.abi.sky import sky
from cube.testing.abi.spec import GOES16, sector_grid
from cube.testing.systems import active_systems
from stratacube.errors import UsageError

START = datetime(2020, 7, 1, 16)
REAL_START = datetime(2019, 10, 27, 20, 0, 27, 551699)
REAL_CHANNELS = (1, 4, 5, 6, 7, 8, 13, 16)
# What may differ from a real file: texts that name its making, and what its pixels and its satellite's calibration say.
OWN_TEXTS = {
    "institution", "production_site", "title", "summary", "license", "dataset_name", "production_data_source",
    "date_created", "LUT_Filenames", "id",
}  # fmt: skip
OWN_VALUES = {"scale_factor", "add_offset", "valid_range"}


def read(path: Path, name: str = "Rad") -> np.ndarray[Any, Any]:
    with h5py.File(path) as file:
        pixels = file[name][:]
    return pixels.view("u2") if name == "Rad" else pixels


def radiance(path: Path) -> np.ndarray[Any, Any]:
    with h5py.File(path) as file:
        attributes = file["Rad"].attrs
        values = read(path) * np.float64(attributes["scale_factor"][0]) + attributes["add_offset"][0]
        return np.where(file["DQF"][:] >= 0, values, np.nan)


def brightness(path: Path) -> np.ndarray[Any, Any]:
    with h5py.File(path) as file:
        fk1, fk2, bc1, bc2 = (file[f"planck_{k}"][()] for k in ("fk1", "fk2", "bc1", "bc2"))
    return (fk2 / np.log(fk1 / np.maximum(radiance(path), 1e-6) + 1) - bc1) / bc2


def attribute_names(location: Any) -> list[str]:
    return [
        h5a.open(location.id, index=i, index_type=h5.INDEX_CRT_ORDER).name.decode()
        for i in range(h5a.get_num_attrs(location.id))
    ]


def attribute_kind(location: Any, name: str) -> tuple[Any, ...]:
    attribute = h5a.open(location.id, name.encode())
    kind = attribute.get_type()
    is_text = kind.get_class() == h5py.h5t.STRING
    text = (kind.get_strpad(), kind.get_cset(), kind.is_variable_str()) if is_text else attribute.dtype
    return text, attribute.shape


def storage(dataset: h5py.Dataset) -> tuple[Any, ...]:
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    fill = None if dataset.name == "/Rad" else dataset.fillvalue
    return dataset.dtype, dataset.shape, dataset.maxshape, dataset.chunks, filters, fill, plist.get_layout()


def links(file: h5py.File) -> list[bytes]:
    names: list[bytes] = []
    file.id.links.iterate(lambda name: names.append(name) and None, idx_type=h5.INDEX_CRT_ORDER)
    return names


@pytest.mark.parametrize("channel", REAL_CHANNELS)
def test_a_file_has_the_layout_of_the_real_one(tmp_path: Path, abi_data: Path, channel: int) -> None:
    (real_path,) = (abi_data / "noaa-goes17/ABI-L1b-RadM/2019/300/20").glob(f"*C{channel:02d}_*.nc")
    shape = (1000, 1000) if channel in (1, 3, 5) else (500, 500)
    path = write_abi_file(
        tmp_path, platform="goes17", channel=channel, start=REAL_START, corner=(0.02464, 0.11536),
        counts=np.zeros(shape, "u2"),
    )  # fmt: skip
    assert path.parent == tmp_path / "noaa-goes17/ABI-L1b-RadM/2019/300/20"
    assert path.name.split("_c")[0] == real_path.name.split("_c")[0]
    with h5py.File(path) as ours, h5py.File(real_path) as real:
        assert ours.id.get_create_plist().get_version() == real.id.get_create_plist().get_version()
        assert attribute_names(ours) == [*attribute_names(real), "synthetic"]
        for name, value in real.attrs.items():
            assert attribute_kind(ours, name) == attribute_kind(real, name) or name in OWN_TEXTS
            if name not in OWN_TEXTS:
                assert ours.attrs[name] == value, name
        assert links(ours) == links(real)
        for name in real:
            compare_variables(ours[name], real[name])


def compare_variables(ours: h5py.Dataset, real: h5py.Dataset) -> None:
    assert storage(ours) == storage(real), real.name
    plumbing = {"DIMENSION_LIST", "_Netcdf4Dimid", "REFERENCE_LIST"}
    assert set(attribute_names(ours)) == set(attribute_names(real)), real.name
    for name in set(attribute_names(real)) - plumbing:
        where = f"{real.name} {name}"
        assert attribute_kind(ours, name) == attribute_kind(real, name), where
        if name in OWN_VALUES and real.name not in ("/x", "/y"):
            continue
        if name.startswith(("percent_", "geospatial_")) and not name.endswith("units"):
            np.testing.assert_allclose(ours.attrs[name], real.attrs[name], atol=0.05, err_msg=where)
        else:
            assert np.array_equal(ours.attrs[name], real.attrs[name]), where
    if real.name in ("/x", "/y", "/x_image", "/y_image", "/band_id", "/band_wavelength", "/goes_imager_projection"):
        np.testing.assert_array_equal(ours[()], real[()])
    elif real.name in ("/x_image_bounds", "/y_image_bounds", "/earth_sun_distance_anomaly_in_AU"):
        np.testing.assert_allclose(ours[()], real[()], rtol=1e-4)
    elif real.name in ("/t", "/time_bounds"):
        np.testing.assert_allclose(ours[()], real[()], atol=0.1, rtol=0)


def test_it_says_that_it_is_synthetic(tmp_path: Path) -> None:
    path = write_abi_file(tmp_path, channel=13, start=START, shape=(20, 20))
    with h5py.File(path) as file:
        for name in ("synthetic", "title", "summary", "institution"):
            assert b"ynthetic" in file.attrs[name]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("channel", "calibration"), [(2, "reflectance"), (2, "radiance"), (7, "brightness_temperature")]
)
def test_satpy_reads_what_was_packed(tmp_path: Path, channel: int, calibration: str) -> None:
    counts = (np.arange(80 * 120, dtype="u2").reshape(80, 120) * 7) % 4000 + 30
    counts[3, 5] = 2 ** GOES16[channel].bits - 1
    path = write_abi_file(tmp_path, channel=channel, start=START, counts=counts)
    scene = satpy.Scene([str(path)], reader="abi_l1b")
    scene.load([f"C{channel:02d}"], calibration=calibration)
    seen = scene[f"C{channel:02d}"]
    numbers = GOES16[channel]
    packed = counts * np.float64(numbers.scale) + numbers.offset
    with h5py.File(path) as file:
        kappa0 = float(file["kappa0"][()])
    if calibration == "reflectance":
        expected = 100 * packed * kappa0
    elif calibration == "radiance":
        expected = packed
    else:
        expected = numbers.planck_fk2 / np.log(numbers.planck_fk1 / packed + 1)
        expected = (expected - numbers.planck_bc1) / numbers.planck_bc2
    expected[3, 5] = np.nan
    np.testing.assert_allclose(seen.values, expected, rtol=2e-5)
    assert seen.attrs["platform_name"] == "GOES-16"
    grid = sector_grid("goes16", "M1", shape_2km=(80 // (4 if channel == 2 else 1), 120 // (4 if channel == 2 else 1)))
    left_bottom_right_top = np.array(seen.attrs["area"].area_extent) / HEIGHT
    right, bottom = grid.left + grid.dx * grid.width, grid.top + grid.dy * grid.height
    np.testing.assert_allclose(left_bottom_right_top, [grid.left, bottom, right, grid.top], atol=1e-8)


def test_xarray_reads_axes_and_times(tmp_path: Path) -> None:
    path = write_abi_file(tmp_path, channel=8, start=START, shape=(40, 60), corner=(-0.014, 0.1))
    with xr.open_dataset(path, engine="h5netcdf") as data:
        np.testing.assert_allclose(data.x.values, -0.014 + 56e-6 * (np.arange(60) + 0.5), atol=1e-8)
        np.testing.assert_allclose(data.y.values, 0.1 - 56e-6 * (np.arange(40) + 0.5), atol=1e-8)
        middle = np.datetime64(START) + np.timedelta64(2870, "ms")
        assert abs(data.t.values - middle) < np.timedelta64(1, "ms")
        assert data.Rad.dims == ("y", "x")


@pytest.mark.parametrize("channel", range(1, 17))
def test_packing_is_that_of_real_files(abi_data: Path, channel: int) -> None:
    (path,) = (abi_data / "noaa-goes17/ABI-L1b-RadM/2019/335/10").glob(f"*C{channel:02d}_*.nc")
    with h5py.File(path) as file:
        attributes, numbers = file["Rad"].attrs, GOES16[channel]
        assert attributes["scale_factor"] == pytest.approx(numbers.scale, rel=1e-6)
        assert attributes["add_offset"] == pytest.approx(numbers.offset, rel=1e-6)
        assert attributes["_FillValue"] == 2**numbers.bits - 1
        # Esun and Planck coefficients differ a little between instruments.
        ours = (numbers.esun, numbers.planck_fk1, numbers.planck_fk2, numbers.planck_bc2)
        theirs = [float(file[k][()]) for k in ("esun", "planck_fk1", "planck_fk2", "planck_bc2")]
        assert ours == pytest.approx(theirs, rel=0.02)
        assert numbers.planck_bc1 == pytest.approx(float(file["planck_bc1"][()]), abs=0.3)


@pytest.mark.parametrize("lon_0", [-75.0, -137.0])
def test_the_ground_is_where_pyproj_has_it(lon_0: float) -> None:
    geos = pyproj.CRS.from_proj4(f"+proj=geos +h=35786023 +lon_0={lon_0} +sweep=x +ellps=GRS80 +units=m")
    to_ground = pyproj.Transformer.from_crs(geos, geos.geodetic_crs, always_xy=True)
    x, y = np.meshgrid(np.linspace(-0.155, 0.155, 80), np.linspace(-0.155, 0.155, 70))
    lon, lat = ground_of(lon_0, x, y)
    theirs = np.asarray(to_ground.transform(x * HEIGHT, y * HEIGHT))
    seen = np.isfinite(theirs[0])
    assert 0.6 < seen.mean() < 0.8
    np.testing.assert_array_equal(np.isfinite(lon), seen)
    np.testing.assert_allclose(np.stack([lon, lat])[:, seen], theirs[:, seen], atol=1e-7)
    back = np.stack(angles_of(lon_0, *theirs[:, seen]))
    inner = np.hypot(x, y)[seen] < 0.15  # nearer to the limb a place is known to less than its angle
    np.testing.assert_allclose(back[:, inner], np.stack([x, y])[:, seen][:, inner], atol=1e-9)
    assert np.isnan(angles_of(lon_0, [lon_0 + 180.0, lon_0 + 82.0], [0.0, 0.0])[0]).all()  # behind the Earth
    off_limb = np.abs(x) > earth_edge(y[:, 0])[:, None]
    np.testing.assert_array_equal(off_limb, ~seen)


def test_the_satellite_stands_where_pyproj_has_it() -> None:
    rng = np.random.default_rng(2)
    lon, lat = rng.uniform(-140, -10, 500), rng.uniform(-65, 65, 500)
    to_metres = pyproj.Transformer.from_crs(4979, 4978, always_xy=True)
    foot = np.stack(to_metres.transform(lon, lat, np.zeros(500)))
    up = np.stack(to_metres.transform(lon, lat, np.full(500, 1.0))) - foot
    satellite = np.stack(to_metres.transform(-75.0, 0.0, 35786023.0))[:, None] - foot
    cosine = (up * satellite).sum(0) / np.linalg.norm(up, axis=0) / np.linalg.norm(satellite, axis=0)
    np.testing.assert_allclose(view_zenith(-75.0, lon, lat), np.degrees(np.arccos(cosine)), atol=1e-4)


@pytest.mark.parametrize("hours", [0, 3, 7, 4000])
def test_the_sun_shines_where_pyorbital_has_it(hours: int) -> None:
    grid, time = sector_grid("goes16", "F").rescaled(60), START + timedelta(hours=hours)
    lon, lat = grid.lonlat(np.arange(grid.height)[:, None], np.arange(grid.width))
    seen = np.hypot(grid.x[None, :], grid.y[:, None]) < 0.145  # at the limb the sky is that of the nearest ground
    cosine = np.cos(np.radians(astronomy.sun_zenith_angle(np.datetime64(time, "ns"), lon[seen], lat[seen])))
    np.testing.assert_allclose(sky(0, grid, time).sun[seen], np.maximum(cosine, 0), atol=3e-4)


@pytest.mark.parametrize("channel", range(1, 17))
def test_a_channel_has_the_pixels_and_units_of_real_files(tmp_path: Path, abi_data: Path, channel: int) -> None:
    (real,) = (abi_data / "noaa-goes17/ABI-L1b-RadM/2019/335/10").glob(f"*C{channel:02d}_*.nc")
    ours = write_abi_file(tmp_path, platform="goes17", channel=channel, start=REAL_START, shape=(8, 8))
    with h5py.File(ours) as a, h5py.File(real) as b:
        assert a.attrs["spatial_resolution"] == b.attrs["spatial_resolution"]
        for name in ("units", "standard_name", "resolution", "sensor_band_bit_depth"):
            assert a["Rad"].attrs[name] == b["Rad"].attrs[name]
        for name in ("kappa0", "planck_fk1"):
            assert (a[name][()] == -999) == (b[name][()] == -999)
        assert a["band_wavelength"][0] == b["band_wavelength"][0]


def test_kappa0_is_pi_d2_over_esun(tmp_path: Path) -> None:
    with h5py.File(write_abi_file(tmp_path, channel=1, start=START, shape=(20, 20))) as file:
        distance, esun = file["earth_sun_distance_anomaly_in_AU"][()], file["esun"][()]
        assert file["kappa0"][()] == pytest.approx(np.pi * distance**2 / esun, abs=1e-7)
        assert file["planck_fk1"][()] == -999
        assert distance == pytest.approx(1.0167, abs=2e-4)  # aphelion was on 4 July 2020


def test_encodings_can_be_chosen(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 3000, (70, 110)).astype("u2")
    flags = (counts % 4).astype("i1")
    path = write_abi_file(
        tmp_path / "x.nc", channel=13, start=START, counts=counts, dqf=flags, shuffle=True, packing=(0.06, -2.0),
        fill=65535, chunks=(32, 50), flag_count=4, calibration={"planck_fk1": 10000.0},
    )  # fmt: skip
    assert path == tmp_path / "x.nc"
    np.testing.assert_array_equal(read(path), counts)
    np.testing.assert_array_equal(read(path, "DQF"), flags)
    with h5py.File(path) as file:
        rad = file["Rad"]
        assert (rad.shuffle, rad.compression, rad.compression_opts, rad.chunks) == (True, "gzip", 1, (32, 50))
        assert (rad.attrs["scale_factor"], rad.attrs["add_offset"]) == (np.float32(0.06), -2)
        assert rad.attrs["_FillValue"].view("u2") == 65535
        assert file["planck_fk1"][()] == 10000
        assert file["DQF"].attrs["valid_range"].tolist() == [0, 3]
        assert "percent_focal_plane_temperature_threshold_exceeded_qf" not in file["DQF"].attrs
        good = counts[flags <= 1] * 0.06 - 2
        assert file["valid_pixel_count"][()] == good.size
        assert file["missing_pixel_count"][()] == (flags == 3).sum()
        assert file["mean_radiance_value_of_valid_pixels"][()] == pytest.approx(good.mean(), rel=1e-5)
        assert file["std_dev_radiance_value_of_valid_pixels"][()] == pytest.approx(good.std(), rel=1e-5)


def test_a_reissue_has_a_later_creation_time_only(tmp_path: Path) -> None:
    first, second = (write_abi_file(tmp_path, channel=9, start=START, shape=(8, 8), reissue=n) for n in (0, 1))
    assert first.name.split("_c")[0] == second.name.split("_c")[0]
    assert second.name > first.name


@pytest.mark.parametrize(
    "name", ["noaa-goes16/ABI-L1b-RadC/2020/004/03/*C01*.nc", "noaa-goes16/ABI-L1b-RadC/2023/*/*/*C08*.nc"]
)
def test_the_limb_lies_where_real_files_have_it(abi_data: Path, name: str) -> None:
    (path,) = abi_data.glob(name)
    with h5py.File(path) as file:
        x, y = (file[k][:] * np.float64(file[k].attrs["scale_factor"]) + file[k].attrs["add_offset"] for k in "xy")
        space = file["DQF"][:] == -1
    ours = np.abs(x)[None, :] > earth_edge(y)[:, None]
    assert not (ours & ~space).any()
    assert (space & ~ours).sum() <= 2  # two pixels of the file are missing


def test_space_is_fill_with_flag_minus_one(tmp_path: Path) -> None:
    corner, shape = (-0.1519, 0.04), (200, 120)
    path = write_abi_file(tmp_path, channel=14, start=START, corner=corner, shape=shape)
    grid = sector_grid("goes16", "M1", corner=corner, shape_2km=shape)
    longitude, _ = grid.lonlat(np.arange(200)[:, None], np.arange(120))
    space = np.isnan(longitude)
    assert 0.05 < space.mean() < 0.95
    np.testing.assert_array_equal(read(path, "DQF") == -1, space)
    assert (read(path)[space] == 4095).all()
    assert (read(path)[~space & (read(path, "DQF") != 3)] < 4095).all()


def test_an_archive_lacks_and_spoils_what_was_asked(tmp_path: Path) -> None:
    paths = write_abi_archive(
        tmp_path, start=START, hours=0.5, channels=(1, 13), shape_2km=(60, 60), missing=[(1, 1)], truncated=[(2, 13)],
        workers=1,
    )  # fmt: skip
    assert len(paths) == 4 * 2 - 1
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)
    by_scan = [[p for p in paths if f"s202018316{m}" in p.name] for m in ("00", "10", "20", "30")]
    assert [len(scan) for scan in by_scan] == [2, 1, 2, 2]
    for path in paths:
        if path == by_scan[2][1]:
            with pytest.raises(OSError, match="truncated"):
                h5py.File(path)
        else:
            h5py.File(path).close()
    with pytest.raises(UsageError, match=r"\(9, 13\)"):
        write_abi_archive(tmp_path, hours=0.5, missing=[(9, 13)])


def test_pixels_depend_on_the_seed_alone(tmp_path: Path) -> None:
    def written(name: str, **options: Any) -> list[bytes]:
        paths = write_abi_archive(
            tmp_path / name, start=START, hours=0.3, channels=(2, 7), shape_2km=(70, 50), **options
        )
        return [path.read_bytes() for path in paths]

    first = written("a", workers=1)
    assert written("b", workers=2) == first
    assert all(a != b for a, b in zip(written("c", workers=1, seed=1), first, strict=True))


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Path]]:
    """Seven scans over an hour by day, by channel; 350 x 350 pixels of 2 km."""
    paths = write_abi_archive(
        tmp_path_factory.mktemp("hour"), start=START, hours=1, channels=(3, 7, 8, 13), shape_2km=(350, 350), workers=1
    )
    return {c: [p for p in paths if f"C{c:02d}_" in p.name] for c in (3, 7, 8, 13)}


def test_the_scene_moves_and_stays_itself(hour: dict[int, list[Path]]) -> None:
    frames = np.stack([brightness(p) for p in hour[13]])
    first = frames[0].ravel()
    similar = [np.corrcoef(first, frame.ravel())[0, 1] for frame in frames[1:]]
    assert similar[0] > 0.9
    assert similar == sorted(similar, reverse=True)
    assert similar[-1] < 0.97
    assert np.nanmin(frames) < 215
    assert 285 < np.nanpercentile(frames, 90) < 315


def test_low_clouds_drift_westward_with_the_trade_winds() -> None:
    grid = sector_grid("goes16", "M1", shape_2km=(300, 300))
    before, after = (sky(0, grid, START + timedelta(hours=h)).low for h in (0, 1))
    match = [np.corrcoef(before[:, 40:].ravel(), after[:, 40 - k : 300 - k].ravel())[0, 1] for k in range(30)]
    assert 10 <= np.argmax(match) <= 16  # pixels of 2 km in an hour: 6 to 9 m/s
    assert max(match) > 0.6


def test_channels_agree_on_the_clouds(hour: dict[int, list[Path]]) -> None:
    window, vapour, shortwave = (brightness(hour[c][3]) for c in (13, 8, 7))
    cold, clear = window < 230, window > 290
    visible = radiance(hour[3][3]).reshape(350, 2, 350, 2).mean((1, 3))
    assert visible[cold].mean() > 3 * visible[clear].mean()
    assert vapour[clear].mean() < 250
    assert np.nanmean(np.abs(np.diff(vapour))) < 0.5 * np.nanmean(np.abs(np.diff(window)))
    assert (shortwave - window)[cold].mean() > 10  # sunlight reflected by ice


def test_there_is_no_sun_at_night(tmp_path: Path) -> None:
    path = write_abi_file(tmp_path, channel=2, start=datetime(2020, 7, 1, 5), shape=(60, 60))
    assert np.abs(radiance(path)).max() < 1


def test_masks_show_the_systems_of_the_scans(hour: dict[int, list[Path]]) -> None:
    grid: Grid = sector_grid("goes16", "M1", shape_2km=(350, 350))
    latitudes, longitudes = np.arange(0, 12, 0.12), np.arange(291, 306, 0.12)
    labels = label_systems(START + timedelta(minutes=20), latitudes=latitudes, longitudes=longitudes)
    window = brightness(hour[13][2])
    lon, lat = grid.lonlat(np.arange(350)[:, None], np.arange(350))
    row = np.round((lat - latitudes[0]) / 0.12).astype(int)
    col = np.round((lon % 360 - longitudes[0]) / 0.12).astype(int)
    inside = labels[row, col] > 0
    assert 0.05 < inside.mean() < 0.6
    assert window[inside].mean() < window[~inside].mean() - 40
    assert (window[~inside] < 240).mean() < 0.02


def test_systems_keep_their_number_and_grow() -> None:
    steps = [active_systems(0, START + timedelta(minutes=20 * k)) for k in range(4)]
    ids = [{s.system_id for s in step} for step in steps]
    assert len(ids[0]) > 300
    assert len(ids[0] & ids[3]) > 0.7 * len(ids[0])
    later = {s.system_id: s for s in steps[1]}
    young = [s for s in steps[0] if s.system_id in later and later[s.system_id].growing]
    assert all(later[s.system_id].radius_km >= s.radius_km for s in young)
    midnight = {s.system_id for s in active_systems(0, datetime(2020, 7, 1, 23, 59))}
    assert len(midnight & {s.system_id for s in active_systems(0, datetime(2020, 7, 2, 0, 1))}) > 0.9 * len(midnight)


def test_a_daily_mask_has_the_published_dimensions(tmp_path: Path) -> None:
    path = write_cloud_systems(tmp_path, date=date(2020, 7, 1), steps=[48])
    assert path.name == "20200701_cloudsystems.nc"
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as data:
        assert data.DCS_number.dims == ("nt", "lat", "lon")
        assert (data.DCS_number.shape, data.DCS_number.dtype) == ((72, 667, 1751), "f8")
        assert data.time.dims == ("nt",)
        np.testing.assert_allclose(data.time, np.arange(72) / 3)
        assert float(data.lat[1] - data.lat[0]) == pytest.approx(0.12)
        assert (float(data.lon.min()), float(data.lon.max())) == (150, 360)
        numbers = np.unique(data.DCS_number[48])
        assert not data.DCS_number[47].any()
    alive = {s.system_id for s in active_systems(0, START)}
    assert set(numbers[1:].astype(int)) <= alive
    assert len(numbers) > 0.7 * len(alive)
    assert path.stat().st_size < 2**20


def test_a_monthly_mask_holds_the_same(tmp_path: Path) -> None:
    area = {"latitudes": np.arange(0, 12, 0.5), "longitudes": np.arange(280, 310, 0.5)}
    daily = write_cloud_systems(tmp_path, date=date(2020, 7, 3), **area)
    monthly = write_monthly_cloud_systems(tmp_path, year=2020, month=7, days=[3], **area)
    assert monthly.name == "202007_DCS_number_monthly.nc"
    with h5py.File(daily) as a, h5py.File(monthly) as b:
        assert b["DCS_number"].shape == (31, 72, 24, 60)
        np.testing.assert_array_equal(b["DCS_number"][2], a["DCS_number"][:])
        assert a["DCS_number"][:].any()
        assert not b["DCS_number"][3].any()


def test_a_full_disk_file_is_full_size_and_deflates_like_a_real_one(tmp_path: Path) -> None:
    (path,) = write_abi_full_disk(tmp_path, start=START, channels=[13], workers=1)
    assert "RadF-M6C13_G16_s20201831600000_e2020183160931" in path.name
    with h5py.File(path) as file:
        rad = file["Rad"]
        assert (rad.shape, rad.chunks) == ((5424, 5424), (226, 226))
        assert rad.attrs["_FillValue"] == 4095
        sizes = {}
        for i in range(rad.id.get_num_chunks()):
            info = rad.id.get_chunk_info(i)
            sizes[info.chunk_offset] = info.size
        assert len(sizes) == 24 * 24
        assert sizes[0, 0] < 1000
        inner = [s for (r, c), s in sizes.items() if np.hypot(r + 113 - 2712, c + 113 - 2712) < 2400]
        assert 0.4 < np.mean(inner) / (226 * 226 * 2) < 0.75
        _, raw = rad.id.read_direct_chunk((2260, 2260))
        np.testing.assert_array_equal(
            np.frombuffer(zlib.decompress(raw), "i2").reshape(226, 226), rad[2260:2486, 2260:2486]
        )
        middle = sector_grid("goes16", "F")
        longitude, _ = middle.lonlat(2000, np.arange(5424))
        np.testing.assert_array_equal(file["DQF"][2000] == -1, np.isnan(longitude))


def test_a_full_disk_is_told_in_the_order_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def write(task: Any) -> Path:
        begun.append(task.spec.channel)
        return Path(task.spec.name)

    monkeypatch.setattr("cube.testing.abi.archive._write_disk", write)
    paths = write_abi_full_disk(tmp_path, start=START, channels=[13, 1, 2], workers=1)
    assert [path.name[18:21] for path in paths] == ["C13", "C01", "C02"]
    assert begun == [2, 1, 13]  # those that take longest


def test_wrong_use_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="channel 17"):
        write_abi_file(tmp_path, channel=17, start=START)
    with pytest.raises(UsageError, match="goes15"):
        write_abi_file(tmp_path, platform="goes15", channel=1, start=START)
    with pytest.raises(UsageError, match="hidden"):
        write_abi_file(tmp_path, channel=1, start=START, centre=(100.0, 0.0))
    with pytest.raises(UsageError, match="dqf"):
        write_abi_file(tmp_path, channel=1, start=START, counts=np.zeros((4, 4), "u2"), dqf=np.zeros((3, 4), "i1"))
    assert not list(tmp_path.rglob("*.*"))
