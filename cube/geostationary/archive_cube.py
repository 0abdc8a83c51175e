"""A virtual cube of an archive that lasts: made once, appended to as the archive grows, opened at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from catalog.geostationary.scans import SourceFile
from cube.config import default_cache
from cube.geostationary.dialect import imager_of
from cube.geostationary.index import IndexTask, index_file
from cube.geostationary.open import list_archive
from cube.geostationary.reference_stac import firsts_of
from cube.geostationary.references import IndexLater, is_reference_store, reference_views, write_references
from cube.job.engine import Workers, run_tasks
from cube.job.on_ranks import engine_here
from stratacube.errors import UsageError
from stratacube.files import human_bytes, write_json
from stratacube.guard import guarded

__all__ = ["CubeChange", "append_cube", "describe_cube", "make_cube"]

_MADE_OF = "cube.json"
_AGAIN = timedelta(days=1)
"""How far before its last scan a cube is looked after when it is appended to: files come late."""


@dataclass(frozen=True)
class CubeChange:
    """What came of making or appending."""

    added: int
    """Files."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that cannot be read, and why; they are tried again the next time."""


@dataclass(frozen=True)
class _Made:
    """What a cube is made of."""

    source: str
    bands: list[str] | None
    platform: str | None
    sector: str | None
    product: str | None
    s3_endpoint: str | None


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
        If the source holds nothing of this, or the folder holds something else.
    ClaimedError
        If another process writes to the cube.
    """
    root = Path(folder)
    wanted = [bands] if isinstance(bands, (str, int)) else bands
    address = str(source) if str(source).startswith("s3://") else str(Path(source).absolute())
    made = _Made(address, None if wanted is None else [*map(str, wanted)], platform, sector, product, s3_endpoint)
    if root.exists() and any(root.iterdir()):
        _refuse_other(root, made)
    files = _wanted(made, start, end)
    root.mkdir(parents=True, exist_ok=True)
    if not (root / _MADE_OF).exists():
        write_json(root / _MADE_OF, asdict(made))
    return _add(root, made, files, Workers(workers, engine_here(engine)), cache)


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
        Period to look at; by default from a day before the cube's last scan on.
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
    made = _read(root)
    last = max((last for view in reference_views(root) for last in view.last.values()), default=None)
    begin = start if start is not None or last is None else datetime.fromisoformat(last) - _AGAIN
    return _add(root, made, _wanted(made, begin, end), Workers(workers, engine_here(engine)), cache)


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
        raise UsageError(f"{root} is no virtual cube; make one with make_cube, or give the references of a build")
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
    size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    source = _read(root).source if (root / _MADE_OF).exists() else None
    return {"source": source, "bytes": size, "views": views}


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
        raise UsageError(f"{root} is no cube that make_cube made; make one, or give its folder")
    with guarded(f"{path} cannot be read", "make the cube anew in another folder"):
        return _Made(**json.loads(path.read_text()))


def _refuse_other(root: Path, made: _Made) -> None:
    """Refuse a folder with anything but a cube of the same."""
    if not (root / _MADE_OF).exists():
        raise UsageError(f"{root} holds something else than a cube of an archive; give a folder that is not there yet")
    there = asdict(_read(root))
    differing = [name for name, value in asdict(made).items() if there[name] != value]
    if differing:
        name = differing[0]
        raise UsageError(
            f"{root} is a cube with `{name}` {there[name]}, which is not {asdict(made)[name]}; give another folder"
        )


def _wanted(made: _Made, start: str | datetime | None, end: str | datetime | None) -> list[SourceFile]:
    of = {"platform": made.platform, "sector": made.sector, "product": made.product, "s3_endpoint": made.s3_endpoint}
    return list_archive(made.source, made.bands, start, end, **of)


def _add(
    root: Path, made: _Made, files: Iterable[SourceFile], workers: Workers, cache: Path | str | None
) -> CubeChange:
    """Index and add files, a month at a time."""
    folder = default_cache() / "index" if cache is None else Path(cache)
    added, left_out = 0, {}
    with workers as pool:
        for month, members in groupby(sorted(files, key=_month), key=_month):
            tasks = [IndexTask(f, folder, made.s3_endpoint) for f in _absent(root, month, [*members])]
            readable = []
            for outcome in run_tasks(tasks, IndexTask.warm, pool, retries=0, label=f"indexing {month}"):
                if outcome.result is None:
                    left_out[outcome.task.key] = outcome.error or ""
                else:
                    readable.append(outcome.task.source)
            write_references(
                [IndexLater(file, partial(index_file, file, folder, made.s3_endpoint)) for file in readable], root
            )
            added += len(readable)
    return CubeChange(added, left_out)


def _month(file: SourceFile) -> str:
    return f"{file.start:%Y-%m}"


def _absent(root: Path, month: str, files: Sequence[SourceFile]) -> list[SourceFile]:
    """Files of a month that are not yet in the cube."""
    if not is_reference_store(root):
        return [*files]
    there = {source for view in reference_views(root) for source in view.sources(month)}
    return [file for file in files if file not in there]
