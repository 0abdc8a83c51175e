"""One band and encoding era of a virtual cube as a kerchunk Parquet store of (time, y, x), to which scans are appended.

::

    C13-1f3a5b7c9d0e/
      .zmetadata             shapes, codecs, attributes; how many references a record holds
      time/refs.0.parq       times of the scans, in chunks of a fixed length; x, y and the projection beside it
      Rad/refs.0.parq        references of the first scans, then refs.1.parq and so on; DQF likewise

``xarray.open_dataset(leaf, engine="kerchunk")`` opens it. What is appended comes after what is there: records that are
full stay as they are, the last one and the times are replaced by longer ones, and ``.zmetadata``, which says how many
scans there are, is replaced at the end. So whoever reads in between, or after a kill, sees all that was there before.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from cube.geostationary.dialect import dialect_of
from cube.geostationary.file_index import ChunkTable, FileIndex
from stratacube.errors import EncodingMismatchError, SourceError, UnavailableError
from stratacube.files import whole_file, write_text
from stratacube.guard import guarded
from stratacube.parquet import read_frame
from stratacube.times import to_microseconds

__all__ = ["AGAIN", "Leaf", "count_of", "pixel_coordinates", "read_table", "reading", "refuse_mixed", "shorten"]

AGAIN = "write these references again"
_REPLACED = "it was brought up since; open the cube again, or write these references again if that does not help"
_RECORD = 100_000
"""References of one Parquet file, to a whole number of scans."""
_TIMES = 1024
"""Times of one chunk. Chunks of Zarr are whole, so that a longer axis changes the values after its end alone."""
_METADATA = ".zmetadata"
_TIME_ATTRIBUTES = {
    "_ARRAY_DIMENSIONS": ["time"],
    "standard_name": "time",
    "long_name": "middle of the scan",
    "units": "microseconds since 1970-01-01",
    "calendar": "proleptic_gregorian",
}


@contextmanager
def reading(sentence: str) -> Iterator[None]:
    """Guard the reading of a store (:func:`~stratacube.guard.guarded`): of a file that is gone, another took the place.

    Raises
    ------
    SourceError
        In place of any exception but ours.
    """
    with guarded(sentence, AGAIN):
        try:
            yield
        except FileNotFoundError as error:
            raise UnavailableError(f"{sentence} (file not found); {_REPLACED}") from error


@dataclass
class _Pending:
    """References of one variable that are not yet a record."""

    hrefs: list[str] = field(default_factory=list)
    codes: list[npt.NDArray[np.int32]] = field(default_factory=list)
    """Which address each reference has."""
    offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)
    sizes: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, href: str, table: ChunkTable) -> None:
        """Append the references of a file."""
        self.codes.append(np.full(table.sizes.size, len(self.hrefs), "i4"))
        self.hrefs.append(href)
        self.offsets.append(table.offsets.ravel())
        self.sizes.append(table.sizes.ravel())

    def table(self) -> pa.Table:
        """All of them; a chunk never written has no path."""
        sizes = np.concatenate(self.sizes)
        codes = pa.array(np.concatenate(self.codes), mask=sizes == 0)
        paths = pa.DictionaryArray.from_arrays(codes, pa.array(self.hrefs, pa.string()))
        return pa.table({"path": paths, "offset": np.concatenate(self.offsets), "size": sizes})


def _continued(path: Path, rows: int) -> _Pending:
    """First references of a record that is to be continued."""
    with reading(f"{path} cannot be read"):
        with parquet.ParquetFile(path, pre_buffer=False, read_dictionary=["path"]) as file:
            table = file.read(columns=["path", "offset", "size"], use_threads=False).combine_chunks()
        if table.num_rows < rows:
            raise ValueError(f"it has {table.num_rows} references of {rows}")
        paths = table["path"].slice(0, rows).combine_chunks()
        codes = paths.indices.fill_null(0).to_numpy()
        used = int(codes.max()) + 1
        offsets, sizes = (table[name].slice(0, rows).to_numpy().astype("i8") for name in ("offset", "size"))
        return _Pending(paths.dictionary.slice(0, used).to_pylist(), [codes], [offsets], [sizes])


class Leaf:
    """Writes a leaf, scan by scan in the order of time.

    Parameters
    ----------
    folder
        Of the leaf.
    like
        Header of any of its files; all have one encoding.
    kept
        Scans that stay.
    of
        Leaf that they are taken from, where that is another folder.
    """

    def __init__(self, folder: Path, like: FileIndex, kept: int = 0, of: Path | None = None) -> None:
        self.folder, self.like, self.scans = folder, like, kept
        self.dialect = dialect_of(like.source.platform)
        self.tables = {self.dialect.quality: "dqf", self.dialect.counts: "rad"}
        if self.dialect.quality == self.dialect.counts:
            self.tables = {self.dialect.counts: "rad"}
        per_scan = {name: _per_scan(getattr(like, attribute)) for name, attribute in self.tables.items()}
        whole = math.lcm(
            *per_scan.values()
        )  # kerchunk asks for the same number of references in each variable's record
        self.record = whole * max(1, _RECORD // whole)
        self.steps = {name: self.record // count for name, count in per_scan.items()}
        source = folder if of is None else of
        self.times = _times(source)[:kept] if kept else []
        if len(self.times) < kept:
            raise SourceError(f"{source} has {len(self.times)} scans where {kept} are expected; {AGAIN}")
        self.pending: dict[str, _Pending] = {}
        for name, step in self.steps.items():
            number, left = divmod(kept, step)
            if source != folder:
                for full in range(number):
                    _copy(source / name / _record_name(full), folder / name / _record_name(full))
            begun = source / name / _record_name(number)
            self.pending[name] = _continued(begun, left * per_scan[name]) if left else _Pending()

    def add(self, index: FileIndex) -> int:
        """Append a file and return its position."""
        refuse_mixed([self.like, index])
        self.times.append(to_microseconds(index.mid_time))
        self.scans += 1
        for name, attribute in self.tables.items():
            self.pending[name].add(index.source.href, getattr(index, attribute))
            if self.scans % self.steps[name] == 0:
                self._flush(name)
        return self.scans - 1

    def _flush(self, name: str) -> None:
        if self.pending[name].sizes:
            number = (self.scans - 1) // self.steps[name]
            _to_parquet(self.pending[name].table(), self.folder / name / _record_name(number))
            self.pending[name] = _Pending()

    def close(self) -> None:
        """Write what is left and, last, how much there is."""
        for name in self.tables:
            self._flush(name)
        small = pixel_coordinates(self.like)
        for name, (values, _, _) in small.items():
            if not (self.folder / name / _record_name(0)).exists():
                _to_parquet(pa.table({"raw": [values.tobytes()]}), self.folder / name / _record_name(0))
        chunks = -(-self.scans // _TIMES)
        times = np.zeros((chunks, _TIMES), "i8")
        times.ravel()[: self.scans] = self.times
        _to_parquet(pa.table({"raw": [row.tobytes() for row in times]}), self.folder / "time" / _record_name(0))
        metadata: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": {"Conventions": "CF-1.7"}}
        for name, attrs in self.dialect.attributes(self.like).items():
            table: ChunkTable = getattr(self.like, self.tables[name])
            metadata[f"{name}/.zarray"] = _array(
                [self.scans, *table.shape],
                [1, *table.chunks],
                table.dtype if np.dtype(table.dtype).itemsize > 1 else "|u1",
                table.fill,
                [_codec(f, np.dtype(table.dtype).itemsize) for f in table.filters] or None,
            )
            metadata[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": ["time", "y", "x"], **attrs}
        metadata["time/.zarray"] = _array([self.scans], [_TIMES], "<i8")
        metadata["time/.zattrs"] = _TIME_ATTRIBUTES
        for name, (values, dims, attrs) in small.items():
            metadata[f"{name}/.zarray"] = _array([*values.shape], [*values.shape], values.dtype.str)
            metadata[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": list(dims), **attrs}
        write_text(self.folder / _METADATA, json.dumps({"metadata": metadata, "record_size": self.record}))


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


def _per_scan(table: ChunkTable) -> int:
    return math.prod(-(-n // side) for n, side in zip(table.shape, table.chunks, strict=True))


def _record_name(number: int) -> str:
    return f"refs.{number}.parq"


def pixel_coordinates(
    like: FileIndex,
) -> dict[str, tuple[npt.NDArray[Any], tuple[str, ...], dict[str, Any]]]:
    """Scan angles of the pixels, and the projection: values, dimensions and attributes."""
    grid, dialect = like.grid, dialect_of(like.source.platform)
    return {
        "x": (grid.x, ("x",), {"standard_name": "projection_x_coordinate", "units": "rad"}),
        "y": (grid.y, ("y",), {"standard_name": "projection_y_coordinate", "units": "rad"}),
        dialect.grid_mapping: (np.array(0, "i4"), (), grid.projection.cf_attributes()),
    }


def _array(shape: list[int], chunks: list[int], dtype: str, fill: Any = None, filters: Any = None) -> dict[str, Any]:
    """Metadata of an array of Zarr version 2."""
    return {
        "zarr_format": 2,
        "shape": shape,
        "chunks": chunks,
        "dtype": dtype,
        "fill_value": fill,
        "order": "C",
        "compressor": None,
        "filters": filters,
    }


def _codec(name: str, itemsize: int) -> dict[str, Any]:
    return {"id": "zlib", "level": 1} if name == "deflate" else {"id": "shuffle", "elementsize": itemsize}


def _to_parquet(table: pa.Table, path: Path) -> None:
    with whole_file(path) as part:
        parquet.write_table(table, part, compression="zstd")  # by way of pandas it takes twice as long


def _copy(source: Path, target: Path) -> None:
    """Take a record over as it is, without its bytes where the file system can."""
    with whole_file(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)


def _times(leaf: Path) -> list[int]:
    path = leaf / "time" / _record_name(0)
    with reading(f"{path} cannot be read"):
        rows = read_frame(path, ["raw"])["raw"]
        times: list[int] = np.concatenate([np.frombuffer(raw, "i8") for raw in rows]).tolist()
    return times


def count_of(leaf: Path) -> int:
    """Scans of a leaf, as its own metadata say."""
    with reading(f"{leaf / _METADATA} cannot be read"):
        return int(json.loads((leaf / _METADATA).read_text())["metadata"]["time/.zarray"]["shape"][0])


def shorten(leaf: Path, count: int) -> None:
    """Have a leaf tell fewer scans: what a killed run appended is nowhere listed."""
    told = json.loads((leaf / _METADATA).read_text())
    for name, entry in told["metadata"].items():
        if name.endswith("/.zarray") and told["metadata"][name[:-6] + "zattrs"]["_ARRAY_DIMENSIONS"][:1] == ["time"]:
            entry["shape"][0] = count
    write_text(leaf / _METADATA, json.dumps(told))


def read_table(empty: ChunkTable, folder: Path, position: int) -> ChunkTable:
    """Fill a chunk table from the record that holds a position of the virtual array.

    Raises
    ------
    SourceError
        If there is none, or it cannot be.
    """
    rows, cols = (-(-n // c) for n, c in zip(empty.shape, empty.chunks, strict=True))
    per_file = rows * cols
    with reading(f"{folder} has no references of image {position}"):
        step = _stamped(_record_size, folder.parent / _METADATA) // per_file
        offsets, sizes = _stamped(_read_record, folder / _record_name(position // step))
        at = slice(position % step * per_file, (position % step + 1) * per_file)
        table = replace(empty, offsets=offsets[at].reshape(rows, cols), sizes=sizes[at].reshape(rows, cols))
        table.refuse_impossible()
    return table


def _stamped(read: Any, path: Path) -> Any:
    """Read a file that is kept in memory for as long as it stays the same: it may grow at any time."""
    with reading(f"{path} cannot be read"):
        status = path.stat()
    return read(path, status.st_mtime, status.st_size)


@lru_cache(maxsize=4096)
def _record_size(path: Path, *_: float) -> int:
    """References of one Parquet file of a leaf, as it was written."""
    with reading(f"{path} cannot be read"):
        return int(json.loads(path.read_text())["record_size"])


@lru_cache(maxsize=64)
def _read_record(path: Path, *_: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    with (
        reading(f"{path} cannot be read"),
        path.open("rb") as raw,
        parquet.ParquetFile(raw, pre_buffer=False) as file,
    ):
        table = file.read(columns=["offset", "size"], use_threads=False)
        return table["offset"].to_numpy().astype("i8"), table["size"].to_numpy().astype("i8")
