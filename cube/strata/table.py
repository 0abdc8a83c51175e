"""All cloud systems of all files: their records, lifetimes, and what SatVision-Pix4D's tables tell of them.

The CSVs have the columns of SatVision-Pix4D's, whose users look for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cube.strata.base import Problem
from cube.strata.labels import Floats, Ints, SameGrid, SystemSteps
from cube.strata.masks import SOURCE_ID, MaskFile, Survey, find_masks, survey_mask
from cube.strata.records import RecordFile, RecordHeaps
from cube.strata.stages import SystemFilter
from cube.strata.systems import SLOTS, inside_inner_disk, seen_from
from stratacube.errors import UsageError
from stratacube.files import whole_file

__all__ = ["LIFETIMES_CSV", "METADATA_CSV", "Records", "SystemTable", "read_systems", "write_csv"]

METADATA_CSV, LIFETIMES_CSV = "convection_metadata.csv", "convection_lifetimes.csv"
NO_SATELLITE = "None"
Records = Literal["middle", "all", "balanced"]
_ROWS = 100_000
"""Rows of a CSV that are made at once."""
_AT_ONCE = 16
"""Files that a worker takes at once, where there are very many."""


class SystemTable:
    """All systems of all files, by number then time.

    Parameters
    ----------
    grid
        Of the masks; None for tracks without one.
    file
        Their records.
    times
        All steps that the files speak of: at one where a system has no record, it is not there; between two, nothing
        is known.
    names
        What the files call systems, by number, where they call them otherwise.
    """

    def __init__(
        self,
        grid: SameGrid | None,
        file: RecordFile,
        times: npt.NDArray[np.datetime64],
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.grid, self.file, self.times = grid, file, np.unique(times)
        self.names = names or {}
        self._held: _Held | None = None
        self._minutes = _minutes_of(self.times)
        kinds = ("i8", "M8[s]", "M8[s]", "f8")
        columns = [[np.zeros(0, kind)] for kind in kinds]
        for first, system, steps in self._blocks():
            last = np.append(first[1:], len(steps)) - 1
            minutes = np.add.reduceat(self._minutes_at(steps.time), first)
            for column, values in zip(
                columns, (system[first], steps.time[first], steps.time[last], minutes), strict=True
            ):
                column.append(values)
        place, start, end, lived = (np.concatenate(column) for column in columns)
        order = np.argsort(place)
        self.start, self.end, self.minutes = start[order], end[order], lived[order]

    @classmethod
    def of(
        cls,
        grid: SameGrid | None,
        parts: Iterable[SystemSteps],
        times: npt.NDArray[np.datetime64] | None = None,
        names: Mapping[int, str] | None = None,
    ) -> SystemTable:
        """Sort records into a table; its steps are those of the records where they are not given."""
        heaps, seen = RecordHeaps(), [np.zeros(0, "M8[s]")]
        for part in parts:
            heaps.add(part)
            seen.append(part.time)
        return cls(grid, heaps.sorted(), np.concatenate(seen) if times is None else times, names)

    def __len__(self) -> int:
        """Number of systems."""
        return len(self.file.system_id)

    @property
    def step_minutes(self) -> float:
        """Minutes from one step of the files to the next, as a rule."""
        return float(np.median(self._minutes)) if len(self._minutes) else float("nan")

    @property
    def tells_presence(self) -> bool:
        """Whether the records tell when a system is there: of events, of which each comes once, they do not."""
        return bool(len(self)) and int(self.file.count.max()) > 1

    def records(self, which: Records = "all", wanted: SystemFilter | None = None) -> tuple[SystemSteps, Ints, Floats]:
        """Return the records that stand for the systems, by system then time.

        Parameters
        ----------
        which : {"middle", "all", "balanced"}
            Of the records that are wanted: of each system the one in the middle (of an even number, the later of the
            two), or all; ``balanced`` has all here, and is drawn from by the sampler.
        wanted
            Limits; none if not given.

        Returns
        -------
        steps : SystemSteps
            The records.
        system : ndarray of int64
            The place of each one's system among the systems.
        age : ndarray of float64
            Share of the system's life that has passed at each, in (0, 1).
        """
        kept: list[tuple[SystemSteps, Ints, Floats]] = []
        for _, system, steps in self._blocks():
            index, age = np.arange(len(steps)), self.age(steps, system)
            if wanted:
                index = index[wanted.keeps(steps, self.minutes[system] / 60.0, age)]
            if which == "middle":
                _, first, count = np.unique(system[index], return_index=True, return_counts=True)
                index = index[np.sort(first + count // 2)] if len(index) else index
            kept.append((steps.take(index), system[index], age[index]))
        steps = SystemSteps.concatenate([k[0] for k in kept])
        system = np.concatenate([np.zeros(0, "i8"), *(k[1] for k in kept)])
        age = np.concatenate([np.zeros(0), *(k[2] for k in kept)])
        order = np.argsort(system, kind="stable")
        return steps.take(order), system[order], age[order]

    def age(self, steps: SystemSteps, system: Ints) -> Floats:
        """Share of its system's life that has passed in the middle of each record's step."""
        return self.age_at(system, steps.time)

    def age_at(self, system: Ints, time: np.datetime64 | npt.NDArray[np.datetime64]) -> Floats:
        """Share of systems' lives, by their places among the systems, that has passed in the middle of steps."""
        minute = np.timedelta64(60, "s")
        time = np.broadcast_to(time, np.shape(system))
        since = (time - self.start[system]) / minute + self._minutes_at(time) / 2
        whole = (self.end[system] - self.start[system]) / minute + self._minutes_at(self.end[system])
        # Where there is but one step, nothing tells how long it is.
        return np.asarray(np.divide(since, whole, out=np.full(len(whole), 0.5), where=whole > 0))

    def pixels_by_time(self, system: int, time: datetime, reach: timedelta) -> dict[datetime, int]:
        """Pixels of a system at each of the files' own steps around a time, 0 where it is not there."""
        low, high = np.datetime64(time - reach, "s"), np.datetime64(time + reach, "s")
        begin, stop = np.searchsorted(self.times, low), np.searchsorted(self.times, high, side="right")
        told = dict.fromkeys(self.times[begin:stop].tolist(), 0)
        life = self.file.life(system)
        near = (life.time >= low) & (life.time <= high)
        return told | dict(zip(life.time[near].tolist(), life.pixels[near].tolist(), strict=True))

    def file_at(self, time: datetime) -> MaskFile:
        """File that speaks of one of :attr:`times`.

        Raises
        ------
        KeyError
            If none does.
        """
        if self._held is None:
            raise KeyError(time)
        return self._held.files[self._held.file_of[int(np.datetime64(time, "s").astype("i8"))]]

    def metadata(self, which: Records = "middle") -> pd.DataFrame:
        """One row a record, by time then system, in SatVision-Pix4D's columns.

        Parameters
        ----------
        which : {"middle", "all", "balanced"}
            As in :meth:`records`.

        Returns
        -------
        DataFrame
            ``center_y`` and ``center_x`` are the anchor's row and column in the mask (-1 without one), ``longitude`` is
            as in the mask and ``longitude_norm`` in [-180, 180); ``satellite`` is the name of a slot
            (:data:`cube.strata.systems.SLOTS`) or ``None``. Where the files have names of systems, ``source_id`` is
            last.
        """
        return pd.concat(self._metadata(which), ignore_index=True)

    def _metadata(self, which: Records) -> Iterator[pd.DataFrame]:
        steps, _, _ = self.records(which)
        order = np.lexsort((steps.system_id, steps.time))
        for begin in range(0, max(1, len(order)), _ROWS):
            yield self._named(_metadata_of(steps.take(order[begin : begin + _ROWS])))

    def lifetimes(self) -> pd.DataFrame:
        """One row a system: first and last time, steps present, and their minutes together."""
        table = pd.DataFrame(
            {
                "system_id": self.file.system_id,
                "start_time": self.start,
                "end_time": self.end,
                "num_time_steps": self.file.count,
                "duration_min": np.rint(self.minutes).astype("i8"),
            }
        )
        return self._named(table)

    def write_metadata_csv(self, directory: Path, which: Records = "middle", name: str = METADATA_CSV) -> Path:
        """Write :meth:`metadata` and return its path."""
        return write_csv(self._metadata(which), directory / name)

    def write_lifetimes_csv(self, directory: Path, name: str = LIFETIMES_CSV) -> Path:
        """Write :meth:`lifetimes` and return its path."""
        return write_csv([self.lifetimes()], directory / name)

    @property
    def files(self) -> list[tuple[MaskFile, np.datetime64, np.datetime64]]:
        """The files, each with its first and last step."""
        return (
            []
            if self._held is None
            else [(file, *span) for file, span in zip(self._held.files, self._held.spans, strict=True)]
        )

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add what the files call the systems of a table's rows, if any is called otherwise than by its number."""
        if self.names:
            table[SOURCE_ID] = [self.names.get(number, "") for number in table["system_id"].tolist()]
        return table

    def _blocks(self) -> Iterator[tuple[Ints, Ints, SystemSteps]]:
        """Records of some whole systems at once: where each system begins, which it is, and they."""
        for system, steps in self.file.blocks():
            yield np.flatnonzero(np.append(True, system[1:] != system[:-1])), system, steps

    def _minutes_at(self, time: npt.NDArray[np.datetime64]) -> Floats:
        return np.asarray(self._minutes[np.minimum(np.searchsorted(self.times, time), len(self.times) - 1)])


