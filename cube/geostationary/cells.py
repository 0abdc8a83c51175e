"""Files of a virtual cube in the places of (time, band): of one scan, channels start within tenths of a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.geostationary.file_columns import FileColumns
from cube.geostationary.reference_view import Reference
from stratacube.errors import UsageError

__all__ = ["Cells", "ScanTable", "arranged"]

_APART = np.timedelta64(5, "s")


@dataclass(frozen=True)
class Cells:
    """The file of each place, looked up when it is asked for."""

    identity: npt.NDArray[np.int64]
    """(time, band): what ``load`` takes, -1 where there is no file."""
    digest: str
    """Tells these files in these places from any others."""
    load: Callable[[int], Reference]

    @property
    def shape(self) -> tuple[int, int]:
        """Times and bands."""
        times, bands = self.identity.shape
        return times, bands

    def at(self, time: int, band: int) -> Reference | None:
        """File of a place, if there is one."""
        identity = int(self.identity[time, band])
        return None if identity < 0 else self.load(identity)

    def any(self, time: int) -> Reference:
        """First file of a scan."""
        found = self.at(time, int(np.argmax(self.identity[time] >= 0)))
        if found is None:
            raise ValueError(f"there is no file of scan {time}")
        return found


@dataclass(frozen=True)
class ScanTable:
    """What is known of each place."""

    columns: FileColumns
    rows: npt.NDArray[np.int64]
    """(time, band): rows of the columns, -1 where there is no file."""
    scans: npt.NDArray[np.datetime64]
    """When each scan starts."""
    channels: list[int]

    def cells(self) -> Cells:
        """Files by place."""
        digest = hashlib.sha256(self._placed(self.columns.digest, 0).tobytes()).hexdigest()
        return Cells(self._placed(self.columns.identity, -1), digest, self.columns.load)

    def _placed(self, values: npt.NDArray[Any], lack: Any) -> npt.NDArray[Any]:
        return np.where(self.rows < 0, values.dtype.type(lack), values[self.rows])

    def platforms(self) -> list[str]:
        """Satellite of each scan."""
        first = self.rows[np.arange(len(self.rows)), np.argmax(self.rows >= 0, axis=1)]
        return [self.columns.eras[n].source.platform for n in self.columns.era[first].tolist()]

    def per_file(self) -> list[tuple[str, npt.NDArray[Any], dict[str, Any]]]:
        """Coefficients, times and eras of each file, (time, band)."""
        columns = self.columns
        found = [
            (name, self._placed(values, "nan"), {"long_name": f"{name} of the file"})
            for name, values in columns.numbers.items()
        ]
        signatures = [header.signature for header in columns.eras]
        known: dict[str, int] = {}
        eras = columns.era[self.rows[self.rows >= 0]]
        for number in eras[np.sort(np.unique(eras, return_index=True)[1])].tolist():  # as they come
            known.setdefault(signatures[number], len(known))
        numbers = np.array([known.get(signature, -1) for signature in signatures], "i4")
        middle = np.where(self.rows < 0, np.datetime64("NaT", "ns"), columns.mid[self.rows])
        return [
            *found,
            ("scan_mid", middle, {"standard_name": "time", "long_name": "middle of scan"}),
            (
                "era",
                self._placed(numbers[columns.era], -1),
                {"long_name": "encoding era; files of one number are encoded alike, -1 where there is none"},
            ),
        ]


def arranged(columns: FileColumns, eras: Collection[int]) -> ScanTable:
    """Put files in their places.

    Parameters
    ----------
    columns
        Files.
    eras
        Those that are meant, of one sector and pixel.

    Returns
    -------
    ScanTable
        Of all scans and channels that there are of them.

    Raises
    ------
    UsageError
        If two satellites scanned at one time, as where one is tested beside another: one would hide the other.
    """
    chosen = np.flatnonzero(np.isin(columns.era, list(eras)))
    start, era = columns.start[chosen], columns.era[chosen]
    scans = _scan_times(start)
    channels = sorted({columns.eras[number].source.channel for number in eras})
    of_era = [channels.index(header.source.channel) if i in eras else -1 for i, header in enumerate(columns.eras)]
    time = np.searchsorted(scans, start, "right") - 1
    _refuse_together(columns, chosen, time)
    rows = np.full((len(scans), len(channels)), -1)
    rows[time, np.array(of_era)[era]] = chosen
    return ScanTable(columns, rows, scans, channels)


def _scan_times(starts: npt.NDArray[np.datetime64]) -> npt.NDArray[np.datetime64]:
    """Scan starts: channels of one scan start within some tenths of a second of each other."""
    starts = np.unique(starts)
    apart = np.diff(starts) > _APART
    firsts: npt.NDArray[np.datetime64] = starts[np.concatenate([[True], apart])]
    return firsts


def _refuse_together(columns: FileColumns, chosen: npt.NDArray[np.int64], time: npt.NDArray[np.int64]) -> None:
    names: Sequence[str] = sorted({header.source.platform for header in columns.eras})
    if len(names) == 1:
        return
    platform = np.array([names.index(header.source.platform) for header in columns.eras])[columns.era[chosen]]
    lowest, highest = np.full(time.max() + 1, len(names)), np.full(time.max() + 1, -1)
    np.minimum.at(lowest, time, platform)
    np.maximum.at(highest, time, platform)
    mixed = np.flatnonzero(lowest < highest)
    if mixed.size:
        first = chosen[np.flatnonzero(time == mixed[0])[0]]
        source = columns.eras[columns.era[first]].source
        both = f"{names[lowest[mixed[0]]]} and {names[highest[mixed[0]]]}"
        at = columns.start[first].astype("M8[us]").item()
        raise UsageError(f"{both} both scanned {source.sector} at {at}; choose one with `platform`")
