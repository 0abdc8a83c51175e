"""Bringing whole files from S3 into a local archive: verified, resumable, each file whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from catalog.geostationary.names import bucket, prefix
from catalog.geostationary.naming import lineage_of
from catalog.geostationary.s3 import (
    CONNECT_TIMEOUT,
    READ_TIMEOUT,
    faults,
    refuse_changed,
    s3_filesystem,
    split_url,
    translate_s3_errors,
)
from catalog.geostationary.scans import SourceFile
from stratacube.errors import ClaimLostError, SourceError, StratacubeError, UsageError
from stratacube.files import whole_file
from stratacube.retry import call_again

__all__ = ["FetchTask", "destination", "fetch_files", "local_copy"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_LONGEST_WAIT = 30.0
_STALE = 3600.0
"""Seconds after which what a killed run left is removed."""


@dataclass(frozen=True)
class FetchTask:
    """Bring some files that belong together, such as those of a scan, in a worker."""

    key: str
    files: tuple[SourceFile, ...]
    root: Path
    endpoint_url: str | None = None

    def fetch(self) -> tuple[list[tuple[SourceFile, str]], bool]:
        """Bring them.

        Returns
        -------
        failures : list of (SourceFile, str)
            Those that could not be had, each with the reason.
        in_vain : bool
            Whether the server gave none of them, so that others will fare no better.

        Raises
        ------
        StratacubeError
            As of :func:`fetch_files`.
        """
        refused = list[StratacubeError]()
        _, failures = fetch_files(self.files, self.root, endpoint_url=self.endpoint_url, refused=refused.append)
        in_vain = len(failures) == len(self.files) and all(map(_is_servers_fault, refused))
        return failures, in_vain


def fetch_files(
    files: Sequence[SourceFile],
    root: Path,
    *,
    endpoint_url: str | None = None,
    connections: int = 4,
    retries: int = 3,
    backoff: float = 0.5,
    connect_timeout: float = CONNECT_TIMEOUT,
    read_timeout: float = READ_TIMEOUT,
    progress: Callable[[SourceFile], None] | None = None,
    refused: Callable[[StratacubeError], None] = lambda _: None,
) -> tuple[list[SourceFile], list[tuple[SourceFile, str]]]:
    """Download files from S3 into a local archive (see :func:`destination` for where they go).

    A file that lies there with its full size is kept. Each download is written aside, its size and (where the ETag
    is one) MD5 digest compared with the listing's, and then renamed.

    Parameters
    ----------
    files
        As listed; local ones are passed through.
    root
        Folder of the local archive; made if need be.
    endpoint_url
        S3 endpoint instead of AWS.
    connections
        Files downloaded at once.
    retries
        Tries again after a fault.
    backoff
        Seconds before the first repetition; doubles with each.
    connect_timeout, read_timeout
        Seconds.
    progress
        Called after each file, whatever became of it, in the calling thread.
    refused
        Called with what was raised for a file that could not be had.

    Returns
    -------
    files : list of SourceFile
        Those that are local now, in the order given.
    failures : list of (SourceFile, str)
        Those that are not, each with the reason. When the bucket has failed many times in a row the rest is not
        tried.

    Raises
    ------
    UsageError
        If the folder cannot be written.
    SourceError
        If the disk is full.
    """
    job = _Job(root, endpoint_url, retries, backoff, connect_timeout, read_timeout)
    if any(file.href.startswith("s3://") for file in files):
        _make_writable(root)
    here: list[SourceFile] = []
    failures: list[tuple[SourceFile, str]] = []
    patience, failed_in_a_row = max(8, 2 * connections), 0
    with ThreadPoolExecutor(connections, thread_name_prefix="s3-fetch") as pool:
        futures: list[Future[SourceFile]] = [pool.submit(job.fetch, file) for file in files]
        try:
            for file, future in zip(files, futures, strict=True):
                try:
                    here.append(future.result())
                    failed_in_a_row = 0
                except (_DiskError, ClaimLostError):
                    raise
                except CancelledError:
                    failures.append((file, f"not tried: the server had failed {patience} times in a row"))
                except StratacubeError as error:
                    failures.append((file, str(error)))
                    refused(error)
                    failed_in_a_row += _is_servers_fault(error)
                    if failed_in_a_row == patience:
                        for waiting in futures:
                            waiting.cancel()
                if progress is not None:
                    progress(file)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return here, failures


def destination(file: SourceFile, root: Path) -> Path:
    """Where a file goes in a local archive.

    An archive keeps the layout it has: below ``<root>/noaa-goesNN/`` where there is that folder (a mirror of the
    buckets), straight into ``<root>/YYYY/DDD/HH/`` where the root has folders of years and none of the product (an
    archive of one product), and into ``<root>/<product>/YYYY/DDD/HH/`` everywhere else.
    """
    return root / _layout(root, file.platform, file.product) / _hour(file) / file.href.rpartition("/")[2]


def local_copy(file: SourceFile, root: Path) -> SourceFile | None:
    """Return a remote file as it lies in a local archive, fetched whole; None where it does not."""
    place = destination(file, root)
    there = place.is_file() and place.stat().st_size == file.size
    return _localised(file, place) if there else None


def _hour(file: SourceFile) -> str:
    return prefix(file.sector, file.start).partition("/")[2]


def _layout(root: Path, platform: str, product: str) -> str:
    """Folder of a product's years, relative to the root."""
    if (root / bucket(platform)).is_dir():
        return f"{bucket(platform)}/{product}"
    if not lineage_of(product) and not (root / product).is_dir() and root.is_dir():
        with os.scandir(root) as entries:
            if any(re.fullmatch(r"(19|20)\d\d", entry.name) and entry.is_dir() for entry in entries):
                return "."
    return product


