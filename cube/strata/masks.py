"""Cloud-system masks: finds the files, checks their layout, and surveys each in one pass.

Daily ``YYYYMMDD_cloudsystems.nc`` holds ``DCS_number(nt, lat, lon)``, monthly
``YYYYMM_DCS_number_monthly.nc`` ``DCS_number(day - 1, nt, lat, lon)``; a positive number is a system, the
same over files, anything else is none. ``time(nt)`` counts hours since 00 UTC of the day; a file without it
has 72 steps of 20 minutes.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cube.geostationary.hdf5 import text
from cube.registry import MASKS
from cube.strata.base import Problem
from cube.strata.labels import MaskGrid, SystemSteps, survey_labels
from stratacube.choices import one_of
from stratacube.errors import PlugError, SourceError, UnavailableError, UsageError
from stratacube.guard import guarded

__all__ = ["MaskFile", "MaskKind", "Survey", "find_masks", "survey_mask"]

VARIABLE = "DCS_number"
DAILY_DIMS, MONTHLY_DIMS = "(nt, lat, lon)", "(day, nt, lat, lon)"
STEPS_A_DAY = 72
NOT_A_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
Sparse = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Labels, and their positions row by row in the mask."""

LARGEST_LABEL = 2.0**53  # float64 holds every integer up to here; larger ones are fill values
_LONGEST, _LARGEST, _STRIP = 2**16, 2**28, 2**24
"""Values along a side, in a chunk, and read at once of a file without chunks: what a damaged one says has no bound."""


@dataclass(frozen=True)
class MaskFile:
    """One mask file, as its name tells."""

    path: str
    start: datetime
    """00 UTC of its first day."""
    kind: str
    """Name in :data:`cube.registry.MASKS`."""

    @property
    def monthly(self) -> bool:
        """Whether it holds the days of a month."""
        return self.kind == "monthly"


@dataclass(frozen=True)
class Survey:
    """What one file holds; ``problem`` is set, and the rest empty, where it cannot be used."""

    file: MaskFile
    grid: MaskGrid | None = None
    steps: SystemSteps | None = None
    days: tuple[datetime, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True)
class MaskKind:
    """A kind of files: what their names look like, and how one is read."""

    example: str
    """A name, as a user is told it."""
    start: Callable[[str], datetime | None]
    """From a file's name to 00 UTC of its first day; None for a name of another kind.

    Raises ValueError for a date that there is not."""
    survey: Callable[[MaskFile], Survey]
    """Reads one; raises a UsageError or SourceError for one that cannot be used."""


def find_masks(pattern: str) -> tuple[list[MaskFile], list[Problem]]:
    """Mask files that a glob pattern matches, by date.

    Parameters
    ----------
    pattern : str
        A glob, ``**`` for any depth; a leading ``~`` is the home folder.

    Returns
    -------
    files : list of MaskFile
        Sorted by date, then path.
    problems : list of Problem
        Files whose name tells no date.

    Raises
    ------
    UsageError
        The pattern matches no file.
    """
    paths = sorted(p for p in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(p))
    if not paths:
        raise UsageError(
            f'No cloud-system mask matches "{pattern}": give a glob of files (not a regular '
            'expression), such as "/masks/2020*_cloudsystems.nc".'
        )
    files, problems = [], []
    for path in paths:
        try:
            files.append(_named(path))
        except UsageError as error:
            problems.append(Problem(path, str(error)))
    return sorted(files, key=lambda f: (f.start, f.path)), problems


def survey_mask(file: MaskFile) -> Survey:
    """Survey one file; what is wrong with it comes back as its ``problem``, so that it spoils no other.

    Parameters
    ----------
    file : MaskFile
        The file.

    Returns
    -------
    Survey
        Picklable.
    """
    form = " as NetCDF-4" if file.kind in MASKS.ours else ""
    try:
        with guarded(f"{file.path} cannot be read{form}", "fetch or write it again"), MASKS.blamed(file.kind):
            surveyed: Survey = MASKS.load(file.kind).survey(file)
            return surveyed
    except PlugError as error:
        return Survey(file, problem=Problem(file.path, f"{file.path} cannot be used: {error}"))
    except UnavailableError:
        raise  # without it other systems would be drawn
    except (UsageError, SourceError) as error:
        return Survey(file, problem=Problem(file.path, str(error)))


