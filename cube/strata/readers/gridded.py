"""Masks on a grid that the file describes itself: regular, of 2-D latitudes and longitudes, or a satellite's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from xarray.coding.times import decode_cf_datetime

from cube.geostationary.grid import GeosProjection
from cube.geostationary.hdf5 import text, variables
from cube.strata.cells import CellGrid, SeenGrid
from cube.strata.labels import MaskGrid, SystemSteps, survey_labels
from cube.strata.masks import GridImage, MaskFile, Survey, times_of
from cube.strata.readers.netcdf import Sparse, by_step, refuse_unbound, variable
from stratacube.errors import UsageError

__all__ = ["dated_name", "images_gridded", "survey_gridded", "times_in"]

Systems = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
LATITUDES, LONGITUDES = ("latitude", "lat"), ("longitude", "lon")
_MOST_CELLS = 2**26
"""Cells of a grid whose latitudes and longitudes are read: 1 GB of them."""
_LATER_THAN_NAMED = timedelta(hours=1)
"""How far a file's time may be from that of its name."""


def dated_name(expression: str, form: str = "%Y%m%d%H%M") -> Callable[[str], datetime | None]:
    """Read a time from names that match a regular expression, whose groups hold its digits."""
    pattern = re.compile(expression, re.IGNORECASE)

    def start(name: str) -> datetime | None:
        match = pattern.match(name)
        return datetime.strptime("".join(g or "" for g in match.groups()), form) if match else None

    return start


def survey_gridded(
    file: MaskFile,
    source: h5py.File,
    names: Sequence[str],
    *,
    temperature: str | None = None,
    times: str = "time",
    systems: Systems | None = None,
) -> Survey:
    """Survey a mask of (time, row, column) or (row, column).

    Parameters
    ----------
    file, source
        The file, and it opened.
    names
        What the variable of numbers may be called.
    temperature
        Name of the variable of brightness temperatures, where there may be one.
    times
        Name of the variable of times.
    systems
        From labels to numbers of systems, 0 for those that belong to none; as they are if not given.

    Raises
    ------
    UsageError
        If it has no such variable, or it is laid out otherwise.
    """
    records, at = [], []
    grid: MaskGrid | CellGrid | SeenGrid | None = None
    for time, grid, sparse in _read_steps(file, source, names, temperature, times, systems):
        at.append(time)
        records.append(survey_labels(sparse.labels, sparse.position, grid, time, sparse.beside))
    named = grid.named if isinstance(grid, CellGrid | SeenGrid) else grid
    return Survey(file, named, SystemSteps.concatenate(records), times_of(at))


def images_gridded(
    file: MaskFile,
    source: h5py.File,
    names: Sequence[str],
    wanted: Collection[datetime],
    *,
    times: str = "time",
    systems: Systems | None = None,
) -> Iterator[GridImage]:
    """Read some steps of a mask; see :func:`survey_gridded`."""
    for time, grid, sparse in _read_steps(file, source, names, None, times, systems):
        if time in wanted:
            yield GridImage(time, grid, sparse.labels, sparse.position)


def _read_steps(
    file: MaskFile,
    source: h5py.File,
    names: Sequence[str],
    temperature: str | None,
    times: str,
    systems: Systems | None,
) -> Iterator[tuple[datetime, MaskGrid | CellGrid | SeenGrid, Sparse]]:
    """Yield time, grid and labelled pixels of each step."""
    found = variable(source, *names)
    if found is None:
        held = ", ".join(sorted(source)) or "nothing"
        raise UsageError(f"{file.path} has no variable {' or '.join(names)}, only {held}: give a cloud-system mask.")
    if found.ndim not in (2, 3) or 0 in found.shape or found.dtype.kind not in "iuf":
        raise UsageError(
            f"{file.path}: {names[0]} is {found.dtype} of {found.shape}, expected numbers by time, row and column."
        )
    refuse_unbound(found, file.path)
    at = times_in(source, file, 1 if found.ndim == 2 else found.shape[0], times)
    try:
        grid = _grid(source, found)
    except ValueError as error:
        raise UsageError(f"{file.path}: {error}.") from None
    beside = None if temperature is None else variable(source, temperature)
    if beside is not None and beside.shape != found.shape:
        beside = None
    for time, sparse in zip(at, _steps(found, beside), strict=True):
        known = sparse if isinstance(grid, MaskGrid) else sparse.where(grid.on_earth(sparse.position))
        if systems is not None:
            numbers = systems(known.labels)
            known = Sparse(numbers, known.position, known.beside).where(numbers > 0)
        yield time, grid, known


def _steps(labels: h5py.Dataset, beside: h5py.Dataset | None) -> Any:
    if labels.ndim == 3:
        return (sparse for _, _, sparse in by_step(labels, 1, beside))
    return (sparse for _, _, sparse in by_step(_OneStep(labels), 1, None if beside is None else _OneStep(beside)))


