"""Values as STAC writes them: times, numbers, relative addresses."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlparse

import pandas as pd

__all__ = ["as_list", "number", "relative", "timestamp"]


def timestamp(time: Any) -> str | None:
    """RFC 3339 text of a naive UTC time, to the tenth of a second where it has one; None for no time."""
    if time is None or pd.isna(time):
        return None
    moment: datetime = pd.Timestamp(time).to_pydatetime(warn=False)
    tenth = f".{moment.microsecond // 100_000}" if moment.microsecond >= 100_000 else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{tenth}Z"


def number(value: Any) -> int | float | None:
    """Return a plain number that JSON can hold; None for a missing one."""
    if value is None or pd.isna(value):
        return None
    as_float = float(value)
    return int(value) if as_float.is_integer() and not isinstance(value, float) else as_float


def as_list(values: Iterable[Any] | None) -> list[Any]:
    """Return a list column's cell as a list: Parquet gives arrays, an empty cell gives None."""
    return [] if values is None else list(values)


@lru_cache(1024)  # those of a collection's files are asked for with every item
def relative(target: str, folder: str) -> str:
    """Address of ``target`` as seen from ``folder``, both relative to the output folder.

    Absolute paths and URLs are left as they are.
    """
    if urlparse(target).scheme or target.startswith("/"):
        return target
    path = posixpath.relpath(target, folder)
    return path if path.startswith("..") else f"./{path}"
