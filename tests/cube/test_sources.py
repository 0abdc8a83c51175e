"""The list of scans of a build: one file, of one of two kinds, and the tiles are the same."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from catalog.geostationary.items import load_items
from cube.build import main
from cube.geostationary import folder as folder_module
from cube.geostationary.folder import AbiFolder
from cube.testing import write_abi_archive

FLAGS = ("--domain", "M1", "--channels", "7,13", "--grid", "2km", "--tile-size", "32", "--steps", "2",
         "--step-minutes", "10", "--num-tiles", "2", "--workers", "1")  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_abi_archive(
        root, start=datetime(2020, 7, 1, 16), hours=0.5, channels=(7, 13), shape_2km=(130, 130), workers=1
    )
    return root


def build(archive: Path, output: Path, *flags: str) -> int:
    return main(["abi", "--output-dir", str(output), "--local-data-dir", str(archive), *FLAGS, *flags])


@pytest.fixture(scope="module")
def listed_as_json(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("json") / "out"
    assert build(archive, output) == 0
    return output


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three scans are many."""
    monkeypatch.setattr(folder_module, "_LISTED_AS_JSON", 2)


def lists(output: Path) -> list[str]:
    return sorted(p.name for p in output.glob("sources.*"))


def test_up_to_ten_thousand_scans_are_listed_as_json(tmp_path: Path) -> None:
    folder = AbiFolder(tmp_path)
    assert folder.sources_of(10_000) == folder.sources == tmp_path / "sources.json"
    assert folder.sources_of(10_001) == tmp_path / "sources.parquet"
    folder.sources_of(10_001).touch()
    assert folder.sources == tmp_path / "sources.parquet"
    assert folder.sources_of(10_000) == folder.sources == tmp_path / "sources.json"


@pytest.mark.usefixtures("few")
def test_tiles_of_a_table_of_scans_are_the_same(archive: Path, listed_as_json: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert build(archive, output) == 0
    assert lists(output) == ["sources.parquet"]
    assert load_items(output / "sources.parquet") == load_items(listed_as_json / "sources.json")
    same = ["plan.parquet", "completeness.csv"]
    for folder in ("tiles.zarr", "sources", "references"):
        same += [str(p.relative_to(output)) for p in (output / folder).rglob("*") if p.is_file()]
    assert len(same) > 20
    # Whatever the attributes of the store tell of when and with what it was made is the same too.
    differing = [name for name in same if (output / name).read_bytes() != (listed_as_json / name).read_bytes()]
    assert differing == []
    described = [json.loads((made / "tiles/collection.json").read_text()) for made in (listed_as_json, output)]
    assert all("sources" not in c["assets"] for c in described)  # both lists name a folder of this machine
    assert main(["verify", str(output)]) == 0
    table = (output / "sources.parquet").read_bytes()
    (output / "sources.parquet").write_bytes(table[:-9])
    assert main(["verify", str(output)]) == 1
    assert build(archive, output) == 0
    assert (output / "sources.parquet").read_bytes() == table
    assert main(["verify", str(output)]) == 0


@pytest.mark.usefixtures("few")
def test_a_build_goes_on_with_the_list_it_has(archive: Path, listed_as_json: Path, tmp_path: Path) -> None:
    """One that is lost is made again as such builds are now, and the other kind does not stay beside it."""
    output = shutil.copytree(listed_as_json, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in output.iterdir() if p.is_file()}
    assert build(archive, output) == 0
    assert lists(output) == ["sources.json"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    (output / "completeness.csv").unlink()
    assert build(archive, output) == 0
    assert lists(output) == ["sources.parquet"]
    assert main(["verify", str(output)]) == 0


def test_overwriting_removes_a_list_of_either_kind(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    for most, seed, made in ((2, "1", "sources.parquet"), (10_000, "2", "sources.json"), (2, "3", "sources.parquet")):
        monkeypatch.setattr(folder_module, "_LISTED_AS_JSON", most)
        assert build(archive, output, "--plan-only", "--overwrite", "--seed", seed) == 0
        assert lists(output) == [made]
        with AbiFolder(copy := tmp_path / seed).opened({"seed": seed}, seed, overwrite=False):
            shutil.copy(output / made, copy)
        with AbiFolder(copy).opened({"seed": 9}, "other", overwrite=True):
            assert lists(copy) == []


@pytest.mark.usefixtures("few")
def test_a_dry_run_reads_a_table_too(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert build(archive, output, "--plan-only") == 0
    assert build(archive, output, "--dry-run") == 0
    (output / "sources.parquet").write_bytes(b"x" * 99)
    capsys.readouterr()
    assert build(archive, output, "--dry-run") == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"error: {output / 'sources.parquet'} is not a stac-geoparquet table (")
    assert said[-1].endswith("; remove it to list the archive again")
