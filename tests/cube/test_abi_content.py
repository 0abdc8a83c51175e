"""What a file says of itself is compared with its name and with what can be: nothing that cannot is read."""

from __future__ import annotations

import io
import re
import shutil
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from catalog.geostationary.ami import AMI_NAMES
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile
from cube.build import main
from cube.geostationary.hdf5 import attribute_or_none
from cube.geostationary.index import index_file
from cube.testing import write_abi_archive, write_abi_file, write_ami_file
from stratacube.errors import SourceError

START = datetime(2020, 7, 1, 16)
Spoil = Callable[[h5py.File], None]


def source_of(path: Path, naming: Any = None) -> SourceFile:
    archive = LocalArchive(path.parent) if naming is None else LocalArchive(path.parent, naming)
    return next(s for s in archive.files(None, None, None, None) if s.href == str(path))


def attribute(where: str, name: str, value: Any) -> Spoil:
    """Give an attribute another value, or take it away."""

    def spoil(h5: h5py.File) -> None:
        del h5[where].attrs[name]
        if value is not None:
            h5[where].attrs[name] = value

    return spoil


def scalar(name: str, value: float) -> Spoil:
    def spoil(h5: h5py.File) -> None:
        h5[name][...] = value

    return spoil


def image(name: str, dtype: str, **options: Any) -> Spoil:
    """Write an image anew, as another type; attributes stay."""

    def spoil(h5: h5py.File) -> None:
        values, attrs = h5[name][()], dict(h5[name].attrs)
        del h5[name]
        made = h5.create_dataset(name, data=values.astype(dtype), **{"chunks": (65, 65), **options})
        for key, value in attrs.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"):
                made.attrs[key] = value

    return spoil


def axis(name: str, size: int) -> Spoil:
    def spoil(h5: h5py.File) -> None:
        attrs = {k: h5[name].attrs[k] for k in ("scale_factor", "add_offset", "units")}
        del h5[name]
        h5[name] = np.arange(size, dtype="i2")
        h5[name].attrs.update(attrs)

    return spoil


