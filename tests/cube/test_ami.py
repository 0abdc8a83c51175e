"""GK-2A's imager on files that are written here: bits, laws, grids, large chunks, and what is refused."""

from __future__ import annotations

import tracemalloc
import zlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import xarray as xr

import cube
from catalog.geostationary.ami import AMI_NAMES
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile
from cube.build import main
from cube.geostationary import inflate
from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.read import ReadCount, read_windows, stream_images
from cube.sun import solar_angles
from cube.testing import write_abi_file, write_ami_file, write_ami_scan
from stratacube.errors import SourceError, UsageError

START = datetime(2023, 8, 9, 0, 34, 41)
LATE = (START + timedelta(minutes=2) - datetime(2000, 1, 1, 12)).total_seconds()
SHAPE = (60, 80)
Counts = npt.NDArray[np.uint16]


def random_image(rows: int, cols: int, bits: int = 13, seed: int = 0) -> tuple[Counts, npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 2**bits, (rows, cols), "u2")
    counts[0, :3] = 0, 2**bits - 1, 2**bits - 1
    return counts, rng.integers(0, 4, (rows, cols), "u1")


def source_of(folder: Path) -> SourceFile:
    (found,) = LocalArchive(folder, AMI_NAMES).files(None, None, None, None)
    return found


def build(folder: Path, *flags: str, command: str = "abi") -> int:
    given = ["--local-data-dir", str(folder), "--output-dir", str(folder / "out"), "--satellite", "gk2a"]
    return main([command, *given, "--steps", "1", "--workers", "1", *flags])


def test_low_bits_are_counts_and_high_bits_are_quality(tmp_path: Path) -> None:
    counts, flags = random_image(*SHAPE)
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE, counts=counts, flags=flags)
    node = cube.open_abi(tmp_path)["2km"].dataset.isel(time=0, band=0)
    np.testing.assert_array_equal(node["dqf"], flags)
    radiance = counts * -0.0198196955025196 + 161.580139160156
    radiance[flags >= 2] = np.nan
    np.testing.assert_allclose(node["radiance"], radiance, atol=3e-5)
    assert node["dqf"].attrs["flag_meanings"].split() == ["good", "conditionally_usable", "out_of_scan_area", "error"]


@pytest.mark.parametrize(("band", "wavelength"), [("ir105", 10.35e-6), ("sw038", 3.83e-6), ("wv069", 6.94e-6)])
def test_temperature_is_plancks_with_a_parabola(tmp_path: Path, band: str, wavelength: float) -> None:
    path = write_ami_file(tmp_path, band=band, start=START, shape=SHAPE)
    with h5py.File(path) as h5:
        told = {k: float(v[0]) for k, v in h5.attrs.items() if v.dtype.kind == "f"}
        raw = h5["image_pixel_values"][()].astype("f8")
    h, c, k = told["Plank_constant_h"], told["light_speed"], told["Boltzmann_constant_k"]
    nu, radiance = 1 / wavelength, (raw * told["DN_to_Radiance_Gain"] + told["DN_to_Radiance_Offset"]) * 1e-5
    effective = h * c * nu / k / np.log(2 * h * c**2 * nu**3 / radiance + 1)
    wanted = sum(told[f"Teff_to_Tbb_c{i}"] * effective**i for i in range(3))
    found = cube.open_abi(tmp_path)["2km"]["brightness_temperature"].values[0, 0]
    np.testing.assert_allclose(found, wanted, atol=2e-3 if band == "sw038" else 2e-4)


def test_reflectance_is_radiance_times_its_factor(tmp_path: Path) -> None:
    counts, _ = random_image(2 * SHAPE[0], 2 * SHAPE[1], bits=11)
    write_ami_file(tmp_path, band="vi004", start=START, shape=SHAPE, counts=counts)
    found = cube.open_abi(tmp_path)["1km"]["reflectance"].values[0, 0]
    wanted = (counts * 0.363545805215835 - 7.27090454101562) * 0.00155824
    np.testing.assert_allclose(found, wanted, atol=2e-7)


