"""One law of exit codes, and run, status and verify agree on it."""

from __future__ import annotations

import shutil
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import find_scans
from cube.build import main
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.references import read_references
from cube.sentinel2.grid import make_grid, write_grid
from cube.testing import write_abi_archive, write_cloud_systems
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

TILES = ("--domain", "M1", "--channels", "7", "13", "--tile-size", "64", "--grid", "2km", "--workers", "1", "--quiet")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans of two channels, 10 minutes apart."""
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(
        root, start=datetime(2020, 7, 1, 16), hours=0.5, channels=(7, 13), shape_2km=(120, 120), workers=1
    )
    return root


def spoiled(archive: Path, root: Path, *channels: int) -> Path:
    """Copy an archive, some channels of one scan of which cannot be read."""
    shutil.copytree(archive, root / "archive")
    scan = find_scans(LocalArchive(root / "archive"), platform="goes16", sector="M1")[1]
    for channel in channels:
        path = Path(scan.files[channel].href)
        path.write_bytes(path.read_bytes()[:3000])
    return root / "archive"


def build(archive: Path, output: Path, *flags: str) -> tuple[int, int, int]:
    """Exit codes of the build, and of status and verify after it."""
    code = main(["abi", "--output-dir", str(output), "--local-data-dir", str(archive), *TILES, *flags])
    return code, main(["status", str(output)]), main(["verify", str(output)])


def test_a_scan_that_another_replaced_by_rule_is_told_and_lacks_nobody(archive: Path, tmp_path: Path) -> None:
    flags = ("--steps", "1", "--num-tiles", "12")
    assert build(spoiled(archive, tmp_path, 7, 13), tmp_path / "out", *flags) == (0, 0, 0)
    errors = pd.read_csv(tmp_path / "out" / "errors.csv")
    assert errors["kind"].tolist() == ["avoided"]
    assert "s20201831610" in errors["scan_id"][0]


def test_a_scan_that_would_have_been_used_is_lacking(archive: Path, tmp_path: Path) -> None:
    flags = ("--steps", "3", "--step-minutes", "10", "--num-tiles", "2")
    assert build(spoiled(archive, tmp_path, 13), tmp_path / "out", *flags) == (1, 1, 1)
    assert "source" in set(pd.read_csv(tmp_path / "out" / "errors.csv")["kind"])
    lost = {r.header.source.href for r in read_references(tmp_path / "out" / "references")}
    for path in (tmp_path / "archive").rglob("*.nc"):
        shutil.copy2(archive / path.relative_to(tmp_path / "archive"), path)
    assert build(tmp_path / "archive", tmp_path / "out", *flags) == (0, 0, 0)
    mended = {r.header.source.href for r in read_references(tmp_path / "out" / "references")}
    assert len(mended - lost) == 1  # what is mended is in the virtual cube too


def test_a_channel_that_is_missing_is_lacking_unless_it_was_expected(archive: Path, tmp_path: Path) -> None:
    """What the plan knows to be missing is in no task's entry, and status and verify know it all the same."""
    path = Path(find_scans(LocalArchive(archive), platform="goes16", sector="M1")[1].files[13].href)
    shutil.copytree(archive, tmp_path / "archive")
    (tmp_path / "archive" / path.relative_to(archive)).unlink()
    flags = ("--steps", "3", "--step-minutes", "10", "--num-tiles", "2")
    assert build(tmp_path / "archive", tmp_path / "out", *flags) == (1, 1, 1)
    assert set(pd.read_csv(tmp_path / "out" / "errors.csv")["kind"]) == {"missing"}
    assert build(tmp_path / "archive", tmp_path / "allowed", *flags, "--allow-missing") == (0, 0, 0)


def test_a_dropped_scene_is_lacking(tmp_path: Path) -> None:
    write_grid(make_grid(2000, (ULX, ULY - 2000, ULX + 2000, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    for day in range(3):
        make_scene(day, FIRST + timedelta(days=day), bands=("B02",)).write(tmp_path / "safe")
    image = sorted((tmp_path / "safe").rglob("*B02_20m.jp2"))[1]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "out"
    command = [
        *("sentinel2", "--work-dir", str(output), "--safe-dir", str(tmp_path / "safe")),
        *("--grid-csv", str(tmp_path / "grid.csv"), "--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02"),
        *("--tr", "20", "20", "--tap", "--workers", "1", "--quiet"),
    ]
    for _ in range(2):  # what is lacking is lacking still
        assert [main(command), main(["status", str(output)]), main(["verify", str(output)])] == [1, 1, 1]
    image.write_bytes(whole)
    assert [main(command), main(["status", str(output)]), main(["verify", str(output)])] == [0, 0, 0]


def test_two_records_of_one_system_with_the_same_best_window_are_one_tile(small_archive: Path, tmp_path: Path) -> None:
    latitudes, longitudes = np.arange(-5, 20, 0.12), np.arange(285, 310, 0.12)
    masks = tmp_path / "20200701_cloudsystems.nc"
    write_cloud_systems(masks, date=date(2020, 7, 1), latitudes=latitudes, longitudes=longitudes)
    flags = ("--stratification", "convection", "--convection-regex", str(masks), "--systems", "all", "--steps", "2")
    command = ["abi", "--output-dir", str(tmp_path / "out"), "--local-data-dir", str(small_archive), *TILES]
    assert main([*command, *flags, "--step-minutes", "20", "--plan-only"]) == 0
    plan = PlanTable(tmp_path / "out" / "plan.parquet")
    assert plan.refused["taken already"] > 0
    tiles = [(row.x_left, row.y_top, tuple(row.scan_ids)) for row in plan.frame().itertuples()]
    assert len(set(tiles)) == len(tiles) > 1
