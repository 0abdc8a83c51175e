"""Files that are whole or absent, and the record of them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from stratacube import files
from stratacube.errors import ClaimLostError
from stratacube.files import (
    Written,
    fenced,
    is_stray,
    recorded,
    remove,
    remove_stray,
    remove_strays,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)


def refuse() -> None:
    raise ClaimLostError("lost")


def digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(path: Path, how: str, text: str) -> None:
    """Write in one of the three ways."""
    if how == "bytes":
        write_bytes(path, text.encode())
    elif how == "file":
        with whole_file(path) as part:
            part.write_text(text)
    else:
        with whole_folder(path) as folder:
            (folder / "inner").write_text(text)


def read(path: Path) -> str:
    return (path / "inner" if path.is_dir() else path).read_text()


WAYS = pytest.mark.parametrize("how", ["bytes", "file", "folder"])


@WAYS
def test_what_is_written_takes_the_place_of_what_was_there(tmp_path: Path, how: str) -> None:
    target = tmp_path / "made" / "on the way" / "target"
    for text in ("first", "second"):
        fill(target, how, text)
        assert read(target) == text
    assert len(list(target.parent.iterdir())) == 1  # nothing is left beside it


@WAYS
def test_lost_claim_leaves_all_as_it_was(tmp_path: Path, how: str) -> None:
    fill(tmp_path / "target", how, "before")
    before = tree(tmp_path)
    with fenced(tmp_path, refuse), recorded(tmp_path) as written:
        for name in ("target", "new"):
            with pytest.raises(ClaimLostError):
                fill(tmp_path / name, how, "after")
    assert tree(tmp_path) == before
    assert written == []
    fill(tmp_path / "target", how, "after")  # the guard has gone with its block
    assert read(tmp_path / "target") == "after"


@pytest.mark.parametrize("there", ["file", "folder", "link", "nothing"])
def test_what_is_removed_is_gone_at_once_and_by_the_owner_alone(tmp_path: Path, there: str) -> None:
    target, kept = tmp_path / "target", tmp_path / "kept"
    fill(kept, "folder", "kept")
    if there == "link":
        target.symlink_to(kept)
    elif there != "nothing":
        fill(target, there, "before")
    before = tree(tmp_path)
    with fenced(tmp_path, refuse), pytest.raises(ClaimLostError):
        remove(target)
    assert tree(tmp_path) == before
    remove(target)
    assert list(tmp_path.iterdir()) == [kept]
    assert read(kept) == "kept"


def test_a_removal_that_was_stopped_goes_on_beside_what_came_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "target", "folder", "before")
    empty = shutil.rmtree

    def stopped(folder: Path, **options: bool) -> None:
        assert is_stray(folder.name)
        fill(tmp_path / "target", "folder", "another run's")
        empty(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", stopped)
    remove(tmp_path / "target")
    assert tree(tmp_path) == {"target/inner": b"another run's"}


def test_strays_are_the_owners_to_remove(tmp_path: Path) -> None:
    for name in (".file.01234567.part", ".folder.01234567.part", ".replaced.01234567.old.part"):
        fill(tmp_path / name, "file" if "file" in name else "folder", "a living run's")
    before = tree(tmp_path)
    with fenced(tmp_path, refuse):
        for path in sorted(tmp_path.iterdir()):
            with pytest.raises(ClaimLostError):
                remove_stray(path)
        with pytest.raises(ClaimLostError):
            remove_strays(tmp_path)
    assert tree(tmp_path) == before


@WAYS
def test_guard_is_asked_when_the_content_is_ready(tmp_path: Path, how: str) -> None:
    seen = []

    def look() -> None:
        parts = [path for path in tmp_path.iterdir() if files.is_stray(path.name)]
        seen.append([read(part) for part in parts])

    with fenced(tmp_path, look):
        fill(tmp_path / "target", how, "content")
    assert seen == [["content"]]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_part_that_the_next_owner_swept_is_a_lost_claim(tmp_path: Path, whole: Callable[..., Any]) -> None:
    def swept() -> None:
        with whole(tmp_path / "target") as part:
            shutil.rmtree(part, ignore_errors=True)
            (part / "file").write_text("late")

    with fenced(tmp_path, refuse), pytest.raises(ClaimLostError):
        swept()
    with pytest.raises(FileNotFoundError):  # of a folder that was not taken over, what went wrong is told
        swept()
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("how", ["file", "folder"])
def test_error_in_the_block_leaves_all_as_it_was(tmp_path: Path, how: str) -> None:
    fill(tmp_path / "target", how, "before")
    before = tree(tmp_path)
    make = whole_file if how == "file" else whole_folder
    with pytest.raises(KeyboardInterrupt), make(tmp_path / "target") as part:  # noqa: PT012
        half = part if how == "file" else part / "inner"
        half.write_text("half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == before


@WAYS
def test_process_killed_before_the_rename_leaves_only_what_is_known_to_be_stray(tmp_path: Path, how: str) -> None:
    code = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_files import fill
from stratacube.files import fenced
with fenced(Path({str(tmp_path)!r}), lambda: os.kill(os.getpid(), 9)):
    fill(Path({str(tmp_path / "target")!r}), {how!r}, "after")
"""
    fill(tmp_path / "target", how, "before")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert read(tmp_path / "target") == "before"
    others = [path.name for path in tmp_path.iterdir() if path.name != "target"]
    assert len(others) == 1
    assert files.is_stray(others[0])


