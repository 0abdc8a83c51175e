"""Reading ABI files in the cases that once went wrong: caches, re-issues, names in Dask, odd folders, lost bytes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.base import tokenize

import cube
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile
from cube.geostationary.grid import Window
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.read import ReadCount, read_windows, stream_windows
from cube.geostationary.references import read_references
from cube.testing import write_abi_archive, write_abi_file
from stratacube.errors import SourceError, UsageError

START = datetime(2020, 7, 1, 16)


def sources(root: Path) -> list[SourceFile]:
    return list(LocalArchive(root).files(None, None, None, None))


def one_file(root: Path, counts: int | None = None, **options: Any) -> SourceFile:
    """The only file of a folder: channel 13, all of one count if given."""
    if counts is not None:
        options["counts"] = np.full((130, 130), counts, "u2")
    path = write_abi_file(root, **{"channel": 13, "start": START, "shape": (130, 130), **options})
    (source,) = (s for s in sources(root) if s.href == str(path))
    return source


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of a band on each of two days."""
    root = tmp_path_factory.mktemp("archive")
    small = {"channels": (13,), "shape_2km": (130, 130), "workers": 1, "hours": 0.2}
    write_abi_archive(root, start=START, **small)
    write_abi_archive(root, start=START.replace(day=2), **small)
    return root


def test_cubes_of_different_pixels_never_share_names(two_days: Path, tmp_path: Path) -> None:
    cube.write_references([index_file(s) for s in sources(two_days)], tmp_path / "refs")
    first, second = ({"end": "2020-07-02"}, {"start": "2020-07-02"})
    names = {}
    for source in (two_days, tmp_path / "refs"):
        for period in (first, second):
            data, again = (cube.open_abi(source, **period, lonlat=True)["2km"].ds for _ in range(2))
            for name in ("radiance", "dqf", "brightness_temperature"):
                assert data[name].data.name == again[name].data.name
                assert tokenize(data[name].data) == tokenize(again[name].data)
                names[str(source), str(period), name] = data[name].data.name
            assert data["longitude"].data.name == again["longitude"].data.name != data["latitude"].data.name
    by_pixels = [{n for (_, p, q), n in names.items() if p == str(period)} for period in (first, second)]
    assert [len(found) for found in by_pixels] == [3, 3], "one name for a quantity, whatever the source"
    assert not by_pixels[0] & by_pixels[1]
    a, b = (cube.open_abi(two_days, **period)["2km"]["radiance"] for period in (first, second))
    assert a.shape == b.shape
    np.testing.assert_array_equal((a.data - b.data).compute(), a.values - b.values)
    assert (a.values != b.values).any()


def test_a_graph_can_be_sent_to_another_process(two_days: Path) -> None:
    data = cube.open_abi(two_days, end="2020-07-02", lonlat=True)["2km"].ds
    for name in ("radiance", "dqf", "latitude"):
        sent = pickle.loads(pickle.dumps(data[name].data))
        assert sent.name == data[name].data.name
        np.testing.assert_array_equal(sent.compute(scheduler="sync"), data[name].values)


