"""Valid pixels under a tile decide between time windows: shares against h5py, windows against the flags themselves."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import h5py
import numpy as np
import pytest

from catalog.geostationary.items import load_items
from cube.build import main
from cube.config import AbiConfig
from cube.geostationary import valid_share
from cube.geostationary.headers import Headers
from cube.geostationary.layout import TileLayout, TileSpec
from cube.geostationary.valid_share import ValidShares
from stratacube.parquet import read_frame
from tests.conftest import START

FLAGS = ["--domain", "M1", "--channels", "1", "2", "13", "--tile-size", "64", "--workers", "1", "--screen", "off"]
FLAGS += ["--steps", "2", "--step-minutes", "10", "--num-tiles", "12", "--plan-only"]


@pytest.fixture(scope="module")
def archive(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small archive, where the scan of 16:30 is flagged in its western half, in C13 and C01."""
    root = tmp_path_factory.mktemp("flagged") / "archive"
    shutil.copytree(small_archive, root)
    changed = 0
    for path in root.rglob("*C*_s20201831630*.nc"):
        if "C13" in path.name or "C01" in path.name:
            with h5py.File(path, "r+") as file:
                flags = file["DQF"][()]
                flags[:, : flags.shape[1] // 2] = 2
                file["DQF"][...] = flags
            changed += 1
    assert changed == 2
    return root


def planned(archive: Path, out: Path, *more: str) -> Path:
    assert main(["abi", "--local-data-dir", str(archive), "--output-dir", str(out), *FLAGS, *more]) == 0
    return out


def test_shares_are_those_of_the_flags_under_each_tile(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = planned(archive, tmp_path / "out")
    monkeypatch.setattr(valid_share, "_CHUNKS", 48)  # so that some are let go of and read again
    config = AbiConfig.load(out / "config.yaml", {"output_dir": str(out)})
    layout, headers = TileLayout.of(config), Headers(None, None)
    shares = ValidShares(layout, headers, [0, 1])
    assert shares.channels == [1, 2, 13]  # of 1, 0.5 and 2 km
    seen = set()
    for row in read_frame(out / "plan.parquet").itertuples():
        for scan in load_items(out / "sources.json", config.dialect.names):
            grid = headers.of(scan).grid
            tile = TileSpec("", row.x_left, row.y_top, grid.projection)
            expected = []
            for channel in (1, 2, 13):
                with h5py.File(scan.files[channel].href) as file:
                    x = file["x"][()] * file["x"].attrs["scale_factor"] + file["x"].attrs["add_offset"]
                    y = file["y"][()] * file["y"].attrs["scale_factor"] + file["y"].attrs["add_offset"]
                    side = 64 * 28e-6
                    cols = (x > row.x_left) & (x < row.x_left + side)
                    rows = (y < row.y_top) & (y > row.y_top - side)
                    flags = file["DQF"][()][np.ix_(rows, cols)]
                expected.append(np.isin(flags, [0, 1]).mean())
            share = shares.of(scan, tile)
            assert share == pytest.approx(np.mean(expected))
            seen.add(round(share or 0, 2))
    assert {1.0, 0.33} <= seen


def test_windows_keep_away_from_pixels_that_are_not_valid(archive: Path, tmp_path: Path) -> None:
    plain = read_frame(planned(archive, tmp_path / "plain") / "plan.parquet")
    told = read_frame(planned(archive, tmp_path / "told", "--score-pixels") / "plan.parquet")
    bad = START + timedelta(minutes=30)

    def with_bad(plan: object) -> dict[int, bool]:
        times = plan["requested_times"]  # type: ignore[index]
        return {
            i: any(abs(np.datetime64(t, "s") - np.datetime64(bad)) < np.timedelta64(60, "s") for t in ts)
            for i, ts in enumerate(times)
        }

    assert sum(with_bad(plain).values()) > sum(with_bad(told).values())
    west = told["x_left"] + 32 * 28e-6 < told["x_left"].mean()
    moved = [i for i, was in with_bad(plain).items() if was and not with_bad(told)[i]]
    assert moved
    assert (plain.loc[moved, ["row", "col"]] == told.loc[moved, ["row", "col"]]).all(axis=None)
    assert west.any()


def test_files_that_cannot_be_read_say_nothing(archive: Path, tmp_path: Path) -> None:
    out = planned(archive, tmp_path / "out")
    config = AbiConfig.load(out / "config.yaml", {"output_dir": str(out)})
    scan = load_items(out / "sources.json", config.dialect.names)[0]
    headers = Headers(None, None)
    row = next(read_frame(out / "plan.parquet").itertuples())
    tile = TileSpec("", row.x_left, row.y_top, headers.of(scan).grid.projection)
    whole = ValidShares(TileLayout.of(config), headers, [0, 1]).of(scan, tile)
    broken = tmp_path / Path(scan.files[13].href).name
    broken.write_bytes(Path(scan.files[13].href).read_bytes()[:5000])
    for channel in (1, 2, 13):
        scan.files[channel] = replace(scan.files[channel], href=str(broken))
    assert whole == pytest.approx(1.0, abs=1e-3)
    assert ValidShares(TileLayout.of(config), headers, [0, 1]).of(scan, tile) is None
