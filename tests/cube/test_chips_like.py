"""Tiles of builds as SatVision-Pix4D's chips, against numpy that cuts the same files by its rule."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from pyproj import Transformer

import cube
from cube.build import main
from cube.geostationary.chips.export import _folder_of
from cube.job.ledger import Entry, Ledger, Problem
from cube.strata.cloudsat.granule import read_granule
from cube.testing import write_cloudsat_granule
from stratacube.errors import UsageError

SIZE = 64
EVENTS = [(0.0, 0.0), (0.3, 0.11), (-0.3, -0.25), (0.41, -0.4), (-0.13, 0.32), (0.22, 0.2)]
"""Degrees from the middle of the sector."""


def axes(path: Path | str) -> tuple[dict[str, Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Projection of a file, and its scan angles."""
    with h5py.File(path) as file:
        told = {k: np.ravel(v)[0] for k, v in file["goes_imager_projection"].attrs.items()}
        x, y = (
            file[n][()] * np.ravel(file[n].attrs["scale_factor"])[0] + np.ravel(file[n].attrs["add_offset"])[0]
            for n in ("x", "y")
        )
    return told, x, y


def pixel(path: Path | str, longitude: float, latitude: float) -> tuple[int, int]:
    """Row and column of the pixel of a file that holds a place, by PROJ."""
    told, x, y = axes(path)
    height = float(told["perspective_point_height"])
    where = f"+proj=geos +h={height} +lon_0={told['longitude_of_projection_origin']} +sweep=x +ellps=GRS80"
    east, north = Transformer.from_crs("EPSG:4326", where, always_xy=True).transform(longitude, latitude)
    dx, dy = np.diff(x[:2])[0], np.diff(y[:2])[0]
    found = (north / height - (y[0] - dy / 2)) / dy, (east / height - (x[0] - dx / 2)) / dx
    return int(np.floor(found[0])), int(np.floor(found[1]))


def cut(path: str, top: int, left: int, stride: float, size: int = SIZE) -> npt.NDArray[np.float32]:
    """SatVision-Pix4D's rule: the pixel floor(index * scale) of the file, NaN where it is fill; flags are not asked."""
    rows, cols = ((np.floor((first + np.arange(size)) * stride)).astype(int) for first in (top, left))
    with h5py.File(path) as file:
        rad = file["Rad"]
        scale, offset, fill = (np.ravel(rad.attrs[n])[0] for n in ("scale_factor", "add_offset", "_FillValue"))
        counts = rad[()].view("u2")[np.ix_(rows, cols)]
    values = counts.astype("f4") * np.float32(scale) + np.float32(offset)
    return np.where(counts == np.uint16(fill), np.float32("nan"), values)


def same(one: Path, other: Path) -> None:
    with np.load(one) as a, np.load(other) as b:
        assert a.files == b.files
        for name in a.files:
            assert a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture(scope="module")
