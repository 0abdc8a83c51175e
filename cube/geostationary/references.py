"""Virtual cubes on disk: kerchunk Parquet references, one virtual array per day, band and encoding era.

::

    references/
      references.json                       what this folder is
      goes16-F/2020-001/files.parquet       one row a file: times, coefficients, grid, era
      goes16-F/2020-001/C13-1f3a.../        kerchunk Parquet of Rad and DQF, or what the files call them (time, y, x)

Each leaf opens by itself with ``xarray.open_dataset(leaf, engine="kerchunk")``, for one packing holds in it.
A day is written beside its place and renamed, so adding one touches no other.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from pydantic import TypeAdapter

from catalog.geostationary.naming import lineage_of
from catalog.geostationary.scans import SourceFile, better
from cube.geostationary.dialect import Dialect, dialect_of, imager_of
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection
from stratacube.errors import EncodingMismatchError, SourceError, UsageError
from stratacube.files import remove_strays, whole_folder, write_json
from stratacube.guard import guarded
from stratacube.parquet import read_frame
from stratacube.times import to_microseconds

__all__ = [
    "IndexLater",
    "Reference",
    "eras",
    "is_reference_store",
    "read_references",
    "refuse_mixed",
    "write_references",
]

_MARK, _FILES = "references.json", "files.parquet"
_FORMAT = {"format": "stratacube references", "version": 1}
_AGAIN = "write this day's references again"
_RECORD = 100_000
"""References of one Parquet file, to a whole number of scans."""

_ABANDONED = 3600.0
"""Seconds after which a day that is not whole is taken for a killed run's: one is written in seconds."""


@dataclass(frozen=True)
class Reference:
    """One file of a virtual cube: what it means, and where its chunk table is."""

    header: FileIndex
    """The index; without chunk tables when they are still on disk."""
    leaf: Path | None = None
    position: int = 0

    def load(self) -> FileIndex:
        """Return the index with its chunk tables."""
        if self.leaf is None:
            return self.header
        dialect = dialect_of(self.header.source.platform)
        rad = _table(self.header.rad, self.leaf / dialect.counts, self.position)
        return replace(self.header, rad=rad, dqf=_table(self.header.dqf, self.leaf / dialect.quality, self.position))


def eras(indexes: Iterable[FileIndex]) -> dict[str, list[FileIndex]]:
    """Split files of one band by encoding signature, each in time order."""
    found: dict[str, list[FileIndex]] = defaultdict(list)
    for index in sorted(indexes, key=lambda i: i.source.start):
        found[index.signature].append(index)
    return dict(found)


def refuse_mixed(indexes: Sequence[FileIndex]) -> None:
    """Refuse files that are not encoded alike: decoding one by the other's rules would give wrong pixels in silence.

    Raises
    ------
    EncodingMismatchError
        If two are not.
    """
    first = indexes[0]
    for other in indexes[1:]:
        if other.signature != first.signature:
            a, b = first.describe_encoding(), other.describe_encoding()
            differing = [k for k in a if a[k] != b[k]]
            raise EncodingMismatchError(
                "cannot join files of different encodings in one virtual array: "
                + "; ".join(f"{k} is {a[k]} in {_base(first)} but {b[k]} in {_base(other)}" for k in differing)
                + ". Split them into eras."
            )


def _base(index: FileIndex) -> str:
    return index.source.href.rsplit("/", 1)[-1]


def is_reference_store(path: Path) -> bool:
    """Whether a folder holds references written here."""
    return (path / _MARK).exists()


class IndexLater(NamedTuple):
    """A file whose index is loaded when it is written: a day of full disks holds a hundred megabytes of them."""

    source: SourceFile
    load: Callable[[], FileIndex]


