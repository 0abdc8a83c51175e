"""The large plan that memory is measured with is as the planner would have made it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cube.build import main
from cube.geostationary import cutting
from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import TileLayout
from tests.cube.large_plan import cut_nothing, plan_of, write_large_plan

pytestmark = pytest.mark.slow
SCANS, TILES = 16, 30


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("large")
    return folder, write_large_plan(folder, TILES, SCANS)


def test_a_large_plan_is_as_the_planner_makes_it(written: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Whole files are compared, and every value of the tiles whose windows lie in the archive."""
    folder, arguments = written
    there, real = AbiFolder(folder / "build"), AbiFolder(tmp_path / "real")
    replaced = [str(real.root) if a == str(there.root) else a for a in arguments]
    assert main([*replaced, "--plan-only"]) == 0
    assert there.described() == real.described()
    for name in ("sources.json", "completeness.csv"):
        assert (there.root / name).read_bytes() == (real.root / name).read_bytes()
    planned, schema = pd.read_parquet(real.plan), pq.read_schema(real.plan)
    assert pq.read_schema(there.plan).equals(schema)
    told = [json.loads(pq.read_schema(p).metadata[b"PANDAS_ATTRS"]) for p in (there.plan, real.plan)]
    for attrs in told:
        for name in ("refused", "asked", "tallies"):  # more tiles, more candidates
            attrs.pop(name)
    assert told[0] == told[1]
    assert pq.read_metadata(there.plan).num_row_groups == pq.read_metadata(real.plan).num_row_groups
    number = {scan: i for i, scan in enumerate(sorted(pd.read_csv(there.completeness)["scan"]))}
    scan = planned["event_scan"].map(number).to_numpy()
    inside = (scan >= 6) & (scan < SCANS - 6)
    same = planned[inside].drop(columns=["tile", "shard", "rank", "weight", "split", "details"]).reset_index(drop=True)
    assert len(same) >= 3
    places = scan[inside], same["row"].to_numpy(), same["col"].to_numpy()
    made = plan_of(pq.read_table(real.plan), TileLayout.of(there.described()), *places).to_pandas()
    made["probability"] *= TILES / len(same)
    made = made.drop(columns=["tile", "shard", "rank", "weight", "split", "details"])
    scores = made.pop("window_scores"), same.pop("window_scores")  # those of other windows, near the archive's ends
    assert {len(s) for column in scores for s in column} == {8}
    pd.testing.assert_frame_equal(made, same, rtol=1e-12)


def test_tiles_of_a_large_plan_are_distinct_and_seen(written: tuple[Path, list[str]]) -> None:
    plan = pd.read_parquet(written[0] / "build" / "plan.parquet")
    assert len(plan) == plan["tile_id"].nunique() == TILES
    assert plan["view_zenith"].max() <= 70
    assert plan["event_time"].is_monotonic_increasing
    assert (np.array(plan["scan_ids"].tolist())[:, 3] == plan["event_scan"]).all()


def test_the_driver_goes_on_from_a_large_plan(
    written: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cutting, "build_shard", cut_nothing)
    assert main([*written[1], "--workers", "1"]) == 0
    assert f"done: {TILES} tiles" in capsys.readouterr().err
