"""Files of HDF4, which MODIS and CloudSat come in, by pyhdf: an extra, for its library is in no other wheel.

The library ends the process that it runs in when it meets some damaged files. So each file is read in a process of its
own, which takes a fifth of a second to start.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded

__all__ = ["Hdf4", "opened"]

_MAGIC = b"\x0e\x03\x13\x01"
"""How every HDF4 file begins (HDF Specification, 2.2)."""
_CHILD = Path(__file__).with_name("hdf4_child.py")
_LONGEST = 300.0
"""Seconds that reading one file may take."""


@dataclass(frozen=True)
class Hdf4:
    """What was asked for of a file, as far as it has it."""

    arrays: Mapping[str, npt.NDArray[Any]]
    """Data sets by name."""
    columns: Mapping[str, npt.NDArray[Any]]
    """Vdata of one field by name."""
    attributes: Mapping[str, Any]
    """Of the file."""
    attributes_of: Mapping[str, Mapping[str, Any]]
    """Of its data sets."""

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a data set."""
        if name not in self.arrays:
            raise ValueError(f"it has no data set {name}")
        return self.arrays[name]

    def column(self, *names: str) -> npt.NDArray[Any]:
        """Return a Vdata, by the first of its names that is there."""
        name = next((name for name in names if name in self.columns), None)
        if name is None:
            raise ValueError(f"it has no Vdata {names[0]}")
        return self.columns[name]


@contextmanager
def opened(path: Path, what: str, *, sets: Sequence[str] = (), columns: Sequence[str] = ()) -> Iterator[Hdf4]:
    """Read a file; what goes wrong, also with what is in it, is one sentence with its name.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it should be, such as ``a CloudSat granule``.
    sets, columns : sequence of str
        Names of data sets and of Vdata that are wanted; those that are not there are left out.

    Raises
    ------
    UsageError
        If pyhdf is not installed.
    SourceError
        If the file cannot be read.
    """
    if find_spec("pyhdf") is None:
        raise UsageError("HDF4 files are read by pyhdf, which is not installed: pip install 'stratacube[hdf4]'")
    with guarded(f"{path} cannot be read as {what}", "fetch it again, or leave it out"):
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise SourceError(f"{path} is not {what}: it is not an HDF4 file; fetch it again, or leave it out")
        yield _read(path, sets, columns)


def _read(path: Path, sets: Sequence[str], columns: Sequence[str]) -> Hdf4:
    names = json.dumps({"sets": list(sets), "columns": list(columns)})
    command = [sys.executable, "-P", str(_CHILD), str(path), names]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_LONGEST)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"reading it took more than {_LONGEST:g} s") from error
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        ended = f"HDF4's library ended on it with status {done.returncode}"
        raise ValueError(told[-1] if told and done.returncode == 1 else ended)
    with np.load(io.BytesIO(done.stdout)) as held:
        told_of = json.loads(str(held["told"]))
        arrays = {name: held[name] for name in held.files if name != "told"}
    return Hdf4(
        {name.removeprefix("set:"): values for name, values in arrays.items() if name.startswith("set:")},
        {name.removeprefix("column:"): values for name, values in arrays.items() if name.startswith("column:")},
        told_of["attributes"],
        told_of["sets"],
    )