def test_places_are_pyprojs(tmp_path: Path) -> None:
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE)
    node = cube.open_abi(tmp_path, lonlat=True)["2km"].dataset
    height = 42164000.0 - 6378137.0
    projection = pyproj.Proj(proj="geos", h=height, lon_0=128.2, a=6378137.0, b=6356752.3, sweep="y")
    x = 0.036084 + (np.arange(SHAPE[1]) + 0.5) * 56e-6
    y = 0.086381 - (np.arange(SHAPE[0]) + 0.5) * 56e-6
    wanted = projection(*(angle * height for angle in np.meshgrid(x, y)), inverse=True)
    for name, truth in zip(("longitude", "latitude"), wanted, strict=True):
        np.testing.assert_allclose(node[name], truth, atol=1e-6)


@pytest.mark.parametrize("area", ["FD", "ELA", "LA"])
def test_every_area_is_built(tmp_path: Path, area: str) -> None:
    write_ami_scan(tmp_path, ["vi006", "ir105"], START, area, shape=(100, 120))
    shape = ["--tile-size", "64", "--num-tiles", "3", "--max-view-zenith", "85", "--channels", "vi006", "13"]
    assert build(tmp_path, "--domain", area, *shape) == 0
    tiles = cube.open_tiles(tmp_path / "out", "counts")
    with h5py.File(next(tmp_path.glob("*vi006*.nc"))) as h5:
        fine, dx = h5["image_pixel_values"][()].astype("f8"), 14e-6
        left, top = h5.attrs["image_upperleft_x"][0] - dx / 2, h5.attrs["image_upperleft_y"][0] + dx / 2
    assert {int(n) for n in tiles["platform"].values} == {1}
    for tile in range(3):
        c, r = (round(float(v)) for v in ((tiles["x_left"][tile] - left) / dx, (top - tiles["y_top"][tile]) / dx))
        blocks = fine[r : r + 128, c : c + 128].reshape(64, 2, 64, 2).mean((1, 3))
        np.testing.assert_array_equal(tiles["vi006"][tile, 0] / 12, blocks)


def test_masks_follow_the_flags(tmp_path: Path) -> None:
    counts, flags = random_image(*SHAPE)
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE, counts=counts, flags=flags)
    shape = ["--tile-size", "40", "--num-tiles", "1", "--grid", "2km", "--domain", "LA", "--channels", "ir105"]
    for good in (["0", "1"], ["0"]):
        assert build(tmp_path, *shape, "--good-dqf", *good, "--overwrite", "--screen", "off") == 0
        store = xr.open_zarr(tmp_path / "out" / "tiles.zarr", mask_and_scale=False, chunks=None)
        at = np.s_[int(store["row"][0]) : int(store["row"][0]) + 40, int(store["col"][0]) : int(store["col"][0]) + 40]
        np.testing.assert_array_equal(store["ir105"][0, 0], counts[at])
        np.testing.assert_array_equal(store["valid"][0, 0] != 0, np.isin(flags[at], [int(g) for g in good]))


def test_scans_are_as_early_as_their_files_say(tmp_path: Path) -> None:
    write_ami_scan(tmp_path, ["ir105", "ir112"], START, shape=SHAPE)
    assert build(tmp_path, "--tile-size", "32", "--num-tiles", "1", "--domain", "LA", "--channels", "13", "14") == 0
    tiles = cube.open_tiles(tmp_path / "out")
    assert abs(tiles["scan_start"].values[0, 0] - np.datetime64(START)) < np.timedelta64(1, "ms")
    place = [tiles[n].values[0, 0, 0] for n in ("longitude_coarse", "latitude_coarse")]
    ends = sorted(float(solar_angles(np.datetime64(START + timedelta(seconds=s)), *place)[0]) for s in (0, 61))
    # Seen within the scan, evenly from north to south; the name's minute is 0.15 degrees before it.
    assert ends[0] - 1e-3 <= float(tiles["solar_zenith"][0, 0, 0, 0]) <= ends[1] + 1e-3
    middle = np.datetime64(START + timedelta(seconds=30.5))
    assert abs(tiles["scan_mid"].values[0, 0] - middle) < np.timedelta64(1, "ms")