def _minutes_of(times: npt.NDArray[np.datetime64]) -> Floats:
    """Minutes that each step stands for: to the nearer of its neighbours, so that a lost file lengthens none."""
    if len(times) < 2:
        return np.zeros(len(times))
    gaps = np.diff(times) / np.timedelta64(60, "s")
    nearer: Floats = np.minimum(np.append(gaps, np.inf), np.append(np.inf, gaps))
    return nearer


def _metadata_of(steps: SystemSteps) -> pd.DataFrame:
    longitude, latitude = steps.longitude, steps.latitude
    slot = seen_from(longitude, latitude)
    names = {"": NO_SATELLITE} | {key: value.name for key, value in SLOTS.items()}
    return pd.DataFrame(
        {
            "datetime": steps.time,
            "system_id": steps.system_id,
            "center_y": steps.row,
            "center_x": steps.col,
            "latitude": latitude,
            "longitude": longitude,
            "longitude_norm": (longitude + 180.0) % 360.0 - 180.0,
            "satellite": [names[s] for s in slot.tolist()],
            "inside_inner_disk": inside_inner_disk(longitude, latitude, slot),
        }
    )


def read_systems(pattern: str, executor: Executor | None = None) -> tuple[SystemTable, list[Problem]]:
    """Survey all files of tracked systems of a glob.

    Parameters
    ----------
    pattern : str
        A glob of files of any kind, or a folder.
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
    heaps, held = RecordHeaps(), _Held()
    for survey in _surveys(files, executor):
        problem = survey.problem or held.conflict(survey)
        if problem:
            problems.append(problem)
        elif survey.steps is not None:
            held.add(survey)
            heaps.add(survey.steps)
    if not held.files:
        raise UsageError(
            f'None of the {len(problems)} files that "{pattern}" matches can be used. {problems[0].message}'
        )
    table = SystemTable(held.grid, heaps.sorted(), np.array(sorted(held.file_of), "M8[s]"), held.names)
    table._held = held
    return table, problems


def _surveys(files: Sequence[MaskFile], executor: Executor | None) -> Iterable[Survey]:
    if executor is None:
        return map(survey_mask, files)
    return executor.map(survey_mask, files, chunksize=_AT_ONCE if len(files) > 100 * _AT_ONCE else 1)


class _Held:
    """What the files before one hold."""

    def __init__(self) -> None:
        self.grid: SameGrid | None = None
        self.files: list[MaskFile] = []
        self.file_of: dict[int, int] = {}
        """By time in seconds, which of the files."""
        self.spans: list[tuple[np.datetime64, np.datetime64]] = []
        """First and last time of each."""
        self.names: dict[int, str] = {}

    def add(self, survey: Survey) -> None:
        """Take a file."""
        self.grid = self.grid or survey.grid
        self.file_of |= dict.fromkeys(survey.times.astype("M8[s]").astype("i8").tolist(), len(self.files))
        self.files.append(survey.file)
        times = survey.times.astype("M8[s]")
        self.spans.append((times.min(), times.max()) if len(times) else (np.datetime64("NaT"), np.datetime64("NaT")))
        self.names |= survey.names

    def conflict(self, survey: Survey) -> Problem | None:
        """Say why a good file does not go with those before it."""
        path = survey.file.path
        times = survey.times.astype("M8[s]").astype("i8").tolist()
        if survey.grid is not None and (twice := next((t for t in times if t in self.file_of), None)) is not None:
            when, other = np.datetime64(twice, "s").item(), self.files[self.file_of[twice]].path
            return Problem(path, f"{path} holds {when:%Y-%m-%d %H:%M}, as {other} does: give each time once.")
        if self.grid is not None and survey.grid is not None and not self.grid.same(survey.grid):
            return Problem(
                path,
                f"{path} has another grid ({survey.grid}) than the files before it ({self.grid}): build it by itself.",
            )
        return None


def write_csv(tables: Iterable[pd.DataFrame], path: Path) -> Path:
    """Write tables of the same columns, one after another, and return the path."""
    with whole_file(path) as part, part.open("w") as out:
        for number, table in enumerate(tables):
            table.to_csv(out, index=False, header=not number, date_format="%Y-%m-%d %H:%M:%S")
    return path
