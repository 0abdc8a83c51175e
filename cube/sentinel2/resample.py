"""One resample from a tile's own grid straight to the lattice, masked pixels carrying no weight.

Where a lattice pixel lies in the source is a smooth map: it is computed exactly at nodes every 16 pixels of the
lattice and interpolated between. Nodes belong to the lattice, not to a cell, so a pixel gets the same bits whatever
cell or piece it is computed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine
from scipy import sparse

from cube.sentinel2.lattice import Lattice, Window

__all__ = ["METHODS", "Method", "Resampler", "Resamplers", "SourceGrid", "SourceMap", "margin", "source_map"]

Method = Literal["nearest", "bilinear", "cubic", "average"]
METHODS: tuple[Method, ...] = ("nearest", "bilinear", "cubic", "average")

NODE = 16
"""Lattice pixels between nodes; in a UTM zone the interpolation is off by a thousandth of a 20 m pixel."""

_STRETCH = 1.1
"""A kernel widens where a lattice pixel is this many source pixels wide, so that none is skipped."""

_RADIUS = {"bilinear": 1.0, "cubic": 2.0}
_KERNELS: dict[Method, tuple[Method, ...]] = {
    "nearest": (),
    "bilinear": ("bilinear",),
    "cubic": ("cubic", "bilinear"),
    "average": ("average",),
}
"""Weights a method needs; cubic falls back to bilinear beside a mask."""

_F = npt.NDArray[np.float64]
_W = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SourceGrid:
    """Grid of a source raster."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    """Affine order a, b, c, d, e, f."""
    height: int
    width: int


@lru_cache(maxsize=32)
def _transformer(source: str, target: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


@dataclass(frozen=True)
class SourceMap:
    """Source positions at the nodes round a window, in source pixels; pixel i covers i to i + 1."""

    window: Window
    node_row: int
    node_col: int
    u: _F
    """Columns, shape (nodes down, nodes across)."""
    v: _F
    """Rows, same shape."""

    def source_window(self, grid: SourceGrid, margin: float) -> Window:
        """Return the source pixels under the window and a margin round it; empty where they miss each other."""
        if not (np.isfinite(self.u).all() and np.isfinite(self.v).all()):
            return Window(0, 0, 0, 0)
        # Between nodes the map is bilinear: it is largest and smallest at nodes and on the window's edges.
        rows, cols = _turns(self.window.row, self.window.end_row), _turns(self.window.col, self.window.end_col)
        u, v = self._at(rows, cols)
        low_u, low_v = (int(np.floor(a.min() - margin)) for a in (u, v))
        high_u, high_v = (int(np.ceil(a.max() + margin)) for a in (u, v))
        here = Window(low_v, low_u, high_v - low_v, high_u - low_u)
        return here.intersect(Window(0, 0, grid.height, grid.width))

    def stretch(self) -> tuple[float, float]:
        """Return source pixels per lattice pixel, the largest in the window, along columns and rows."""
        return tuple(float(_per_pixel(a).max()) for a in (self.u, self.v))  # type: ignore[return-value]

    def positions(self, first: int = 0, count: int | None = None) -> tuple[_F, _F, _F, _F]:
        """Return u, v and the kernel's stretch along each for some rows of the window, by default all.

        Shape (rows, width); that of a stretch is (1, 1) where it is 1 everywhere.
        """
        number = self.window.height - first if count is None else min(count, self.window.height - first)
        rows = np.arange(self.window.row + first, self.window.row + first + number)
        cols = np.arange(self.window.col, self.window.end_col)
        u, v = self._at(rows, cols)
        i, j = rows // NODE - self.node_row, cols // NODE - self.node_col
        su, sv = (m[i][:, j] if (m := _per_pixel(a)).max() > 1 else np.ones((1, 1)) for a in (self.u, self.v))
        return u, v, su, sv

    def _at(self, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]) -> tuple[_F, _F]:
        """Return u and v where some rows of the lattice meet some columns."""
        i, j = rows // NODE - self.node_row, cols // NODE - self.node_col
        s, t = ((rows % NODE) / NODE)[:, None], (cols % NODE) / NODE
        return _interpolate(self.u, i, j, s, t), _interpolate(self.v, i, j, s, t)


def _turns(start: int, stop: int) -> npt.NDArray[np.int64]:
    """The first, the last, and the nodes between."""
    return np.unique([start, *range(-(-start // NODE) * NODE, stop, NODE), stop - 1])


def _interpolate(nodes: _F, i: Any, j: Any, s: _F, t: _F) -> _F:
    across = nodes[i[0] : i[-1] + 2]
    across = across[:, j] * (1 - t) + across[:, j + 1] * t
    mixed: _F = across[i - i[0]] * (1 - s) + across[i - i[0] + 1] * s
    return mixed


def _per_pixel(nodes: _F) -> _F:
    """Source pixels per lattice pixel in each mesh of the nodes, 1 where no pixel would be skipped."""
    down, across = nodes[1:, :-1] - nodes[:-1, :-1], nodes[:-1, 1:] - nodes[:-1, :-1]
    ratio = np.hypot(down, across) / NODE
    return np.where(ratio < _STRETCH, 1.0, ratio)


@lru_cache(maxsize=512)
def source_map(lattice: Lattice, window: Window, grid: SourceGrid) -> SourceMap:
    """Map a window of the lattice into a source grid; kept, for all scenes of a tile have the same."""
    top, left = window.row // NODE, window.col // NODE
    rows = np.arange(top, (window.end_row - 1) // NODE + 2) * NODE
    cols = np.arange(left, (window.end_col - 1) // NODE + 2) * NODE
    x, y = np.meshgrid(lattice.x(cols), lattice.y(rows))
    if lattice.crs != grid.crs:
        x, y = _transformer(lattice.crs, grid.crs).transform(x, y)
    inverse = ~Affine(*grid.transform)
    u = inverse.a * x + inverse.b * y + inverse.c
    v = inverse.d * x + inverse.e * y + inverse.f
    return SourceMap(window, top, left, u, v)


class Resampler:
    """Weights of one window over one source window, applied to any number of bands.

    Parameters
    ----------
    mapped
        Where the window lies in the source grid.
    source
        The source pixels that will be given.
    method
        Kernel.
    """

    def __init__(self, mapped: SourceMap, source: Window, method: Method) -> None:
        self.shape, self.source, self.method = (mapped.window.height, mapped.window.width), source, method
        own, inside = np.empty(self.shape, np.intp), np.empty(self.shape, bool)
        matrices = [_Matrix(mapped, source, kernel) for kernel in _KERNELS[method]]
        for top in range(0, mapped.window.height, _STRIP):  # what is computed on the way stays in the cache
            u, v, su, sv = mapped.positions(top, _STRIP)
            col, row = (np.floor(a).astype("i4") - np.int32(b) for a, b in ((u, source.col), (v, source.row)))
            there = (col >= 0) & (row >= 0) & (col < source.width) & (row < source.height)
            inside[top : top + _STRIP] = there
            own[top : top + _STRIP] = np.where(there, row * np.int32(source.width) + col, 0)
            for matrix in matrices:
                matrix.fill(top * mapped.window.width, u.ravel(), v.ravel(), su.ravel(), sv.ravel())
        self.own, self.inside = own.ravel(), inside.ravel()
        """Source pixel that holds the centre of each lattice pixel, and whether it is among those given."""
        built = [matrix.built() for matrix in matrices]
        self.weights = built[0] if built else None
        self.fallback = built[1] if len(built) > 1 else None

    @property
    def nbytes(self) -> int:
        """Memory that it holds."""
        matrices = [m for m in (self.weights, self.fallback) if m is not None]
        return self.own.nbytes + self.inside.nbytes + sum(int(m.data.nbytes + m.indices.nbytes) for m in matrices)

    def prepare(self, valid: npt.NDArray[np.bool_]) -> Prepared:
        """Bind the weights to a mask of the source window, shape (height, width)."""
        flat = valid.ravel()
        return Prepared(self, flat, self.inside & flat[self.own] if flat.size else np.zeros(self.own.shape, bool))


class Prepared:
    """Weights bound to one mask, shared by the bands that have it."""

    def __init__(self, weights: Resampler, valid: npt.NDArray[np.bool_], own: npt.NDArray[np.bool_]) -> None:
        self.weights, self.valid = weights, valid
        self.whole = bool(valid.all())
        self.known = own
        """Lattice pixels that get a value."""
        if weights.weights is None:
            return
        given = valid.astype("f4")
        self.sums = weights.weights @ given
        if weights.method == "average":
            # A pixel stands for its area: it is known where half of that was seen.
            self.known = self.sums >= 0.5
        if weights.fallback is not None:
            # all that the kernel reaches is valid and within the raster
            size = abs(weights.weights)
            self.complete = (size @ (1 - given) == 0) & (size @ np.ones_like(given) > 1 - 1e-6)
            self.sums = np.where(self.complete, self.sums, weights.fallback @ given)
        self.known = self.known & (self.sums > 0)
        self.sums[~self.known] = np.nan

    def apply(self, values: npt.NDArray[np.float32], out: npt.NDArray[np.float32] | None = None) -> _W:
        """Resample one band.

        Parameters
        ----------
        values
            Source window, shape (height, width); masked pixels may hold anything.
        out
            Where to put the result; a new array by default.

        Returns
        -------
        numpy.ndarray
            float32, the lattice window's shape, NaN where nothing is known.
        """
        flat, weights = values.ravel(), self.weights
        out = np.empty(weights.shape, "f4") if out is None else out
        target = out.reshape(-1)
        if weights.weights is None:
            np.take(flat, weights.own, out=target, mode="clip")  # that mode needs no buffer
            np.copyto(target, np.float32(np.nan), where=~self.known)
            return out
        if not self.whole:
            flat = np.where(self.valid, flat, np.float32(0))
        result = weights.weights @ flat
        if weights.fallback is not None:
            result = np.where(self.complete, result, weights.fallback @ flat)
        np.divide(result, self.sums, out=target)
        return out


class _Matrix:
    """Kernel weights in the making: one row a lattice pixel, one column a source pixel of the source window."""

    def __init__(self, mapped: SourceMap, source: Window, method: Method) -> None:
        self.source, self.method = source, method
        self.across, self.down = (_reach(stretch, method) for stretch in mapped.stretch())
        shape = mapped.window.height * mapped.window.width, self.across * self.down
        self.indices, self.data = np.empty(shape, "i4"), np.empty(shape, "f4")

    def fill(self, first: int, u: _F, v: _F, su: _F, sv: _F) -> None:
        """Set the rows of some lattice pixels."""
        rows = slice(first, first + u.size)
        x, wx = _taps(u, su, self.across, self.source.col, self.source.width, self.method)
        y, wy = _taps(v, sv, self.down, self.source.row, self.source.height, self.method)
        for i in range(self.down):
            start = y[i] * np.int32(self.source.width)
            for j in range(self.across):
                np.add(start, x[j], out=self.indices[rows, i * self.across + j])
                np.multiply(wy[i], wx[j], out=self.data[rows, i * self.across + j])

    def built(self) -> sparse.csr_array:
        """Return the matrix."""
        count, taps = self.data.shape
        indptr = np.arange(0, count * taps + 1, taps, dtype="i4" if count * taps < 2**31 else "i8")
        shape = count, self.source.height * self.source.width
        return sparse.csr_array((self.data.ravel(), self.indices.ravel(), indptr), shape=shape)


class Resamplers:
    """Weights that were made already: all scenes of a tile have the same, cell by cell.

    What does not fit any more is not kept, rather than in place of what is: cells come in turn, scene after scene, and
    what was used last is what is needed last.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[SourceGrid, Window, Window, Method], tuple[SourceMap, Resampler]] = {}
        self._tile: tuple[str, float, float] | None = None
        self._held = 0

    def get(self, mapped: SourceMap, grid: SourceGrid, source: Window, method: Method) -> Resampler:
        """Return the weights of a window over a source window of a grid."""
        tile = grid.crs, grid.transform[2], grid.transform[5]
        if tile != self._tile:
            self.clear()
            self._tile = tile
        key = grid, mapped.window, source, method
        before = self._kept.get(key)
        if before is not None and before[0] is mapped:  # of the same lattice
            return before[1]
        made = Resampler(mapped, source, method)
        if before is None and self._held + made.nbytes <= _KEPT_BYTES:
            self._kept[key] = mapped, made
            self._held += made.nbytes
        return made

    def clear(self) -> None:
        """Let go of all."""
        self._kept.clear()
        self._held = 0