def test_a_local_area_may_look_elsewhere_from_scan_to_scan(tmp_path: Path) -> None:
    corners = {START: (0.036084, 0.086381), START + timedelta(minutes=4): (0.0, 0.05)}
    for start, corner in corners.items():
        write_ami_file(tmp_path, band="ir105", start=start, shape=SHAPE, corner=corner)
    flags = ["--tile-size", "32", "--num-tiles", "8", "--domain", "LA", "--channels", "13", "--grid", "2km"]
    assert build(tmp_path, *flags, "--tolerance-minutes", "1") == 0
    tiles = cube.open_tiles(tmp_path / "out")
    assert np.isfinite(tiles["ir105"]).all()
    seen = {np.datetime64(start): corner for start, corner in corners.items()}
    for x, y, time in zip(tiles["x_left"].values, tiles["y_top"].values, tiles["scan_start"].values[:, 0], strict=True):
        corner = next(c for t, c in seen.items() if abs(t - time) < np.timedelta64(1, "ms"))
        assert 0 <= x - corner[0] < SHAPE[1] * 56e-6
        assert 0 <= corner[1] - y < SHAPE[0] * 56e-6
    assert len({*tiles["scan_start"].values[:, 0]}) == 2


def test_references_of_a_file_are_its_whole_values(tmp_path: Path) -> None:
    counts, flags = random_image(*SHAPE)
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE, counts=counts, flags=flags)
    store = tmp_path / "references"
    cube.write_references([index_file(source_of(tmp_path))], store)
    (leaf,) = store.glob("gk2a-LA/ir105-*")
    raw = xr.open_dataset(str(leaf), engine="kerchunk", mask_and_scale=False, chunks=None)["image_pixel_values"]
    np.testing.assert_array_equal(raw[0], counts | flags.astype("u2") << 14)
    assert raw.attrs["number_of_valid_bits_per_pixel"] == 13
    again, direct = (cube.open_abi(place)["2km"].dataset.load() for place in (store, tmp_path))
    xr.testing.assert_identical(again, direct)


def test_an_index_comes_back_from_the_cache(tmp_path: Path) -> None:
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE)
    first, again = (index_file(source_of(tmp_path), tmp_path / "cache") for _ in range(2))
    assert first.describe_encoding() == again.describe_encoding()
    assert (first.start, first.mid_time) == (again.start, again.mid_time)
    assert (first.dqf.bits, first.dqf.lowest) == (again.dqf.bits, again.dqf.lowest) == (2, 14)


