"""Tables of cloud systems over all mask files: metadata, lifetimes, and which satellite sees what.

The CSVs have the columns of SatVision-Pix4D's, whose users look for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.strata.base import Problem
from cube.strata.labels import MaskGrid, SystemSteps
from cube.strata.masks import Survey, find_masks, survey_mask
from stratacube.errors import UsageError
from stratacube.files import whole_file

Floats = npt.NDArray[np.float64]

__all__ = ["SLOTS", "Slot", "SystemTable", "inside_inner_disk", "read_systems", "seen_from"]

STEP_MINUTES = 20
INNER_DISK_MARGIN = 1600
METADATA_CSV, LIFETIMES_CSV = "convection_metadata.csv", "convection_lifetimes.csv"
NO_SATELLITE = "None"


@dataclass(frozen=True)
class Slot:
    """One of the two operational places of GOES, with the box of ground it is used for."""

    name: str
    subpoint: float
    """Degrees east."""
    west: float
    east: float
    """Bounds of the box, degrees east, with ``east`` the larger."""
    latitude: float
    """The box reaches as far north and south."""

    @property
    def grid(self) -> FixedGrid:
        """The nominal 1 km full disk, to say what lies in the inner disk; tiles are placed by real grids."""
        projection = GeosProjection(35_786_023.0, 6_378_137.0, 6_356_752.31414, self.subpoint, "x")
        step, size = 28e-6, 10_848
        edge = step * (size - 1) / 2
        return FixedGrid(projection, -edge, edge, step, -step, size, size)


SLOTS = {
    "east": Slot("GOES-East", -75.0, -147.4, -2.6022, 45.64),
    "west": Slot("GOES-West", -137.0, 150.425, 295.5748, 43.6826),
}
"""Boxes as SatVision-Pix4D has them."""


def seen_from(longitude: Floats, latitude: Floats, slots: Sequence[str] = ("east", "west")) -> npt.NDArray[np.str_]:
    """Slot whose box holds a point; of two, the one whose subpoint is nearer in longitude (east on a tie).

    Parameters
    ----------
    longitude, latitude : ndarray of float64
        Degrees, any convention for longitude.
    slots : sequence of str
        Slots to choose from.

    Returns
    -------
    ndarray of str
        ``east``, ``west``, or "" where no box holds the point.
    """
    seen = np.full(np.shape(longitude), "", dtype="<U4")
    nearest = np.full(np.shape(longitude), np.inf)
    for name in sorted(slots):
        slot = SLOTS[name]
        off = np.abs((longitude - slot.subpoint + 180.0) % 360.0 - 180.0)
        inside = ((longitude - slot.west) % 360.0 <= slot.east - slot.west) & (np.abs(latitude) <= slot.latitude)
        better = inside & (off < nearest)
        seen[better], nearest[better] = name, off[better]
    return seen


def inside_inner_disk(longitude: Floats, latitude: Floats, slot: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Whether points lie on the visible Earth at least 1600 pixels inside the 1 km full disk of their slot.

    Parameters
    ----------
    longitude, latitude : ndarray of float64
        Degrees.
    slot : ndarray of str
        As of :func:`seen_from`; never inside where "".

    Returns
    -------
    ndarray of bool
    """
    inside = np.zeros(np.shape(longitude), bool)
    for name, place in SLOTS.items():
        here = slot == name
        grid = place.grid
        row, col = grid.rowcol(longitude[here], latitude[here])
        low, high = INNER_DISK_MARGIN - 0.5, grid.height - INNER_DISK_MARGIN - 0.5
        inside[here] = (row >= low) & (row < high) & (col >= low) & (col < high)
    return inside


