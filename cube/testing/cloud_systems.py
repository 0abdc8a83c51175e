"""Synthetic cloud-system masks, in the layout of the daily and monthly files that the convection stratum reads.

They show the systems of the synthetic sky (`cube.testing.abi.archive`) of the same seed: a cell carries a system's
number where its centre lies inside the system's outline. Not an observation; each file says so.
"""

from __future__ import annotations

import calendar
import math
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from cube.testing.systems import KM_PER_DEGREE, active_systems
from stratacube.errors import UsageError

__all__ = [
    "LATITUDES",
    "LONGITUDES",
    "STEPS_PER_DAY",
    "label_systems",
    "write_cloud_systems",
    "write_monthly_cloud_systems",
]

Floats = npt.NDArray[np.float64]

STEPS_PER_DAY = 72
"""One every 20 minutes."""
LATITUDES: Floats = np.round(-39.96 + 0.12 * np.arange(667), 2)
LONGITUDES: Floats = np.round(150.0 + 0.12 * np.arange(1751), 2)
"""Degrees east in [0, 360]: the view of both GOES positions."""
_NOTE = "Synthetic data written by stratacube for demonstrations and tests: not an observation."


def label_systems(
    time: datetime, *, seed: int = 0, latitudes: Floats = LATITUDES, longitudes: Floats = LONGITUDES
) -> npt.NDArray[np.int64]:
    """Label the cells of a grid with the systems of the synthetic sky.

    Where systems overlap the cell belongs to the one it lies deeper in. A system too small to cover a cell's centre
    takes the cell that its own centre lies in.

    Parameters
    ----------
    time : datetime
        Naive UTC.
    seed : int
        Of the synthetic world.
    latitudes, longitudes : ndarray
        Ascending and equidistant, in degrees; longitudes in [0, 360].

    Returns
    -------
    ndarray of int64, (latitudes, longitudes)
        0 where there is no system.
    """
    labels = np.zeros((len(latitudes), len(longitudes)), "i8")
    deepest = np.zeros(labels.shape)
    for system in active_systems(seed, time):
        north = system.reach_km / KM_PER_DEGREE
        east = north / math.cos(math.radians(system.latitude))
        rows = _cells(latitudes, system.latitude - north, system.latitude + north)
        cols = _cells(longitudes, system.longitude - east, system.longitude + east)
        if rows.start == rows.stop or cols.start == cols.stop:
            continue
        depth = system.depth(longitudes[None, cols], latitudes[rows, None])
        inside = depth > deepest[rows, cols]
        if not (depth > 0).any():
            inside = depth == depth.max()
        deepest[rows, cols][inside] = depth[inside]
        labels[rows, cols][inside] = system.system_id
    return labels


def _cells(axis: Floats, low: float, high: float) -> slice:
    """Cells with any part between two values."""
    half = (axis[1] - axis[0]) / 2
    return slice(int(np.searchsorted(axis, low - half)), int(np.searchsorted(axis, high + half)))


def write_cloud_systems(
    path: str | Path,
    *,
    date: date,
    seed: int = 0,
    latitudes: Floats = LATITUDES,
    longitudes: Floats = LONGITUDES,
    steps: Iterable[int] = range(STEPS_PER_DAY),
) -> Path:
    """Write the mask of one day, ``YYYYMMDD_cloudsystems.nc``.

    Parameters
    ----------
    path : str or Path
        The file when it ends in ``.nc``, else the folder it is put in under its usual name.
    date : date
        Day, UTC.
    seed : int
        Of the synthetic world: that of the scans it goes with.
    latitudes, longitudes : ndarray
        Ascending and equidistant cell centres in degrees; 667 x 1751 at 0.12 degrees by default.
    steps : iterable of int
        Steps of 20 minutes that are computed; the others have no system.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    UsageError
        For an axis of fewer than two cells.
    """
    target = _target(path, f"{date:%Y%m%d}_cloudsystems.nc")
    with _new_file(target, latitudes, longitudes) as file:
        masks = file.create_dataset(
            "DCS_number",
            (STEPS_PER_DAY, len(latitudes), len(longitudes)),
            "f8",
            chunks=(1, len(latitudes), len(longitudes)),
            compression="gzip",
            compression_opts=1,
        )
        _describe(file, masks, ("nt", "lat", "lon"), f"hours since {date:%Y-%m-%d} 00:00:00")
        for step in steps:
            masks[step] = _labels_at(date, step, seed, latitudes, longitudes)
    return target


