"""The folder of a build: nothing but a build's own parts is ever removed, and no failed attempt locks it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from cube.build import main
from cube.geostationary.folder import AbiFolder
from cube.job.ledger import Ledger
from cube.testing import write_abi_archive
from stratacube.claim import CLAIM
from stratacube.errors import UsageError

FLAGS = ("--domain", "M1", "--channels", "13", "--grid", "2km", "--tile-size", "32", "--steps", "1", "--num-tiles", "2")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(root, start=datetime(2020, 7, 1, 16), hours=0.1, channels=(13,), shape_2km=(130, 130), workers=1)
    return root


def build(archive: Path, output: Path, *flags: str) -> int:
    given = ["--output-dir", str(output), "--local-data-dir", str(archive), "--workers", "1"]
    return main(["abi", *given, *FLAGS, *flags])


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize(
    "config",
    [
        b"lr: 0.1\n",
        b"digest: abc\n",
        b"build: {}\ndigest: abc\n",
        b"- 1\n- 2\n",
        b"",
        b"a: [1\n",
        b"\xff\xfe\x00binary",
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_folder_with_the_config_of_something_else_is_left_alone(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: bytes, alone: bool
) -> None:
    output = tmp_path / "project"
    (output / "tiles").mkdir(parents=True)
    (output / "config.yaml").write_bytes(config)
    (output / "tiles" / "ours.tif").write_text("precious")
    if not alone:
        (output / "thesis.tex").write_text("precious")
    before = contents(output)
    for flags in ((), ("--overwrite",)):
        assert build(archive, output, *flags) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith(f"error: {output} is not empty and holds no build (")
        assert "\n" not in said
    for command in ("status", "verify"):
        assert main([command, str(output)]) == 2
        assert "holds no build" in capsys.readouterr().err
    assert contents(output) == before


@pytest.mark.parametrize("name", [n for n in AbiFolder.PARTS if not n.startswith("config")])
def test_a_file_or_folder_that_happens_to_be_named_as_a_part_is_left_alone(tmp_path: Path, name: str) -> None:
    for output, path in ((tmp_path / "a", tmp_path / "a" / name), (tmp_path / "b", tmp_path / "b" / name / "data")):
        path.parent.mkdir(parents=True)
        path.write_text("precious")
        for overwrite in (False, True):
            refused = pytest.raises(UsageError, match=rf"holds no build \({re.escape(name)} is there")
            with refused, AbiFolder(output).opened({"seed": 1}, "digest", overwrite=overwrite):
                pass
        assert path.read_text() == "precious"


def test_overwriting_removes_the_build_and_nothing_else(archive: Path, tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    assert build(archive, output) == 0
    elsewhere.mkdir()
    (elsewhere / "shared.png").write_text("precious")
    (output / "previews").rename(tmp_path / "moved")
    (output / "previews").symlink_to(elsewhere)
    (output / "errors.csv").write_text("stale")
    before = sorted(p.name for p in output.iterdir())
    assert set(before) <= {*AbiFolder.PARTS, CLAIM}
    # A folder that holds something else besides a build: all of that stays.
    (output / "notes").mkdir()
    (output / "notes" / "a.txt").write_text("precious")
    (output / "archive").mkdir()
    (output / "archive" / "fetched.nc").write_text("fetched")
    (output / "my.txt").write_text("precious")
    assert build(archive, output, "--overwrite", "--plan-only", "--seed", "7") == 0
    there = {p.name for p in output.iterdir()}
    assert {"notes", "archive", "my.txt", "plan.parquet"} <= there
    assert not {"catalog.json", "previews", "errors.csv"} & there
    assert not list((output / "tiles.zarr").glob("C*/c"))  # the arrays are described, and empty
    assert not any(key.startswith("shard-") for key in Ledger(output / "ledger.jsonl").entries)
    assert (output / "notes" / "a.txt").read_text() == "precious"
    assert (elsewhere / "shared.png").read_text() == "precious"


def test_overwriting_with_the_same_configuration_starts_anew(archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert build(archive, output, "--plan-only") == 0
    stamp = (output / "plan.parquet").stat().st_mtime_ns
    assert build(archive, output, "--plan-only") == 0
    assert (output / "plan.parquet").stat().st_mtime_ns == stamp
    assert build(archive, output, "--plan-only", "--overwrite") == 0
    assert (output / "plan.parquet").stat().st_mtime_ns > stamp


def test_a_failed_first_attempt_does_not_lock_the_folder(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert build(archive, output, "--tile-size", "2048") == 2
    assert "2048" in capsys.readouterr().err or (output / "config.yaml").exists()
    assert build(archive, output, "--plan-only") == 0
    assert AbiFolder(output).described()["tile_size"] == 32


def test_a_stray_temporary_of_a_crash_is_no_build(archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "config.part").write_text("created: 2020")
    (output / "archive").mkdir()
    assert build(archive, output, "--plan-only") == 0
    assert not (output / "config.part").exists()
    assert (output / "archive").exists()
