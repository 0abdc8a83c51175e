"""Builds of archives with bad scans: what gives way, what is told, what is flagged, and the record of it."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import Scan, find_scans
from cube.build import main
from cube.geostationary import cutting
from cube.geostationary.plan_table import PlanTable
from cube.testing import write_abi_archive, write_abi_file
from stratacube.errors import StratacubeError
from tests.cube.bad_scans import images_of

AREA: dict[str, Any] = {"shape_2km": (130, 130), "corner": (0.0196, 0.0504)}
START = datetime(2020, 7, 1, 16)
SHARDS = ("--shard-mb", "0.004")
"""Of a tile each, so that some see the scan and not its fault."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of two channels."""
    root = tmp_path_factory.mktemp("whole")
    write_abi_archive(root, start=START, hours=1, channels=(7, 13), workers=1, **AREA)
    return root


def scans_of(archive: Path) -> list[Scan]:
    return find_scans(LocalArchive(archive), platform="goes16", sector="M1")


def emptied(whole: Path, copy: Path, number: int, channels: tuple[int, ...] = (7, 13)) -> Scan:
    """Copy an archive and write files of a scan anew, of nothing but fill; return the scan."""
    shutil.copytree(whole, copy)
    scan = scans_of(copy)[number]
    for channel in channels:
        fill = 16383 if channel == 7 else 4095
        Path(scan.files[channel].href).unlink()
        write_abi_file(
            copy, channel=channel, start=scan.files[channel].start, shape=(130, 130), corner=AREA["corner"],
            counts=np.full((130, 130), fill, "u2"), dqf=np.full((130, 130), 3, "i1"),
        )  # fmt: skip
    return scans_of(copy)[number]


def build(archive: Path, output: Path, *flags: str) -> int:
    base = ["--domain", "M1", "--channels", "7", "13", "--grid", "2km", "--tile-size", "32", "--steps", "2"]
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--num-tiles", "12"]
    return main(["abi", *given, *base, "--step-minutes", "10", "--quiet", *flags])


def test_a_scan_of_fill_gives_way_and_is_named(whole: Path, tmp_path: Path) -> None:
    bad = emptied(whole, tmp_path / "archive", 3)
    assert build(tmp_path / "archive", tmp_path / "out") == 0
    tiles = pd.read_parquet(tmp_path / "out" / "plan.parquet")
    assert bad.id not in {scan for scans in tiles["scan_ids"] for scan in scans}
    errors = pd.read_csv(tmp_path / "out" / "errors.csv")
    assert (errors["kind"].tolist(), errors["scan_id"].tolist()) == (["avoided"], [bad.id])
    assert "0.0% of its pixels are valid by its own count" in errors["reason"][0]
    assert bad.files[7].href in errors["reason"][0]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| 2020-07-01 | 7 | 7 | 7 | 0 | 1 |" in report
    assert "Valid pixels: 100.0%; of the tile with the fewest, " in report
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_the_record_tells_what_was_found_of_each_file(whole: Path, tmp_path: Path) -> None:
    bad = emptied(whole, tmp_path / "archive", 3, channels=(13,))
    assert build(tmp_path / "archive", tmp_path / "out", "--plan-only") == 0
    table = pd.read_parquet(tmp_path / "out" / "screening.parquet")
    assert table.set_index(["scan", "channel"])["verdict"].to_dict() == {
        (scan.id, channel): "unfit" if (scan.id, channel) == (bad.id, 13) else "fit"
        for scan in scans_of(tmp_path / "archive")
        for channel in (7, 13)
    }
    for row in table.itertuples():
        with h5py.File(row.href) as h5:
            flags = h5["DQF"][:]
        assert [getattr(row, f"flag_{n}") for n in range(5)] == [(flags == n).mean() for n in range(5)]
        assert row.valid == np.isin(flags, [0, 1]).mean()


def test_a_scan_that_no_tile_needs_is_not_looked_at(whole: Path, tmp_path: Path) -> None:
    few = ("--num-tiles", "1", "--plan-only")
    assert build(whole, tmp_path / "quick", *few) == 0
    assert len(pd.read_parquet(tmp_path / "quick" / "screening.parquet")) == 2 * 2
    assert build(whole, tmp_path / "full", *few, "--screen", "full") == 0
    assert len(pd.read_parquet(tmp_path / "full" / "screening.parquet")) == 7 * 2


