"""Where files of geostationary imagers are kept, and how to list those of a period without walking through all."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.names import HOUR, bucket, hours, nearly_a_name, prefix
from catalog.geostationary.naming import REPROCESSED, Naming, lineage_of
from catalog.geostationary.s3 import CONNECT_TIMEOUT, READ_TIMEOUT, RETRIES, s3_filesystem, translate_s3_errors
from catalog.geostationary.scans import Identity, SourceFile, better
from catalog.geostationary.truncation import breaks_off
from stratacube.errors import UnavailableError, UsageError
from stratacube.times import shifted

__all__ = ["Archive", "FirstOf", "LocalArchive", "S3Archive", "s3_filesystem"]

_log = logging.getLogger(__name__)

_SUFFIXES = (".nc", ".nc4")
"""Of names that are taken for files without asking the disk, which takes long."""
_TOLD = 3
"""Files not understood that are named."""
_MOST_PAGES = 1000
"""Of 1,000 objects, in the folder of an hour: the fullest one has five."""
_NOTHING_THERE = (errno.ENOENT, errno.ELOOP)
"""Removed since it was listed, a link to nothing, or a link to itself."""


class Archive(Protocol):
    """A place with files of an imager."""

    def files(self, platform: str, sector: str, start: datetime | None, end: datetime | None) -> Iterator[SourceFile]:
        """List the files of a platform and sector that start in a period.

        Parameters
        ----------
        platform
            ``goes16`` .. ``goes19``.
        sector
            ``F``, ``C``, ``M1`` or ``M2``.
        start, end
            Naive UTC; ``start`` inclusive, ``end`` exclusive, None open.
        """
        ...


class LocalArchive:
    """A folder with files of an imager at any depth.

    Folders of the layout ``YYYY/DDD/HH`` are entered only where they can hold files of the period (an hour more at
    each side), also when the root itself lies inside such a tree; folders that the imager's archives name as another
    product's or platform's are left out. Everything else is looked through. Files that are not named as the imager's
    are ignored; those that nearly are, are counted in a warning.

    Parameters
    ----------
    root
        The folder.
    naming
        The imager's names.
    lineage
        Of the files: empty for the operational one, or :data:`~catalog.geostationary.naming.REPROCESSED`. Others are
        left out, and counted in a warning where they lie among those.

    Raises
    ------
    UsageError
        If it does not exist or is not a folder.
    """

    def __init__(self, root: Path | str, naming: Naming = ABI_NAMES, lineage: str = "") -> None:
        self.naming, self.lineage = naming, lineage
        self.root = Path(root).absolute()
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise UsageError(f"local archive {self.root} {what}; give the folder of the {naming.title} files")

    def files(
        self, platform: str | None, sector: str | None, start: datetime | None, end: datetime | None
    ) -> Iterator[SourceFile]:
        """List files in the order of their paths; of any platform or sector where None is given.

        Raises
        ------
        SourceError
            If a folder of the period cannot be read.
        """
        left, right = start or datetime.min, end or datetime.max
        wanted = _Wanted(self.naming, platform, sector, self.lineage, shifted(left, -HOUR), shifted(right, HOUR))
        near: list[str] = []
        others: set[str] = set()
        for entry in _walk(self.root, wanted):
            name = self.naming.parse_path(entry.path)
            if name and lineage_of(name.product) != self.lineage:
                others.add(name.product)
                continue
            if name is None and (reason := self.naming.nearly(entry.name)):
                near.append(f"{entry.name} ({reason})")
            if (
                name
                and platform in (None, name.platform)
                and sector in (None, name.sector)
                and left <= name.start < right
            ):
                try:
                    status = entry.stat()
                except OSError as error:
                    if error.errno in _NOTHING_THERE:
                        continue
                    raise _unreadable(entry.path, error) from error
                if stat.S_ISREG(status.st_mode):
                    yield SourceFile(entry.path, status.st_size, str(status.st_mtime_ns), *name)
        if near:
            _log.warning("%s", _told(self.naming.title, sorted(near)))
        for product in sorted(others) if not self.lineage else ():
            _log.warning("files of %s are left out; give `product=%s` to read those instead", product, product)


def _told(title: str, near: list[str]) -> str:
    """Say which files were nearly read, and why they were not."""
    what = (
        f"1 file looks like {title} L1b and was"
        if len(near) == 1
        else f"{len(near)} files look like {title} L1b and were"
    )
    rest = f", and {len(near) - _TOLD} more" if len(near) > _TOLD else ""
    return f"{what} not understood: {', '.join(near[:_TOLD])}{rest}"


class _Wanted:
    """Which folders may hold files of a platform, product and period."""

    def __init__(
        self, naming: Naming, platform: str | None, sector: str | None, lineage: str, start: datetime, end: datetime
    ) -> None:
        self.naming, self.platform, self.sector, self.lineage = naming, platform, sector, lineage
        self.start, self.end = start, end

    def allows(self, parents: tuple[str, ...], name: str) -> bool:
        """Whether to enter a folder below these parents."""
        if lineage_of(name) not in ("", self.lineage):
            return False
        if not self.naming.enters(self.platform, self.sector, name.removesuffix(REPROCESSED)):
            return False
        period = _period((*parents[-2:], name))
        return period is None or (period[0] < self.end and self.start < period[1])


def _period(parts: tuple[str, ...]) -> tuple[datetime, datetime] | None:
    """Period of a folder by the end of its path: a day ``YYYY/DDD`` or an hour ``YYYY/DDD/HH``; None if it is neither.

    A year alone is no evidence: ``2021/`` may as well be a project's folder, so its days are asked instead.
    """
    for count, pattern, length in ((3, "%Y/%j/%H", HOUR), (2, "%Y/%j", timedelta(days=1))):
        tail = "/".join(parts[-count:])
        if len(parts) >= count and len(tail) == (11 if count == 3 else 8):
            try:
                begin = datetime.strptime(tail, pattern)
            except ValueError:
                continue
            return begin, shifted(begin, length)
    return None


def _walk(folder: Path, wanted: _Wanted) -> Iterator[os.DirEntry[str]]:
    """Files below a folder in the order of their paths; a folder linked twice is entered once."""
    entered: set[tuple[int, int]] = set()
    stack: list[str] = [str(folder)]
    while stack:
        path = stack.pop()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                continue
            raise _unreadable(path, error) from error
        parents = Path(path).parts
        files = []
        for entry in reversed(entries):
            if entry.name.endswith(_SUFFIXES) or not _is_folder(entry):
                files.append(entry)
            elif wanted.allows(parents, entry.name):
                stack.append(entry.path)
        yield from reversed(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return False
        raise _unreadable(entry.path, error) from error


def _unreadable(path: str, error: OSError) -> UnavailableError:
    return UnavailableError(f"{path} cannot be read ({error.strerror}); check its permissions")


class S3Archive:
    """NOAA's public buckets, ``s3://noaa-goes16`` .. ``s3://noaa-goes19``, listed by the hour.

    Parameters
    ----------
    endpoint_url
        A server that answers as S3 does; None for AWS.
    listings
        Hours listed at once.
    connect_timeout, read_timeout
        Seconds.
    retries
        Tries again after a fault of the connection or the server.
    lineage
        Of the files, as for :class:`LocalArchive`.
    """

    def __init__(
        self,
        endpoint_url: str | None = None,
        *,
        listings: int = 8,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        retries: int = RETRIES,
        lineage: str = "",
    ) -> None:
        self.endpoint_url, self.lineage = endpoint_url, lineage
        self.listings = listings
        self._options: dict[str, Any] = {
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "retries": retries,
        }

    def files(self, platform: str, sector: str, start: datetime | None, end: datetime | None) -> Iterator[SourceFile]:
        """List files hour by hour; an hour without files is empty.

        Raises
        ------
        UsageError
            If the period is open: buckets go back for years.
        SourceError
            If the bucket is refused, out of reach or too slow; one sentence with endpoint and bucket.
        """
        if start is None or end is None:
            raise UsageError("S3 is listed by the hour; give the period with `start_dt` and `end_dt`")
        for listing in self._in_order(platform, sector, hours(start, end)):
            yield from (file for file in listing if start <= file.start < end)

    def _in_order(self, platform: str, sector: str, wanted: Iterator[datetime]) -> Iterator[list[SourceFile]]:
        """List hours in order, some of them ahead of what is consumed."""
        pool = ThreadPoolExecutor(self.listings, thread_name_prefix="s3-list")
        ahead: deque[Future[list[SourceFile]]] = deque()
        try:
            for hour in wanted:
                ahead.append(pool.submit(self._list_hour, platform, sector, hour))
                if len(ahead) > 2 * self.listings:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _list_hour(self, platform: str, sector: str, hour: datetime) -> list[SourceFile]:
        name = bucket(platform)
        begin = "" if self.lineage else f"OR_ABI-L1b-Rad{sector}-"
        request = {"Bucket": name, "Prefix": f"{prefix(sector, hour, self.lineage)}/{begin}"}
        found, near = [], []
        with translate_s3_errors(name, self.endpoint_url):
            s3 = s3_filesystem(self.endpoint_url, **self._options)
            for _ in range(_MOST_PAGES):
                page = s3.call_s3("list_objects_v2", **request)
                for thing in page.get("Contents", ()):
                    fields, called = ABI_NAMES.parse_path(thing["Key"]), thing["Key"].rpartition("/")[2]
                    if fields is None and (reason := nearly_a_name(called)):
                        near.append(f"{called} ({reason})")
                    if fields and (fields.platform, fields.sector) == (platform, sector):
                        tag = thing.get("ETag", "").strip('"')
                        found.append(SourceFile(f"s3://{name}/{thing['Key']}", thing["Size"], tag, *fields))
                if not page.get("IsTruncated"):
                    break
                following = page.get("NextContinuationToken")
                if following in (None, request.get("ContinuationToken")):
                    raise OSError("its listing goes on without saying where")
                request["ContinuationToken"] = following
            else:
                raise OSError(f"its listing of {request['Prefix']} goes on after {_MOST_PAGES} pages")
        if near:
            _log.warning("%s", _told(ABI_NAMES.title, near))
        return found


class FirstOf:
    """Local files first, and from S3 what is missing.

    A file is missing where the first archive has none of its platform, sector, channel and start, has one created
    earlier, or has a shorter one that breaks off before its own end.

    Parameters
    ----------
    local, remote
        The archive that is preferred, and the one that completes it.
    """

    def __init__(self, local: Archive, remote: Archive) -> None:
        self.local, self.remote = local, remote

    def files(self, platform: str, sector: str, start: datetime | None, end: datetime | None) -> Iterator[SourceFile]:
        """List files of both by start and channel, each once."""
        best: dict[Identity, SourceFile] = {}
        for file in self.local.files(platform, sector, start, end):
            best[file.identity] = better(file, best.get(file.identity))
        for file in self.remote.files(platform, sector, start, end):
            ours = best.get(file.identity)
            if ours is None or file.created > ours.created or (file.size > ours.size and breaks_off(ours.href)):
                best[file.identity] = file
        yield from sorted(best.values(), key=lambda file: (file.start, file.channel))
