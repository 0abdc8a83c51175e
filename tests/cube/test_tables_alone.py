"""Metadata of cloud systems without any scan: the limits that their files can decide, and the names they have there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cube.build import main
from cube.strata.table import read_systems

STAGES = ["initiating", "developing", "mature", "decaying"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Hourly tracks of two days, a file a day, of which some live over midnight; with what is to be known of each."""
    rng, rows = np.random.default_rng(7), []
    for number in range(60):
        start, hours = pd.Timestamp("2020-07-01") + pd.Timedelta(hours=int(rng.integers(0, 40))), rng.integers(1, 14)
        latitude = rng.uniform(-30, 30)
        for hour in range(min(hours, int((pd.Timestamp("2020-07-03") - start) / pd.Timedelta("1h")))):
            rows.append(
                {
                    "belong": f"00{number:02d}-e7",
                    "time": start + pd.Timedelta(hours=hour),
                    "lat": latitude + 0.1 * hour,
                    "lon": -75.0 + hour,
                    "area_km2": float(rng.integers(1000, 9000)),
                    "min_tb": float(rng.integers(190, 240)),
                }
            )
    tracks = pd.DataFrame(rows)
    folder = tmp_path_factory.mktemp("tracks")
    for day, part in tracks.groupby(tracks["time"].dt.date):
        part.sample(frac=1, random_state=1).to_csv(folder / f"{day}.csv", index=False)
    tracks.attrs["folder"] = str(folder)
    whole, since = tracks.groupby("belong")["time"], tracks.groupby("belong").cumcount()
    tracks["hours"] = whole.transform("count")
    tracks["stage"] = [STAGES[int(4 * (n + 0.5) / hours)] for n, hours in zip(since, tracks["hours"], strict=True)]
    return tracks


