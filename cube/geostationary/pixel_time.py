"""When a pixel is seen: seconds after the start of its scan, by where it lies in the scan.

An imager sweeps its sectors in swaths from west to east, one below the other, and looks elsewhere in between. So the
time of a pixel jumps from swath to swath by more than it changes within one, and an instrument tells it as a small
table for each kind of sector and each mode. A scan without a table is taken to run evenly from north to south.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cube.geostationary.dialect import dialect_of

if TYPE_CHECKING:
    from cube.geostationary.file_index import FileIndex
    from cube.geostationary.grid import FixedGrid

Floats = npt.NDArray[np.float64]

__all__ = ["LONGEST_SCAN", "Timeline", "describe_timelines", "seconds_after_start"]

LONGEST_SCAN = timedelta(minutes=15)
"""No pixel is seen later than this after the start of its scan: full disks begin no farther apart."""

_EVENLY = "any other scan evenly from north to south, from its start to its end (not checked)"


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When the swaths of a scan are seen, of sectors that are scanned alike."""

    sectors: tuple[str, ...]
    modes: tuple[int, ...]
    edges: tuple[float, ...]
    """Where each swath but the first begins, from north to south, in microradians: scan angles where the sector is
    always the same, else how far south of the sector's northern edge."""
    fixed: bool
    """Whether they are scan angles; then swaths pass their middle at scan angle 0, else at the sector's middle."""
    middles: tuple[float, ...]
    """Seconds after the start of the scan at which each swath passes its middle."""
    rate: float
    """Seconds a radian, eastward."""
    error: float
    """By how many seconds a pixel's time is wrong at most, by its source."""
    source: str
    """Where this comes from."""
    platforms: tuple[str, ...] = ()
    """Of which satellites, where others scan otherwise."""

    def holds(self, platform: str, sector: str, mode: int) -> bool:
        """Whether a scan runs so."""
        of_platform = not self.platforms or platform in self.platforms
        return of_platform and sector in self.sectors and mode in self.modes

    def seconds(self, grid: FixedGrid, x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
        """Seconds after the start of a scan at which scan angles are seen.

        Parameters
        ----------
        grid
            Of the scan.
        x, y
            Scan angles in radians, broadcast together.

        Returns
        -------
        ndarray of float64
            NaN where an angle is.
        """
        x, y = np.broadcast_arrays(np.asarray(x, "f8"), np.asarray(y, "f8"))
        edges = np.array(self.edges) * 1e-6
        south, southern = (-y, -edges) if self.fixed else (grid.top - y, edges)
        middle = 0.0 if self.fixed else grid.left + grid.width * grid.dx / 2
        swath = np.searchsorted(southern, south, side="right")
        seen: Floats = np.array(self.middles)[swath] + (x - middle) * self.rate
        return np.where(np.isnan(y), np.nan, seen)


def seconds_after_start(header: FileIndex, x: npt.ArrayLike, y: npt.ArrayLike, mode: int | None = None) -> Floats:
    """Seconds after the start of a scan at which scan angles are seen.

    Parameters
    ----------
    header
        Of a file of the scan; or, of a sector that does not move, of another scan.
    x, y
        Scan angles in radians, broadcast together.
    mode
        Of the scan; that of the file by default.

    Returns
    -------
    ndarray of float64
        By the table that the instrument has for the sector and mode, else evenly from the northern edge at the
        start to the southern one at the end. NaN where an angle is.
    """
    source, grid = header.source, header.grid
    mode = source.mode if mode is None else mode
    for timeline in dialect_of(source.platform).timelines:
        if timeline.holds(source.platform, source.sector, mode):
            return timeline.seconds(grid, x, y)
    length = 2 * ((header.mid_time - header.start) / np.timedelta64(1, "s"))
    down = (grid.top - np.asarray(y, "f8")) / (grid.height * -grid.dy)
    evenly: Floats = np.clip(down, 0.0, 1.0) * length + np.zeros_like(np.asarray(x, "f8"))
    return evenly


def describe_timelines(timelines: Sequence[Timeline]) -> str:
    """Say in words how the times of pixels are known, and how well."""
    told = [
        f"{' '.join([*t.platforms, *t.sectors])} in mode {' and '.join(map(str, t.modes))} {t.source} "
        f"(within {t.error:g} s)"
        for t in timelines
    ]
    return "; ".join([*told, _EVENLY])
