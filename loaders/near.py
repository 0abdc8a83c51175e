"""Whole objects of a store, kept on this node's own disk: each is fetched once for all processes of the node.

An object is copied under a lock, written aside and renamed, with a digest behind its bytes; the copy's name is of where
it lies and of its state (ETag, or size and time of change), so what has changed is another object. Caches of fsspec
have neither locks between processes nor a bound.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import xxhash

from stratacube.errors import UsageError
from stratacube.files import digest_of, is_stray, remove_strays, whole_file
from stratacube.locks import lock
from stratacube.settings import local_path

__all__ = ["NodeCache"]

_log = logging.getLogger(__name__)

_BEGAN = time.time()
"""When this run began: what was used since is not dropped, or a run larger than the bound would fetch all anew."""

_DIGEST = 16
"""Bytes behind an object's own."""

_STALE = 3600.0
"""Seconds after which a part that does not grow is one of a killed process."""

_BLOCK = 1 << 20

_AT_ONCE = 8
"""Objects fetched at once for one batch."""

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)

Range = tuple[str, int | None, int | None]


class _FullError(Exception):
    """There is no room for one more object."""


class _StoreError(Exception):
    """The store could not be read."""


class _ToldError(Exception):
    """What the store says of the object, in place of its bytes: that it is absent, or has changed."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _State(NamedTuple):
    """What tells one state of an object from another."""

    size: int
    mark: str


class NodeCache:
    """Copies of objects in a folder of this node; safe for threads and processes, cheap to pickle.

    Parameters
    ----------
    folder
        On a disk of the node's own. It is made, readable by its owner alone; one that is there must be one's own, and
        nobody else may write to it, for scratch is shared and digests do not tell who wrote a copy.
    gigabytes
        Most that it may hold. Copies longest unused go first; those used since this run began stay, and when there is
        no room beside them the rest is read where it lies.

    Raises
    ------
    UsageError
        If the folder cannot be written, others can write to it, or the bound is not positive.
    """

    def __init__(self, folder: str | os.PathLike[str], gigabytes: float = 100.0) -> None:
        if not gigabytes > 0:
            raise UsageError(f"`cache_gb` {gigabytes:g} is not a size; give gigabytes above 0")
        try:
            path = Path(local_path(folder))
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (path / "lock").open("ab"):
                pass
        except ValueError:
            raise UsageError(f"`cache_dir` {folder} is a URL; give a folder on this node's own disk") from None
        except OSError as error:
            raise UsageError(
                f"`cache_dir` {folder} cannot be written ({error.strerror}); give a folder on this node's own disk, or"
                " leave it out"
            ) from error
        _refuse_shared(path)
        self.__setstate__({"folder": path, "most": int(gigabytes * 1e9), "began": _BEGAN})

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "most": self.most, "began": self.began}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder: Path = state["folder"]
        self.most: int = state["most"]
        self.began: float = state["began"]
        self._states: dict[str, _State | None] = {}
        self._checked: dict[str, int] = {}
        self._given_up = False
        self._lock = threading.Lock()

    def cat_ranges(self, filesystem: Any, ranges: Sequence[Range]) -> list[Any]:
        """Byte ranges of objects, from their copies, or from the store where there is none.

        Parameters
        ----------
        filesystem
            Where the objects lie; of fsspec.
        ranges
            Path, first byte (below 0: from the end) and the byte after the last; None for an open side.

        Returns
        -------
        list
            For each bytes, or an exception in their place.
        """
        places: dict[str, list[int]] = {}
        for number, (path, _, _) in enumerate(ranges):
            places.setdefault(path, []).append(number)
        blobs: list[Any] = [None] * len(ranges)
        with ThreadPoolExecutor(min(_AT_ONCE, len(places))) as pool:
            read = pool.map(lambda path: self._read(filesystem, path, [ranges[n] for n in places[path]]), places)
            for path, found in zip(places, read, strict=True):
                for number, blob in zip(places[path], found or [None] * len(places[path]), strict=True):
                    blobs[number] = blob
        left = [number for number, blob in enumerate(blobs) if blob is None]
        if left:
            columns = (list(column) for column in zip(*(ranges[n] for n in left), strict=True))
            for number, blob in zip(left, filesystem.cat_ranges(*columns, on_error="return"), strict=True):
                blobs[number] = blob
        return blobs

    def _read(self, filesystem: Any, path: str, ranges: Sequence[Range]) -> list[Any] | None:
        """Ranges of one object from its copy; None where it is to be read where it lies."""
        try:
            state = self._state(filesystem, path)
            if state is not None:
                name = _name(filesystem, path, state)
                file = self._open(name, state) or self._fetch(filesystem, path, name, state)
                if file is not None:
                    with file:
                        return [_part(file, state.size, start, end) for _, start, end in ranges]
        except _ToldError as told:
            return [told.error] * len(ranges)
        except _StoreError:
            return None  # what is wrong, the store tells again
        except _FullError:
            self._give_up(f"has no room within `cache_gb` {self.most / 1e9:g} beside what this run reads")
        except Exception as error:  # noqa: BLE001  (a copy is a help: without it the object is still there)
            self._give_up(f"cannot be used ({error})")
        return None

    def _state(self, filesystem: Any, path: str) -> _State | None:
        """State of an object when it was first asked for: one reader reads one state."""
        if path not in self._states:
            try:
                self._states[path] = _state_of(filesystem, path)
            except FileNotFoundError as error:
                raise _ToldError(error) from error
            except Exception as error:
                raise _StoreError from error
        return self._states[path]

    def _give_up(self, why: str) -> None:
        with self._lock:
            told, self._given_up = self._given_up, True
        if not told:
            _log.warning("`cache_dir` %s %s: what is not yet in it is read from the store", self.folder, why)

    def _open(self, name: str, state: _State) -> BinaryIO | None:
        """Open a copy that is whole; one that is not is removed."""
        path = self.folder / name
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        found = os.fstat(file.fileno())
        checked = self._checked.get(name) == found.st_ino
        if found.st_size != state.size + _DIGEST or not (checked or _is_whole(file, state.size)):
            file.close()
            _log.warning("the copy %s is damaged, and is fetched again", path)
            path.unlink(missing_ok=True)
            return None
        if not checked:
            with suppress(OSError):  # who may not touch it may read it
                os.utime(path)
            self._checked[name] = found.st_ino
        return file

    def _fetch(self, filesystem: Any, path: str, name: str, state: _State) -> BinaryIO | None:
        if self._given_up:
            return None
        with self._locked(f"lock-{name[:2]}"):
            found = self._open(name, state)  # another process may have been faster
            if found is None:
                with ExitStack() as renamed, whole_file(self.folder / name) as part:
                    self._reserve(part, state.size + _DIGEST)
                    _copy(filesystem, path, part, state)
                    renamed.enter_context(self._locked("lock"))  # a listing meanwhile may show neither name
                found = self._open(name, state)
        return found

    def _reserve(self, part: Path, size: int) -> None:
        """Make room for a part, oldest copies first; parts count as what they will be."""
        with self._locked("lock"):
            remove_strays(self.folder, deep=False, older=_STALE)
            kept = sorted(self._copies())
            excess = max(sum(n for _, n, _ in kept) + size - self.most, size - shutil.disk_usage(self.folder).free)
            old = [(n, path) for used, n, path in kept if used < self.began and not is_stray(path.name)]
            if excess > sum(n for n, _ in old):
                raise _FullError
            for n, path in old:
                if excess <= 0:
                    break
                path.unlink(missing_ok=True)
                excess -= n
            part.touch()

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """When each copy, or part of one, was last used, its size when whole, and its path."""
        for path in self.folder.iterdir():
            fields = path.name.removeprefix(".").split(".")[0].split("-")
            if fields[0] != "lock":
                with suppress(FileNotFoundError, IndexError, ValueError):
                    yield path.stat().st_mtime, int(fields[1]) + _DIGEST, path

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with (self.folder / name).open("ab") as file:
            lock(file.fileno())
            yield


def _refuse_shared(folder: Path) -> None:
    """Refuse a folder in which others could lay down copies."""
    found, me = folder.stat(), os.geteuid()
    wrong = f"belongs to user {found.st_uid}, not to {me}" if found.st_uid != me else ""
    if not wrong and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        wrong = f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    if wrong:
        raise UsageError(
            f"`cache_dir` {folder} {wrong}, who could change what is read; give a folder of your own, such as a new"
            " one, which is made for you alone"
        )


def _state_of(filesystem: Any, path: str) -> _State | None:
    """Ask the store how an object is; None where it does not say enough to know it again."""
    filesystem.invalidate_cache(filesystem._parent(path))  # not what a listing said earlier
    info = {key.lower().replace("-", "_"): value for key, value in filesystem.info(path).items()}
    tag = info.get("etag") or info.get("mtime") or info.get("last_modified") or info.get("lastmodified")
    if info.get("type") != "file" or info.get("size") is None or not tag:
        return None
    return _State(int(info["size"]), f"{tag} {info.get('ino', '')}")


def _name(filesystem: Any, path: str, state: _State) -> str:
    options = filesystem.storage_options
    server = options.get("endpoint_url") or options.get("client_kwargs", {}).get("endpoint_url") or options.get("host")
    identity = "\n".join((repr(filesystem.protocol), str(server), path, state.mark))
    return f"{hashlib.sha256(identity.encode()).hexdigest()[:40]}-{state.size}"


def _copy(filesystem: Any, path: str, part: Path, state: _State) -> None:
    try:
        filesystem.get_file(path, str(part))
        now = _state_of(filesystem, path)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise _StoreError from error
    if part.stat().st_size != state.size or now != state:
        raise _ToldError(OSError(f"{path} has changed since it was first read; open the store anew"))
    digest = bytes.fromhex(digest_of(part))
    with part.open("ab") as file:
        file.write(digest)


def _is_whole(file: BinaryIO, size: int) -> bool:
    digest, left = xxhash.xxh3_128(), size
    while left and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    return file.read() == digest.digest()


def _part(file: BinaryIO, size: int, start: int | None, end: int | None) -> bytes:
    first = max(0, size + start) if start is not None and start < 0 else start or 0
    last = size if end is None else min(end, size)
    found = os.pread(file.fileno(), max(0, last - first), first)
    if len(found) < last - first:
        raise OSError(f"{file.name} ends early")
    return found
