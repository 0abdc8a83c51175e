"""Parquet tables: read without leaving threads behind, whole or in batches, and written whole or not at all.

``pandas.read_parquet`` reads through Arrow's pool of threads, which on a busy machine now and then aborts a process at
its end ("terminate called without an active exception", pyarrow 26); so all is read in the calling thread alone. That
takes reading ahead to be off too: it has a thread of its own, and keeps what it has read until the file is closed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow
import pyarrow.parquet

from stratacube.files import whole_file

__all__ = ["iter_frames", "read_frame", "write_frame", "write_frames"]


def read_frame(source: Path | BinaryIO, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table that pandas wrote.

    Parameters
    ----------
    source
        Path or open file.
    columns
        Columns to read; all by default.

    Returns
    -------
    DataFrame
        With the ``attrs`` it was written with.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with pyarrow.parquet.ParquetFile(source, pre_buffer=False) as file:
        return _frame(file.read(columns=None if columns is None else list(columns), use_threads=False))


def iter_frames(
    source: Path | BinaryIO,
    rows: int = 4096,
    columns: Sequence[str] | None = None,
    within: tuple[str, int, int] | None = None,
) -> Iterator[pd.DataFrame]:
    """Read a table that pandas wrote batch by batch, so that memory does not grow with its length.

    Parameters
    ----------
    source
        Path or open file.
    rows
        Most rows of a batch.
    columns
        Columns to read; all by default.
    within
        A column of whole numbers that grow, and the first and last that are asked for: groups of rows without any of
        them are not read.

    Yields
    ------
    DataFrame
        As :func:`read_frame` returns it; its index counts the rows of the whole table.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    start = 0
    with pyarrow.parquet.ParquetFile(source, pre_buffer=False) as file:
        chosen = None if columns is None else list(columns)
        groups = list(range(file.num_row_groups))
        if within is not None:
            groups = [g for g in groups if _meets(file.metadata.row_group(g), *within)]
            start = sum(file.metadata.row_group(g).num_rows for g in range(groups[0] if groups else 0))
        for batch in file.iter_batches(rows, row_groups=groups, columns=chosen, use_threads=False):
            frame = _frame(pyarrow.Table.from_batches([batch]))
            frame.index = pd.RangeIndex(start, start + len(frame))
            start += len(frame)
            yield frame


def _meets(group: Any, column: str, first: int, last: int) -> bool:
    """Whether a group of rows may hold what is asked for, by what the file says of it."""
    told = next((c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column), None)
    if told is None or not told.is_stats_set or not told.statistics.has_min_max:
        return True
    return bool(told.statistics.min <= last and told.statistics.max >= first)


def write_frame(path: Path, frame: pd.DataFrame, *, compression: str = "snappy", row_group: int | None = None) -> None:
    """Write a table without its index, whole or not at all.

    Parameters
    ----------
    path
        The file.
    frame
        Its ``attrs`` are kept.
    compression
        As Parquet names it.
    row_group
        Rows that lie together: what is held of the file while a batch is read.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with whole_file(path) as part:
        frame.to_parquet(part, engine="pyarrow", compression=compression, index=False, row_group_size=row_group)


def write_frames(path: Path, frames: Iterable[pd.DataFrame], attrs: Mapping[str, Any]) -> None:
    """Write a table that comes in parts, of which one at a time is held, whole or not at all.

    Parameters
    ----------
    path
        The file.
    frames
        One at least, with the same columns; the rows of each lie together in the file. Their indexes are not kept.
    attrs
        Kept as those of a frame, of what JSON can tell.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    left = iter(frames)
    first = next(left)
    schema = _told(pyarrow.Schema.from_pandas(first, preserve_index=False))
    schema = schema.with_metadata({**(schema.metadata or {}), b"PANDAS_ATTRS": json.dumps(attrs).encode()})
    with whole_file(path) as part, pyarrow.parquet.ParquetWriter(part, schema, compression="snappy") as writer:
        for frame in chain([first], left):
            writer.write_table(pyarrow.Table.from_pandas(frame, schema, preserve_index=False, nthreads=1))


def _told(schema: pyarrow.Schema) -> pyarrow.Schema:
    """A schema with lists of text where the first rows have empty lists alone, of which nobody knows what they hold."""
    for number, field in enumerate(schema):
        if pyarrow.types.is_list(field.type) and pyarrow.types.is_null(field.type.value_type):
            schema = schema.set(number, field.with_type(pyarrow.list_(pyarrow.string())))
    return schema


def _frame(table: pyarrow.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    frame.attrs = json.loads((table.schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
    return frame
