"""References to the chunks of one file: where each lies, how it is encoded, what its numbers mean.

A :class:`FileIndex` is all that is needed to read any pixel of a file by plain byte ranges, without HDF5. It is
made once per file (HDF5's lock is process-wide, so by processes) and cached by path, size and modification tag.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import h5py

from catalog.geostationary.s3 import client_faults, refuse_changed, s3_filesystem, translate_s3_errors
from catalog.geostationary.scans import SourceFile
from cube.geostationary.dialect import dialect_of
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.index_cache import cache_name, load_index, save_index, with_current_stat
from stratacube.guard import guarded

__all__ = ["ChunkTable", "FileIndex", "IndexTask", "index_file"]

_KEPT = 64
"""Indexes held in memory once they were read from the cache: four scans of 16 bands, which every step asks for anew.
Of full disks they take 4 MB."""
_S3_BLOCK = 2**20  # HDF5's metadata lies scattered between the chunks: small blocks fetch less of what is not needed


@dataclass(frozen=True)
class IndexTask:
    """Index one file, in a worker."""

    source: SourceFile
    cache: Path
    endpoint_url: str | None = None

    @property
    def key(self) -> str:
        """Name among the tasks of a run."""
        return self.source.href

    def index(self) -> FileIndex:
        """Return the whole index."""
        return index_file(self.source, self.cache, self.endpoint_url)

    def warm(self) -> bool:
        """Put the index into the cache, and return nothing of it: a build has more files than one process may hold."""
        self.index()
        return True


def index_file(source: SourceFile, cache: Path | None = None, endpoint_url: str | None = None) -> FileIndex:
    """Index one file, from the cache when it is there.

    Parameters
    ----------
    source
        The file as its archive listed it.
    cache
        Folder of cached indexes; None for no caching.
    endpoint_url
        S3 endpoint, for files on S3.

    Raises
    ------
    SourceError
        If the file is truncated, or is not a file of its imager.
    UnavailableError
        If it cannot be read now, whatever it holds.
    """
    source = with_current_stat(source)
    cached = None if cache is None else cache / cache_name(source)
    if cached is not None:
        with suppress(LookupError):
            return _known(cached, source)
    dialect = dialect_of(source.platform)
    with (
        guarded(f"{source.href} is not a readable {dialect.files} file", "fetch it again, or leave it out"),
        _opened(source, endpoint_url) as file,
        h5py.File(file, "r") as h5,
    ):
        index = dialect.read(h5, source)
    if cached is not None:
        try:
            save_index(index, cached)
        except OSError as error:  # a cache that cannot be kept costs time, nothing else
            warnings.warn(f"index of {source.href} is not cached ({error.strerror}: {cached.parent})", stacklevel=2)
    return index


@lru_cache(_KEPT)
def _known(path: Path, source: SourceFile) -> FileIndex:
    """Index of a file from the cache; LookupError if it is not there, which is not remembered."""
    index = load_index(path, source)
    if index is None:
        raise LookupError(path)
    return index


@contextmanager
def _opened(source: SourceFile, endpoint_url: str | None) -> Iterator[BinaryIO | str]:
    """What h5py opens: a path, or a file on S3 read in blocks."""
    if source.href.startswith("s3://"):
        with translate_s3_errors(source.href, endpoint_url):
            remote = s3_filesystem(endpoint_url).open(source.href, block_size=_S3_BLOCK, cache_type="blockcache")
        with remote as file:
            with translate_s3_errors(source.href, endpoint_url):
                refuse_changed(source.href, source.tag, remote.details.get("ETag"))
            try:
                yield file  # by reads on the condition that it is still the same
            except client_faults():
                with translate_s3_errors(source.href, endpoint_url):
                    raise
    else:
        yield source.href
