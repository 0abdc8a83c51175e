"""CloudSat: granules, the vertical mask, pixels of profiles by independent geometry, chips, a whole build."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj
import pytest
from numpy.typing import NDArray
from pyhdf.HDF import HDF
from pyhdf.SD import SD
from pyhdf.VS import VS

import cube
from catalog.geostationary.scans import Scan
from cube.config import AbiConfig
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.run import run_abi
from cube.strata import SampleRequest, place_tile
from cube.strata.cloudsat.bins import class_bins
from cube.strata.cloudsat.collocate import NOWHERE, locate, reaches, transect
from cube.strata.cloudsat.granule import Granule, parse_name, read_aux, read_granule
from cube.strata.cloudsat.sampler import CloudsatSampler
from cube.testing import write_abi_file, write_cloudsat_granule
from stratacube.errors import SourceError, UsageError

VIEW = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)
EDGE = 28e-6 * 10847 / 2
DISK = FixedGrid(VIEW, -EDGE, EDGE, 28e-6, -28e-6, 10848, 10848)
START = datetime(2020, 7, 1, 16, 30)


@pytest.fixture(scope="module")
def real(data_folder: Path) -> Path:
    found = sorted((data_folder / "cloudsat").glob("*.hdf"))
    if not found:
        pytest.skip(f"{data_folder}/cloudsat has no granule")
    return found[0]


@pytest.fixture(scope="module")
def granule(real: Path) -> Granule:
    return read_granule(real)


def vdata(path: Path, name: str) -> NDArray[Any]:
    assert VS
    file = HDF(str(path))
    tables = file.vstart()
    table = tables.attach(name)
    values = np.array(table[:]).reshape(-1)
    table.detach()
    tables.end()
    file.close()
    return values


def test_a_real_granule_tells_clear_sky_from_no_observation(granule: Granule, real: Path) -> None:
    quality = vdata(real, "Data_quality").astype(int)
    assert {int(q): int((quality == q).sum()) for q in np.unique(quality)} == {0: 20853, 8: 1, 25: 30, 91: 16066}
    assert np.array_equal(granule.quality, quality)
    assert np.array_equal(granule.valid, quality == 0)
    layers = vdata(real, "CloudLayer")
    assert (layers[quality == 91] == 0).all()  # which would read as clear
    assert (granule.layer_count[quality != 0] == -9).all()
    assert np.array_equal(granule.layer_count[quality == 0], layers[quality == 0])
    assert granule.time[0] == np.datetime64("2019-01-02T17:58:51.738281")
    assert granule.time[-1] == np.datetime64("2019-01-02T17:58:51.738281") + np.timedelta64(5_911_839_844, "us")
    assert np.array_equal(granule.latitude.astype("f4"), vdata(real, "Latitude").astype("f4"))
    tai = vdata(real, "TAI_start")[0]  # seconds since 1993, with the 10 leap seconds since
    since = np.datetime64("1993-01-01T00:00:00", "us") + np.timedelta64(int((tai - 10) * 1e6), "us")
    assert abs(granule.time[0] - since) < np.timedelta64(10_000, "us")


def test_the_vertical_mask_is_the_layers_bin_by_bin(granule: Granule, real: Path) -> None:
    some = np.flatnonzero(granule.layer_count > 0)[::37]
    some = np.concatenate(
        [some, np.flatnonzero(~granule.valid)[::997], np.flatnonzero(granule.layer_count == 0)[::997]]
    )
    classes = class_bins(
        granule.layer_base[some], granule.layer_top[some], granule.layer_type[some], granule.valid[some]
    )
    assert classes.shape == (len(some), 40)
    for profile, found in zip(some.tolist(), classes, strict=True):
        for k in range(40):
            depth = [
                (min(float(t), k / 2 + 0.5) - max(float(b), k / 2), float(t), int(c))
                for b, t, c in zip(
                    granule.layer_base[profile], granule.layer_top[profile], granule.layer_type[profile], strict=True
                )
                if np.isfinite(t)
            ]
            inside = [d for d in depth if d[0] > 1e-6]
            wanted = -1 if not granule.valid[profile] else max(inside, key=lambda d: d[:2])[2] if inside else 0
            assert found[k] == wanted, (profile, k, inside)
    # The radar's own bins of 240 m say the same classes, where they say one.
    scenario = (SD(str(real)).select("cloud_scenario")[:] >> 1) & 15
    assert {int(c) for c in np.unique(classes)} - {-1} <= {int(c) for c in np.unique(scenario)}


def test_of_two_layers_that_fill_a_bin_alike_the_higher_counts() -> None:
    base, top = np.array([[1.0, 1.25, 3.0]], "f4"), np.array([[1.125, 1.375, 3.25]], "f4")
    kind, valid = np.array([[5, 6, 1]], "i1"), np.array([True])
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        classes = class_bins(base[:, order], top[:, order], kind[:, order], valid)[0]
        assert {k: int(c) for k, c in enumerate(classes) if c} == {2: 6, 6: 1}
    assert (class_bins(base, top, kind, ~valid) == -1).all()


def test_pixels_of_profiles_are_those_of_proj_floored_on_the_axes_of_a_file(granule: Granule, tmp_path: Path) -> None:
    path = write_abi_file(tmp_path, channel=1, start=datetime(2019, 1, 2, 18, 40), centre=(-60.0, 5.0))
    with h5py.File(path) as file:

        def unpacked(name: str) -> NDArray[np.float64]:
            axis = file[name]
            return np.asarray(axis[:] * axis.attrs["scale_factor"] + axis.attrs["add_offset"], "f8").ravel()

        x, y = unpacked("x"), unpacked("y")
        told = {n: np.asarray(v).ravel()[0] for n, v in file["goes_imager_projection"].attrs.items()}
    height, origin = float(told["perspective_point_height"]), float(told["longitude_of_projection_origin"])
    a, b = float(told["semi_major_axis"]), float(told["semi_minor_axis"])
    geos = pyproj.Proj(proj="geos", h=height, lon_0=origin, sweep="x", a=a, b=b)
    px, py = (v / height for v in geos(granule.longitude, granule.latitude))
    dx, dy = (x[-1] - x[0]) / (len(x) - 1), (y[-1] - y[0]) / (len(y) - 1)
    seen = np.isfinite(px) & np.isfinite(py)
    col, row = (np.floor((p - (q[0] - d / 2)) / d) for p, q, d in ((px, x, dx), (py, y, dy)))
    grid = FixedGrid(GeosProjection(height, a, b, origin), x[0], y[0], dx, dy, len(y), len(x))
    track = locate(granule, grid)
    assert np.array_equal(track.seen, seen)
    assert seen.sum() > 15_000
    assert np.array_equal(track.row[seen], row[seen])
    assert np.array_equal(track.col[seen], col[seen])
    assert (track.row[~seen] == NOWHERE).all()


def test_pixels_are_within_one_of_the_nearest_on_the_ground(granule: Granule) -> None:
    track = locate(granule, DISK)
    candidates = np.flatnonzero(track.seen & (np.abs(granule.latitude) < 55))
    some = np.random.default_rng(3).choice(candidates, 1000, replace=False)
    offsets = np.arange(-16, 17)
    for profile in some.tolist():
        rows, cols = track.row[profile] + offsets[:, None], track.col[profile] + offsets[None, :]
        lon, lat = DISK.lonlat(rows, cols)
        far = _great_circle(float(granule.longitude[profile]), float(granule.latitude[profile]), lon, lat)
        nearest = np.unravel_index(np.nanargmin(far), far.shape)
        assert max(abs(offsets[nearest[0]]), abs(offsets[nearest[1]])) <= 1


def _great_circle(lon: float, lat: float, lons: NDArray[Any], lats: NDArray[Any]) -> NDArray[Any]:
    a, b = np.radians(lat), np.radians(lats)
    half = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lons - lon) / 2) ** 2
    found: NDArray[Any] = 2 * np.arcsin(np.sqrt(half))
    return found


def test_tops_of_clouds_are_looked_for_where_they_appear(granule: Granule) -> None:
    """By PROJ's Earth-centred coordinates and plain trigonometry."""
    ground, top = locate(granule, DISK), locate(granule, DISK, "top")
    clear = ground.seen & (granule.top == 0)
    assert np.array_equal(ground.row[clear], top.row[clear])
    high = np.flatnonzero(ground.seen & (granule.top > 8))[::50]
    lon, lat, up = granule.longitude[high], granule.latitude[high], granule.top[high] * 1000.0
    ecef = pyproj.Transformer.from_crs(
        {"proj": "longlat", "a": VIEW.semi_major_axis, "b": VIEW.semi_minor_axis},
        {"proj": "geocent", "a": VIEW.semi_major_axis, "b": VIEW.semi_minor_axis},
    )
    px, py, pz = ecef.transform(lon, lat, up)
    turn = np.radians(-75.0)
    toward = VIEW.distance - (px * np.cos(turn) + py * np.sin(turn))
    east = -px * np.sin(turn) + py * np.cos(turn)
    x, y = np.arcsin(east / np.sqrt(toward**2 + east**2 + pz**2)), np.arctan(pz / toward)
    assert np.array_equal(top.col[high], np.floor((x + EDGE + 14e-6) / 28e-6))
    assert np.array_equal(top.row[high], np.floor((EDGE + 14e-6 - y) / 28e-6))
    assert (top.row[high] != ground.row[high]).any()


