"""Files of HDF4, which MODIS and CloudSat come in, by pyhdf: an extra, for its library is in no other wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded

__all__ = ["Hdf4", "opened"]

_MAGIC = b"\x0e\x03\x13\x01"
"""How every HDF4 file begins (HDF Specification, 2.2)."""


class Hdf4:
    """An opened file: its scientific data sets and its Vdata.

    Parameters
    ----------
    sets, tables : object
        pyhdf's SD and VS.
    """

    def __init__(self, sets: Any, tables: Any) -> None:
        self._sets, self._tables = sets, tables
        self.names = list(sets.datasets())
        """Of its data sets."""

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def attribute(self, name: str) -> Any:
        """Return an attribute of the file."""
        return self._sets.attributes()[name]

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a data set."""
        found: dict[str, Any] = self._sets.select(name).attributes()
        return found

    def array(self, name: str) -> npt.NDArray[Any]:
        """Read a data set whole."""
        if name not in self:
            raise ValueError(f"it has no data set {name}")
        return np.asarray(self._sets.select(name)[:])

    def has_column(self, *names: str) -> str | None:
        """Return the first of some names that a Vdata has."""
        known = {info[0] for info in self._tables.vdatainfo()}
        return next((name for name in names if name in known), None)

    def column(self, *names: str) -> npt.NDArray[Any]:
        """Read a Vdata of one field whole, by the first of its names that is there."""
        name = self.has_column(*names)
        if name is None:
            raise ValueError(f"it has no Vdata {names[0]}")
        table = self._tables.attach(name)
        try:
            return np.asarray(table[:]).reshape(-1)
        finally:
            table.detach()


@contextmanager
def opened(path: Path, what: str) -> Iterator[Hdf4]:
    """Open a file; what goes wrong while it is read is one sentence with its name.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it should be, such as ``a CloudSat granule``.

    Raises
    ------
    UsageError
        If pyhdf is not installed.
    SourceError
        If the file cannot be read.
    """
    hdf, sd = _pyhdf()
    with guarded(f"{path} cannot be read as {what}", "fetch it again, or leave it out"):
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise SourceError(f"{path} is not {what}: it is no HDF4 file; fetch it again, or leave it out")
        sets = sd.SD(str(path), sd.SDC.READ)
        try:
            file4 = hdf.HDF(str(path))
            try:
                tables = file4.vstart()
                try:
                    yield Hdf4(sets, tables)
                finally:
                    tables.end()
            finally:
                file4.close()
        finally:
            sets.end()


def _pyhdf() -> tuple[Any, Any]:
    try:
        from pyhdf import HDF, SD, VS  # noqa: F401, PLC0415  (a file's vstart() looks for VS)
    except ImportError as error:
        raise UsageError(
            "HDF4 files are read by pyhdf, which is not installed: pip install 'stratacube[hdf4]'"
        ) from error
    return HDF, SD
