"""What damage of inputs found in readers of files, indexes, references and plans: each is one sentence now."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.scans import SourceFile
from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.index_cache import load_index, save_index
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.read import read_windows
from cube.geostationary.references import read_references, write_references
from cube.testing import write_abi_file
from stratacube.errors import SourceError

Arrays = dict[str, Any]


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    path = write_abi_file(tmp_path / "archive", channel=13, start=datetime(2020, 7, 1, 16), shape=(60, 60))
    name = ABI_NAMES.parse_path(str(path))
    assert name is not None
    return SourceFile(str(path), path.stat().st_size, "1", *name)


@pytest.mark.parametrize("variable", ["band_id", "esun", "planck_fk1"])
def test_a_number_that_says_it_is_a_thousand_million_is_not_read_whole(source: SourceFile, variable: str) -> None:
    with h5py.File(source.href, "r+") as h5:
        value = float(np.ravel(h5[variable][()])[0])
        attributes = dict(h5[variable].attrs)
        del h5[variable]
        created = h5.create_dataset(variable, (10**12,), "f8", chunks=(64,), fillvalue=value)
        created.attrs.update({k: v for k, v in attributes.items() if k in ("_FillValue", "units")})
    assert index_file(source).source.channel == 13


def test_a_number_without_a_value_is_one_sentence(source: SourceFile) -> None:
    with h5py.File(source.href, "r+") as h5:
        del h5["planck_fk1"]
        h5.create_dataset("planck_fk1", (0,), "f8")
    with pytest.raises(SourceError, match=r"planck_fk1 holds no value"):
        index_file(source)


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Arrays], Any]:
    def changed(arrays: Arrays) -> None:
        header = json.loads(arrays["header"].tobytes())
        change(header)
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), "u1")

    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update(rad_sizes=arrays["rad_sizes"][:0]),
        lambda arrays: arrays.update(dqf_offsets=arrays["dqf_offsets"].ravel()),
        lambda arrays: arrays.update(rad_sizes=arrays["rad_sizes"].astype("f4")),
        _header(lambda header: header["rad"].update(shape=[60, 60, 60])),
        _header(lambda header: header["rad"].update(chunks=[60.5, 60])),
        _header(lambda header: header["rad"].update(bits="x")),
        _header(lambda header: header["dqf"].update(fill=None)),
        _header(lambda header: header["grid"].update(dx="y")),
        _header(lambda header: header["grid"].update(dx=0)),
        _header(lambda header: header["grid"].update(height=61)),
        _header(lambda header: header.update(scale="x")),
        _header(lambda header: header["coefficients"].update(planck_fk1=[])),
    ],
)
def test_an_index_that_is_none_is_as_if_it_were_not_there(
    source: SourceFile, tmp_path: Path, change: Callable[[Arrays], Any]
) -> None:
    path = tmp_path / "a.npz"
    save_index(index_file(source), path)
    assert load_index(path, source) is not None
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    change(arrays)
    np.savez(path, **arrays)
    assert load_index(path, source) is None


@pytest.mark.parametrize(
    ("column", "value"), [("dx", None), ("scale", None), ("height", "x"), ("planck_fk1", "y"), ("href", 7.5)]
)
def test_references_to_a_grid_without_numbers_are_refused(
    source: SourceFile, tmp_path: Path, column: str, value: Any
) -> None:
    write_references([index_file(source)], tmp_path / "references")
    (path,) = (tmp_path / "references").rglob("files/*.parquet")
    frame = pd.read_parquet(path).assign(**{column: [value]})
    frame.to_parquet(path)
    with pytest.raises(SourceError, match=rf"^{path} cannot be read \(.*\); "):
        read_references(tmp_path / "references")


def test_an_address_that_no_file_can_have_is_one_sentence(source: SourceFile) -> None:
    index = index_file(source)
    other = replace(index, source=replace(index.source, href="a\0b.nc"))
    with pytest.raises(SourceError, match=r"^a\0b\.nc cannot be read \(embedded null byte\)"):
        read_windows(other, "rad", [Window(0, 0, 8, 8)], [np.empty((8, 8), "u2")])


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of a build of 0.1.0, of two tiles."""
    folder = tmp_path_factory.mktemp("planned")
    with tarfile.open(Path(__file__).resolve().parents[1] / "old" / "abi.tar.xz") as tar:
        tar.extract("abi/convection/plan.parquet", folder, filter="data")
    return folder / "abi" / "convection" / "plan.parquet"


def _everything(path: Path) -> None:
    table = PlanTable(path)
    _ = table.frame(), [*table.shards()], table.named, table.framed, table.shard_numbers


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f.drop(columns="shard"), "its column shard holds nothing, not whole numbers"),
        (lambda f: f.assign(shard="x"), "its column shard holds"),
        (lambda f: f.assign(scan_ids="x"), "not lists of text"),
        (lambda f: f.assign(event_time="x"), "not times"),
        (lambda f: f.assign(row=[None, 1.0]), "its column row holds double, not whole numbers"),
        (lambda f: f.assign(event_scan=[None, *f["event_scan"][1:]]), "a tile has no event_scan"),
        (lambda f: pd.concat([f, f]), "its tiles are not numbered one after the other"),
    ],
)
def test_a_plan_of_other_columns_is_one_sentence(
    planned: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], told: str
) -> None:
    _everything(planned)
    frame, path = pd.read_parquet(planned), tmp_path / "plan.parquet"
    changed = change(frame)
    changed.attrs = frame.attrs
    changed.to_parquet(path, index=False)
    with pytest.raises(SourceError, match=rf"^{path} is not the plan of a build \(.*{told}.*\); remove it"):
        _everything(path)


def test_a_plan_damaged_in_its_middle_is_one_sentence(planned: Path, tmp_path: Path) -> None:
    data, path = bytearray(planned.read_bytes()), tmp_path / "plan.parquet"
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=rf"^{path} is not the plan of a build \("):
        _everything(path)
