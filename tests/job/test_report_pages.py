"""``report.html`` of builds of every source: as a browser shows it, and what it says."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pandas as pd
import pytest
from matplotlib import pyplot

from cube.job.ledger import Problem
from cube.job.report import Report, write_report
from stratacube.page import Code, Table
from tests.browser import assert_readable, chromium

SOURCES = ["abi", "sentinel2"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.mark.parametrize("source", SOURCES)
def test_page_holds_what_was_made_and_says_how_to_open_it(
    source: str, undisturbed_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = undisturbed_of(source)
    page = (folder / "report.html").read_text()
    titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    told = "Asked Made Sources Errors|Left out|How to open|Time taken|Provenance"
    assert titles == [
        t for part in told.split("|") for t in ([part] if "L" in part or "H" in part or "T" in part else part.split())
    ]
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", page) == []  # it needs no file beside it
    made = len(pd.read_parquet(folder / "plan.parquet"))
    assert f"of {made:,} planned" in page
    for step in ("previews", "catalog"):
        assert re.search(rf"<td>{step}</td><td class=\"n\">\d+\.\d</td>", page)
    assert len(re.findall(r"<title>[^<]*\n", page)) >= made  # each footprint tells what it is
    blocks = [unescape(re.sub("<[^>]+>", "", b)) for b in re.findall(r"<pre.*?</pre>", page, re.S)]
    assert blocks
    monkeypatch.chdir(folder)
    matplotlib.use("agg")
    for block in blocks:
        with warnings.catch_warnings(action="ignore"):
            exec(compile(block, "report.html", "exec"), {})
    pyplot.close("all")


@pytest.mark.parametrize("source", SOURCES)
def test_catalog_names_the_page_and_the_drawings(source: str, undisturbed_of: Callable[[str], Path]) -> None:
    folder = undisturbed_of(source)
    file = folder / ("collection.json" if source == "sentinel2" else "tiles/collection.json")
    assets = json.loads(file.read_text())["assets"]
    assert assets["report_page"]["type"] == "text/html"
    for key in ("report_page", "footprints", "run"):
        there = (file.parent / assets[key]["href"]).resolve()
        assert there.is_file()
        if key != "report_page":
            assert assets[key]["type"] == "image/svg+xml"
            assert ElementTree.parse(there).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_page_is_readable_in_a_browser(source: str, undisturbed_of: Callable[[str], Path], browser: Any) -> None:
    page = undisturbed_of(source) / "report.html"
    assert_readable(browser, page.as_uri())
    view = browser.new_page()
    view.goto(page.as_uri())
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.className") == "skip"
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.id") == "main"
    view.goto(page.as_uri())
    for _ in range(2):
        view.keyboard.press("Tab")
    view.keyboard.press("Enter")
    assert view.url.endswith("#asked")
    view.close()


def test_a_report_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    told = ["Masks are those of /data/masks/day.nc.", Table(["Scan", "Why"], [("a.nc", "/data/a.nc is truncated")])]
    code = [Code('xr.open_zarr("tiles.zarr")')]
    report = Report("Build", "Made.", [("Masks", Path("/data/masks/*.nc"))], told, told, told, code)
    problem = Problem("product", "file:///data/archive/b.nc is truncated")
    avoided = replace(problem, kind="avoided", reason="/data/archive/c.nc is dark")
    write_report(tmp_path / "report.md", report, [problem, avoided], {}, datetime(2020, 1, 1), "abc")
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "/data" not in text
        assert all(
            part in text for part in ("*.nc", "day.nc", "a.nc is truncated", "b.nc is truncated", "c.nc is dark")
        )
