"""Plans in the cases that once went wrong: handover, moved sectors, spacing, too few tiles, periods, dry runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import Scan, find_scans
from cube.build import main
from cube.registry import STRATA
from cube.strata import streams
from cube.testing import write_abi_archive, write_cloud_systems

START = datetime(2020, 7, 1, 16)
SMALL: dict[str, Any] = {"channels": (7, 13), "shape_2km": (130, 130), "workers": 1}
BASE = ("--domain", "M1", "--channels", "7", "13", "--grid", "2km", "--tile-size", "32", "--step-minutes", "10")


def build(archive: Path, output: Path, *flags: str) -> int:
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1"]
    return main(["abi", *given, *BASE, "--steps", "2", "--num-tiles", "3", *flags])


def tiles_of(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output / "plan.parquet")


def raw(output: Path) -> xr.Dataset:
    return xr.open_zarr(output / "tiles.zarr", mask_and_scale=False, chunks=None)


def scans_of(archive: Path, platform: str = "goes16") -> list[Scan]:
    return find_scans(LocalArchive(archive), platform=platform, sector="M1")


def used_file(output: Path, archive: Path, channel: int) -> tuple[str, str]:
    """Scan and path of a file that the first tile's first step needs."""
    name = next(iter(tiles_of(output)["scan_ids"]))[0]
    return name, {s.id: s for s in scans_of(archive)}[name].files[channel].href


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of two bands, of a single chunk each."""
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(root, start=START, hours=1, **SMALL)
    return root


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon where no more tiles fit."""
    monkeypatch.setattr(streams, "STRICT_TRIES", 60)
    monkeypatch.setitem(STRATA._loaded, "random", replace(STRATA.load("random"), refusals=300))


