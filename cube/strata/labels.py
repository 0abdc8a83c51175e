"""Cloud systems of one labelled mask: pixel counts, centroids, anchors and areas, all systems in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

__all__ = ["Grid", "MaskGrid", "SameGrid", "SystemSteps", "survey_labels"]

EARTH_RADIUS_KM = 6371.0088
LARGEST_TABLE = 4_000_000  # labels; 32 MB
ROUNDING = 1e-3  # degrees; 150 + 1750 * 0.12 is a little more than 360
REGULAR_WITHIN = 0.02  # of a step; axes are often stored in single precision


class SameGrid(Protocol):
    """What is kept of a grid when its file has been read; as text it says what it is."""

    def same(self, other: Any) -> bool:
        """Whether another grid has the same cells."""
        ...


class Grid(SameGrid, Protocol):
    """Where the cells of a mask lie."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def place(self, row: Ints, col: Ints) -> tuple[Floats, Floats]:
        """Longitude and latitude of cells' centres, degrees."""
        ...

    def locate(self, longitude: Floats, latitude: Floats) -> Ints:
        """Flat position of the cell that a place lies in, -1 where none does."""
        ...

    def area(self, row: Ints, col: Ints) -> Floats:
        """Areas of cells, km2."""
        ...

    def middle(self, row: Ints, col: Ints, system: Ints, first: Ints) -> tuple[Floats, Floats, Floats]:
        """Centroid of each system, as row and column, and how far each pixel is from its system's, in any unit."""
        ...


