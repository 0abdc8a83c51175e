"""The plan: complete tiles first, no scan twice, nothing that depends on luck."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import find_scans
from cube.config import AbiConfig
from cube.geostationary.find import find
from cube.geostationary.headers import Headers, PlannedHeaders
from cube.geostationary.layout import TileLayout
from cube.geostationary.parts import Wanted
from cube.geostationary.plan import _Planner, make_plan
from cube.geostationary.plan_table import PlanTable, write_plan
from cube.job.engine import Workers
from cube.strata import Candidate
from cube.strata.random import RandomSampler
from cube.strata.windows import Frame, choose_window
from cube.testing import write_abi_archive
from stratacube.errors import SourceError, UsageError


def plan_of(archive: Path, tmp_path: Path, **options: object) -> pd.DataFrame:
    asked = {
        "tile_size": 64,
        "channels": [13],
        "steps": 2,
        "step_minutes": 10,
        "num_tiles": 30,
        "workers": 1,
        **options,
    }
    config = AbiConfig.load(None, {"output_dir": tmp_path, "domain": "M1", **asked})
    scans = find_scans(LocalArchive(archive), platform="goes16", sector="M1", channels=config.channels)
    plan = make_plan(config, scans, Headers(None, None), None, Workers())
    write_plan(plan, tmp_path / "plan.parquet")
    again = PlanTable(tmp_path / "plan.parquet")
    pd.testing.assert_frame_equal(again.frame(), plan.tiles)
    assert again.refused == plan.refused
    return plan.tiles


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plan")
    write_abi_archive(root, start=datetime(2020, 7, 1, 16), hours=1, channels=(7, 13), shape_2km=(130, 130), workers=1)
    return root


def test_same_seed_same_plan_other_seed_other_plan(archive: Path, tmp_path: Path) -> None:
    a, b, c = (plan_of(archive, tmp_path, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(a, b)
    assert set(a["tile_id"]) != set(c["tile_id"])
    assert a["event_time"].is_monotonic_increasing
    assert a["tile_id"].is_unique


def test_complete_tiles_come_first(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "a")
    scans = find_scans(LocalArchive(tmp_path / "a"), platform="goes16", sector="M1")
    for i in (2, 4):
        Path(scans[i].files[7].href).unlink()
    tiles = plan_of(tmp_path / "a", tmp_path, channels=[7, 13], num_tiles=40)
    assert not tiles["missing"].map(len).any()
    used = {name for names in tiles["scan_ids"] for name in names}
    assert used <= {scans[i].id for i in (0, 1, 5, 6)}
    lonely = plan_of(tmp_path / "a", tmp_path, channels=[7, 13], steps=5, num_tiles=3)
    assert lonely["missing"].map(len).all()


def test_no_scan_is_used_twice(archive: Path, tmp_path: Path) -> None:
    tiles = plan_of(archive, tmp_path, steps=3, step_minutes=12, tolerance_minutes=10)
    for names in tiles["scan_ids"]:
        assert len(set(names)) == 3
    with pytest.raises(UsageError, match="no run of 4 scans at 3 min steps"):
        plan_of(archive, tmp_path, steps=4, step_minutes=3, tolerance_minutes=10)


def test_steps_keep_to_their_tolerance(archive: Path, tmp_path: Path) -> None:
    tiles = plan_of(archive, tmp_path, steps=3, step_minutes=20, tolerance_minutes=1)
    for row in tiles.itertuples():
        apart = np.abs(np.asarray(row.scan_starts) - np.asarray(row.requested_times))
        assert (apart <= np.timedelta64(1, "m")).all()
        assert (np.diff(np.asarray(row.requested_times)) == np.timedelta64(20, "m")).all()


def test_limits_hold(archive: Path, tmp_path: Path) -> None:
    tiles = plan_of(archive, tmp_path, min_spacing_km=60.0, num_tiles=4)
    assert len(tiles) == 4
    zenith = plan_of(archive, tmp_path)["view_zenith"].median()
    assert plan_of(archive, tmp_path, max_view_zenith=float(zenith))["view_zenith"].max() <= zenith
    with pytest.raises(UsageError, match="view zenith"):
        plan_of(archive, tmp_path, max_view_zenith=0.5)
    with pytest.raises(UsageError, match="solar zenith"):
        plan_of(archive, tmp_path, max_solar_zenith=0.5)


def test_an_unreadable_header_drops_only_its_scan(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "a")
    scans = find_scans(LocalArchive(tmp_path / "a"), platform="goes16", sector="M1")
    for file in scans[3].files.values():
        Path(file.href).write_bytes(b"nothing")
    tiles = plan_of(tmp_path / "a", tmp_path, steps=1)
    assert scans[3].id not in set(tiles["event_scan"])


@pytest.mark.parametrize("store", ["native", "common"])
def test_tiles_start_at_even_pixels_whatever_a_sampler_proposes(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    """A band of 2 km begins on a whole pixel of its own: places whose nearest tile would start at odd ones."""
    scan = find_scans(LocalArchive(archive), platform="goes16", sector="M1")[3]
    coarse = Headers(None, None).of(scan).grid
    grid = coarse.rescaled(28e-6 / coarse.dx)
    corners = [(41, 60), (60, 41), (77, 77), (101, 33)]
    places = [grid.lonlat(row + 31.5, col + 31.5) for row, col in corners]
    planted = [Candidate(scan.start, float(lat), float(lon), "random", 1.0, 1.0) for lon, lat in places]
    monkeypatch.setattr(RandomSampler, "candidates", lambda _: iter(planted))
    tiles = plan_of(archive, tmp_path, store=store, steps=1, num_tiles=4)
    assert len(tiles) == 4
    for row, col in zip(tiles["row"], tiles["col"], strict=True):
        assert row % 2 == col % 2 == 0
        assert min(abs(row - r) + abs(col - c) for r, c in corners) <= 2


@pytest.mark.parametrize("kind", ["random", "foreign", "other problems", "deep"])
def test_a_plan_that_is_none_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path, frame = tmp_path / "plan.parquet", pd.DataFrame({"a": [1]})
    frame.attrs = {"refused": "{}", "problems": json.dumps([{"colour": "red"}])}
    if kind == "deep":
        frame.attrs["problems"] = "[" * 100_000
    if kind == "foreign":
        frame.attrs = {}
    frame.to_parquet(path)
    if kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(
        SourceError, match=rf"^{path} is not the plan of a build \(.*\); remove it to have it made again"
    ):
        PlanTable(path)


def test_a_period_from_the_first_day_of_the_calendar_is_one_like_others(tmp_path: Path) -> None:
    write_abi_archive(tmp_path / "a", start=datetime(2020, 7, 1, 16), hours=0.2, channels=(13,), shape_2km=(100, 100))
    asked = {"output_dir": tmp_path / "o", "local_data_dir": tmp_path / "a", "domain": "M1", "channels": [13]}
    for period in ({"start_dt": "0001-01-01"}, {"end_dt": "9999-12-31T23:00"}):
        assert find(AbiConfig.load(None, {**asked, **period}))


def test_a_window_is_kept_for_those_alone_that_share_all_it_depends_on(archive: Path, tmp_path: Path) -> None:
    values = {"output_dir": tmp_path, "domain": "M1", "channels": [13], "steps": 2, "step_minutes": 10}
    config = AbiConfig.load(None, values)
    scans = find_scans(LocalArchive(archive), platform="goes16", sector="M1", channels=(13,))
    headers = PlannedHeaders(Headers(None, None), scans)
    planner = _Planner(Wanted.of(config), TileLayout.of(config), scans, headers, {}, None, whole=True)
    about = planner._frames("goes16", scans[3].start, timedelta(0))
    event = Candidate(scans[3].start, 0.0, 0.0, "random", 1.0, 1.0)
    early, late = ({f.time: n * factor for n, f in enumerate(about)} for factor in (-100, 100))
    chosen = []

    def choose(frames: list[Frame], pixels: dict[datetime, int] | None, *, shared: bool) -> None:
        details = {} if pixels is None else {"system_pixels": pixels}
        chosen.append(planner._choice(frames, replace(event, details=details), shared=shared).start)
        index = min(range(len(frames)), key=lambda i: abs(planner.wanted.minutes_about[i]))
        assert chosen[-1] == choose_window(frames, 2, event_index=index, bands=16, system_pixels=pixels).start

    for pixels in (None, early, late, None):
        choose(about, pixels, shared=True)
    alone = [replace(f, missing=n % 3) for n, f in enumerate(about)]
    choose(alone, None, shared=False)
    place = id(alone)
    del alone
    # What is told of a list that is gone is not told of the next one at its place in memory.
    choose(next(new for new in (about[:] for _ in range(1000)) if id(new) == place), None, shared=True)
    assert len({*chosen}) > 1
