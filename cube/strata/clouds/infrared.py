"""Brightness temperatures under tiles of one scan: each chunk that any of them needs is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import Scan
from cube.decode import apply_law, to_radiance
from cube.geostationary.dialect import imager_of
from cube.geostationary.grid import FixedGrid, Window
from cube.geostationary.index import index_file
from cube.geostationary.read import ReadCount, stream_images
from cube.instrument import BRIGHTNESS, Band, Instrument
from stratacube.errors import SourceError, UsageError

Floats = npt.NDArray[np.float64]

__all__ = ["Infrared", "window_bands"]

_MICROMETRES = {"window": 10.35, "ice": 8.5, "surface": 11.2}
_AS_NEAR = 0.5
_GOOD = (0, 1)
"""Flags whose pixels are taken."""


class Infrared(NamedTuple):
    """What is seen under one tile, K; NaN where not valid."""

    window: Floats
    """At 10.35 micrometres."""
    difference: Floats | None
    """At 8.5 less 11.2 micrometres; None where either is missing."""


def window_bands(instrument: Instrument) -> dict[str, Band]:
    """Bands of an imager nearest to 10.35, 8.5 and 11.2 micrometres.

    Raises
    ------
    UsageError
        If it has none at 10.35.
    """
    found = {}
    for name, wanted in _MICROMETRES.items():
        hot = [b for b in instrument.bands if instrument.standard(BRIGHTNESS, b.name) is not None]
        best = min(hot, key=lambda band: abs(band.wavelength_um - wanted), default=None)
        if best is not None and abs(best.wavelength_um - wanted) <= _AS_NEAR:
            found[name] = best
    if "window" not in found:
        raise UsageError(f"{instrument.title} has no band at 10.35 micrometres, which features of clouds are told by")
    return found


def under(scan: Scan, tiles: Sequence[FixedGrid], endpoint_url: str | None = None) -> list[Infrared]:
    """Read what is seen under tiles of one scan.

    Parameters
    ----------
    scan : Scan
        The scan.
    tiles : sequence of FixedGrid
        Their pixels, of any size.
    endpoint_url : str, optional
        S3 endpoint, for files on S3.

    Returns
    -------
    list of Infrared
        By tile.

    Raises
    ------
    SourceError
        If the scan has no file of the window band, or one cannot be read.
    """
    instrument = imager_of(scan.platform)
    bands = window_bands(instrument)
    if bands["window"].number not in scan.files:
        raise SourceError(f"scan {scan.id} has no file of {bands['window'].name}")
    seen = {
        name: _temperatures(scan, instrument, band, tiles, endpoint_url)
        for name, band in bands.items()
        if band.number in scan.files
    }
    differ = "ice" in seen and "surface" in seen
    return [
        Infrared(window, seen["ice"][i] - seen["surface"][i] if differ else None)
        for i, window in enumerate(seen["window"])
    ]


def _temperatures(
    scan: Scan, instrument: Instrument, band: Band, tiles: Sequence[FixedGrid], endpoint_url: str | None
) -> list[Floats]:
    index = index_file(scan.files[band.number], endpoint_url=endpoint_url)
    windows = [_window(index.grid, tile) for tile in tiles]
    order = sorted(range(len(windows)), key=lambda i: windows[i].row + windows[i].height)
    quantity = instrument.standard(BRIGHTNESS, band.name)
    law = "identity" if quantity is None else quantity.law
    scale, offset = np.float32(index.scale), np.float32(index.offset)
    coefficients = {name: np.float32(value) for name, value in index.coefficients.items()}
    found: dict[int, Floats] = {}
    images = stream_images(index, [windows[i] for i in order], ReadCount(), endpoint_url)
    for i, (counts, quality) in zip(order, images, strict=True):
        values = apply_law(law, to_radiance(counts, scale, offset), coefficients)
        good = np.isin(quality, _GOOD) & (counts != index.rad.fill)
        found[i] = np.where(good, values, np.nan).astype("f8")
    return [found[i] for i in range(len(tiles))]


def _window(grid: FixedGrid, tile: FixedGrid) -> Window:
    """Pixels of a file under a tile, which lies inside of it."""
    size = max(1, round(tile.width * tile.dx / grid.dx))
    row, col = round((grid.top - tile.top) / grid.dx), round((tile.left - grid.left) / grid.dx)
    return Window(min(max(row, 0), grid.height - size), min(max(col, 0), grid.width - size), size, size)