@pytest.mark.parametrize("other_era", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_reissued_file_replaces_the_first_issue(tmp_path: Path, other_era: bool, late: bool) -> None:
    packing = (0.05, -2.0) if other_era else None
    first = one_file(tmp_path / "a", 100)
    again = one_file(tmp_path / "b", 200, reissue=1, packing=packing)
    assert first.identity == again.identity
    assert again.created > first.created
    following = one_file(tmp_path / "c", 300, start=START.replace(minute=10))
    store, order = tmp_path / "refs", [again, first] if late else [first, again]
    cube.write_references([index_file(s) for s in (order[0], following)], store)
    cube.write_references([index_file(order[1])], store)
    truth = index_file(again)
    for _ in range(2):
        data = cube.open_abi(store)["2km"].ds
        assert data.sizes["time"] == 2
        assert {r.header.source.href for r in read_references(store)} == {again.href, following.href}
        np.testing.assert_allclose(data["radiance"][0, 0], 200 * truth.scale + truth.offset, rtol=1e-6)
        assert (data["radiance"][1, 0] > 300 * 0.04 - 2.0).all()
        cube.write_references([index_file(s) for s in order], store)
    folder = cube.open_abi(tmp_path)["2km"].ds
    np.testing.assert_array_equal(folder["radiance"], data["radiance"])


def test_a_cut_cache_entry_is_made_again(tmp_path: Path) -> None:
    source, cache = one_file(tmp_path / "a"), tmp_path / "cache"
    truth = index_file(source, cache)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 0xFF
    for spoilt in (b"", whole[:10], whole[: len(whole) // 2], whole[:-10], bytes(flipped), b"not a zip at all"):
        entry.write_bytes(spoilt)
        index = index_file(source, cache)
        np.testing.assert_array_equal(index.rad.offsets, truth.rad.offsets)
        assert (index.scale, index.signature) == (truth.scale, truth.signature)
        assert entry.read_bytes() == whole
    assert list(cache.iterdir()) == [entry]


def test_a_cache_that_cannot_be_written_only_warns(tmp_path: Path) -> None:
    source = one_file(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"index of .*\.nc is not cached \(Not a directory"):
        index = index_file(source, tmp_path / "file" / "cache")
    assert index.signature == index_file(source).signature
    with pytest.warns(UserWarning, match="is not cached"):
        tree = cube.open_abi(tmp_path / "a", cache=tmp_path / "file" / "cache")
    assert tree["2km"].sizes["time"] == 1


def test_a_file_that_changed_is_indexed_anew(tmp_path: Path) -> None:
    source, cache = one_file(tmp_path / "a", 100), tmp_path / "cache"
    before = index_file(source, cache)
    one_file(tmp_path / "a", 100, packing=(0.05, -2.0))
    assert index_file(source, cache).scale == pytest.approx(0.05)
    assert before.scale != pytest.approx(0.05)


def test_east_and_west_follow_the_date(tmp_path: Path) -> None:
    for platform, start in (
        ("goes17", START),
        ("goes16", START),
        ("goes19", datetime(2025, 4, 8)),
        ("goes16", datetime(2025, 4, 8)),
        ("goes18", START),
    ):
        one_file(tmp_path, platform=platform, start=start)
    store = tmp_path / "refs"
    cube.write_references([index_file(s) for s in sources(tmp_path)], store)
    for source in (tmp_path, store):
        assert cube.open_abi(source, platform="west").attrs["platform"] == "goes17"
        assert cube.open_abi(source, platform="GOES-East", end="2024-01-01").attrs["platform"] == "goes16"
        assert cube.open_abi(source, platform="east", start="2025-04-01").attrs["platform"] == "goes19"
        both = cube.open_abi(source, platform="east")  # one after the other, from one place
        assert both["2km"]["platform"].values.tolist() == ["goes16", "goes19"]


def test_bands_and_sectors_in_any_spelling(tmp_path: Path) -> None:
    for channel, sector in ((13, "M1"), (7, "M1"), (13, "M2")):
        one_file(tmp_path, channel=channel, sector=sector)
    for bands in (13, "13", "C13", "c13", [13], ["C13"], ("13",)):
        assert list(cube.open_abi(tmp_path, bands, sector="m1")["2km"]["band"].values) == ["C13"]
    assert cube.open_abi(tmp_path, sector="m2").attrs["sector"] == "M2"
    assert cube.open_abi(tmp_path, sector="m1")["2km"].sizes["band"] == 2
    for bad, sentence in (({"sector": "Q"}, "sector 'Q' is unknown; ABI has F, C, M1, M2"), ({"bands": "C0"}, "'C0'")):
        with pytest.raises(UsageError, match=sentence):
            cube.open_abi(tmp_path, **bad)


def test_folders_named_as_a_product_are_looked_into_where_they_may_hold_it(tmp_path: Path) -> None:
    for folder in ("ABI-L1b-Rad", "ABI-L1b-RadM1", "ABI-L1b-RadM", "ABI-L2-FDCC", "ABI-L1b-RadC"):
        write_abi_file(tmp_path / folder / write_name(tmp_path), channel=13, start=START, shape=(130, 130), sector="M1")
    found = LocalArchive(tmp_path).files("goes16", "M1", None, None)
    assert [Path(f.href).parent.name for f in found] == ["ABI-L1b-Rad", "ABI-L1b-RadM", "ABI-L1b-RadM1"]


def write_name(root: Path) -> str:
    """The name a file of this scan has."""
    return write_abi_file(root / "ABI-L2-names", channel=13, start=START, shape=(130, 130)).name


def streamed(index: FileIndex, windows: Sequence[Window]) -> tuple[list[np.ndarray], ReadCount]:
    count = ReadCount()
    return list(stream_windows(index, "rad", windows, count)), count


def some_windows(shape: tuple[int, int], number: int) -> Iterator[Window]:
    rng = np.random.default_rng(5)
    for _ in range(number):
        height, width = rng.integers(1, 90, 2).tolist()
        yield Window(int(rng.integers(shape[0] - height)), int(rng.integers(shape[1] - width)), height, width)


def holed(index: FileIndex) -> FileIndex:
    """The index as if a third of the chunks had never been written."""
    sizes = index.rad.sizes.copy()
    sizes.ravel()[::3] = 0
    sizes[0] = sizes[-1] = 0
    return replace(index, rad=replace(index.rad, sizes=sizes))


def test_streamed_windows_are_those_read_at_once(tmp_path: Path) -> None:
    index = index_file(one_file(tmp_path, shape=(240, 240), chunks=(50, 50)))
    rows = Window(0, 0, 20, 20), Window(230, 200, 10, 40)  # wholly of chunks that are never written in the second
    windows = [*rows, *some_windows((240, 240), 25), *rows]
    for each in (index, holed(index)):
        for order in (windows, windows[::-1], sorted(windows, key=lambda w: w.row + w.height), windows[:1], []):
            out = [np.empty((w.height, w.width), "u2") for w in order]
            count = read_windows(each, "rad", order, out)
            pixels, cost = streamed(each, order)
            assert len(pixels) == len(order)
            assert cost == count
            for a, b in zip(pixels, out, strict=True):
                np.testing.assert_array_equal(a, b)
    assert (streamed(holed(index), rows)[0][1] == index.rad.fill).all()
    with pytest.raises(ValueError, match="outside an image"):
        streamed(index, [Window(230, 0, 20, 20)])


def test_a_corrupt_last_chunk_is_noticed_by_the_stream(tmp_path: Path) -> None:
    source = one_file(tmp_path, shape=(240, 240), chunks=(50, 50))
    index = index_file(source)
    data = bytearray(Path(source.href).read_bytes())
    last = int(index.rad.offsets[-1, -1])
    data[last + 8 : last + 40] = b"\xff" * 32
    Path(source.href).write_bytes(data)
    windows = [Window(0, 0, 60, 240), Window(100, 0, 40, 240), Window(200, 0, 40, 240)]
    stream = stream_windows(index, "rad", windows, ReadCount())
    assert [next(stream).shape, next(stream).shape] == [(60, 240), (40, 240)]
    with pytest.raises(SourceError, match=r"rad chunk \[4, 4\] does not decode"):
        next(stream)
    out = [np.empty((w.height, w.width), "u2") for w in windows]
    with pytest.raises(SourceError, match=r"rad chunk \[4, 4\] does not decode"):
        read_windows(index, "rad", windows, out)
    Path(source.href).write_bytes(bytes(data[: last + 8]))
    with pytest.raises(SourceError, match="truncated file"):
        streamed(index, windows)
