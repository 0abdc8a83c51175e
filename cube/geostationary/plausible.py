"""Whether what a file says of itself can be true: by its name, by the bounds of its instrument, and within itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from cube.geostationary.grid import FixedGrid

if TYPE_CHECKING:
    import h5py

    from cube.instrument import Band, Instrument

__all__ = [
    "refuse_implausible",
    "refuse_off_grid",
    "refuse_other",
    "refuse_other_grid",
    "refuse_other_time",
    "refuse_unfit",
]

_ROUNDED = timedelta(seconds=1)
"""Names, texts and numbers of one file tell its times to a tenth of a second, rounded each in its way."""
_BEYOND = 0.03
"""Radians by which a sector that moves may reach beyond the full disk: the side of a mesoscale sector."""
_ROUNDED_CORNER = 5e-7
"""Radians by which a corner may lie off the fixed grid: files round theirs to a hundredth of this."""
_MOST_CHUNKS = 2**20
"""Of one image. Files have 9,216 at most; a table of this many takes 16 MB."""
_SHIFTED = 0.03
"""Share by which the wavelength that a file tells may differ from the nominal one, being rounded."""
_C1, _C2 = 1.191042972e7, 14387.76877
"""Constants of Planck's law: 2 h c2 in mW m-2 sr-1 um3 per (cm-1), and h c / k in K um (CODATA 2018, NIST)."""
_PLANCK = (("planck_fk1", _C1, 3, 0.05), ("planck_fk2", _C2, 1, 0.02))
"""Coefficient, constant, power of the wavelength, and how far a band's effective wavelength may take it."""
_ROUNDED_PLANCK = 2e-4
"""How far both coefficients, each rounded to six digits, may be from being of one wavelength."""


def refuse_other(facts: Iterable[tuple[str, object, object]]) -> None:
    """Refuse a file that is not what its name says.

    Parameters
    ----------
    facts
        What it is about, what the file tells (None where it truly tells nothing), and what the name says.

    Raises
    ------
    ValueError
        If two differ; the case of letters does not matter.
    """
    for what, told, named in facts:
        if told is not None and str(told).strip().upper() != str(named).upper():
            raise ValueError(f"its {what} is {str(told).strip()} where {named} is expected")


def refuse_other_time(what: str, told: datetime | np.datetime64, first: datetime, last: datetime) -> None:
    """Refuse a time that is not within the scan that a name tells, to a second.

    Raises
    ------
    ValueError
        If it is not.
    """
    time = np.asarray(told, "M8[ns]")
    left, right = (np.asarray(t, "M8[ns]") for t in (first - _ROUNDED, last + _ROUNDED))
    if not left <= time <= right:
        named = f"{first} to {last}" if last != first else str(first)
        raise ValueError(f"its {what} is {time.astype('M8[ms]')}, but its name says {named}")


def refuse_unfit(image: h5py.Dataset, imager: Instrument, band: Band) -> None:
    """Refuse an image that is not laid out as one of the band, before memory is taken for it.

    Raises
    ------
    ValueError
        If it has other than two dimensions, is larger than the full disk, is not chunked, or is chunked so finely that
        a table of its chunks would fill the memory.
    """
    most = imager.scan.resolution(band.pixel_urad).full_disk
    name, shape, chunks = str(image.name).strip("/"), image.shape, image.chunks
    if len(shape) != 2 or chunks is None:
        raise ValueError(f"{name} {shape} is not a chunked image")
    if not all(2 <= n <= most for n in shape) or max(chunks) > most:
        sides = " x ".join(map(str, shape))
        raise ValueError(f"{name} has {sides} pixels in chunks of {chunks}, the full disk {most} x {most}")
    number = math.prod(-(-n // side) for n, side in zip(shape, chunks, strict=True))
    if number > _MOST_CHUNKS:
        raise ValueError(f"{name} has {number} chunks of {chunks}; {_MOST_CHUNKS} are read at most")


def refuse_other_grid(grid: FixedGrid, imager: Instrument, band: Band) -> None:
    """Refuse a grid whose pixels are not the band's, or do not lie where the imager looks.

    Raises
    ------
    ValueError
        If it is such a one.
    """
    pixel = band.pixel_urad * 1e-6
    if not (abs(grid.dx / pixel - 1) < 1e-3 and abs(-grid.dy / pixel - 1) < 1e-3):
        sides = f"{grid.dx * 1e6:.4g} x {-grid.dy * 1e6:.4g}"
        raise ValueError(f"its pixels are {sides} microradians where those of {band.name} are {band.pixel_urad:g}")
    reach = imager.scan.resolution(band.pixel_urad).full_disk * pixel / 2 + _BEYOND
    edges = (grid.left, grid.left + grid.width * grid.dx, grid.top, grid.top + grid.height * grid.dy)
    if not all(abs(edge) <= reach for edge in edges):
        told = ", ".join(f"{edge:.4g}" for edge in edges)
        raise ValueError(f"its edges lie at scan angles of {told} radians; the imager reaches to {reach:.3g}")


def refuse_off_grid(grid: FixedGrid, imager: Instrument) -> None:
    """Refuse a grid whose corner is not on the imager's fixed grid.

    Corners of all sectors of ABI lie on edges of its finest pixels, the middle of the disk being one; those of
    mesoscale sectors until 2019 in the middle of pixels of 1 km, which is such an edge too.

    Raises
    ------
    ValueError
        If it is elsewhere.
    """
    finest = min(r.pixel_urad for r in imager.scan.resolutions) * 1e-6
    for side, edge in (("western", grid.left), ("northern", grid.top)):
        if abs(edge - round(edge / finest) * finest) > _ROUNDED_CORNER:
            raise ValueError(
                f"its {side} edge lies at {edge * 1e6:.1f} microradians, which is not on the imager's fixed grid, "
                f"a whole number of {finest * 1e6:g}"
            )


def refuse_implausible(imager: Instrument, band: Band, numbers: Mapping[str, float | None]) -> None:
    """Refuse numbers out of the instrument's bounds, and coefficients of Planck's law that are another wavelength's.

    Parameters
    ----------
    imager
        Its bounds say what lies between what.
    band
        Of the file.
    numbers
        By the names of the bounds; None where the file truly tells none.

    Raises
    ------
    ValueError
        If one is out of bounds, or no number.
    """
    for bound in imager.bounds:
        value = numbers.get(bound.name)
        if value is not None and band.name in bound.bands and not bound.low <= value <= bound.high:
            raise ValueError(f"its {bound.name} is {value:g}, which is not between {bound.low:g} and {bound.high:g}")
    for name, constant, power, share in _PLANCK:
        value, wanted = numbers.get(name), constant / band.wavelength_um**power
        if value is not None and not math.isnan(value) and abs(value / wanted - 1) > share:
            raise ValueError(
                f"its {name} is {value:g}, but {band.name} at {band.wavelength_um:g} um has about {wanted:.5g}"
            )
    fk1, fk2 = (numbers.get(name) for name, *_ in _PLANCK)
    if fk1 is not None and fk2 is not None and abs(fk1 / (_C1 * (fk2 / _C2) ** 3) - 1) > _ROUNDED_PLANCK:
        raise ValueError(
            f"its planck_fk1 is {fk1:g}, but by its planck_fk2 of {fk2:g} it would be {_C1 * (fk2 / _C2) ** 3:.6g}"
        )
    wavelength = numbers.get("band_wavelength")
    if wavelength is not None and not abs(wavelength / band.wavelength_um - 1) <= _SHIFTED:
        raise ValueError(f"its band_wavelength is {wavelength:g} um, that of {band.name} is {band.wavelength_um:g}")