def test_a_chip_lies_on_the_even_corner_nearest_its_profile(granule: Granule) -> None:
    track = locate(granule, DISK)
    row, col = DISK.rowcol(granule.longitude, granule.latitude)
    for profile in np.flatnonzero(track.seen & (np.abs(granule.latitude) < 40))[::500].tolist():
        window = place_tile(DISK, granule.longitude[profile], granule.latitude[profile], 128, align=2)
        assert window is not None
        assert window.row % 2 == window.col % 2 == 0
        assert abs(window.row + 63.5 - row[profile]) <= 1
        assert abs(window.col + 63.5 - col[profile]) <= 1


def test_transects_are_fixed_or_all_that_cross(granule: Granule) -> None:
    centre = int(np.flatnonzero(granule.valid & (np.abs(granule.latitude) < 5))[100])
    grid = DISK
    window = place_tile(grid, granule.longitude[centre], granule.latitude[centre], 128, align=2)
    assert window is not None
    track = locate(granule, grid.window(window))
    fixed = transect(track, centre, 128, "fixed", 91)
    assert (fixed.first, fixed.end) == (centre - 45, centre + 46)
    crossing = transect(track, centre, 128, "chip", 91)
    part = slice(crossing.first, crossing.end)
    assert (track.row[part] >= 0).all()
    assert (track.row[part] < 128).all()
    for beyond in (crossing.first - 1, crossing.end):
        assert not (0 <= track.row[beyond] < 128 and 0 <= track.col[beyond] < 128)
    assert reaches(track, crossing, 128)
    assert not reaches(track, fixed._replace(end=centre), 128)


