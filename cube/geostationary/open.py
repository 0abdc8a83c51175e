"""``cube.open_abi``: a virtual cube from a folder, an S3 prefix, a reference store or a STAC item of one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from catalog.geostationary.archives import LocalArchive, S3Archive
from catalog.geostationary.names import SECTORS, normalise_platform, parse_sector, platforms_for
from catalog.geostationary.scans import SourceFile, group_scans
from cube.config import default_cache
from cube.geostationary.index import FileIndex, IndexTask
from cube.geostationary.references import Reference, is_reference_store, read_references
from cube.geostationary.virtual import lazy_tree
from cube.job.engine import Workers, run_tasks
from stratacube.errors import SourceError, UsageError
from stratacube.times import naive_utc

__all__ = ["index_archive", "open_abi"]


def open_abi(
    source: Any,
    bands: Sequence[str | int] | str | int | None = None,
    start: str | datetime | None = None,
    end: str | datetime | None = None,
    *,
    platform: str | None = None,
    sector: str | None = None,
    chunks: Any = "auto",
    lonlat: bool = False,
    workers: int = 1,
    cache: Path | str | None = None,
    s3_endpoint: str | None = None,
) -> xr.DataTree:
    """Open an ABI archive as one lazy cube.

    Parameters
    ----------
    source
        A folder of ABI L1b files, ``s3://noaa-goesNN/ABI-L1b-RadF``, a reference store, or a STAC item, collection
        or asset of one (role ``references``).
    bands
        Such as ``["C02", 13]``; all by default.
    start, end
        Period in which scans start, UTC; ``end`` is exclusive.
    platform, sector
        Needed where the source holds several: ``goes16`` .. ``goes19`` (or east, west), and ``F, C, M1, M2``.
    chunks
        Dask chunks; ``"auto"`` makes chunks of about 2048 x 2048 pixels of one file, None gives arrays that read
        just what is indexed, without Dask.
    lonlat
        Whether to add ``longitude`` and ``latitude`` of every pixel, lazily.
    workers
        Processes that index files not yet indexed. With more than one, call from under
        ``if __name__ == "__main__":``, as for any process pool.
    cache
        Folder of indexes made before; the user's cache folder by default.
    s3_endpoint
        S3 endpoint instead of AWS.

    Returns
    -------
    DataTree
        Groups ``500m``, ``1km`` and ``2km`` of (time, band, y, x): ``radiance``, ``reflectance``,
        ``brightness_temperature`` and ``dqf`` as lazy float32, coordinates in radians of scan angle, and each file's
        coefficients. Files of different encodings are decoded each by its own; a missing file is NaN. A file that
        cannot be read is left out with a warning.

    Raises
    ------
    UsageError
        If the source is not there, holds no scan of the period, or holds several views.
    SourceError
        If no file is readable.
    """
    if sector is not None and sector.upper() not in SECTORS:
        raise UsageError(f"sector {sector!r} is unknown; ABI has {', '.join(SECTORS)}")
    query = _Query(
        _channels([bands] if isinstance(bands, (str, int)) else bands),
        _time(start),
        _time(end),
        platform and normalise_platform(platform),
        sector and sector.upper(),
        s3_endpoint,
    )
    location = _location(source)
    if not location.startswith("s3://") and is_reference_store(Path(location)):
        references = [
            reference
            for name, begin, until in query.spans()
            for reference in read_references(
                Path(location), platform=name, sector=query.sector, channels=query.channels, start=begin, end=until
            )
        ]
    else:
        folder = default_cache() / "index" if cache is None else Path(cache)
        references = [Reference(i) for i in index_archive(_files(location, query), folder, workers, s3_endpoint)]
    if not references:
        raise UsageError(f"{location} holds no ABI L1b scan {query}; check platform, sector, bands, start and end")
    return lazy_tree(references, chunks, lonlat, s3_endpoint)


@dataclass(frozen=True)
class _Query:
    """What of a source is wanted."""

    channels: tuple[int, ...] | None
    start: datetime | None
    end: datetime | None
    platform: str | None
    sector: str | None
    endpoint_url: str | None

    def spans(self) -> list[tuple[str | None, datetime | None, datetime | None]]:
        """Platforms with the part of the period that each holds: ``east`` and ``west`` follow the date."""
        if self.platform is None:
            return [(None, self.start, self.end)]
        return [*platforms_for(self.platform, self.start, self.end)]

    def __str__(self) -> str:
        what = [self.platform or "of any platform", self.sector or "any sector"]
        what += [f"from {self.start}"] * (self.start is not None) + [f"until {self.end}"] * (self.end is not None)
        return ", ".join(what)


def index_archive(
    files: Sequence[SourceFile], cache: Path, workers: int = 1, endpoint_url: str | None = None
) -> list[FileIndex]:
    """Index files, in processes if asked; one that cannot be read is left out with a warning.

    Parameters
    ----------
    files
        The files.
    cache
        Folder of cached indexes.
    workers
        Processes.
    endpoint_url
        S3 endpoint, for files on S3.

    Returns
    -------
    list of FileIndex
        In order of start and channel.
    """
    indexes = []
    tasks = [IndexTask(f, cache, endpoint_url) for f in files]
    with Workers(min(workers, max(1, len(tasks)))) as pool:
        for outcome in run_tasks(tasks, IndexTask.index, pool, retries=0, label="indexing"):
            if outcome.result is None:
                warnings.warn(f"left out: {outcome.error}", stacklevel=3)
            else:
                indexes.append(outcome.result)
    if tasks and not indexes:
        raise SourceError(f"none of {len(tasks)} files is readable; the first is {files[0].href}")
    return sorted(indexes, key=lambda i: (i.source.start, i.source.channel))


def _files(location: str, query: _Query) -> list[SourceFile]:
    if location.startswith("s3://"):
        match = re.fullmatch(r"s3://noaa-(goes\d\d)(?:/(ABI-L1b-Rad[FCM]\d?))?(?:/.*)?", location.rstrip("/"))
        if match is None:
            raise UsageError(f"{location} is not a prefix of NOAA's ABI buckets; give s3://noaa-goes16/ABI-L1b-RadF")
        platform, product = match[1], match[2] or "ABI-L1b-Rad"
        found = S3Archive(endpoint_url=query.endpoint_url).files(
            platform, parse_sector(product, query.sector), query.start, query.end
        )
    else:
        found = (
            file
            for platform, start, end in query.spans()
            for file in LocalArchive(Path(location)).files(platform, query.sector, start, end)
        )
    scans = group_scans(f for f in found if query.channels is None or f.channel in query.channels)
    return [file for scan in scans for file in scan.files.values()]


def _location(source: Any) -> str:
    """Path or URL of a source; of a STAC object the asset with the role ``references``."""
    assets = getattr(source, "assets", None)
    if assets is not None:
        named = [a for a in assets.values() if "references" in (a.roles or [])]
        if not named:
            raise UsageError(f"STAC object {source.id!r} has no asset with the role 'references'")
        source = named[0]
    if hasattr(source, "get_absolute_href"):
        source = source.get_absolute_href() or source.href
    return str(source).removeprefix("file://")


def _channels(bands: Sequence[str | int] | None) -> tuple[int, ...] | None:
    if bands is None:
        return None
    channels = []
    for band in bands:
        match = re.fullmatch(r"[Cc]?0*(\d+)", str(band))
        if match is None or not 1 <= int(match[1]) <= 16:
            raise UsageError(f"band {band!r} is unknown; ABI has C01 to C16")
        channels.append(int(match[1]))
    return tuple(channels)


def _time(value: str | datetime | None) -> datetime | None:
    if value is None:
        return None
    try:
        time = pd.Timestamp(value)
    except ValueError as error:
        raise UsageError(f"{value!r} is not a time; give ISO 8601, such as 2020-01-31T12:00") from error
    return naive_utc(time.to_pydatetime())