def test_without_screening_fill_is_cut_like_pixels_and_min_valid_tells(whole: Path, tmp_path: Path) -> None:
    bad = emptied(whole, tmp_path / "archive", 3)
    assert build(tmp_path / "archive", tmp_path / "off", "--screen", "off") == 0
    assert not (tmp_path / "off" / "screening.parquet").exists()
    assert build(tmp_path / "archive", tmp_path / "least", "--screen", "off", "--min-valid", "0.9") == 1
    tiles = pd.read_parquet(tmp_path / "least" / "plan.parquet").set_index("tile_id")
    errors = pd.read_csv(tmp_path / "least" / "errors.csv")
    assert set(errors["tile_id"]) == {name for name, scans in tiles["scan_ids"].items() if bad.id in scans}
    assert errors["reason"].str.contains("of its pixels are valid, fewer than the 90.0% of").all()


def test_where_nothing_can_take_its_place_a_bad_file_is_left_out_of_its_tiles_and_back_when_mended(
    whole: Path, tmp_path: Path
) -> None:
    bad = emptied(whole, tmp_path / "archive", 3, channels=(13,))
    flags = ("--steps", "7", "--num-tiles", "2")
    assert build(tmp_path / "archive", tmp_path / "out", *flags) == 1
    errors = pd.read_csv(tmp_path / "out" / "errors.csv")
    assert set(errors["kind"]) == {"source"}
    assert set(errors["scan_id"]) == {bad.id}
    assert set(errors["channel"]) == {13}
    good = scans_of(whole)[3].files[13]
    Path(bad.files[13].href).unlink()
    shutil.copy2(good.href, bad.files[13].href)
    assert build(tmp_path / "archive", tmp_path / "out", *flags) == 0


def test_a_plan_that_was_there_before_goes_on_without(whole: Path, tmp_path: Path) -> None:
    emptied(whole, tmp_path / "archive", 3)
    assert build(tmp_path / "archive", tmp_path / "out", "--screen", "off", "--plan-only") == 0
    before = (tmp_path / "out" / "plan.parquet").read_bytes()
    assert build(tmp_path / "archive", tmp_path / "out", "--screen", "off") == 0
    assert (tmp_path / "out" / "plan.parquet").read_bytes() == before
    assert build(tmp_path / "archive", tmp_path / "out") == 2  # another configuration, as for any key


def test_a_lost_plan_is_made_again_from_the_record(whole: Path, tmp_path: Path) -> None:
    bad = emptied(whole, tmp_path / "archive", 3)
    assert build(tmp_path / "archive", tmp_path / "out", "--plan-only") == 0
    plan = tmp_path / "out" / "plan.parquet"
    before = plan.read_bytes()
    for channel in (7, 13):  # mended meanwhile: the plan is what it was
        Path(bad.files[channel].href).unlink()
        shutil.copy2(scans_of(whole)[3].files[channel].href, bad.files[channel].href)
    plan.unlink()
    assert build(tmp_path / "archive", tmp_path / "out", "--plan-only") == 0
    assert plan.read_bytes() == before


SMALL = slice(60, 62)
"""Rows of channel 13: 1.5 % of them, too few for a whole file to be unfit."""


@pytest.fixture
def spoilt(whole: Path, tmp_path: Path) -> Scan:
    """A scan of a copy of the archive in ``archive``, two rows of which repeat the one before."""
    shutil.copytree(whole, tmp_path / "archive")
    scan = scans_of(tmp_path / "archive")[3]
    path = Path(scan.files[13].href)
    counts, flags = images_of(path)
    counts[SMALL] = counts[SMALL.start - 1]
    path.unlink()
    write_abi_file(path, channel=13, start=scan.files[13].start, corner=AREA["corner"], counts=counts, dqf=flags)
    return scans_of(tmp_path / "archive")[3]


def frames_of(output: Path, scan: Scan) -> dict[str, set[int]]:
    """Steps of tiles that are planned from a scan, by tile."""
    tiles = pd.read_parquet(output / "plan.parquet")
    return {
        row.tile_id: {step for step, name in enumerate(row.scan_ids) if name == scan.id}
        for row in tiles.itertuples()
        if scan.id in row.scan_ids
    }


def pixels_of(output: Path) -> dict[str, np.ndarray[Any, Any]]:
    root = zarr.open_group(output / "tiles.zarr", mode="r")
    return {name: root[name][:] for name in ("C07", "C13", "valid")}


