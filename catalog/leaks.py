"""What two sets of samples share: the checker of splits, for any two stores, tiles or cubes.

Two samples leak into each other if they lie nearer than a gap in space and, at the same time, nearer than a gap in
time; overlapping footprints have no distance, and neighbouring frames little. So do two samples of one tracked system,
wherever it has drifted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from catalog.sphere import EARTH_RADIUS_KM, Footprints, angles, apart_km
from stratacube.errors import UsageError

__all__ = ["SYSTEM_HOURS", "Extents", "Leak", "find_leaks", "leaks_between"]

Ints = npt.NDArray[np.int64]
Times = npt.NDArray[np.datetime64]

SYSTEM_HOURS = 240.0
"""Samples of one number farther apart than this are of two systems: none lives ten days, but numbers return."""
_TOGETHER = 2048
"""Samples looked at together: what bounds the memory."""
_HOUR = np.timedelta64(3_600_000_000, "us")


class Lives(NamedTuple):
    """What samples cover of time, and which system they are of: :class:`Extents` without where."""

    start: Times
    end: Times
    systems: npt.NDArray[np.str_]

    @staticmethod
    def join(parts: Sequence[Lives]) -> Lives:
        """Those of several parts, one after the other."""
        return Lives(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Extents:
    """What samples cover: where, from when to when, and which system; make them by :meth:`of`."""

    footprints: Footprints
    start: Times
    """First moment of each, microseconds UTC."""
    end: Times
    """Last moment of each."""
    systems: npt.NDArray[np.str_]
    """What names the tracked system of each; empty where there is none."""

    @classmethod
    def of(cls, rings: Sequence[npt.ArrayLike], start: Any, end: Any, systems: Sequence[Any] | None = None) -> Extents:
        """Put together what samples cover.

        Parameters
        ----------
        rings
            Outlines as :meth:`catalog.sphere.Footprints.of` takes them.
        start, end
            First and last moment of each sample, UTC.
        systems
            A number or name of the tracked system of each sample; None, NaN, 0 or less, and nothing for none.

        Raises
        ------
        UsageError
            If their numbers differ, a footprint is none, or a sample has no time or ends before it starts.
        """
        begun, ended = (np.atleast_1d(np.asarray(t, "M8[us]")) for t in (start, end))
        names = np.full(len(begun), "") if systems is None else np.array([_system(s) for s in systems], dtype=np.str_)
        if not len(rings) == len(begun) == len(ended) == len(names):
            raise UsageError(
                f"{len(rings)} footprints, {len(begun)} starts, {len(ended)} ends and {len(names)} systems do not go "
                "together; give one of each a sample"
            )
        wrong = np.flatnonzero(np.isnat(begun) | np.isnat(ended) | (ended < begun))
        if len(wrong):
            i = int(wrong[0])
            raise UsageError(f"sample {i} lasts from {begun[i]} to {ended[i]}; give its first and last moment")
        return cls(Footprints.of(rings), begun, ended, names)

    def __len__(self) -> int:
        return len(self.start)

    def take(self, samples: npt.ArrayLike) -> Extents:
        """Those of some samples, by number or by true and false."""
        chosen = np.asarray(samples)
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype("i8")
        return Extents(self.footprints.take(index), self.start[index], self.end[index], self.systems[index])

    @staticmethod
    def join(parts: Sequence[Extents]) -> Extents:
        """Those of several stores, one after the other."""
        return Extents(
            Footprints.join([p.footprints for p in parts]),
            np.concatenate([p.start for p in parts]),
            np.concatenate([p.end for p in parts]),
            np.concatenate([p.systems for p in parts]),
        )


def _system(value: Any) -> str:
    """What names a system; numbers by their digits, whatever their type, so that two stores agree."""
    if isinstance(value, str):
        return value.strip()
    try:
        number = float(value)
    except (TypeError, ValueError):  # None, and pandas' value for none
        return ""
    return str(int(number)) if number > 0 else ""  # NaN is not


class Leak(NamedTuple):
    """Two samples that must not be on both sides."""

    one: int
    other: int
    """Their numbers, each in its own set."""
    km: float
    """Between their footprints; 0 where they overlap."""
    hours: float
    """Between their times; 0 where they overlap."""
    system: str
    """The system that both are of, if so."""


def find_leaks(
    one: Extents, other: Extents, gap_km: float, gap_hours: float, system_hours: float = SYSTEM_HOURS
) -> list[Leak]:
    """Find all pairs, a sample of each set, that are nearer than the gap.

    Parameters
    ----------
    one, other
        What the samples of the two sides cover.
    gap_km, gap_hours
        Pairs leak that are nearer than both. With 0 only what overlaps in space and time does; with infinity for one
        of them, the other alone decides.
    system_hours
        Samples of one system leak if their times are nearer than this.

    Returns
    -------
    list of Leak
        By their numbers, in order; each pair once.

    Raises
    ------
    UsageError
        A gap below 0.
    """
    if not (gap_km >= 0 and gap_hours >= 0):
        raise UsageError(f"a gap of {gap_km} km and {gap_hours} hours is none; give 0 or more of both")
    found = {(i, j): Leak(i, j, km, hours, "") for i, j, km, hours in _near(one, other, gap_km, gap_hours)}
    for i, j, hours in _of_one_system(one, other, max(system_hours, gap_hours)):
        km = found[i, j].km if (i, j) in found else apart_km(one.footprints.ring(i), other.footprints.ring(j))
        found[i, j] = Leak(i, j, km, hours, str(one.systems[i]))
    return [found[pair] for pair in sorted(found)]


def leaks_between(
    extents: Extents, splits: npt.ArrayLike, gap_km: float, gap_hours: float, outside: Sequence[str] = ("gap", "")
) -> Mapping[tuple[str, str], list[Leak]]:
    """Find the leaks between the splits of one set of samples.

    Parameters
    ----------
    extents
        What the samples cover.
    splits
        Name of the split of each.
    gap_km, gap_hours
        As of :func:`find_leaks`.
    outside
        Names that stand for no split.

    Returns
    -------
    mapping
        By the two splits, leaks by the numbers in the whole set; pairs of splits without any are left out.
    """
    names = np.asarray(splits).astype(str)
    numbers = {name: np.flatnonzero(names == name) for name in sorted({*names.tolist()} - {*outside})}
    found: dict[tuple[str, str], list[Leak]] = {}
    for one, other in combinations(numbers, 2):
        a, b = numbers[one], numbers[other]
        leaks = find_leaks(extents.take(a), extents.take(b), gap_km, gap_hours)
        if leaks:
            found[one, other] = [k._replace(one=int(a[k.one]), other=int(b[k.other])) for k in leaks]
    return found


def hours_apart(one: Extents | Lives, i: Ints, other: Extents | Lives, j: Ints) -> npt.NDArray[np.float64]:
    """Hours between the times of samples; 0 where they overlap."""
    between = np.maximum(other.start[j] - one.end[i], one.start[i] - other.end[j])
    hours: npt.NDArray[np.float64] = np.maximum(between / _HOUR, 0.0)
    return hours


def _nearer(distance: Any, gap: float) -> Any:
    """Whether something is nearer than a gap; with no gap, whether it touches."""
    return distance < gap if gap > 0 else distance <= 0


def _near(one: Extents, other: Extents, gap_km: float, gap_hours: float) -> Iterator[tuple[int, int, float, float]]:
    """Pairs nearer than the gap in space and time, with both distances."""
    if not len(one) or not len(other):
        return
    by_time = np.argsort(one.start, kind="stable")
    for begin in range(0, len(by_time), _TOGETHER):
        chosen = by_time[begin : begin + _TOGETHER]
        hours = _since(one.start[chosen].min(), other.end), _since(one.end[chosen].max(), other.start)
        there = np.flatnonzero((hours[0] >= -gap_hours) & (hours[1] <= gap_hours))
        for i, j in _near_caps(one.footprints, chosen, other.footprints, there, gap_km):
            apart = hours_apart(one, i, other, j)
            near = _nearer(apart, gap_hours)
            for a, b, h in zip(i[near].tolist(), j[near].tolist(), apart[near].tolist(), strict=True):
                km = apart_km(one.footprints.ring(a), other.footprints.ring(b))
                if _nearer(km, gap_km):
                    yield a, b, km, h


def _since(moment: Any, times: Times) -> Any:
    return (times - moment) / _HOUR


def _near_caps(one: Footprints, i: Ints, other: Footprints, j: Ints, gap_km: float) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of the given samples whose circles round their footprints are nearer than the gap, in portions."""
    if not len(i) or not len(j):
        return
    gap = gap_km / EARTH_RADIUS_KM
    reach = np.minimum(one.radii[i] + float(other.radii[j].max()) + gap, np.pi)
    tree = shapely.STRtree(shapely.points(_degrees(other.centres[j])))
    for shift in (0.0, -360.0, 360.0):
        boxes = _boxes(_degrees(one.centres[i]), np.degrees(reach), shift)
        crossing = np.flatnonzero((boxes[:, 0] <= 180.0) & (boxes[:, 2] >= -180.0))
        for part in np.array_split(crossing, max(1, len(crossing) // 64)):
            a, b = tree.query(shapely.box(*boxes[part].T))
            a, b = i[part[a]], j[b]
            apart = angles(one.centres[a], other.centres[b]) - one.radii[a] - other.radii[b]
            near = apart <= gap + 1e-9
            yield a[near], b[near]


def _degrees(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Longitude and latitude of unit vectors."""
    x, y, z = vectors.T
    places: npt.NDArray[np.float64] = np.degrees(np.stack([np.arctan2(y, x), np.arcsin(np.clip(z, -1.0, 1.0))], axis=1))
    return places


def _boxes(centres: npt.NDArray[np.float64], reach: npt.NDArray[np.float64], shift: float) -> npt.NDArray[np.float64]:
    """Boxes of degrees round circles, moved in longitude; a circle that holds a pole goes all round, unmoved."""
    lon, lat = centres.T
    polar = np.abs(lat) + reach >= 90.0
    sine = np.sin(np.radians(np.minimum(reach, 90.0))) / np.cos(np.radians(np.where(polar, 0.0, lat)))
    half = np.where(polar, 180.0, np.degrees(np.arcsin(np.clip(sine, 0.0, 1.0))))
    middle = np.where(polar, 0.0 if shift == 0 else 1e3, lon + shift)
    little = 1e-6  # degrees, for what rounding takes away
    sides = middle - half - little, lat - reach - little, middle + half + little, lat + reach + little
    boxes: npt.NDArray[np.float64] = np.stack(sides, axis=1)
    return boxes


def _of_one_system(one: Extents, other: Extents, hours: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of one system whose times are nearer than so many hours."""
    named: dict[str, list[int]] = {}
    for j in np.flatnonzero(other.systems != "").tolist():
        named.setdefault(str(other.systems[j]), []).append(j)
    for i in np.flatnonzero(one.systems != "").tolist():
        of_it = np.array(named.get(str(one.systems[i]), ()), "i8")
        apart = hours_apart(one, np.full(len(of_it), i), other, of_it)
        yield from ((i, int(j), float(h)) for j, h in zip(of_it, apart, strict=True) if _nearer(h, hours))
