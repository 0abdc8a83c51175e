"""Train, validation and test by region and block of time, with a gap between them that nothing reaches across.

The Earth is cut into blocks of about equal sides and time into blocks of equal length, both fixed for ever: a block of
both belongs to one split by a hash, so that any two stores split by one rule agree, and a tile keeps its split as its
store grows. A sample is of a split if all blocks are that it would touch were it larger by half the gap on every side.
Two samples of different splits are then apart by the gap in space or in time, for what is nearer would have a point
between them that both reach. What reaches blocks of several splits is of none: ``gap``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from catalog.leaks import SYSTEM_HOURS, Extents, Leak, Lives, find_leaks, hours_apart, leaks_between
from catalog.sphere import EARTH_RADIUS_KM, Footprints
from stratacube.errors import UsageError

__all__ = ["GAP", "Extents", "Leak", "SplitRule", "find_leaks", "leaks_between"]

GAP = "gap"
"""Of a sample that is of no split."""

_KM_A_DEGREE = math.pi * EARTH_RADIUS_KM / 180.0
_EPOCH = np.datetime64("1970-01-01T00:00", "us")
_HOUR = 3_600_000_000


@dataclass(frozen=True)
class SplitRule:
    """How samples are split; see :mod:`catalog.splits`."""

    block_km: float | None = 3000.0
    """About the side of a block of the Earth; None for one block, the whole Earth."""
    block_hours: float | None = 168.0
    """Length of a block of time, counted from 1970; None for one block, all time."""
    gap_km: float = 100.0
    """Samples of two splits are so far apart in space,"""
    gap_hours: float = 24.0
    """or so far in time."""
    shares: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    """Share of the blocks by split."""
    seed: int = 0
    """Of the hash: another one, another assignment of blocks."""

    def __post_init__(self) -> None:
        if self.block_km is None and self.block_hours is None:
            raise UsageError("a split needs blocks of the Earth or of time; give `block_km` or `block_hours`")
        for name, block, gap in (
            ("km", self.block_km, self.gap_km),
            ("hours", self.block_hours, self.gap_hours),
        ):
            if not gap >= 0 or math.isinf(gap):
                raise UsageError(f"`gap_{name}` is {gap}; give 0 or more")
            if block is not None and not gap < block < math.inf:
                raise UsageError(f"`block_{name}` is {block:g}, and the gap {gap:g}; give blocks larger than the gap")
        total = math.fsum(self.shares.values())
        if not self.shares or min(self.shares.values()) < 0 or abs(total - 1) > 1e-6 or {GAP, ""} & self.shares.keys():
            told = ", ".join(f"{name} {share:g}" for name, share in self.shares.items())
            raise UsageError(f"the shares of the splits are {told or 'none'}; give some that make 1, of other than gap")

    def assign(self, extents: Extents, kept: Mapping[int, str] | None = None) -> npt.NDArray[np.str_]:
        """Assign samples to splits.

        Parameters
        ----------
        extents
            What they cover, in the order in which they were drawn: of a system that lives on in another split's
            blocks, the samples drawn first decide, and the others are of none. So samples that are added change
            nothing for those before them.
        kept
            By number, the split of samples that have one already.

        Returns
        -------
        ndarray of str
            The split of each, or :data:`GAP`.
        """
        return self.assign_parts([extents], kept)

    def assign_parts(self, parts: Iterable[Extents], kept: Mapping[int, str] | None = None) -> npt.NDArray[np.str_]:
        """Assign samples that come in parts, of which one at a time is held: outlines take kilobytes each.

        Parameters
        ----------
        parts
            What the samples cover, one part after the other, as :meth:`assign` takes them all.
        kept
            As of :meth:`assign`; numbers count all samples.

        Returns
        -------
        ndarray of str
            The split of each, or :data:`GAP`.
        """
        blocks = None if self.block_km is None else _Blocks(self.block_km)
        found, lives = list[str](), list[Lives]()
        for part in parts:
            found += [self._of(part.footprints, i, blocks, times) for i, times in enumerate(self._times(part))]
            lives.append(Lives(part.start, part.end, part.systems))
        for number, name in (kept or {}).items():
            found[number] = name
        self._keep_systems_together(Lives.join(lives), found, kept or {})
        return np.array(found, dtype=f"<U{max(map(len, [GAP, *self.shares]))}")

    def split_of(self, row: int, column: int, time: int) -> str:
        """Split of one block of the Earth and of time, by a hash of their numbers."""
        return _split_of(tuple(self.shares.items()), f"{self.seed}/{row}/{column}/{time}")

    def _of(self, footprints: Footprints, sample: int, blocks: _Blocks | None, times: range) -> str:
        """The one split of all blocks that a sample reaches with half the gap, or none."""
        if blocks is None:
            return self._one_of([(0, 0)], times)
        centre, margin = footprints.centres[sample], self.gap_km / 2
        # Round about first: where all blocks near are of one split, it need not be told which are reached.
        about = blocks.touched(_circle(centre, float(footprints.radii[sample]) + margin / EARTH_RADIUS_KM))
        if len(about) > 1 and self._one_of(about, times) == GAP:
            about = blocks.touched(_grown(footprints.ring(sample), centre, margin))
        return self._one_of(about, times)

    def _one_of(self, cells: Sequence[tuple[int, int]], times: range) -> str:
        names = (self.split_of(row, column, time) for time in times for row, column in cells)
        first = next(names)
        # Small blocks are many, and the second one often tells already: the rest is not asked.
        return first if all(name == first for name in names) else GAP

    def _times(self, extents: Extents) -> list[range]:
        """Blocks of time that each sample reaches with half the gap."""
        if self.block_hours is None:
            return [range(1)] * len(extents)
        half, block = self.gap_hours / 2, self.block_hours
        first = np.floor(((extents.start - _EPOCH).astype("i8") / _HOUR - half) / block).astype("i8").tolist()
        last = np.floor(((extents.end - _EPOCH).astype("i8") / _HOUR + half) / block).astype("i8").tolist()
        return [range(a, b + 1) for a, b in zip(first, last, strict=True)]

    def _keep_systems_together(self, lives: Lives, found: list[str], kept: Mapping[int, str]) -> None:
        """Leave out samples of a system of which one drawn before is of another split."""
        before: dict[str, list[int]] = {}
        # Samples that have their split already come before all others, wherever they stand.
        for i in sorted(np.flatnonzero(lives.systems != "").tolist(), key=lambda n: (n not in kept, n)):
            if found[i] == GAP:
                continue
            others = np.array([j for j in before.get(lives.systems[i], ()) if found[j] != found[i]], "i8")
            apart = hours_apart(lives, np.full(len(others), i), lives, others)
            if i not in kept and (apart < max(SYSTEM_HOURS, self.gap_hours)).any():
                found[i] = GAP
            else:
                before.setdefault(str(lives.systems[i]), []).append(i)


@cache
def _split_of(shares: tuple[tuple[str, float], ...], block: str) -> str:
    share = int.from_bytes(hashlib.sha256(f"split {block}".encode()).digest()[:8], "little") / 2**64
    total = 0.0
    for name, part in shares:
        total += part
        if share < total:
            return name
    return shares[-1][0]


class _Blocks:
    """Blocks of the Earth: rows of equal height, each cut into as many equal columns as make them about square."""

    def __init__(self, block_km: float) -> None:
        self.rows = max(1, round(180.0 * _KM_A_DEGREE / block_km))
        self.height = 180.0 / self.rows
        middles = -90.0 + (np.arange(self.rows) + 0.5) * self.height
        around = 360.0 * _KM_A_DEGREE * np.cos(np.radians(middles))
        self.columns = np.maximum(1, np.round(around / block_km)).astype(int).tolist()

    def touched(self, shape: Any) -> list[tuple[int, int]]:
        """Rows and columns of the blocks that a shape in degrees touches; its longitudes may go beyond 180."""
        west, south, east, north = shape.bounds
        found: set[tuple[int, int]] = set()
        for row in range(self._row(south), self._row(north) + 1):
            width = 360.0 / self.columns[row]
            first, last = math.floor(west / width), math.floor(east / width)
            columns = np.arange(first, min(last, first + self.columns[row] - 1) + 1)
            bottom = -90.0 + row * self.height
            if len(columns) > 1 or self._row(south) != self._row(north):
                boxes = shapely.box(columns * width, bottom, (columns + 1) * width, bottom + self.height)
                columns = columns[shapely.intersects(shape, boxes)]
            found.update((row, int(column) % self.columns[row]) for column in columns)
        return sorted(found)

    def _row(self, latitude: float) -> int:
        return min(max(math.floor((latitude + 90.0) / self.height), 0), self.rows - 1)


def _grown(ring: npt.NDArray[np.float64], centre: npt.NDArray[np.float64], margin_km: float) -> Any:
    """A shape in degrees that holds all that is nearer to a footprint than a margin, and little more."""
    east = np.cross([0.0, 0.0, 1.0], centre)
    if np.linalg.norm(east) < 1e-9:
        east = np.array([1.0, 0.0, 0.0])
    east /= np.linalg.norm(east)
    north = np.cross(centre, east)
    points = _dense(ring)
    # Equidistant about the centre: outward distances are true, those across are too large by r / sin r.
    reach = np.arccos(np.clip(points @ centre, -1.0, 1.0))
    bearing = np.arctan2(points @ east, points @ north)
    plane = shapely.Polygon(np.stack([reach * np.sin(bearing), reach * np.cos(bearing)], axis=1))
    margin = margin_km / EARTH_RADIUS_KM
    farthest = min(reach.max() + margin, 3.0)
    stretched = margin * farthest / math.sin(farthest) * 1.01 + 2e-5  # for corners of round ends, and of arcs
    grown = shapely.buffer(plane if plane.is_valid else shapely.make_valid(plane), stretched, quad_segs=8)
    centre_lon, centre_lat = math.atan2(centre[1], centre[0]), math.asin(float(np.clip(centre[2], -1.0, 1.0)))
    if abs(centre_lat) + farthest + stretched >= math.pi / 2:
        return _polar_cap(centre_lat, farthest + stretched)
    x, y = _outline(grown).T
    distance, bearing = np.hypot(x, y), np.arctan2(x, y)
    lat = np.arcsin(
        np.clip(
            math.sin(centre_lat) * np.cos(distance) + math.cos(centre_lat) * np.sin(distance) * np.cos(bearing), -1, 1
        )
    )
    lon = centre_lon + np.arctan2(
        np.sin(bearing) * np.sin(distance) * math.cos(centre_lat), np.cos(distance) - math.sin(centre_lat) * np.sin(lat)
    )
    shape = shapely.Polygon(np.degrees(np.stack([lon, lat], axis=1)))
    return shape if shape.is_valid else shapely.make_valid(shape)


def _circle(centre: npt.NDArray[np.float64], reach: float) -> Any:
    """Box of degrees that holds a circle."""
    lon, lat = math.degrees(math.atan2(centre[1], centre[0])), math.asin(float(np.clip(centre[2], -1.0, 1.0)))
    reach += 2e-5
    if abs(lat) + reach >= math.pi / 2:
        return _polar_cap(lat, reach)
    half = math.degrees(math.asin(math.sin(reach) / math.cos(lat)))
    return shapely.box(lon - half, math.degrees(lat - reach), lon + half, math.degrees(lat + reach))


def _polar_cap(latitude: float, reach: float) -> Any:
    """All round from the pole down to where a circle reaches."""
    edge = math.degrees(abs(latitude) - reach)
    south, north = (edge, 90.0) if latitude > 0 else (-90.0, -edge)
    return shapely.box(-180.0, max(south, -90.0), 180.0, min(north, 90.0))


def _outline(shape: Any) -> npt.NDArray[np.float64]:
    """Outline of a shape, or of its hull where it has several parts; with corners near one another."""
    outer = shape if shape.geom_type == "Polygon" else shape.convex_hull
    coordinates: npt.NDArray[np.float64] = shapely.get_coordinates(shapely.segmentize(outer.exterior, 0.005))
    return coordinates


def _dense(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Corners of a ring and points along its arcs, a fiftieth of a radian apart at most."""
    closed = np.concatenate([ring, ring[:1]])
    if np.linalg.norm(np.diff(closed, axis=0), axis=1).max() <= 0.02:
        return ring
    parts = []
    for begin, end in pairwise(closed):
        steps = max(1, math.ceil(float(np.linalg.norm(end - begin)) / 0.02))
        share = np.arange(steps)[:, None] / steps
        parts.append(begin + share * (end - begin))  # on the chord: brought to the sphere below
    points = np.concatenate(parts)
    found: npt.NDArray[np.float64] = points / np.linalg.norm(points, axis=1, keepdims=True)
    return found
