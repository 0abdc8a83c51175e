"""Files that are whole or absent, and a record of what was written.

Everything that is written is written aside and renamed. Before the rename the folder's guard is asked (a claim that was
lost forbids it), after it whoever records is told: path, size, digest.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

__all__ = [
    "Written",
    "aside",
    "bytes_on_disk",
    "check_guards",
    "digest_of",
    "fenced",
    "human_bytes",
    "is_stray",
    "recorded",
    "remove",
    "remove_stray",
    "remove_strays",
    "tell_folder",
    "whole_file",
    "whole_folder",
    "write_bytes",
    "write_json",
    "write_text",
]

PART = ".part"
"""Ends the name of what is not yet whole."""

_OLD = re.compile(r"\.(.+)\.[0-9a-f]{8}\.old\.part")
"""Name of a folder that is being replaced."""

_BLOCK = 1 << 20


class Written(NamedTuple):
    """One file as it was written."""

    path: str
    """Relative to the folder that is recorded, with forward slashes."""
    size: int
    digest: str
    """XXH3 of 128 bits, in hexadecimal; empty where none was taken (scratch, and builds of older versions).

    It tells accidents, not malice: it is not cryptographic, and costs a fifteenth of SHA-256."""


@dataclass(frozen=True)
class _Root:
    """A folder by the name it was given, and by the one that has no links in it."""

    given: Path
    real: Path

    @classmethod
    def of(cls, path: Path) -> _Root:
        return cls(Path(os.path.abspath(path)), Path(os.path.realpath(path)))

    def inner(self, path: Path) -> Path | None:
        """Path below this folder, by either name; None if it is elsewhere."""
        if path.is_relative_to(self.given):  # also what is linked into the folder
            return path.relative_to(self.given)
        real = Path(os.path.realpath(path.parent)) / path.name
        return real.relative_to(self.real) if real.is_relative_to(self.real) else None


# Not equal to another of the same content, which would be ended in its place.
@dataclass(frozen=True, eq=False)
class _Guard:
    root: _Root
    check: Callable[[], None]


@dataclass(frozen=True, eq=False)
class _Record:
    root: _Root
    written: list[Written]


# Both are of the process, not of a thread: a task's helper threads write for it.
_guards: list[_Guard] = []
_records: list[_Record] = []


@contextmanager
def fenced(root: Path, check: Callable[[], None]) -> Iterator[None]:
    """Within, nothing below a folder takes its final name unless ``check`` returns."""
    guard = _Guard(_Root.of(root), check)
    _guards.append(guard)
    try:
        yield
    finally:
        _guards.remove(guard)


@contextmanager
def recorded(root: Path) -> Iterator[list[Written]]:
    """Within, all that is written whole below a folder is listed, in the order it was."""
    record = _Record(_Root.of(root), [])
    _records.append(record)
    try:
        yield record.written
    finally:
        _records.remove(record)


def check_guards(path: Path) -> None:
    """Ask the guards of a path.

    Raises
    ------
    ClaimLostError
        If the claim of its folder was lost.
    """
    path = Path(os.path.abspath(path))
    for guard in list(_guards):  # another thread may begin or end one
        if guard.root.inner(path) is not None:
            guard.check()


def _tell(path: Path, size: int, digest: Callable[[], str]) -> None:
    for record in list(_records):
        inner = record.root.inner(path)
        if inner is not None and not any(map(is_stray, inner.parts)):  # what is in a part is told when that is whole
            record.written.append(Written(inner.as_posix(), size, digest()))


def tell_folder(path: Path, *, digests: bool = True) -> None:
    """Record all files of a folder that came to its place as a whole."""
    path = Path(os.path.abspath(path))
    if any(record.root.inner(path) is not None for record in list(_records)):
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            _tell(file, file.stat().st_size, lambda f=file: digest_of(f) if digests else "")  # type: ignore[misc]


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a path to write to, beside ``path``; it takes that name when the block ends without an error.

    Parameters
    ----------
    path
        What is to be written; its folder is made. What lies there is replaced.
    durable
        Flush to the disk before the rename, for what others build on after a crash.

    Raises
    ------
    ClaimLostError
        If the claim of the folder was lost; nothing has changed then.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = aside(path)
    with _own(part, path):
        yield part
        if durable:
            _flush(part)
        check_guards(path)
        os.replace(part, path)
    _tell(path, path.stat().st_size, lambda: digest_of(path))


def write_bytes(path: Path, content: bytes | bytearray | memoryview, *, durable: bool = False) -> None:
    """Write a file, whole or not at all."""
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = aside(path)
    with _own(part, path):
        with part.open("wb", buffering=0) as file:
            left = memoryview(content).cast("B")
            while left:
                left = left[file.write(left) :]
            if durable:
                os.fsync(file.fileno())
        check_guards(path)
        os.replace(part, path)
    _tell(path, len(memoryview(content).cast("B")), lambda: xxhash.xxh3_128_hexdigest(content))


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON that any reader takes (no NaN), whole or not at all."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def whole_folder(path: Path, *, digests: bool = True, durable: bool = False) -> Iterator[Path]:
    """Give a folder to fill, beside ``path``; it takes that name when the block ends without an error.

    Parameters
    ----------
    path
        The folder; one that lies there is replaced.
    digests
        Whether the record tells digests, or (of scratch) sizes alone.
    durable
        Flush to the disk before the rename, and the rename itself.

    Raises
    ------
    ClaimLostError
        If the claim of the folder was lost; nothing has changed then.
    """
    path = Path(os.path.abspath(path))
    part = aside(path)
    part.mkdir(parents=True)
    with _own(part, path):
        yield part
        if durable:
            for file in part.rglob("*"):
                _flush(file)
        check_guards(path)
        _rename_folder(part, path)
        if durable:
            _flush(path.parent)
    tell_folder(path, digests=digests)


@contextmanager
def _own(part: Path, path: Path) -> Iterator[None]:
    """Remove what is not whole after an error, and say so where it was another that took the folder and swept it."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and not part.exists():
            check_guards(path)
        shutil.rmtree(part, ignore_errors=True)  # of a file it does nothing
        with suppress(OSError):
            part.unlink()
        raise