SPOILT: dict[str, tuple[Spoil, str]] = {
    "platform": (attribute("/", "platform_ID", "G17"), "platform_ID is G17 where G16 is expected"),
    "scene": (attribute("/", "scene_id", "Full Disk"), "scene_id is Full Disk but its name says M1"),
    "start": (
        attribute("/", "time_coverage_start", "2020-07-01T16:01:00.0Z"),
        r"time_coverage_start is 2020-07-01T16:01:00.000, but its name says 2020-07-01 16:00:00",
    ),
    "end": (attribute("/", "time_coverage_end", "2020-07-01T16:00:30.0Z"), "time_coverage_end is"),
    "no time": (attribute("/", "time_coverage_start", "yesterday"), "yesterday"),
    "region": (
        attribute("/", "dataset_name", "OR_ABI-L1b-RadM2-M6C13_G16_s20201831600000_e20201831600068_c20201831600130.nc"),
        "dataset_name is OR_ABI-L1b-RadM2",
    ),
    "band": (scalar("band_id", 14), "band_id is 14 but the name says C13"),
    "floats": (image("Rad", "f4"), "Rad is of float32 where 16-bit integers are expected"),
    "wide counts": (image("Rad", "i4"), "Rad is of int32 where 16-bit"),
    "wide flags": (image("DQF", "i2"), "DQF is of int16 where 8-bit"),
    "unchunked": (image("Rad", "i2", chunks=None), "Rad .* is not a chunked image"),
    "units": (attribute("Rad", "units", "K"), "radiance's unit is K where mW m-2 sr-1"),
    "no units": (attribute("Rad", "units", None), "Rad lacks the attribute units"),
    "axis in degrees": (attribute("x", "units", "degrees"), "x's unit is degrees where rad"),
    "unscaled axis": (attribute("x", "scale_factor", None), "x is packed, but lacks its scale_factor"),
    "shifted axis": (attribute("y", "add_offset", np.float32(1.5)), "edges lie at scan angles"),
    "short axis": (axis("x", 129), "x has .*129.* values for 130 pixels"),
    "other pixel": (attribute("x", "scale_factor", np.float32(28e-6)), "pixels are 28 x 56 microradians where .* 56"),
    "upside down": (attribute("y", "scale_factor", np.float32(56e-6)), "pixels are 56 x -56"),
    "no step": (attribute("x", "scale_factor", np.float32(0)), "pixels are 0 x 56"),
    "t of another scan": (scalar("t", 647_000_000.0), "t is 2020-07-02.*, but its name says 2020-07-01 16:00:00"),
    "t since 1970": (scalar("t", START.timestamp()), "its t is 20"),
    "t that overflows": (scalar("t", 1e300), "1e.300 seconds since noon of 2000-01-01 are no time"),
    "t that is no number": (scalar("t", float("nan")), "nan seconds since"),
    "t in other units": (
        attribute("t", "units", "nanoseconds since 2000-01-01 12:00:00"),
        "t is in 'nanoseconds since .*' where 'seconds since 2000-01-01 12:00:00' is expected",
    ),
    "bounds of another scan": (
        scalar("time_bounds", 647_000_000.0),
        "time_bounds' start is 2020-07-02.*, but its",
    ),
    "slot": (attribute("/", "orbital_slot", "GOES-West"), "orbital_slot is GOES-West, at -137 .* it looks from -75"),
    "scale as text": (attribute("Rad", "scale_factor", "0.0457"), "its Rad scale_factor is the text '0.0457'"),
    "axis scale as text": (attribute("x", "scale_factor", b"5.6e-05"), "the text '5.6e-05' where a number"),
    "no image": (lambda h5: h5.__delitem__("Rad"), "it lacks the variable Rad.*; fetch it again"),
    "no band": (lambda h5: h5.__delitem__("band_id"), "it lacks the variable band_id"),
    "another band's width": (scalar("planck_bc1", 1.55228), "planck_bc1 is 1.55228, which is not between -0.023 and"),
    "another wavelength": (scalar("planck_fk1", 10900.0), "planck_fk1 is 10900, but by its planck_fk2 of .* 10803"),
    "sweep": (attribute("goes_imager_projection", "sweep_angle_axis", "z"), "sweep_angle_axis is z where x"),
    "longitude": (
        attribute("goes_imager_projection", "longitude_of_projection_origin", float("nan")),
        "longitude_of_projection_origin is nan",
    ),
    "height": (attribute("goes_imager_projection", "perspective_point_height", 0.0), "perspective_point_height is 0"),
    "axis of the Earth": (attribute("goes_imager_projection", "semi_minor_axis", 0.0), "semi_minor_axis is 0"),
    "fill": (attribute("Rad", "_FillValue", np.int16(5)), "_FillValue is 5, which is not between 4095"),
    **{
        f"scale {value}": (
            attribute("Rad", "scale_factor", np.float32(value)),
            f"scale_factor is {re.escape(f'{value:g}')}, which",
        )
        for value in (-1.0, 0.0, float("nan"), float("inf"), 1e30)
    },
    "offset": (attribute("Rad", "add_offset", np.float32(1.6)), "add_offset is 1.6"),
    **{
        f"{name} {value}": (scalar(name, value), f"its {name} is {re.escape(f'{value:g}')}")
        for name, value in (
            ("planck_fk1", 0.0),
            ("planck_fk1", 12000.0),
            ("planck_fk2", 2000.0),
            ("planck_bc1", float("nan")),
            ("planck_bc2", 0.0),
            ("band_wavelength", 11.2),
            ("valid_pixel_count", 100000.0),
            ("valid_pixel_count", -5.0),
        )
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_abi_file(tmp_path_factory.mktemp("whole"), channel=13, start=START, shape=(130, 130))


@pytest.mark.parametrize("kind", SPOILT)
def test_what_cannot_be_is_one_sentence(whole: Path, tmp_path: Path, kind: str) -> None:
    spoil, said = SPOILT[kind]
    path = Path(shutil.copy(whole, tmp_path))
    assert index_file(source_of(path)).source.channel == 13
    with h5py.File(path, "r+") as h5:
        spoil(h5)
    with pytest.raises(SourceError, match=rf"{path.name} is not a readable ABI L1b file \(.*{said}"):
        index_file(source_of(path))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("esun", 0.0, "its esun is 0"),
        ("esun", 900.0, r"its kappa0 is .*, but pi d2 / Esun of its own is 0\.0036"),
        ("earth_sun_distance_anomaly_in_AU", 1.2, "but pi d2 / Esun|which is not between 0.98 and 1.02"),
        ("kappa0", -0.01, "its kappa0 is -0.01"),
    ],
)
def test_suns_that_cannot_be_are_one_sentence(tmp_path: Path, name: str, value: float, said: str) -> None:
    path = write_abi_file(tmp_path / "a.nc", channel=2, start=START, shape=(40, 40))
    path = path.rename(path.with_name("OR_ABI-L1b-RadM1-M6C02_G16_s20201831600000_e20201831600057_c20201831600110.nc"))
    assert index_file(source_of(path)).coefficients["kappa0"] > 0
    with h5py.File(path, "r+") as h5:
        h5[name][...] = value
    with pytest.raises(SourceError, match=said):
        index_file(source_of(path))