def _make_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".{uuid.uuid4().hex}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"{root} cannot be written ({error.strerror}); give a writable folder as `local_data_dir`"
        ) from error


class _DiskError(SourceError):
    """Nothing more can be written."""


@dataclass
class _Job:
    """Downloads with one set of options."""

    root: Path
    endpoint_url: str | None
    retries: int
    backoff: float
    connect_timeout: float
    read_timeout: float

    def fetch(self, file: SourceFile) -> SourceFile:
        """Download one file, unless it is there."""
        if not file.href.startswith("s3://"):
            return file
        if (there := local_copy(file, self.root)) is not None:
            return there
        place = destination(file, self.root)
        with translate_s3_errors(file.href, self.endpoint_url), _local_faults(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(place)
            call_again(
                lambda: self._download(file, place),
                tries=self.retries + 1,
                pause=self.backoff,
                longest=_LONGEST_WAIT,
                again=_may_pass,
                name=file.href,
            )
        return _localised(file, place)

    def _download(self, file: SourceFile, place: Path) -> None:
        """Download once, aside, and rename when whole."""
        # botocore does not repeat here what this class repeats itself.
        s3 = s3_filesystem(
            self.endpoint_url, connect_timeout=self.connect_timeout, read_timeout=self.read_timeout, retries=0
        )
        with whole_file(place) as part:
            s3.get_file(file.href, str(part), max_concurrency=1)
            size = part.stat().st_size
            if size != file.size:
                raise SourceError(f"{file.href} came with {size} bytes where the listing says {file.size}; list again")
            if not _is_md5(file.tag):
                refuse_changed(file.href, file.tag, self._head(file).get("ETag"))
            elif _md5(part) != file.tag and not _is_encrypted(self._head(file)):
                raise SourceError(f"{file.href} came with a digest other than its ETag {file.tag}; try again")

    def _head(self, file: SourceFile) -> dict[str, Any]:
        """What the server says of the object."""
        name, key = split_url(file.href)
        s3 = s3_filesystem(
            self.endpoint_url, connect_timeout=self.connect_timeout, read_timeout=self.read_timeout, retries=0
        )
        head: dict[str, Any] = s3.call_s3("head_object", Bucket=name, Key=key)
        return head


def _is_encrypted(head: dict[str, Any]) -> bool:
    """Whether the server keeps an object under a key of its owner: its ETag is not a digest then."""
    return head.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in head


def _may_pass(error: BaseException) -> bool:
    """Whether another attempt may do better: not where the object is missing or refused, nor where the disk failed."""
    lasting = isinstance(error, FileNotFoundError | PermissionError) or _is_local(error)
    return isinstance(error, faults()) and not lasting


def _is_servers_fault(error: StratacubeError) -> bool:
    """Whether other files will fare no better: not so for one that is gone or has changed."""
    return error.__cause__ is not None and not isinstance(error.__cause__, FileNotFoundError)


def _is_local(error: BaseException) -> bool:
    """Whether an error came from the disk: S3's have no file name."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _NO_ROOM)


@contextmanager
def _local_faults(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not _is_local(error):
            raise
        kind = _DiskError if error.errno in _NO_ROOM else SourceError
        raise kind(f"{place} cannot be written ({error.strerror}); make room for it and run again") from error


def _is_md5(tag: str) -> bool:
    """Whether an ETag is a digest; that of an upload in parts is not."""
    return re.fullmatch(r"[0-9a-f]{32}", tag) is not None


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _remove_stale(place: Path) -> None:
    """Remove what killed runs left of a file."""
    for part in place.parent.glob(f"*{place.name}.*.part"):
        if time.time() - part.stat().st_mtime > _STALE:
            part.unlink(missing_ok=True)


def _localised(file: SourceFile, place: Path) -> SourceFile:
    status = place.stat()
    return replace(file, href=str(place.absolute()), size=status.st_size, tag=str(status.st_mtime_ns))
