"""Tables of events: CSV, Parquet or GeoJSON, with the names of columns that people give them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cube.strata.base import Problem
from stratacube.errors import UsageError
from stratacube.guard import guarded
from stratacube.parquet import read_frame
from stratacube.times import naive_utc, parse_time

__all__ = ["Event", "read_events"]

_NAMES = {
    "time": ("time", "datetime", "iso_time", "date_time", "timestamp", "event_time"),
    "lat": ("lat", "latitude", "y"),
    "lon": ("lon", "longitude", "lng", "x"),
    "id": ("id", "event_id", "sid", "system_id", "storm_id", "track_id"),
    "class": ("class", "class_name", "category", "kind"),
    "weight": ("weight",),
}
"""What columns are called, whatever their case; the first that is there counts."""
_NEEDED = ("time", "lat", "lon")
_MOST_TOLD = 20
"""Rows that cannot be used and are told one by one."""


class Event(NamedTuple):
    """A row of a table of events."""

    time: datetime
    """Naive UTC."""
    latitude: float
    """Degrees north."""
    longitude: float
    """Degrees east, in [-180, 180)."""
    name: str
    """What the table calls it; empty if nothing."""
    category: str
    """Its class; empty if none."""
    weight: float


def read_events(path: Path) -> tuple[list[Event], list[Problem]]:
    """Read a table of events.

    Parameters
    ----------
    path
        ``.csv`` (or ``.txt``), ``.parquet``, ``.geojson`` or ``.json``. Columns ``time``, ``lat`` and ``lon`` (also as
        ``iso_time``, ``latitude`` and the like), and where they are there ``id``, ``class`` and ``weight``. Of GeoJSON,
        points with the others as properties. A second line of units, as of IBTrACS, is passed over.

    Returns
    -------
    events : list of Event
        In the order of the rows.
    problems : list of Problem
        Rows that cannot be used, a sentence each; of very many, the first and their number.

    Raises
    ------
    SourceError
        If it cannot be read.
    UsageError
        If it lacks a column, or has no row that can be used.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".txt", ".parquet", ".geojson", ".json"):
        raise UsageError(f"`events` is {path}: give a table that ends with .csv, .parquet or .geojson")
    with guarded(f"{path} is not a table of events", "give a CSV, Parquet or GeoJSON file with time, lat and lon"):
        frame = _read(path, kind)
    columns = _columns(path, frame)
    events, problems, wrong = [], [], 0
    for number, values in enumerate(frame[list(columns.values())].itertuples(index=False, name=None), start=1):
        row = dict(zip(columns, values, strict=True))
        if number == 1 and str(row["lat"]).strip() == "degrees_north":
            continue
        try:
            events.append(_event(row))
        except ValueError as error:
            wrong += 1
            if wrong <= _MOST_TOLD:
                problems.append(Problem(str(path), f"row {number}: {error}"))
    if wrong > _MOST_TOLD:
        problems.append(Problem(str(path), f"{wrong - _MOST_TOLD} more rows cannot be used"))
    if not events:
        first = f"; the first, {problems[0].message}" if problems else ""
        raise UsageError(f"{path} has no event that can be used, of {len(frame)} rows{first}")
    return events, problems


def _read(path: Path, kind: str) -> pd.DataFrame:
    if kind == ".parquet":
        return read_frame(path)
    if kind in (".csv", ".txt"):
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    found = json.loads(path.read_text(encoding="utf-8"))
    return pd.DataFrame([*_points(found)], dtype=object)


def _points(found: Any) -> Iterator[dict[str, Any]]:
    """Properties and places of the features of GeoJSON."""
    if not isinstance(found, dict) or not isinstance(found.get("features"), list):
        raise ValueError("it is not a GeoJSON FeatureCollection")
    for feature in found["features"]:
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        if not isinstance(feature, dict) or not isinstance(feature.get("properties") or {}, dict):
            raise ValueError("a feature has no properties")
        place: list[Any] = [None, None]
        if isinstance(geometry, dict) and geometry.get("type") == "Point" and len(geometry["coordinates"]) >= 2:
            place = geometry["coordinates"][:2]
        told = {str(k): v for k, v in (feature.get("properties") or {}).items()}
        yield {"id": feature.get("id"), **told, "lon": place[0], "lat": place[1]}


def _columns(path: Path, frame: pd.DataFrame) -> dict[str, Any]:
    """By what they hold, the columns that are there."""
    there = {str(name).strip().lower(): name for name in reversed(frame.columns)}
    found = {key: there[name] for key, names in _NAMES.items() for name in names[::-1] if name in there}
    lacking = [key for key in _NEEDED if key not in found]
    if lacking:
        raise UsageError(
            f"{path} has columns {', '.join(map(str, frame.columns)) or 'none'}, and none of {' and '.join(lacking)}; "
            "name them time, lat and lon"
        )
    return found


def _event(row: dict[str, Any]) -> Event:
    latitude, longitude = _number(row["lat"], "lat", -90.0, 90.0), _number(row["lon"], "lon", -180.0, 360.0)
    weight = _number(row["weight"], "weight", 0.0, math.inf) if _given(row.get("weight")) else 1.0
    if weight <= 0 or math.isinf(weight):
        raise ValueError(f"weight is {row['weight']!r}, not a number above 0")
    name, category = (str(row[key]).strip() if _given(row.get(key)) else "" for key in ("id", "class"))
    return Event(_time(row["time"]), latitude, (longitude + 180.0) % 360.0 - 180.0, name, category, weight)


def _given(value: Any) -> bool:
    return not (value is None or value is pd.NaT or value is pd.NA or value != value or str(value).strip() == "")  # noqa: PLR0124  (NaN)


def _time(value: Any) -> datetime:
    if isinstance(value, pd.Timestamp | datetime) and _given(value):
        return naive_utc(value.to_pydatetime() if isinstance(value, pd.Timestamp) else value)
    try:
        return parse_time(str(value))
    except ValueError:
        raise ValueError(f"time is {str(value)!r}, not ISO 8601 such as 2020-01-31T12:00") from None


def _number(value: Any, name: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        span = f"in {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
        raise ValueError(f"{name} is {str(value)!r}, not a number {span}")
    return number
