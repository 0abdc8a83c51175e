"""Cloud systems of one labelled mask: pixel counts, centroids and anchors, all systems in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

__all__ = ["MaskGrid", "SystemSteps", "survey_labels"]

LARGEST_TABLE = 4_000_000  # labels; 32 MB
ROUNDING = 1e-3  # degrees; 150 + 1750 * 0.12 is a little more than 360
REGULAR_WITHIN = 0.02  # of a step; axes are often stored in single precision


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

    def same(self, other: MaskGrid) -> bool:
        """Whether both grids have the same pixels, to a fiftieth of a step."""
        if self.shape != other.shape:
            return False
        off_lat = np.abs(self.latitude - other.latitude).max()
        off_lon = np.abs((self.longitude - other.longitude + 180.0) % 360.0 - 180.0).max()
        return bool(off_lat <= REGULAR_WITHIN * abs(self.steps[0]) and off_lon <= REGULAR_WITHIN * abs(self.steps[1]))


@dataclass(frozen=True)
class SystemSteps:
    """One record a system and time step, as columns of equal length."""

    system_id: Ints
    time: npt.NDArray[np.datetime64]
    """Seconds, naive UTC."""
    pixels: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    """Of the anchor: the system's pixel nearest to its centroid."""
    col: npt.NDArray[np.int32]
    centroid_row: Floats
    """Mean row of the pixels."""
    centroid_col: Floats
    """Mean column of the pixels, in [0, columns) on a circular grid."""

    def __len__(self) -> int:
        return len(self.system_id)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> SystemSteps:
        """Return the records of an index or a mask."""
        return SystemSteps(*(getattr(self, f.name)[index] for f in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[SystemSteps]) -> SystemSteps:
        """Join records in order."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def survey_labels(labels: Ints, position: Ints, grid: MaskGrid, time: datetime) -> SystemSteps:
    """Count, centroid and anchor of each system at one time step.

    The centroid is the mean pixel position; on a circular grid columns count from the system's first pixel,
    the short way round. The anchor is the pixel nearest to it, longitudes shrunk by the cosine of the
    centroid's latitude; the first row by row where several are. Sums are of integers, hence exact in any
    order.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Systems of the labelled pixels.
    position : ndarray of int64, shape (n,)
        Their flat positions in the mask, ascending.
    grid : MaskGrid
        The mask's grid.
    time : datetime
        Of the step.

    Returns
    -------
    SystemSteps
        By ascending system.
    """
    width = grid.shape[1]
    ids, system = _compact(labels)
    count = np.bincount(system, minlength=len(ids))
    first = _first_of_each(system, len(ids))
    row, col = np.divmod(position, width)
    origin = col[first]
    offset = col - origin[system]
    if grid.circular:
        offset = (offset + width // 2) % width - width // 2
    mean_row = np.bincount(system, row, len(ids)) / count
    mean_offset = np.bincount(system, offset, len(ids)) / count
    lat_step, lon_step = grid.steps
    latitude = grid.latitude[0] + lat_step * mean_row
    shrink = np.cos(np.radians(latitude)) * (lon_step / lat_step)
    distance = (row - mean_row[system]) ** 2 + ((offset - mean_offset[system]) * shrink[system]) ** 2
    nearest = np.full(len(ids), np.inf)
    np.minimum.at(nearest, system, distance)
    candidate = np.flatnonzero(distance == nearest[system])
    anchor = candidate[_first_of_each(system[candidate], len(ids))]
    centroid_col = origin + mean_offset
    return SystemSteps(
        system_id=ids,
        time=np.full(len(ids), np.datetime64(time, "s")),
        pixels=count.astype(np.int32),
        row=row[anchor].astype(np.int32),
        col=col[anchor].astype(np.int32),
        centroid_row=mean_row,
        centroid_col=centroid_col % width if grid.circular else centroid_col,
    )


def _compact(labels: Ints) -> tuple[Ints, Ints]:
    """Return the unique labels, ascending, and the index among them of each pixel's label."""
    if len(labels) == 0 or labels.max() > LARGEST_TABLE:
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
