"""Which pixel of a grid sees each profile, and which profiles cross a tile."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from cube.geostationary.grid import FixedGrid
from cube.strata.cloudsat.granule import Granule

Ints = npt.NDArray[np.int64]

__all__ = ["NOWHERE", "Parallax", "Selection", "Track", "Transect", "locate", "reaches", "transect"]

Parallax = Literal["surface", "top"]
Selection = Literal["fixed", "chip"]
NOWHERE = -(2**31)
"""Row and column of a profile that the satellite does not see."""


class Track(NamedTuple):
    """Where the profiles of a granule lie in a grid: rows and columns, which may be outside of it."""

    row: Ints
    col: Ints

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Whether the satellite sees each."""
        found: npt.NDArray[np.bool_] = self.row != NOWHERE
        return found


class Transect(NamedTuple):
    """Profiles ``first:end`` of a granule."""

    first: int
    end: int


def locate(granule: Granule, grid: FixedGrid, parallax: Parallax = "surface") -> Track:
    """Pixel that sees each profile.

    Parameters
    ----------
    granule : Granule
        The profiles.
    grid : FixedGrid
        The pixels.
    parallax : {"surface", "top"}
        Whether a profile is looked for at its place on the ellipsoid, or where the top of its highest cloud layer
        appears to lie, which is farther from the satellite's nadir.
    """
    height = granule.top * 1000.0 if parallax == "top" else None
    x, y = grid.projection.to_angles(granule.longitude, granule.latitude, height)
    seen = np.isfinite(x) & np.isfinite(y)

    def pixel(angle: npt.NDArray[np.float64], edge: float, step: float) -> Ints:
        return np.where(seen, np.floor((np.where(seen, angle, 0.0) - edge) / step), NOWHERE).astype("i8")

    return Track(pixel(y, grid.top, grid.dy), pixel(x, grid.left, grid.dx))


def transect(track: Track, centre: int, size: int, selection: Selection, profiles: int) -> Transect:
    """Profiles that go with a tile.

    Parameters
    ----------
    track : Track
        The profiles, in pixels from the tile's north-western one.
    centre : int
        The profile that the tile lies about.
    size : int
        Pixels along the tile's side.
    selection : {"fixed", "chip"}
        ``profiles`` about the centre, or all about it that lie in the tile without a break.
    profiles : int
        How many, of ``fixed``.
    """
    if selection == "fixed":
        first = centre - profiles // 2
        return Transect(max(0, first), min(len(track.row), first + profiles))
    inside = (track.row >= 0) & (track.row < size) & (track.col >= 0) & (track.col < size)
    out = np.flatnonzero(~inside)
    at = int(np.searchsorted(out, centre))
    if at < len(out) and out[at] == centre:
        return Transect(centre, centre)
    return Transect(int(out[at - 1]) + 1 if at else 0, int(out[at]) if at < len(out) else len(inside))


def reaches(track: Track, found: Transect, size: int) -> bool:
    """Whether a transect runs through a tile from top to bottom: within two steps of each, or two pixels."""
    rows = track.row[found.first : found.end]
    if len(rows) < 2:
        return False
    slack = max(2.0, 2.0 * float(np.median(np.abs(np.diff(rows)))))
    return bool(rows.min() <= slack and rows.max() >= size - 1 - slack)
