"""Plugs that fail while they run: one sentence with their name and distribution, the traceback in the log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from cube import registry
from cube.build import main
from cube.job.engine import Workers, run_tasks
from cube.sentinel2.grid import make_grid, write_grid
from cube.strata.masks import find_masks
from stratacube.errors import PlugError, UsageError
from tests.plugs.installed import install, install_page, plugged
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

CODE = """
from concurrent.futures import Executor, ThreadPoolExecutor
from pydantic import field_validator
from cube.job.job import run_job
from cube.plug import Command, SourcePlug
from cube.sentinel2.reduce import Reducer
from cube.strata.masks import MaskKind
from cube.strata.plug import Options, Stratum
from my_plugs import squares_build

class Odd(Options):
    oddness: int = 1
    @field_validator("oddness")
    @classmethod
    def _fails(cls, value):
        return value["odd"] if value == 3 else value

class Sampler:
    stratum, problems = "odd", []
    def __init__(self, request, oddness):
        self.oddness = oddness
    def candidates(self):
        if self.oddness == 2:
            yield "a place"
        raise ZeroDivisionError("no such place")

ODD = Stratum("odd_plugs:Sampler", Odd)

def fails(*_):
    raise RuntimeError("quite broken")

REDUCER = Reducer("odd", joint=False, reduce=fails)
MASKS = MaskKind("X.odd", lambda name: fails() if name == "start.odd" else None, fails)

class Empty(Executor):
    def submit(self, *_):
        return None

class Folder(squares_build.Folder):
    SOURCE = "odd"

class Build(squares_build.Squares):
    def __init__(self, config):
        super().__init__(config)
        self.folder = Folder(config.output_dir)
    def find(self, run):
        raise LookupError("nothing")

class Inspection(squares_build.Inspection):
    folder = Folder
    tasks = property(lambda self: 1 .tasks)

INSPECTION = Inspection()

def run(config):
    return run_job(Build(config))

SOURCE = SourcePlug(
    {"odd": Command("odd", "my_plugs.squares_build:Config", "odd_plugs:run")}, "odd_plugs:INSPECTION"
)

def empty(workers, modules):
    return Empty()

def threads(workers, modules):
    return ThreadPoolExecutor(workers)
