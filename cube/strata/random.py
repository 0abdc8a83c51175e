"""The random stratum: tiles uniform over the allowed area and over the scans of the period.

The places of a scan are the aligned tile origins that keep the tile inside its sector and the tile's centre
on the Earth within the view zenith limit. They are counted exactly, so every draw is a place: nothing is
rejected but repetitions, and the inclusion probability is known.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid
from cube.strata.base import Candidate, Problem, SampleRequest, refuse_too_large
from stratacube.errors import UsageError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

__all__ = ["Places", "RandomSampler", "allowed_places", "ground_area"]

_REDRAWS = 1000
"""Draws of places that are taken already, one after the other, before the next place that is left is taken."""


class RandomSampler:
    """Draws a scan uniformly, then a place in it, without repetition.

    Each draw has random numbers of its own, from the seed and its rank alone: a scan whose grid cannot be told, or that
    has other places, changes no draw but those of itself.

    Candidates lie at the centre of their tile at the start of their scan; :func:`place_tile` finds the very
    same tile again. ``details`` has ``scan_id``, ``row`` and ``col`` of the tile's north-west pixel.
    ``weight`` is 1 for ``solid_angle`` and the ground area of the centre pixel in km2 for ``km2``.
    ``probability`` is ``num_tiles`` times the chance of one draw, at most 1: weight / (weights of all places
    of the scan) / (number of scans); it neglects what drawing without repetition changes, which is of the
    order of ``num_tiles`` / places.

    Parameters
    ----------
    request : SampleRequest
        ``num_tiles`` must be given: random tiles have no natural number.
    area : {"solid_angle", "km2"}
        Uniform over what: scan angle (each pixel alike) or area on the ground.

    Raises
    ------
    UsageError
        No ``num_tiles``, or an unknown ``area``.
    """

    stratum = "random"

    def __init__(self, request: SampleRequest, *, area: Literal["solid_angle", "km2"] = "solid_angle") -> None:
        if request.num_tiles is None:
            raise UsageError("the random stratum has no natural number of tiles; give `num_tiles`")
        if area not in ("solid_angle", "km2"):
            raise UsageError(f'random tiles are uniform over "solid_angle" or "km2", not "{area}"')
        self.request = request
        self.by_area = area == "km2"
        self.problems: list[Problem] = []
        self._places: dict[FixedGrid, Places] = {}

    def candidates(self) -> Iterator[Candidate]:
        """Yield candidates until every place of every scan has been drawn.

        Raises
        ------
        UsageError
            The tile is larger than a sector, or no place satisfies the limits; raised at the first ``next``.
        """
        scans = [scan for scan in self.request.scans if self.request.in_period(scan.start)]
        number = len(scans)
        if not number:
            raise UsageError(
                f"No scan starts in the period {self.request.start} to {self.request.end}: widen the period."
            )
        drawn: dict[str, set[int]] = {}
        exhausted: set[int] = set()
        empty: str | None = None
        for rank in itertools.count():
            if len(exhausted) == number:
                break
            rng = np.random.default_rng([self.request.seed, rank])
            which = int(rng.integers(number))
            if which in exhausted:
                continue
            scan = scans[which]
            taken = drawn.setdefault(scan.id, set())
            places = self._places_of(scan)
            if places is None or len(taken) == places.count:
                empty = empty or (places.why_empty if places else None)
                exhausted.add(which)
                continue
            index = places.draw_new(rng, taken)
            taken.add(index)
            yield self._candidate(scan, places, index, number)
        if not any(drawn.values()):
            raise UsageError(empty or self._unreadable())

    def write_tables(self, directory: Path) -> list[Path]:
        """Write nothing: the stratum has no inputs but the scans."""
        return []

    def _candidate(self, scan: Scan, places: Places, index: int, number: int) -> Candidate:
        request, grid = self.request, places.grid
        row, col = places.origin(index)
        half = (request.tile_size - 1) / 2
        longitude, latitude = grid.lonlat(row + half, col + half)
        weight = float(ground_area(grid, row + half, col + half)) if self.by_area else 1.0
        chance = weight / places.total_weight / number
        return Candidate(
            time=scan.start,
            latitude=float(latitude),
            longitude=float(longitude),
            stratum=self.stratum,
            weight=weight,
            probability=min(1.0, (request.num_tiles or 0) * chance),
            platform=scan.platform,
            details={"scan_id": scan.id, "row": row, "col": col},
        )

    def _places_of(self, scan: Scan) -> Places | None:
        """Places of a scan; None, with the problem noted, where it is damaged."""
        grid = self.request.readable_grid(scan, self.problems)
        if grid is None:
            return None
        if grid not in self._places:
            request = self.request
            self._places[grid] = allowed_places(
                grid,
                request.tile_size,
                align=request.align,
                margin=request.margin,
                max_view_zenith=request.max_view_zenith,
                by_area=self.by_area,
                sector=scan.sector,
            )
        return self._places[grid]

    def _unreadable(self) -> str:
        first = self.problems[0]
        return f"None of {len(self.problems)} scans can be read; the first, {first.source}: {first.message}"


@dataclass(frozen=True)
class Places:
    """Allowed tile origins of one grid: in each row of origins an interval of columns.

    Places are numbered row by row; rows and columns here count in units of ``align`` pixels.
    """

    grid: FixedGrid
    size: int
    align: int
    first_row: int
    first_col: Ints
    """By row: the westernmost allowed origin."""
    ends: Ints
    """By row: places up to and including it."""
    weights: Floats | None
    """By row: sum of weights up to and including it; None where all places weigh 1."""
    why_empty: str
    """A sentence for the user, used when there is no place."""

    @property
    def count(self) -> int:
        """Number of places."""
        return int(self.ends[-1])

    @property
    def total_weight(self) -> float:
        """Sum of the weights of all places."""
        return float(self.count if self.weights is None else self.weights[-1])

    def draw(self, rng: np.random.Generator) -> int:
        """Draw a place with probability proportional to its weight and return its number."""
        if self.weights is None:
            return int(rng.integers(self.count))
        point = rng.random() * self.weights[-1]
        row = min(int(np.searchsorted(self.weights, point, side="right")), len(self.ends) - 1)
        before, begin = (self.weights[row - 1], self.ends[row - 1]) if row else (0.0, 0)
        within = np.cumsum(self._row_areas(row, int(self.ends[row] - begin)))
        step = int(np.searchsorted(within, point - before, side="right"))
        return int(begin) + min(step, len(within) - 1)

    def draw_new(self, rng: np.random.Generator, taken: Collection[int]) -> int:
        """Draw a place that is not taken; at least one is to be left.

        Where nearly all of the weight is taken that might go on for ever: then it is the next place that is left.
        """
        for _ in range(_REDRAWS):
            index = self.draw(rng)
            if index not in taken:
                return index
        return next(i % self.count for i in range(index, index + self.count) if i % self.count not in taken)

    def origin(self, index: int) -> tuple[int, int]:
        """Row and column, in pixels of the grid, of the north-west pixel of a place."""
        row = int(np.searchsorted(self.ends, index, side="right"))
        begin = int(self.ends[row - 1]) if row else 0
        col = int(self.first_col[row]) + index - begin
        return (self.first_row + row) * self.align, col * self.align

    def weighed(self) -> Places:
        """Return the same places, each weighing the ground area of its centre pixel."""
        counts = np.diff(self.ends, prepend=0)
        sums = [self._row_areas(row, int(n)).sum() for row, n in enumerate(counts)]
        return replace(self, weights=np.cumsum(np.asarray(sums, "f8")))

    def _row_areas(self, row: int, count: int) -> Floats:
        half = (self.size - 1) / 2
        cols = (int(self.first_col[row]) + np.arange(count)) * self.align + half
        return ground_area(self.grid, (self.first_row + row) * self.align + half, cols)


def allowed_places(
    grid: FixedGrid,
    size: int,
    *,
    align: int = 1,
    margin: int = 0,
    max_view_zenith: float | None = None,
    by_area: bool = False,
    sector: str = "",
) -> Places:
    """Tile origins inside a grid whose tile centre is on the Earth within the view zenith limit.

    Parameters
    ----------
    grid : FixedGrid
        The scan's grid in pixels of the build.
    size : int
        Side of a tile in pixels.
    align : int
        Origins are multiples of this.
    margin : int
        Pixels left out along each edge.
    max_view_zenith : float, optional
        Degrees.
    by_area : bool
        Weigh places by ground area instead of alike.
    sector : str
        Name of the grid in messages.

    Returns
    -------
    Places
        Possibly none; ``why_empty`` tells which limit left none.

    Raises
    ------
    UsageError
        The tile, with the margins, is larger than the grid.
    """
    refuse_too_large(grid.shape, size, align=align, margin=margin, sector=sector)
    first = -(-margin // align)
    last_row, last_col = ((n - margin - size) // align for n in grid.shape)
    half = (size - 1) / 2
    rows = (np.arange(first, last_row + 1) * align + half).astype("f8")

    def allowed(cols: Ints) -> npt.NDArray[np.bool_]:
        zenith = _view_zenith(grid, rows, cols * align + half)
        return np.isfinite(zenith) & (zenith <= (90.0 if max_view_zenith is None else max_view_zenith))

    # Along a row the view zenith grows with the distance from the satellite's meridian (scan angle x = 0), so
    # the allowed columns are one interval around it and two bisections find its ends.
    meridian = round((-grid.x0 / grid.dx - half) / align)
    best = np.full(len(rows), min(max(meridian, first), last_col), np.int64)
    some = allowed(best)
    west, east = _bisect(allowed, best, first), _bisect(allowed, best, last_col)
    counts = np.where(some, east - west + 1, 0)
    why = _why_empty(grid, rows, best * align + half, max_view_zenith, sector) if not some.any() else ""
    places = Places(grid, size, align, first, west, np.cumsum(counts), None, why)
    return places.weighed() if by_area else places


def ground_area(grid: FixedGrid, row: npt.ArrayLike, col: npt.ArrayLike) -> Floats:
    """Area on the ellipsoid that pixels cover, to first order in their size.

    Parameters
    ----------
    grid : FixedGrid
        The grid.
    row, col : array_like
        Fractional pixel positions, broadcast together; [0, 0] is a pixel's centre.

    Returns
    -------
    ndarray of float64
        km2; NaN off the Earth.

    Notes
    -----
    The pixel's solid angle times the squared slant range, over the cosine of the view zenith. Written in the
    satellite's vectors (GOES-R PUG vol. 3, 5.1.2.8) because it runs over every place of a full disk.
    """
    projection = grid.projection
    x = grid.x0 + grid.dx * np.asarray(col, "f8")
    y = grid.y0 + grid.dy * np.asarray(row, "f8")
    sin_x, cos_x, sin_y, cos_y = np.sin(x), np.cos(x), np.sin(y), np.cos(y)
    if projection.sweep_angle_axis == "x":
        toward, east, north, shrink = cos_x * cos_y, sin_x, cos_x * sin_y, cos_x
    else:
        toward, east, north, shrink = cos_x * cos_y, sin_x * cos_y, sin_y, cos_y
    height, req = projection.distance, projection.semi_major_axis
    squash = (req / projection.semi_minor_axis) ** 2
    a = toward**2 + east**2 + squash * north**2
    with np.errstate(invalid="ignore"):
        root = np.sqrt((height * toward) ** 2 - a * (height**2 - req**2))
        slant = (height * toward - root) / a
        # The ellipsoid's normal is along (X, Y, squash * Z) of the point in Earth-centred axes.
        nx, ny, nz = height - slant * toward, slant * east, squash * slant * north
        cosine = (nx * toward - ny * east - nz * north) / np.sqrt(nx**2 + ny**2 + nz**2)
    solid_angle = np.abs(grid.dx * grid.dy) * shrink
    area: Floats = solid_angle * slant**2 / cosine * 1e-6
    return area


def _view_zenith(grid: FixedGrid, row: npt.ArrayLike, col: npt.ArrayLike) -> Floats:
    longitude, latitude = grid.lonlat(row, col)
    return grid.projection.view_angles(longitude, latitude)[0]


def _bisect(allowed: Callable[[Ints], npt.NDArray[np.bool_]], inside: Ints, limit: int) -> Ints:
    """Find by row the allowed column farthest from ``inside``, taken as allowed, towards ``limit``."""
    good, bad = inside.copy(), np.full_like(inside, limit)
    reached = allowed(bad)
    good[reached] = bad[reached]
    while (np.abs(bad - good) > 1).any():
        middle = (good + bad) // 2
        fine = allowed(middle)
        good, bad = np.where(fine, middle, good), np.where(fine, bad, middle)
    return good


def _why_empty(grid: FixedGrid, rows: npt.ArrayLike, cols: npt.ArrayLike, limit: float | None, sector: str) -> str:
    zenith = _view_zenith(grid, rows, cols)
    if not np.isfinite(zenith).any():
        return f"no tile of sector {sector} has its centre on the Earth; choose another sector or period"
    return (
        f"no tile of sector {sector} has its centre within the view zenith limit of {limit:g} degrees "
        f"(the lowest is {np.nanmin(zenith):.1f}): raise `max_view_zenith`"
    )