def write_monthly_cloud_systems(
    path: str | Path,
    *,
    year: int,
    month: int,
    days: Iterable[int] | None = None,
    seed: int = 0,
    latitudes: Floats = LATITUDES,
    longitudes: Floats = LONGITUDES,
    steps: Iterable[int] = range(STEPS_PER_DAY),
) -> Path:
    """Write the mask of one month, ``YYYYMM_DCS_number_monthly.nc``: ``DCS_number[day - 1, step, lat, lon]``.

    Parameters
    ----------
    path : str or Path
        The file when it ends in ``.nc``, else the folder it is put in under its usual name.
    year, month : int
        Month, UTC.
    days : iterable of int, optional
        Days from 1 that are computed; all by default. The others have no system.
    seed, latitudes, longitudes, steps
        As in `write_cloud_systems`.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    UsageError
        For an axis of fewer than two cells.
    """
    length = calendar.monthrange(year, month)[1]
    target, steps = _target(path, f"{year:04d}{month:02d}_DCS_number_monthly.nc"), list(steps)
    with _new_file(target, latitudes, longitudes) as file:
        masks = file.create_dataset(
            "DCS_number",
            (length, STEPS_PER_DAY, len(latitudes), len(longitudes)),
            "f8",
            chunks=(1, 1, len(latitudes), len(longitudes)),
            compression="gzip",
            compression_opts=1,
        )
        _add_dimension(file, "day", length)
        _describe(file, masks, ("day", "nt", "lat", "lon"), "hours since 00 UTC of the day")
        for day in range(1, length + 1) if days is None else days:
            for step in steps:
                masks[day - 1, step] = _labels_at(date(year, month, day), step, seed, latitudes, longitudes)
    return target


def _labels_at(day: date, step: int, seed: int, latitudes: Floats, longitudes: Floats) -> npt.NDArray[np.int64]:
    time = datetime(day.year, day.month, day.day) + timedelta(minutes=20 * step)
    return label_systems(time, seed=seed, latitudes=latitudes, longitudes=longitudes)


def _target(path: str | Path, name: str) -> Path:
    target = Path(path) if str(path).endswith(".nc") else Path(path) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _new_file(target: Path, latitudes: Floats, longitudes: Floats) -> h5py.File:
    """Open a new file with its latitude and longitude axes."""
    if len(latitudes) < 2 or len(longitudes) < 2:
        raise UsageError(f"axes of {len(latitudes)} and {len(longitudes)} cells have no spacing; give two or more each")
    file = h5py.File(target, "w", libver=("v108", "v108"))
    file.attrs["title"] = "Cloud systems (synthetic)"
    file.attrs["synthetic"] = _NOTE
    for name, axis, units in (("lat", latitudes, "degrees_north"), ("lon", longitudes, "degrees_east")):
        file.create_dataset(name, data=np.asarray(axis, "f8")).make_scale(name)
        file[name].attrs["units"] = units
    return file


def _add_dimension(file: h5py.File, name: str, size: int) -> None:
    """Make a dimension that has no variable, as netCDF-4 does."""
    scale = file.create_dataset(name, (size,), ">f4")
    scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")


def _describe(file: h5py.File, masks: h5py.Dataset, dimensions: tuple[str, ...], units: str) -> None:
    """Add the hours of the steps, and name the dimensions of the masks."""
    _add_dimension(file, "nt", STEPS_PER_DAY)
    hours = file.create_dataset("time", data=np.arange(STEPS_PER_DAY) / 3.0)
    hours.attrs["units"] = units
    hours.dims[0].attach_scale(file["nt"])
    masks.attrs["long_name"] = "number of the cloud system, 0 where there is none"
    for axis, name in enumerate(dimensions):
        masks.dims[axis].attach_scale(file[name])