def test_written_granules_are_read_back(tmp_path: Path) -> None:
    for product in ("2B-CLDCLASS", "2B-CLDCLASS-LIDAR"):
        path = write_cloudsat_granule(
            tmp_path, datetime(2020, 1, 1, 23, 59), product=product, profiles=3000, before_equator=100
        )
        name = parse_name(path.name)
        assert name is not None
        assert name.product == product
        granule = read_granule(path)
        assert len(granule) == 3000
        assert granule.valid.all()
        late = granule.time[-1] - np.datetime64("2020-01-02T00:06:59.84", "us")  # past midnight
        assert abs(late) < np.timedelta64(1000, "us")
        assert set(np.unique(granule.layer_count).tolist()) == {0, 1, 2, 3}
    dark = read_granule(write_cloudsat_granule(tmp_path, START, profiles=1000, before_equator=3000))
    assert not dark.valid.any()
    aux = write_cloudsat_granule(tmp_path, START, product="ECMWF-AUX", profiles=1000, before_equator=100)
    found = read_aux(aux, 1000)
    height = np.arange(40) / 2 + 0.25
    assert found["pressure"][0] == pytest.approx(101_325 * np.exp(-height / 8), rel=1e-4)
    latitude = vdata(aux, "Latitude")
    assert found["temperature"][7, :30] == pytest.approx(300 - 0.4 * abs(latitude[7]) - 6.5 * height[:30], abs=1e-2)
    assert np.isnan(found["v10_velocity"][latitude <= 0]).all()
    assert np.isfinite(found["v10_velocity"][latitude > 0]).all()


