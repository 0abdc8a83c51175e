"""A file system that shows a folder as a slow network does: look-ups, attributes and listings may be 3 s old; no locks.

``python fuse_passthrough.py FOLDER MOUNT`` shows FOLDER at MOUNT until it is ended.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import Any, NoReturn

import mfusepy

AGE = 3.0
"""Seconds for which what was seen is believed."""


class Passthrough(mfusepy.Operations):
    use_ns = True

    def __init__(self, root: str) -> None:
        self.root = root
        self.listings: dict[str, tuple[float, list[str]]] = {}

    def _real(self, path: str) -> str:
        return self.root + path

    def _changed(self, path: str) -> None:
        """A client sees what it changes itself at once, as on NFS."""
        self.listings.pop(os.path.dirname(path), None)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        st = os.lstat(self._real(path)) if fh is None else os.fstat(fh)
        whole = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
        times = {f"st_{t}time": getattr(st, f"st_{t}time_ns") for t in "amc"}
        return {name: getattr(st, name) for name in whole} | times

    def readdir(self, path: str, fh: int) -> list[str]:
        then, names = self.listings.get(path, (0.0, []))
        if time.monotonic() - then > AGE:
            names = [".", "..", *os.listdir(self._real(path))]
            self.listings[path] = time.monotonic(), names
        return names

    def create(self, path: str, mode: int, flags: int) -> int:
        handle = os.open(self._real(path), flags | os.O_CREAT, mode)
        self._changed(path)
        return handle

    def open(self, path: str, flags: int) -> int:
        return os.open(self._real(path), flags)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._real(path) if fh is None else fh, length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._real(path), mode)
        self._changed(path)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._real(path))
        self._changed(path)

    def unlink(self, path: str) -> None:
        os.unlink(self._real(path))
        self._changed(path)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._real(old), self._real(new))
        self._changed(old)
        self._changed(new)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._real(path), ns=times)

    def flock(self, path: str, fh: int, op: int) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "no locks")

    def lock(self, path: str, fh: int, cmd: int, lock: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "no locks")


if __name__ == "__main__":
    mfusepy.FUSE(
        Passthrough(sys.argv[1]),
        sys.argv[2],
        foreground=True,
        attr_timeout=AGE,
        entry_timeout=AGE,
        negative_timeout=AGE,
        hard_remove=True,
    )
