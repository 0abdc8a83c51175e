"""What lies in a build's folder: names and sizes, listed once, and compared with what the ledger says was written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from stratacube.files import Written, digest_of, is_stray, remove_stray

__all__ = ["Listing"]

_ALWAYS_READ = (".json", ".yaml", ".parquet", ".parq", ".zmetadata", ".csv", ".md")
_SMALL = 1 << 20
"""Bytes up to which a table or description is read again: they are few, and each decides how all else is read."""


class Listing:
    """Names and sizes of a folder's files.

    Each part of the folder (and each array of a store) is listed once, when it is first asked for: one request for
    its metadata a file, which is what parallel file systems are slow at.

    Parameters
    ----------
    root
        The folder.
    tidy
        Remove what killed runs left not yet whole, as it is met; for whoever holds the folder's claim.
    """

    def __init__(self, root: Path, *, tidy: bool = False) -> None:
        self.root, self.tidy = root, tidy
        self._sizes: dict[str, dict[str, int]] = {}

    def size(self, path: str) -> int | None:
        """Size of a file, relative to the folder; None where there is none."""
        part = _part(path)
        if part not in self._sizes:
            self._sizes[part] = dict(self._walk(part))
        return self._sizes[part].get(path)

    def faults(self, files: Iterable[Written], *, thorough: bool = False, small: bool = False) -> Iterable[str]:
        """Yield what is not as it was written.

        Parameters
        ----------
        files
            What was written.
        thorough
            Read every byte, not only those of small tables and descriptions.
        small
            Read those of any small file.
        """
        for file in files:
            size = self.size(file.path)
            if size is None:
                yield f"{file.path} is missing"
            elif size != file.size:
                yield f"{file.path} has {size} bytes where {file.size} were written"
            elif file.digest and (thorough or (size <= _SMALL and (small or file.path.endswith(_ALWAYS_READ)))):
                try:
                    same = digest_of(self.root / file.path) == file.digest
                except OSError as error:
                    yield f"{file.path} cannot be read ({error.strerror})"
                    continue
                if not same:
                    yield f"{file.path} holds other bytes than were written"

    def holds(self, files: Iterable[Written], *, small: bool = False) -> bool:
        """Whether all is there as it was written, by names, sizes, and the digests of small files."""
        return next(iter(self.faults(files, small=small)), None) is None

    def _walk(self, part: str) -> Iterable[tuple[str, int]]:
        """Files below a part, however deep; of the folder itself and of a store, those that lie at its top."""
        waiting, deep = [part], bool(part) and not (part.endswith(".zarr") and "/" not in part)
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        path = f"{folder}/{entry.name}" if folder else entry.name
                        if self.tidy and is_stray(entry.name):
                            remove_stray(Path(entry.path))
                        elif entry.is_dir(follow_symlinks=False):
                            if deep:
                                waiting.append(path)
                        else:
                            yield path, entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                continue


def _part(path: str) -> str:
    """Folder that is listed as one: an array of a store, or what lies at the top."""
    first, _, rest = path.partition("/")
    if not rest:
        return ""
    second, _, more = rest.partition("/")
    return f"{first}/{second}" if first.endswith(".zarr") and more else first
