"""Files of MERRA-2, one a collection and day: which there are, which steps they have, and windows of their grid.

Names, axes, units and fill values are those of the file specification (Bosilovich, Lucchesi and Suarez 2016, GMAO
Office Note 9): NetCDF-4, variables (time, lat, lon) or (time, lev, lat, lon) of 0.5 x 0.625 degrees.
"""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from cube.geostationary.hdf5 import dataset, text, text_or_none, variable_or_none, variables
from cube.strata.labels import MaskGrid
from cube.strata.readers.netcdf import refuse_unbound, unpacked
from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded

__all__ = ["VARIABLES", "Merra2", "Told"]

VARIABLES = ("T", "QV", "H", "PHIS", "T2M", "U10M", "V10M")
"""Of SatVision-Pix4D's chips: temperature, humidity and height by level, the ground's, and weather near it."""

_NAME = re.compile(r"MERRA2_\d{3}\.(\w+)\.(\d{8})(?:\.\w+)*?\.nc4?$")
_HOURS = re.compile(r"(?:tavg|inst)(\d)_")
_SINCE = re.compile(r"(minutes|hours|seconds|days) since (\d{4}-\d{1,2}-\d{1,2})(?:[T ](\d{1,2}:\d{2}(?::\d{2})?))?")
_UNIT = {"seconds": 1_000_000, "minutes": 60_000_000, "hours": 3_600_000_000, "days": 86_400_000_000}
"""Microseconds."""
_ALWAYS = "00000000"
"""Day of what does not change: collections of constants."""
_LONGEST = 2**16
"""Values of an axis."""
_OPEN = 16
"""Files held open."""

Times = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class Told:
    """What is told of a variable."""

    collection: str
    levels: bool
    """Whether it has a value a level."""
    constant: bool
    """Whether it is the same at all times."""
    long_name: str
    units: str


@dataclass(frozen=True)
class _File:
    """One file, opened."""

    path: Path
    h5: h5py.File
    grid: MaskGrid
    levels: npt.NDArray[np.float64]
    """Of its third dimension; none where it has no such."""
    times: Times


