"""The selector: takes candidates in order, applies the build's limits, counts what it refused and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from cube.strata.base import Candidate
from cube.sun import solar_angles
from stratacube.errors import UsageError

T = TypeVar("T")

EARTH_RADIUS_KM = 6371.0088

__all__ = ["Limits", "Placed", "Selection", "select"]


@dataclass(frozen=True)
class Limits:
    """What a tile must satisfy; None switches a limit off."""

    num_tiles: int | None = None
    """Stop when so many tiles are taken."""
    max_view_zenith: float | None = None
    """Degrees, at the tile's centre."""
    max_solar_zenith: float | None = None
    """Degrees, at the tile's centre when it was seen."""
    latitudes: tuple[float, float] | None = None
    """Southern and northern bound of the tile's centre, degrees, inclusive."""
    spacing_km: float | None = None
    """Least great-circle distance between the centres of tiles that share a time window."""
    spacing_minutes: float = 140.0
    """Tiles whose times differ by less share a time window (7 steps of 20 minutes)."""
    max_refusals: int | None = 100_000
    """Give up after so many refusals in a row: some strata propose nearly without end."""


@dataclass(frozen=True)
class Placed(Generic[T]):
    """A candidate that found its tile."""

    candidate: Candidate
    time: datetime
    """Of the event's scan, naive UTC."""
    latitude: float
    """Of the tile's centre, degrees north."""
    longitude: float
    """Of the tile's centre, degrees east."""
    view_zenith: float
    """At the tile's centre, degrees; NaN beyond the horizon."""
    payload: T
    """Whatever the planner needs to make its row."""
    seen: datetime | None = None
    """When its centre was seen, naive UTC; None where nobody knows better than ``time``."""


@dataclass
class Selection(Generic[T]):
    """What was taken, and what was not."""

    tiles: list[Placed[T]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """By reason."""
    drawn: int = 0
    """Candidates looked at: the tiles and the refused."""
    gave_up: bool = False
    """Whether ``max_refusals`` ended the search."""


def select(
    candidates: Iterable[Candidate],
    place: Callable[[Candidate], Placed[T] | str],
    limits: Limits,
    taken: Iterable[Placed[T]] = (),
) -> Selection[T]:
    """Take candidates in order until there are enough.

    Parameters
    ----------
    candidates : iterable of Candidate
        In the sampler's seeded order; only as many are drawn as are needed.
    place : callable
        Finds a candidate's scan and tile, or says in a word or two why there is none.
    limits : Limits
        What the tiles must satisfy.
    taken : iterable of Placed
        Tiles taken before, from which the new ones keep their distance.

    Returns
    -------
    Selection
        The tiles in the order they were taken, and the counts for the report.

    Raises
    ------
    UsageError
        A limit that no tile can satisfy.
    """
    _check(limits)
    selection: Selection[T] = Selection()
    if limits.num_tiles == 0:
        return selection
    neighbours = _Neighbours(limits.spacing_km, limits.spacing_minutes)
    for earlier in taken:
        neighbours.add(earlier)
    refusals_in_a_row = 0
    for candidate in candidates:
        selection.drawn += 1
        placed = place(candidate)
        reason = placed if isinstance(placed, str) else _refusal(placed, limits, neighbours)
        if isinstance(placed, str) or reason:
            selection.refused[reason or ""] += 1
            refusals_in_a_row += 1
            if refusals_in_a_row == limits.max_refusals:
                selection.gave_up = True
                break
            continue
        refusals_in_a_row = 0
        neighbours.add(placed)
        selection.tiles.append(placed)
        if len(selection.tiles) == limits.num_tiles:
            break
    return selection


def _check(limits: Limits) -> None:
    if limits.num_tiles is not None and limits.num_tiles < 0:
        raise UsageError(f"The number of tiles cannot be {limits.num_tiles}: give 0 or more.")
    if limits.latitudes and limits.latitudes[0] > limits.latitudes[1]:
        south, north = limits.latitudes
        raise UsageError(f"The latitude limits {south:g} to {north:g} are reversed: give the southern one first.")


def _refusal(placed: Placed[T], limits: Limits, neighbours: _Neighbours) -> str | None:
    """Reason for which a tile breaks a limit, None if it breaks none; the cheap limits come first."""
    if limits.latitudes and not limits.latitudes[0] <= placed.latitude <= limits.latitudes[1]:
        return "latitude"
    if limits.max_view_zenith is not None and not placed.view_zenith <= limits.max_view_zenith:
        return "view zenith"
    if limits.max_solar_zenith is not None:
        zenith, _ = solar_angles(placed.seen or placed.time, placed.longitude, placed.latitude)
        if zenith > limits.max_solar_zenith:
            return "solar zenith"
    return "spacing" if neighbours.crowd(placed) else None


class _Neighbours:
    """The tiles taken so far, in bins of time, to find those near a new one."""

    def __init__(self, spacing_km: float | None, minutes: float) -> None:
        # A chord is shorter than its arc, and comparing chords saves the arc cosine.
        self._chord = None if not spacing_km else 2 * np.sin(min(spacing_km / EARTH_RADIUS_KM, np.pi) / 2)
        self._seconds = max(minutes, 0.0) * 60.0
        self._bins: dict[int, list[tuple[float, npt.NDArray[np.float64]]]] = defaultdict(list)

    def crowd(self, placed: Placed[T]) -> bool:
        """Whether a taken tile is too near."""
        if self._chord is None or not self._seconds:
            return False
        seconds, here = _seconds(placed.time), _unit_vector(placed.longitude, placed.latitude)
        centre = int(seconds // self._seconds)
        near = [
            there
            for key in (centre - 1, centre, centre + 1)
            for when, there in self._bins.get(key, ())
            if abs(when - seconds) < self._seconds
        ]
        return bool(near) and bool((np.linalg.norm(np.array(near) - here, axis=1) < self._chord).any())

    def add(self, placed: Placed[T]) -> None:
        """Take a tile."""
        if self._chord is not None and self._seconds:
            seconds = _seconds(placed.time)
            vector = _unit_vector(placed.longitude, placed.latitude)
            self._bins[int(seconds // self._seconds)].append((seconds, vector))


def _seconds(time: datetime) -> float:
    return (time - datetime(2000, 1, 1)).total_seconds()


def _unit_vector(longitude: float, latitude: float) -> npt.NDArray[np.float64]:
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