def test_what_a_rewritten_file_has_lost_is_not_held_against_it(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path))
    truth = index_file(source_of(path))
    with h5py.File(path, "r+") as h5:
        for name in ("platform_ID", "scene_id", "time_coverage_start", "time_coverage_end", "dataset_name"):
            del h5.attrs[name]
        for name in ("t", "band_wavelength", "valid_pixel_count"):
            del h5[name]
        del h5["x"].attrs["units"]
    index = index_file(source_of(path))
    start, end = np.datetime64(index.source.start, "ns"), np.datetime64(index.source.end, "ns")
    assert index.mid_time == start + (end - start) // 2
    assert np.isnan(index.wavelength)
    assert index.coefficients["planck_fk2"] == truth.coefficients["planck_fk2"]
    assert index.grid == truth.grid


def test_a_middle_within_the_scan_is_taken_as_it_is(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path))
    before = index_file(source_of(path)).mid_time
    with h5py.File(path, "r+") as h5:
        h5["t"][...] = h5["t"][()] + 1.0
    assert abs(index_file(source_of(path)).mid_time - before - np.timedelta64(1, "s")) < np.timedelta64(1, "us")


@pytest.mark.parametrize("shape", [(10**12, 10**12), (30000, 30000), (500, 10**9)])
@pytest.mark.parametrize("chunks", [(226, 226), (10**5, 10**4), (1, 1)])
def test_boundless_images_are_refused_before_memory_is_taken(
    whole: Path, tmp_path: Path, shape: tuple[int, int], chunks: tuple[int, int]
) -> None:
    path = Path(shutil.copy(whole, tmp_path))
    with h5py.File(path, "r+") as h5:
        attrs = {k: h5["Rad"].attrs[k] for k in ("scale_factor", "add_offset", "units", "_FillValue", "_Unsigned")}
        del h5["Rad"]
        made = h5.create_dataset(
            "Rad", shape, "i2", chunks=tuple(min(c, n) for c, n in zip(chunks, shape, strict=True))
        )
        made.attrs.update(attrs)
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"not a readable ABI L1b file \(Rad has \d+ x \d+ pixels .* 5424 x 5424"):
        index_file(source_of(path))
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def test_a_chunk_far_larger_than_its_image_is_refused(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path))
    with h5py.File(path, "r+") as h5:
        del h5["Rad"]
        h5.create_dataset("Rad", (130, 130), "i2", chunks=(30_000, 30_000), maxshape=(None, None))
    with pytest.raises(
        SourceError, match=r"Rad has 130 x 130 pixels in chunks of \(30000, 30000\), the full disk 5424"
    ):
        index_file(source_of(path))


