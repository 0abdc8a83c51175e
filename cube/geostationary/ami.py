"""The Advanced Meteorological Imager of GEO-KOMPSAT-2A, as data, and how its files are read.

Source: Korea Meteorological Administration, National Meteorological Satellite Center, GK-2A AMI Level 1B Data User
Manual; of the projection, CGMS 03, LRIT/HRIT Global Specification, 4.4.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.geostationary.ami import AMI_NAMES, BANDS, CADENCE
from catalog.geostationary.scans import SourceFile
from cube.geostationary.dialect import Dialect
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.hdf5 import (
    attribute,
    attribute_or_none,
    chunk_table,
    dataset,
    moment,
    number,
    text,
    whole_microradians,
)
from cube.geostationary.plausible import refuse_implausible, refuse_other, refuse_other_grid, refuse_unfit
from cube.instrument import Band, Bound, Instrument, Quantity, Resolution, ScanGeometry

if TYPE_CHECKING:
    import h5py

__all__ = ["AMI"]

_FILES, _IMAGE, _GRID_MAPPING = "AMI L1b", "image_pixel_values", "ami_fixed_grid"
_BANDS = {
    "vi004": (28, "blue"),
    "vi005": (28, "green"),
    "vi006": (14, "red"),
    "vi008": (28, "vegetation"),
    "nr013": (56, "cirrus"),
    "nr016": (56, "snow and ice"),
    "sw038": (56, "shortwave window"),
    "wv063": (56, "upper-level water vapour"),
    "wv069": (56, "mid-level water vapour"),
    "wv073": (56, "lower-level water vapour"),
    "ir087": (56, "cloud-top phase"),
    "ir096": (56, "ozone"),
    "ir105": (56, "clean longwave window"),
    "ir112": (56, "longwave window"),
    "ir123": (56, "dirty longwave window"),
    "ir133": (56, "carbon dioxide"),
}
"""Pixel at nadir in microradians, and title."""
_SUN, _HEAT = tuple(_BANDS)[:6], tuple(_BANDS)[6:]
"""Bands of reflected sunlight and of emission."""
_UNITS = {_SUN: "W m-2 sr-1 um-1", _HEAT: "mW m-2 sr-1 (cm-1)-1"}
_MINUTE = np.timedelta64(60, "s")
_WORD, _FLAG_BITS = 16, 2
_FLAGS = ("good", "conditionally_usable", "out_of_scan_area", "error")
_NO_FLAG = 255
"""Stands for a pixel without a flag, of which there is none."""


def _read(h5: h5py.File, source: SourceFile) -> FileIndex:
    image, named = dataset(h5, _IMAGE), BANDS[source.channel]
    band = AMI.band(source.channel)
    _refuse_other(h5, image, source)
    refuse_unfit(image, AMI, band)
    counts, flags = _tables(image)
    begin, end = _times(h5, source)
    grid = _grid(h5, image.shape, band.pixel_urad * 1e-6)
    refuse_other_grid(grid, AMI, band)
    scale, offset = number(h5, "DN_to_Radiance_Gain"), number(h5, "DN_to_Radiance_Offset")
    coefficients = _coefficients(h5, band.name, named.wavelength)
    seen = {k: v for k, v in asdict(grid.projection).items() if not isinstance(v, str)}
    refuse_implausible(AMI, band, {"scale_factor": scale, "add_offset": offset, **coefficients, **seen})
    return FileIndex(
        source=source,
        grid=grid,
        rad=counts,
        dqf=flags,
        scale=scale,
        offset=offset,
        units=_UNITS[_SUN if band.name in _SUN else _HEAT],
        coefficients=coefficients,
        mid_time=begin + (end - begin) // 2,
        wavelength=named.wavelength,
        valid_fraction=1.0 - number(image, "number_of_error_pixels") / number(image, "number_of_total_pixels"),
        begin_time=begin,
    )


def _refuse_other(h5: h5py.File, image: h5py.Dataset, source: SourceFile) -> None:
    """Refuse a file that is not what its name says."""
    rows, columns = (attribute_or_none(h5, f"number_of_{what}") for what in ("lines", "columns"))
    refuse_other(
        (
            ("satellite", text(attribute(h5, "satellite_name")), "GK-2A"),
            ("area", text(attribute(h5, "observation_mode")), source.sector),
            ("band", text(attribute(image, "channel_name")), BANDS[source.channel].name),
            ("projection", text(attribute(h5, "projection_type")), "GEOS"),
            ("number of lines", rows, image.shape[0]),
            ("number of columns", columns, image.shape[-1]),
        )
    )


def _times(h5: h5py.File, source: SourceFile) -> tuple[np.datetime64, np.datetime64]:
    """When the scan began and ended; the name tells only the minute."""
    begin, end = (moment(number(h5, f"observation_{which}_time")) for which in ("start", "end"))
    named, cadence = np.datetime64(source.start, "ns"), np.timedelta64(CADENCE[source.sector])
    if not named - _MINUTE <= begin <= end <= begin + cadence or begin >= named + cadence:
        raise ValueError(f"it was observed from {begin} to {end}, but its name says {source.start}")
    return begin, end


def _tables(image: h5py.Dataset) -> tuple[ChunkTable, ChunkTable]:
    """Counts are the low bits of each value, the quality flag is the two highest.

    No count is larger than its bits allow, so that the next number stands for a missing one.
    """
    bits = int(number(image, "number_of_valid_bits_per_pixel"))
    if image.dtype.kind != "u" or image.dtype.itemsize * 8 != _WORD:
        raise ValueError(f"{_IMAGE} is of {image.dtype} where 16-bit unsigned integers are expected")
    if (
        not 8 < bits <= _WORD - _FLAG_BITS
        or int(number(image, "number_of_data_quality_flag_bits_per_pixel")) != _FLAG_BITS
    ):
        raise ValueError(f"{_IMAGE} has {bits} valid bits; 9 to 14 beside 2 of the quality flag are expected")
    table = chunk_table(image, _FILES, image.dtype.str, 1 << bits)
    if not table.sizes.all():
        raise ValueError(f"{_IMAGE} was not written whole")
    parts = table.shape, table.chunks, table.dtype, table.filters
    counts = ChunkTable(*parts, 1 << bits, table.offsets, table.sizes, bits)
    return counts, ChunkTable(*parts, _NO_FLAG, table.offsets, table.sizes, _FLAG_BITS, _WORD - _FLAG_BITS)


def _grid(h5: h5py.File, shape: tuple[int, int], pixel: float) -> FixedGrid:
    """Pixels by CGMS's factors and offsets: the first column's centre is number 1, and rows run south by ``lfac`` < 0.

    The corners of bands of different pixels coincide only so, and are then those that the file gives in
    ``image_upperleft_x`` and ``image_upperleft_y``. The sweep is about the y axis: with it the corners lie at the
    file's own latitudes and longitudes.
    """
    equator = number(h5, "earth_equatorial_radius")
    projection = GeosProjection(
        number(h5, "nominal_satellite_height") - equator,  # which is told from the Earth's centre
        equator,
        number(h5, "earth_polar_radius"),
        round(math.degrees(number(h5, "sub_longitude")), 9),
        sweep_angle_axis="y",
    )
    axes = []
    for factor, offset, sign in (("cfac", "coff", 1), ("lfac", "loff", -1)):
        step = math.radians(2**16 / number(h5, factor))
        if abs(step * sign / pixel - 1) > 1e-3:
            raise ValueError(
                f"{factor} makes pixels of {step * 1e6:.4g} microradians where {sign * pixel * 1e6:.0f} is expected"
            )
        step = whole_microradians(step, step / max(shape))
        axes.append((whole_microradians((1 - number(h5, offset)) * step, step), step))
    (x0, dx), (y0, dy) = axes
    return FixedGrid(projection, x0, y0, dx, dy, int(shape[0]), int(shape[1]))


def _coefficients(h5: h5py.File, band: str, wavelength: float) -> dict[str, float]:
    """Numbers of the laws, NaN for those of the others; Planck's are worked out of the file's own constants.

    Radiance is in mW m-2 sr-1 (cm-1)-1, a hundred-thousandth of what it is in SI units.
    """
    found = dict.fromkeys(AMI.coefficients, math.nan)
    if band in _SUN:
        found["kappa0"] = number(h5, "Radiance_to_Albedo_c")
        return found
    light, h, k = (number(h5, name) for name in ("light_speed", "Plank_constant_h", "Boltzmann_constant_k"))
    wavenumber = 1e6 / wavelength
    found["planck_fk1"] = 2 * h * light**2 * wavenumber**3 * 1e5
    found["planck_fk2"] = h * light * wavenumber / k
    for power in range(3):
        found[f"tbb_c{power}"] = number(h5, f"Teff_to_Tbb_c{power}")
    return found


def _attributes(first: FileIndex) -> dict[str, dict[str, Any]]:
    flags = _WORD - _FLAG_BITS
    return {
        _IMAGE: {
            "long_name": f"AMI {BANDS[first.source.channel].name} counts and quality flags",
            "comment": f"a count is the low {first.rad.bits} bits, its quality flag bits {flags} and {flags + 1}",
            "number_of_valid_bits_per_pixel": first.rad.bits,
            "DN_to_Radiance_Gain": first.scale,
            "DN_to_Radiance_Offset": first.offset,
            "radiance_units": first.units,
            "grid_mapping": _GRID_MAPPING,
        }
    }


DIALECT = Dialect(
    names=AMI_NAMES,
    files=_FILES,
    read=_read,
    counts=_IMAGE,
    quality=_IMAGE,
    flags=_FLAGS,
    hollow=(2, 3),
    grid_mapping=_GRID_MAPPING,
    source="KMA GK-2A AMI L1B radiances",
    attributes=_attributes,
)
"""How AMI's files speak."""

