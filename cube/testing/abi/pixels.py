"""From the coarse sky of a scan to counts and quality flags of one channel, stripe by stripe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cube.testing.abi.file import Stripe
from cube.testing.abi.geometry import Grid, earth_edge
from cube.testing.abi.sky import Image, Sky, emitted, fractal_tile, reflected
from cube.testing.abi.spec import FileSpec, is_reflective

__all__ = ["radiance_of", "render"]

_FINE = 14e-6
_FINE_SIZE = 2048
"""Texture tile: cells of the finest (500 m) pixel, so that the textures of all resolutions agree."""
_DRIFT = (-7.0, 0.5)
"""Of the texture, m/s to east and north: that of the tropical systems."""
_NOISE = {2: 5.0, 7: 10.0, 8: 6.0, 10: 5.0, 11: 4.0, 13: 4.5, 14: 4.5, 15: 5.0}
"""Standard deviation of instrument noise in counts; 2.5 in other channels."""
_ODD_SHARE = 2e-5
"""Share of pixels that are conditionally usable (1), out of range (2) or without value (3), in all."""


def render(
    radiance: tuple[Image, Image],
    coarse: Grid,
    spec: FileSpec,
    *,
    seed: int,
    time: datetime,
    noise: float,
    rows: int,
) -> Iterator[Stripe]:
    """Yield the pixels of one file from north to south.

    Parameters
    ----------
    radiance : (ndarray, ndarray)
        Of `radiance_of`, on the coarse grid.
    coarse : Grid
        Same north-west corner as the file's; its pixels are a whole number of the file's and it covers them all.
    spec : FileSpec
        The file.
    seed : int
        Of the synthetic world.
    time : datetime
        Of the scan (all channels), naive UTC: where the texture has drifted to.
    noise : float
        Instrument noise: 1 for that of real files, 0 for none.
    rows : int
        Rows of a stripe.

    Yields
    ------
    counts : ndarray of uint16
        Fill off the Earth and where DQF is 3.
    dqf : ndarray of int8
        -1 off the Earth, as in real files.
    """
    numbers, grid = spec.coefficients, spec.grid
    signal, roughness = radiance
    signal = (signal - np.float32(numbers.offset)) / np.float32(numbers.scale)
    roughness = roughness / np.float32(numbers.scale)
    factor = round(coarse.dx / grid.dx)
    rng = np.random.default_rng([seed, spec.channel, int((spec.start - datetime(2000, 1, 1)) / timedelta(seconds=0.1))])
    texture = _Texture(seed, grid, time)
    grain_at = rng.integers(0, _FINE_SIZE, 2)
    sigma = np.float32(noise * _NOISE.get(spec.channel, 2.5))
    odd = np.sort(rng.integers(0, grid.height * grid.width, rng.poisson(_ODD_SHARE * grid.height * grid.width)))
    edge = earth_edge(grid.y)
    for top in range(0, grid.height, rows):
        bottom = min(top + rows, grid.height)
        values = _upsampled(signal, factor, top, bottom, grid.width)
        values += _upsampled(roughness, factor, top, bottom, grid.width) * texture.rows(top, bottom)
        values += sigma * _wrapped(_grain(), int(grain_at[0]) + top, int(grain_at[1]), values.shape)
        np.rint(values, out=values)
        dqf = np.where(values > spec.max_count, np.int8(2), np.int8(0))
        counts = np.clip(values, 0, spec.max_count, out=values).astype("u2")
        strange = odd[np.searchsorted(odd, top * grid.width) : np.searchsorted(odd, bottom * grid.width)]
        dqf.flat[strange - top * grid.width] = 1 + strange % 3
        off = np.abs(grid.x)[None, :] > edge[top:bottom, None]
        dqf[off] = -1
        counts[off | (dqf == 3)] = spec.fill
        yield counts, dqf


def radiance_of(sky: Sky, spec: FileSpec) -> tuple[Image, Image]:
    """Radiance of a file's channel, and the standard deviation of its detail within a coarse pixel."""
    if is_reflective(spec.channel):
        radiance = reflected(sky, spec.channel, spec.kappa0)
        detail = np.float32(0.0005) + np.float32(0.015) * np.maximum(sky.low, sky.ice_brightness)
        return radiance, radiance * detail
    radiance = emitted(sky, spec.channel, spec.coefficients)
    cloud = np.maximum(sky.low, sky.ice)
    return radiance, radiance * (
        np.float32(0.0003) + np.float32(0.002 if spec.channel in (8, 9, 10) else 0.006) * cloud
    )


class _Texture:
    """Drifting fractal detail at a file's own resolution."""

    def __init__(self, seed: int, grid: Grid, time: datetime) -> None:
        cells = max(1, round(grid.dx / _FINE))
        self._tile, self._width = _averaged_texture(seed, cells), grid.width
        hours = (time - datetime(2000, 1, 1)) / timedelta(hours=1)
        # Whole 2 km pixels, so that the drift is the same at all resolutions.
        east, north = (4 * round(speed * 3.6 * hours / 2.0) for speed in _DRIFT)
        self._row = round((0.151872 - grid.top) / grid.dx) + north // cells
        self._col = round((grid.left + 0.151872) / grid.dx) - east // cells

    def rows(self, top: int, bottom: int) -> Image:
        return _wrapped(self._tile, self._row + top, self._col, (bottom - top, self._width))


@lru_cache(maxsize=4)
def _averaged_texture(seed: int, cells: int) -> Image:
    """Texture at pixels of so many fine cells a side."""
    size = _FINE_SIZE // cells
    tile = fractal_tile(seed, _FINE_SIZE, 2.0).reshape(size, cells, size, cells)
    return np.asarray(tile.mean((1, 3)), "f4")


@lru_cache(maxsize=1)
def _grain() -> Image:
    """White noise; each file sees it from another corner."""
    return np.random.default_rng(0).standard_normal((_FINE_SIZE, _FINE_SIZE), dtype="f4")


def _wrapped(tile: Image, row: int, col: int, shape: tuple[int, ...]) -> Image:
    """Cut a window out of the plane that a periodic tile covers."""
    size = tile.shape[0]
    rows = np.take(tile, np.arange(row, row + shape[0]) % size, axis=0)
    rows = np.roll(rows, -(col % size), axis=1)
    return np.tile(rows, (1, -(-shape[1] // size)))[:, : shape[1]]


def _upsampled(coarse: Image, factor: int, top: int, bottom: int, width: int) -> Image:
    """Rows ``top:bottom`` of a bilinear interpolation to pixels ``factor`` times finer."""
    if factor == 1:
        return coarse[top:bottom, :width].copy()
    i, i2, a = _neighbours(np.arange(top, bottom), factor, coarse.shape[0])
    j, j2, b = _neighbours(np.arange(width), factor, coarse.shape[1])
    across = coarse[i] + a[:, None] * (coarse[i2] - coarse[i])
    left = np.take(across, j, axis=1)
    return np.asarray(left + b * (np.take(across, j2, axis=1) - left), "f4")


def _neighbours(
    fine: npt.NDArray[np.int64], factor: int, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Image]:
    """Lower and upper coarse pixel of fine ones, and the weight of the upper; clamped at the edges."""
    position = np.clip((fine + 0.5) / factor - 0.5, 0, size - 1)
    lower = np.floor(position).astype("i8")
    return lower, np.minimum(lower + 1, size - 1), (position - lower).astype("f4")
