"""Synthetic GK-2A AMI L1B files in the layout of the real ones: one HDF5 chunk an image, everything else attributes.

Coefficients of vi004, vi008, nr013, sw038, wv063, wv073, ir105 and ir123 are those of a real scan of August 2023; those
of the other bands are made up to lie between them. The sky is waves and noise: it is no weather.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from stratacube.errors import UsageError
from stratacube.files import whole_file

__all__ = ["write_ami_file", "write_ami_scan"]

Counts = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class _Band:
    """What a band's files say of it."""

    km: float
    wavelength: str
    bits: int
    gain: float
    offset: float
    numbers: tuple[float, ...]
    """``Radiance_to_Albedo_c``, or the three of ``Teff_to_Tbb``."""
    range: tuple[float, float]
    """Counts of the sky, as shares of the largest."""


_DAY, _NIGHT = (0.02, 0.8), (0.45, 0.95)
_BANDS = {
    "vi004": _Band(1, "0.47", 11, 0.363545805215835, -7.27090454101562, (0.00155824,), _DAY),
    "vi005": _Band(1, "0.51", 12, 0.343625, -6.8725, (0.00165957,), _DAY),
    "vi006": _Band(0.5, "0.64", 12, 0.154856, -6.19424, (0.00192448,), _DAY),
    "vi008": _Band(1, "0.86", 13, 0.045724172145128, -3.65792846679687, (0.00327239,), _DAY),
    "nr013": _Band(2, "1.3", 12, 0.03468780964613, -1.38751220703125, (0.00870813,), _DAY),
    "nr016": _Band(2, "1.6", 12, 0.0498008, -0.996017, (0.0131276,), _DAY),
    "sw038": _Band(
        2, "3.8", 14, -0.00108296517282724, 17.699987411499, (-0.44784394, 1.00065568, -6.3382409e-08), (0.95, 0.99)
    ),
    "wv063": _Band(
        2, "6.3", 12, -0.0108914673328399, 44.1777038574218, (-1.76279494, 1.00414911, -9.83310914e-07), (0.9, 0.98)
    ),
    "wv069": _Band(2, "6.9", 13, -0.0081878, 66.748, (-0.334311, 1.00097, -4.9e-07), (0.8, 0.97)),
    "wv073": _Band(
        2, "7.3", 13, -0.0096982717514038, 79.0608520507812, (-0.06131249, 1.00019009, -1.05863657e-07), (0.75, 0.97)
    ),
    "ir087": _Band(2, "8.7", 13, -0.0144807, 118.0509, (-0.141418, 1.000531, -3.6e-07), _NIGHT),
    "ir096": _Band(2, "9.6", 13, -0.0178435, 145.4649, (-0.114018, 1.000387, -2.4e-07), _NIGHT),
    "ir105": _Band(
        2, "10.5", 13, -0.0198196955025196, 161.580139160156, (-0.14286645, 1.0006407, -5.50443295e-07), _NIGHT
    ),
    "ir112": _Band(2, "11.2", 13, -0.0216745, 176.7134, (-0.249111, 1.001211, -1.1e-06), _NIGHT),
    "ir123": _Band(
        2, "12.3", 13, -0.023379972204566, 190.649627685546, (-0.45811389, 1.00245521, -2.53064315e-06), _NIGHT
    ),
    "ir133": _Band(2, "13.3", 13, -0.0243038, 198.2244, (-0.0863, 1.000485, -6e-07), _NIGHT),
}
_DISK = 5500
"""Pixels of 2 km along the full disk."""
_AREAS = {"FD": (_DISK, _DISK), "ELA": (300, 500), "LA": (500, 500)}
"""Rows and columns of 2 km; an extended local area is larger in truth."""
_TWO_KM = 56e-6
"""Radians."""
_CORNER = (0.036084, 0.086381)
"""North-west corner of a local area, radians."""
_LIMB = 0.1518
"""Scan angle at which the Earth ends, about."""
_EPOCH = datetime(2000, 1, 1, 12)
_STRIPE = 500


