"""The selector: takes candidates by turns, applies the build's limits, counts what it refused and why."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from cube.strata.base import Candidate
from cube.strata.streams import Drawing, Stream, Tally
from cube.strata.turns import turns
from cube.sun import solar_angles
from stratacube.errors import UsageError

T = TypeVar("T")

EARTH_RADIUS_KM = 6371.0088

__all__ = ["Limits", "Placed", "Selection", "select"]


@dataclass(frozen=True)
class Limits:
    """What a tile must satisfy; None switches a limit off."""

    num_tiles: int | None = None
    """Stop after so many turns, each of which takes a tile if there is one."""
    max_view_zenith: float | None = None
    """Degrees, at the tile's centre."""
    max_solar_zenith: float | None = None
    """Degrees, at the tile's centre when it was seen."""
    min_solar_zenith: float | None = None
    """Degrees, at the tile's centre when it was seen."""
    latitudes: tuple[float, float] | None = None
    """Southern and northern bound of the tile's centre, degrees, inclusive."""
    spacing_km: float | None = None
    """Least great-circle distance between the centres of tiles that share a time window."""
    spacing_minutes: float = 140.0
    """Tiles whose times differ by less share a time window (7 steps of 20 minutes)."""
    surface: Callable[[float, float], str | None] | None = None
    """Of a longitude and latitude in degrees, why no tile's centre may lie there, if so."""


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
    content: Any = None
    """What tells its pixels and times: no two tiles share it; None where it is not known."""


@dataclass
class Selection(Generic[T]):
    """What was taken, and what was not."""

    tiles: list[Placed[T]] = field(default_factory=list)
    """In the order of their turns; none where something else keeps them."""
    tallies: list[Tally] = field(default_factory=list)
    """By stratum and class."""

    @property
    def refused(self) -> Counter[str]:
        """How many candidates were refused, by reason."""
        return sum((t.refused for t in self.tallies), Counter())

    @property
    def drawn(self) -> int:
        """How many candidates were looked at."""
        return sum(t.drawn for t in self.tallies)

    @property
    def gave_up(self) -> bool:
        """Whether a search was given up."""
        return any(t.gave_up for t in self.tallies)


def select(
    streams: Sequence[Stream],
    place: Callable[[Candidate, Stream, bool], Placed[T] | str],
    limits: Limits,
    taken: Iterable[Placed[T]] = (),
    keep: Callable[[Placed[T]], object] | None = None,
) -> Selection[T]:
    """Take tiles by turns of the streams until there are enough.

    A turn whose stream has nothing left takes nothing, so that the tiles of a small number are the first of those of a
    large one.

    Parameters
    ----------
    streams : sequence of Stream
        Of each as many candidates are drawn as are needed.
    place : callable
        Finds a candidate's scan and tile, or says in a word or two why there is none; told the stream, and whether only
        a whole tile will do.
    limits : Limits
        What the tiles must satisfy.
    taken : iterable of Placed
        Tiles taken before: the new ones keep their distance and are others.
    keep : callable, optional
        Called with each tile in turn, in place of listing them: as objects many tiles take much memory.

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
    keep = keep or selection.tiles.append
    neighbours, known = _Neighbours(limits.spacing_km, limits.spacing_minutes), set()
    for earlier in taken:
        neighbours.add(earlier)
        known.add(earlier.content)

    def accept(candidate: Candidate, stream: Stream, strict: bool) -> Placed[T] | str:
        placed = place(candidate, stream, strict)
        if isinstance(placed, str):
            return placed
        # Only now: two events may come to the same pixels, two of one system above all, by the same best window.
        if placed.content is not None and placed.content in known:
            return "taken already"
        if reason := _refusal(placed, limits, neighbours):
            return reason
        neighbours.add(placed)
        known.add(placed.content)
        return placed

    drawings: list[Drawing[Placed[T]]] = [Drawing(stream, accept) for stream in streams]
    shares = {number: stream.share for number, stream in enumerate(streams)}
    for which in islice(turns(shares), limits.num_tiles):
        if (tile := drawings[which].next()) is not None:
            keep(tile)
        elif limits.num_tiles is None and all(d.done for d in drawings):
            break
    selection.tallies = [tally for drawing in drawings for tally in drawing.tallies]
    return selection


def _check(limits: Limits) -> None:
    if limits.num_tiles is not None and limits.num_tiles < 0:
        raise UsageError(f"The number of tiles cannot be {limits.num_tiles}: give 0 or more.")
    least, most = limits.min_solar_zenith, limits.max_solar_zenith
    if least is not None and most is not None and least > most:
        raise UsageError(f"The Sun is to be lower than {least:g} and higher than {most:g} degrees from the zenith.")
    if limits.latitudes and limits.latitudes[0] > limits.latitudes[1]:
        south, north = limits.latitudes
        raise UsageError(f"The latitude limits {south:g} to {north:g} are reversed: give the southern one first.")


def _refusal(placed: Placed[T], limits: Limits, neighbours: _Neighbours) -> str | None:
    """Reason for which a tile breaks a limit, None if it breaks none; the cheap limits come first."""
    if limits.latitudes and not limits.latitudes[0] <= placed.latitude <= limits.latitudes[1]:
        return "latitude"
    if limits.max_view_zenith is not None and not placed.view_zenith <= limits.max_view_zenith:
        return "view zenith"
    least, most = limits.min_solar_zenith, limits.max_solar_zenith
    if least is not None or most is not None:
        zenith, _ = solar_angles(placed.seen or placed.time, placed.longitude, placed.latitude)
        if not (-1.0 if least is None else least) <= zenith <= (180.0 if most is None else most):
            return "solar zenith"
    if limits.surface is not None and (reason := limits.surface(placed.longitude, placed.latitude)):
        return reason
    return "spacing" if neighbours.crowd(placed) else None


class _Neighbours:
    """The tiles taken so far, in bins of time, to find those near a new one."""

    def __init__(self, spacing_km: float | None, minutes: float) -> None:
        # A chord is shorter than its arc, and comparing chords saves the arc cosine.
        self._chord = None if not spacing_km else 2 * np.sin(min(spacing_km / EARTH_RADIUS_KM, np.pi) / 2)
        self._seconds = max(minutes, 0.0) * 60.0
        self._bins: dict[int, array[float]] = defaultdict(lambda: array("d"))
        """Of each tile its time in seconds and the unit vector of its place, one after the other."""

    def crowd(self, placed: Placed[T]) -> bool:
        """Whether a taken tile is too near."""
        if self._chord is None or not self._seconds:
            return False
        seconds, here = _seconds(placed.time), _unit_vector(placed.longitude, placed.latitude)
        centre = int(seconds // self._seconds)
        for key in (centre - 1, centre, centre + 1):
            tiles = np.frombuffer(self._bins.get(key, b""), "f8").reshape(-1, 4)
            there = tiles[np.abs(tiles[:, 0] - seconds) < self._seconds, 1:]
            if (np.linalg.norm(there - here, axis=1) < self._chord).any():
                return True
        return False

    def add(self, placed: Placed[T]) -> None:
        """Take a tile."""
        if self._chord is not None and self._seconds:
            seconds = _seconds(placed.time)
            bin_of = self._bins[int(seconds // self._seconds)]
            bin_of.extend((seconds, *_unit_vector(placed.longitude, placed.latitude).tolist()))


def _seconds(time: datetime) -> float:
    return (time - datetime(2000, 1, 1)).total_seconds()


def _unit_vector(longitude: float, latitude: float) -> npt.NDArray[np.float64]:
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
