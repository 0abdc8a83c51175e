"""What a virtual cube holds of one satellite and sector: a row for each file, in a table for each month.

``view.json`` is the truth: it lists the tables and, of each leaf, its folder and how many scans it has. Whatever it
does not list is not there, be it the beginning of what a killed run wrote or the end of what was replaced.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from pydantic import TypeAdapter

from catalog.geostationary.scans import SourceFile
from cube.geostationary.dialect import dialect_of, imager_of
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.reference_leaf import read_table, reading
from stratacube.errors import UsageError
from stratacube.files import write_bytes, write_json
from stratacube.parquet import read_frame

__all__ = ["FILES", "VIEW", "LeafEntry", "Month", "Reference", "View", "day_references", "digest_of_file", "row_of"]

VIEW, FILES = "view.json", "files"
_ROWS = 4096
"""Rows that lie together in a table: what is read to look one file up."""


@dataclass(frozen=True)
class Reference:
    """One file of a virtual cube: what it means, and where its chunk table is."""

    header: FileIndex
    """The index; without chunk tables when they are still on disk."""
    leaf: Path | None = None
    position: int = 0

    def load(self, *names: Literal["rad", "dqf"]) -> FileIndex:
        """Return the index with its chunk tables, or with some of them."""
        if self.leaf is None:
            return self.header
        dialect = dialect_of(self.header.source.platform)
        folders = {"rad": self.leaf / dialect.counts, "dqf": self.leaf / dialect.quality}
        tables: dict[str, Any] = {
            n: read_table(getattr(self.header, n), folders[n], self.position) for n in names or folders
        }
        return replace(self.header, **tables)


@dataclass(frozen=True)
class LeafEntry:
    """A leaf as it is listed."""

    folder: str
    scans: int
    channel: int
    last: str
    """When the last of its scans starts, ISO 8601."""


@dataclass(frozen=True)
class Month:
    """A table as it is listed."""

    table: str
    rows: int
    first: Mapping[str, int]
    """Position in each leaf of its first scan of this month: what the table says is counted from there."""


@dataclass(frozen=True)
class View:
    """What ``view.json`` lists."""

    folder: Path
    months: Mapping[str, Month] = field(default_factory=dict)
    """By ``YYYY-MM``."""
    leaves: Mapping[str, LeafEntry] = field(default_factory=dict)
    """By band and signature."""

    @classmethod
    def read(cls, folder: Path) -> View:
        """Read what is listed of a folder; nothing where there is no list."""
        path = folder / VIEW
        if not path.exists():
            return cls(folder)
        with reading(f"{path} cannot be read"):
            found = replace(_LISTED.validate_python(json.loads(path.read_bytes()) | {"folder": "."}), folder=folder)
            names = [m.table for m in found.months.values()] + [leaf.folder for leaf in found.leaves.values()]
            if any(Path(name).name != name for name in names):
                raise ValueError("it lists what is none of this store")
        return found

    def write(self) -> None:
        """List: from now on this is what is there."""
        write_json(self.folder / VIEW, {k: v for k, v in asdict(self).items() if k != "folder"})

    @property
    def token(self) -> str:
        """What changes when anything does."""
        return hashlib.sha256(repr((sorted(self.months.items()), sorted(self.leaves.items()))).encode()).hexdigest()

    def table(self, month: str) -> Path:
        """Path of the table of a month."""
        return self.folder / FILES / self.months[month].table

    @property
    def last(self) -> dict[int, str]:
        """When the last scan of each channel starts, ISO 8601."""
        found: dict[int, str] = {}
        for leaf in self.leaves.values():
            found[leaf.channel] = max(leaf.last, found.get(leaf.channel, ""))
        return found

    def sources(self, month: str) -> list[SourceFile]:
        """Files of a month as their archive listed them."""
        if month not in self.months:
            return []
        with reading(f"{self.table(month)} cannot be read"):
            frame = _read(self.table(month), _NAMED)
            columns = {n: frame[n].to_numpy("M8[us]") if n in _TIMES else frame[n] for n in _NAMED}
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            return [SourceFile(*row) for row in rows]

    def frame(self, month: str) -> pd.DataFrame:
        """All rows of a month, empty where there are none."""
        if month not in self.months:
            return pd.DataFrame()
        with reading(f"{self.table(month)} cannot be read"):
            return _read(self.table(month))

    def columns(self, month: str, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Some columns of a month, ``leaf`` as a number of :attr:`leaves` in their order."""
        path, leaves = self.table(month), pa.array(list(self.leaves), pa.string())
        with (
            reading(f"{path} cannot be read"),
            path.open("rb") as raw,
            parquet.ParquetFile(raw, pre_buffer=False, read_dictionary=["leaf"]) as file,
        ):
            table = file.read(columns=list(names), use_threads=False)
            if lacking := set(names) - set(table.column_names):
                raise KeyError(sorted(lacking)[0])
            found = {name: table[name] for name in names}
            if "leaf" in found:
                found["leaf"] = pa.compute.index_in(found["leaf"].cast(pa.string()), leaves)
                if found["leaf"].null_count:
                    raise ValueError("a leaf of it is none of this store")
            if table.num_rows != self.months[month].rows:
                raise ValueError(f"it has {table.num_rows} rows, but {self.months[month].rows} are listed")
            return {name: _numbers(name, column) for name, column in found.items()}

    def reference(self, month: str, row: int) -> Reference:
        """Look one file up, by its row in the table of a month."""
        path = self.table(month)
        with reading(f"{path} cannot be read"):
            group, within = divmod(row, _rows_of_group(path))
            return self._reference(month, _group(path, group).slice(within, 1).to_pylist()[0])

    def references(self, month: str, channels: Sequence[int] | None = None) -> Iterator[Reference]:
        """All files of a month, or of some channels."""
        frame = self.frame(month)
        if channels is not None and len(frame):
            frame = frame[frame["channel"].isin(channels)]
        with reading(f"{self.table(month)} cannot be read"):
            yield from [self._reference(month, row) for row in _records(frame)]

    def _reference(self, month: str, row: Mapping[str, Any]) -> Reference:
        header, leaf, position = _header(row), str(row["leaf"]), int(row["position"])
        if leaf not in self.leaves or position < 0:
            raise ValueError(f"row {position} of {leaf} is none of this store")
        first = self.months[month].first[leaf]
        return Reference(header, self.folder / self.leaves[leaf].folder, first + position)

    def save_table(self, month: str, frame: pd.DataFrame) -> str:
        """Write the table of a month, named by what it holds; return the name."""
        frame = frame.sort_values(["start", "channel"], kind="stable", ignore_index=True)
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pandas(frame, preserve_index=False)
        parquet.write_table(table, sink, compression="zstd", row_group_size=_ROWS)
        content = sink.getvalue()
        name = f"{month}-{hashlib.sha256(content).hexdigest()[:12]}.parquet"
        if not (self.folder / FILES / name).exists():
            write_bytes(self.folder / FILES / name, content)
        return name