def write_ami_file(
    folder: str | Path,
    *,
    band: str,
    start: datetime,
    area: str = "LA",
    shape: tuple[int, int] | None = None,
    corner: tuple[float, float] | None = None,
    counts: Counts | None = None,
    flags: npt.NDArray[np.uint8] | None = None,
    changes: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """Write one file of a scan.

    Parameters
    ----------
    folder : str or Path
        Where it goes; made if need be.
    band : str
        ``vi004`` .. ``ir133``.
    start : datetime
        When the scan begins; the name has it to the minute.
    area : str
        ``FD``, ``ELA`` or ``LA``.
    shape : (int, int), optional
        Rows and columns in pixels of 2 km: the whole disk, else an area of 500 km or more by default.
    corner : (float, float), optional
        Scan angles x and y of the north-west corner, radians.
    counts : ndarray of uint16, optional
        In the band's own pixels; a sky of waves by default.
    flags : ndarray of uint8, optional
        Quality of each pixel, 0 to 3, which goes into the two highest bits.
    changes : dict, optional
        Attributes of the file that are to be others; None leaves one out.
    seed : int
        Of the sky.

    Returns
    -------
    Path
        The file.
    """
    if band not in _BANDS or area not in _AREAS:
        raise UsageError(
            f"band {band!r} of area {area!r} cannot be written; give one of {', '.join(_BANDS)} and FD, ELA or LA"
        )
    facts = _BANDS[band]
    per_two_km = round(2 / facts.km)
    rows, cols = (n * per_two_km for n in shape or _AREAS[area])
    pixel = _TWO_KM / per_two_km
    left, top = corner or ((-cols * pixel / 2, rows * pixel / 2) if area == "FD" else _CORNER)
    path = Path(folder) / f"gk2a_ami_le1b_{band}_{area.lower()}{round(10 * facts.km):03d}ge_{start:%Y%m%d%H%M}.nc"
    path.parent.mkdir(parents=True, exist_ok=True)
    own = list(_BANDS).index(band)  # no two bands show the same pixels
    stripes = _stripes(facts, (rows, cols), (left, top), pixel, counts, flags, (seed, own))
    compressor, packed, bad = zlib.compressobj(1), bytearray(), 0
    for stripe in stripes:
        packed += compressor.compress(stripe.tobytes())
        bad += int(np.count_nonzero(stripe >> 14 == 3))
    packed += compressor.flush()
    attributes = _attributes(path.name, band, start, area, (rows, cols), (left, top), pixel) | (changes or {})
    with whole_file(path) as part, h5py.File(part, "w", libver=("v108", "v108")) as file:
        image = file.create_dataset(
            "image_pixel_values", (rows, cols), "<u2", chunks=(rows, cols), compression="gzip", compression_opts=1
        )
        image.id.write_direct_chunk((0, 0), bytes(packed))
        _put(file, {name: value for name, value in attributes.items() if value is not None})
        _put(image, _image_attributes(band, rows * cols, bad, pixel))
        file["dim_image_y"], file["dim_image_x"] = np.zeros(rows, ">f4"), np.zeros(cols, ">f4")
        for axis, name in enumerate(("dim_image_y", "dim_image_x")):
            file[name].make_scale(f"This is a netCDF dimension but not a netCDF variable.{file[name].size:>10}")
            image.dims[axis].attach_scale(file[name])
        file["sc_position"] = np.zeros(1, "u1")
        _put(file["sc_position"], {"sc_position_center_pixel": np.array([-2.6e7, 3.3e7, 0.0])})
    return path


def write_ami_scan(
    folder: str | Path, bands: Sequence[str], start: datetime, area: str = "LA", **options: Any
) -> list[Path]:
    """Write the files of one scan; options are those of :func:`write_ami_file`."""
    return [write_ami_file(folder, band=band, start=start, area=area, **options) for band in bands]


def _stripes(
    facts: _Band,
    shape: tuple[int, int],
    corner: tuple[float, float],
    pixel: float,
    counts: Counts | None,
    flags: npt.NDArray[np.uint8] | None,
    seed: tuple[int, int],
) -> Iterator[Counts]:
    """Values from north to south: counts in the low bits, flags in the two highest."""
    x = corner[0] + (np.arange(shape[1]) + 0.5) * pixel
    low, high = (share * (2**facts.bits - 1) for share in facts.range)
    for first in range(0, shape[0], _STRIPE):
        rows = slice(first, min(first + _STRIPE, shape[0]))
        y = corner[1] - (np.arange(rows.start, rows.stop)[:, None] + 0.5) * pixel
        seen = np.hypot(x, y) < _LIMB
        if counts is None:
            waves = np.sin(900 * x + 300 * y + seed[0] + 0.1 * seed[1]) * np.cos(700 * y - 200 * x)
            noise = np.random.default_rng([*seed, first]).random(waves.shape, "f4")
            values = (low + (high - low) * (0.49 + 0.48 * waves + 0.02 * noise)).astype("u2")
            values[~seen] = 0
        else:
            values = counts[rows].astype("u2")
        quality = np.where(seen, 0, 2) if flags is None else flags[rows]
        yield values | (quality.astype("u2") << 14)


def _attributes(
    name: str,
    band: str,
    start: datetime,
    area: str,
    shape: tuple[int, int],
    corner: tuple[float, float],
    pixel: float,
) -> dict[str, Any]:
    facts = _BANDS[band]
    lasts = timedelta(minutes=9, seconds=20) if area == "FD" else timedelta(seconds=61)
    begins = (start - _EPOCH) / timedelta(seconds=1)
    factor = 2**16 / math.degrees(pixel)
    if len(facts.numbers) == 1:
        calibration = {"Radiance_to_Albedo_c": facts.numbers[0]}
    else:
        calibration = {f"Teff_to_Tbb_c{i}": number for i, number in enumerate(facts.numbers)}
    return {
        "satellite_name": "GK-2A",
        "instrument_name": "AMI",
        "data_processing_center": "synthetic",
        "data_processing_mode": "synthetic",
        "channel_spatial_resolution": f"{facts.km:.1f}",
        "channel_center_wavelength": facts.wavelength,
        "scene_acquisition_time": f"{start:%Y%m%d_%H%M%S}",
        "file_name": name,
        "DN_to_Radiance_Gain": facts.gain,
        "DN_to_Radiance_Offset": facts.offset,
        **calibration,
        "light_speed": 299792458.0,
        "Plank_constant_h": 6.62606957e-34,
        "Boltzmann_constant_k": 1.3806488e-23,
        "number_of_columns": np.int32(shape[1]),
        "number_of_lines": np.int32(shape[0]),
        "observation_mode": area,
        "observation_start_time": begins,
        "observation_end_time": begins + lasts / timedelta(seconds=1),
        "projection_type": "GEOS",
        "sub_longitude": math.radians(128.2),
        "cfac": factor,
        "lfac": -factor,
        "coff": 0.5 - corner[0] / pixel,
        "loff": 0.5 + corner[1] / pixel,
        "nominal_satellite_height": 42164000.0,
        "earth_equatorial_radius": 6378137.0,
        "earth_polar_radius": 6356752.3,
        "image_upperleft_x": corner[0] + pixel / 2,
        "image_upperleft_y": corner[1] - pixel / 2,
        "image_lowerright_x": corner[0] + (shape[1] - 0.5) * pixel,
        "image_lowerright_y": corner[1] - (shape[0] - 0.5) * pixel,
    }


def _image_attributes(band: str, pixels: int, bad: int, pixel: float) -> dict[str, Any]:
    return {
        "channel_name": band.upper(),
        "number_of_total_pixels": np.int32(pixels),
        "number_of_error_pixels": np.uint32(bad),
        "number_of_total_bits_per_pixel": np.int32(16),
        "number_of_data_quality_flag_bits_per_pixel": np.int32(2),
        "number_of_valid_bits_per_pixel": np.uint8(_BANDS[band].bits),
        "data_quality_flag_meaning": (
            "0:good_pixel, 1:conditionally_usable_pixel, 2:out_of_scan_area_pixel, 3:error_pixel"
        ),
        "ground_sample_distance_ew": pixel,
        "ground_sample_distance_ns": pixel,
    }


def _put(thing: h5py.Group | h5py.Dataset, attributes: dict[str, Any]) -> None:
    """Attributes as netCDF writes them: texts of fixed length, numbers as arrays of one."""
    for name, value in attributes.items():
        thing.attrs[name] = np.bytes_(value) if isinstance(value, str) else np.atleast_1d(value)
