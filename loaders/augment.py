"""Crops, flips and rotations, each a pure function of the draw, and what they do to a sample's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from loaders.order import Pick
from stratacube.errors import UsageError

__all__ = ["Placement", "View", "coarse_on", "orient", "pixel_transform", "turned_transform"]

Floats = npt.NDArray[np.float64]


class Placement(NamedTuple):
    """Which part of a stored tile a sample is, and how it is turned."""

    step: int
    row: int
    col: int
    orientation: int = 0
    """Quarter turns counter-clockwise (0 to 3), plus 4 if then mirrored left to right."""


@dataclass(frozen=True)
class View:
    """What of each stored tile is wanted."""

    steps: int | None = None
    """Consecutive time steps; all by default."""
    crop: int | None = None
    """Pixels along a side; the whole tile by default."""
    align: int = 1
    """Crops start at multiples of this many pixels: a model's patch, so that patches are the same in every crop."""
    where: Literal["random", "centre"] = "centre"
    """Place of the crop and of the time steps (``centre``: as near to the middle as ``align`` allows)."""
    flips: bool = False
    rotations: bool = False

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise :class:`UsageError` if tiles of this shape (steps, rows, columns) cannot be seen so."""
        steps, rows, cols = shape
        if self.steps is not None and not 1 <= self.steps <= steps:
            raise UsageError(f"steps {self.steps} are not in the {steps} stored; ask for 1 to {steps}")
        if self.align < 1 or (self.crop is not None and not 1 <= self.crop <= min(rows, cols)):
            raise UsageError(f"crop {self.crop} (align {self.align}) does not fit tiles of {rows} x {cols} pixels")
        if self.crop is not None and self.crop % self.align:
            raise UsageError(f"crop {self.crop} is not a multiple of align {self.align}")
        if self.rotations and self.crop is None and rows != cols:
            raise UsageError(f"tiles of {rows} x {cols} pixels cannot be rotated; set crop")

    def shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Give steps, rows and columns of a sample of stored tiles of a shape."""
        return self.steps or shape[0], self.crop or shape[1], self.crop or shape[2]

    def place(self, shape: tuple[int, int, int], pick: Pick | None) -> Placement:
        """Place a sample; without a draw it is centred and unturned."""
        free = [stored - seen for stored, seen in zip(shape, self.shape(shape), strict=True)]
        units = (1, self.align, self.align)
        slots = [gap // unit + 1 for gap, unit in zip(free, units, strict=True)]
        starts = [(n - 1) // 2 for n in slots]
        orientation = 0
        if pick is not None:
            generator = np.random.default_rng([pick.seed, pick.epoch, pick.position, 1])
            if self.where == "random":
                starts = generator.integers(0, slots).tolist()
            orientation = self._turn(generator)
        step, row, col = (n * unit for n, unit in zip(starts, units, strict=True))
        return Placement(step, row, col, orientation)

    def _turn(self, generator: np.random.Generator) -> int:
        """Draw one of the turns allowed, all as likely."""
        turns = int(generator.integers(4)) if self.rotations else 0
        if not self.flips:
            return turns
        if self.rotations:
            return turns + 4 * int(generator.integers(2))
        # As it is, left to right, top to bottom (half a turn and a mirror), both (half a turn).
        return int(generator.choice([0, 4, 6, 2]))


def orient(image: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """Turn the last two axes of an array."""
    turned = np.rot90(image, orientation % 4, (-2, -1))
    return turned[..., ::-1] if orientation >= 4 else turned


def pixel_transform(left: float, top: float, pixel: float, place: Placement, shape: tuple[int, int]) -> Floats:
    """Affine from a sample's pixel coordinates to scan angles.

    Parameters
    ----------
    left, top
        Outer north-west corner of the stored tile (rad).
    pixel
        Side of a pixel (rad).
    place
        Of the sample in the tile.
    shape
        Rows and columns of the sample, before it is turned.

    Returns
    -------
    ndarray of float64, (6,)
        a, b, c, d, e, f of x = a col + b row + c and y = d col + e row + f, with pixel edges at whole numbers.
    """
    north_up = np.array([pixel, 0, left + place.col * pixel, 0, -pixel, top - place.row * pixel])
    return turned_transform(north_up, place.orientation, shape)


def turned_transform(transform: Floats, orientation: int, shape: tuple[int, int]) -> Floats:
    """Affine of an image of ``shape`` (rows, columns) after it is turned, from that before."""
    height, width = shape if orientation % 2 == 0 else shape[::-1]
    unturned = np.eye(3)
    if orientation >= 4:
        unturned = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])
    for _ in range(orientation % 4):
        # A quarter turn counter-clockwise put unturned (row, col) at (height - col, row).
        unturned = np.array([[0.0, -1, height], [1, 0, 0], [0, 0, 1]]) @ unturned
        height, width = width, height
    turned: Floats = (transform.reshape(2, 3) @ unturned).reshape(6)
    return turned


def coarse_on(field: npt.NDArray[np.float32], tile: int, place: Placement, size: int) -> npt.NDArray[np.float32]:
    """Coarse field of a tile brought to a sample: bilinear at the centres of the sample's own blocks, then turned.

    Parameters
    ----------
    field
        (..., n, n) at the centres of the tile's blocks; degrees, directions may wrap at 360 or 180.
    tile, size
        Pixels along a side of the tile and of the sample.
    place
        Of the sample in the tile.
    """
    n = field.shape[-1]
    if size != tile and n > 1:
        block = -(-tile // n)
        inside = (np.arange(n) + 0.5) * size / n
        field = _along(field, (place.row + inside) / block - 0.5, -2)
        field = _along(field, (place.col + inside) / block - 0.5, -1)
    turned: npt.NDArray[np.float32] = orient(field, place.orientation)  # type: ignore[assignment]
    return turned


def _along(field: npt.NDArray[np.float32], at: Floats, axis: int) -> npt.NDArray[np.float32]:
    """Interpolate angles linearly along an axis, the short way round the circle, extrapolating half a block."""
    low = np.floor(at).astype(int).clip(0, field.shape[axis] - 2)
    share = (at - low).astype("f4")
    share = share[:, None] if axis == -2 else share
    first, second = field.take(low, axis), field.take(low + 1, axis)
    between: npt.NDArray[np.float32] = first + share * ((second - first + 180) % 360 - 180)
    return between
