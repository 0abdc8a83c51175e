"""Whatever a file or a reference asks for, no more is taken than a right one needs."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile
from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.read import read_windows
from cube.testing import write_abi_file
from stratacube.errors import SourceError

START = datetime(2020, 7, 1, 16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chunks of counts, four of flags."""
    return write_abi_file(tmp_path_factory.mktemp("whole"), channel=13, start=START, shape=(500, 500))


@pytest.fixture(scope="module")
def store(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References of it."""
    root = tmp_path_factory.mktemp("store") / "references"
    cube.write_references([index_file(source_of(whole))], root)
    return root


def source_of(path: Path) -> SourceFile:
    return next(s for s in LocalArchive(path.parent).files(None, None, None, None) if s.href == str(path))


def read(path: Path) -> Any:
    pixels = np.empty((500, 500), "u2")
    read_windows(index_file(source_of(path)), "rad", [Window(0, 0, 500, 500)], [pixels])
    return pixels


def rewritten(whole: Path, folder: Path, chunk: bytes, **options: Any) -> Path:
    """The same file with other bytes for its first chunk of counts."""
    path = Path(shutil.copy(whole, folder))
    with h5py.File(path, "r+") as h5:
        if options:
            attrs, values = dict(h5["Rad"].attrs), h5["Rad"][()]
            del h5["Rad"]
            made = h5.create_dataset("Rad", data=values, **options)
            for name, value in attrs.items():
                if name != "DIMENSION_LIST":
                    made.attrs[name] = value
        h5["Rad"].id.write_direct_chunk((0, 0), chunk)
    return path


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_chunk_that_grows_without_bound_is_refused_before_it_has_grown(
    whole: Path, tmp_path: Path, shuffle: bool
) -> None:
    deflater = zlib.compressobj(9)
    bomb = b"".join(deflater.compress(bytes(2**20)) for _ in range(100)) + deflater.flush()
    assert len(bomb) < 2 * 250 * 250 * 2
    path = rewritten(whole, tmp_path, bomb, chunks=(250, 250), shuffle=shuffle, compression="gzip")
    index_file(source_of(path))
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"rad chunk \[0, 0\] does not decode \(more than the 125000 bytes"):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23, f"{peak / 2**20:.0f} MiB of 100"


def test_a_chunk_that_breaks_off_is_one_sentence(whole: Path, tmp_path: Path) -> None:
    path = rewritten(whole, tmp_path, zlib.compress(bytes(125000))[:60])
    with pytest.raises(SourceError, match=r"does not decode \(it breaks off after \d+ bytes where 125000"):
        read(path)


def test_a_chunk_larger_than_it_can_be_is_not_read(whole: Path, tmp_path: Path) -> None:
    path = rewritten(whole, tmp_path, bytes(2**20))
    with pytest.raises(SourceError, match=r"a chunk has \d+ to 1048576 bytes; 315536 are possible"):
        index_file(source_of(path))


def test_a_chunk_at_anothers_place_is_not_taken_for_it(whole: Path, tmp_path: Path) -> None:
    """Its address has no checksum: a flipped bit there shows other pixels, which decode."""
    path = Path(shutil.copy(whole, tmp_path))
    offsets = index_file(source_of(path)).rad.offsets
    data, address = path.read_bytes(), int(offsets[0, 1]).to_bytes(8, "little")
    assert data.count(address) == 1
    path.write_bytes(data.replace(address, int(offsets[0, 0]).to_bytes(8, "little")))
    with pytest.raises(SourceError, match="chunks of Rad overlap"):
        index_file(source_of(path))


def table(name: str, change: Callable[[pd.DataFrame], object]) -> Callable[[Path], None]:
    def spoil(store: Path) -> None:
        path = next(store.rglob(name))
        frame = pd.read_parquet(path)
        change(frame)
        frame.to_parquet(path)

    return spoil


def encoding(position: int, value: Any) -> Callable[[Path], None]:
    def change(frame: pd.DataFrame) -> None:
        told = json.loads(frame["rad"][0])
        told[position] = value
        frame["rad"] = json.dumps(told)

    return table("files/*.parquet", change)


def put(column: str, value: Any, row: int | slice = slice(None)) -> Callable[[pd.DataFrame], object]:
    def change(frame: pd.DataFrame) -> None:
        frame.loc[row, column] = value

    return change


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "negative offset": (table("Rad/refs.0.parq", put("offset", -5, 1)), "chunks lie from byte -5"),
    "huge offset": (table("Rad/refs.0.parq", put("offset", 2**62, 1)), "chunks lie from byte"),
    "offset in another file": (table("Rad/refs.0.parq", put("offset", 2**40, 1)), "ends at byte"),
    "negative size": (table("Rad/refs.0.parq", put("size", -1, 2)), "a chunk has -1 to"),
    "huge size": (table("Rad/refs.0.parq", put("size", 2**45, 2)), "35184372088832 bytes; 315536 are possible"),
    "short table": (table("Rad/refs.0.parq", lambda f: f.drop(3, inplace=True)), "has no references of image 0"),
    "no table": (lambda store: next(store.rglob("Rad/refs.0.parq")).unlink(), "file not found"),
    "random bytes": (
        lambda store: next(store.rglob("Rad/refs.0.parq")).write_bytes(np.random.default_rng(0).bytes(500)),
        "cannot be read",
    ),
    "record size": (lambda store: record_size(store, 0), "has no references of image 0"),
    "no record size": (lambda store: record_size(store, None), r"zmetadata cannot be read \(it lacks record_size"),
    "boundless image": (encoding(0, [10**12, 10**12]), "an image of .* is not read"),
    "boundless chunks": (encoding(1, [10**12, 10**12]), "an image of .* is not read"),
    "no chunks": (encoding(1, [0, 250]), "an image of .* is not read"),
    "unknown type": (encoding(2, "f999"), r"files/2.*parquet cannot be read"),
    "floats": (encoding(2, "<f4"), "chunks of <f4 with the filters deflate are not read"),
    "another codec": (encoding(3, ["blosc"]), "with the filters blosc are not read"),
    "another shape": (encoding(0, [400, 500]), "is none of this store"),
    "outside": (table("files/*.parquet", put("leaf", "../../x")), "a leaf of it is none of this store"),
    "position": (table("files/*.parquet", put("position", -1)), "lists no file of C"),
    "far position": (table("files/*.parquet", put("position", 10**9)), "lists no file of C"),
    "other columns": (table("files/*.parquet", lambda f: f.drop(columns="scale", inplace=True)), "it lacks scale"),
    "unknown satellite": (table("files/*.parquet", put("platform", "goes99")), "satellite 'goes99' is unknown"),
    "another list": (lambda store: listed(store, '"table": "', '"table": "../'), "it lists what is none of this store"),
    "fewer rows": (lambda store: listed(store, '"rows": 1', '"rows": 2'), "it has 1 rows, but 2 are listed"),
}


def listed(store: Path, old: str, new: str) -> None:
    path = next(store.rglob("view.json"))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def record_size(store: Path, value: int | None) -> None:
    path = next(store.rglob(".zmetadata"))
    told = json.loads(path.read_text())
    del told["record_size"]
    path.write_text(json.dumps(told | ({} if value is None else {"record_size": value})))


@pytest.mark.parametrize("kind", SPOILT)
def test_references_that_cannot_be_are_one_sentence(store: Path, tmp_path: Path, kind: str) -> None:
    spoil, said = SPOILT[kind]
    copy = Path(shutil.copytree(store, tmp_path / "references"))
    spoil(copy)
    tracemalloc.start()
    with pytest.raises(SourceError, match=said):
        cube.open_abi(copy, chunks=None)["2km"]["radiance"][0, 0, :300, :300].load()
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()
