"""Files of a virtual cube's archive that come late, in an odd order, damaged, or to a cube that is being read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cube
from cube.geostationary import archive_cube
from cube.geostationary.archive_cube import CubeChange
from cube.geostationary.file_index import FileIndex
from cube.geostationary.index import IndexTask, index_file
from cube.geostationary.open import list_archive
from cube.job.engine import loop
from cube.testing import write_abi_file
from stratacube.errors import SourceError, UnavailableError, UsageError


def scan(root: Path, channel: int, month: int, day: int = 1) -> Path:
    """A small file of a band."""
    return write_abi_file(root, channel=channel, start=datetime(2020, month, day, 16), shape=(20, 20))


def add(store: Path, archive: Path, paths: Iterable[Path]) -> None:
    """Put files into a store in one call."""
    wanted = {str(path) for path in paths}
    cube.write_references([index_file(file) for file in list_archive(archive) if file.href in wanted], store)


def test_bands_that_are_written_anew_from_different_months_leave_each_other_alone(tmp_path: Path) -> None:
    archive, store = tmp_path / "archive", tmp_path / "store"
    add(store, archive, [scan(archive, channel, month) for channel in (7, 13) for month in (6, 7, 8)])
    add(store, archive, [scan(archive, 7, 6, day=2), scan(archive, 13, 7, day=2)])
    ours, truth = cube.open_abi(store)["2km"], cube.open_abi(archive, cache=tmp_path / "index")["2km"]
    assert ours.sizes["time"] == truth.sizes["time"] == 5
    np.testing.assert_array_equal(ours["radiance"], truth["radiance"])


def spoilt(path: Path) -> bytes:
    """Damage a file; return what it was."""
    whole = path.read_bytes()
    path.write_bytes(b"\x89HDF\r\n\x1a\nnot really")
    return whole


def test_what_could_not_be_read_is_tried_again_however_long_ago_it_was(tmp_path: Path) -> None:
    archive, folder, options = tmp_path / "archive", tmp_path / "cube", {"cache": tmp_path / "index"}
    june, gone, july = (scan(archive, 13, 6, day) for day in (1, 2, 29))
    whole = spoilt(june)
    spoilt(gone)
    change = cube.make_cube(archive, folder, **options)
    assert (change.added, {*change.left_out}) == (1, {str(june), str(gone)})
    change = cube.append_cube(folder, **options)
    assert (change.added, {*change.left_out}) == (0, {str(june), str(gone)})
    june.write_bytes(whole)
    gone.unlink()
    change = cube.append_cube(folder, start=datetime(2020, 7, 1), **options)
    assert (change.added, change.left_out) == (1, {})
    assert cube.append_cube(folder, **options) == CubeChange(0)
    assert cube.open_abi(folder)["2km"].sizes["time"] == len([june, july])


@pytest.mark.parametrize("bands", [None, [7, 13]])
def test_a_band_that_lags_by_days_is_caught_up_with(tmp_path: Path, bands: list[int] | None) -> None:
    archive, folder, options = tmp_path / "archive", tmp_path / "cube", {"cache": tmp_path / "index"}
    for day in (1, 9):
        scan(archive, 13, 6, day)
    if bands is None:  # of those that are named, one may not have come at all
        scan(archive, 7, 6, 1)
    cube.make_cube(archive, folder, bands, **options)
    scan(archive, 7, 6, 2)
    assert cube.append_cube(folder, **options).added == 1


def test_files_of_s3_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, index, tries = tmp_path / "archive", IndexTask.index, list[str]()
    scan(archive, 13, 6)
    listed, asked = list_archive(archive), list[Any]()

    def once_not(task: IndexTask) -> FileIndex:
        tries.append(task.key)
        if len(tries) == 1:
            raise UnavailableError("it does not answer")
        return index(task)

    monkeypatch.setattr(loop, "_BACK_OFF", 0.0)
    monkeypatch.setattr(IndexTask, "index", once_not)
    monkeypatch.setattr(archive_cube, "list_archive", lambda *words, **_: asked.append(words) or listed)
    change = cube.make_cube("s3://noaa-goes16/ABI-L1b-RadM1", tmp_path / "cube", cache=tmp_path / "index")
    assert (change.added, change.left_out, len(tries)) == (1, {}, 2)
    assert cube.append_cube(tmp_path / "cube", cache=tmp_path / "index") == CubeChange(0)
    *_, start, end = asked[-1]
    assert (start, end is None) == (datetime(2020, 5, 31, 16), False)  # of buckets, no period may be open


def test_what_is_derived_is_written_anew_where_it_is_damaged(tmp_path: Path) -> None:
    archive, store = tmp_path / "archive", tmp_path / "store"
    add(store, archive, [scan(archive, 13, 6)])
    for number, damage in enumerate((b"{", b"\xff", b"[" * 100_000)):
        for name in ("collection.json", "references.json"):
            (store / name).write_bytes(damage)
        add(store, archive, [scan(archive, 13, 6, day=2 + number)])
        assert json.loads((store / "references.json").read_bytes())["version"] == 2
        (asset,) = json.loads((store / "collection.json").read_bytes())["assets"].values()
        assert asset["cube:variables"]["Rad"]["dimensions"][0] == "time"


def test_a_cube_that_was_brought_up_while_it_is_open_says_so(tmp_path: Path) -> None:
    archive, store = tmp_path / "archive", tmp_path / "store"
    add(store, archive, [scan(archive, 13, 6, day=day) for day in (1, 3)])
    opened = cube.open_abi(store, chunks=None)["2km"]
    add(store, archive, [scan(archive, 13, 6, day=2)])
    with pytest.raises(SourceError, match="it was brought up since; open the cube again"):
        opened["radiance"].load()
    assert np.isfinite(cube.open_abi(store, chunks=None)["2km"]["radiance"].load()).any()


def test_wrong_words_are_refused_in_a_sentence(tmp_path: Path) -> None:
    archive, folder, file = tmp_path / "archive", tmp_path / "cube", tmp_path / "file"
    scan(archive, 13, 6)
    file.touch()
    cube.make_cube(archive, folder, cache=tmp_path / "index")
    for call in (
        lambda: cube.make_cube(archive, tmp_path / "new", workers=0),
        lambda: cube.append_cube(folder, workers=0),
        lambda: cube.open_abi(archive, workers=0),
    ):
        with pytest.raises(UsageError, match="`workers` is 0; give 1 or more"):
            call()
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="is a file; give a folder"):
        cube.make_cube(archive, file)
    with pytest.raises(UsageError, match="cannot be made"):
        cube.make_cube(archive, file / "below")
    with pytest.raises(UsageError, match="cannot be made"):
        cube.write_references([], file)
    for bands in ("²", "3-1", "C99", 0):
        with pytest.raises(UsageError, match="unknown"):
            cube.open_abi(folder, bands)


def test_a_cube_is_the_same_by_other_words(tmp_path: Path) -> None:
    archive, options = tmp_path / "archive", {"cache": tmp_path / "index"}
    for channel in (7, 13):
        scan(archive, channel, 6)
    every = [f"C{n:02}" for n in range(1, 17)]
    for number, ways in enumerate(
        (
            ({}, {"bands": every}, {"bands": "all"}, {"platform": "goes16"}, {"platform": "east"}, {"sector": "m1"}),
            ({"bands": [13]}, {"bands": "C13"}, {"bands": ["band 13"]}, {"bands": "13-13", "product": "ABI-L1b-RadM1"}),
        )
    ):
        folder = tmp_path / f"cube{number}"
        assert [cube.make_cube(archive, folder, **way, **options).added for way in ways] == [
            2 - number, *[0] * (len(ways) - 1)
        ]  # fmt: skip
        for other in ({"bands": [7]}, {"platform": "goes17"}, {"sector": "F"}, {"product": "ABI-L1b-RadF-Reproc"}):
            with pytest.raises(UsageError, match="give another folder"):
                cube.make_cube(archive, folder, **other, **options)
        assert cube.append_cube(folder, start="2031-01-01", **options) == CubeChange(0)


def test_bands_are_named_by_ranges_and_times_with_their_zone(tmp_path: Path) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "cube"
    for channel in (7, 13):
        scan(archive, channel, 6)
    cube.make_cube(archive, folder, cache=tmp_path / "index")
    for bands, names in (("C07-C12", ["C07"]), ("all", ["C07", "C13"]), (["7-8", 7, "13"], ["C07", "C13"])):
        for source in (folder, archive):
            tree = cube.open_abi(source, bands, cache=tmp_path / "index")
            assert list(tree["2km"]["band"].values) == names
    pytest.importorskip("icechunk")
    start = datetime(2020, 6, 1, 17, 59, tzinfo=timezone(timedelta(hours=2)))
    groups = cube.export_icechunk(folder, tmp_path / "ice", "C08-C16", start, "2020-06-01T18:01+02:00")
    assert [name.partition("-")[0] + name[name.index("/") :][:4] for name in groups] == ["goes16/C13"]
    with pytest.raises(UsageError, match="'noon' is not a time"):
        cube.export_icechunk(folder, tmp_path / "other", start="noon")
