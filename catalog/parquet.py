"""Reading Parquet tables without leaving threads behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import pyarrow.parquet

__all__ = ["read_frame"]


def read_frame(source: Path | BinaryIO, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a table that pandas wrote, in the calling thread alone.

    ``pandas.read_parquet`` reads through Arrow's pool of threads, which on a busy machine now and then aborts a
    process at its end ("terminate called without an active exception", pyarrow 26).

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
    with pyarrow.parquet.ParquetFile(source) as file:
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    metadata = table.schema.metadata or {}
    frame.attrs = json.loads(metadata.get(b"PANDAS_ATTRS", b"{}"))
    return frame
