"""A build grows: more tiles of the same draw are appended, and what was there stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import cube
from cube.build import main
from cube.geostationary.folder import AbiFolder
from cube.testing import write_abi_archive
from stratacube.errors import UsageError


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    start, corner = datetime(2020, 7, 1, 16), (-0.030016, 0.090048)
    write_abi_archive(
        root, sector="C", start=start, hours=1, corner=corner, channels=(7, 13), shape_2km=(130, 130), workers=1
    )
    return root


def build(archive: Path, output: Path, tiles: int, *flags: str) -> int:
    base = ["--domain", "C", "--channels", "7", "13", "--grid", "2km", "--tile-size", "16", "--steps", "1"]
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--quiet"]
    # Shards of 4 tiles.
    return main(["abi", *given, *base, "--shard-mb", "0.002", "--num-tiles", str(tiles), *flags])


def by_tile(output: Path) -> dict[str, xr.Dataset]:
    """Everything that a store holds of each tile, by the tile's name."""
    tiles = cube.open_tiles(output, "counts", chunks=None).load()
    names = pd.read_parquet(output / "plan.parquet")["tile_id"].tolist()
    assert tiles.sizes["tile"] == len(names)
    return {name: tiles.isel(tile=i) for i, name in enumerate(names)}


def files_of(output: Path, shard: int) -> Iterator[tuple[int, int]]:
    """Which files the shards of a number are: inode and time."""
    for path in sorted(output.glob(f"tiles.zarr/C*/c/{shard}/0/0/0")):
        yield path.stat().st_ino, path.stat().st_mtime_ns


@pytest.fixture(scope="module")
def fresh(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fresh") / "out"
    assert build(archive, out, 14) == 0
    return out


def test_a_grown_build_holds_what_a_fresh_one_does(archive: Path, fresh: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(archive, out, 6) == 0
    first = pd.read_parquet(out / "plan.parquet")
    made = [*files_of(out, 0)]
    assert made
    assert build(archive, out, 14) == 0
    plan, whole = pd.read_parquet(out / "plan.parquet"), pd.read_parquet(fresh / "plan.parquet")
    assert plan["tile_id"].tolist()[:6] == first["tile_id"].tolist()
    assert {*plan["tile_id"]} == {*whole["tile_id"]}
    assert plan["tile"].tolist() == [*range(14)]
    assert plan["shard"].tolist() == [n // 4 for n in range(14)]
    told = ["tile_id", "probability", "rank", "split", "weight", "latitude"]
    key = "tile_id"
    pd.testing.assert_frame_equal(
        plan[told].sort_values(key, ignore_index=True), whole[told].sort_values(key, ignore_index=True)
    )
    grown, other = by_tile(out), by_tile(fresh)
    for name, tile in other.items():
        xr.testing.assert_identical(grown[name], tile)
    assert [*files_of(out, 0)] == made  # a full shard is not made again
    # Catalog, report and what looks at a build follow.
    items = pd.read_parquet(out / "tiles" / "items.parquet")
    assert {*items["id"]} == {*plan["tile_id"]}
    assert "14 of 14 planned tiles were made" in (out / "report.md").read_text()
    assert main(["verify", str(out), "--quiet"]) == 0
    before = (out / "ledger.jsonl").read_bytes()
    assert build(archive, out, 14) == 0
    assert (out / "ledger.jsonl").read_bytes() == before


def test_a_last_shard_that_fills_up_is_made_again(archive: Path, fresh: Path, tmp_path: Path) -> None:
    """From 6 to 8 tiles there is no new shard; and from there on by one that was not yet built."""
    out = tmp_path / "out"
    assert build(archive, out, 6) == 0
    assert build(archive, out, 8) == 0
    assert zarr.open_array(out / "tiles.zarr" / "C13", mode="r").shape[0] == 8
    assert build(archive, out, 10, "--plan-only") == 0
    assert build(archive, out, 14) == 0
    grown, other = by_tile(out), by_tile(fresh)
    assert grown.keys() == other.keys()
    for name, tile in other.items():
        xr.testing.assert_identical(grown[name], tile)
    assert main(["verify", str(out), "--quiet"]) == 0


def test_growth_that_was_killed_is_gone_on_with(archive: Path, fresh: Path, tmp_path: Path) -> None:
    """After any step: by its state on the disk, the folder as that step left it."""
    out = tmp_path / "out"
    assert build(archive, out, 6) == 0
    shutil.copytree(out, tmp_path / "half", symlinks=True)
    half = tmp_path / "half"
    assert build(archive, half, 14, "--plan-only") == 0  # plan and arrays are larger, no tile is made
    shutil.rmtree(half / "tiles.zarr" / "scan_mid")
    assert build(archive, half, 14) == 0
    assert np.array_equal(
        by_tile(half)[(name := next(iter(by_tile(fresh))))]["C13"].values, by_tile(fresh)[name]["C13"].values
    )


def test_nothing_else_may_change(
    archive: Path, fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(fresh, out)
    assert build(archive, out, 9) == 2  # fewer
    assert "num_tiles is 14 there and 9 here" in capsys.readouterr().err
    assert build(archive, out, 20, "--seed", "3") == 2
    assert "seed is 42 there and 3 here" in capsys.readouterr().err
    assert pd.read_parquet(out / "plan.parquet").equals(pd.read_parquet(fresh / "plan.parquet"))


@pytest.mark.parametrize(
    ("before", "now", "may"),
    [
        ({"num_tiles": None, "stratification": "random"}, {"num_tiles": 120, "stratification": "random"}, True),
        ({"num_tiles": None, "stratification": "random"}, {"num_tiles": 80, "stratification": "random"}, False),
        ({"num_tiles": None, "stratification": "convection"}, {"num_tiles": 9, "stratification": "convection"}, False),
        ({"num_tiles": 5, "tile_size": 4}, {"num_tiles": 9, "tile_size": 8}, False),
        ({"num_tiles": 5}, {"num_tiles": 5}, False),
    ],
)
def test_what_may_grow(before: dict[str, object], now: dict[str, object], *, may: bool) -> None:
    assert AbiFolder(Path()).may_grow(before, now) is may


def test_a_build_of_another_stratum_is_told_as_that_first(tmp_path: Path) -> None:
    """Where a larger number finds a folder of something else, that is what is told, not what else differs with it."""
    folder = AbiFolder(tmp_path)
    there = {"num_tiles": 4, "steps": 2, "screen": "off", "offsets": [0, 10], "stratification": "convection"}
    with folder.opened(there, "a", overwrite=False):
        folder.plan.touch()
    with pytest.raises(UsageError) as refused:
        folder.refuse_other({"num_tiles": 6, "steps": 7, "screen": "quick", "stratification": "random"}, "b")
    told = "(stratification is 'convection' there and 'random' here; num_tiles is 4 there and 6 here; "
    assert told in str(refused.value)
    assert "steps is 2 there and 7 here; and 2 more keys)" in str(refused.value)