_KEPT_BYTES = 24_000_000
"""Of weights that a worker keeps: a square of a cell, bilinear, or four of cells that are taken nearest."""

_STRIP = 32
"""Rows of a window whose weights are computed at once."""


def _reach(stretch: float, method: Method) -> int:
    """Source pixels along one axis that the widest kernel of a window covers."""
    return int(np.ceil(stretch)) + 1 if method == "average" else int(np.ceil(2 * _RADIUS[method] * stretch))


def _taps(
    position: _F, stretch: _F, taps: int, offset: int, size: int, method: Method
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Source pixels along one axis and their weights, shape (taps, pixels); those outside weigh nothing."""
    number = np.arange(taps, dtype="i4")[:, None]
    if method == "average":
        low, high = position - stretch / 2, position + stretch / 2
        first = np.floor(low)
        pixels = first + number
        weight = (np.maximum(np.minimum(pixels + 1, high) - np.maximum(pixels, low), 0) / stretch).astype("f4")
    else:
        first = np.ceil(position - (_RADIUS[method] * stretch + 0.5))
        distance = np.abs((first + 0.5 - position).astype("f4") + number.astype("f4"))
        wide = stretch > 1
        if wide.any():
            distance /= stretch.astype("f4")
        weight = _bilinear(distance) if method == "bilinear" else _cubic(distance)
        if wide.any():
            weight /= np.where(wide, weight.sum(axis=0), np.float32(1))
    index = first.astype("i4") - np.int32(offset) + number
    if index[0].min() < 0 or index[-1].max() >= size:
        weight[(index < 0) | (index >= size)] = 0
        index = np.clip(index, 0, max(0, size - 1))
    return index, weight


def _bilinear(distance: _W) -> _W:
    return np.maximum(np.float32(0), 1 - distance)


def _cubic(distance: _W) -> _W:
    """Catmull-Rom spline (Keys 1981, a = -0.5), as GDAL's cubic."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, np.float32(0)))


def margin(method: Method, stretch: float) -> float:
    """Source pixels that a kernel reaches beyond a lattice pixel's centre."""
    return {"nearest": 1.0, "average": stretch / 2 + 1}.get(method, _RADIUS.get(method, 1.0) * stretch + 1)
