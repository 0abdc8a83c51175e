"""A virtual cube of an archive that lasts: made once, appended to as the archive grows, opened at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from catalog.geostationary.scans import SourceFile
from cube.config import default_cache
from cube.geostationary.dialect import imager_of
from cube.geostationary.index import IndexTask, index_file
from cube.geostationary.open import asked_of, list_archive
from cube.geostationary.reference_stac import firsts_of
from cube.geostationary.reference_view import View
from cube.geostationary.references import IndexLater, is_reference_store, reference_views, write_references
from cube.job.engine import Workers, run_tasks
from cube.job.on_ranks import engine_here
from stratacube.errors import UsageError
from stratacube.files import bytes_on_disk, human_bytes, write_json
from stratacube.guard import guarded

__all__ = ["CubeChange", "append_cube", "describe_cube", "make_cube"]

_MADE_OF = "cube.json"
_AGAIN = timedelta(days=1)
"""How far before the last scan of a band it is looked after when a cube is appended to: files come late."""


@dataclass(frozen=True)
class CubeChange:
    """What came of making or appending."""

    added: int
    """Files."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that cannot be read, and why; the cube keeps their names, and every call tries them first."""


@dataclass(frozen=True)
class _Made:
    """What a cube is made of, in the words that it was asked for, and what could not be read of it."""

    source: str
    bands: list[str] | None
    platform: str | None
    sector: str | None
    product: str | None
    s3_endpoint: str | None
    left_out: Mapping[str, str] = field(default_factory=dict)
    """When each file starts that could not be read, ISO 8601, by address."""


def make_cube(
    source: Path | str,
    folder: Path | str,
    bands: Sequence[str | int] | str | int | None = None,
    start: str | datetime | None = None,
    end: str | datetime | None = None,
    *,
    platform: str | None = None,
    sector: str | None = None,
    product: str | None = None,
    workers: int = 1,
    engine: Any = None,
    cache: Path | str | None = None,
    s3_endpoint: str | None = None,
) -> CubeChange:
    """Make a virtual cube of an archive: references to its files' chunks, on disk.

    No pixel is copied. The cube is opened by :func:`cube.open_abi`, or band by band with xarray alone, by the words
    that its ``collection.json`` has. Where a call was stopped, the same call goes on.

    Parameters
    ----------
    source
        A folder of ABI or AMI L1b files, or ``s3://noaa-goesNN/ABI-L1b-RadF``.
    folder
        Of the cube; it may be there if it is a cube of the same.
    bands, start, end, platform, sector, product
        What of the archive, as :func:`cube.open_abi` has them.
    workers
        Processes that index files. With more than one, call from under ``if __name__ == "__main__":``.
    engine
        Where they are, as builds have it: ``local`` (by default), ``dask`` or ``mpi``, with options, or an executor.
    cache
        Folder of indexes made before; the user's cache folder by default.
    s3_endpoint
        S3 endpoint instead of AWS.

    Returns
    -------
    CubeChange
        How many files were added, and which could not be read.

    Raises
    ------
    UsageError
        If the source holds nothing of this, the folder holds something else, or is none.
    ClaimedError
        If another process writes to the cube.
    """
    root = Path(folder)
    wanted = [bands] if isinstance(bands, (str, int)) else bands
    address = str(source) if str(source).startswith("s3://") else str(Path(source).absolute())
    made = _Made(address, None if wanted is None else [*map(str, wanted)], platform, sector, product, s3_endpoint)
    pool = Workers(workers, engine_here(engine))
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file; give a folder, or one that is not there yet")
    if root.exists() and any(root.iterdir()):
        _refuse_other(root, made)
        made = replace(made, left_out=_read(root).left_out)
    files = [*_left_out(made), *list_archive(made.source, made.bands, start, end, **_of(made))]
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{root} cannot be made ({error.strerror}); give another folder") from error
    if not (root / _MADE_OF).exists():
        write_json(root / _MADE_OF, asdict(made))
    return _add(root, made, files, pool, cache)