def grid_of(_: Scan) -> FixedGrid:
    return DISK


def request(start: datetime = START, **more: Any) -> SampleRequest:
    starts = [start + timedelta(minutes=10 * i) for i in range(12)]
    scans = [Scan("goes16", "ABI-L1b-RadF", "F", 6, t, t + timedelta(minutes=9), {}) for t in starts]
    return SampleRequest(**{"scans": scans, "grid_of": grid_of, "tile_size": 128, "align": 2, **more})


def test_centres_are_every_so_many_profiles_that_can_have_a_chip(real: Path) -> None:
    sampler = CloudsatSampler(request(datetime(2019, 1, 2, 17, 50), margin=1600), cloudsat_root=str(real.parent))
    drawn = list(sampler.candidates())
    assert sorted(c.details["profile"] for c in drawn) != [c.details["profile"] for c in drawn]
    granule = read_granule(real)
    row, col = DISK.rowcol(granule.longitude, granule.latitude)
    wanted = []
    for p in range(45, 36950 - 45, 45):
        corner = [2 * round((v[p] - 63.5) / 2) if np.isfinite(v[p]) else -1 for v in (row, col)]
        inside = all(1600 <= c <= 10848 - 1600 - 128 for c in corner)
        if inside and granule.valid[p - 45 : p + 46].all():
            wanted.append(p)
    assert sorted(c.details["profile"] for c in drawn) == wanted
    assert len(wanted) > 100
    some = next(c for c in drawn if c.details["profile"] == wanted[7])
    assert some.time == granule.time[wanted[7]].astype(datetime)
    assert (some.latitude, some.longitude) == (granule.latitude[wanted[7]], granule.longitude[wanted[7]])
    cloudy = CloudsatSampler(request(datetime(2019, 1, 2, 17, 50)), cloudsat_root=str(real), require_cloud=True)
    assert all(c.details["cloudy_share"] > 0 for c in cloudy.candidates())


def test_what_cannot_be_is_one_sentence(real: Path, tmp_path: Path) -> None:
    early = datetime(2019, 1, 2, 17, 50)

    def refused(root: Path | str, wanted: SampleRequest | None = None, **options: Any) -> str:
        with pytest.raises((UsageError, SourceError)) as error:
            next(CloudsatSampler(wanted or request(early), cloudsat_root=str(root), **options).candidates())
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "it has no granule" in refused(tmp_path)
    assert "is in the period" in refused(real, request())
    assert "of `orbit` 5" in refused(real, orbit=5)
    name = real.name
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / name).write_bytes(real.read_bytes()[:200_000])
    assert "none of 1 granules can be read" in refused(tmp_path / "cut")
    (tmp_path / "other").mkdir()
    shutil.copy(real, tmp_path / "other" / name.replace("175851", "182851"))
    assert "its first profile is at 64731.7 s of the day" in refused(tmp_path / "other")
    (tmp_path / "twice").mkdir()
    shutil.copy(real, tmp_path / "twice" / name)
    shutil.copy(real, tmp_path / "twice" / name.replace("2B-CLDCLASS", "2B-CLDCLASS-LIDAR"))
    assert "is there twice" in refused(tmp_path / "twice")
    assert "no granule of ECMWF-AUX" in refused(real, cloudsat_aux_root=str(tmp_path))
    none = {"profile_stride": 100_000}
    assert "not in sight of the satellite (1)" in refused(real, request(early), **none)