_NAMED = tuple(f.name for f in fields(SourceFile))
_TIMES = ("start", "end", "created")
_LISTED = TypeAdapter(View)


def day_references(day: Path) -> list[Reference]:
    """References of a day, as version 1 wrote them: a folder with its own table and leaves."""
    path = day / "files.parquet"
    with reading(f"{path} cannot be read"):
        found = []
        for row in _records(read_frame(path)):
            header, leaf, position = _header(row), str(row["leaf"]), int(row["position"])
            if position < 0 or Path(leaf).name != leaf:
                raise ValueError(f"row {position} of {leaf} is none of this store")
            found.append(Reference(header, day / leaf, position))
        return found


def _read(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table, on disk or in an object store."""
    with path.open("rb") as raw:
        return read_frame(raw, columns)


def _numbers(name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Values of a column; NaN, which only coefficients may be, is none in Parquet."""
    kinds = pa.types
    if not (kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_timestamp(column.type)):
        raise ValueError(f"{name} is {column.type} and not numbers")
    if column.null_count and (not kinds.is_floating(column.type) or name in _PLAIN):
        raise ValueError(f"{name} is not told of {column.null_count} files")
    values: npt.NDArray[Any] = column.to_numpy()
    return values


@lru_cache(maxsize=1024)
def _rows_of_group(path: Path) -> int:
    """Rows that lie together in a table, as it was written."""
    with path.open("rb") as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
        return int(file.metadata.row_group(0).num_rows)


@lru_cache(maxsize=64)
def _group(path: Path, number: int) -> pa.Table:
    """Some rows of a table, which is named by its content."""
    with path.open("rb") as raw, parquet.ParquetFile(raw, pre_buffer=False) as file:
        return file.read_row_group(number, use_threads=False)


def _records(frame: pd.DataFrame) -> Iterable[dict[str, Any]]:
    return (dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False))


def digest_of_file(header: FileIndex) -> int:
    """Tell a file and its encoding from any other, in 64 bits."""
    told = repr((header.source, header.signature))
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big", signed=True)


def row_of(index: FileIndex) -> dict[str, Any]:
    """Everything of an index but its chunk tables, flat."""
    grid = asdict(index.grid)
    projection = grid.pop("projection")
    flat: dict[str, Any] = asdict(index.source) | dict(index.coefficients) | grid | projection
    for name in ("rad", "dqf"):
        table: ChunkTable = getattr(index, name)
        flat[name] = json.dumps(table.encoding)
    times = {"mid_time": index.mid_time, "begin_time": index.begin_time}
    told = {name: int(time.astype("M8[ns]").astype("i8")) for name, time in times.items()}
    return flat | {k: getattr(index, k) for k in _PLAIN} | told | {"digest": digest_of_file(index)}


_PLAIN = ("scale", "offset", "units", "wavelength", "valid_fraction")
_SOURCE = TypeAdapter(SourceFile)
_NO_CHUNKS = np.zeros((0, 0), "i8")


def _header(row: Mapping[str, Any]) -> FileIndex:
    def pick(kind: type) -> dict[str, Any]:
        return {f.name: row[f.name] for f in fields(kind) if f.name in row}

    times = {k: pd.Timestamp(row[k]).to_pydatetime() for k in _TIMES}
    try:
        names = imager_of(row["platform"]).coefficients
        coefficients = {name: float("nan" if row[name] is None else row[name]) for name in names}
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
        begin_time=_nanoseconds(row.get("begin_time")),
        units=str(row["units"]),
        **{k: float(row[k]) for k in _PLAIN if k != "units"},
    )
    if header.rad.shape != grid.shape:
        raise ValueError(f"an image of {header.rad.shape} is none of this store, whose pixels are {grid.shape}")
    return header


def _nanoseconds(told: Any) -> np.datetime64:
    """Time of a row; not a time where none was told."""
    return np.datetime64("NaT", "ns") if told is None or pd.isna(told) else np.datetime64(int(told), "ns")


def _empty_table(text: str) -> ChunkTable:
    shape, chunks, dtype, filters, fill, *own = json.loads(text)
    table = ChunkTable(tuple(shape), tuple(chunks), dtype, tuple(filters), fill, _NO_CHUNKS, _NO_CHUNKS, *own)
    table.refuse_impossible()
    return table