class Merra2:
    """The files of a folder, for some variables.

    Parameters
    ----------
    root : str
        Folder, searched to any depth, or a glob.
    variables : sequence of str
        Their names in the files; :data:`VARIABLES` if none is given.

    Raises
    ------
    UsageError
        If there is no file, a variable is in none or in those of several collections, or their grids differ.
    SourceError
        If a file cannot be read.
    """

    def __init__(self, root: str, variables: Sequence[str] = ()) -> None:
        self.root, self._days = root, _days_of(root)
        self._open = lru_cache(_OPEN)(_opened)
        first = {name: self._open(days[min(days)]) for name, days in self._days.items()}
        self.told = {name: self._find(name, first) for name in variables or VARIABLES}
        """By variable."""
        used = [first[told.collection] for told in self.told.values()]
        self.grid = used[0].grid
        layers = [first[told.collection] for told in self.told.values() if told.levels]
        self.levels = layers[0].levels if layers else np.empty(0)
        """Pressure of levels, hPa."""
        for file in used:
            self._refuse_other(file, levels=file in layers)

    def nearest(self, name: str, wanted: Times) -> Times:
        """Steps of a variable's collection that are nearest to times; of two as near, the later.

        Raises
        ------
        SourceError
            If the step nearest to one is not there.
        """
        return np.array([self._at(name, time)[2] for time in wanted], "M8[us]")

    def read(
        self, name: str, time: np.datetime64, rows: slice, columns: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Values of a window at the step nearest to a time; NaN where there is none.

        Parameters
        ----------
        name : str
            Of the variable.
        time : datetime64
            UTC.
        rows : slice
            Of the grid.
        columns : ndarray of int64
            Of the grid, eastward, over its edge perhaps.

        Returns
        -------
        ndarray of float32
            (levels, rows, columns), or without levels.
        """
        file, step, _ = self._at(name, time)
        with guarded(f"{file.path} is not a whole file of MERRA-2", "bring it anew"):
            source = self._variable(file, name)
            # HDF5 reads columns as they lie: those beyond the grid's edge are a part of their own.
            parts = np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1)
            read = [source[step, ..., rows, int(p[0]) : int(p[-1]) + 1] for p in parts]
            return unpacked(np.concatenate(read, axis=-1), source).astype("f4")

    def _at(self, name: str, time: np.datetime64) -> tuple[_File, int, np.datetime64]:
        """File, step and time of what is nearest to a time."""
        told = self.told[name]
        days = self._days[told.collection]
        if told.constant:
            return self._open(days[_ALWAYS]), 0, time
        middle = time.astype("M8[D]")
        near = [str(middle + np.timedelta64(d, "D")).replace("-", "") for d in (-1, 0, 1)]
        files = [self._open(days[day]) for day in near if day in days]
        found = [(abs(at - time), -at.astype("i8"), file, i) for file in files for i, at in enumerate(file.times)]
        best = min(found, key=lambda each: each[:2], default=None)
        if best is None or 2 * best[0] > _step_of(told.collection):
            what = f"the nearest step is {best[2].times[best[3]]}" if best else "no step of that day or those beside it"
            raise SourceError(
                f"`merra2_root` is {self.root}: {told.collection} tells nothing of {time} ({what}); bring its files of "
                "the days of all tiles, or leave `merra2_root` out"
            )
        self._refuse_other(best[2], levels=told.levels)
        return best[2], best[3], best[2].times[best[3]]

    def _find(self, name: str, files: dict[str, _File]) -> Told:
        """The collection that has a variable; of several, that of constants."""
        having = [collection for collection, file in files.items() if name in _variables(file)]
        constant = [c for c in having if _ALWAYS in self._days[c]]
        if len(constant or having) != 1:
            why = f"several of its collections have {name} ({', '.join(having)}); give a glob of one of them"
            if not having:
                known = sorted({variable for file in files.values() for variable in _variables(file)})
                listed = ", ".join(known[:30]) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
                why = f"none of its files has {name}; bring its collection, or give `merra2_variables` of {listed}"
            raise UsageError(f"`merra2_root` is {self.root}: {why}")
        file = files[(constant or having)[0]]
        with guarded(f"{file.path} is not a whole file of MERRA-2", "bring it anew"):
            source = self._variable(file, name)
            about = (text_or_none(source, key) or "" for key in ("long_name", "units"))
            return Told((constant or having)[0], source.ndim == 4, bool(constant), *about)

    def _variable(self, file: _File, name: str) -> h5py.Dataset:
        source = dataset(file.h5, name)
        shape = (len(file.times), *((len(file.levels),) if source.ndim == 4 else ()), *file.grid.shape)
        if source.shape != shape or source.dtype.kind not in "iuf":
            raise ValueError(f"{name} is {source.dtype} of {source.shape}, its axes are of {shape}")
        refuse_unbound(source, str(file.path))
        return source

    def _refuse_other(self, file: _File, *, levels: bool) -> None:
        """Refuse files whose cells are not those of the first: patches have one grid."""
        if not self.grid.same(file.grid):
            told = f"the grid {file.grid}, others {self.grid}"
        elif levels and not np.array_equal(self.levels, file.levels):
            told = f"levels of {_pressures(file.levels)}, others of {_pressures(self.levels)}"
        else:
            return
        raise UsageError(f"`merra2_root` is {self.root}: {file.path.name} has {told}; give files of one grid")


def _pressures(levels: npt.NDArray[np.float64]) -> str:
    return f"{' '.join(f'{level:g}' for level in levels)} hPa"


def _days_of(root: str) -> dict[str, dict[str, Path]]:
    """By collection and day, the files."""
    paths = Path(root).rglob("MERRA2_*") if Path(root).is_dir() else map(Path, glob.glob(root, recursive=True))
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(paths):
        name = _NAME.fullmatch(path.name)
        if name is None:
            continue
        there = found[name[1]].setdefault(name[2], path)
        if there != path:
            told = f"{name[1]} of {name[2]} is there twice ({there}, {path})"
            raise UsageError(f"`merra2_root` is {root}: {told}; move one of them elsewhere")
    if not found:
        raise UsageError(
            f"`merra2_root` is {root}: it has no file such as MERRA2_400.tavg1_2d_slv_Nx.20190102.nc4; give the folder "
            "of MERRA-2's files or a glob"
        )
    return dict(found)


def _opened(path: Path) -> _File:
    with guarded(f"{path} is not a readable file of MERRA-2", "bring it anew"):
        h5 = h5py.File(path)
        latitude, longitude, times = (_axis(h5, name) for name in ("lat", "lon", "time"))
        levels = _axis(h5, "lev") if variable_or_none(h5, "lev") is not None else np.empty(0)
        units = text(dataset(h5, "time").attrs["units"])
        since = _SINCE.match(units)
        if since is None or not len(times):
            raise ValueError(f"its time has {len(times)} steps in {units[:40]!r}")
        day = "-".join(part.zfill(2) for part in since[2].split("-"))
        begin = np.datetime64(f"{day}T{(since[3] or '00:00').zfill(5)}", "us")
        steps = begin + (np.rint(times * _UNIT[since[1]])).astype("m8[us]")
        return _File(path, h5, MaskGrid.of(latitude, longitude), levels, steps)


def _variables(file: _File) -> set[str]:
    """Names of what has a value a cell."""
    with guarded(f"{file.path} is not a readable file of MERRA-2", "bring it anew"):
        return {name for name, value in variables(file.h5).items() if value.ndim > 2}


def _axis(h5: h5py.File, name: str) -> npt.NDArray[np.float64]:
    axis = dataset(h5, name)
    if axis.ndim != 1 or axis.size > _LONGEST:
        raise ValueError(f"its {name} is of {axis.shape}")
    values = np.asarray(axis[()], "f8")
    if not np.isfinite(values).all():
        raise ValueError(f"its {name} has values that are no numbers")
    return values


def _step_of(collection: str) -> np.timedelta64:
    """Time between the steps of a collection, by its name: of ``tavg1`` and ``inst3`` hours, of others a day."""
    told = _HOURS.match(collection)
    return np.timedelta64(60 * (int(told[1]) if told else 24), "m")
