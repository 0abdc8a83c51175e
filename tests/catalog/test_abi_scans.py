"""Grouping files into scans, picking among them, and saying what is missing."""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import pandas as pd

from catalog.geostationary.scans import (
    Scan,
    SourceFile,
    better,
    completeness,
    group_scans,
    nearest_scan,
    write_completeness,
)

START = datetime(2020, 1, 1)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def file_at(
    start: datetime, channel: int = 1, *, sector: str = "F", platform: str = "goes16", made: float = 600, mode: int = 6
) -> SourceFile:
    return SourceFile(
        href=f"/archive/{platform}/{sector}/{start:%j%H%M%S%f}/{channel}/{made}",
        size=1000,
        tag="1",
        platform=platform,
        product=f"ABI-L1b-Rad{sector[0]}",
        sector=sector,
        mode=mode,
        channel=channel,
        start=start,
        end=start + timedelta(seconds=5, milliseconds=100 * channel),
        created=start + timedelta(seconds=made),
    )


def scans_at(*starts: datetime, channels: tuple[int, ...] = (1, 2), sector: str = "F", mode: int = 6) -> list[Scan]:
    return group_scans(file_at(s, c, sector=sector, mode=mode) for s in starts for c in channels)


def test_channels_within_tenths_of_a_second_are_one_scan():
    starts = {1: 0.0, 2: 0.3, 7: 0.2, 16: 0.1}
    (scan,) = group_scans(file_at(START + s * SECOND, c) for c, s in starts.items())
    assert list(scan.files) == [1, 2, 7, 16]
    assert scan.start == START
    assert scan.end == max(file.end for file in scan.files.values())
    assert scan.id == "goes16_ABI-L1b-RadF_s20200010000000"


def test_the_identifier_has_tenths():
    (scan,) = group_scans([file_at(START + 0.3 * SECOND, sector="M1")])
    assert scan.id == "goes16_ABI-L1b-RadM1_s20200010000003"


def test_mesoscale_scans_half_a_minute_apart_stay_apart():
    files = [file_at(START + (30 * i + 0.1 * c) * SECOND, c, sector="M1") for i in range(10) for c in (1, 2, 3)]
    random.Random(0).shuffle(files)
    scans = group_scans(files)
    assert [scan.start for scan in scans] == [START + (30 * i + 0.1) * SECOND for i in range(10)]
    assert all(len(scan.files) == 3 for scan in scans)


def test_sectors_and_platforms_are_never_joined():
    files = [file_at(START, sector=s, platform=p) for s in ("F", "M1", "M2") for p in ("goes16", "goes17")]
    assert len(group_scans(files)) == 6


def test_the_latest_issue_wins_in_any_order():
    old, new = file_at(START, made=10), file_at(START + 0.1 * SECOND, made=20)
    for files in ([old, new], [new, old]):
        (scan,) = group_scans(files)
        assert scan.files[1] == new
        assert scan.start == new.start


def test_of_equal_issues_the_one_not_cut_short_wins():
    whole = file_at(START)
    short = SourceFile(**{**{f: getattr(whole, f) for f in SourceFile.__slots__}, "size": 10, "href": "/a"})
    assert better(whole, short) == better(short, whole) == whole
    assert better(short, None) == short


def test_nearest_agrees_with_a_search_through_all():
    pick = random.Random(7)
    starts = sorted({START + pick.randrange(86400) * SECOND for _ in range(300)})
    scans = scans_at(*[s for i, s in enumerate(starts) if i == 0 or s - starts[i - 1] > 6 * SECOND])
    for _ in range(500):
        time = START + pick.uniform(-4000, 90000) * SECOND
        tolerance = pick.uniform(0, 600) * SECOND
        distance = min(abs(scan.start - time) for scan in scans)
        found = nearest_scan(scans, time, tolerance)
        if distance > tolerance:
            assert found is None
        else:
            assert found is not None
            assert abs(found.start - time) == distance


def test_nearest_takes_the_next_hours_scan_not_the_first_of_the_hour():
    scans = scans_at(*(START + 10 * i * MINUTE for i in range(13)))
    found = nearest_scan(scans, START + 58 * MINUTE, 10 * MINUTE)
    assert found is not None
    assert found.start == START + 60 * MINUTE


def test_nearest_has_an_inclusive_tolerance_and_prefers_the_earlier_of_two():
    scans = scans_at(START, START + 20 * MINUTE)
    found = nearest_scan(scans, START + 10 * MINUTE, 10 * MINUTE)
    assert found is scans[0]
    assert nearest_scan(scans, START + 10 * MINUTE, 10 * MINUTE - SECOND) is None
    assert nearest_scan([], START, MINUTE) is None


