"""Chips as packed counts: one packing a band, taken only if it gives every value of every chip back, bit for bit.

SatVision-Pix4D's chips are float32, but made of counts by ``count * scale + offset``, each operation rounded.
Neither number is told; both are found in the values, which lie on a lattice, by trying the float32 numbers near it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from cube.decode import to_radiance

__all__ = ["NO_COUNT", "Packing", "counts_of", "distinct", "packing_of", "unpacked"]

NO_COUNT = 65_535
"""Where there is no value."""
_DEEPEST = 2**14
"""Counts of ABI's deepest band, so how far the lowest value that was seen may be from count 0."""
_NEAR = 4
"""Units in the last place that the numbers told by the lattice may be off."""
_PARTS = 16
"""Parts of a unit in the last place of the least value by which the offset is sought about it."""
_NAN = int(np.float32("nan").view("u4"))

Floats = npt.NDArray[np.float32]


class Packing(NamedTuple):
    """A value is ``count * scale + offset`` in float32."""

    scale: float
    offset: float


def counts_of(values: Floats, packing: Packing) -> npt.NDArray[np.uint16] | None:
    """Counts of values; None where one does not come back bit for bit.

    Parameters
    ----------
    values
        NaN where there is none, of any shape.
    packing
        What to try.
    """
    there = np.isfinite(values)
    found = np.rint((np.where(there, values, packing.offset).astype("f8") - packing.offset) / packing.scale)
    if found.min(initial=0) < 0 or found.max(initial=0) >= NO_COUNT:
        return None
    counts = np.where(there, found, NO_COUNT).astype("u2")
    same = unpacked(counts, packing).view("u4") == values.view("u4")
    return counts if same.all() else None


def distinct(values: Floats) -> Floats | None:
    """The values that there are, each once, and NaN; None where they are too many, or of no plain NaN or infinite."""
    found = pd.unique(np.ascontiguousarray(values).view("u4").ravel())
    odd = ~np.isfinite(found.view("f4")) & (found != _NAN)
    return None if len(found) > NO_COUNT or odd.any() else found.view("f4")


def unpacked(counts: npt.NDArray[np.uint16], packing: Packing) -> Floats:
    """Values of counts, NaN where there is none."""
    return np.where(counts != NO_COUNT, to_radiance(counts, packing.scale, packing.offset), np.float32("nan"))


def packing_of(values: Floats) -> Packing | None:
    """Find a packing that gives some values, all of them, back.

    Parameters
    ----------
    values
        What is to be packed: each value once or oftener, NaN where there is none.

    Returns
    -------
    Packing or None
        None where the values are on no lattice, or fewer than three, or no packing near the lattice gives them.
    """
    known = np.unique(values[np.isfinite(values)])
    places = _on_lattice(known.astype("f8"), float(np.spacing(np.abs(known).max(initial=0))))
    if places is None:
        return None
    steps, scale = places
    least = int(np.abs(known).argmin())  # whose rounding is the finest
    first = np.arange(max(1, min(_DEEPEST, NO_COUNT - int(steps[-1]))), dtype="i8")
    few = np.unique(np.linspace(0, len(known) - 1, 12).astype(int))[::-1]
    for near in _neighbours(np.float32(scale)):
        offsets = known[least] - (first + steps[least]).astype("f4") * near
        unit = np.maximum(np.spacing(np.abs(offsets)), np.spacing(np.abs(known[least])) / _PARTS)
        for shift in sorted(range(-_PARTS, _PARTS + 1), key=abs):
            shifted, alive = offsets + np.float32(shift) * unit, first
            for i in few:  # most are ruled out by the first of them
                alive = alive[to_radiance(alive + steps[i], near, shifted[alive]) == known[i]]
            for at in alive.tolist():
                if (to_radiance(at + steps, near, shifted[at]) == known).all():
                    return Packing(float(near), float(shifted[at]))
    return None


def _neighbours(number: np.float32) -> list[np.float32]:
    """A number and those beside it in float32, the nearest first."""
    found, below, above = [number], number, number
    for _ in range(_NEAR):
        below, above = np.nextafter(below, np.float32(-np.inf)), np.nextafter(above, np.float32(np.inf))
        found += [below, above]
    return found


def _on_lattice(known: npt.NDArray[np.float64], rounding: float) -> tuple[npt.NDArray[np.int64], float] | None:
    """How many steps each value lies above the first, and the step; None where they are on no lattice.

    The step is told by the nearest two values, roughly, then by ever farther ones.
    """
    if len(known) < 3:
        return None
    above = known - known[0]
    step = float(np.diff(known).min())
    if step < 16 * rounding:
        return None
    reach = step / rounding / 8 * step  # so far the steps are counted rightly
    while True:
        there = above[above <= max(reach, float(above[1]))]
        step = float(there[-1] / np.rint(there[-1] / step))
        if reach >= above[-1]:
            break
        reach *= 8
    steps = np.rint(above / step)
    off = np.abs(above - steps * step).max()
    return (steps.astype("i8"), step) if off < 4 * rounding and steps[-1] < NO_COUNT else None
