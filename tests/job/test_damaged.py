"""What damage of inputs found in readers of a build's folder and of its products: each is one sentence now."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml

import cube
from cube.job.folder import BuildFolder
from cube.job.inspect import status
from cube.job.ledger import Entry, Ledger
from cube.job.problems import errors
from stratacube.errors import SourceError, StratacubeError, UsageError

OLD = Path(__file__).resolve().parents[1] / "old"


def _unpacked(name: str, part: str, folder: Path) -> Path:
    with tarfile.open(OLD / f"{name}.tar.xz") as tar:
        tar.extractall(folder, [m for m in tar.getmembers() if m.name.startswith(f"{part}/")], filter="data")
    return folder / part


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    return _unpacked("abi", "abi/convection", tmp_path)


@pytest.fixture
def composites(tmp_path: Path) -> Path:
    return _unpacked("sentinel2", "sentinel2/composites", tmp_path)


@pytest.mark.parametrize("change", [{"satellite": "x"}, {"satellite": 7}, {"satellite": None}, {"domain": ()}])
def test_an_altered_configuration_is_told_with_its_file(tiles: Path, change: dict[str, Any]) -> None:
    stored = yaml.safe_load((tiles / "config.yaml").read_text())
    for key, value in change.items():
        stored["build"].pop(key)
        if value != ():
            stored["build"][key] = value
    (tiles / "config.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(StratacubeError, match=f"^{tiles / 'config.yaml'}"):
        status(tiles)


def test_a_time_of_creation_that_is_none_is_one_sentence(tiles: Path) -> None:
    stored = yaml.safe_load((tiles / "config.yaml").read_text())
    (tiles / "config.yaml").write_text(yaml.safe_dump(stored | {"created": ["x"]}))
    with pytest.raises(UsageError, match=r"config\.yaml is damaged \(it was created at"):
        BuildFolder(tiles).created()


@pytest.mark.parametrize(
    "change",
    [{"facts": {"tasks": {}, "words": ""}}, {"facts": [["tasks", None]]}, {"figures": {"a": "x"}}, {"empty": [7]}],
)
def test_a_line_of_the_ledger_of_other_types_is_not_ours(tiles: Path, change: dict[str, Any]) -> None:
    ledger = Ledger(tiles / "ledger.jsonl")
    ledger.record(Entry("planned", "done", facts={"tasks": "1", "words": "2 tiles in 1 shard"}))
    assert status(tiles).code == 1
    lines = (tiles / "ledger.jsonl").read_text().splitlines()
    lines[-1] = json.dumps(json.loads(lines[-1]) | change)
    (tiles / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    assert "planned" not in Ledger(tiles / "ledger.jsonl").entries
    assert "planned    2 tiles in 1 shard" in status(tiles).lines  # by the plan


def test_a_recorded_time_that_is_none_is_not_a_record_of_ours(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("another's")
    Ledger(tmp_path / "ledger.jsonl").record(Entry("config", "done", facts={"created": "x", "digest": "0"}))
    with (
        pytest.raises(UsageError, match=r"is not empty and holds no build"),
        BuildFolder(tmp_path).opened({}, "0", overwrite=False),
    ):
        pass


@pytest.mark.parametrize("rows", ["kind,reason\na,b,c,d\n", "kind,reason\na\n"])
def test_a_table_of_errors_with_a_cell_too_many_is_one_sentence(tiles: Path, rows: str) -> None:
    (tiles / "errors.csv").write_text(rows)
    with pytest.raises(UsageError, match=rf"{tiles / 'errors.csv'} is damaged"):
        errors(tiles)


@pytest.mark.parametrize("damage", ["head", "column", "attributes"])
def test_a_damaged_plan_of_composites_is_one_sentence(composites: Path, damage: str) -> None:
    path = composites / "plan.parquet"
    table = pyarrow.parquet.read_table(path)
    if damage == "head":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "column":
        pyarrow.parquet.write_table(table.drop_columns(["cell"]), path)
    else:
        pyarrow.parquet.write_table(table.replace_schema_metadata({"PANDAS_ATTRS": b"\xff"}), path)
    with pytest.raises(SourceError, match=rf"^{path} is not the plan of a build \(.*\); run the same command again"):
        status(composites)


METADATA = ["{", '{"zarr_format": 3, "node_type": "group", "attributes": []}', "[]", "\xff"]


@pytest.mark.parametrize("metadata", METADATA)
def test_damaged_metadata_of_stores_is_one_sentence(tiles: Path, composites: Path, metadata: str) -> None:
    for root, store, opened in (
        (tiles, "tiles.zarr", cube.open_tiles),
        (composites, "composites.zarr", cube.open_composites),
    ):
        (root / store / "zarr.json").write_text(metadata, encoding="latin-1")
        with pytest.raises(StratacubeError, match=f"{root / store}.* is not a "):
            opened(root)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("C13", {"chunk_grid": {"name": "regular", "configuration": "x"}}),
        ("C13", {"shape": "x"}),
        ("C13", {"attributes": {}}),
        ("band", {"data_type": []}),
    ],
)
def test_damaged_descriptions_of_bands_are_one_sentence(tiles: Path, name: str, change: dict[str, Any]) -> None:
    path = tiles / "tiles.zarr" / "zarr.json"
    described = json.loads(path.read_text())
    described["consolidated_metadata"]["metadata"][name] |= change
    path.write_text(json.dumps(described))
    with pytest.raises(StratacubeError, match=f"{tiles / 'tiles.zarr'}"):
        cube.open_tiles(tiles)
