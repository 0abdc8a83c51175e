"""One integer pixel lattice a build: every cell is a window of it, so neighbours join without seam or overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from affine import Affine

from stratacube.errors import UsageError

__all__ = ["Lattice", "Window", "union"]

_MOST_PIXELS = 2**30
"""Of a cell: one band of them is 4 GB of memory."""


@dataclass(frozen=True)
class Window:
    """A rectangle of lattice pixels; rows count from north to south."""

    row: int
    col: int
    height: int
    width: int

    @property
    def end_row(self) -> int:
        """Row behind the last."""
        return self.row + self.height

    @property
    def end_col(self) -> int:
        """Column behind the last."""
        return self.col + self.width

    def intersect(self, other: Window) -> Window:
        """Return the common part; height or width is 0 where there is none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        return Window(
            row,
            col,
            max(0, min(self.end_row, other.end_row) - row),
            max(0, min(self.end_col, other.end_col) - col),
        )

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Slices of this window in an array over an outer one."""
        row, col = self.row - outer.row, self.col - outer.col
        return slice(row, row + self.height), slice(col, col + self.width)

    def split(self, side: int) -> list[Window]:
        """Cut along multiples of a number of pixels of the lattice, whatever this window's own corner."""
        rows = _cuts(self.row, self.end_row, side)
        cols = _cuts(self.col, self.end_col, side)
        return [Window(r0, c0, r1 - r0, c1 - c0) for r0, r1 in rows for c0, c1 in cols]


def _cuts(start: int, stop: int, side: int) -> list[tuple[int, int]]:
    inner = range((start // side + 1) * side, stop, side)
    edges = [start, *inner, stop]
    return list(pairwise(edges))


def union(windows: Sequence[Window]) -> Window:
    """Return the smallest window that holds all."""
    row, col = min(w.row for w in windows), min(w.col for w in windows)
    return Window(row, col, max(w.end_row for w in windows) - row, max(w.end_col for w in windows) - col)


@dataclass(frozen=True)
class Lattice:
    """Pixels of a CRS: pixel (row, col) covers ``x0 + col * dx`` eastward and ``y0 - row * dy`` southward."""

    crs: str
    dx: float
    dy: float
    x0: float = 0.0
    y0: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.dx < math.inf and 0 < self.dy < math.inf):
            raise UsageError(f"`tr` needs two positive numbers, got {self.dx:g} {self.dy:g}")

    def window(self, xmin: float, ymin: float, xmax: float, ymax: float) -> Window:
        """Return the pixels whose centres lie in bounds, west and north edge included, east and south edge not.

        Two cells that share an edge share the number it is computed from, so that each pixel falls to one of them.

        Raises
        ------
        UsageError
            If no pixel centre lies in the bounds, or more of them than memory could hold.
        """
        across, down = (xmax - xmin) / self.dx, (ymax - ymin) / self.dy
        if not across * down <= _MOST_PIXELS:
            raise UsageError(
                f"bounds {xmin} {ymin} {xmax} {ymax} hold {across:.6g} x {down:.6g} pixels of {self.dx} x {self.dy}, "
                f"and a cell may have {_MOST_PIXELS}; make smaller cells or choose a larger `tr` in units of {self.crs}"
            )
        col, end_col = (math.ceil((x - self.x0) / self.dx - 0.5) for x in (xmin, xmax))
        row, end_row = (math.ceil((self.y0 - y) / self.dy - 0.5) for y in (ymax, ymin))
        if end_col <= col or end_row <= row:
            raise UsageError(
                f"bounds {xmin} {ymin} {xmax} {ymax} hold no pixel of {self.dx} x {self.dy}; choose a smaller `tr`"
            )
        return Window(row, col, end_row - row, end_col - col)

    def transform(self, window: Window) -> Affine:
        """Return the map from a window's pixels to the CRS."""
        left, top = self.x0 + window.col * self.dx, self.y0 - window.row * self.dy
        return Affine(self.dx, 0.0, left, 0.0, -self.dy, top)

    def bounds(self, window: Window) -> tuple[float, float, float, float]:
        """Return xmin, ymin, xmax, ymax of a window's pixels."""
        return (
            self.x0 + window.col * self.dx,
            self.y0 - window.end_row * self.dy,
            self.x0 + window.end_col * self.dx,
            self.y0 - window.row * self.dy,
        )

    def x(self, col: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the x of pixel centres."""
        return self.x0 + (np.asarray(col, "f8") + 0.5) * self.dx

    def y(self, row: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the y of pixel centres."""
        return self.y0 - (np.asarray(row, "f8") + 0.5) * self.dy