def test_no_tile_mixes_the_satellites_of_a_handover(tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    small: dict[str, Any] = {**SMALL, "channels": (13,), "hours": 0.5}
    write_abi_archive(archive, platform="goes16", start=datetime(2025, 4, 6, 23, 20), **small)
    write_abi_archive(archive, platform="goes19", start=datetime(2025, 4, 7), **small)
    flags = ("--satellite", "east", "--channels", "13", "--steps", "3", "--num-tiles", "16")
    assert build(archive, output, *flags) == 0
    plan = tiles_of(output)
    assert set(plan["platform"]) == {"goes16", "goes19"}
    for row in plan.itertuples():
        assert {scan[:6] for scan in row.scan_ids} == {row.platform}
    near = plan["event_time"].between(datetime(2025, 4, 6, 23, 45), datetime(2025, 4, 7, 0, 15))
    assert near.any(), "some window could have reached over the handover"


def test_no_tile_spans_the_jump_of_a_sector(tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    small: dict[str, Any] = {**SMALL, "channels": (13,), "hours": 0.3}
    write_abi_archive(archive, start=START, corner=(0.0196, 0.0504), **small)
    write_abi_archive(archive, start=START.replace(minute=20), corner=(0.0196 + 100 * 56e-6, 0.0504), **small)
    assert build(archive, output, "--channels", "13", "--num-tiles", "16", "--tile-size", "64") == 0
    plan = tiles_of(output)
    early = plan["event_time"] < START.replace(minute=20)
    assert 0 < early.sum() < len(plan)
    for row in plan.itertuples():
        assert len({start < np.datetime64("2020-07-01T16:19") for start in row.scan_starts}) == 1
    assert (raw(output)["valid"] > 0).any(("y", "x")).all()


def far_apart(plan: pd.DataFrame) -> np.ndarray:
    """Great-circle distances between tiles, km."""
    lat, lon = np.radians(plan["latitude"].to_numpy()), np.radians(plan["longitude"].to_numpy())
    across = np.sin((lat[:, None] - lat) / 2) ** 2
    across += np.cos(lat[:, None]) * np.cos(lat) * np.sin((lon[:, None] - lon) / 2) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(across))


@pytest.mark.usefixtures("hasty")
def test_spacing_holds_between_whole_tiles_and_others(tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    write_abi_archive(archive, start=START, hours=0.5, missing=[(1, 7), (2, 7), (3, 7)], **SMALL)
    flags = ("--steps", "1", "--step-minutes", "60", "--num-tiles", "60", "--min-spacing-km", "25")
    build(archive, output, *flags, "--plan-only", "--tile-size", "16")
    plan = tiles_of(output)
    whole = plan["missing"].map(len) == 0
    assert whole.sum() > 3
    assert (~whole).sum() > 3
    distances = far_apart(plan)
    assert distances[np.triu_indices(len(plan), 1)].min() >= 25


@pytest.mark.usefixtures("hasty")
def test_too_few_tiles_is_told(tmp_path: Path, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    flags = ("--num-tiles", "9", "--min-spacing-km", "150", "--steps", "1", "--step-minutes", "120")
    for _ in range(2):
        assert build(scans, output, *flags) == 1
        said = capsys.readouterr().err
        short = 9 - len(tiles_of(output))
        assert f"{short} of 9 tiles found no place; candidates were left out for: " in said
        assert "spacing (" in said
        assert (
            "; lower --min-spacing-km below 150, or widen the period (--start-dt, --end-dt); random is given up" in said
        )
        assert "given up after 300 candidates refused in a row" in said
        assert "found no place" in (output / "errors.csv").read_text()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (["--light", "night"], "solar zenith; change --light (night), or the period (--start-dt, --end-dt)"),
        (
            ["--light", "day", "--max-solar-zenith", "1"],
            "solar zenith; change --light (day) or --max-solar-zenith (1), or the period (--start-dt, --end-dt)",
        ),
        (
            ["--latitudes", "50", "60"],
            "latitude; the sector is to reach into the latitudes 50 to 60: change --latitudes or --domain",
        ),
    ],
)
def test_where_all_is_refused_the_option_is_named(
    tmp_path: Path, scans: Path, flags: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(scans, tmp_path / "out", "--num-tiles", "2", "--steps", "1", *flags) == 2
    said = capsys.readouterr().err
    assert f"all 300 candidates were refused: {remedy}; random is given up after 300 candidates" in said


def test_records_of_one_system_in_one_scan_are_one_tile(tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    write_abi_archive(archive, start=START.replace(minute=20), hours=0, channels=(13,), shape_2km=(400, 400), workers=1)
    masks = tmp_path / "20200701_cloudsystems.nc"
    latitudes, longitudes = np.arange(-5, 20, 0.12), np.arange(285, 310, 0.12)
    write_cloud_systems(masks, date=date(2020, 7, 1), latitudes=latitudes, longitudes=longitudes, steps=(49,))
    with h5py.File(masks, "r+") as h5:  # systems that do not move
        for step in range(46, 53):
            h5["DCS_number"][step] = h5["DCS_number"][49]
    flags = ("--stratification", "convection", "--convection-regex", str(masks), "--systems", "all")
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", *BASE]
    few = ("--channels", "13", "--steps", "1", "--tolerance-minutes", "70", "--tile-size", "16")
    assert main(["abi", *given, *flags, *few]) == 0
    plan = tiles_of(output)
    assert len(plan) > 1
    assert plan["tile_id"].is_unique
    assert plan["system_id"].is_unique
    collection = json.loads((output / "tiles" / "collection.json").read_text())
    assert sum(link["rel"] == "item" for link in collection["links"]) == len(plan)


def test_windows_reach_beyond_the_period_but_events_do_not(scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    period = START.replace(minute=30), START.replace(minute=40)
    flags = ("--start-dt", period[0].isoformat(), "--end-dt", period[1].isoformat(), "--steps", "4")
    assert build(scans, output, *flags) == 0
    plan = tiles_of(output)
    assert plan["event_time"].between(*period, inclusive="left").all()
    starts = np.concatenate(plan["scan_starts"].to_list()).astype("M8[us]")
    assert starts.min() < np.datetime64(period[0])
    assert starts.max() > np.datetime64(period[1])
    assert len(pd.read_csv(output / "completeness.csv")) == 1
    late = (START + timedelta(hours=3)).isoformat()
    assert build(scans, tmp_path / "none", "--start-dt", late, "--end-dt", "2020-07-01", "--steps", "30") == 2


def test_a_dry_run_tells_of_the_configuration_asked(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, output = tmp_path / "archive", tmp_path / "out"
    shutil.copytree(scans, archive)
    assert build(archive, output, "--plan-only") == 0
    assert build(archive, output, "--dry-run") == 0
    assert "tiles      3 of 32 px" in capsys.readouterr().out
    assert build(archive, output, "--dry-run", "--overwrite", "--num-tiles", "5", "--tile-size", "16") == 0
    assert "tiles      5 of 16 px" in capsys.readouterr().out
    assert len(tiles_of(output)) == 3
    assert build(archive, output, "--dry-run", "--num-tiles", "5") == 0  # a plan may grow
    assert build(archive, output, "--dry-run", "--num-tiles", "2") == 2  # as the run would
    assert "num_tiles is 3 there and 2 here" in capsys.readouterr().err
    first = scans_of(archive)[0]
    for file in {s.id: s for s in scans_of(archive)}[used_file(output, archive, 7)[0]].files.values():
        Path(file.href).write_bytes(b"\x89HDF\r\n\x1a\nnot really")
    for file in first.files.values():
        Path(file.href).write_bytes(b"")
    assert build(archive, output, "--dry-run") == 0
    assert "tiles      3 of 32 px" in capsys.readouterr().out
    assert build(archive, output, "--dry-run", "--overwrite", "--num-tiles", "6") == 0
    assert "tiles      6 of 32 px" in capsys.readouterr().out


def test_a_dry_run_of_a_download_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    period = ("--start-dt", "2020-07-01T16:00", "--end-dt", "2020-07-01T17:00", "--s3-endpoint", "http://127.0.0.1:9")
    assert build(tmp_path / "archive", tmp_path / "out", "--download", "--dry-run", *period) == 1
    assert "check --s3-endpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
