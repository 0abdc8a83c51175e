"""``cube.open_abi``: a virtual cube from a folder, an S3 prefix, a reference store or a STAC item of one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.archives import LocalArchive, S3Archive
from catalog.geostationary.naming import REPROCESSED, Naming, lineage_of
from catalog.geostationary.scans import Identity, SourceFile, better, group_scans
from cube.config import default_cache
from cube.geostationary.dialect import dialect_of, dialects, imager_of
from cube.geostationary.file_columns import FileColumns, columns_of, read_columns
from cube.geostationary.index import FileIndex, IndexTask
from cube.geostationary.references import Reference, is_reference_store, read_references, reference_views
from cube.geostationary.sources import location_of, reference_store
from cube.geostationary.virtual import lazy_tree
from cube.job.engine import Workers, run_tasks
from stratacube.errors import SourceError, UsageError
from stratacube.times import naive_utc

__all__ = ["asked_of", "index_archive", "list_archive", "open_abi", "time_of"]


_BUCKET = re.compile(r"s3://noaa-(goes\d\d)(?:/(ABI-L1b-Rad(?:F|C|M|M1|M2)(?:-Reproc)?))?")


def open_abi(
    source: Any,
    bands: Sequence[str | int] | str | int | None = None,
    start: str | datetime | None = None,
    end: str | datetime | None = None,
    *,
    platform: str | None = None,
    sector: str | None = None,
    product: str | None = None,
    chunks: Any = "auto",
    lonlat: bool = False,
    observed: bool = False,
    workers: int = 1,
    cache: Path | str | None = None,
    s3_endpoint: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Open an archive of a geostationary imager as one lazy cube.

    Parameters
    ----------
    source
        A folder of ABI or AMI L1b files, ``s3://noaa-goesNN/ABI-L1b-RadF``, or a reference store: its path or URL, the
        folder of a build that has one, or a STAC document (path, URL, content or object of pystac) that names one.
    bands
        Such as ``["C02", 13]``, ``"C08-C10"`` or ``["ir105"]``; all by default.
    start, end
        Period in which scans start, UTC; ``end`` is exclusive.
    platform, sector
        Needed where the source holds several: ``goes16`` .. ``goes19`` (or east, west) or ``gk2a``, and
        ``F, C, M1, M2`` or ``FD, ELA, LA``.
    product
        Such as ``ABI-L1b-RadF-Reproc``, the reprocessed record, which is never mixed with what was made in operation;
        by default what the source's own address names, else the operational one.
    chunks
        Dask chunks; ``"auto"`` makes chunks of about 950 x 950 pixels of one file (2048 whole rows, where an image
        is one chunk of its file), None gives arrays that read just what is indexed, without Dask.
    lonlat
        Whether to add ``longitude`` and ``latitude`` of every pixel, lazily.
    observed
        Whether to add ``observation_time`` (time, y, x), when each pixel was seen, lazily; ``time`` is when a scan
        starts.
    workers
        Processes that index files not yet indexed. With more than one, call from under
        ``if __name__ == "__main__":``, as for any process pool.
    cache
        Folder of indexes made before; the user's cache folder by default.
    s3_endpoint
        S3 endpoint instead of AWS, of the archive.
    storage_options
        For fsspec, such as ``{"anon": True}``, where a reference store or a STAC document lies on S3 or in the web.

    Returns
    -------
    DataTree
        Groups ``500m``, ``1km`` and ``2km`` of (time, band, y, x): ``radiance``, ``reflectance``,
        ``brightness_temperature`` and ``dqf`` as lazy float32, ``x`` and ``y`` in metres of the projection, scan angles
        ``x_rad`` and ``y_rad``, and each file's coefficients. Files of different encodings are decoded each by its
        own; a missing file is NaN. A file that cannot be read is left out with a warning.

    Raises
    ------
    UsageError
        If the source is not there, holds no scan of the period, or holds several views.
    SourceError
        If no file is readable.
    """
    place = location_of(source, storage_options)
    location, query = asked_of(place, bands, start, end, platform, sector, product, s3_endpoint)
    store = reference_store(location, storage_options)
    if store is not None:
        columns = _stored(store, query, product)
    else:
        folder = default_cache() / "index" if cache is None else Path(cache)
        columns = _listed([Reference(i) for i in index_archive(_files(location, query), folder, workers, s3_endpoint)])
    if columns is None:
        raise UsageError(_nothing(location, query))
    tree = lazy_tree(columns, chunks, lonlat, observed, s3_endpoint)
    tree.attrs = {"title": _title(tree), **tree.attrs}
    tree.encoding["source"] = location
    return tree


