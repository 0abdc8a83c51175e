"""Data from elsewhere runs no code: files made to do so are read by what reads them, and nothing happens."""

from __future__ import annotations

import ast
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cube.geostationary.tilestore import open_tiles
from cube.sentinel2.composite import ScratchLostError
from cube.sentinel2.making import _load as load_scratch
from loaders.cubes import open_cube
from loaders.store import TileStore
from stratacube.errors import SourceError, StratacubeError
from training.checkpoint import read_state

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stratacube", "catalog", "cube", "loaders", "training")


class Bomb:
    """Runs a command where it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.ran}",)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def test_the_bomb_works(ran: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(ran)))
    assert ran.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_the_state_of_a_checkpoint(tmp_path: Path, ran: Path) -> None:
    for state in ({"optimizer": Bomb(ran)}, Bomb(ran)):
        torch.save(state, tmp_path / "state.pt")
        with pytest.raises(SourceError, match=r"checkpoint .* cannot be read \(Weights only") as caught:
            read_state(tmp_path)
        assert "\n" not in str(caught.value)
        assert "cannot be read" in str(caught.value)
    for content in (b"", pickle.dumps(Bomb(ran)), pickle.dumps(Bomb(ran), 0), b"\x80", b"text"):
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(SourceError, match="cannot be read"):
            read_state(tmp_path)
    assert not ran.exists()


def test_scratch_of_a_build(tmp_path: Path, ran: Path) -> None:
    np.save(tmp_path / "count.npy", np.array([Bomb(ran)], object), allow_pickle=True)
    with pytest.raises(ScratchLostError):
        load_scratch(tmp_path / "count.npy")
    assert not ran.exists()


@pytest.mark.parametrize("place", ["filters", "compressor"])
@pytest.mark.parametrize("dtype", ["|O", "<f8"])
@pytest.mark.parametrize("opened", [open_cube, TileStore.open, open_tiles])
def test_a_store_whose_codec_unpickles(tmp_path: Path, ran: Path, opened: Any, dtype: str, place: str) -> None:
    codec = {"id": "pickle", "protocol": 5}
    array = tmp_path / "tiles.zarr" / "time"
    array.mkdir(parents=True)
    described = {"zarr_format": 2, "shape": [2], "chunks": [2], "dtype": dtype, "fill_value": None, "order": "C"}
    described |= {"filters": None, "compressor": None, place: [codec] if place == "filters" else codec}
    files = {".zgroup": {"zarr_format": 2}, ".zattrs": {}}
    files |= {"time/.zarray": described, "time/.zattrs": {"_ARRAY_DIMENSIONS": ["time"]}}
    for name, content in {**files, ".zmetadata": {"zarr_consolidated_format": 1, "metadata": files}}.items():
        (array.parent / name).write_text(json.dumps(content))
    (array / "0").write_bytes(pickle.dumps(Bomb(ran)))
    with pytest.raises(StratacubeError):
        opened(array.parent)
    assert not ran.exists()


RUNS_CODE = {
    "eval",
    "exec",
    "compile",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "dill.loads",
    "cloudpickle.loads",
    "pd.read_pickle",
    "pandas.read_pickle",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load",
    "yaml.load_all",
    "yaml.safe_load",
    "os.system",
    "os.popen",
}
"""Calls that run what they are given, or read YAML other than through ``stratacube.plain_yaml``."""

OWN = {
    ("stratacube/plain_yaml.py", "yaml.load"): "with a safe loader",
    ("cube/testing/abi/file.py", "yaml.safe_load"): "a file of the package",
    ("catalog/leaks.py", "tree.query"): "boxes, of a tree of shapely",
    ("cube/strata/cells.py", "tree.query"): "points, of a tree of scipy",
    ("loaders/cell_splits.py", "tree.query"): "boxes, of a tree of shapely",
    ("loaders/engines.py", "pickle.loads"): "part of a task, which engines hand to workers as a pickle anyway",
}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text())
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_calls_what_runs_code(package: str) -> None:
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        for called, node in calls(path):
            last = called.rpartition(".")[2]
            options = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if (
                ((called in RUNS_CODE or (last in ("query", "eval") and node.args)) and (name, called) not in OWN)
                or options.get("allow_pickle", "False") != "False"
                or options.get("shell", "False") != "False"
                or (called == "torch.load" and options.get("weights_only") != "True")
                or last in ("extractall", "unpack_archive")
            ):
                wrong.append(f"{name}:{node.lineno} {called}")
    assert not wrong