def append_cube(
    folder: Path | str,
    start: str | datetime | None = None,
    end: str | datetime | None = None,
    *,
    workers: int = 1,
    engine: Any = None,
    cache: Path | str | None = None,
) -> CubeChange:
    """Add to a cube what its archive has got since.

    Parameters
    ----------
    folder
        A cube that :func:`make_cube` made.
    start, end
        Period to look at; by default from a day before the last scan on of the band that lags most. Files that could
        not be read before are tried first, whenever they are of.
    workers, engine, cache
        As for :func:`make_cube`.

    Returns
    -------
    CubeChange
        How many files were added, and which could not be read.

    Raises
    ------
    UsageError
        If there is no such cube, or its archive is not there any more.
    ClaimedError
        If another process writes to the cube.
    """
    root = Path(folder)
    made, pool = _read(root), Workers(workers, engine_here(engine))
    begin = _begin(root, made) if start is None else start
    if end is None and _is_remote(made):
        end = datetime.now(UTC)  # buckets are listed by the hour
    files = [*_left_out(made), *list_archive(made.source, made.bands, begin, end, **_of(made), none=True)]
    return _add(root, made, files, pool, cache)


def describe_cube(folder: Path | str) -> dict[str, Any]:
    """Tell what a virtual cube holds, of :func:`make_cube` or of a build.

    Parameters
    ----------
    folder
        Of the cube.

    Returns
    -------
    dict
        ``source`` where it is known, ``bytes`` on disk and, by satellite and sector, ``views``: ``start`` and ``end``
        (first and last scan), and of each of its ``arrays`` band, era, shape (time, y, x) and folder.

    Raises
    ------
    UsageError
        If there is no cube.
    SourceError
        If it cannot be read.
    """
    root = Path(folder)
    if not is_reference_store(root):
        raise UsageError(f"{root} is not a virtual cube; make one with make_cube, or give the references of a build")
    views = {}
    for view in reference_views(root):
        if not view.months:
            raise UsageError(f"{root} is of an earlier version; open_abi opens it, and whatever is added brings it up")
        arrays: list[dict[str, Any]] = []
        for name, reference in firsts_of(view, view.leaves).items():
            header, leaf = reference.header, view.leaves[name]
            arrays.append(
                {
                    "band": imager_of(header.source.platform).band(leaf.channel).name,
                    "era": name.rpartition("-")[2],
                    "shape": [leaf.scans, *header.grid.shape],
                    "resolution": header.grid.resolution,
                    "start": header.source.start.isoformat(),
                    "end": leaf.last,
                    "folder": f"{view.folder.name}/{leaf.folder}",
                }
            )
        views[view.folder.name] = {
            "start": min(a["start"] for a in arrays),
            "end": max(a["end"] for a in arrays),
            "arrays": sorted(arrays, key=lambda a: (a["band"], a["start"])),
        }
    source = _read(root).source if (root / _MADE_OF).exists() else None
    return {"source": source, "bytes": bytes_on_disk(root), "views": views}


def told_cube(described: dict[str, Any]) -> list[str]:
    """Lines of what :func:`describe_cube` returns."""
    lines = [f"archive: {described['source']}"] if described["source"] else []
    lines.append(f"references: {human_bytes(described['bytes'])}")
    for name, view in described["views"].items():
        lines += ["", f"{name}, scans from {view['start']} to {view['end']}"]
        for array in view["arrays"]:
            scans, height, width = array["shape"]
            told = f"{scans:7,} scans of {height} x {width} ({array['resolution']}) from {array['start']}"
            lines.append(f"  {array['band']:6} {told}  {array['folder']}")
    return lines


def _read(root: Path) -> _Made:
    path = root / _MADE_OF
    if not path.exists():
        raise UsageError(f"{root} is not a cube that make_cube made; make one, or give its folder")
    with guarded(f"{path} cannot be read", "make the cube anew in another folder"):
        return _Made(**json.loads(path.read_text()))


def _refuse_other(root: Path, made: _Made) -> None:
    """Refuse a folder with anything but a cube of the same, whatever the words that ask for it."""
    if not (root / _MADE_OF).exists():
        raise UsageError(f"{root} holds something other than a cube of an archive; give a folder that is not there yet")
    there = _read(root)
    views = reference_views(root) if is_reference_store(root) else []
    known, asked = _meant(there, views), _meant(made, views)
    for name, value in known.items():
        if asked[name] != value:
            told = f"is a cube with `{name}` {getattr(there, name)}, which is not {getattr(made, name)}"
            raise UsageError(f"{root} {told}; give another folder")