def test_what_only_a_tile_shows_takes_the_file_out_of_all_tiles_until_it_is_mended(
    spoilt: Scan, whole: Path, tmp_path: Path
) -> None:
    assert build(tmp_path / "archive", tmp_path / "out", *SHARDS) == 1
    plan = pd.read_parquet(tmp_path / "out" / "plan.parquet")
    rows = [range(r, r + 32) for r in plan["row"]]
    assert any(SMALL.start in some for some in rows)
    assert plan["shard"].nunique() > 1
    before = (tmp_path / "out" / "plan.parquet").read_bytes()
    frames = frames_of(tmp_path / "out", spoilt)
    errors = pd.read_csv(tmp_path / "out" / "errors.csv")
    assert set(errors["kind"]) == {"source"}
    assert set(errors["tile_id"]) == frames.keys()
    assert set(errors["channel"]) == {13}
    assert (
        errors["reason"]
        .str.contains("of the pixels that a tile is cut from, 2 of .* rows .* repeat the row before")
        .all()
    )
    table = pd.read_parquet(tmp_path / "out" / "screening.parquet").set_index(["scan", "channel"])
    assert table[table["verdict"] != "fit"].index.tolist() == [(spoilt.id, 13)]
    assert spoilt.files[13].href in table.loc[(spoilt.id, 13), "reason"]
    names = pd.read_parquet(tmp_path / "out" / "plan.parquet")["tile_id"].tolist()
    valid = zarr.open_group(tmp_path / "out" / "tiles.zarr", mode="r")["valid"][:]
    for tile, name in enumerate(names):
        for step in range(2):
            lost = step in frames.get(name, set())
            assert ((valid[tile, step] & 1 << 12) != 0).any() != lost
            assert ((valid[tile, step] & 1 << 6) != 0).any()
    assert main(["verify", str(tmp_path / "out")]) == 1
    assert build(tmp_path / "archive", tmp_path / "out", *SHARDS) == 1
    assert (tmp_path / "out" / "plan.parquet").read_bytes() == before  # a plan stays as written
    path = Path(spoilt.files[13].href)
    path.unlink()
    shutil.copy2(scans_of(whole)[3].files[13].href, path)
    assert build(tmp_path / "archive", tmp_path / "out", *SHARDS) == 0
    assert not (tmp_path / "out" / "errors.csv").exists()
    valid = zarr.open_group(tmp_path / "out" / "tiles.zarr", mode="r")["valid"][:]
    assert ((valid & 1 << 12) != 0).any(axis=(2, 3)).all()


@pytest.mark.slow
def test_what_only_a_tile_shows_does_not_depend_on_where_a_run_was_killed(
    spoilt: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build(tmp_path / "archive", tmp_path / "once", *SHARDS) == 1
    wanted = pixels_of(tmp_path / "once")
    real = cutting.Cutting._cut
    calls: list[int] = []

    def stopped(self: Any, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # the record is changed, and nothing is yet made once more
            raise StratacubeError("stopped")
        return real(self, *given)

    monkeypatch.setattr(cutting.Cutting, "_cut", stopped)
    assert build(tmp_path / "archive", tmp_path / "twice", *SHARDS) == 1
    assert build(tmp_path / "archive", tmp_path / "twice", *SHARDS) == 1
    assert len(calls) >= 3
    for name, values in pixels_of(tmp_path / "twice").items():
        np.testing.assert_array_equal(values, wanted[name])
    errors = [pd.read_csv(tmp_path / name / "errors.csv") for name in ("once", "twice")]
    assert errors[0]["tile_id"].tolist() == errors[1]["tile_id"].tolist()


@pytest.mark.slow
def test_what_only_a_tile_of_one_job_shows_takes_the_file_out_of_the_tiles_of_all(spoilt: Scan, tmp_path: Path) -> None:
    shards = ("--shard-mb", "0.003")  # of a tile each: some that are cut from the scan have none of the bad rows
    assert build(tmp_path / "archive", tmp_path / "once", *shards) == 1
    split = tmp_path / "split"
    assert build(tmp_path / "archive", split, *shards, "--plan-only") == 0
    codes = [build(tmp_path / "archive", split, *shards, "--shard", f"{n}/12") for n in range(1, 13)]
    assert 0 < sum(codes) < len(frames_of(split, spoilt))
    assert list((split / "numbers").glob("unfit-*"))
    assert main(["publish", str(split), "--workers", "1"]) == 1
    for name, values in pixels_of(split).items():
        np.testing.assert_array_equal(values, pixels_of(tmp_path / "once")[name])
    for name in ("errors.csv", "screening.parquet"):
        assert (split / name).read_bytes() == (tmp_path / "once" / name).read_bytes()
    assert not list((split / "numbers").glob("unfit-*"))


def test_with_all_of_a_scan_looked_at_what_only_a_tile_shows_gives_way(spoilt: Scan, tmp_path: Path) -> None:
    assert build(tmp_path / "archive", tmp_path / "out", *SHARDS, "--screen", "full", "--plan-only") == 0
    assert frames_of(tmp_path / "out", spoilt) == {}
    (problem,) = PlanTable(tmp_path / "out" / "plan.parquet").problems
    assert (problem.kind, problem.input) == ("avoided", spoilt.id)


@pytest.mark.slow
def test_without_screening_tiles_are_not_looked_at(spoilt: Scan, tmp_path: Path) -> None:
    assert build(tmp_path / "archive", tmp_path / "out", *SHARDS, "--screen", "off") == 0
