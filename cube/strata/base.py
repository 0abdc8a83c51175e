"""What every stratum shares: the candidate it yields, what it is asked for, and how a tile is placed.

A sampler chooses where and when tiles may lie, from outside data. It never touches pixels; whether a
candidate becomes a tile is for :mod:`cube.strata.select` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid, Window
from stratacube.errors import SourceError, UnavailableError, UsageError

__all__ = ["Candidate", "Problem", "SampleRequest", "Sampler", "pixel_of", "place_tile", "refuse_too_large"]

_CORNER = 1e-6
"""Of a pixel, a millimetre: what solving the projection both ways is off by is less."""


@dataclass(frozen=True)
class Candidate:
    """A time and place that a stratum proposes for a tile."""

    time: datetime
    """The event: naive UTC."""
    latitude: float
    """Degrees north."""
    longitude: float
    """Degrees east, in [-180, 180)."""
    stratum: str
    weight: float
    """What the chance of being drawn is proportional to, within the stratum."""
    probability: float
    """Chance, in [0, 1], that a run of ``num_tiles`` draws this one, before the selector's limits."""
    platform: str | None = None
    """As scans have it; None where any platform serves."""
    system_id: int | None = None
    """The cloud system of a convection candidate."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the stratum knows; the sampler's docstring names the keys."""


@dataclass(frozen=True)
class SampleRequest:
    """What tiles a build wants, in terms that hold for every stratum."""

    scans: Sequence[Scan]
    """All scans found, sorted by start; they may reach beyond the period, for the time windows."""
    grid_of: Callable[[Scan], FixedGrid]
    """Grid of a scan in pixels of the build; per scan, because mesoscale sectors move."""
    tile_size: int
    """Pixels of the build grid along each side."""
    align: int = 1
    """Tile origins are multiples of this many pixels (2 on the 1 km grid, to keep 2 km pixels whole)."""
    margin: int = 0
    """Pixels left out along each edge of the sector; 1600 gives the inner disk of the 1 km full disk."""
    max_view_zenith: float | None = None
    """Degrees, at the tile's centre; None for no limit but the horizon."""
    start: datetime | None = None
    """First event time, inclusive; None for no bound."""
    end: datetime | None = None
    """Last event time, inclusive; None for no bound."""
    num_tiles: int | None = None
    """Tiles wanted; None for all a stratum has."""
    seed: int = 0
    endpoint_url: str | None = None
    """S3 endpoint, for a sampler that looks at pixels; None for AWS."""
    reach: timedelta = timedelta(days=1)
    """How far from an event its time window may go."""
    executor: Executor | None = None
    """Where a sampler may read its inputs in parallel; the candidates do not depend on it."""

    def in_period(self, time: datetime) -> bool:
        """Whether an event time lies in the period."""
        return (self.start is None or time >= self.start) and (self.end is None or time <= self.end)

    def readable_grid(self, scan: Scan, problems: list[Problem]) -> FixedGrid | None:
        """Grid of a scan; None where it is damaged, which is noted once among the problems.

        Raises
        ------
        UnavailableError
            If a disk or a server does not answer: that is no fact about the scan.
        """
        try:
            return self.grid_of(scan)
        except UnavailableError:
            raise
        except SourceError as error:
            problem = Problem(scan.id, str(error), replaced=True)
            if problem not in problems:
                problems.append(problem)
            return None


class Problem(NamedTuple):
    """An input that could not be used, and why; the others are used without it."""

    source: str
    message: str
    replaced: bool = False
    """Whether another input was taken instead, so that nothing lacks it."""


class Sampler(Protocol):
    """Proposes candidates of one stratum.

    A sampler is made of a request and the arguments of its options; what it yields depends on nothing else, least of
    all on the number of workers. The first candidates must be the same however many are wanted
    (``request.num_tiles``): a build may grow.

    Candidates with ``details["class_name"]`` are of a class, which the plan tells and quotas count. Two attributes are
    asked of a sampler that has them, once its first candidate is drawn: ``class_shares``, what share of its candidates
    each class has, by which the chances under other quotas are reckoned; and ``quotas``, shares of classes that its
    tiles are to be held to where the build gives none, though some candidates are refused.
    """

    stratum: str
    problems: list[Problem]

    def candidates(self) -> Iterator[Candidate]:
        """Yield candidates in seeded random order, without repetition, until none is left."""
        ...

    def write_tables(self, directory: Path) -> list[Path]:
        """Write the tables that describe the stratum's inputs (none for most) and return their paths."""
        ...


def refuse_too_large(shape: tuple[int, int], size: int, *, align: int = 1, margin: int = 0, sector: str = "") -> None:
    """Refuse tiles that no place of a sector has room for.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the sector in pixels of the build.
    size : int
        Side of a tile in pixels.
    align : int
        A tile's first row and column are multiples of this.
    margin : int
        Pixels at the edges of the sector that no tile may touch.
    sector : str
        Its name, for the message.

    Raises
    ------
    UsageError
        There is none.
    """
    if min((n - margin - size) // align for n in shape) < -(-margin // align):
        margins = f" with margins of {margin} pixels" if margin else ""
        raise UsageError(
            f"a tile of {size} x {size} pixels{margins} does not fit in sector {sector} of {shape[0]} x {shape[1]} "
            f"pixels; choose a smaller `tile_size`{' or `margin`' if margin else ''}"
        )


def place_tile(
    grid: FixedGrid, longitude: float, latitude: float, size: int, *, align: int = 1, margin: int = 0
) -> Window | None:
    """Tile of a grid whose centre is nearest to a point.

    Parameters
    ----------
    grid : FixedGrid
        The scan's grid in pixels of the build.
    longitude, latitude : float
        Degrees.
    size : int
        Side of the tile in pixels.
    align : int
        The tile's first row and column are multiples of this.
    margin : int
        Pixels at the edges of the grid that the tile may not touch.

    Returns
    -------
    Window or None
        None where the Earth hides the point or the tile does not lie inside the grid.
    """
    row, col = (float(v) for v in grid.rowcol(longitude, latitude))
    if not (np.isfinite(row) and np.isfinite(col)):
        return None
    half = (size - 1) / 2
    top, left = (align * round((centre - half) / align) for centre in (row, col))
    last_top, last_left = grid.height - margin - size, grid.width - margin - size
    inside = margin <= top <= last_top and margin <= left <= last_left
    return Window(top, left, size, size) if inside else None


def pixel_of(grid: FixedGrid, longitude: float, latitude: float) -> tuple[int, int]:
    """Row and column of the pixel that holds a place that the grid's satellite sees.

    A place in the very corner of four pixels, as is the middle of a tile of even size, is of the south-eastern one,
    whatever the last bits of its longitude and latitude say.
    """
    row, col = (int(np.floor(float(v) + 0.5 + _CORNER)) for v in grid.rowcol(longitude, latitude))
    return row, col