def alone(told: pd.DataFrame, out: Path, *flags: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metadata and lifetimes, of both files."""
    command = ["abi", "-r", "convection", "-cr", told.attrs["folder"], "-o", str(out), "--workers", "1"]
    assert main([*command, "--plan-only", "--no-archive", *flags]) == 0
    tables = []
    for what in ("metadata", "lifetimes"):
        paths = sorted(out.glob(f"*_{what}.csv"))
        assert [path.name for path in paths] == [f"2020-07-{day}_{what}.csv" for day in ("01", "02")]
        parts = [pd.read_csv(path, parse_dates=["datetime" if what == "metadata" else "start_time"]) for path in paths]
        if what == "metadata":
            assert all((part["datetime"].dt.day == day).all() for day, part in enumerate(parts, 1))
        tables.append(pd.concat([part for part in parts if len(part)]))
    return tables[0], tables[1]


def keys(table: pd.DataFrame, system: str, time: str) -> set[tuple[str, pd.Timestamp]]:
    assert not table.duplicated([system, time]).any()
    return {*zip(table[system], table[time], strict=True)}


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ([], "hours > 0"),
        (["--systems", "all"], "hours > 0"),
        (["--min-lifetime-hours", "6", "--life-stages", "mature"], "hours >= 6 and stage == 'mature'"),
        (["--max-lifetime-hours", "3"], "hours <= 3"),
        (["--min-area-km2", "4000", "--max-area-km2", "5000"], "area_km2 >= 4000 and area_km2 <= 5000"),
        (["--max-top-temperature", "200"], "min_tb <= 200"),
        (["--latitudes", "-10", "0"], "lat >= -10 and lat <= 0"),
        (["--start-dt", "2020-07-01T20", "--end-dt", "2020-07-02T03"], "'2020-07-01T20' <= time < '2020-07-02T03'"),
    ],
)
def test_limits_that_files_can_decide(flags: list[str], rule: str, told: pd.DataFrame, tmp_path: Path) -> None:
    """By pandas: over both files, so that a system's lifetime does not end at midnight."""
    metadata, lifetimes = alone(told, tmp_path / "out", *flags)
    wanted = told.query(rule)
    assert len(wanted) > 0
    assert keys(metadata, "source_id", "datetime") == keys(wanted, "belong", "time")
    assert {*lifetimes["source_id"]} == {*wanted["belong"]}
    if flags and flags != ["--systems", "all"]:
        hours = dict(zip(told["belong"], told["hours"], strict=True))
        assert (lifetimes["duration_min"] == 60 * lifetimes["source_id"].map(hours)).all()


@pytest.mark.parametrize("systems", ["middle", "balanced"])
def test_one_record_a_system(systems: str, told: pd.DataFrame, tmp_path: Path) -> None:
    metadata, _ = alone(told, tmp_path / "out", "--systems", systems)
    assert sorted(metadata["source_id"]) == sorted({*told["belong"]})
    found = metadata.merge(told, left_on=["source_id", "datetime"], right_on=["belong", "time"])
    assert len(found) == len(metadata)
    if systems == "balanced":
        assert {*found["stage"]} == {*STAGES}
    else:
        life = told.groupby("belong")["time"]
        assert (found["time"] == found["belong"].map(life.apply(lambda times: sorted(times)[len(times) // 2]))).all()


def test_some_of_the_records(told: pd.DataFrame, tmp_path: Path) -> None:
    """As many as are asked for, at random by the seed, and the fewer among the more."""
    drawn = {}
    for name, flags in {"few": ["6"], "more": ["11"], "other": ["6", "--seed", "3"]}.items():
        metadata, lifetimes = alone(told, tmp_path / name, "--num-tiles", *flags)
        drawn[name] = keys(metadata, "source_id", "datetime")
        assert {*lifetimes["source_id"]} == {*metadata["source_id"]}
    assert [len(drawn[name]) for name in ("few", "more", "other")] == [6, 11, 6]
    assert drawn["few"] < drawn["more"]
    assert drawn["few"] != drawn["other"]


@pytest.mark.parametrize("flags", [[], ["--life-stages", "mature"]])
def test_a_file_that_cannot_be_used_is_told(
    flags: list[str], told: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told.to_csv(tmp_path / "good.csv", index=False)
    told.drop(columns="time").to_csv(tmp_path / "bad.csv", index=False)
    command = ["abi", "-r", "convection", "-cr", str(tmp_path / "*.csv"), "-o", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--plan-only", "--no-archive", *flags]) == 1
    assert "bad.csv has no column of time" in capsys.readouterr().err
    assert len([*(tmp_path / "out").glob("*.csv")]) == 2


def test_names_go_on_from_table_to_table(told: pd.DataFrame, tmp_path: Path) -> None:
    first, _ = alone(told, tmp_path / "first")
    again, _ = read_systems(str(tmp_path / "first" / "*_metadata.csv"))
    assert again.names == dict(zip(first["system_id"], first["source_id"], strict=True))
    assert "source_id" in again.metadata("all")
    numbered = tmp_path / "numbered.csv"
    told.assign(belong=told["belong"].str[:4].astype(int)).to_csv(numbered, index=False)
    assert "source_id" not in read_systems(str(numbered))[0].metadata("all")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--max-view-zenith", "70"],
            "--max-view-zenith is judged by scans, and --no-archive looks for none; leave that out, or this",
        ),
        (
            ["--max-solar-zenith", "80", "--light", "day", "--min-spacing-km", "9"],
            "--max-solar-zenith, --light and --min-spacing-km are judged by scans, and --no-archive looks for none",
        ),
        (["--latitudes", "80", "85"], "None of the 60 cloud systems"),
    ],
)
def test_limits_that_they_cannot_decide_are_refused(
    flags: list[str], sentence: str, told: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["abi", "-r", "convection", "-cr", told.attrs["folder"], "-o", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--plan-only", "--no-archive", *flags]) == 2
    assert sentence in capsys.readouterr().err
    assert not [*tmp_path.rglob("*.csv")]
