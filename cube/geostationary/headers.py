"""Headers of scans: what the planner has to know of where a scan looks, before any pixel is read."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from catalog.geostationary.scans import Scan, SourceFile
from cube.geostationary.dialect import dialect_of, imager_of
from cube.geostationary.grid import FixedGrid
from cube.geostationary.index import FileIndex, index_file
from stratacube.errors import SourceError, UnavailableError
from stratacube.retry import call_again

__all__ = ["Headers", "PlannedHeaders"]

_PAUSE = 0.5
"""Seconds before the second try at a file that could not be read; doubles with each."""


class Headers:
    """Grids of scans, read from one file each: of every scan of a sector that moves, of one a day of one that does not.

    Parameters
    ----------
    cache
        Folder of cached indexes; None for no caching.
    endpoint_url
        S3 endpoint, for files on S3.
    retries
        How often a file on S3 is tried again that could not be read.
    """

    def __init__(self, cache: Path | None, endpoint_url: str | None, retries: int = 0) -> None:
        self.cache, self.endpoint_url, self.retries = cache, endpoint_url, retries
        self._known: dict[Any, FileIndex | str] = {}
        """Or why there is none: an exception that is raised again and again would grow."""

    def of(self, scan: Scan) -> FileIndex:
        """Index of one readable file of a scan, the coarsest first.

        Raises
        ------
        SourceError
            If all files of the scan are damaged.
        UnavailableError
            If one could not be read now: nothing may be concluded from that.
        """
        moving = dialect_of(scan.platform).names.moving
        key = scan.id if scan.sector in moving else (scan.platform, scan.sector, scan.start.date())
        if key not in self._known:
            self._known[key] = self._read(scan)
        found = self._known[key]
        if isinstance(found, str):
            if key == scan.id:
                raise SourceError(found)
            found = self._known[key] = self._read(scan)  # another scan of the day may be readable
            if isinstance(found, str):
                raise SourceError(found)
        return found

    def _read(self, scan: Scan) -> FileIndex | str:
        reason = f"scan {scan.id} has no files"
        imager = imager_of(scan.platform)
        for channel in sorted(scan.files, key=lambda c: (-imager.band(c).pixel_urad, c)):
            try:
                return self.index(scan.files[channel]).without_chunks()
            except UnavailableError:
                raise
            except SourceError as damaged:
                reason = str(damaged)
        return reason

    def index(self, file: SourceFile) -> FileIndex:
        """Index of one file, tried again as often as was said.

        Raises
        ------
        SourceError
            If it is damaged.
        UnavailableError
            If it could not be read now.
        """
        read = partial(index_file, file, self.cache, self.endpoint_url)
        name = f"reading {file.href}"
        retries = self.retries if file.href.startswith("s3://") else 0  # a disk does not fail now and then
        return call_again(read, tries=1 + retries, pause=_PAUSE, again=UnavailableError, name=name)


class PlannedHeaders:
    """Where scans look, of an archive some of whose scans may be damaged: those look where the scan next to them does.

    Which tiles are drawn must not depend on what can be read. So a scan that is damaged is planned as if it were not,
    and gives way only when a tile would be cut from it.

    Parameters
    ----------
    headers
        Of single scans.
    scans
        All there are, sorted by start.
    """

    def __init__(self, headers: Headers, scans: Sequence[Scan]) -> None:
        self.headers = headers
        self.damaged: dict[str, str] = {}
        """Scans of which no file can be read, and why, as far as they were asked for."""
        self.unavailable: UnavailableError | None = None
        """What could not be read, and whoever asked for it may have taken for a fact."""
        self._whole: dict[str, list[Scan]] = defaultdict(list)
        """By satellite, those that are not known as damaged: else many would be passed over again and again."""
        for scan in scans:
            self._whole[scan.platform].append(scan)
        self._found: dict[str, FileIndex] = {}

    def of(self, scan: Scan) -> FileIndex:
        """Index of one file of a scan; of a damaged one, of the readable scan nearest in time.

        Raises
        ------
        SourceError
            If all scans of the satellite are damaged: what is wrong with this one.
        UnavailableError
            If a file could not be read now.
        """
        if scan.id not in self._found:
            self._found[scan.id] = self._find(scan)
        return self._found[scan.id]

    def grid(self, scan: Scan, pixel: float) -> FixedGrid:
        """Grid of a scan with pixels of a given side in radians."""
        grid = self.of(scan).grid
        return grid.rescaled(pixel / grid.dx)

    def _find(self, scan: Scan) -> FileIndex:
        whole = self._whole[scan.platform]
        while whole:
            at = _nearest(whole, scan)
            try:
                return self.headers.of(whole[at])
            except UnavailableError as error:
                self.unavailable = error
                raise
            except SourceError as error:
                self.damaged[whole.pop(at).id] = str(error)
        raise SourceError(self.damaged[scan.id])


def _nearest(scans: Sequence[Scan], scan: Scan) -> int:
    """Where in a list sorted by start the scan itself is, else that which starts nearest to it; of two the earlier."""
    after = bisect_left(scans, scan.start, key=lambda s: s.start)
    for at in range(after, len(scans)):
        if scans[at].start != scan.start:
            break
        if scans[at].id == scan.id:
            return at
    if after == len(scans) or (after and scan.start - scans[after - 1].start <= scans[after].start - scan.start):
        return after - 1
    return after