def test_nearest_can_prefer_scans_with_the_channels():
    scans = sorted([*scans_at(START), *scans_at(START + 5 * MINUTE, channels=(1,))], key=lambda scan: scan.start)
    time = START + 4 * MINUTE
    assert nearest_scan(scans, time, 10 * MINUTE) is scans[1]
    assert nearest_scan(scans, time, 10 * MINUTE, channels=[1, 2]) is scans[0]
    assert nearest_scan(scans, time, 10 * MINUTE, channels=[1]) is scans[1]
    assert nearest_scan(scans, time, 2 * MINUTE, channels=[1, 2]) is scans[1]


def test_completeness_names_what_is_missing():
    scans = [*scans_at(START), *scans_at(START + 10 * MINUTE, channels=(2,))]
    table = completeness(scans, [2, 1])
    assert list(table.columns) == ["scan", "platform", "sector", "start", "C01", "C02", "status"]
    assert table["C01"].tolist() == [True, False]
    assert table["status"].tolist() == ["complete", "missing C01"]
    assert table["scan"].tolist() == [scan.id for scan in scans]


def test_absent_scans_have_rows_where_the_cadence_is_known():
    there = [START + 10 * i * MINUTE for i in range(12) if i not in (3, 4, 9)]
    table = completeness(scans_at(*there), [1])
    absent = table[table["status"] == "no scan"]
    assert absent["start"].tolist() == [pd.Timestamp(START + 10 * i * MINUTE) for i in (3, 4, 9)]
    assert not absent["C01"].any()
    assert (absent["scan"] == "").all()
    assert table["start"].is_monotonic_increasing


def test_starts_that_scatter_do_not_make_absences():
    pick = random.Random(3)
    there = [START + (600 * i + pick.choice((0, 0.1, -0.2, 0.3))) * SECOND for i in range(144)]
    assert (completeness(scans_at(*there), [1])["status"] == "complete").all()


def test_a_cadence_is_not_inferred_from_one_gap_but_can_be_given():
    scans = scans_at(START, START + 10 * MINUTE, START + 60 * MINUTE)
    assert len(completeness(scans, [1])) == 3
    assert len(completeness(scans, [1], 10 * MINUTE)) == 7


def test_each_scan_mode_has_its_own_cadence():
    early = scans_at(*(START + 15 * i * MINUTE for i in range(5)), mode=3)
    late = scans_at(*(START + (75 + 10 * i) * MINUTE for i in range(5)), mode=6)
    assert len(completeness([*early, *late], [1])) == 10


def test_a_mesoscale_sector_scanned_twice_a_minute_at_times_is_not_incomplete():
    starts = [START + 30 * i * SECOND for i in range(21)] + [START + (10 + i) * MINUTE for i in range(1, 9)]
    assert (completeness(scans_at(*starts, sector="M1"), [1])["status"] == "complete").all()


def test_edges_of_the_period_are_looked_at_when_given():
    scans = scans_at(*(START + 10 * i * MINUTE for i in range(2, 6)))
    table = completeness(scans, [1], start=START, end=START + 80 * MINUTE)
    absent = table.loc[table["status"] == "no scan", "start"]
    assert absent.tolist() == [pd.Timestamp(START + i * MINUTE) for i in (0, 10, 60, 70)]


def test_a_long_gap_is_one_row():
    scans = scans_at(*(START + i * MINUTE for i in (0, 1, 2, 9000)), sector="M1")
    table = completeness(scans, [1])
    assert len(table) == 5
    assert table["status"][3].startswith("no scan (8997 expected until 2020-01-07 05:59:00")


def test_completeness_of_nothing_is_an_empty_table(tmp_path):
    table = completeness([], [1, 2])
    assert table.empty
    write_completeness(table, tmp_path / "new" / "completeness.csv")
    assert pd.read_csv(tmp_path / "new" / "completeness.csv").columns.tolist() == table.columns.tolist()


def test_the_table_is_written_as_csv(tmp_path):
    table = completeness(scans_at(START, START + 10 * MINUTE, START + 20 * MINUTE, START + 40 * MINUTE), [1, 5])
    write_completeness(table, tmp_path / "completeness.csv")
    back = pd.read_csv(tmp_path / "completeness.csv", parse_dates=["start"], keep_default_na=False)
    assert back.astype({"start": "datetime64[ns]"}).equals(table)
    assert [path.name for path in tmp_path.iterdir()] == ["completeness.csv"]
