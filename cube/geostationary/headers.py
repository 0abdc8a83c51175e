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
from cube.geostationary.same_place import majority
from stratacube.errors import SourceError, UnavailableError
from stratacube.retry import call_again

__all__ = ["Headers", "PlannedHeaders"]

_PAUSE = 0.5
"""Seconds before the second try at a file that could not be read; doubles with each."""


class Headers:
    """Grids of scans, read from two files each: of every scan of a sector that moves, of one a day of one that stays.

    Of one file alone it could not be told whether it lies where it says; two that differ are decided by the others.

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

    def of(self, scan: Scan, beside: Sequence[Scan] = ()) -> FileIndex:
        """Index of one readable file of a scan, the coarsest first, that looks where most of them do.

        Parameters
        ----------
        scan
            The scan.
        beside
            Scans next to it, which are asked too where the sector does not move and few files tell where it lies.

        Raises
        ------
        SourceError
            If all files of the scan are damaged, or no place is that of most of them.
        UnavailableError
            If one could not be read now: nothing may be concluded from that.
        """
        moves = scan.sector in dialect_of(scan.platform).names.moving
        key = scan.id if moves else (scan.platform, scan.sector, scan.start.date())
        witnesses = [scan] if moves else [scan, *beside]
        if key not in self._known:
            self._known[key] = self._read(witnesses)
        found = self._known[key]
        if isinstance(found, str):
            if key == scan.id:
                raise SourceError(found)
            found = self._known[key] = self._read(witnesses)  # another scan of the day may be readable
            if isinstance(found, str):
                raise SourceError(found)
        return found

    def _read(self, scans: Sequence[Scan]) -> FileIndex | str:
        """The first file, of scans of one place, that looks where another does; or why there is none."""
        reason, found = f"scan {scans[0].id} has no files", list[FileIndex]()
        imager = imager_of(scans[0].platform)
        for scan in scans:
            for channel in sorted(scan.files, key=lambda c: (-imager.band(c).pixel_urad, c)):
                try:
                    found.append(self.index(scan.files[channel]).without_chunks())
                except UnavailableError:
                    raise
                except SourceError as damaged:
                    reason = str(damaged)
                    continue
                agreed = majority(found)
                if len(agreed) > 1:
                    return agreed[0]
        if len(found) == 1:
            return found[0]
        if not found:
            return reason
        return f"the files of scan {scans[0].id} do not look at one place; fetch again those that differ"

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
                return self.headers.of(whole[at], [*whole[max(0, at - 1) : at], *whole[at + 1 : at + 2]])
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
