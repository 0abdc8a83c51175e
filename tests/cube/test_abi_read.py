"""Byte ranges and eras: every pixel as h5py reads it, each chunk once, and nothing joined that must not be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile, find_scans
from cube.geostationary.grid import Window
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.index_cache import cache_name
from cube.geostationary.read import plan_reads, read_windows
from cube.geostationary.references import refuse_mixed
from cube.testing import write_abi_file
from stratacube.errors import EncodingMismatchError, SourceError

START = datetime(2020, 7, 1, 16)


def sources(root: Path, platform: str = "goes16", sector: str = "M1") -> list[SourceFile]:
    scans = find_scans(LocalArchive(root), platform=platform, sector=sector)
    return [f for scan in scans for f in scan.files.values()]


def whole(source: SourceFile) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(source.href) as h5:
        return h5["Rad"][()].view("u2"), h5["DQF"][()].view("u1")


def check_windows(index: FileIndex, windows: list[Window]) -> None:
    counts = [np.empty((w.height, w.width), "u2") for w in windows]
    flags = [np.empty((w.height, w.width), "u1") for w in windows]
    read = read_windows(index, "rad", windows, counts)
    read_windows(index, "dqf", windows, flags)
    rad, dqf = whole(index.source)
    for w, c, f in zip(windows, counts, flags, strict=True):
        at = np.s_[w.row : w.row + w.height, w.col : w.col + w.width]
        np.testing.assert_array_equal(c, rad[at])
        np.testing.assert_array_equal(f, dqf[at])
    height, width = index.rad.chunks
    touched = {
        (r, c)
        for w in windows
        for r in range(w.row // height, (w.row + w.height - 1) // height + 1)
        for c in range(w.col // width, (w.col + w.width - 1) // width + 1)
        if index.rad.sizes[r, c]
    }
    assert read.chunks == len(touched)


def some_windows(shape: tuple[int, int]) -> list[Window]:
    rng = np.random.default_rng(0)
    size = min(shape) // 3
    corners = [(0, 0), (shape[0] - size, shape[1] - size)]
    corners += [tuple(rng.integers(0, np.array(shape) - size)) for _ in range(4)]
    return [Window(int(r), int(c), size, size) for r, c in corners]


@pytest.mark.parametrize("shuffle", [False, True])
def test_windows_equal_h5py(tmp_path: Path, shuffle: bool) -> None:
    write_abi_file(tmp_path, channel=13, start=START, shape=(520, 510), shuffle=shuffle)
    (source,) = sources(tmp_path)
    index = index_file(source)
    assert index.rad.filters == (("shuffle", "deflate") if shuffle else ("deflate",))
    check_windows(index, some_windows(index.grid.shape))


def test_real_files_equal_h5py(abi_data: Path) -> None:
    seen = set()
    for platform in ("goes16", "goes17"):
        for sector in ("M1", "C"):
            for source in sources(abi_data, platform, sector):
                index = index_file(source)
                check_windows(index, some_windows(index.grid.shape))
                seen.add(index.rad.filters)
    assert seen == {("deflate",), ("shuffle", "deflate")}


def test_chunks_never_written_hold_the_fill_value(tmp_path: Path) -> None:
    path = write_abi_file(tmp_path, channel=13, start=START, shape=(500, 500))
    with h5py.File(path, "r+") as h5:
        attrs = dict(h5["Rad"].attrs)
        for name in ("DIMENSION_LIST", "REFERENCE_LIST"):
            attrs.pop(name, None)
        old = h5["Rad"][:250]
        del h5["Rad"]
        rad = h5.create_dataset("Rad", (500, 500), "<i2", chunks=(250, 250), compression=1, fillvalue=4095)
        rad[:250] = old
        rad.attrs.update(attrs)
    (source,) = sources(tmp_path)
    index = index_file(source)
    assert (index.rad.sizes[1] == 0).all()
    out = np.empty((500, 500), "u2")
    read_windows(index, "rad", [Window(0, 0, 500, 500)], [out])
    assert (out[250:] == 4095).all()
    np.testing.assert_array_equal(out[:250], old.view("u2"))


def test_reads_are_coalesced_and_bounded(tmp_path: Path) -> None:
    write_abi_file(tmp_path, channel=2, start=START, shape=(1500, 1500))
    index = index_file(sources(tmp_path)[0])
    chunks = [(r, c) for r in range(6) for c in range(6)]
    spans = plan_reads(index.rad, chunks, gap=2**14)
    assert sorted(c for s in spans for c in s.chunks) == chunks
    assert len(spans) < len(chunks)
    assert len(plan_reads(index.rad, chunks, gap=-1)) == len(chunks)


def test_cached_index_is_used_and_follows_the_file(tmp_path: Path) -> None:
    write_abi_file(tmp_path, channel=13, start=START, shape=(260, 260))
    (source,) = sources(tmp_path)
    cache = tmp_path / "cache"
    first = index_file(source, cache)
    Path(source.href).rename(tmp_path / "gone.nc")
    again = index_file(source, cache)
    assert again.signature == first.signature
    np.testing.assert_array_equal(again.rad.offsets, first.rad.offsets)
    assert repr(again.coefficients) == repr(first.coefficients)
    assert again.grid == first.grid
    assert again.mid_time == first.mid_time
    assert cache_name(replace(source, tag="other")) != cache_name(source)
    with pytest.raises(SourceError, match="not a readable ABI"):
        index_file(replace(source, tag="other"), cache)


def test_truncated_foreign_and_mislabelled_files_are_refused(tmp_path: Path) -> None:
    path = write_abi_file(tmp_path, channel=13, start=START, shape=(260, 260))
    (source,) = sources(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="truncated file"):
        index_file(source)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceError, match="not a readable ABI L1b file"):
        index_file(source)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="band_id is 13 but the name says C14"):
        index_file(replace(source, channel=14))


def test_bytes_lost_after_indexing_are_noticed(tmp_path: Path) -> None:
    path = write_abi_file(tmp_path, channel=13, start=START, shape=(500, 500))
    (source,) = sources(tmp_path)
    index = index_file(source)
    data = bytearray(path.read_bytes())
    at = int(index.rad.offsets[0, 0])
    data[at + 20 : at + 60] = b"\xff" * 40
    path.write_bytes(data)
    out = np.empty((500, 500), "u2")
    with pytest.raises(SourceError, match=r"rad chunk \[0, 0\] does not decode"):
        read_windows(index, "rad", [Window(0, 0, 500, 500)], [out])
    path.write_bytes(bytes(data[: at + 10]))
    with pytest.raises(SourceError, match="truncated file"):
        read_windows(index, "rad", [Window(0, 0, 500, 500)], [out])


def with_other_flags(root: Path) -> SourceFile:
    """A file whose ``DQF`` alone is filtered otherwise."""
    path = write_abi_file(root, channel=13, start=START.replace(minute=30), shape=(260, 260))
    with h5py.File(path, "r+") as h5:
        attrs = {k: v for k, v in h5["DQF"].attrs.items() if not k.endswith("_LIST")}
        flags = h5["DQF"][()]
        del h5["DQF"]
        again = h5.create_dataset("DQF", data=flags, chunks=(250, 250), compression=1, shuffle=True, fillvalue=-1)
        again.attrs.update(attrs)
    return sources(root)[0]


def test_eras_are_told_apart_and_never_joined(tmp_path: Path) -> None:
    kinds = {
        "plain": {},
        "shuffled": {"shuffle": True},
        "scaled": {"packing": (0.05, -1.6442999839782715)},
        "offset": {"packing": (0.04572891816496849, -1.7)},
        "filled": {"fill": 16383},
        "chunked": {"chunks": (226, 226)},
        "moved": {"corner": (-0.019992, 0.080024)},
    }
    indexes = {}
    for i, (name, options) in enumerate(kinds.items()):
        write_abi_file(tmp_path / name, channel=13, start=START.replace(minute=i), shape=(260, 260), **options)
        indexes[name] = index_file(sources(tmp_path / name)[0])
    indexes["flags filtered"] = index_file(with_other_flags(tmp_path / "flags"))
    kinds["flags filtered"] = {}
    assert len({i.signature for i in indexes.values()}) == len(kinds)
    for name in list(kinds)[1:]:
        with pytest.raises(EncodingMismatchError, match="cannot join files of different encodings"):
            refuse_mixed([indexes["plain"], indexes[name]])
    shutil.copytree(tmp_path / "plain", tmp_path / "same")
    same = index_file(sources(tmp_path / "same")[0])
    refuse_mixed([indexes["plain"], same])


def test_coefficients_come_from_each_file(tmp_path: Path) -> None:
    write_abi_file(tmp_path, channel=13, start=START, shape=(260, 260), calibration={"planck_bc1": 0.0777})
    index = index_file(sources(tmp_path)[0])
    assert index.coefficients["planck_bc1"] == pytest.approx(0.0777)
    assert np.isnan(index.coefficients["kappa0"])