def _rename_folder(part: Path, path: Path) -> None:
    try:
        os.rename(part, path)
    except OSError as error:  # tried, for a look at what lies there may be old
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    else:
        return
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old{PART}")
    os.rename(path, old)
    try:
        check_guards(path)
        os.rename(part, path)
    except BaseException:
        os.rename(old, path)
        raise
    remove_stray(old)


def aside(path: Path) -> Path:
    """Name beside a path for what is not yet whole.

    Unique: two processes that write one file may not write into each other's.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")


def is_stray(name: str) -> bool:
    """Whether a file or folder of this name is what a killed run left, not yet whole.

    Libraries put their own scratch beside a part, under its name and more (GDAL's ``.ovr.tmp``).
    """
    return name.endswith(PART) or (name.startswith(".") and f"{PART}." in name)


def remove_strays(root: Path, *, deep: bool = True, older: float = 0.0) -> None:
    """Remove what killed runs left below a folder, not yet whole; for whoever holds its claim.

    A folder that a run had moved away to replace, and did not replace, gets its name back.

    Parameters
    ----------
    root
        The folder; it need not exist. Downloads that go on from a part must not lie in it.
    deep
        Go into its folders.
    older
        Seconds for which a part must not have changed, where others may be at work in the folder after all.
    """
    try:
        with os.scandir(root) as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if is_stray(entry.name):
            if not older or _age(Path(entry.path)) >= older:
                remove_stray(Path(entry.path))
        elif deep and entry.is_dir(follow_symlinks=False):
            remove_strays(Path(entry.path), older=older)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there; at once, so that no owner that was stopped in it goes on with it later.

    Raises
    ------
    ClaimLostError
        If the claim of its folder was lost; nothing has changed then.
    """
    check_guards(path)
    if path.is_dir() and not path.is_symlink():
        gone = aside(path)
        with suppress(FileNotFoundError):
            os.rename(path, gone)
            shutil.rmtree(gone, ignore_errors=True)  # what is left of it is a stray
    else:
        path.unlink(missing_ok=True)


def remove_stray(path: Path) -> None:
    """Remove one thing that a killed run left, or give it its name back if nothing has taken its place.

    Raises
    ------
    ClaimLostError
        If the claim of the folder was lost: it may be another run's, which lives.
    """
    check_guards(path)
    replaced = _OLD.fullmatch(path.name)
    if replaced and not path.with_name(replaced[1]).exists():
        path.rename(path.with_name(replaced[1]))
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # whoever wrote it was alive, and is done
        return 0.0


def digest_of(path: Path) -> str:
    """Digest of a file, as :class:`Written` has it; read in blocks."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def bytes_on_disk(path: Path) -> int:
    """Return the size of a file, or of all files of a folder.

    Raises
    ------
    OSError
        If it is not there, or cannot be read.
    """
    if not path.is_dir():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def human_bytes(number: float) -> str:
    """Bytes in words, to three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
