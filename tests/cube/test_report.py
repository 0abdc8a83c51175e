"""The report of a build."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from catalog.geostationary.scans import Scan, SourceFile
from cube.config import AbiConfig
from cube.geostationary.report import tile_report
from cube.job.ledger import Problem
from cube.job.report import write_report
from cube.strata.streams import Tally

START = datetime(2020, 1, 1)


def scan(number: int, channels: list[int]) -> Scan:
    start = START + timedelta(minutes=10 * number)
    product = "ABI-L1b-RadM"
    files = {c: SourceFile(f"/a/{c}.nc", 1, "t", "goes16", product, "M1", 6, c, start, start, start) for c in channels}
    return Scan("goes16", product, "M1", 6, start, start, files)


def table(tiles: int, days: int = 2) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "tile_id": [f"t{i}" for i in range(tiles)],
            "stratum": "random",
            "platform": "goes16",
            "sector": "M1",
            "event_time": [START + timedelta(days=i % days) for i in range(tiles)],
            "lacks": [i == 0 for i in range(tiles)],
        }
    )


@pytest.fixture
def made(tmp_path):
    def write(tiles=None, problems=(), scans=None, refused=None, built=None, channels=(2, 13), tallies=None):
        path = tmp_path / "report.md"
        config = AbiConfig(output_dir=tmp_path, channels=list(channels), num_tiles=6)
        tiles = table(6) if tiles is None else tiles
        report = tile_report(
            config,
            SimpleNamespace(tiles=len(tiles), refused=Counter(refused), time_means=None, tallies=tallies or []),
            [scan(0, [2, 13])] if scans is None else scans,
            tiles if built is None else built,
            Path("previews/contact_sheet.png"),
        )
        write_report(path, report, problems, {"plan": 1.25, "build": 61.0}, START, config.digest())
        return path.read_text()

    return write


def test_whole_build(made):
    text = made()
    assert "**6 of 6 planned tiles were made.** Tiles that lack a channel or a scan at some time step: 1." in text
    assert "| random | goes16 | M1 | 6 |" in text
    assert "| 2020-01-02 | 3 |" in text
    assert "![Contact sheet](previews/contact_sheet.png)" in text
    assert "Scans found: 1, from 2020-01-01 00:00:00" in text
    assert "## Errors\n\nNone." in text
    assert "| build | 61.0 |" in text
    assert text.isascii()


def test_too_many_tiles_for_a_file_each_are_opened_by_their_table(made, monkeypatch):
    assert "pystac" in made()
    monkeypatch.setattr("cube.geostationary.report.FILES_LIMIT", 5)
    text = made()
    assert "pystac" not in text
    assert 'items = pd.read_parquet("tiles/items.parquet")' in text


def test_errors_are_counted_by_reason(made):
    reasons = ["cut short"] * 3 + ["no | pipe"] + [f"reason {i:02d}" for i in range(30)]
    text = made(problems=[Problem("source", reason, "t1", href="f") for reason in reasons])
    rows = re.findall(r"^\| (.+) \| (\d+) \|$", text.split("## Errors")[1].split("##")[0], re.MULTILINE)
    assert rows[:2] == [("cut short", "3"), (r"no \| pipe", "1")]
    assert len(rows) == 20
    assert "12 more are in errors.csv." in text
    assert "Errors: 34, counted below." in text


def test_lacks_are_told(made):
    refused = {"tile centre off the Earth": 7, "no scan": 9}
    tiles = table(4)
    problems = [Problem("source", "m.nc: no DCS_number"), Problem("avoided", "cut short", input="s1")]
    text = made(tiles, problems, [scan(0, [2, 13]), scan(1, [13])], refused, tiles.iloc[1:])
    assert "**3 of 4 planned tiles were made (6 were asked for; see the candidates left out).**" in text
    assert "With all channels asked for: 1." in text
    assert "| C02 | 1 | 1 |" in text
    assert "| C13 |" not in text
    assert text.index("no scan | 9") < text.index("tile centre off the Earth | 7")
    assert "| m.nc: no DCS_number | 1 |" in text
    assert "Errors: 1, counted below." in text  # what was avoided is none
    assert text.index("Avoided, and others taken:") < text.index("| cut short | 1 |")


def test_what_each_stratum_gave_is_told(made):
    short = Tally("landcover", "snow", 5, 2, 9, Counter({"spacing": 4, "no scan": 3}))
    text = made(tallies=[Tally("random", "", 3, 3, 3), short])
    assert "| random | 3 | 3 | 3 | - |" in text
    assert "| landcover.snow | 5 | 2 | 9 | spacing (4), no scan (3) |" in text


def test_long_period_is_told_by_month(made):
    text = made(table(40, days=40))
    assert "| 2020-01 | 31 |" in text
    assert "| 2020-02 | 9 |" in text


def test_code_is_for_the_bands_at_hand(made):
    assert 'one_tile(tiles, 0)["C13"].isel(time=3)' in made()
    text = made(channels=[2])
    assert 'physical="reflectance"' in text
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, "report", "exec")


def test_nothing_made(made):
    text = made(table(2), scans=[], built=table(2).head(0))
    assert "**0 of 2 planned tiles were made (6 were asked for" in text
    assert "No scan was found." in text
    assert "## Made\n\nNothing." in text
