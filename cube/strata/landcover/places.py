"""Which places of a grid belong to which class of land cover, all of them, so that chances are known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cube.strata.landcover.footprints import box_sums, class_image
from cube.strata.landcover.raster import LandCover
from cube.strata.random import Places

__all__ = ["ClassPlaces", "classed"]


@dataclass(frozen=True)
class ClassPlaces:
    """The places of a grid, by class."""

    places: Places
    image: npt.NDArray[np.uint8]
    """Codes of the grid's pixels."""
    members: dict[int, npt.NDArray[np.uint8]]
    """By code, a bit a place: (rows of origins, packed columns)."""
    ends: dict[int, npt.NDArray[np.int64]]
    """By code and row of origins, the places up to and including it."""

    def count(self, code: int) -> int:
        """Number of places of a class."""
        return int(self.ends[code][-1]) if code in self.ends else 0

    def origin(self, code: int, index: int) -> tuple[int, int]:
        """Row and column of the north-western pixel of a place of a class."""
        ends = self.ends[code]
        row = int(np.searchsorted(ends, index, side="right"))
        before = int(ends[row - 1]) if row else 0
        col = int(np.flatnonzero(np.unpackbits(self.members[code][row]))[index - before])
        return (self.places.first_row + row) * self.places.align, col * self.places.align

    def share(self, code: int, row: int, col: int) -> float:
        """Share of a class in the pixels of the tile at an origin."""
        size = self.places.size
        return float(np.count_nonzero(self.image[row : row + size, col : col + size] == code)) / size**2


def classed(cover: LandCover, places: Places, codes: Sequence[int], least: float | None) -> ClassPlaces:
    """Find the places of some classes.

    Parameters
    ----------
    cover : LandCover
        The rasters.
    places : Places
        All that are allowed.
    codes : sequence of int
        The classes, as places in ``cover.classes``.
    least : float or None
        Share of a tile's pixels that its class covers; None for the class that covers the most, of all that the
        rasters have: of several alike, the first.
    """
    image = class_image(cover, places.grid)
    allowed = _allowed(places)
    there = np.flatnonzero(np.bincount(image.ravel(), minlength=256)[: len(cover.classes)]).tolist()
    members: dict[int, npt.NDArray[np.bool_]] = {}
    if least is None:
        most = np.zeros(allowed.shape, "i4")
        which = np.full(allowed.shape, 255, "u1")
        for code in there:
            pixels = _pixels(image, code, places, allowed.shape)
            more = pixels > most
            most[more], which[more] = pixels[more], code
        members = {code: (which == code) & allowed for code in there if code in codes}
    else:
        wanted = least * places.size**2
        for code in there:
            if code in codes:
                members[code] = (_pixels(image, code, places, allowed.shape) >= wanted) & allowed
    ends = {code: np.cumsum(np.count_nonzero(bits, axis=1)) for code, bits in members.items()}
    packed = {code: np.packbits(bits, axis=1) for code, bits in members.items() if ends[code][-1]}
    return ClassPlaces(places, image, packed, {code: ends[code] for code in packed})


def _allowed(places: Places) -> npt.NDArray[np.bool_]:
    """Rows of origins by columns of origins, from the grid's western edge."""
    counts = np.diff(places.ends, prepend=0)
    last = places.first_col + counts
    cols = np.arange(int(last.max(initial=0)))
    found: npt.NDArray[np.bool_] = (cols >= places.first_col[:, None]) & (cols < last[:, None])
    return found


def _pixels(image: npt.NDArray[np.uint8], code: int, places: Places, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Pixels of a class in the tile at each origin."""
    sums = box_sums(image, code, places.align)
    top, span = places.first_row, places.size // places.align
    rows, cols = shape
    upper, lower = sums[top : top + rows], sums[top + span : top + span + rows]
    pixels: npt.NDArray[np.int32] = lower[:, span : span + cols] - lower[:, :cols]
    pixels -= upper[:, span : span + cols]
    pixels += upper[:, :cols]
    return pixels