def builds(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two builds of the same events: one that keeps pixels of 0.5 km, and one of their averages."""
    root = tmp_path_factory.mktemp("builds")
    archive = shutil.copytree(small_archive, root / "archive", ignore=shutil.ignore_patterns("*C0[3-9]*", "*C1[!3]*"))
    for path in archive.rglob("*.nc"):  # pixels without a value, of either parity
        with h5py.File(path, "r+") as changed:
            counts = changed["Rad"][()]
            counts[::5, ::7] = np.ravel(changed["Rad"].attrs["_FillValue"])[0]
            changed["Rad"][...] = counts
    file = next(archive.rglob("*C01*.nc"))
    told, x, y = axes(file)
    height = float(told["perspective_point_height"])
    where = f"+proj=geos +h={height} +lon_0={told['longitude_of_projection_origin']} +sweep=x +ellps=GRS80"
    back = Transformer.from_crs(where, "EPSG:4326", always_xy=True)
    lon, lat = back.transform(x[len(x) // 2] * height, y[len(y) // 2] * height)
    rows = [
        {"time": "2020-07-01T16:30", "lat": lat + b, "lon": lon + a, "id": n + 1} for n, (a, b) in enumerate(EVENTS)
    ]
    pd.DataFrame(rows).to_csv(root / "events.csv", index=False)
    flags = ["abi", "-r", "events", "--events", str(root / "events.csv"), "--local-data-dir", str(archive)]
    flags += ["--domain", "M1", "--channels", "1", "2", "13", "--steps", "2", "--step-minutes", "10", "--workers", "1"]
    flags += ["--tile-size", str(SIZE), "--screen", "off"]
    assert main([*flags, "--output-dir", str(root / "mean")]) == 0
    assert main([*flags, "--output-dir", str(root / "keep"), "--half-km", "keep"]) == 0
    return root


def exported(build: Path, out: Path, *flags: str) -> list[Path]:
    assert main(["export-chips", "--store", str(build), "--output-dir", str(out), *flags]) == 0
    return sorted(out.rglob("*.npz"))


def test_chips_are_those_that_its_rule_cuts(builds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value, at the pixel of the event: from a store that keeps C02, and with averages from the archive."""
    where = ["--folders", "{split}/%Y%m", "--split-lists"]
    made = exported(builds / "keep", tmp_path / "out", "--like", "satvision", *where)
    events = pd.read_csv(builds / "events.csv")
    assert len(made) == len(events)
    listed = [line for file in (tmp_path / "out").glob("*.txt") for line in file.read_text().split()]
    assert sorted(tmp_path / "out" / line for line in listed) == made
    assert all(line.split("/")[1] == "202007" for line in listed)
    plan = pd.read_parquet(builds / "keep" / "plan.parquet")
    parities, corners = set(), set()
    for path in made:
        with np.load(path) as held:
            chip, told, sources = held["chip"], json.loads(str(held["metadata"])), held["source_files"]
            latitude, longitude = held["latitude"], held["longitude"]
        row = plan[plan["system_id"] == int(path.stem.partition("_sys")[2])].iloc[0]
        place = events.loc[events["id"] == row["system_id"]].iloc[0]
        centre = pixel(sources[0, 0], place["lon"], place["lat"])
        assert (told["abi_center_y"], told["abi_center_x"]) == centre
        top, left = (n - SIZE // 2 for n in centre)
        parities.add((top % 2, left % 2))
        corners.add((row["row"] - top, row["col"] - left))
        for step in range(2):
            for number, stride in ((1, 1), (2, 2), (13, 0.5)):
                expected = cut(sources[step, number - 1], top, left, stride)
                np.testing.assert_allclose(chip[step, number - 1], expected, rtol=2e-6, atol=1e-6)
        assert np.isnan(chip[:, [2, 3, 15]]).all()
        middle = longitude[SIZE // 2, SIZE // 2], latitude[SIZE // 2, SIZE // 2]
        assert pixel(sources[0, 0], *map(float, middle)) == centre
        assert np.isnan(chip[:, [0, 1, 12]]).any(axis=(0, 2, 3)).all()
    assert len(parities) > 2
    assert len(corners) > 2
    assert corners <= {(a, b) for a in (0, 1) for b in (0, 1)}  # at most a pixel off
    for path in exported(builds / "mean", tmp_path / "of_mean", "--like", "satvision", *where):
        same(path, tmp_path / "out" / path.relative_to(tmp_path / "of_mean"))
    # And taken in again, out again.
    inside = ["--chips", str(tmp_path / "out" / "**" / "*.npz"), "--output-dir", str(tmp_path / "in")]
    assert main(["import-chips", *inside]) == 0
    for path in exported(tmp_path / "in", tmp_path / "again"):
        same(path, next((tmp_path / "out").rglob(path.name)))
    capsys.readouterr()
    command = ["export-chips", "--store", str(tmp_path / "in"), "--output-dir", str(tmp_path / "no"), "--split-lists"]
    assert main(command) == 2
    assert "--split-lists goes with the tiles of a build" in capsys.readouterr().err


def test_chips_lie_where_tiles_do_unless_told(builds: Path, tmp_path: Path) -> None:
    plan = pd.read_parquet(builds / "keep" / "plan.parquet")
    for path in exported(builds / "keep", tmp_path / "out"):
        with np.load(path) as held:
            chip, told, sources = held["chip"], json.loads(str(held["metadata"])), held["source_files"]
        row = plan[plan["system_id"] == told["system_id"]].iloc[0]
        assert (told["abi_center_y"], told["abi_center_x"]) == (row["row"] + SIZE // 2, row["col"] + SIZE // 2)
        for number, stride in ((1, 1), (2, 2), (13, 0.5)):
            expected = cut(sources[1, number - 1], row["row"], row["col"], stride)
            np.testing.assert_allclose(chip[1, number - 1], expected, rtol=2e-6, atol=1e-6)


def test_what_cannot_be_had_is_a_sentence(builds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = builds / "mean" / "sources.json"
    before, plan = sources.read_bytes(), builds / "mean" / "plan.parquet"
    flags = ["export-chips", "--store", str(builds / "mean"), "--output-dir", str(tmp_path / "out"), "--like"]
    planned = pd.read_parquet(plan)
    try:
        sources.write_bytes(before.replace(b"/2020/183/", b"/2020/999/"))
        assert main([*flags, "satvision"]) == 1
        told = capsys.readouterr()
        assert "C02 of goes16_M1_" in told.err
        assert "is wanted from the archive, for the store lacks pixels of it" in told.err
        assert "6 tiles could not be made chips of" in told.out
        assert not list(tmp_path.rglob("*.npz"))
        before_pixels = plan.read_bytes()
        table = pd.read_parquet(plan)
        table.attrs = planned.attrs
        table.drop(columns=["event_row", "event_col"]).to_parquet(plan)
        assert main([*flags, "satvision"]) == 2
        assert "was planned before plans told the pixel of each event" in capsys.readouterr().err
        plan.write_bytes(before_pixels)
    finally:
        sources.write_bytes(before)
    for pattern, said in (("{moon}", "--folders is '{moon}' ('moon'); give words of {split}"), ("../%Y", "leads out")):
        assert main([*flags, "tile", "--folders", pattern]) == 2
        assert said in capsys.readouterr().err


def test_folders_by_split_want_splits() -> None:
    tile = SimpleNamespace(stratum="random", platform="goes16", event_time="2020-07-01")
    with pytest.raises(UsageError, match=r"^`folders` is '{split}/%Y', and the build has no splits; build with"):
        _folder_of("{split}/%Y", tile)
    assert _folder_of("{stratum}/%Y", tile) == "random/2020"


def test_tiles_about_a_track_have_the_form_of_the_cutter(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = datetime(2020, 7, 1, 16, 5)
    granule = {"longitude": -58.7, "profiles": 9000, "before_equator": 600.0, "orbit": 75_123}
    read = read_granule(write_cloudsat_granule(tmp_path / "cs", start, **granule))
    words = ["cloudsat", "--abi-root", small_archive, "--cloudsat-root", tmp_path / "cs", "--year", 2020]
    words += ["--day-start", 183, "--day-end", 183, "--domain", "M1", "--channels", 13, "--offsets", 0, 10]
    words += ["--inner-disk-margin", 0, "--min-valid-fraction", 0.5, "--profile-selection", "chip", "--workers", 1]
    assert main([*map(str, words), "--output-dir", str(tmp_path / "build")]) == 0
    made = exported(tmp_path / "build", tmp_path / "out", "--like", "satvision")
    tiles = cube.open_tiles(tmp_path / "build", chunks=None)
    assert len(made) == tiles.sizes["tile"] >= 3
    for path in made:
        with np.load(path) as held:
            members = {name: held[name] for name in held.files}
        told = json.loads(str(members["metadata_json"]))
        first = {n: members[f"CloudSat/{n}"] for n in ("abi_row", "abi_column", "profile_index", "cloud_class")}
        middle = int(np.flatnonzero(first["profile_index"] == told["cloudsat_center_profile"])[0])
        # The centre is the profile's own pixel, and all profiles lie in the chip.
        assert (told["abi_row"], told["abi_column"]) == (first["abi_row"][middle], first["abi_column"][middle])
        assert path.name.startswith("GOES16_east_abi_cloudsat_20200701T16")
        assert f"_orbit75123_r{told['abi_row']}_c{told['abi_column']}_p{told['cloudsat_center_profile']}_" in path.name
        for name in ("abi_row", "abi_column"):
            inside = first[name] - (told[name] - 64)
            assert inside.min() >= 0
            assert inside.max() < 128
        chip = members["ABI/chip"]
        assert chip.shape == (2, 128, 128, 16)
        _, x, y = axes(told["abi_paths"][0][0])
        corner = round(5424 - (y[0] + 28e-6) / 28e-6), round(5424 + (x[0] - 28e-6) / 28e-6)
        top, left = told["abi_row"] - 64 - corner[0], told["abi_column"] - 64 - corner[1]
        for step in range(2):
            expected = cut(told["abi_paths"][step][0], top, left, 0.5, 128)
            np.testing.assert_allclose(chip[step, ..., 12], expected, rtol=2e-6, atol=1e-6)
        assert members["ABI/offsets_minutes"].tolist() == [0, 10]
        assert members["ABI/valid_mask"].shape == (2, 128, 128)
        assert first["cloud_class"].dtype == np.dtype("i1")
        for name in ("layer_type", "layer_count", "layer_top"):
            expected = getattr(read, name)[first["profile_index"]]
            np.testing.assert_array_equal(members[f"CloudSat/cloud_{name}"], expected)
        assert first["cloud_class"].shape == (len(first["abi_row"]), 40)
        hours = members["CloudSat/utc_hour"]
        seconds = (start.hour * 3600 + start.minute * 60) + 0.16 * first["profile_index"]
        np.testing.assert_allclose(hours * 3600, seconds, atol=0.01)
        np.testing.assert_array_equal(members["CloudSat/cloud_binary_mask"], first["cloud_class"] > 0)
        assert told["cloudy_bin_percentage"] == pytest.approx(100 * (first["cloud_class"] > 0).mean())
    inside = ["--chips", str(tmp_path / "out" / "*.npz"), "--output-dir", str(tmp_path / "in"), "--workers", "1"]
    assert main(["import-chips", *inside]) == 0
    for path in exported(tmp_path / "in", tmp_path / "again"):
        same(path, tmp_path / "out" / path.name)
    # The build says of a tile that it is none: the cutter wrote no chip of too few valid pixels either.
    few = str(pd.read_parquet(tmp_path / "build" / "plan.parquet")["tile_id"][1])
    told_so = Entry("looked-at", "partial", (Problem("product", "40% of its pixels are valid", few),))
    Ledger(tmp_path / "build" / "ledger.jsonl").record(told_so)
    assert main(["export-chips", "--store", str(tmp_path / "build"), "--output-dir", str(tmp_path / "whole")]) == 1
    assert len(list((tmp_path / "whole").glob("*.npz"))) == len(made) - 1
    told_in = capsys.readouterr()
    assert "40% of its pixels are valid" in told_in.err
    assert "1 tile could not be made chips of" in told_in.out