def test_one_bad_granule_costs_itself(real: Path, tmp_path: Path) -> None:
    shutil.copy(real, tmp_path)
    bad = tmp_path / real.name.replace("2019002175851_67551", "2019002162000_67550")
    bad.write_bytes(real.read_bytes()[:100_000])
    sampler = CloudsatSampler(request(datetime(2019, 1, 2, 17, 50)), cloudsat_root=str(tmp_path))
    assert list(sampler.candidates())
    assert [p.source for p in sampler.problems] == [str(bad)]


def test_a_build_keeps_the_profiles_of_its_tiles(small_archive: Path, tmp_path: Path) -> None:
    options = {"longitude": -58.7, "profiles": 9000, "before_equator": 600.0, "orbit": 75_123}
    path = write_cloudsat_granule(tmp_path / "cs", datetime(2020, 7, 1, 16, 5), **options)
    write_cloudsat_granule(tmp_path / "aux", datetime(2020, 7, 1, 16, 5), product="ECMWF-AUX", **options)
    config = AbiConfig(
        stratification="cloudsat",
        cloudsat_root=str(tmp_path / "cs"),
        cloudsat_aux_root=str(tmp_path / "aux"),
        output_dir=tmp_path / "tiles",
        local_data_dir=small_archive,
        domain="M1",
        channels=[13],
        tile_size=128,
        steps=1,
        workers=1,
        screen="off",
        profile_selection="chip",
    )
    assert run_abi(config).code == 0
    granule = read_granule(path)
    opened = cube.open_tiles(tmp_path / "tiles", chunks=None)
    assert opened.sizes["tile"] >= 3
    starts, counts = opened["cloudsat_profile_start"].values, opened["cloudsat_profile_count"].values
    assert starts.tolist() == [0, *np.cumsum(counts)[:-1].tolist()]
    assert opened.sizes["profile"] == counts.sum()
    for tile in range(opened.sizes["tile"]):
        part = opened.isel(tile=tile, profile=slice(int(starts[tile]), int(starts[tile] + counts[tile])))
        index = part["cloudsat_profile_index"].values
        assert np.array_equal(index, np.arange(index[0], index[-1] + 1))
        assert int(part["cloudsat_centre_profile"]) in index
        assert np.array_equal(part["cloudsat_time"].values.astype("M8[us]"), granule.time[index])
        assert (part["cloudsat_class"].values >= 0).all()
        row, col = part["cloudsat_row"].values, part["cloudsat_col"].values
        assert ((row >= 0) & (row < 128) & (col >= 0) & (col < 128)).all()
        x, y = VIEW.to_angles(granule.longitude[index], granule.latitude[index])
        assert np.array_equal(row, np.floor((float(part["y_top"]) - y) / 28e-6))
        assert np.array_equal(part["cloudsat_abi_row"].values, np.floor((5424 * 28e-6 - y) / 28e-6))
        assert np.array_equal(part["cloudsat_abi_column"].values, np.floor((5424 * 28e-6 + x) / 28e-6))
        seen = part["observation_time"].values[0] - granule.time[int(part["cloudsat_centre_profile"])]
        assert abs(seen) < np.timedelta64(10, "m")
        assert np.isfinite(part["cloudsat_temperature"].values[:, 0]).all()
