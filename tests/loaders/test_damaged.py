"""What damage of inputs found in what the loaders read: each is one sentence now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from loaders.statistics import BandStatistics, Statistics
from loaders.store import TileStore
from stratacube.errors import StratacubeError, UsageError
from tests.loaders.tiny_store import write_store


@pytest.mark.parametrize(
    "change",
    [
        {"splits": {}},
        {"splits": []},
        {"splits": {"all": {"C01": {"mean": 1}}}},
        {"splits": {"all": {"C01": [1, 2]}}},
        {"splits": {"x": {}}},
        {"quantity": None},
        {"provenance": 7},
        {"more": 1, "splits": None},
    ],
)
def test_statistics_that_are_none_are_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "statistics.json"
    Statistics("radiance", {"all": {"C01": BandStatistics(1, 0.5, float("nan"), 0.0, 1.0)}}).save(path)
    assert Statistics.load(path).bands()["C01"].mean == 0.5
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UsageError, match=rf"^{path} is damaged \(.*\); make it anew"):
        Statistics.load(path)


def test_statistics_nested_without_end_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "statistics.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UsageError, match=rf"^{path} is not a statistics file"):
        Statistics.load(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("C01", {"chunk_grid": {"name": "regular", "configuration": "x"}}),
        ("C01", {"attributes": {}}),
        ("valid", {"attributes": {"flag_masks": 7}}),
        ("", {"attributes": {"instrument": []}}),
    ],
)
def test_damaged_descriptions_of_a_store_are_one_sentence(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    path = write_store(tmp_path, tiles=3, steps=2, size=16, channels=(1, 13)) / "zarr.json"
    described = json.loads(path.read_text())
    (described["consolidated_metadata"]["metadata"][name] if name else described).update(change)
    path.write_text(json.dumps(described))
    with pytest.raises(StratacubeError, match=str(path.parent)):
        TileStore.open(tmp_path)


@pytest.mark.parametrize("damage", ["bytes", "tile", "order", "time"])
def test_a_damaged_plan_beside_the_store_is_one_sentence(tmp_path: Path, damage: str) -> None:
    write_store(tmp_path, tiles=3, steps=2, size=16, channels=(1, 13))
    path = tmp_path / "plan.parquet"
    frame = pd.read_parquet(path)
    if damage == "bytes":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        change = {"tile": {"tile": "x"}, "order": {"tile": [0, 0, 1]}, "time": {"event_time": "x"}}[damage]
        frame.assign(**change).to_parquet(path)  # type: ignore[arg-type]
    with pytest.raises(StratacubeError, match=rf"^{path} is not the plan of a build \("):
        TileStore.open(tmp_path)
