"""Tables of tracked systems, a row a system and time: CSV, Parquet or GeoJSON, with outlines or places alone.

ATRACKCS's tables are such, and the metadata of SatVision-Pix4D. Which column holds what is told by its name, of the
lists below. What a system's number is may be any text. Outlines are WKT, WKB or GeoJSON in degrees.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import shapely
from shapely.geometry import shape

from cube.strata.labels import Floats, SystemSteps
from cube.strata.masks import SOURCE_ID, UNDATED, MaskFile, MaskKind, Survey
from stratacube.errors import UsageError
from stratacube.parquet import read_frame

__all__ = ["COLUMNS", "TRACKS"]

COLUMNS = {
    "system": ("system_id", "track_id", "track", "cell", "belong", "storm_id", "id"),
    "name": (SOURCE_ID,),
    "time": ("datetime", "time", "timestamp", "date_time"),
    "outline": ("geometry", "wkt", "polygon"),
    "latitude": ("latitude", "lat", "center_latitude", "meanlat"),
    "longitude": ("longitude", "lon", "center_longitude", "meanlon"),
    "area_km2": ("area_km2", "area_tb", "area"),
    "top": ("min_tb", "tb_min", "mintb"),
    "pixels": ("pixels", "ncells"),
    "row": ("center_y",),
    "col": ("center_x",),
}
"""Names of columns, by what they hold; the first that there is counts, whatever its case."""
_GEOD = pyproj.Geod(ellps="WGS84")
_NUMBER_BITS = 53
"""Numbers made of names are integers that float64, and JSON, hold."""


def _start(name: str) -> datetime | None:
    return UNDATED if re.search(r"\.(csv|parquet|geojson)$", name, re.IGNORECASE) else None


@dataclass(frozen=True)
class _Outlines:
    """Outlines of systems at one time."""

    time: datetime
    systems: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.object_]

    def numbers(self, longitude: Floats, latitude: Floats) -> npt.NDArray[np.int64]:
        """Number of the system at each place; where outlines overlap, of the later in the table."""
        found = np.where(np.isfinite(longitude) & np.isfinite(latitude), 0, -1).astype("i8")
        seen = found == 0
        for system, outline in zip(self.systems.tolist(), self.shapes, strict=True):
            west, _, _, _ = outline.bounds
            east_of = west + (longitude[seen] - west) % 360.0  # in the outline's own turn of the Earth
            found[seen] = np.where(shapely.contains_xy(outline, east_of, latitude[seen]), system, found[seen])
        return found


def _images(file: MaskFile, wanted: Collection[datetime]) -> Iterator[_Outlines]:
    frame = _read(Path(file.path))
    names = {what: _found(frame, COLUMNS[what]) for what in ("system", "time", "outline")}
    if names["outline"] is None:
        raise UsageError(f"{file.path} tells places of systems, no outlines: there is nothing to draw of them.")
    times, systems = _times(file, frame[names["time"]]), _systems(file, frame[names["system"]])
    shapes = _shapes(file, frame[names["outline"]])
    for time in sorted(wanted):
        mine = times == np.datetime64(time, "s")
        if mine.any():
            yield _Outlines(time, systems[mine], shapes[mine])


def _survey(file: MaskFile) -> Survey:
    frame = _read(Path(file.path))
    column = {what: _found(frame, names) for what, names in COLUMNS.items()}
    placed = column["outline"] is not None or (column["latitude"] is not None and column["longitude"] is not None)
    lacking = [what for what in ("system", "time") if column[what] is None] + ["outline or place"] * (not placed)
    if lacking:
        known = "; ".join(f"{what}: {', '.join(COLUMNS[what])}" for what in ("system", "time", "outline", "latitude"))
        raise UsageError(
            f"{file.path} has no column of {' and '.join(lacking)}, only {', '.join(map(str, frame.columns))}: "
            f"call them as one of these ({known})."
        )

    def values(what: str) -> pd.Series | None:
        name = column[what]
        return None if name is None else frame[name]

    times = _times(file, values("time"))
    longitude, latitude, area = _places(file, values("outline"), values("longitude"), values("latitude"))
    told = _numbers(values("area_km2"), np.nan)
    area = np.where(np.isfinite(told), told, area) if len(told) else area
    pixels = _numbers(values("pixels"), np.nan)
    if not len(pixels):
        pixels = np.maximum(1.0, np.rint(area))  # grows as the area does
    number = len(frame)
    systems = _systems(file, values("system"))
    steps = SystemSteps(
        system_id=systems,
        time=times,
        pixels=np.nan_to_num(pixels, nan=1.0).clip(1, 2**31 - 1).astype("i4"),
        row=_whole(values("row"), number),
        col=_whole(values("col"), number),
        centroid_row=np.full(number, np.nan),
        centroid_col=np.full(number, np.nan),
        longitude=longitude,
        latitude=latitude,
        area_km2=area.astype("f4"),
        top=(_numbers(values("top"), np.nan) if column["top"] else np.full(number, np.nan)).astype("f4"),
    )
    return Survey(file, None, steps, np.unique(times), names=_names(systems, values("system"), values("name")))


def _read(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_frame(path)
    if suffix == ".csv":
        return pd.read_csv(path)
    features = json.loads(path.read_text())["features"]
    frame = pd.DataFrame([feature.get("properties") or {} for feature in features])
    frame["geometry"] = [shape(feature["geometry"]) for feature in features]
    return frame


def _found(frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    known = {str(column).lower(): str(column) for column in frame.columns}
    return next((known[name] for name in names if name in known), None)


def _times(file: MaskFile, column: Any) -> npt.NDArray[np.datetime64]:
    times = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
    if times.isna().any():
        row = int(np.flatnonzero(times.isna())[0])
        raise UsageError(f"{file.path}: row {row + 1} has the time {column.iloc[row]!r}, which is not ISO 8601.")
    return np.asarray(times.dt.tz_localize(None).to_numpy("M8[s]"))


def _names(systems: npt.NDArray[np.int64], column: Any, told: Any) -> dict[int, str]:
    """What systems are called, by number, where they have names: their own, or those that one of our tables kept."""
    named = column if not _numbered(column) else told
    if named is None:
        return {}
    there = named.notna().to_numpy()
    return dict(zip(systems[there].tolist(), named[there].astype(str).tolist(), strict=True))


def _numbered(column: Any) -> bool:
    return bool(column.dtype.kind in "iu" or (column.dtype.kind == "f" and (column % 1 == 0).all()))


def _systems(file: MaskFile, column: Any) -> npt.NDArray[np.int64]:
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise UsageError(f"{file.path}: row {row + 1} tells no system: each row belongs to one.")
    if _numbered(column):
        return np.asarray(column.to_numpy("i8"))
    # Any text: what it is called is kept beside the number, see _names.
    codes, names = pd.factorize(column.astype(str))
    shift = 64 - _NUMBER_BITS
    digests = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> shift for name in names]
    return np.asarray(np.array(digests, "i8")[codes])


def _places(file: MaskFile, outline: Any, longitude: Any, latitude: Any) -> tuple[npt.NDArray[np.float64], ...]:
    """Longitude and latitude of a place inside each system, and the area of its outline (NaN without), km2."""
    if outline is None:
        places = [_numbers(longitude, np.nan), _numbers(latitude, np.nan), np.full(len(latitude), np.nan)]
    else:
        shapes = _shapes(file, outline)
        middle = shapely.centroid(shapes)
        points = np.where(shapely.intersects(shapes, middle), middle, shapely.point_on_surface(shapes))
        area = np.array([abs(_GEOD.geometry_area_perimeter(one)[0]) / 1e6 for one in shapes])
        places = [shapely.get_x(points), shapely.get_y(points), np.where(area > 0, area, np.nan)]
    off = ~((np.abs(places[1]) <= 90.0) & (places[0] >= -360.0) & (places[0] <= 360.0))
    if off.any():
        row = int(np.flatnonzero(off)[0])
        raise UsageError(
            f"{file.path}: row {row + 1} lies at longitude {places[0][row]:g}, latitude {places[1][row]:g}, expected "
            "degrees."
        )
    return tuple(places)


def _shapes(file: MaskFile, outline: Any) -> npt.NDArray[np.object_]:
    given = outline.to_numpy(object)
    if len(given) and isinstance(given[0], str):
        parsed = shapely.from_wkt(given, on_invalid="ignore")
    elif len(given) and isinstance(given[0], bytes):
        parsed = shapely.from_wkb(given, on_invalid="ignore")
    else:
        parsed = given
    bad = shapely.is_missing(parsed) | shapely.is_empty(parsed)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UsageError(f"{file.path}: row {row + 1} has an outline that cannot be read ({str(given[row])[:60]!r}).")
    parsed = np.where(shapely.is_valid(parsed), parsed, shapely.make_valid(parsed))
    bounds = shapely.bounds(parsed)
    for i in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180.0):  # over the antimeridian
        parsed[i] = shapely.transform(parsed[i], lambda xy: np.stack([xy[:, 0] % 360.0, xy[:, 1]], axis=1))
    return np.asarray(parsed)


def _numbers(column: Any, missing: float) -> npt.NDArray[np.float64]:
    if column is None:
        return np.zeros(0)
    numbers: npt.NDArray[np.float64] = pd.to_numeric(column, errors="coerce").fillna(missing).to_numpy("f8")
    return numbers


def _whole(column: Any, number: int) -> npt.NDArray[np.int32]:
    numbers = _numbers(column, -1.0)
    return (numbers if len(numbers) else np.full(number, -1.0)).astype("i4")


TRACKS = MaskKind("tracks.csv", _start, _survey, images=_images)