"""
POINTS = {
    "stratacube.strata": {"odd": "odd_plugs:ODD"},
    "stratacube.sources": {"odd": "odd_plugs:SOURCE"},
    "stratacube.reducers": {"odd": "odd_plugs:REDUCER"},
    "stratacube.masks": {"odd": "odd_plugs:MASKS"},
    "stratacube.engines": {"odd": "odd_plugs:fails", "empty": "odd_plugs:empty", "threads": "odd_plugs:threads"},
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = install_page(tmp_path_factory.mktemp("odd"))
    return install(site, "odd-plugs", {"odd_plugs.py": CODE}, POINTS)


@dataclass(frozen=True)
class Number:
    number: int

    @property
    def key(self) -> str:
        return str(self.number)


def failed(site: Path, capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 1) -> str:
    """What is said of a command that fails: no traceback."""
    with plugged(site):
        assert main([*map(str, arguments)]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_stratum(odd: Path, small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["abi", "--local-data-dir", small_archive, "--domain", "M1", "--channels", "13", "--workers", "1"]
    flags += ["--tile-size", "64", "--stratification", "odd", "--output-dir", tmp_path / "out"]
    told = "error: stratum 'odd' of odd-plugs 1.0 failed ({}); mend or uninstall it"
    assert told.format("ZeroDivisionError: no such place") in failed(odd, capsys, *flags)
    log = (tmp_path / "out" / "logs" / "pipeline.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert 'odd_plugs.py", line' in log
    said = failed(odd, capsys, *flags, "--overwrite", "--oddness", "2")
    assert told.format("TypeError: its sampler proposes 'a place', which is not a Candidate") in said
    assert told.format("TypeError: 'int' object is not subscriptable") in failed(odd, capsys, *flags, "--oddness", "3")
    with plugged(odd):
        assert main([*map(str, flags), "-v", "--overwrite"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reducer(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        make_scene(number, FIRST + timedelta(days=5 * number), bands=("B02",)).write(tmp_path / "safe")
    write_grid(make_grid(2000, (ULX, ULY - 2000, ULX + 2000, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    flags = ["sentinel2", "--safe-dir", tmp_path / "safe", "--grid-csv", tmp_path / "grid.csv", "--bands", "B02"]
    flags += ["--start", "2021-06-01", "--end", "2021-06-30", "--tr", "20", "20", "--tap", "--workers", "1"]
    said = failed(odd, capsys, *flags, "--work-dir", tmp_path / "out", "--reducer", "odd")
    assert "reducer 'odd' of odd-plugs 1.0 failed (RuntimeError: quite broken)" in said
    log = (tmp_path / "out" / "logs" / "pipeline.log").read_text()
    assert log.count("Traceback (most recent call last)") == 2  # of what it raised, and of what was made of it
    assert 'odd_plugs.py", line' in log


def test_a_source(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "error: source 'odd' of odd-plugs 1.0 failed ({}); mend or uninstall it"
    assert told.format("LookupError: nothing") in failed(odd, capsys, "odd", "--output-dir", tmp_path / "out")
    assert 'odd_plugs.py", line' in (tmp_path / "out" / "logs" / "pipeline.log").read_text()
    for look in ("status", "verify"):
        said = failed(odd, capsys, look, tmp_path / "out")
        assert told.format("AttributeError: 'int' object has no attribute 'tasks'") in said


def test_masks(odd: Path, tmp_path: Path) -> None:
    (tmp_path / "start.odd").touch()
    with plugged(odd), pytest.raises(PlugError, match=r"kind of masks 'odd' of odd-plugs 1\.0 failed"):
        find_masks(str(tmp_path / "*"))


def test_engines(odd: Path) -> None:
    def outcomes(engine: str) -> list[str | None]:
        with plugged(odd), Workers(2, engine) as workers:
            return [o.result for o in run_tasks([Number(n) for n in range(3)], str, workers)]

    with pytest.raises(PlugError, match=r"engine 'odd' of odd-plugs 1.0 failed \(RuntimeError: quite broken\)"):
        outcomes("odd")
    with pytest.raises(PlugError, match=r"engine 'empty' of .* gives None, which is not a concurrent.futures.Future"):
        outcomes("empty")
    with pytest.raises(UsageError, match=r"`engine=threads` runs tasks in threads of one process; .* `engine=local`"):
        outcomes("threads")


def test_ours_are_not_blamed() -> None:
    with pytest.raises(ZeroDivisionError), registry.STRATA.blamed("random"):
        _ = 1 / 0
    with pytest.raises(FileNotFoundError), registry.STRATA.blamed("random"):
        Path("nowhere").read_text()


def test_what_fails_to_import_is_not_told_as_unknown(
    small_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"stratacube.strata": {"torn": "torn:STRATUM"}, "stratacube.engines": {"worn": "torn:engine"}}
    site = install(tmp_path / "site", "torn", {"torn.py": "raise RuntimeError('quite torn')"}, points)
    flags = ["abi", "--local-data-dir", small_archive, "--domain", "M1", "--channels", "13", "--num-tiles", "1"]
    told = " of torn 1.0 cannot be used (RuntimeError: quite torn); mend or uninstall it"
    out = tmp_path / "out"
    with plugged(site), pytest.raises(SystemExit) as stop:
        main([*map(str, flags), "--output-dir", str(out), "--stratification", "torn"])
    assert stop.value.code == 2
    assert f"error: stratum 'torn'{told}" in capsys.readouterr().err
    (tmp_path / "build.yaml").write_text("stratification: torn\n")
    said = failed(site, capsys, *flags, "--output-dir", out, "--config", tmp_path / "build.yaml", code=2)
    assert f"stratum 'torn'{told}" in said
    assert "error: engine 'worn'" + told in failed(
        site, capsys, *flags, "--output-dir", out, "--engine", "worn", code=2
    )
    assert not out.exists()
