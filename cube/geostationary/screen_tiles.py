"""Faults in the very pixels that a tile is cut from, which may be too few to be met on a lattice of chunks.

Thresholds are set by all windows of 64 to 512 pixels of the real files: none of their rows repeats another, is
saturated or contradicts its flags, and what else they reach is told with each number. All of it costs a few hundredths
of cutting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.geostationary.dialect import dialect_of, imager_of
from cube.geostationary.file_index import FileIndex
from cube.geostationary.grid import FixedGrid, Window
from cube.geostationary.screen_rows import SCATTER, contradictory, is_dense, repeated, saturated
from cube.geostationary.screen_seams import bands, seams

__all__ = ["fault_in"]

_ROWS = 2
"""Rows with a fault at least, of a strip of 128 or fewer."""
_FILL = 0.02
"""Share of pixels on the Earth without a count above which a window has lost some: as of the rows of a whole file."""
_NARROW = 64
"""Pixels of a row below which nothing is said of noise and stripes: rows of broken cloud look like either."""
_COLUMNS = 32
"""Columns that are looked at first; most rows need no more."""
_RUN = 4
"""Rows over which noise is told together."""
_NOISE = ((256, 0.65), (128, 0.78), (_NARROW, 0.95))
"""By width, the mean square of the differences of neighbours by twice the variance, above which rows are noise: white
noise has 1, broken low cloud up to 0.47, 0.66 and 0.87."""
_PERHAPS = 0.55
"""The same, of few columns, above which all are looked at."""
_STRIPE = 0.038
"""Share of the range of counts by which a row may lie off both of its neighbours; GOES-17's worst stripes, and edges of
clouds, have 0.036."""
_TURNS, _TURN = 5, 0.014
"""Rows that lie off their neighbours by turns, up and down, and the share of the range of counts by which each does: no
edge of a cloud does that, and the worst real file (GOES-16's of 2017, provisional) has 0.011 of five rows."""
_APART = 4
"""Every so many pixels are asked for whether they see the Earth, which takes long."""
_LIMB = 1.01
"""By how much scan angles are widened before a pixel is said to see the Earth: files differ from it at the limb."""

Pixels = npt.NDArray[Any]


def fault_in(index: FileIndex, window: Window, counts: Pixels, flags: Pixels) -> str | None:
    """Say what is wrong with pixels of a file, if anything.

    Parameters
    ----------
    index
        Of the file.
    window
        Where they lie in its image: whole rows of what a tile is cut from.
    counts, flags
        They, of the window's shape.
    """
    source = index.source
    top = imager_of(source.platform).band(source.channel).fill
    flags = flags.astype("u1", copy=False)
    nothing = counts == index.rad.fill
    empty = nothing.sum(axis=1) if nothing.any() else np.zeros(len(counts), "i8")
    whole = counts if not empty.any() else counts[empty == 0]
    few = _Few.of(whole)
    names = dialect_of(source.platform).flags
    no_value = names.index("no_value") if "no_value" in names else None
    for number, told in (
        (repeated(counts, empty) if few.repeats or len(whole) < len(counts) else 0, "repeat the row before"),
        (saturated(counts, nothing, top) if few.reaches(top - 1) else 0, "are saturated"),
        (contradictory(nothing, empty, flags, no_value), "have counts that their quality flags deny, or none"),
        (_noise(whole, few, top), "are noise"),
        (_stripes(whole, few, top), "are stripes"),
    ):
        if number >= min(_ROWS, len(counts)):
            return f"{number} of {len(counts)} rows ({window}) {told}"
    dense = counts.shape[1] >= _NARROW and is_dense(empty == 0)
    if dense and (seams(few.first, top) or bands(whole.astype("f4"), top)):
        return f"rows have nothing to do with those before them ({window})"
    lost = _lost(index.grid, window, nothing) if empty.sum() > _FILL * counts.size else 0.0
    return f"{lost:.1%} of the pixels on the Earth ({window}) hold no count" if lost > _FILL else None


@dataclass(frozen=True)
class _Few:
    """Some columns and those beside them, by which most rows are known to be as they should."""

    first: Pixels
    second: Pixels

    @classmethod
    def of(cls, counts: Pixels) -> _Few:
        every = max(2, counts.shape[1] // _COLUMNS)
        second = counts[:, 1::every].astype("f4")
        return cls(counts[:, ::every][:, : second.shape[1]].astype("f4"), second)

    @property
    def repeats(self) -> bool:
        """Whether a row may be the one before."""
        return bool((self.first[1:] == self.first[:-1]).all(axis=1).any())

    def reaches(self, count: int) -> bool:
        """Whether a row may hold a count in half of its pixels."""
        return bool(self.first.size and max(self.first.max(), self.second.max()) >= count)


def _noise(counts: Pixels, few: _Few, top: int) -> int:
    """Rows of runs in which a pixel tells nothing of the next."""
    width = counts.shape[1]
    if width < _NARROW or len(counts) < _RUN or not _runs(few.first, few.second, top, _PERHAPS):
        return 0
    most = next(most for wide, most in _NOISE if width >= wide)
    return _runs(counts[:, :-1].astype("f4"), counts[:, 1:], top, most)


def _runs(first: Pixels, second: Pixels, top: int, most: float) -> int:
    """Rows of runs whose neighbours differ by more than a share of what they scatter by."""
    variance = np.convolve(first.var(axis=1), np.ones(_RUN) / _RUN, "valid")
    if variance.max() < (SCATTER * top) ** 2:
        return 0
    steps = np.convolve(np.square(second - first).mean(axis=1), np.ones(_RUN) / _RUN, "valid")
    bad = int(((variance >= (SCATTER * top) ** 2) & (steps > 2 * most * variance)).sum())
    return bad + _RUN - 1 if bad else 0


def _stripes(counts: Pixels, few: _Few, top: int) -> int:
    """Rows that lie off both of their neighbours, more than their pixels do among themselves."""
    if counts.shape[1] < _NARROW or len(counts) < 3:
        return 0
    mean = few.first.mean(axis=1)
    off = mean[1:-1] - (mean[:-2] + mean[2:]) / 2
    found = sum(abs(_off(counts, int(row))) > _STRIPE * top for row in np.flatnonzero(np.abs(off) > _STRIPE * top) + 1)
    # A few columns leave some of the scene in their mean: half is enough to look at the whole rows.
    by_turns = (_first_of_turns(off, _TURN * top / 2) + 1)[:, None] + np.arange(_TURNS)
    for rows in by_turns if not found else ():
        if len(_first_of_turns(np.array([_off(counts, int(row)) for row in rows]), _TURN * top)):
            return _TURNS
    return found


def _off(counts: Pixels, row: int) -> float:
    """How far a row lies off both of its neighbours; 0 where its pixels scatter by more about that."""
    apart = counts[row].astype("f4") - (counts[row - 1].astype("f4") + counts[row + 1]) / 2
    off = float(apart.mean())
    return off if abs(off) > apart.std() else 0.0


def _first_of_turns(off: Pixels, least: float) -> npt.NDArray[np.intp]:
    """Where runs of numbers begin that are large, and of one sign and the other by turns."""
    sign = np.where(np.abs(off) > least, np.sign(off), 0) * (-1.0) ** np.arange(len(off))
    if len(off) < _TURNS:
        return np.zeros(0, np.intp)
    return np.flatnonzero(np.abs(np.convolve(sign, np.ones(_TURNS), "valid")) == _TURNS)


def _lost(grid: FixedGrid, window: Window, nothing: Pixels) -> float:
    """Share of the pixels that see the Earth by far that hold no count."""
    y = grid.y0 + (window.row + np.arange(0, window.height, _APART)) * grid.dy
    x = grid.x0 + (window.col + np.arange(0, window.width, _APART)) * grid.dx
    lon, _ = grid.projection.to_lonlat(x[None, :] * _LIMB, y[:, None] * _LIMB)
    seen = np.isfinite(lon)
    return float((nothing[::_APART, ::_APART] & seen).sum() / seen.sum()) if seen.any() else 0.0
