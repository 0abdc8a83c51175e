"""Which of the two operational places of GOES sees a cloud system, as SatVision-Pix4D says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cube.geostationary.grid import FixedGrid, GeosProjection

Floats = npt.NDArray[np.float64]

__all__ = ["SLOTS", "Slot", "inside_inner_disk", "seen_from"]

INNER_DISK_MARGIN = 1600


@dataclass(frozen=True)
class Slot:
    """One of the two operational places of GOES, with the box of ground it is used for."""

    name: str
    subpoint: float
    """Degrees east."""
    west: float
    east: float
    """Bounds of the box, degrees east, with ``east`` the larger."""
    latitude: float
    """The box reaches as far north and south."""

    @property
    def grid(self) -> FixedGrid:
        """The nominal 1 km full disk, to say what lies in the inner disk; tiles are placed by real grids."""
        projection = GeosProjection(35_786_023.0, 6_378_137.0, 6_356_752.31414, self.subpoint, "x")
        step, size = 28e-6, 10_848
        edge = step * (size - 1) / 2
        return FixedGrid(projection, -edge, edge, step, -step, size, size)


SLOTS = {
    "east": Slot("GOES-East", -75.0, -147.4, -2.6022, 45.64),
    "west": Slot("GOES-West", -137.0, 150.425, 295.5748, 43.6826),
}
"""Boxes as SatVision-Pix4D has them."""


def seen_from(longitude: Floats, latitude: Floats, slots: Sequence[str] = ("east", "west")) -> npt.NDArray[np.str_]:
    """Slot whose box holds a point; of two, the one whose subpoint is nearer in longitude (east on a tie).

    Parameters
    ----------
    longitude, latitude : ndarray of float64
        Degrees, any convention for longitude.
    slots : sequence of str
        Slots to choose from.

    Returns
    -------
    ndarray of str
        ``east``, ``west``, or "" where no box holds the point.
    """
    seen = np.full(np.shape(longitude), "", dtype="<U4")
    nearest = np.full(np.shape(longitude), np.inf)
    for name in sorted(slots):
        slot = SLOTS[name]
        off = np.abs((longitude - slot.subpoint + 180.0) % 360.0 - 180.0)
        inside = ((longitude - slot.west) % 360.0 <= slot.east - slot.west) & (np.abs(latitude) <= slot.latitude)
        better = inside & (off < nearest)
        seen[better], nearest[better] = name, off[better]
    return seen


def inside_inner_disk(longitude: Floats, latitude: Floats, slot: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Whether points lie on the visible Earth at least 1600 pixels inside the 1 km full disk of their slot.

    Parameters
    ----------
    longitude, latitude : ndarray of float64
        Degrees.
    slot : ndarray of str
        As of :func:`seen_from`; never inside where "".

    Returns
    -------
    ndarray of bool
    """
    inside = np.zeros(np.shape(longitude), bool)
    for name, place in SLOTS.items():
        here = slot == name
        grid = place.grid
        row, col = grid.rowcol(longitude[here], latitude[here])
        low, high = INNER_DISK_MARGIN - 0.5, grid.height - INNER_DISK_MARGIN - 0.5
        inside[here] = (row >= low) & (row < high) & (col >= low) & (col < high)
    return inside