@dataclass(frozen=True)
class SystemTable:
    """All systems of all files, by system then time."""

    grid: MaskGrid
    steps: SystemSteps
    first: npt.NDArray[np.int64]
    """By system: index of its first step."""
    count: npt.NDArray[np.int64]
    """By system: number of its steps."""

    @classmethod
    def of(cls, grid: MaskGrid, parts: Sequence[SystemSteps]) -> SystemTable:
        """Sort records of several files into a table."""
        steps = SystemSteps.concatenate(parts)
        steps = steps.take(np.lexsort((steps.time, steps.system_id)))
        _, first, count = np.unique(steps.system_id, return_index=True, return_counts=True)
        return cls(grid, steps, first.astype(np.int64), count.astype(np.int64))

    def middle(self) -> npt.NDArray[np.int64]:
        """Index of each system's middle step: of an even number, the later of the two."""
        return self.first + self.count // 2

    def records(self, which: str) -> npt.NDArray[np.int64]:
        """Return the steps that stand for the systems: ``middle``, one a system, or ``all``."""
        return self.middle() if which == "middle" else np.arange(len(self.steps), dtype=np.int64)

    def places(self, index: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Longitude (as in the mask) and latitude of the anchors of steps, in degrees."""
        return self.grid.longitude[self.steps.col[index]], self.grid.latitude[self.steps.row[index]]

    def pixels_by_time(self, index: int) -> dict[datetime, int]:
        """Pixel count by time over the life of the system that a step belongs to."""
        system = int(np.searchsorted(self.first, index, side="right")) - 1
        life = slice(int(self.first[system]), int(self.first[system] + self.count[system]))
        times, pixels = self.steps.time[life].tolist(), self.steps.pixels[life].tolist()
        return dict(zip(times, pixels, strict=True))

    def metadata(self, which: str = "middle") -> pd.DataFrame:
        """One row a record, by time then system, in SatVision-Pix4D's columns.

        Parameters
        ----------
        which : {"middle", "all"}
            One record a system, or one a system and time step.

        Returns
        -------
        DataFrame
            ``center_y`` and ``center_x`` are the anchor's row and column in the mask, ``longitude`` is as in
            the mask and ``longitude_norm`` in [-180, 180); ``satellite`` is ``GOES-East``, ``GOES-West`` or
            ``None``.
        """
        index = self.records(which)
        index = index[np.lexsort((self.steps.system_id[index], self.steps.time[index]))]
        longitude, latitude = self.places(index)
        slot = seen_from(longitude, latitude)
        names = {"": NO_SATELLITE} | {key: value.name for key, value in SLOTS.items()}
        return pd.DataFrame(
            {
                "datetime": self.steps.time[index],
                "system_id": self.steps.system_id[index],
                "center_y": self.steps.row[index],
                "center_x": self.steps.col[index],
                "latitude": latitude,
                "longitude": longitude,
                "longitude_norm": (longitude + 180.0) % 360.0 - 180.0,
                "satellite": [names[s] for s in slot.tolist()],
                "inside_inner_disk": inside_inner_disk(longitude, latitude, slot),
            }
        )

    def lifetimes(self) -> pd.DataFrame:
        """One row a system: first and last time, steps present, and minutes (20 a step present)."""
        return pd.DataFrame(
            {
                "system_id": self.steps.system_id[self.first],
                "start_time": self.steps.time[self.first],
                "end_time": self.steps.time[self.first + self.count - 1],
                "num_time_steps": self.count,
                "duration_min": self.count * STEP_MINUTES,
            }
        )

    def write_metadata_csv(self, directory: Path, which: str = "middle") -> Path:
        """Write :meth:`metadata` as ``convection_metadata.csv`` and return its path."""
        return _write_csv(self.metadata(which), directory / METADATA_CSV)

    def write_lifetimes_csv(self, directory: Path) -> Path:
        """Write :meth:`lifetimes` as ``convection_lifetimes.csv`` and return its path."""
        return _write_csv(self.lifetimes(), directory / LIFETIMES_CSV)


def read_systems(pattern: str, executor: Executor | None = None) -> tuple[SystemTable, list[Problem]]:
    """Survey all mask files of a glob.

    Parameters
    ----------
    pattern : str
        A glob of daily or monthly files, or both.
    executor : Executor, optional
        Surveys files in parallel; the result is the same.

    Returns
    -------
    table : SystemTable
        Of the files that could be used.
    problems : list of Problem
        The files that could not, and why.

    Raises
    ------
    UsageError
        Nothing matches, or no file can be used.
    """
    files, problems = find_masks(pattern)
    surveys: Iterable[Survey] = executor.map(survey_mask, files) if executor else map(survey_mask, files)
    grid: MaskGrid | None = None
    parts: list[SystemSteps] = []
    file_of: dict[datetime, str] = {}
    for survey in surveys:
        problem = survey.problem or _conflict(survey, grid, file_of)
        if problem:
            problems.append(problem)
        elif survey.grid is not None and survey.steps is not None:
            grid = grid or survey.grid
            parts.append(survey.steps)
            file_of |= dict.fromkeys(survey.days, survey.file.path)
    if grid is None:
        raise UsageError(
            f'None of the {len(problems)} files that "{pattern}" matches can be used. {problems[0].message}'
        )
    return SystemTable.of(grid, parts), problems


def _conflict(survey: Survey, grid: MaskGrid | None, file_of: dict[datetime, str]) -> Problem | None:
    """Say why a good file does not go with those before it."""
    path = survey.file.path
    twice = [day for day in survey.days if day in file_of]
    if twice:
        other = file_of[twice[0]]
        return Problem(path, f"{path} holds {twice[0]:%Y-%m-%d}, as {other} does: give each day once.")
    if grid is not None and survey.grid is not None and not grid.same(survey.grid):
        return Problem(
            path,
            f"{path} has another grid ({_extent(survey.grid)}) than the files before it ({_extent(grid)}): "
            "build it by itself.",
        )
    return None


def _extent(grid: MaskGrid) -> str:
    rows, cols = grid.shape
    lat, lon = grid.latitude, grid.longitude
    return f"{rows} x {cols}, lat {lat[0]:g} to {lat[-1]:g}, lon {lon[0]:g} to {lon[-1]:g}"


def _write_csv(table: pd.DataFrame, path: Path) -> Path:
    with whole_file(path) as part:
        table.to_csv(part, index=False, date_format="%Y-%m-%d %H:%M:%S")
    return path