_SEEN = "packings seen in files of GK-2A from 2023, widened threefold and more"
_PLANCK = "2 h c2 / wavelength3 and h c / (k wavelength), from 13.3 to 3.8 um"
_MANUAL = "AMI Level 1B Data User Manual"

AMI = Instrument(
    name="ami",
    title="AMI",
    long_name="Advanced Meteorological Imager",
    bands=tuple(
        Band(b.name, b.channel, b.wavelength, b.fwhm, float(_BANDS[b.name][0]), _BANDS[b.name][1], b.common_name)
        for b in BANDS.values()
    ),
    quantities=(
        *(
            Quantity(
                "radiance",
                f"toa_outgoing_radiance_per_unit_{per}",
                _UNITS[bands],
                "top-of-atmosphere radiance",
                "identity",
                bands,
            )
            for per, bands in (("wavelength", _SUN), ("wavenumber", _HEAT))
        ),
        Quantity("reflectance", "toa_bidirectional_reflectance", "1", "reflectance factor", "proportional", _SUN),
        Quantity(
            "brightness_temperature",
            "toa_brightness_temperature",
            "K",
            "brightness temperature",
            "planck_quadratic",
            _HEAT,
        ),
    ),
    scan=ScanGeometry(
        (
            Resolution("500m", 14.0, 500.0, 22000),
            Resolution("1km", 28.0, 1000.0, 11000),
            Resolution("2km", 56.0, 2000.0, 5500),
        ),
        (10.0,),
    ),
    bounds=(
        Bound("scale_factor", 1e-3, 2.0, _SUN, f"{_SEEN}; radiances grow with counts"),
        Bound("scale_factor", -0.1, -1e-4, _HEAT, f"{_SEEN}; thermal counts fall with radiance"),
        Bound("add_offset", -30.0, 0.0, _SUN, f"{_SEEN}; count 0 lies a little below no radiance"),
        Bound("add_offset", 1.0, 1000.0, _HEAT, f"{_SEEN}; count 0 is the brightest"),
        Bound("kappa0", 3e-4, 0.1, _SUN, f"{_MANUAL}: pi d2 / Esun"),
        Bound("planck_fk1", 4e3, 3e5, _HEAT, _PLANCK),
        Bound("planck_fk2", 1e3, 4e3, _HEAT, _PLANCK),
        Bound("tbb_c0", -10.0, 10.0, _HEAT, f"{_MANUAL}: a correction of kelvins at most"),
        Bound("tbb_c1", 0.97, 1.03, _HEAT, f"{_MANUAL}: a correction of a hundredth at most"),
        Bound("tbb_c2", -1e-4, 1e-4, _HEAT, f"{_MANUAL}: a correction of kelvins at most"),
        Bound("longitude_of_projection_origin", 127.0, 130.0, (*_SUN, *_HEAT), f"{_MANUAL}: GK-2A stays at 128.2 E"),
        Bound("perspective_point_height", 35.7e6, 35.9e6, (*_SUN, *_HEAT), f"{_MANUAL}: 42,164 km from the centre"),
        Bound("semi_major_axis", 6.37e6, 6.385e6, (*_SUN, *_HEAT), f"{_MANUAL}: WGS84"),
        Bound("semi_minor_axis", 6.35e6, 6.365e6, (*_SUN, *_HEAT), f"{_MANUAL}: WGS84"),
        Bound("reflectance", -0.1, 2.0, _SUN, "bright cloud at a low Sun, not divided by its cosine; noise below 0"),
        Bound("brightness_temperature", 150.0, 420.0, _HEAT, "coldest cloud tops to saturation of sw038 by fires"),
    ),
    dialect=DIALECT,
)
"""Bit ``channel - 1`` of a mask is the band's."""
