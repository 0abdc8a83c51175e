"""The splits in a plan: written, proved by the checker from the store's own words, and off for builds of before."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from catalog.leaks import find_leaks, leaks_between
from catalog.splits import SplitRule
from cube.build import main
from cube.config import AbiConfig
from cube.testing import write_abi_archive
from loaders.extents import tile_extents
from loaders.tiles import TileDataset
from stratacube.errors import UsageError

RULE = ["--split-km", "90", "--split-gap-km", "10", "--split-hours", "0.75", "--split-gap-hours", "0.1"]
SHARES = ["--split-shares", "0.5", "0.3", "0.2"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen scans of two channels."""
    root = tmp_path_factory.mktemp("archive")
    start, corner = datetime(2020, 7, 1, 16), (-0.030016, 0.090048)
    write_abi_archive(
        root, sector="C", start=start, hours=1, corner=corner, channels=(7, 13), shape_2km=(130, 130), workers=1
    )
    return root


def build(archive: Path, output: Path, *flags: str) -> int:
    base = ["--domain", "C", "--channels", "7", "13", "--grid", "2km", "--tile-size", "16", "--steps", "1"]
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--quiet"]
    return main(["abi", *given, *base, *flags])


def test_splits_are_in_plan_items_and_report_and_do_not_leak(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(archive, out, "--num-tiles", "60", *RULE, *SHARES) == 0
    plan, items = pd.read_parquet(out / "plan.parquet"), pd.read_parquet(out / "tiles" / "items.parquet")
    assert {*plan["split"]} == {"train", "val", "test", "gap"}
    assert plan.set_index("tile_id")["split"].to_dict() == items.set_index("id")["stratacube:split"].to_dict()
    report = (out / "report.md").read_text()
    for name, tiles in plan["split"].value_counts().items():
        assert f"| {name} | {tiles} |" in report
    assert "blocks of 90 km and 0.75 h, 10 km or 0.1 h between them" in report
    extents = tile_extents(out)
    assert leaks_between(extents, plan["split"], 10, 0.1) == {}
    # Another draw, which knows nothing of the first, has the same splits at the same places.
    other = tmp_path / "other"
    assert build(archive, other, "--num-tiles", "60", "--seed", "7", *RULE, *SHARES) == 0
    theirs, held_out = tile_extents(other), pd.read_parquet(other / "plan.parquet")["split"] == "val"
    assert (
        find_leaks(extents.take((plan["split"] == "train").to_numpy()), theirs.take(held_out.to_numpy()), 10, 0.1) == []
    )
    # What the gap keeps apart lies near: without it there are leaks.
    assert leaks_between(extents, plan["split"].replace("gap", "val"), 10, 0.1)


def test_a_build_without_training_tiles_is_told_what_would_give_some(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def planned(output: Path, *flags: str) -> str:
        base = ["--domain", "C", "--channels", "7", "13", "--grid", "2km", "--tile-size", "16", "--steps", "1"]
        given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1", "--plan-only"]
        assert main(["abi", *given, *base, "--num-tiles", "6", *flags]) == 0
        return next(line for line in capsys.readouterr().err.splitlines() if line.startswith("splits: "))

    said = planned(tmp_path / "out")
    counts, _, remedy = said.partition("; no tile is in ")
    assert (counts, remedy[:15]) == ("splits: train 0, val 0, test 0, gap 6", "train or val: w")
    flags = [
        word.strip(",") for word in remedy.split(" they would be ")[0].split() if word[0] == "-" or word[0].isdigit()
    ]
    assert flags
    assert planned(tmp_path / "other", *flags) == f"splits: {remedy.split(' they would be ')[1]}"
    assert planned(tmp_path / "one", "--split-shares", "0", "1", "0", "--split-gap-hours", "0") == (
        "splits: train 0, val 6, test 0, gap 0"
    )
    assert "takes more samples, from a longer period" in planned(
        tmp_path / "two", "--num-tiles", "1", "--split-shares", "0", "0", "1"
    )


def test_tiles_of_a_split_that_has_none_are_refused_with_the_remedy(archive: Path, tmp_path: Path) -> None:
    assert build(archive, tmp_path / "out", "--num-tiles", "6") == 0
    told = r"none of the 6 tiles .*, for all are in the gap between splits \(splits: gap 6\); give `split`, a SplitRule"
    with pytest.raises(UsageError, match=told) as caught:
        TileDataset(tmp_path / "out", where="split == 'train'")
    numbers = dict(re.findall(r"`(\w+)` ([\d.]+)", str(caught.value)))
    rule = SplitRule(**{name: float(number) for name, number in numbers.items()})  # type: ignore[arg-type]
    counts = re.findall(r"(train) (\d+)", str(caught.value))[-1]
    made = TileDataset(tmp_path / "out", where="split == 'train'", split=rule)
    assert len(made) == int(counts[1]) > 0
    with pytest.raises(UsageError, match=r"`split` is 'val', and makes .* give where=\"split == 'val'\""):
        TileDataset(tmp_path / "out", split="val")  # type: ignore[arg-type]


def test_without_splits_the_plan_and_the_digest_are_those_of_before(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert build(archive, out, "--num-tiles", "4", "--splits", "off", "--plan-only") == 0
    assert "split" not in pd.read_parquet(out / "plan.parquet")
    config = AbiConfig.check({"output_dir": "out", "splits": "off"})
    assert not any(key.startswith("split") for key in config.described())
    assert AbiConfig.check({"output_dir": "out"}).described()["splits"] == "blocks"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"split_km": 50}, "`split_km` is 50, and the gap 100; give blocks larger than the gap"),
        ({"split_km": 0, "split_hours": 0}, "give `split_km` or `split_hours`"),
        ({"split_shares": [0.5, 0.5, 0.5]}, "`split_shares` are train 0.5, val 0.5, test 0.5; give some that make 1"),
        ({"split_shares": [1.0]}, "`split_shares` is 1.0: give 3 values"),
    ],
)
def test_rules_that_are_none_are_refused_by_their_flags(flags: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as refusal:
        AbiConfig.check({"output_dir": "out", **flags})
    assert told in str(refusal.value)
