"""Scenes as a build reads them, lazily: the same masks, the same one resample, the same bits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import dask.array
import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import xarray as xr
from dask.delayed import delayed
from odc.geo.geobox import GeoBox

from catalog.sentinel2.items import Product
from cube.sentinel2.blocks import Decoded
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.pieces import Piece, ProductError, mask_pieces, open_piece, open_sources, piece_values
from cube.sentinel2.resample import Method
from cube.sentinel2.scenes import GDAL_OPTIONS
from cube.sentinel2.source import MaskRule, ProductSource
from stratacube.errors import SourceError, UsageError

__all__ = ["lattice_of", "view"]

_ORIGINS = ((0.0, 0.0), (-180.0, 90.0))
"""Where lattices of builds are counted from: a grid that lies on one gets the build's bits."""

_PIXEL = np.float32(1e-4)


def lattice_of(grid: GeoBox) -> tuple[Lattice, Window]:
    """Return the lattice that a grid is a window of.

    Raises
    ------
    UsageError
        If its rows do not run from north to south.
    """
    a, b, c, d, e, f = tuple(grid.transform)[:6]
    if b or d or a <= 0 or e >= 0:
        raise UsageError("`geobox` is turned or has its south up; give one whose rows run from north to south")
    code = pyproj.CRS(str(grid.crs)).to_authority()
    crs = ":".join(code) if code else str(grid.crs)
    for x0, y0 in _ORIGINS:
        col, row = (c - x0) / a, (y0 - f) / -e
        if math.isclose(col, round(col), abs_tol=1e-6) and math.isclose(row, round(row), abs_tol=1e-6):
            return Lattice(crs, a, -e, x0, y0), Window(round(row), round(col), *grid.shape)
    return Lattice(crs, a, -e, c, f), Window(0, 0, *grid.shape)


def view(
    products: Sequence[Product],
    keys: Mapping[str, str],
    grid: GeoBox,
    resampling: Method,
    masked: Sequence[int],
    chunks: int,
) -> xr.Dataset:
    """View what a datatake saw of a tile.

    Parameters
    ----------
    products
        The product, or the halves of a tile, best first.
    keys
        Asset key by band.
    grid
        Pixels wanted.
    resampling
        Kernel.
    masked
        Scene classes to mask.
    chunks
        Side of a chunk in pixels.

    Returns
    -------
    xarray.Dataset
        Reflectance, float32, dimensions (y, x), NaN where masked.
    """
    lattice, whole = lattice_of(grid)
    rule = MaskRule(masked)
    sizes: dict[str, dict[str, str]] = {}
    for band, key in keys.items():
        sizes.setdefault(key.rpartition("_")[2], {})[band] = key
    windows = [
        [
            Window(whole.row + down, whole.col + across, chunks, chunks).intersect(whole)
            for across in range(0, whole.width, chunks)
        ]
        for down in range(0, whole.height, chunks)
    ]
    layers: dict[str, Any] = {}
    arrays: Any = dask.array  # which has no types
    for same in sizes.values():  # bands of one pixel size share the masks
        first = next(iter(same.items()))
        pieces = {w: delayed(_masked)(products, first, lattice, w, resampling, rule) for row in windows for w in row}
        for pair in same.items():
            layers[pair[0]] = arrays.block(
                [
                    [
                        arrays.from_delayed(
                            delayed(_pixels)(products, pair, rule, resampling, w, pieces[w]), (w.height, w.width), "f4"
                        )
                        for w in row
                    ]
                    for row in windows
                ]
            )
    return xr.Dataset({band: (("y", "x"), layers[band]) for band in keys})


def _masked(
    products: Sequence[Product],
    band: tuple[str, str],
    lattice: Lattice,
    window: Window,
    method: Method,
    rule: MaskRule,
) -> Piece | None:
    """Return a chunk with what is valid of it; None where the products do not reach it."""
    with _opened(products, band, rule) as sources:
        piece = open_piece("", window, lattice, [sources[0].bands[band[0]].grid], method)
        if piece is not None:
            mask_pieces([piece], sources)
        return piece


def _pixels(
    products: Sequence[Product],
    band: tuple[str, str],
    rule: MaskRule,
    method: Method,
    window: Window,
    piece: Piece | None,
) -> npt.NDArray[np.float32]:
    """Return the reflectance of a band in a chunk."""
    if piece is not None:
        with _opened(products, band, rule) as sources:
            values = piece_values(piece, sources, [band[0]], method)
        if values is not None:
            reflectance: npt.NDArray[np.float32] = values[0] * _PIXEL
            return reflectance
    return np.full((window.height, window.width), np.nan, "f4")


@contextmanager
def _opened(products: Sequence[Product], band: tuple[str, str], rule: MaskRule) -> Iterator[list[ProductSource]]:
    """Open products for one band, wherever they lie."""
    try:
        with rasterio.Env(**GDAL_OPTIONS), ExitStack() as stack:
            yield open_sources(products, dict([band]), rule, Decoded(), stack, remote=True)
    except ProductError as error:  # of which a build drops the product
        raise SourceError(str(error)) from error