def _named(path: str) -> MaskFile:
    name, kinds = os.path.basename(path), MASKS.all()
    # Ours come last, for they take any name that begins with a date.
    for kind, of in sorted(kinds.items(), key=lambda item: item[0] in MASKS.ours):
        with MASKS.blamed(kind), suppress(ValueError):
            start = of.start(name)
            if start is not None:
                return MaskFile(path, start, kind)
    raise UsageError(f"The name of {path} tells no date: expected {one_of([of.example for of in kinds.values()])}.")


def _survey(file: MaskFile) -> Survey:
    with h5py.File(file.path, "r") as source:
        labels = _labels(source, file)
        grid = _grid(source, labels, file)
        times = _step_times(source, labels.shape, file)
        steps = [survey_labels(*sparse, grid, times[day][step]) for day, step, sparse in _by_step(labels, len(times))]
    days = tuple(file.start + timedelta(days=day) for day in range(len(times)))
    return Survey(file, grid, SystemSteps.concatenate(steps), days)


def _labels(source: h5py.File, file: MaskFile) -> h5py.Dataset:
    """Find the variable and check its rank and the names of its dimensions."""
    found = _variable(source, VARIABLE)
    if found is None:
        held = ", ".join(sorted(source)) or "nothing"
        raise UsageError(f"{file.path} has no variable {VARIABLE}, only {held}: give a cloud-system mask.")
    expected = MONTHLY_DIMS if file.monthly else DAILY_DIMS
    names = _dim_names(source, found)
    wrong_rank = found.ndim != (4 if file.monthly else 3)
    wrong_order = all(names) and not (names[-2].startswith("lat") and names[-1].startswith("lon"))
    if wrong_rank or wrong_order or 0 in found.shape or found.dtype.kind not in "iuf":
        dims = ", ".join(f"{name or '?'}: {n}" for name, n in zip(names, found.shape, strict=True))
        raise UsageError(
            f"{file.path}: {VARIABLE} is {found.dtype} with dimensions ({dims}), expected numbers with "
            f"{expected} as its name tells: transpose it, or correct the name."
        )
    size = math.prod(found.chunks or (1,))
    if max(found.shape) > _LONGEST or size > _LARGEST:
        raise UsageError(
            f"{file.path}: {VARIABLE} of {found.shape} in chunks of {size} values is not read, {_LONGEST} along a "
            f"side and {_LARGEST} in a chunk are the most: cut the mask into smaller ones."
        )
    return found