def write_references(indexes: Iterable[FileIndex | IndexLater], root: Path) -> list[Path]:
    """Write or extend a reference store.

    Parameters
    ----------
    indexes
        Indexed files, in any order; days not among them are left untouched, files already there are kept.
    root
        Folder of the store.

    Returns
    -------
    list of Path
        The day folders written.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not is_reference_store(root):
        write_json(root / _MARK, _FORMAT, indent=None)
    remove_strays(root, older=_ABANDONED)
    days: dict[Path, dict[str, FileIndex | IndexLater]] = defaultdict(dict)
    for index in indexes:
        source = index.source
        view = f"{source.platform}-{source.sector}{lineage_of(source.product)}"
        days[root / view / f"{source.start:%Y-%j}"][source.href] = index
    written = []
    for day, files in sorted(days.items()):
        there = {r.header.source.href: r for r in _read_day(day)} if day.exists() else {}
        if all(there[h].header.source == i.source if h in there else False for h, i in files.items()):
            continue
        known = (IndexLater(r.header.source, r.load) for r in there.values())
        _write_day(day, _latest([*known, *files.values()]))
        written.append(day)
    return written


def _latest(indexes: Iterable[FileIndex | IndexLater]) -> list[FileIndex | IndexLater]:
    """Of files of one channel and start, as where one was issued again or moved, keep the one to read."""
    best: dict[Any, FileIndex | IndexLater] = {}
    for index in indexes:
        known = best.get(index.source.identity)
        if known is None or better(index.source, known.source) is index.source:
            best[index.source.identity] = index
    return list(best.values())


def _write_day(day: Path, files: Iterable[FileIndex | IndexLater]) -> None:
    rows = []
    by_band: dict[int, list[FileIndex | IndexLater]] = defaultdict(list)
    for index in files:
        by_band[index.source.channel].append(index)
    with whole_folder(day) as part:
        for channel, waiting in sorted(by_band.items()):
            loads = {i.source.href: _loader(i) for i in waiting}
            indexes = [load().without_chunks() for load in loads.values()]  # a band of a day of full disks is 40 MB
            for signature, members in eras(indexes).items():
                dialect = dialect_of(members[0].source.platform)
                leaf = f"{dialect.names.bands[channel].name}-{signature}"
                _write_leaf(part / leaf, members, [loads[m.source.href] for m in members], dialect)
                rows += [_row(index) | {"leaf": leaf, "position": i} for i, index in enumerate(members)]
        pd.DataFrame(rows).to_parquet(part / _FILES, engine="pyarrow", index=False)
    _read_record.cache_clear()
    _record_size.cache_clear()


def _loader(index: FileIndex | IndexLater) -> Callable[[], FileIndex]:
    return index.load if isinstance(index, IndexLater) else lambda: index


def _write_leaf(
    leaf: Path, members: Sequence[FileIndex], loads: Sequence[Callable[[], FileIndex]], dialect: Dialect
) -> None:
    """One kerchunk Parquet store: counts, quality flags and their coordinates; chunk tables are loaded as they come."""
    refuse_mixed(members)
    first, count = members[0], len(members)
    per_file = math.prod(-(-n // side) for n, side in zip(first.rad.shape, first.rad.chunks, strict=True))
    record = per_file * max(1, _RECORD // per_file)
    times = np.array([to_microseconds(m.mid_time) for m in members], "i8")
    grid = first.grid
    time_attrs = {"standard_name": "time", "units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    small = {
        "time": (times, ("time",), time_attrs),
        "x": (grid.x, ("x",), {"standard_name": "projection_x_coordinate", "units": "rad"}),
        "y": (grid.y, ("y",), {"standard_name": "projection_y_coordinate", "units": "rad"}),
        dialect.grid_mapping: (np.array(0, "i4"), (), grid.projection.cf_attributes()),
    }
    metadata: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": {"Conventions": "CF-1.7"}}
    variables = {dialect.quality: "dqf", dialect.counts: "rad"}
    for name, attrs in dialect.attributes(first).items():
        table: ChunkTable = getattr(first, variables[name])
        metadata[f"{name}/.zarray"] = {
            "zarr_format": 2,
            "shape": [count, *table.shape],
            "chunks": [1, *table.chunks],
            "dtype": table.dtype if np.dtype(table.dtype).itemsize > 1 else "|u1",
            "fill_value": table.fill,
            "order": "C",
            "compressor": None,
            "filters": [_codec(f, np.dtype(table.dtype).itemsize) for f in table.filters] or None,
        }
        metadata[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": ["time", "y", "x"], **attrs}
        hrefs = [m.source.href for m in members]
        _write_records(leaf / name, hrefs, [partial(_table_of, load, variables[name]) for load in loads], record)
    for name, (values, dims, attrs) in small.items():
        metadata[f"{name}/.zarray"] = {
            "zarr_format": 2,
            "shape": list(values.shape),
            "chunks": list(values.shape),
            "dtype": values.dtype.str,
            "fill_value": None,
            "order": "C",
            "compressor": None,
            "filters": None,
        }
        metadata[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": list(dims), **attrs}
        (leaf / name).mkdir()
        _to_parquet({"raw": [values.tobytes()]}, leaf / name / "refs.0.parq")
    (leaf / ".zmetadata").write_text(json.dumps({"metadata": metadata, "record_size": record}))


def _codec(name: str, itemsize: int) -> dict[str, Any]:
    return {"id": "zlib", "level": 1} if name == "deflate" else {"id": "shuffle", "elementsize": itemsize}


def _table_of(load: Callable[[], FileIndex], name: str) -> ChunkTable:
    table: ChunkTable = getattr(load(), name)
    return table


def _write_records(folder: Path, hrefs: Sequence[str], tables: Sequence[Callable[[], ChunkTable]], record: int) -> None:
    """References of one variable, ``record`` rows a Parquet file; a chunk never written has no path."""
    folder.mkdir(parents=True)
    per_file = tables[0]().offsets.size
    step = record // per_file
    for number, start in enumerate(range(0, len(tables), step)):
        part = [table() for table in tables[start : start + step]]
        sizes = np.concatenate([t.sizes.ravel() for t in part])
        paths = np.repeat(np.array(hrefs[start : start + step], object), per_file)
        paths[sizes == 0] = None
        columns = {
            "path": pa.array(paths, pa.string()).dictionary_encode(),
            "offset": np.concatenate([t.offsets.ravel() for t in part]),
            "size": sizes,
        }
        _to_parquet(columns, folder / f"refs.{number}.parq")


def _to_parquet(columns: dict[str, Any], path: Path) -> None:
    parquet.write_table(pa.table(columns), path, compression="zstd")  # by way of pandas it takes twice as long


def _row(index: FileIndex) -> dict[str, Any]:
    """Everything of an index but its chunk tables, flat."""
    grid = asdict(index.grid)
    projection = grid.pop("projection")
    flat: dict[str, Any] = asdict(index.source) | dict(index.coefficients) | grid | projection
    for name in ("rad", "dqf"):
        table: ChunkTable = getattr(index, name)
        flat[name] = json.dumps(table.encoding)
    times = {"mid_time": index.mid_time} | ({} if np.isnat(index.begin_time) else {"begin_time": index.begin_time})
    told = {name: int(time.astype("M8[ns]").astype("i8")) for name, time in times.items()}
    return flat | {k: getattr(index, k) for k in _PLAIN} | told


_PLAIN = ("scale", "offset", "units", "wavelength", "valid_fraction")
_SOURCE = TypeAdapter(SourceFile)
_NO_CHUNKS = np.zeros((0, 0), "i8")


def read_references(
    root: Path,
    *,
    platform: str | None = None,
    sector: str | None = None,
    channels: Sequence[int] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    lineage: str | None = None,
) -> list[Reference]:
    """References of a store within a period (start inclusive, end exclusive); no chunk table is read yet."""
    found = []
    for view in sorted(p for p in root.iterdir() if p.is_dir()):
        there_lineage = lineage_of(view.name)
        there_platform, _, there_sector = view.name.removesuffix(there_lineage).partition("-")
        if lineage not in (None, there_lineage):
            continue
        if platform not in (None, there_platform) or sector not in (None, there_sector):
            continue
        for day in sorted(view.iterdir()):
            if "." in day.name:
                continue
            date = _date(day)
            if (start and date + timedelta(days=1) <= start) or (end and date >= end):
                continue
            found += [
                r
                for r in _read_day(day)
                if (channels is None or r.header.source.channel in channels)
                and (start is None or r.header.source.start >= start)
                and (end is None or r.header.source.start < end)
            ]
    return found


def _date(day: Path) -> datetime:
    try:
        return datetime.strptime(day.name, "%Y-%j")
    except ValueError as error:
        raise SourceError(f"{day} is no day of references, such as 2020-183; move it elsewhere") from error


def _read_day(day: Path) -> list[Reference]:
    with guarded(f"{day / _FILES} cannot be read", _AGAIN):
        frame = read_frame(day / _FILES)
        return [_reference(day, dict(zip(frame.columns, row, strict=True))) for row in frame.itertuples(index=False)]


def _reference(day: Path, row: dict[str, Any]) -> Reference:
    def pick(kind: type) -> dict[str, Any]:
        return {f.name: row[f.name] for f in fields(kind) if f.name in row}

    times = {k: row[k].to_pydatetime() for k in ("start", "end", "created")}
    try:
        coefficients = {name: float(row[name]) for name in imager_of(row["platform"]).coefficients}
    except UsageError as error:  # nobody asked for it: the table is damaged
        raise ValueError(str(error)) from error
    grid = FixedGrid.read({**pick(FixedGrid), "projection": pick(GeosProjection)})
    header = FileIndex(
        source=_SOURCE.validate_python({**pick(SourceFile), **times}),
        grid=grid,
        rad=_empty_table(row["rad"]),
        dqf=_empty_table(row["dqf"]),
        coefficients=coefficients,
        mid_time=np.datetime64(row["mid_time"], "ns"),
        begin_time=np.datetime64(row.get("begin_time", "NaT"), "ns"),
        units=str(row["units"]),
        **{k: float(row[k]) for k in _PLAIN if k != "units"},
    )
    leaf, position = str(row["leaf"]), int(row["position"])
    if header.rad.shape != grid.shape or position < 0 or Path(leaf).name != leaf:
        raise ValueError(f"row {position} of {leaf} is none of this store")
    return Reference(header, day / leaf, position)


def _empty_table(text: str) -> ChunkTable:
    shape, chunks, dtype, filters, fill, *own = json.loads(text)
    table = ChunkTable(tuple(shape), tuple(chunks), dtype, tuple(filters), fill, _NO_CHUNKS, _NO_CHUNKS, *own)
    table.refuse_impossible()
    return table


def _table(empty: ChunkTable, folder: Path, position: int) -> ChunkTable:
    """Fill a chunk table from the record that holds a position of the virtual array."""
    rows, cols = (-(-n // c) for n, c in zip(empty.shape, empty.chunks, strict=True))
    per_file = rows * cols
    step = _record_size(folder.parent) // per_file
    with guarded(f"{folder} has no references of image {position}", _AGAIN):
        offsets, sizes = _read_record(folder / f"refs.{position // step}.parq")
        at = slice(position % step * per_file, (position % step + 1) * per_file)
        table = replace(empty, offsets=offsets[at].reshape(rows, cols), sizes=sizes[at].reshape(rows, cols))
        table.refuse_impossible()
    return table


@lru_cache(maxsize=4096)
def _record_size(leaf: Path) -> int:
    """References of one Parquet file of a leaf, as it was written."""
    with guarded(f"{leaf / '.zmetadata'} cannot be read", _AGAIN):
        return int(json.loads((leaf / ".zmetadata").read_text())["record_size"])


@lru_cache(maxsize=64)
def _read_record(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    with guarded(f"{path} cannot be read", _AGAIN):
        frame = read_frame(path, ["offset", "size"])
        return frame["offset"].to_numpy("i8"), frame["size"].to_numpy("i8")