def _meant(made: _Made, views: Iterable[View]) -> dict[str, Any]:
    """What words mean of the views that a cube has: all bands by their names are all bands, 2 is C02."""
    _, query = asked_of(made.source, made.bands, None, None, made.platform, made.sector, made.product, made.s3_endpoint)
    named = [view.folder.name.partition("-") for view in views]
    platforms, wanted = sorted({platform for platform, _, _ in named}), {platform for platform, _, _ in query.spans()}
    bands = {p: [c for c in imager_of(p).dialect.names.bands if query.wants(p, c)] for p in platforms}
    return {
        "source": made.source,
        "bands": bands if platforms else query.channels,
        "platform": [p for p in platforms if p in wanted or None in wanted] if platforms else query.platform,
        "sector": [v for _, _, v in named if query.sector in (None, v.partition("-")[0])] if named else query.sector,
        "product": query.lineage,
        "s3_endpoint": made.s3_endpoint,
    }


def _of(made: _Made) -> dict[str, Any]:
    return {name: getattr(made, name) for name in ("platform", "sector", "product", "s3_endpoint")}


def _is_remote(made: _Made) -> bool:
    return made.source.startswith("s3://")


def _begin(root: Path, made: _Made) -> datetime | None:
    """When the period begins that an appended cube may lack files of; None where it has none."""
    views = reference_views(root) if is_reference_store(root) else []
    times = [datetime.fromisoformat(last) - _AGAIN for view in views for last in view.last.values()]
    for view in views:
        wanted = _meant(made, [view])["bands"][view.folder.name.partition("-")[0]] if made.bands is not None else []
        if not {*wanted} <= {*view.last}:  # a band of which nothing has come yet
            times += [first.header.source.start for first in firsts_of(view, view.leaves).values()]
    return min(times, default=None)


def _left_out(made: _Made) -> list[SourceFile]:
    """What the archive has now of files that could not be read, in as few looks as there are days of them."""
    spans: list[list[datetime]] = []
    for start in sorted(datetime.fromisoformat(text) for text in made.left_out.values()):
        if spans and start - spans[-1][1] < timedelta(days=1):
            spans[-1][1] = start
        else:
            spans.append([start, start])
    return [
        file
        for first, last in spans
        for file in list_archive(
            made.source, made.bands, first, last + timedelta(microseconds=1), **_of(made), none=True
        )
    ]


def _add(
    root: Path, made: _Made, files: Iterable[SourceFile], workers: Workers, cache: Path | str | None
) -> CubeChange:
    """Index and add files, a month at a time."""
    folder = default_cache() / "index" if cache is None else Path(cache)
    retries = 2 if _is_remote(made) else 0  # a disk does not fail now and then
    added, left_out, starts = 0, dict[str, str](), dict[str, str]()
    with workers as pool:
        for month, members in groupby(sorted({*files}, key=_when), key=_month):
            tasks = [IndexTask(f, folder, made.s3_endpoint) for f in _absent(root, month, [*members])]
            readable = []
            for outcome in run_tasks(tasks, IndexTask.warm, pool, retries=retries, label=f"indexing {month}"):
                if outcome.result is None:
                    left_out[outcome.task.key] = outcome.error or ""
                    starts[outcome.task.key] = outcome.task.source.start.isoformat()
                else:
                    readable.append(outcome.task.source)
            _keep(root, dict(_read(root).left_out) | starts)  # before what would hide that they lack
            write_references(
                [IndexLater(file, partial(index_file, file, folder, made.s3_endpoint)) for file in readable], root
            )
            added += len(readable)
    tried = {*made.left_out} - {*starts}
    _keep(root, {name: start for name, start in _read(root).left_out.items() if name not in tried})
    return CubeChange(added, left_out)


def _keep(root: Path, left_out: Mapping[str, str]) -> None:
    """Note what could not be read, where that is not yet noted."""
    known = _read(root)
    if known.left_out != left_out:
        write_json(root / _MADE_OF, asdict(replace(known, left_out=left_out)))


def _when(file: SourceFile) -> tuple[datetime, int]:
    return file.start, file.channel


def _month(file: SourceFile) -> str:
    return f"{file.start:%Y-%m}"


def _absent(root: Path, month: str, files: Sequence[SourceFile]) -> list[SourceFile]:
    """Files of a month that are not yet in the cube."""
    if not is_reference_store(root):
        return [*files]
    there = {source for view in reference_views(root) for source in view.sources(month)}
    return [file for file in files if file not in there]