def _title(tree: xr.DataTree) -> str:
    """What a cube is of, to be seen first where it is shown."""
    groups = [node.to_dataset() for node in tree.leaves]
    names = sorted({str(name) for group in groups for name in group["platform"].values})
    times = [pd.Timestamp(getattr(group["time"].values, end)()) for group in groups for end in ("min", "max")]
    return f"{' and '.join(names)}, {min(times):%Y-%m-%d %H:%M} to {max(times):%Y-%m-%d %H:%M} UTC"


def list_archive(
    source: Any,
    bands: Sequence[str | int] | str | int | None = None,
    start: str | datetime | None = None,
    end: str | datetime | None = None,
    *,
    platform: str | None = None,
    sector: str | None = None,
    product: str | None = None,
    s3_endpoint: str | None = None,
    none: bool = False,
) -> list[SourceFile]:
    """List what of an archive :func:`open_abi` would index, with the same words.

    Parameters
    ----------
    source
        A folder of files, or a product of NOAA's buckets.
    bands, start, end, platform, sector, product, s3_endpoint
        As :func:`open_abi` has them.
    none
        Whether nothing may be there of what is wanted.

    Returns
    -------
    list of SourceFile
        Scan by scan; of two issues of one file the better.

    Raises
    ------
    UsageError
        If the source is not there, or is not an archive, or holds nothing of what is wanted.
    """
    location, query = asked_of(source, bands, start, end, platform, sector, product, s3_endpoint)
    if not location.startswith("s3://") and is_reference_store(Path(location)):
        raise UsageError(f"{location} holds references, and is not an archive; give the folder of the files themselves")
    files = _files(location, query)
    if not files and not none:
        raise UsageError(_nothing(location, query))
    return files


def asked_of(
    source: Any,
    bands: Sequence[str | int] | str | int | None,
    start: str | datetime | None,
    end: str | datetime | None,
    platform: str | None,
    sector: str | None,
    product: str | None,
    s3_endpoint: str | None,
) -> tuple[str, _Query]:
    """Where to look, and for what."""
    imagers = [imager_of(platform)] if platform else [*dialects().values()]
    names = [imager.dialect.names for imager in imagers]
    if sector is not None and not any(sector.upper() in n.sectors for n in names):
        told = ", ".join(f"{n.title} has {', '.join(n.sectors)}" for n in names)
        raise UsageError(f"sector {sector!r} is unknown; {told}")
    location = location_of(source)
    return location, _Query(
        _channels([bands] if isinstance(bands, (str, int)) else bands, names),
        time_of(start),
        time_of(end),
        platform and names[0].normalise(platform),
        _sector(product, sector, names) if product else sector and sector.upper(),
        _lineage(location, product),
        s3_endpoint,
    )


def _nothing(location: str, query: _Query) -> str:
    imagers = [imager_of(query.platform)] if query.platform else dialects().values()
    files = " or ".join(imager.dialect.files for imager in imagers)
    return f"{location} holds no {files} scan {query}; check platform, sector, bands, start and end"


def _stored(root: Path, query: _Query, product: str | None) -> FileColumns | None:
    """What is wanted of a reference store, of whose files few things are read."""
    lineage = None if product is None else query.lineage
    spans = query.spans()
    wanted = {"sector": query.sector, "lineage": lineage}
    views = {v.folder: v for name, _, _ in spans for v in reference_views(root, platform=name, **wanted)}
    if all(view.months for view in views.values()):
        return read_columns([*views.values()], query.wants, spans)
    return _listed(_references(root, query, lineage))  # of version 1


def _references(root: Path, query: _Query, lineage: str | None) -> list[Reference]:
    return [
        reference
        for name, begin, until in query.spans()
        for reference in read_references(
            root, platform=name, sector=query.sector, start=begin, end=until, lineage=lineage
        )
        if query.wants(reference.header.source.platform, reference.header.source.channel)
    ]


def _listed(references: Sequence[Reference]) -> FileColumns | None:
    """Columns of files in memory; of files of one channel and start, as where one was issued again, of the better."""
    best: dict[Identity, Reference] = {}
    for reference in references:
        source = reference.header.source
        known = best.get(source.identity)
        if known is None or better(source, known.header.source) is source:
            best[source.identity] = reference
    return columns_of([*best.values()]) if best else None


