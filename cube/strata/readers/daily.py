"""SatVision-Pix4D's masks of cloud systems, made from TOOCAN's.

Daily ``YYYYMMDD_cloudsystems.nc`` holds ``DCS_number(nt, lat, lon)``, monthly
``YYYYMM_DCS_number_monthly.nc`` ``DCS_number(day - 1, nt, lat, lon)``; a positive number is a system, the
same over files, anything else is none. ``time(nt)`` counts hours since 00 UTC of the day; a file without it
has 72 steps of 20 minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta

import h5py
import numpy as np
import numpy.typing as npt

from cube.strata.labels import MaskGrid, SystemSteps, survey_labels
from cube.strata.masks import GridImage, MaskFile, MaskKind, Survey, times_of
from cube.strata.readers.netcdf import by_step, dim_names, refuse_unbound, variable
from stratacube.errors import UsageError

__all__ = ["DAILY", "MONTHLY"]

VARIABLE = "DCS_number"
DAILY_DIMS, MONTHLY_DIMS = "(nt, lat, lon)", "(day, nt, lat, lon)"
STEPS_A_DAY = 72


def _survey(file: MaskFile) -> Survey:
    with h5py.File(file.path, "r") as source:
        labels = _labels(source, file)
        grid = _grid(source, labels, file)
        times = _step_times(source, labels.shape, file)
        steps = [
            survey_labels(sparse.labels, sparse.position, grid, times[day][step])
            for day, step, sparse in by_step(labels, len(times))
        ]
    return Survey(file, grid, SystemSteps.concatenate(steps), times_of(time for day in times for time in day))


def _images(file: MaskFile, wanted: Collection[datetime]) -> Iterator[GridImage]:
    with h5py.File(file.path, "r") as source:
        labels = _labels(source, file)
        grid = _grid(source, labels, file)
        times = _step_times(source, labels.shape, file)
        for day, step, sparse in by_step(labels, len(times)):
            if times[day][step] in wanted:
                yield GridImage(times[day][step], grid, sparse.labels, sparse.position)


def _is_monthly(file: MaskFile) -> bool:
    return file.kind == "monthly"


def _labels(source: h5py.File, file: MaskFile) -> h5py.Dataset:
    """Find the variable and check its rank and the names of its dimensions."""
    found = variable(source, VARIABLE)
    if found is None:
        held = ", ".join(sorted(source)) or "nothing"
        raise UsageError(f"{file.path} has no variable {VARIABLE}, only {held}: give a cloud-system mask.")
    expected = MONTHLY_DIMS if _is_monthly(file) else DAILY_DIMS
    names = dim_names(source, found)
    wrong_rank = found.ndim != (4 if _is_monthly(file) else 3)
    wrong_order = all(names) and not (names[-2].startswith("lat") and names[-1].startswith("lon"))
    if wrong_rank or wrong_order or 0 in found.shape or found.dtype.kind not in "iuf":
        dims = ", ".join(f"{name or '?'}: {n}" for name, n in zip(names, found.shape, strict=True))
        raise UsageError(
            f"{file.path}: {VARIABLE} is {found.dtype} with dimensions ({dims}), expected numbers with "
            f"{expected} as its name tells: transpose it, or correct the name."
        )
    refuse_unbound(found, file.path)
    return found


def _grid(source: h5py.File, labels: h5py.Dataset, file: MaskFile) -> MaskGrid:
    axes: list[npt.NDArray[np.float64]] = []
    for name, size in zip(("lat", "lon"), labels.shape[-2:], strict=True):
        axis = variable(source, name)
        if axis is None or axis.shape != (size,):
            found = "none" if axis is None else axis.shape
            raise UsageError(
                f"{file.path}: the shape of {name} is {found}, expected ({size},) to go with {VARIABLE} of "
                f"{labels.shape}: give 1-D lat and lon."
            )
        axes.append(np.asarray(axis[()], "f8"))
    try:
        return MaskGrid.of(*axes)
    except ValueError as error:
        raise UsageError(f"{file.path}: {error}.") from None


def _step_times(source: h5py.File, shape: tuple[int, ...], file: MaskFile) -> list[list[datetime]]:
    """Work out times by day and step; days that the file's month does not have are padding and get none."""
    steps, hours = shape[-3], variable(source, "time")
    if hours is not None and hours.shape == (steps,):
        since_midnight = _checked_hours(np.asarray(hours[()], "f8"), file)
    elif steps == STEPS_A_DAY and (_is_monthly(file) or hours is None):
        since_midnight = np.arange(STEPS_A_DAY) * 24.0 / STEPS_A_DAY
    else:
        found = "none" if hours is None else hours.shape
        raise UsageError(f"{file.path}: time has shape {found}, expected ({steps},) as {VARIABLE} has {shape}.")
    # Hours in single precision are off by some seconds.
    minutes = [timedelta(minutes=round(60.0 * float(h))) for h in since_midnight]
    days = [file.start + timedelta(days=day) for day in range(shape[0] if _is_monthly(file) else 1)]
    return [[day + m for m in minutes] for day in days if day.month == file.start.month]


def _checked_hours(hours: npt.NDArray[np.float64], file: MaskFile) -> npt.NDArray[np.float64]:
    if not (np.all((hours >= 0.0) & (hours <= 24.0)) and np.all(np.diff(np.rint(hours * 60.0)) > 0)):
        raise UsageError(
            f"{file.path}: time runs from {hours[0]:g} to {hours[-1]:g}, expected ascending hours, 0 to 24, "
            "since 00 UTC of the file's date: correct the time variable."
        )
    return hours


def _dated(expression: str, form: str) -> Callable[[str], datetime | None]:
    """Read the date that a name begins with."""
    pattern = re.compile(expression)

    def start(name: str) -> datetime | None:
        match = pattern.match(name)
        return datetime.strptime(match[1], form) if match else None

    return start


def _month(start: datetime) -> datetime:
    """The first of the month after one."""
    return (start.replace(day=28) + timedelta(days=4)).replace(day=1)


DAILY = MaskKind("YYYYMMDD_cloudsystems.nc", _dated(r"^(\d{8})(?!\d)", "%Y%m%d"), _survey, images=_images)
MONTHLY = MaskKind(
    "YYYYMM_DCS_number_monthly.nc", _dated(r"^(\d{6})(?!\d)", "%Y%m"), _survey, ends=_month, images=_images
)