def test_chunks_without_number_are_refused(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path))
    with h5py.File(path, "r+") as h5:
        for name in ("Rad", "DQF"):
            attrs = {k: h5[name].attrs[k] for k in ("_FillValue", "_Unsigned", "units")}
            del h5[name]
            h5.create_dataset(name, (5424, 5424), "i2" if name == "Rad" else "i1", chunks=(1, 1)).attrs.update(attrs)
    with pytest.raises(SourceError, match=r"Rad has 29419776 chunks of \(1, 1\); 1048576 are read at most"):
        index_file(source_of(path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"number_of_lines": 61}, "its number of lines is 61 where 60 is expected"),
        ({"sub_longitude": 1.0}, "longitude_of_projection_origin is 57.29"),
        ({"nominal_satellite_height": 6378137.0}, "perspective_point_height is 0"),
        ({"light_speed": 3.2e8}, "but ir105 at 10.35 um has about"),
        ({"coff": 1e9}, "edges lie at scan angles"),
        ({"observation_end_time": 1e12}, "1e\\+12 seconds since noon of 2000-01-01 are no time"),
        ({"observation_end_time": 744813700.0}, "it was observed from 2023-08-09T00:34:41"),
        ({"number_of_columns": 81}, "its number of columns is 81 where 80 is expected"),
    ],
)
def test_amis_numbers_that_cannot_be_are_one_sentence(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write_ami_file(tmp_path, band="ir105", start=datetime(2023, 8, 9, 0, 34, 41), shape=(60, 80))
    index_file(source_of(path, AMI_NAMES))
    with h5py.File(path, "r+") as h5:
        for name, value in changes.items():
            h5.attrs[name] = np.array([value], h5.attrs[name].dtype if name in h5.attrs else None)
    with pytest.raises(SourceError, match=rf"readable AMI L1b file \(.*({said})"):
        index_file(source_of(path, AMI_NAMES))


def test_an_attribute_that_does_not_hold_its_checksum_is_no_absent_one(whole: Path, tmp_path: Path) -> None:
    """Whatever byte of the metadata is flipped, the grid is the same or the file is refused."""
    path = Path(shutil.copy(whole, tmp_path))
    truth = index_file(source_of(path))
    data = path.read_bytes()
    places = [data.find(word) + 3 for word in (b"scale_factor", b"add_offset", b"_Unsigned", b"time_coverage_start")]
    places += list(np.random.default_rng(3).integers(0, len(data), 120))
    held = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        try:
            index = index_file(source_of(path))
        except SourceError:
            continue
        held += 1
        assert (index.grid, index.scale, index.offset, index.mid_time) == (
            truth.grid,
            truth.scale,
            truth.offset,
            truth.mid_time,
        ), place
    assert held > 30  # pixels, and what is not read


def test_an_attribute_that_cannot_be_read_is_never_taken_for_an_absent_one(whole: Path) -> None:
    """``attrs.get`` of h5py gives its default for both."""
    data, hidden = whole.read_bytes(), 0
    for place in np.random.default_rng(0).integers(0, len(data), 1000):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        try:
            h5 = h5py.File(io.BytesIO(flipped), "r")
        except OSError:
            continue
        with h5:
            for where, name in (("x", "scale_factor"), ("/", "platform_ID")):
                try:
                    if h5[where].attrs.get(name) is not None:
                        continue
                except (KeyError, RuntimeError, OSError):
                    continue
                hidden += 1
                with pytest.raises((KeyError, RuntimeError, OSError)):
                    attribute_or_none(h5[where], name)
    assert hidden > 10


def test_every_real_file_is_read(abi_data: Path, ami_data: Path) -> None:
    files = [*LocalArchive(abi_data).files(None, None, None, None)]
    files += LocalArchive(ami_data, AMI_NAMES).files(None, None, None, None)
    for file in files:
        assert index_file(file).valid_fraction > 0.5
    assert len(files) >= 50


def test_a_file_of_another_time_drops_only_itself_and_can_be_mended(tmp_path: Path) -> None:
    """One file copied over another of its band, name kept."""
    archive, output = tmp_path / "archive", tmp_path / "out"
    kept = {"channels": (7, 13), "shape_2km": (150, 150), "workers": 1}
    write_abi_archive(archive, start=START, hours=0.5, **kept)
    paths = sorted(archive.rglob("*C13*.nc"))
    data = paths[1].read_bytes()
    shutil.copy(paths[0], paths[1])
    flags = [
        "abi",
        "--local-data-dir",
        str(archive),
        "--output-dir",
        str(output),
        "--workers",
        "1",
        "--grid",
        "2km",
        "--domain",
        "M1",
    ]
    flags += ["--channels", "7", "13", "--steps", "3", "--step-minutes", "10", "--tile-size", "64", "--num-tiles", "1"]
    assert main(flags) == 1
    (row,) = pd.read_csv(output / "errors.csv").itertuples()
    assert row.kind == "source"
    assert paths[1].name in row.reason
    assert "but its name says" in row.reason
    assert row.channel == 13
    paths[1].write_bytes(data)
    assert main(flags) == 0
    assert not (output / "errors.csv").exists()


def test_an_unforeseen_fault_drops_only_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_abi_file(tmp_path, channel=13, start=START, shape=(130, 130))
    for fault in (RecursionError("too deep"), MemoryError(), OverflowError("year 9999"), AttributeError("no dtype")):

        def fail(*_: Any, fault: Exception = fault) -> None:
            raise fault

        monkeypatch.setattr("cube.geostationary.abi._grid", fail)
        with pytest.raises(SourceError, match=rf"{path.name} is not a readable ABI L1b file \("):
            index_file(source_of(path))


def test_scans_half_a_minute_apart_are_not_taken_for_one_another(tmp_path: Path) -> None:
    first, second = (
        write_abi_file(tmp_path, channel=13, start=START + timedelta(seconds=30 * i), shape=(130, 130)) for i in (0, 1)
    )
    shutil.copy(first, second)
    with h5py.File(second, "r+") as h5:
        for name in ("time_coverage_start", "time_coverage_end", "dataset_name"):
            del h5.attrs[name]
    with pytest.raises(SourceError, match=r"its t is 2020-07-01T16:00:0.*, but its name says 2020-07-01 16:00:30"):
        index_file(source_of(second))


@pytest.mark.parametrize("name", ["planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2"])
def test_a_thermal_file_without_a_coefficient_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    """Its temperatures would be NaN without a word."""
    for how in ("gone", "never filled in"):
        path = Path(shutil.copy2(whole, tmp_path / whole.name))
        with h5py.File(path, "r+") as h5:
            if how == "gone":
                del h5[name]
            else:
                h5[name][...] = -999.0
        with pytest.raises(SourceError, match=f"it lacks {name}"):
            index_file(source_of(path))


@pytest.mark.parametrize(("name", "factor"), [("scale_factor", 2.0), ("scale_factor", 0.5), ("add_offset", 0.0)])
def test_a_packing_is_held_against_that_of_its_own_band(whole: Path, tmp_path: Path, name: str, factor: float) -> None:
    path = Path(shutil.copy2(whole, tmp_path / whole.name))
    with h5py.File(path, "r+") as h5:
        h5["Rad"].attrs[name] = h5["Rad"].attrs[name] * np.float32(factor)
    with pytest.raises(SourceError, match=f"its {name} is .* not between"):
        index_file(source_of(path))