@WAYS
def test_guard_holds_by_any_name_of_the_folder(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, link, elsewhere = tmp_path / "real", tmp_path / "link", tmp_path / "elsewhere"
    real.mkdir()
    elsewhere.mkdir()
    link.symlink_to(real)
    (real / "scratch").symlink_to(elsewhere)
    monkeypatch.chdir(tmp_path)
    for root in (real, link, Path("link"), Path("real")):
        with fenced(root, refuse):
            for folder in (real, link, Path("real"), Path("link"), real / ".." / "link", root / "scratch"):
                with pytest.raises(ClaimLostError):
                    fill(folder / "target", how, "no")
            fill(elsewhere / "target", how, "yes")
            fill(tmp_path / "really", how, "yes")


def test_guard_and_record_hold_when_the_directory_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with recorded(Path("folder")) as written, fenced(Path("folder"), lambda: None):
        monkeypatch.chdir("/")
        write_bytes(tmp_path / "folder" / "file", b"1")
        with fenced(tmp_path / "folder", refuse), pytest.raises(ClaimLostError):
            write_bytes(tmp_path / "folder" / "file", b"2")
    assert [one.path for one in written] == ["file"]


def test_record_tells_paths_sizes_and_digests(tmp_path: Path) -> None:
    with recorded(tmp_path) as written:
        write_bytes(tmp_path / "a" / "bytes", memoryview(b"12345678").cast("H"))
        write_text(tmp_path / "text", "µ")
        write_json(tmp_path / "json", {"a": 1}, indent=None)
        with whole_file(tmp_path / "file", durable=True) as part:
            part.write_bytes(b"x" * 3_000_000)
        with whole_folder(tmp_path / "folder") as folder:
            (folder / "b").mkdir()
            (folder / "b" / "c").write_bytes(b"c")
            write_bytes(folder / "a", b"a")  # told once, when the folder is whole
        with whole_folder(tmp_path / "scratch", digests=False) as folder:
            (folder / "piece").write_bytes(b"piece")
        write_bytes(tmp_path.parent / f"{tmp_path.name} elsewhere", b"")
    write_bytes(tmp_path / "late", b"")
    assert written == [
        Written("a/bytes", 8, digest(b"12345678")),
        Written("text", 2, digest("µ".encode())),
        Written("json", 9, digest(b'{"a": 1}\n')),
        Written("file", 3_000_000, digest(b"x" * 3_000_000)),
        Written("folder/a", 1, digest(b"a")),
        Written("folder/b/c", 1, digest(b"c")),
        Written("scratch/piece", 5, ""),
    ]
    for one in written[:-1]:
        assert files.digest_of(tmp_path / one.path) == one.digest


def test_records_within_records_each_list_their_own(tmp_path: Path) -> None:
    with recorded(tmp_path) as outer:
        with recorded(tmp_path) as inner:
            write_bytes(tmp_path / "both", b"")
        write_bytes(tmp_path / "outer", b"")
    assert [one.path for one in inner] == ["both"]
    assert [one.path for one in outer] == ["both", "outer"]


def test_record_of_a_linked_folder_lists_what_is_written_by_its_other_name(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with recorded(tmp_path / "link") as written:
        write_bytes(tmp_path / "real" / "deep" / "file", b"")
        with whole_folder(tmp_path / "real" / "folder") as folder:
            (folder / "inner").touch()
    assert [one.path for one in written] == ["deep/file", "folder/inner"]


def test_helper_threads_write_for_the_record(tmp_path: Path) -> None:
    with recorded(tmp_path) as written:
        threads = [threading.Thread(target=write_bytes, args=(tmp_path / str(n), b"")) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(one.path for one in written) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("there", ["nothing", "empty folder", "folder", "file", "link"])
def test_folder_takes_the_place_of_anything(tmp_path: Path, there: str) -> None:
    target, other = tmp_path / "target", tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    if there == "file":
        target.write_text("old")
    elif there == "link":
        target.symlink_to(other)
    elif there != "nothing":
        target.mkdir()
        if there == "folder":
            (target / "old").touch()
    fill(target, "folder", "new")
    assert tree(tmp_path) == {"target/inner": b"new", "other/kept": b""}
    assert not target.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "target"]


def test_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "target", "folder", "before")
    rename, times = os.rename, []

    def fail_third(source: Path, target: Path) -> None:  # aside, and back, succeed
        times.append(source)
        if len(times) == 3:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_third)
    with pytest.raises(OSError, match="Input/output"):
        fill(tmp_path / "target", "folder", "after")
    assert tree(tmp_path) == {"target/inner": b"before"}


def test_json_is_what_any_reader_takes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
    write_json(tmp_path / "json", {"ä": 1})
    assert (tmp_path / "json").read_text() == '{\n  "ä": 1\n}\n'


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as one, whole_file(tmp_path / "file") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one"  # the last that ended
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1.5e9, "1.5 GB"), (12e12, "12 TB")]
)
def test_bytes_in_words(number: float, text: str) -> None:
    assert files.human_bytes(number) == text


def test_nothing_is_removed_once_the_claim_is_lost(tmp_path: Path) -> None:
    """A process that was stopped while it removed a build may wake up when the folder is another's."""
    (tmp_path / "tiles.zarr").mkdir()
    (tmp_path / "tiles.zarr" / "chunk").write_text("kept")
    (tmp_path / ".a.0123abcd.part").write_text("kept")

    def lost() -> None:
        raise ClaimLostError("lost")

    with fenced(tmp_path, lost):
        for name, act in (("tiles.zarr", remove), (".a.0123abcd.part", remove_stray)):
            with pytest.raises(ClaimLostError):
                act(tmp_path / name)
            assert (tmp_path / name).exists()
    remove(tmp_path / "tiles.zarr")
    remove(tmp_path / "not there")
    assert [p.name for p in tmp_path.iterdir()] == [".a.0123abcd.part"]
