"""``report.html`` of a run."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.browser import assert_readable, chromium
from tests.training.small import small_run
from training.evaluation import evaluate
from training.report import write_report
from training.runs import open_run
from training.trainer import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nine steps, stopped once, judged and evaluated."""
    folder = tmp_path_factory.mktemp("run")
    config = small_run(folder, validation={"every_epochs": 0.5})
    assert not Trainer(config).fit(stop_at=6)
    page = (folder / "report.html").read_text()
    assert "<strong>6 of 9 steps were done.</strong>" in page
    assert "Not evaluated." in page
    assert Trainer(config).fit()
    evaluate(open_run(folder), folder / "evaluation", pictures=1)
    return folder


def test_page_tells_what_was_asked_and_learned(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "<strong>9 of 9 steps were done.</strong>" in page
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert f"{rows[-1]['loss']:.4f}" in page
    judged = json.loads((run / "evaluation" / "evaluation.json").read_text())["rows"]
    for row in judged:
        assert f"<td>{row['method']}</td><td>{row['band']}</td><td" in page
    assert page.count('src="data:image/png;base64,') == 1
    assert "Gone on with</td><td>1 time<" in page
    spent = sum(row["step_s"] for row in rows)
    assert f'<td>training</td><td class="n">{spent:.1f}</td>' in page
    assert re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", page) == []


def test_code_of_the_page_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (run / "report.html").read_text()
    (block,) = (unescape(re.sub("<[^>]+>", "", b)) for b in re.findall(r"<pre.*?</pre>", page, re.S))
    monkeypatch.chdir(run)
    names: dict[str, Any] = {}
    exec(compile(block, "report.html", "exec"), names)
    assert names["features"].shape[0] == 1
    assert names["features"].isfinite().all()


def test_page_of_a_run_without_a_row_is_written(tmp_path: Path, run: Path) -> None:
    manifest = {**open_run(run).manifest}
    manifest.pop("facts")  # as runs of before left it
    assert "Nothing yet." in write_report(tmp_path, manifest).read_text()
    row = {"loss": None, "lr": 0.1, "samples_per_s": 4.0, "step_s": 0.5, "data_wait": 0.2, "valid_share": None}
    rows = [json.dumps({"step": step, **row}) for step in (10, 30)]  # rows of ten steps and of twenty
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows))
    page = write_report(tmp_path, manifest).read_text()
    assert '<td>training</td><td class="n">15.0</td>' in page
    assert '<td>of that, waiting for data</td><td class="n">3.0</td>' in page


def test_page_tells_the_rate_and_warm_up_that_were_worked_out(tmp_path: Path, run: Path) -> None:
    """A config may give them by 256 samples, and in epochs."""
    manifest = {**open_run(run).manifest}
    asked = {"lr": None, "base_lr": 0.5, "warmup_steps": None, "warmup_epochs": 2.0}
    manifest["config"] = {**manifest["config"], "optimizer": {**manifest["config"]["optimizer"], **asked}}
    schedule = manifest["facts"]["schedule"] | {"peak": 0.0078125, "warmup": 4}
    manifest["facts"] = {**manifest["facts"], "schedule": schedule}
    page = write_report(tmp_path, manifest).read_text()
    assert "9, 4 of them warming up<" in page
    assert ">Learning rate</td><td" in page
    assert ">0.0078125<" in page
    manifest.pop("facts")
    page = write_report(tmp_path, manifest).read_text()
    assert "2.0 epochs of them warming up<" in page
    assert "0.5 for 256 samples a step<" in page


@pytest.mark.slow
def test_page_is_readable_in_a_browser(run: Path) -> None:
    for browser in chromium():
        assert_readable(browser, (run / "report.html").as_uri())
