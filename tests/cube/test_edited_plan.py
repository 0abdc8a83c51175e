"""Edited plans: built as their rows say, each fault of a row in one sentence."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import cube
from cube.build import main
from cube.testing import write_abi_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    start, corner = datetime(2020, 7, 1, 16), (-0.030016, 0.090048)
    write_abi_archive(
        root, sector="C", start=start, hours=1, corner=corner, channels=(7, 13), shape_2km=(130, 130), workers=1
    )
    return root


def build(archive: Path, output: Path, *flags: str) -> int:
    base = ["--domain", "C", "--channels", "7", "13", "--grid", "2km", "--tile-size", "16", "--steps", "2"]
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--quiet"]
    return main(["abi", *given, *base, "--step-minutes", "10", *flags])


@pytest.fixture(scope="module")
def drawn(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn") / "out"
    assert build(archive, out, "--num-tiles", "5") == 0
    return out


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_that_are_left_are_built_as_they_were(archive: Path, drawn: Path, tmp_path: Path, suffix: str) -> None:
    plan = pd.read_parquet(drawn / "plan.parquet")
    edited = tmp_path / f"edited{suffix}"
    some = plan.iloc[[3, 0]].assign(probability=[0.25, 0.5], weight=[2.0, 3.0])
    some.to_csv(edited, index=False) if suffix == ".csv" else some.to_parquet(edited)
    out = tmp_path / "out"
    assert build(archive, out, "--plan", str(edited)) == 0
    built = pd.read_parquet(out / "plan.parquet")
    assert built["tile_id"].tolist() == plan["tile_id"].iloc[[0, 3]].tolist()
    assert built["probability"].tolist() == [0.5, 0.25]
    assert built["weight"].tolist() == [3.0, 2.0]
    assert built["stratum"].tolist() == ["random"] * 2
    whole, part = (cube.open_tiles(folder, "counts", chunks=None).load() for folder in (drawn, out))
    for name in ("C07", "C13", "requested_time", "latitude", "packing_scale"):
        xr.testing.assert_equal(part[name], whole[name].isel(tile=[0, 3]))


def edit(drawn: Path, path: Path, at: int, /, **values: Any) -> Path:
    plan = pd.read_parquet(drawn / "plan.parquet")
    for name, value in values.items():
        column = plan[name].tolist()
        column[at] = value
        plan[name] = column
    plan.to_parquet(path)
    return path


def test_a_tile_is_moved_by_editing_its_corner(archive: Path, drawn: Path, tmp_path: Path) -> None:
    edited = edit(drawn, tmp_path / "edited.parquet", 1, row=7, col=101)
    assert build(archive, tmp_path / "out", "--plan", str(edited), "--plan-only") == 0
    built = pd.read_parquet(tmp_path / "out" / "plan.parquet")
    assert (7, 101) in [*zip(built["row"], built["col"], strict=True)]


def test_each_fault_is_a_sentence(
    archive: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = pd.read_parquet(drawn / "plan.parquet")
    scans, times = [list(plan[name].iloc[0]) for name in ("scan_ids", "requested_times")]
    late = [t + np.timedelta64(25, "m") for t in times]
    faults: list[tuple[dict[str, Any], str]] = [
        ({"event_scan": "goes16_x"}, "row 1: scan 'goes16_x' is not among the "),
        ({"row": 120}, "row 1: row is 120, not a whole number in 0 to 114"),
        ({"scan_ids": scans[:1]}, "row 1: it has 1 scans and 2 times, and the build 2 steps"),
        ({"scan_ids": [scans[0]] * 2}, f"row 1: scan {scans[0]} is in it twice"),
        ({"scan_ids": [scans[0], ""]}, "row 1: a step has no scan; give one, or --allow-missing"),
        ({"scan_ids": [scans[0], "none"]}, "row 1: scan 'none' is not among the "),
        ({"requested_times": late}, f"row 1: scan {scans[0]} starts at "),
        ({"requested_times": times[::-1]}, "row 1: its times do not follow one another"),
    ]
    for number, (values, told) in enumerate(faults):
        edited = edit(drawn, tmp_path / f"{number}.parquet", 0, **values)
        assert build(archive, tmp_path / f"out{number}", "--plan", str(edited)) == 2
        said = capsys.readouterr().err
        assert told in said
        assert "Traceback" not in said
    twice = pd.concat([plan, plan.iloc[[2]]])
    twice.to_parquet(tmp_path / "twice.parquet")
    assert build(archive, tmp_path / "out", "--plan", str(tmp_path / "twice.parquet")) == 2
    assert "row 6: it has the same pixels and times as row 3" in capsys.readouterr().err
    plan.drop(columns=["scan_ids"]).to_parquet(tmp_path / "less.parquet")
    assert build(archive, tmp_path / "out", "--plan", str(tmp_path / "less.parquet")) == 2
    assert "less.parquet lacks scan_ids; give a plan.parquet of a build, edited" in capsys.readouterr().err
