"""What a stranger found by trying, each with the right outcome."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import loaders
from cube.build import main
from cube.sentinel2.composite import ScratchLostError, _read_rows
from cube.sentinel2.making import _load
from stratacube.claim import claimed
from stratacube.errors import UsageError
from stratacube.settings import refuse_empty
from tests.job.builds import Build, contents, differences, make_abi, make_sentinel2

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def abi(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return make_abi(tmp_path_factory.mktemp("abi"))


@pytest.fixture(scope="module")
def sentinel2(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return make_sentinel2(tmp_path_factory.mktemp("sentinel2"))


def forget(folder: Path, *keys: str) -> None:
    """Take lines from a ledger: what a kill between a rename and its line leaves."""
    ledger = folder / "ledger.jsonl"
    lines = [line for line in ledger.read_text().splitlines() if json.loads(line)["key"] not in keys]
    ledger.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("known", [False, True])
def test_a_shard_half_written_is_made_anew(sentinel2: Build, known: bool) -> None:
    """It is read before cells are put into it; a power loss may have left half of one, and a disk flips bits."""
    folder = sentinel2.begin("published")
    shard = folder / "composites.zarr/B03/c/0/1"
    if known:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
        next((folder / "composites").rglob("*B03*.tif")).unlink()
        for path in (folder / "composites").rglob("*B03*.tif"):
            path.unlink()  # of every cell, so of that of the shard too
    else:
        forget(folder, "shard 0 1", "publish", "outcome")
        os.truncate(shard, shard.stat().st_size // 2)
    code = sentinel2.run()
    if known and code:  # the shard's bytes are read now, and are not what was written
        code = sentinel2.run()
    assert code == 0
    assert differences(contents(folder), sentinel2.whole) == []
    assert sentinel2.look() == (0, 0)


def test_overwriting_removes_the_build_of_another_source(abi: Build, sentinel2: Build) -> None:
    folder = abi.begin("published")
    flags = list(sentinel2.flags)
    flags[flags.index("--work-dir") + 1] = str(folder)
    assert main(["sentinel2", *flags, "--overwrite"]) == 0
    left = {p.name for p in folder.iterdir()}
    assert left.isdisjoint({"tiles.zarr", "tiles", "references", "index", "completeness.csv", "sources"})
    assert main(["abi", *abi.flags, "--overwrite"]) == 0
    left = {p.name for p in folder.iterdir()}
    assert left.isdisjoint({"composites", "composites.zarr", "indices", "items"})
    described = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**described, "source": "weather"}))
    (folder / "ledger.jsonl").unlink()
    assert main(["abi", *abi.flags, "--overwrite"]) == 2  # of a plug that is not installed
    assert (folder / "tiles.zarr").exists()


SCRIPT = """
import stratacube
answer = stratacube.build("abi", **{settings})
print("code", answer.code)
"""


@pytest.mark.slow
def test_a_script_needs_no_guard(abi: Build, tmp_path: Path) -> None:
    """Workers do not run it again."""
    words = iter(abi.flags)
    settings: dict[str, Any] = {}
    for word in words:
        name = word.removeprefix("--").replace("-", "_")
        if name == "quiet":
            continue
        settings[name] = next(words)
        if name == "channels":
            settings[name] = [7, 13]
            next(words)
    settings |= {"output_dir": str(tmp_path / "out"), "workers": 2}
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{settings}", repr(settings)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "code 0\n"), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"kind,reason\nsource\n", b"junk", b"\xff\xfe\x00", b'kind,reason\n"a'])
def test_errors_that_are_damaged_are_one_sentence(
    abi: Build, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = abi.begin("published")
    (folder / "errors.csv").write_bytes(content)
    assert main(["errors", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{folder / 'errors.csv'} is damaged" in said


@pytest.mark.parametrize(
    "line",
    [
        {"key": "planned", "status": "done", "problems": [], "facts": {}},
        {"key": "planned", "status": "done", "problems": [], "facts": {"tasks": "x", "words": "y"}},
        {"key": "outcome", "status": "done", "problems": [], "figures": {"a": "b"}},
        {"key": "outcome", "status": "done", "problems": [], "figures": {"a": float("nan"), "b": float("inf")}},
        {"hello": "world"},
        {"key": "shard-000000", "status": "done", "problems": [], "figures": 5},
        {"key": "find", "status": "done", "problems": [], "files": [["a", "many", "b"]]},
        [1, 2],
    ],
)
def test_lines_of_a_ledger_that_say_nothing_are_passed_over(
    abi: Build, line: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = abi.begin("published")
    with (folder / "ledger.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert abi.look() == (0, 0)
    assert "Traceback" not in capsys.readouterr().err


def test_a_line_of_a_ledger_that_is_too_deep_is_passed_over(abi: Build) -> None:
    folder = abi.begin("published")
    with (folder / "ledger.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert abi.look() == (0, 0)


@pytest.mark.parametrize("name", ["plan.parquet", "sources.json"])
def test_random_bytes_in_a_parts_place_are_told_and_made_again(
    abi: Build, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = abi.begin("published") / name
    data = path.read_bytes()
    path.write_bytes(np.random.default_rng(0).bytes(len(data)))
    assert main(["verify", str(abi.output)]) == 1
    assert f"fault: {name} holds other bytes than were written" in capsys.readouterr().out
    assert abi.run() == 0
    assert path.read_bytes() == data
    assert abi.look() == (0, 0)


@pytest.mark.parametrize("change", [{"format": "x"}, {"build": 3}])
def test_a_configuration_that_is_damaged_is_one_sentence(
    abi: Build, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = abi.begin("published")
    described = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**described, **change}))
    for look in ("status", "verify", "errors"):
        assert main([look, str(folder)]) == 2
        said = capsys.readouterr().err
        assert "config.yaml is damaged" in said
        assert said.count("\n") == 1


def test_a_damaged_reference_is_made_again(abi: Build) -> None:
    folder = abi.begin("published")
    leaf = next((folder / "references").rglob("*.parq"))
    data = bytearray(leaf.read_bytes())
    data[len(data) // 2] ^= 1
    leaf.write_bytes(data)
    assert abi.run() == 0
    assert differences(contents(folder), abi.whole) == []


@pytest.mark.parametrize("source", ["abi", "sentinel2"])
def test_a_run_lists_each_folder_of_an_array_once(
    request: pytest.FixtureRequest, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build: Build = request.getfixturevalue(source)
    folder = build.begin("published")
    listed: Counter[str] = Counter()
    scandir: Callable[..., Any] = os.scandir

    def counting(path: Any = ".") -> Any:
        listed[os.fspath(path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    assert build.run() == 0
    arrays = {path: n for path, n in listed.items() if ".zarr/" in path.removeprefix(str(folder))}
    assert arrays
    assert {path: n for path, n in arrays.items() if n > 1} == {}


def test_a_folder_where_a_file_belongs_is_named(abi: Build, capsys: pytest.CaptureFixture[str]) -> None:
    folder = abi.begin("published")
    (folder / "plan.parquet").unlink()
    (folder / "plan.parquet").mkdir()
    assert abi.run() == 2
    said = capsys.readouterr().err
    assert f"{folder / 'plan.parquet'} is a folder where a file belongs; remove it" in said


def test_what_is_missing_need_not_be_removed(abi: Build, capsys: pytest.CaptureFixture[str]) -> None:
    folder = abi.begin("published")
    (folder / "tiles.zarr/C13/c/1/0/0/0").unlink()
    assert main(["verify", str(folder)]) == 1
    (fault,) = [line for line in capsys.readouterr().out.splitlines() if "is missing" in line and "shard-" in line]
    assert fault.endswith("is missing (shard-000001); run the same command again")


def test_a_dry_run_beside_a_living_run_is_refused(abi: Build, capsys: pytest.CaptureFixture[str]) -> None:
    folder = abi.begin("published")
    with claimed(folder):
        assert main(["abi", *abi.flags, "--dry-run"]) == 2
    assert "is being written by" in capsys.readouterr().err
    assert main(["abi", *abi.flags, "--dry-run"]) == 0


def test_scratch_that_is_cut_short_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "piece.npy"
    np.save(path, np.zeros((2, 3, 4), "f4"))
    os.truncate(path, 60)
    with pytest.raises(ScratchLostError, match="is cut short"):
        _read_rows(path, (2, 3, 4), 0, slice(0, 1), np.empty((1, 4), "f4"))
    with pytest.raises(ScratchLostError, match="is cut short"):
        _load(path)


def test_json_tells_problems_in_one_form(abi: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = abi.begin("published")
    (folder / "tiles.zarr/C13/c/1/0/0/0").unlink()
    with (folder / "errors.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("kind", "reason"), ("source", "bad"), ("source", "bad")])
    told = {}
    for look in ("status", "errors", "verify"):
        main([look, "--json", str(folder)])
        told[look] = json.loads(capsys.readouterr().out)
    assert told["errors"]["problems"] == [{"kind": "source", "reason": "bad", "count": 2}]
    assert told["status"]["problems"] == []
    assert (told["status"]["whole"], told["verify"]["whole"]) == (True, False)


def test_the_end_of_a_day_is_told_as_it_was_given() -> None:
    with pytest.raises(
        UsageError, match=r"`end` \(the end of 2020-07-01\) is not after `start` \(2020-07-02 00:00:00\)"
    ):
        refuse_empty(datetime(2020, 7, 2), datetime(2020, 7, 2), ("start", "end"))


def test_names_are_listed_for_completion() -> None:
    assert set(loaders.__all__) <= set(dir(loaders))
    assert "import_module" not in dir(loaders)