class _OneStep:
    """A variable without a time, seen as one with a time."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset, self.attrs, self.ndim = dataset, dataset.attrs, 3
        self.shape = (1, *dataset.shape)
        self.chunks = None if dataset.chunks is None else (1, *dataset.chunks)

    def __getitem__(self, part: tuple[slice, ...]) -> Any:
        return self._dataset[part[1:]][None]


def times_in(source: h5py.File, file: MaskFile, steps: int, name: str = "time") -> list[datetime]:
    """Times of the steps, by the file's own word, which its name must not belie.

    Raises
    ------
    UsageError
        If there are none for all steps, they do not ascend, or the name tells another.
    """
    found = variable(source, name)
    if found is None or found.size != steps or "units" not in found.attrs:
        told = "none" if found is None else f"of {found.shape}" + ("" if "units" in found.attrs else " without units")
        raise UsageError(f"{file.path}: {name} is {told}, expected {steps} times with units.")
    units = text(found.attrs["units"])
    calendar = text(found.attrs["calendar"]) if "calendar" in found.attrs else None
    try:
        values = np.ravel(decode_cf_datetime(np.ravel(found[()]), units, calendar, use_cftime=False)).astype("M8[s]")
    except (ValueError, OverflowError, TypeError) as error:
        raise UsageError(f"{file.path}: {name} is not a time ({' '.join(str(error).split())[:120]}).") from None
    if np.isnat(values).any() or (np.diff(values) <= np.timedelta64(0)).any():
        raise UsageError(f"{file.path}: {name} does not ascend from step to step: correct it.")
    times: list[datetime] = values.tolist()
    if file.start.year > 1 and abs(times[0] - file.start) > max(_LATER_THAN_NAMED, times[-1] - times[0]):
        raise UsageError(f"{file.path} is of {times[0]}, not of {file.start} as its name tells: correct the name.")
    return times


def _grid(source: h5py.File, labels: h5py.Dataset) -> MaskGrid | CellGrid | SeenGrid:
    """Grid of a variable.

    Raises
    ------
    ValueError
        If the file has none that goes with it.
    """
    shape = labels.shape[-2:]
    lat, lon = variable(source, *LATITUDES), variable(source, *LONGITUDES)
    if lat is not None and lon is not None:
        if (lat.shape, lon.shape) == ((shape[0],), (shape[1],)):
            return MaskGrid.of(_read(lat), _read(lon))
        if lat.shape[-2:] == lon.shape[-2:] == shape and lat.size == lon.size == shape[0] * shape[1] <= _MOST_CELLS:
            return CellGrid.of(_read(lat).reshape(shape), _read(lon).reshape(shape))
    x, y, projection = variable(source, "x"), variable(source, "y"), _projection(source, labels)
    if projection is not None and x is not None and y is not None and (y.shape + x.shape) == shape:
        return SeenGrid(projection, _angles(x, projection), _angles(y, projection))
    sizes = {name: getattr(variable(source, name), "shape", None) for name in (*LATITUDES, *LONGITUDES, "x", "y")}
    held = ", ".join(f"{name} of {size}" for name, size in sizes.items() if size) or "none"
    raise ValueError(
        f"no latitudes and longitudes, nor a geostationary projection with x and y, go with the mask of {shape} "
        f"(found: {held})"
    )


def _read(axis: h5py.Dataset) -> npt.NDArray[np.float64]:
    values = np.asarray(axis[()], "f8")
    for name in ("_FillValue", "missing_value"):
        if name in axis.attrs:
            values[values == float(np.ravel(axis.attrs[name])[0])] = np.nan
    for name in ("scale_factor", "add_offset"):
        if name in axis.attrs:
            number = float(np.ravel(axis.attrs[name])[0])
            values = values * number if name == "scale_factor" else values + number
    return values


def _angles(axis: h5py.Dataset, projection: GeosProjection) -> npt.NDArray[np.float64]:
    """Scan angles, of radians or of projected metres."""
    values = _read(axis)
    units = text(axis.attrs["units"]) if "units" in axis.attrs else ""
    metres = units.startswith("m") or np.abs(values).max() > 1.0
    return values / projection.perspective_point_height if metres else values


def _projection(source: h5py.File, labels: h5py.Dataset) -> GeosProjection | None:
    told = text(labels.attrs["grid_mapping"]) if "grid_mapping" in labels.attrs else None
    held = variables(source)
    views = [n for n, v in held.items() if text(v.attrs.get("grid_mapping_name", "")) == "geostationary"]
    name = told if told in held else views[0] if len(views) == 1 else None
    if name is None:
        return None
    attrs = held[name].attrs
    numbers = ("perspective_point_height", "semi_major_axis", "semi_minor_axis", "longitude_of_projection_origin")
    if any(n not in attrs for n in numbers):
        return None
    sweep = text(attrs["sweep_angle_axis"]) if "sweep_angle_axis" in attrs else "y"  # what CF takes where none is told
    height, major, minor, longitude = (float(np.ravel(attrs[n])[0]) for n in numbers)
    return GeosProjection(height, major, minor, longitude, sweep)