@dataclass(frozen=True)
class _Query:
    """What of a source is wanted."""

    channels: Mapping[str, tuple[int, ...]] | None
    """By the imager's title."""
    start: datetime | None
    end: datetime | None
    platform: str | None
    sector: str | None
    lineage: str
    endpoint_url: str | None

    def spans(self) -> list[tuple[str | None, datetime | None, datetime | None]]:
        """Platforms with the part of the period that each holds: ``east`` and ``west`` follow the date."""
        if self.platform is None:
            return [(None, self.start, self.end)]
        return [*dialect_of(self.platform).names.spans(self.platform, self.start, self.end)]

    def wants(self, platform: str, channel: int) -> bool:
        """Whether a channel of a satellite is wanted."""
        return self.channels is None or channel in self.channels.get(dialect_of(platform).names.title, ())

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
    retries = 2 if files and files[0].href.startswith("s3://") else 0  # a disk does not fail now and then
    with Workers(min(workers, max(1, len(tasks)))) as pool:
        for outcome in run_tasks(tasks, IndexTask.index, pool, retries=retries, label="indexing"):
            if outcome.result is None:
                warnings.warn(f"left out: {outcome.error}", stacklevel=3)
            else:
                indexes.append(outcome.result)
    if tasks and not indexes:
        raise SourceError(f"none of {len(tasks)} files is readable; the first is {files[0].href}")
    return sorted(indexes, key=lambda i: (i.source.start, i.source.channel))


def _files(location: str, query: _Query) -> list[SourceFile]:
    found = _online(location, query) if location.startswith("s3://") else _local(Path(location), query)
    scans = group_scans(f for f in found if query.wants(f.platform, f.channel))
    return [file for scan in scans for file in scan.files.values()]


def _online(location: str, query: _Query) -> Iterator[SourceFile]:
    """Files of one product of NOAA's buckets, which the location names and nothing beyond."""
    match = _BUCKET.fullmatch(location.rstrip("/"))
    if match is None:
        raise UsageError(
            f"{location} is not a product of NOAA's ABI buckets that is read; give one whole, such as "
            "s3://noaa-goes16/ABI-L1b-RadF, and say what of it by bands, start and end"
        )
    bucket, product = match.groups()
    if product is None and query.sector is None:
        raise UsageError(f"{location} holds several products; name one, such as {location.rstrip('/')}/ABI-L1b-RadF")
    if product is not None and lineage_of(product) != query.lineage:
        raise UsageError(f"{location} is of another lineage than the product asked for; leave product= out")
    sector = _sector(product or f"{ABI_NAMES.product}{query.lineage}", query.sector, [ABI_NAMES])
    spans = [span for span in query.spans() if span[0] in (None, bucket)]
    if not spans:
        raise UsageError(f"{location} is of {bucket}, which is not {query.platform}; leave platform= out")
    archive = S3Archive(endpoint_url=query.endpoint_url, lineage=query.lineage)
    for _, start, end in spans:
        yield from archive.files(bucket, sector, start, end)


def _local(folder: Path, query: _Query) -> Iterator[SourceFile]:
    """Files of a folder: of the imager of the platform wanted, or of all imagers."""
    for platform, start, end in query.spans():
        for imager in [imager_of(platform)] if platform else dialects().values():
            archive = LocalArchive(folder, imager.dialect.names, query.lineage)
            yield from archive.files(platform, query.sector, start, end)


def _sector(product: str, sector: str | None, names: Sequence[Naming]) -> str:
    """Sector that a product and a sector name together, by the first imager that knows the product."""
    refusal: UsageError | None = None
    for naming in names:
        try:
            return naming.parse_sector(product, sector)
        except UsageError as error:
            refusal = refusal or error
    raise UsageError(str(refusal).replace("domain", "sector"))


def _lineage(location: str, product: str | None) -> str:
    """Lineage of the product asked for, else of the one whose folder the location is, or lies in."""
    if product is not None:
        return lineage_of(product)
    return REPROCESSED if any(lineage_of(part) for part in location.split("/")) else ""


def _channels(bands: Sequence[str | int] | None, names: Sequence[Naming]) -> dict[str, tuple[int, ...]] | None:
    """Channels of each imager by its title; of an imager that has not all bands, none are wanted."""
    if bands is None:
        return None
    found, unknown = {}, ""
    for naming in names:
        try:
            found[naming.title] = tuple(naming.numbers_among(bands))
        except UsageError:
            unknown = next(str(band) for band in bands if not _has(naming, band))
    if not found:
        told = ", ".join(f"{n.title} has {n.bands[min(n.bands)].name} to {n.bands[max(n.bands)].name}" for n in names)
        raise UsageError(f"band {unknown!r} is unknown; {told}")
    return found


def _has(naming: Naming, band: str | int) -> bool:
    try:
        naming.numbers_among([band])
    except UsageError:
        return False
    return True


def time_of(value: str | datetime | None) -> datetime | None:
    """End of a period, naive UTC.

    Raises
    ------
    UsageError
        If it is not a time.
    """
    if value is None:
        return None
    try:
        time = pd.Timestamp(value)
    except ValueError as error:
        raise UsageError(f"{value!r} is not a time; give ISO 8601, such as 2020-01-31T12:00") from error
    return naive_utc(time.to_pydatetime())
