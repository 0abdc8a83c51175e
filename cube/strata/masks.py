"""Tracked cloud systems in files: finds them, tells whose they are by their names, and surveys each in one pass.

What a maker's files hold is for its reader to know, a :class:`MaskKind` in :data:`cube.registry.MASKS`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cube.registry import MASKS
from cube.strata.base import Problem
from cube.strata.labels import Floats, Grid, Ints, SameGrid, SystemSteps
from stratacube.choices import one_of
from stratacube.errors import PlugError, SourceError, UnavailableError, UsageError
from stratacube.guard import guarded

__all__ = [
    "SOURCE_ID",
    "UNDATED",
    "GridImage",
    "Image",
    "MaskFile",
    "MaskKind",
    "Survey",
    "find_masks",
    "period_of_masks",
    "survey_mask",
    "times_of",
]

Times = npt.NDArray[np.datetime64]
SOURCE_ID = "source_id"
"""Column of our tables with what their source calls a system, where that is no number."""
UNDATED = datetime.min
"""Start of a file whose name tells no date, and may."""


@dataclass(frozen=True)
class MaskFile:
    """One file, as its name tells."""

    path: str
    start: datetime
    """00 UTC of its first day, or its one time; :data:`UNDATED` where the name does not tell."""
    kind: str
    """Name in :data:`cube.registry.MASKS`."""


def times_of(times: Iterable[datetime]) -> Times:
    """Times as an array, to the second."""
    return np.array(list(times), "M8[s]")


@dataclass(frozen=True)
class Survey:
    """What one file holds; ``problem`` is set, and the rest empty, where it cannot be used."""

    file: MaskFile
    grid: SameGrid | None = None
    """None for files without a mask."""
    steps: SystemSteps | None = None
    times: Times = field(default_factory=lambda: times_of(()))
    """All steps that the file speaks of, also those without any system."""
    problem: Problem | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    """What the file calls systems, by number, where that is not the number itself."""


class Image(Protocol):
    """What a file shows at one of its steps."""

    @property
    def time(self) -> datetime:
        """Of the step."""
        ...

    def numbers(self, longitude: Floats, latitude: Floats) -> Ints:
        """Number of the system at each place, 0 for none, -1 where the file shows nothing."""
        ...


@dataclass(frozen=True)
class GridImage:
    """An image of a mask: the labelled cells of a grid."""

    time: datetime
    grid: Grid
    labels: Ints
    position: Ints
    """Flat positions of the labelled cells, ascending."""

    def numbers(self, longitude: Floats, latitude: Floats) -> Ints:
        """Number of the system at each place."""
        cell = self.grid.locate(longitude, latitude)
        if not len(self.position):
            return np.minimum(cell, 0)
        found = np.minimum(np.searchsorted(self.position, cell), len(self.position) - 1)
        return np.where(cell < 0, -1, np.where(self.position[found] == cell, self.labels[found], 0))


@dataclass(frozen=True)
class MaskKind:
    """A kind of files: what their names look like, and how one is read."""

    example: str
    """A name, as a user is told it."""
    start: Callable[[str], datetime | None]
    """From a file's name to 00 UTC of its first day, or to its one time; None for a name of another kind.

    Raises ValueError for a date that there is not."""
    survey: Callable[[MaskFile], Survey]
    """Reads one; raises a UsageError or SourceError for one that cannot be used."""
    ends: Callable[[datetime], datetime] = lambda start: start + timedelta(days=1)
    """From the start that a name tells to the end of the period it stands for, exclusive."""
    images: Callable[[MaskFile, Collection[datetime]], Iterator[Image]] | None = None
    """Reads what a file shows at some of its steps, in their order; None where it shows no more than places."""


def find_masks(pattern: str) -> tuple[list[MaskFile], list[Problem]]:
    """Files of tracked cloud systems that a glob pattern matches, by date.

    Parameters
    ----------
    pattern : str
        A glob, ``**`` for any depth, or a folder: all files in it that have a name of some kind. A leading ``~`` is
        the home folder.

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
    place = os.path.expanduser(pattern)
    folder = os.path.isdir(place)
    found = glob.glob(os.path.join(glob.escape(place), "*") if folder else place, recursive=True)
    paths = sorted(p for p in found if os.path.isfile(p))
    files, problems = [], []
    for path in paths:
        try:
            files.append(_named(path))
        except UsageError as error:
            problems.append(Problem(path, str(error)))
    if folder and files:
        problems = []  # whoever names a folder does not say that all in it are masks
    if not paths:
        raise UsageError(
            f'No cloud-system mask matches "{pattern}": give a folder or a glob of files (not a regular '
            'expression), such as "/masks/2020*_cloudsystems.nc".'
        )
    return sorted(files, key=lambda f: (f.start, f.path)), problems


def period_of_masks(options: Any) -> tuple[datetime, datetime]:
    """Period that the files of ``options.files`` are of: by their names, where names tell it.

    Returns
    -------
    tuple of datetime
        From the start of the first to the end of the last, exclusive.

    Raises
    ------
    UsageError
        If no file matches, or none can be used.
    """
    files, problems = find_masks(options.files)
    kinds = MASKS.all()
    spans = []
    for file in files:
        if file.start != UNDATED:
            with MASKS.blamed(file.kind):
                ends = getattr(kinds[file.kind], "ends", None)
                spans.append((file.start, ends(file.start) if ends else file.start + timedelta(days=1)))
            continue
        survey = survey_mask(file)
        problems += [survey.problem] if survey.problem else []
        times = survey.times.tolist()
        spans += [(min(times), max(times) + timedelta(seconds=1))] if times else []
    if not spans:
        raise UsageError(
            f'None of the {len(files) or len(problems)} files that "{options.files}" matches can be used. '
            f"{problems[0].message if problems else 'They hold no time.'}"
        )
    return min(start for start, _ in spans), max(end for _, end in spans)


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
    form = " as NetCDF-4" if file.kind in MASKS.ours and file.path.endswith(".nc") else ""
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
    # Ours come last, and of ours the daily ones, for they take any name that begins with a date.
    for kind, of in sorted(kinds.items(), key=lambda item: item[0] in MASKS.ours):
        with MASKS.blamed(kind), suppress(ValueError):
            start = of.start(name)
            if start is not None:
                return MaskFile(path, start, kind)
    raise UsageError(f"The name of {path} tells no date: expected {one_of([of.example for of in kinds.values()])}.")