def windows_of(rows: int, cols: int) -> list[Window]:
    wanted = [
        (0, 0, 7, 9),
        (3, cols - 8, 40, 8),
        (rows // 2, 5, rows - rows // 2, 20),
        (0, 0, 1, cols),
        (rows - 1, 3, 1, 4),
    ]
    return sorted((Window(*w) for w in wanted), key=lambda w: w.row + w.height)


@pytest.mark.parametrize("strip", [1, 3, 1000])
def test_strips_of_a_chunk_are_the_chunk(tmp_path: Path, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, flags = random_image(*SHAPE)
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE, counts=counts, flags=flags)
    monkeypatch.setattr(inflate, "WHOLE_BYTES", 0)
    monkeypatch.setattr(inflate, "STRIP_BYTES", strip * SHAPE[1] * 2)
    monkeypatch.setattr("cube.geostationary.read._PIECE", 301)
    index, windows, cost = index_file(source_of(tmp_path)), windows_of(*SHAPE), ReadCount()
    for window, (pixels, quality) in zip(windows, stream_images(index, windows, cost), strict=True):
        at = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
        np.testing.assert_array_equal(pixels, counts[at])
        np.testing.assert_array_equal(quality, flags[at])
    assert (cost.chunks, cost.bytes) == (1, int(index.rad.sizes[0, 0]))
    out = [np.full((w.height, w.width), 60000, "u2") for w in windows[:2]]
    few = read_windows(index, "rad", windows[:2], out)
    for window, pixels in zip(windows, out, strict=False):
        np.testing.assert_array_equal(pixels, counts[: window.height, : window.width])
    assert few.bytes < cost.bytes or strip == 1000  # what lies below is not read


@pytest.mark.parametrize("filled", [False, True])
def test_a_large_chunk_is_never_held_whole(tmp_path: Path, filled: bool) -> None:
    rows, cols = (3000, 5500) if filled else (5500, 5500)
    counts = None if filled else np.zeros((rows, cols), "u2")  # a few bytes that stand for 60 MB
    write_ami_file(tmp_path, band="ir105", start=START, area="FD", shape=(rows, cols), counts=counts)
    index = index_file(source_of(tmp_path))
    assert index.rad.chunks == (rows, cols)
    windows = [Window(r, 2000, 100, 500) for r in range(0, rows - 100, 100)]
    tracemalloc.start()
    for pixels, _ in stream_images(index, windows, ReadCount()):
        assert pixels.shape == (100, 500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20, f"{peak / 2**20:.0f} MiB"  # of 33 or 61 MB of pixels; a strip of 2 MB and its copies


def test_a_large_image_is_opened_in_chunks_of_rows(tmp_path: Path) -> None:
    write_ami_file(tmp_path, band="ir105", start=START, area="FD", shape=(2500, 40))
    lazy = cube.open_abi(tmp_path)["2km"]["radiance"]
    assert lazy.chunks[2:] == ((2048, 452), (40,))
    direct = cube.open_abi(tmp_path, chunks=None)["2km"]["radiance"]
    np.testing.assert_array_equal(lazy[..., 2040:2060, :], direct[..., 2040:2060, :])


@pytest.mark.parametrize("large", [False, True])
def test_damaged_pixels_are_one_sentence(tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE)
    if large:
        monkeypatch.setattr(inflate, "WHOLE_BYTES", 0)
    index = index_file(source_of(tmp_path))
    begin, size = int(index.rad.offsets[0, 0]), int(index.rad.sizes[0, 0])
    whole = path.read_bytes()
    for damaged, said in (
        (whole[: begin + size // 2] + bytes(64) + whole[begin + size // 2 + 64 :], "chunk .* does not decode"),
        (whole[: begin + size // 2], "truncated file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=said):
            list(stream_images(index, [Window(0, 0, *SHAPE)], ReadCount()))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("rows", "said"), [(SHAPE[0] - 1, "9440 bytes where 9600"), (SHAPE[0] + 1, "9600")])
def test_a_chunk_of_another_size_is_one_sentence(
    tmp_path: Path, large: bool, rows: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE)
    with h5py.File(path, "r+") as h5:
        h5["image_pixel_values"].id.write_direct_chunk((0, 0), zlib.compress(bytes(2 * rows * SHAPE[1])))
    if large:
        monkeypatch.setattr(inflate, "WHOLE_BYTES", 0)
        monkeypatch.setattr(inflate, "STRIP_BYTES", 2 * SHAPE[1])
    with pytest.raises(SourceError, match=f"does not decode.*{said}"):
        list(stream_images(index_file(source_of(tmp_path)), [Window(0, 0, *SHAPE)], ReadCount()))


def test_a_file_cut_short_leaves_its_band_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_ami_scan(tmp_path, ["ir105", "ir112"], START, shape=SHAPE)
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    assert build(tmp_path, "--tile-size", "32", "--num-tiles", "1", "--domain", "LA", "--channels", "13", "14") == 1
    errors = (tmp_path / "out" / "errors.csv").read_text()
    assert "is not a readable AMI L1b file (truncated file)" in errors
    assert not np.isfinite(cube.open_tiles(tmp_path / "out")["ir112"]).any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"satellite_name": "GK-2B"}, "its satellite is GK-2B where GK-2A is expected"),
        ({"observation_mode": "FD"}, "its area is FD where LA is expected"),
        ({"projection_type": "LCC"}, "its projection is LCC"),
        ({"DN_to_Radiance_Gain": 0.0198}, "its scale_factor is 0.0198, which is not between -0.1 and -0.0001"),
        ({"DN_to_Radiance_Offset": -161.0}, "its add_offset is -161"),
        ({"Teff_to_Tbb_c1": float("nan")}, "its tbb_c1 is nan"),
        ({"observation_start_time": 0.0}, "it was observed from 2000-01-01"),
        (
            {"observation_start_time": LATE, "observation_end_time": LATE + 60},
            "it was observed from 2023-08-09T00:36:41",
        ),
        ({"cfac": 40850677.8}, "cfac makes pixels of 28 microradians where 56 is expected"),
        ({"lfac": 20425338.9}, "lfac makes pixels of 56 microradians where -56 is expected"),
        ({"sub_longitude": None}, "is not a readable AMI L1b file"),
    ],
)
def test_a_header_that_cannot_be_right_is_one_sentence(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE, changes=changes)
    with pytest.raises(SourceError, match=f"readable AMI L1b file.*{said}" if "readable" not in said else said):
        index_file(source_of(tmp_path))


def test_an_image_that_was_never_written_is_one_sentence(tmp_path: Path) -> None:
    path = write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE)
    with h5py.File(path, "r+") as h5:
        told = {k: v for k, v in h5["image_pixel_values"].attrs.items() if k != "DIMENSION_LIST"}
        del h5["image_pixel_values"]
        h5.create_dataset("image_pixel_values", SHAPE, "<u2", chunks=SHAPE, compression="gzip").attrs.update(told)
    with pytest.raises(SourceError, match="image_pixel_values was not written whole"):
        index_file(source_of(tmp_path))


def test_reflected_light_may_not_have_the_sign_of_the_thermal(tmp_path: Path) -> None:
    write_ami_file(tmp_path, band="vi004", start=START, shape=SHAPE, changes={"DN_to_Radiance_Gain": -0.36})
    with pytest.raises(SourceError, match=r"scale_factor is -0\.36, which is not between 0\.001 and 2"):
        index_file(source_of(tmp_path))


def test_two_instruments_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE)
    write_abi_file(tmp_path, channel=13, start=START, shape=(100, 100))
    with pytest.raises(
        UsageError, match=r"files of 2 instruments, ABI \(goes16\), AMI \(gk2a\); choose one with platform="
    ):
        cube.open_abi(tmp_path)
    assert cube.open_abi(tmp_path, platform="gk2a").attrs["platform"] == "gk2a"
    assert cube.open_abi(tmp_path, "C13").attrs["platform"] == "goes16"
    store = tmp_path / "references"
    indexes = [index_file(f) for n in (AMI_NAMES,) for f in LocalArchive(tmp_path, n).files(None, None, None, None)]
    cube.write_references(indexes, store)
    assert cube.open_abi(store, "ir105").attrs["platform"] == "gk2a"
    shape = ["--tile-size", "32", "--num-tiles", "1", "--domain", "LA", "--channels", "13"]
    assert build(tmp_path, *shape) == 0  # of its own satellite alone
    assert build(tmp_path, *shape[:4], "--product", "ABI-L1b-RadM", "--channels", "13") == 2
    assert "product 'ABI-L1b-RadM' is not AMI's, which gk2a carries" in capsys.readouterr().err
    other = ["--local-data-dir", str(tmp_path), "--output-dir", str(tmp_path / "out"), "--domain", "M1", "--steps", "1"]
    assert main(["abi", *other, *shape[:4], "--channels", "13", "--workers", "1"]) == 2
    assert "another" in capsys.readouterr().err  # the folder holds another build


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--channels", "C02"], "channel 'C02' is unknown; AMI has channels 1 to 16 (vi004 to ir133)"),
        (["--channels", "17"], "channel 17 is unknown; AMI has channels 1 to 16 (vi004 to ir133)"),
        (
            ["--satellite", "goes16", "--channels", "vi004"],
            "channel 'vi004' is unknown; ABI has channels 1 to 16 (C01 to C16)",
        ),
        (["--domain", "M1"], "domain 'M1' is unknown; the areas of AMI are FD, ELA, LA"),
        (["--satellite", "goes16", "--domain", "LA"], "domain 'LA' is unknown; the sectors are F, C, M1, M2"),
        (["--satellite", "himawari9"], "satellite 'himawari9' is unknown; ABI flies on goes16"),
        (["--download"], "files of gk2a are read from a local folder only"),
    ],
)
def test_wrong_requests_are_one_sentence(
    tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(tmp_path, *flags) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.strip().splitlines()) == 1


def test_nothing_of_a_local_area_is_named_with_its_bands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_ami_file(tmp_path, band="ir105", start=START, shape=SHAPE)
    path.rename(tmp_path / path.name.replace("la020ge", "ea020lc"))
    assert build(tmp_path, "--domain", "LA", "--channels", "ir105") == 2
    told = capsys.readouterr().err
    assert "no gk2a LA scan with ir105 in" in told
