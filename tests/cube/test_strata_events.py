"""Events of any table: read in three forms, drawn by weight with the chances that are told, built with other strata."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from cube.build import main
from cube.strata import SampleRequest
from cube.strata.events.sampler import EventSampler, inclusion
from cube.strata.events.table import read_events
from cube.testing import write_abi_archive
from stratacube.errors import SourceError, UsageError

ROWS = [
    {"time": "2020-07-01T16:20:00Z", "lat": 21.5, "lon": -70.0, "id": "7", "class": "storm", "weight": 2.0},
    {"time": "2020-07-01 18:40", "lat": 21.7, "lon": 289.5, "id": "A1", "class": "clear sky", "weight": 1.0},
    {"time": "2020-07-01T12:20:00-04:00", "lat": 21.9, "lon": -70.2, "id": "", "class": "storm", "weight": 1.0},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [row["lon"], row["lat"]]},
                "properties": {k: v for k, v in row.items() if k not in ("lon", "lat")},
            }
            for row in rows
        ]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".geojson"])
def test_the_three_forms_tell_the_same(tmp_path: Path, suffix: str) -> None:
    events, problems = read_events(write(tmp_path / f"events{suffix}", ROWS))
    assert problems == []
    assert [e.time for e in events] == [
        datetime(2020, 7, 1, 16, 20),
        datetime(2020, 7, 1, 18, 40),
        datetime(2020, 7, 1, 16, 20),
    ]
    assert [(e.latitude, e.longitude) for e in events] == [(21.5, -70.0), (21.7, -70.5), (21.9, -70.2)]
    assert [(e.name, e.category, e.weight) for e in events] == [
        ("7", "storm", 2.0),
        ("A1", "clear sky", 1.0),
        ("", "storm", 1.0),
    ]


def test_best_tracks_are_read_as_they_are_given_out(tmp_path: Path) -> None:
    """The columns of IBTrACS, whose second line is of units."""
    path = tmp_path / "ibtracs.csv"
    path.write_text(
        "SID,SEASON,ISO_TIME,LAT,LON,WMO_WIND\n ,Year, ,degrees_north,degrees_east,kts\n"
        "2020188N32280,2020,2020-07-06 00:00:00,31.6,-80.4, \n2020188N32280,2020,2020-07-06 03:00:00,31.5,-80.0,25\n"
    )
    events, problems = read_events(path)
    assert problems == []
    assert [(e.name, e.latitude) for e in events] == [("2020188N32280", 31.6), ("2020188N32280", 31.5)]


def test_rows_that_cannot_be_used_are_told_one_by_one(tmp_path: Path) -> None:
    bad = [
        {**ROWS[0], "time": "yesterday"},
        {**ROWS[0], "lat": 91},
        {**ROWS[0], "lon": "west"},
        {**ROWS[0], "weight": -1},
        {**ROWS[0], "weight": 0},
    ]
    events, problems = read_events(write(tmp_path / "events.csv", [ROWS[0], *bad]))
    assert len(events) == 1
    assert [p.message for p in problems] == [
        "row 2: time is 'yesterday', not ISO 8601 such as 2020-01-31T12:00",
        "row 3: lat is '91.0', not a number in -90 to 90",
        "row 4: lon is 'west', not a number in -180 to 360",
        "row 5: weight is '-1.0', not a number of 0 or more",
        "row 6: weight is '0.0', not a number above 0",
    ]


def test_tables_that_are_none_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none of lat and lon; name them time, lat and lon"):
        read_events(write(tmp_path / "a.csv", [{"time": "2020-01-01", "north": 1}]))
    with pytest.raises(UsageError, match=r"has no event that can be used, of 1 rows; the first, row 1: time is 'x'"):
        read_events(write(tmp_path / "b.csv", [{**ROWS[0], "time": "x"}]))
    with pytest.raises(UsageError, match=r"give a table that ends with .csv, .parquet or .geojson"):
        read_events(tmp_path / "a.xlsx")
    (tmp_path / "c.geojson").write_text('{"type": "Feature"}')
    with pytest.raises(SourceError, match="it is not a GeoJSON FeatureCollection"):
        read_events(tmp_path / "c.geojson")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SourceError, match=r"d.parquet is not a table of events"):
        read_events(tmp_path / "d.parquet")
    with pytest.raises(SourceError, match="file not found"):
        read_events(tmp_path / "none.csv")


def request(**more: Any) -> SampleRequest:
    return SampleRequest(scans=[], grid_of=lambda _: None, tile_size=1, **more)  # type: ignore[arg-type, return-value]


def test_heavy_events_are_drawn_as_often_as_it_is_told(tmp_path: Path) -> None:
    weights = [1.0] * 30 + [4.0] * 10
    rows = [{**ROWS[0], "id": str(n), "weight": w} for n, w in enumerate(weights)]
    path = str(write(tmp_path / "events.csv", rows))
    sampler = EventSampler(request(num_tiles=15), table=path)
    seen: Counter[bool] = Counter()
    for seed in range(300):
        sampler.request = request(num_tiles=15, seed=seed)
        drawn = [c for _, c in zip(range(15), sampler.candidates(), strict=False)]
        seen.update(c.weight > 1 for c in drawn)
    chances = {c.weight > 1: c.probability for c in sampler.candidates()}
    expected = {True: 300 * 10 * chances[True], False: 300 * 30 * chances[False]}
    assert sum(expected.values()) == pytest.approx(300 * 15)
    statistic = sum((seen[k] - expected[k]) ** 2 / expected[k] for k in expected)
    assert chi2.sf(statistic, 1) > 0.001
    off = sum((seen[k] - expected[k] * f) ** 2 / (expected[k] * f) for k, f in ((True, 1.1), (False, 1.0)))
    assert chi2.sf(off, 1) < 0.001


def test_alike_events_have_the_chance_of_a_plain_draw() -> None:
    assert inclusion(np.ones(40), 10) == pytest.approx(np.full(40, 0.25))
    assert inclusion(np.ones(4), None).tolist() == [1] * 4


@pytest.mark.parametrize("number", [1, 2, 4, 5])
@pytest.mark.parametrize("weights", [[1.0, 2.0, 2.0, 9.0, 1.0, 0.5], [0.01, 1.0, 2.0, 3.0, 500.0, 2.0]])
def test_chances_are_those_of_all_draws_one_after_the_other(weights: list[float], number: int) -> None:
    expected = np.zeros(len(weights))
    for drawn in permutations(range(len(weights)), number):
        left, chance = sum(weights), 1.0
        for one in drawn:
            chance *= weights[one] / left
            left -= weights[one]
        expected[list(drawn)] += chance
    assert inclusion(np.array(weights), number) == pytest.approx(expected, abs=1e-9)
    assert inclusion(np.array([1.0, 2.0, 2.0]), 2) == pytest.approx([7 / 15, 23 / 30, 23 / 30], abs=1e-9)


def test_chances_of_very_many_different_events_are_near() -> None:
    weights = np.random.default_rng(3).lognormal(size=400)
    near = inclusion(weights, 40)
    assert near.sum() == pytest.approx(40)
    arrivals = np.random.default_rng(4).exponential(size=(4000, 400)) / weights
    drawn = np.bincount(np.argpartition(arrivals, 40, axis=1)[:, :40].ravel(), minlength=400)
    heavy = weights > np.quantile(weights, 0.9)
    assert drawn[heavy].sum() / 4000 == pytest.approx(near[heavy].sum(), rel=0.01)


def test_few_of_a_seed_are_the_first_of_many(tmp_path: Path) -> None:
    path = str(write(tmp_path / "events.csv", [{**ROWS[0], "id": str(n)} for n in range(30)]))

    def ids(number: int) -> Iterator[str]:
        candidates = EventSampler(request(num_tiles=number, seed=3), table=path).candidates()
        return (c.details["event_id"] for _, c in zip(range(number), candidates, strict=False))

    assert [*ids(5)] == [*ids(20)][:5]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    start, corner = datetime(2020, 7, 1, 16), (-0.030016, 0.090048)
    write_abi_archive(
        root, sector="C", start=start, hours=1, corner=corner, channels=(7, 13), shape_2km=(130, 130), workers=1
    )
    return root


def build(archive: Path, output: Path, *flags: str) -> int:
    base = ["--domain", "C", "--channels", "7", "13", "--grid", "2km", "--tile-size", "16", "--steps", "1"]
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1"]
    return main(["abi", *given, *base, *flags])


def centre(archive: Path, output: Path) -> tuple[float, float]:
    assert build(archive, output, "--num-tiles", "1", "--plan-only") == 0
    tile = pd.read_parquet(output / "plan.parquet").iloc[0]
    return float(tile["latitude"]), float(tile["longitude"])


def test_events_and_random_places_are_built_in_one_plan(archive: Path, tmp_path: Path) -> None:
    lat, lon = centre(archive, tmp_path / "one")
    rows = [
        {"time": f"2020-07-01T16:{m:02d}", "lat": lat + 0.01 * m, "lon": lon, "id": f"{m}", "class": "ab"[m % 2]}
        for m in range(0, 50, 5)
    ]
    table = write(tmp_path / "events.csv", [*rows, {**rows[0], "lat": "north"}])
    out = tmp_path / "out"
    flags = ["--strata", "random=0.25", "events=0.75", "--events", str(table), "--quotas", "events.a=1", "events.b=2"]
    # A row that cannot be used is lacking: exit code 1.
    assert build(archive, out, "--num-tiles", "12", *flags) == 1
    plan = pd.read_parquet(out / "plan.parquet")
    assert plan["stratum"].value_counts().to_dict() == {"events": 8, "random": 3}
    assert plan["class"].value_counts().to_dict() == {"b": 5, "": 3, "a": 3}
    told = pd.read_csv(out / "errors.csv")
    assert any("row 11: lat is 'north'" in reason for reason in told["reason"])
    assert any("events.b 1 of 6" in reason for reason in told["reason"])
    assert (out / "plan.png").stat().st_size > 1000
    assert "| events.a | 3 | 3 | 3 | - |" in (out / "report.md").read_text()
    assert set(plan["rank"]) == set(range(11))
    # The draw of few is the first of the draw of many.
    few = tmp_path / "few"
    assert build(archive, few, "--num-tiles", "6", *flags, "--plan-only") == 1
    first = plan[plan["rank"] < 6].sort_values("rank")["tile_id"].tolist()
    assert pd.read_parquet(few / "plan.parquet").sort_values("rank")["tile_id"].tolist() == first


def test_quotas_of_classes_that_no_event_has_are_refused_and_bad_rows_told(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "events.csv", [*ROWS, {**ROWS[0], "lat": "north"}])
    flags = ["--stratification", "events", "--events", str(table), "--plan-only", "--quotas"]
    assert build(archive, tmp_path / "out", *flags, "events.storms=1", "events.storm=2") == 2
    told = "--quotas names class 'storms' of events; its candidates have clear sky, storm (did you mean storm?)"
    assert told in capsys.readouterr().err
    lat, lon = centre(archive, tmp_path / "one")
    table = write(tmp_path / "bare.csv", [{"time": "2020-07-01T16:20", "lat": v, "lon": lon} for v in (lat, "north")])
    flags = ["--stratification", "events", "--events", str(table), "--plan-only"]
    assert build(archive, tmp_path / "out", *flags, "--quotas", "events.a=1") == 2
    assert "--quotas names class 'a' of events; they have no classes" in capsys.readouterr().err
    assert build(archive, tmp_path / "out", *flags) == 1
    assert f"source: {table}: row 2: lat is 'north'" in capsys.readouterr().err


def test_events_out_of_the_period_are_refused_in_a_sentence(archive: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "events.csv", ROWS)
    with pytest.raises(UsageError, match=r"None of the 3 events of .*events.csv, from .* is in the period 2021"):
        next(EventSampler(request(start=datetime(2021, 1, 1)), table=str(table)).candidates())
