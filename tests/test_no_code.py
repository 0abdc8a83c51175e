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
    "pandas.read_pickle",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load",
    "yaml.load_all",
    "yaml.safe_load",
    "os.system",
    "os.popen",
    "xml.etree.ElementTree.fromstring",
    "xml.etree.ElementTree.parse",
    "xml.etree.ElementTree.iterparse",
}
"""What runs what it is given, or reads YAML or XML other than through ``stratacube.plain_yaml`` and ``plain_xml``."""

OWN = {
    ("stratacube/plain_yaml.py", "yaml.load"): "with a safe loader",
    ("stratacube/plain_xml.py", "xml.etree.ElementTree.fromstring"): "once it is known to declare no entities",
    ("cube/testing/abi/file.py", "yaml.safe_load"): "a file of the package",
    ("cube/geostationary/chips/old_chips.py", "pickle.Unpickler"): "one that makes arrays, numbers and text alone",
    ("catalog/leaks.py", "tree.query"): "boxes, of a tree of shapely",
    ("cube/strata/cells.py", "tree.query"): "points, of a tree of scipy",
    ("cube/sentinel2/plan.py", "tree.query"): "boxes, of a tree of shapely",
    ("loaders/cell_splits.py", "tree.query"): "boxes, of a tree of shapely",
    ("loaders/engines.py", "pickle.loads"): "part of a task, which engines hand to workers as a pickle anyway",
}


def imported(tree: ast.AST) -> dict[str, str]:
    """What the names that a module imports stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def found_in(text: str, name: str = "") -> list[str]:
    """What of a module runs code, or follows text to other files, whatever it calls it there: line and name.

    A function that is only named may be called by another name, so that is found too.
    """
    tree = ast.parse(text)
    names = imported(tree)

    def meant(node: ast.expr) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return (names.get(first, first) + dot + rest).removeprefix("builtins.")

    wrong = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            if meant(node) in RUNS_CODE and (name, meant(node)) not in OWN:
                wrong.add((node.lineno, meant(node)))
        elif isinstance(node, ast.Call):
            called, options = meant(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            last = called.rpartition(".")[2]
            if (
                (last in ("query", "eval") and node.args and (name, called) not in OWN)
                or options.get("allow_pickle", "False") != "False"
                or options.get("shell", "False") != "False"
                or (called == "torch.load" and options.get("weights_only") != "True")
                or last in ("extractall", "unpack_archive")
                or (called in ("rasterio.open", "rioxarray.open_rasterio") and "driver" not in options)
            ):
                wrong.add((node.lineno, called))
    return [f"{name}:{line} {what}" for line, what in sorted(wrong)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("eval('1')", "eval"),
        ("import os\nos.system('x')", "os.system"),
        ("from os import system as s\ns('x')", "os.system"),
        ("import os as o\no.popen('x')", "os.popen"),
        ("from pickle import loads\nloads(b'')", "pickle.loads"),
        ("from pickle import Unpickler as U\nclass Own(U): pass", "pickle.Unpickler"),
        ("import builtins as b\nb.exec('x')", "exec"),
        ("from builtins import eval as e\ne('x')", "eval"),
        ("import pandas as pd\nread = pd.read_pickle", "pandas.read_pickle"),
        ("import os\nlist(map(os.system, ['x']))", "os.system"),
        ("def inner():\n    from torch import load\n    load('x')", "torch.load"),
        ("import torch as t\nt.load('x', weights_only=False)", "torch.load"),
        ("from xml.etree import ElementTree as ET\nET.fromstring('x')", "xml.etree.ElementTree.fromstring"),
        ("from shutil import unpack_archive as u\nu('x')", "shutil.unpack_archive"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "numpy.load"),
        ("frame.query('x')", "frame.query"),
        ("import rasterio as r\nr.open('x')", "rasterio.open"),
    ],
)
def test_what_runs_code_is_found_by_whatever_name(text: str, what: str) -> None:
    (found,) = found_in(text)
    assert found.endswith(f" {what}")


@pytest.mark.parametrize(
    "text", ["from re import compile\ncompile('x')", "model.eval()", "import torch\ntorch.load('x', weights_only=True)"]
)
def test_what_is_only_called_so_is_not(text: str) -> None:
    assert found_in(text) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_calls_what_runs_code(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    assert [one for path in paths for one in found_in(path.read_text(), str(path.relative_to(ROOT)))] == []
