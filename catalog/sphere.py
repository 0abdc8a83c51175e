"""Footprints on the sphere: their extent, and how far two of them lie apart.

Edges are arcs of great circles, distances those of a sphere of the Earth's mean radius. Against the ellipsoid these
are right to half a percent, over the antimeridian and the poles as anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from stratacube.errors import UsageError

__all__ = ["EARTH_RADIUS_KM", "Footprints", "apart_km", "unit_vectors"]

Floats = npt.NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0088
WIDEST = 40.0
"""Degrees from a footprint's middle to its farthest corner: what is wider is many samples, not one."""


def unit_vectors(lonlat: npt.ArrayLike) -> Floats:
    """Points of the unit sphere of longitudes and latitudes in degrees: shape (..., 2) gives (..., 3)."""
    lon, lat = np.moveaxis(np.radians(np.asarray(lonlat, "f8")), -1, 0)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


@dataclass(frozen=True)
class Footprints:
    """Outlines of samples on the ground, of any number of corners each; make them by :meth:`of`."""

    corners: Floats
    """Unit vectors (all corners, 3), ring after ring, none closed."""
    first: npt.NDArray[np.int64]
    """Of each ring its first corner, and the number of all."""
    centres: Floats
    """Unit vector of each ring's middle."""
    radii: Floats
    """Radians from it to the farthest corner."""

    @classmethod
    def of(cls, rings: Iterable[npt.ArrayLike]) -> Footprints:
        """Take rings of longitudes and latitudes.

        Parameters
        ----------
        rings
            By sample, an array (corners, 2) in degrees, open or closed, either way round, in which neighbouring
            corners are less than 180 degrees apart.

        Raises
        ------
        UsageError
            If a ring has fewer than three corners, one that is not finite, or reaches farther than a footprint can.
        """
        parts: list[Floats] = []
        for i, ring in enumerate(rings):
            corners = np.asarray(ring, "f8")
            if corners.ndim == 2 and len(corners) > 1 and (corners[0] == corners[-1]).all():
                corners = corners[:-1]
            if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
                raise UsageError(
                    f"the footprint of sample {i} is {corners[:4].tolist()}; give three or more corners, longitude and "
                    "latitude, all of them finite"
                )
            parts.append(unit_vectors(corners))
        first = np.concatenate([[0], np.cumsum([len(p) for p in parts], dtype="i8")]).astype("i8")
        corners = np.concatenate(parts) if parts else np.empty((0, 3))
        found = cls(corners, first, *_caps(corners, first))
        if len(found) and found.radii.max() > np.radians(WIDEST):
            i = int(found.radii.argmax())
            raise UsageError(
                f"the footprint of sample {i} reaches {np.degrees(found.radii[i]):.0f} degrees from its middle, more "
                f"than {WIDEST:g}; cut it into parts"
            )
        return found

    def __len__(self) -> int:
        return len(self.first) - 1

    def ring(self, sample: int) -> Floats:
        """Corners of one footprint as unit vectors."""
        return self.corners[self.first[sample] : self.first[sample + 1]]

    def take(self, samples: npt.NDArray[np.int64]) -> Footprints:
        """Some of them, in the order given."""
        rings = [self.ring(int(i)) for i in samples]
        first = np.concatenate([[0], np.cumsum([len(r) for r in rings], dtype="i8")]).astype("i8")
        corners = np.concatenate(rings) if rings else np.empty((0, 3))
        return Footprints(corners, first, self.centres[samples], self.radii[samples])

    @staticmethod
    def join(parts: Sequence[Footprints]) -> Footprints:
        """All footprints of several, one after the other."""
        counts = np.concatenate([np.diff(p.first) for p in parts]) if parts else np.empty(0, "i8")
        return Footprints(
            np.concatenate([p.corners for p in parts]),
            np.concatenate([[0], np.cumsum(counts)]).astype("i8"),
            np.concatenate([p.centres for p in parts]),
            np.concatenate([p.radii for p in parts]),
        )


def _caps(corners: Floats, first: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Middle of each ring, and how far its corners reach."""
    counts = np.diff(first)
    if not len(counts):
        return np.empty((0, 3)), np.empty(0)
    centres = np.add.reduceat(corners, first[:-1]) / counts[:, None]
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    reach = angles(corners, np.repeat(centres, counts, axis=0))
    return centres, np.maximum.reduceat(reach, first[:-1])


def angles(one: Floats, other: Floats) -> Floats:
    """Angle between unit vectors in radians; by the chord, which tells small ones as well as large ones."""
    found: Floats = 2 * np.arcsin(np.clip(np.linalg.norm(one - other, axis=-1) / 2, 0.0, 1.0))
    return found


def apart_km(one: Floats, other: Floats) -> float:
    """Great-circle distance between two footprints.

    Parameters
    ----------
    one, other
        Corners as unit vectors, neither farther than :data:`WIDEST` from its own middle.

    Returns
    -------
    float
        Kilometres; 0 where they touch or overlap.
    """
    if _touch(one, other):
        return 0.0
    # Apart, the nearest points of two rings of arcs are a corner of one and a point of the other.
    return float(min(_corner_to_arcs(one, other), _corner_to_arcs(other, one))) * EARTH_RADIUS_KM


def _touch(one: Floats, other: Floats) -> bool:
    """Whether two footprints share a point: told in the gnomonic projection, where arcs of great circles are lines."""
    middle = one.mean(axis=0) + other.mean(axis=0)
    length = np.linalg.norm(middle)
    if length < 1e-6:
        return False  # they lie on opposite sides of the Earth
    middle /= length
    if min((one @ middle).min(), (other @ middle).min()) < 0.02:
        return False  # so far apart that half of the Earth lies between them
    east = np.cross([0.0, 0.0, 1.0] if abs(middle[2]) < 0.9 else [1.0, 0.0, 0.0], middle)
    east /= np.linalg.norm(east)
    axes = np.stack([east, np.cross(middle, east)], axis=1)
    shapes: list[Any] = [shapely.Polygon((ring @ axes) / (ring @ middle)[:, None]) for ring in (one, other)]
    return bool(shapely.intersects(*(s if s.is_valid else shapely.make_valid(s) for s in shapes)))


def _corner_to_arcs(points: Floats, ring: Floats) -> float:
    """Least angle between points and the arcs of a ring, in radians."""
    begin, end = ring, np.roll(ring, -1, axis=0)
    normal = np.cross(begin, end)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal = np.divide(normal, length, out=np.zeros_like(normal), where=length > 0)
    # A point's foot on the great circle lies on the arc where it is on the inner side of both ends.
    beside = (points @ np.cross(normal, begin).T >= 0) & (points @ np.cross(end, normal).T >= 0) & (length[:, 0] > 0)
    across = np.abs(np.arcsin(np.clip(points @ normal.T, -1.0, 1.0)))
    to_corner = angles(points[:, None], begin[None])
    return float(np.minimum(np.where(beside, across, np.pi), to_corner).min())