def _variable(source: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a variable; None where there is none, or only a dimension of that name."""
    if name not in source:
        return None
    found = source[name]
    if not isinstance(found, h5py.Dataset):
        return None
    if "NAME" in found.attrs and bytes(found.attrs["NAME"]).startswith(NOT_A_VARIABLE):
        return None
    return found


def _dim_names(source: h5py.File, dataset: h5py.Dataset) -> list[str]:
    """Names of a variable's dimensions from the attached scales, else its labels; "" where there is neither.

    Scales tell what they are attached to in plain records. The variable's own list is of another kind, over which HDF5
    ends the process, or never comes back, where it is damaged.
    """
    names = [""] * dataset.ndim
    for scale in source.values():
        listed = scale.attrs.get("REFERENCE_LIST")
        if listed is None or not getattr(listed.dtype, "names", None):
            continue
        for reference, axis, *_ in np.ravel(listed).tolist():
            if isinstance(reference, h5py.Reference) and source[reference] == dataset:
                names[axis] = str(scale.name).rsplit("/", 1)[-1]
    return names if any(names) else [text(label) for label in dataset.attrs.get("DIMENSION_LABELS", names)]


def _grid(source: h5py.File, labels: h5py.Dataset, file: MaskFile) -> MaskGrid:
    axes: list[npt.NDArray[np.float64]] = []
    for name, size in zip(("lat", "lon"), labels.shape[-2:], strict=True):
        axis = _variable(source, name)
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
    steps, hours = shape[-3], _variable(source, "time")
    if hours is not None and hours.shape == (steps,):
        since_midnight = _checked_hours(np.asarray(hours[()], "f8"), file)
    elif steps == STEPS_A_DAY and (file.monthly or hours is None):
        since_midnight = np.arange(STEPS_A_DAY) * 24.0 / STEPS_A_DAY
    else:
        found = "none" if hours is None else hours.shape
        raise UsageError(f"{file.path}: time has shape {found}, expected ({steps},) as {VARIABLE} has {shape}.")
    # Hours in single precision are off by some seconds.
    minutes = [timedelta(minutes=round(60.0 * float(h))) for h in since_midnight]
    days = [file.start + timedelta(days=day) for day in range(shape[0] if file.monthly else 1)]
    return [[day + m for m in minutes] for day in days if day.month == file.start.month]


def _checked_hours(hours: npt.NDArray[np.float64], file: MaskFile) -> npt.NDArray[np.float64]:
    if not (np.all((hours >= 0.0) & (hours <= 24.0)) and np.all(np.diff(np.rint(hours * 60.0)) > 0)):
        raise UsageError(
            f"{file.path}: time runs from {hours[0]:g} to {hours[-1]:g}, expected ascending hours, 0 to 24, "
            "since 00 UTC of the file's date: correct the time variable."
        )
    return hours


def _by_step(labels: h5py.Dataset, days: int) -> Iterator[tuple[int, int, Sparse]]:
    """Yield day, step and labelled pixels of each time step.

    Each chunk is read once: slabs span the chunks' days and steps and are read in strips of their rows,
    of which only the labelled pixels stay in memory. An unchunked file is read strip by strip.
    """
    lead = labels.ndim - 3
    steps, rows, width = labels.shape[-3:]
    depth = labels.chunks or (1,) * (lead + 1) + (min(rows, max(1, _STRIP // width)), width)
    # Asked for first: ``get`` takes an attribute whose checksum is wrong for one that is not there.
    fill = None
    if "_FillValue" in labels.attrs:
        fill = labels.attrs["_FillValue"]
    long, deep, tall = (depth[0] if lead else 1), depth[-3], depth[-2]
    for day, step in product(range(0, days, long), range(0, steps, deep)):
        slab = (slice(day, min(day + long, days)),) * lead + (slice(step, min(step + deep, steps)),)
        strips = []
        for top in range(0, rows, tall):
            block = labels[(*slab, slice(top, min(top + tall, rows)))]
            layers = block.reshape(-1, *block.shape[-2:])
            strips.append([_sparse(layer, top * width, fill) for layer in layers])
        for layer, parts in enumerate(zip(*strips, strict=True)):
            since_day, since_step = divmod(layer, min(deep, steps - step))
            found = np.concatenate([p[0] for p in parts])
            yield day + since_day, step + since_step, (found, np.concatenate([p[1] for p in parts]))


def _sparse(layer: npt.NDArray[Any], offset: int, fill: npt.ArrayLike | None) -> Sparse:
    """Labels and flat positions of the labelled pixels."""
    flat = layer.ravel()
    position = np.flatnonzero(flat > 0)
    values = flat[position]
    real = values <= LARGEST_LABEL
    if fill is not None:
        real &= values != np.ravel(fill)[0]
    return values[real].astype(np.int64), position[real] + offset


def _dated(expression: str, form: str) -> Callable[[str], datetime | None]:
    """Read the date that a name begins with."""
    pattern = re.compile(expression)

    def start(name: str) -> datetime | None:
        match = pattern.match(name)
        return datetime.strptime(match[1], form) if match else None

    return start


DAILY = MaskKind("YYYYMMDD_cloudsystems.nc", _dated(r"^(\d{8})(?!\d)", "%Y%m%d"), _survey)
MONTHLY = MaskKind("YYYYMM_DCS_number_monthly.nc", _dated(r"^(\d{6})(?!\d)", "%Y%m"), _survey)