@dataclass(frozen=True)
class MaskGrid:
    """A regular latitude-longitude grid. Columns run eastward, or westward, and may cross any meridian."""

    latitude: Floats
    """Degrees, by row."""
    longitude: Floats
    """Degrees, by column, as the file gives them."""

    @classmethod
    def of(cls, latitude: Floats, longitude: Floats) -> MaskGrid:
        """Make a grid of 1-D axes.

        Raises
        ------
        ValueError
            The axes are not regular, or out of range.
        """
        for name, axis, low, high in (("lat", latitude, -90.0, 90.0), ("lon", longitude, -180.0, 360.0)):
            if len(axis) < 2 or not np.all((axis >= low - ROUNDING) & (axis <= high + ROUNDING)):
                raise ValueError(f"{name} is not 2 or more values in {low:g} to {high:g} degrees")
        lat_steps = np.diff(latitude)
        lon_steps = (np.diff(longitude) + 180.0) % 360.0 - 180.0
        for name, steps in (("lat", lat_steps), ("lon", lon_steps)):
            step = float(np.median(steps))
            if step == 0 or np.any(np.abs(steps - step) > REGULAR_WITHIN * abs(step)):
                raise ValueError(f"{name} has steps of {steps.min():g} to {steps.max():g}, expected a regular grid")
        return cls(latitude, longitude)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.latitude), len(self.longitude)

    @property
    def steps(self) -> tuple[float, float]:
        """Degrees from row to row and from column to column."""
        lon = float(np.median((np.diff(self.longitude) + 180.0) % 360.0 - 180.0))
        return float(np.median(np.diff(self.latitude))), lon

    @property
    def circular(self) -> bool:
        """Whether the first column follows the last one around the Earth."""
        step = abs(self.steps[1])
        return abs(step * len(self.longitude) - 360.0) < step / 2

    def __str__(self) -> str:
        rows, cols = self.shape
        lat, lon = self.latitude, self.longitude
        return f"{rows} x {cols}, lat {lat[0]:g} to {lat[-1]:g}, lon {lon[0]:g} to {lon[-1]:g}"

    def same(self, other: Any) -> bool:
        """Whether both grids have the same pixels, to a fiftieth of a step."""
        if not isinstance(other, MaskGrid) or self.shape != other.shape:
            return False
        off_lat = np.abs(self.latitude - other.latitude).max()
        off_lon = np.abs((self.longitude - other.longitude + 180.0) % 360.0 - 180.0).max()
        return bool(off_lat <= REGULAR_WITHIN * abs(self.steps[0]) and off_lon <= REGULAR_WITHIN * abs(self.steps[1]))

    def place(self, row: Ints, col: Ints) -> tuple[Floats, Floats]:
        """Longitude and latitude of cells, as the axes give them."""
        return self.longitude[col], self.latitude[row]

    def locate(self, longitude: Floats, latitude: Floats) -> Ints:
        """Flat position of the cell whose centre is nearest, -1 beyond the outermost or off the Earth."""
        rows, cols = self.shape
        lat_step, lon_step = self.steps
        with np.errstate(invalid="ignore"):
            row = np.rint((latitude - self.latitude[0]) / lat_step)
            east = (longitude - self.longitude[0]) * np.sign(lon_step)
            col = np.floor(((east + abs(lon_step) / 2) % 360.0) / abs(lon_step))
            inside = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        flat = np.where(inside, row, 0).astype("i8") * cols + np.where(inside, col, 0).astype("i8")
        return np.where(inside, flat, -1)

    def area(self, row: Ints, col: Ints) -> Floats:
        """Areas of cells, km2: what lies between two meridians and two parallels of a sphere."""
        lat_step, lon_step = np.radians(np.abs(self.steps))
        edges = np.clip(np.radians(self.latitude)[:, None] + lat_step * np.array([-0.5, 0.5]), -np.pi / 2, np.pi / 2)
        by_row: Floats = EARTH_RADIUS_KM**2 * lon_step * np.diff(np.sin(edges))[:, 0]
        return by_row[row]

    def middle(self, row: Ints, col: Ints, system: Ints, first: Ints) -> tuple[Floats, Floats, Floats]:
        """Mean row and column; distances shrink with the cosine of the centroid's latitude.

        On a circular grid columns count from the system's first pixel, the short way round. Sums are of integers,
        hence exact in any order.
        """
        width, number = self.shape[1], len(first)
        count = np.bincount(system, minlength=number)
        origin = col[first]
        offset = col - origin[system]
        if self.circular:
            offset = (offset + width // 2) % width - width // 2
        mean_row = np.bincount(system, row, number) / count
        mean_offset = np.bincount(system, offset, number) / count
        lat_step, lon_step = self.steps
        shrink = np.cos(np.radians(self.latitude[0] + lat_step * mean_row)) * (lon_step / lat_step)
        distance = (row - mean_row[system]) ** 2 + ((offset - mean_offset[system]) * shrink[system]) ** 2
        mean_col = origin + mean_offset
        return mean_row, mean_col % width if self.circular else mean_col, distance


@dataclass(frozen=True)
class SystemSteps:
    """One record a system and time step, as columns of equal length."""

    system_id: Ints
    time: npt.NDArray[np.datetime64]
    """Seconds, naive UTC."""
    pixels: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    """Of the anchor, the system's pixel nearest to its centroid; -1 where there is no mask."""
    col: npt.NDArray[np.int32]
    centroid_row: Floats
    """Mean row of the pixels."""
    centroid_col: Floats
    """Mean column of the pixels, in [0, columns) on a circular grid."""
    longitude: Floats
    """Of the anchor, degrees east, in the mask's own convention."""
    latitude: Floats
    """Of the anchor, degrees north."""
    area_km2: npt.NDArray[np.float32]
    """NaN where it is not known."""
    top: npt.NDArray[np.float32]
    """Brightness temperature of its coldest part, K; NaN where it is not known."""

    def __len__(self) -> int:
        return len(self.system_id)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> SystemSteps:
        """Return the records of an index or a mask."""
        return SystemSteps(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[SystemSteps]) -> SystemSteps:
        """Join records in order."""
        parts = [cls.empty(), *parts]
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @classmethod
    def empty(cls) -> SystemSteps:
        """No record."""
        return cls(*(np.zeros(0, kind) for kind in cls.kinds().values()))

    @classmethod
    def kinds(cls) -> dict[str, str]:
        """Types of the columns."""
        small = dict.fromkeys(("pixels", "row", "col"), "i4") | dict.fromkeys(("area_km2", "top"), "f4")
        known = {"system_id": "i8", "time": "M8[s]", **small}
        return {f.name: known.get(f.name, "f8") for f in fields(cls)}


def survey_labels(
    labels: Ints, position: Ints, grid: Grid, time: datetime, temperature: Floats | None = None
) -> SystemSteps:
    """Count, centroid, anchor, area and coldest pixel of each system at one time step.

    The anchor is the pixel nearest to the centroid; the first row by row where several are.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Systems of the labelled pixels.
    position : ndarray of int64, shape (n,)
        Their flat positions in the mask, ascending.
    grid : Grid
        The mask's grid; every pixel given has a place on the Earth.
    time : datetime
        Of the step.
    temperature : ndarray of float64, shape (n,), optional
        Brightness temperatures of the pixels, K; NaN where there is none.

    Returns
    -------
    SystemSteps
        By ascending system.
    """
    if not len(labels):
        return SystemSteps.empty()
    ids, system = _compact(labels)
    first = _first_of_each(system, len(ids))
    row, col = np.divmod(position, grid.shape[1])
    centroid_row, centroid_col, distance = grid.middle(row, col, system, first)
    nearest = np.full(len(ids), np.inf)
    np.minimum.at(nearest, system, distance)
    candidate = np.flatnonzero(distance == nearest[system])
    anchor = candidate[_first_of_each(system[candidate], len(ids))]
    longitude, latitude = grid.place(row[anchor], col[anchor])
    coldest = np.full(len(ids), np.inf)
    if temperature is not None:
        np.fmin.at(coldest, system, temperature)
    return SystemSteps(
        system_id=ids,
        time=np.full(len(ids), np.datetime64(time, "s")),
        pixels=np.bincount(system, minlength=len(ids)).astype(np.int32),
        row=row[anchor].astype(np.int32),
        col=col[anchor].astype(np.int32),
        centroid_row=centroid_row,
        centroid_col=centroid_col,
        longitude=longitude,
        latitude=latitude,
        area_km2=np.bincount(system, grid.area(row, col), len(ids)).astype(np.float32),
        top=np.where(np.isfinite(coldest), coldest, np.nan).astype(np.float32),
    )


def _compact(labels: Ints) -> tuple[Ints, Ints]:
    """Return the unique labels, ascending, and the index among them of each pixel's label."""
    if labels.max() > LARGEST_TABLE:
        ids, system = np.unique(labels, return_inverse=True)
        return ids, system
    # A table over all labels up to the largest is several times faster than sorting the pixels.
    table = np.zeros(int(labels.max()) + 1, np.int64)
    table[labels] = 1
    ids = np.flatnonzero(table)
    table[ids] = np.arange(len(ids))
    return ids, table[labels]


def _first_of_each(system: Ints, number: int) -> Ints:
    """Index of the first pixel of each system."""
    first = np.full(number, len(system), np.int64)
    np.minimum.at(first, system, np.arange(len(system)))
    return first
