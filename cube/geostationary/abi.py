"""The Advanced Baseline Imager of GOES-16 to GOES-19, as data, and how its files are read."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.bands import BANDS
from catalog.geostationary.scans import SourceFile
from cube.geostationary.abi_content import refuse_other_content, refuse_other_place, refuse_other_times
from cube.geostationary.abi_timelines import ABI_TIMELINES
from cube.geostationary.dialect import Dialect
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.hdf5 import (
    as_number,
    attribute,
    attribute_or_none,
    chunk_table,
    dataset,
    first_value,
    moment,
    number,
    text,
    text_or_none,
    variable_or_none,
    whole_microradians,
)
from cube.geostationary.plausible import (
    refuse_implausible,
    refuse_off_grid,
    refuse_other,
    refuse_other_grid,
    refuse_other_time,
    refuse_unfit,
)
from cube.instrument import Band, Bound, Instrument, Quantity, Resolution, ScanGeometry

if TYPE_CHECKING:
    import h5py

__all__ = ["ABI"]

_BANDS = {
    "C01": (28, "blue", 10),
    "C02": (14, "red", 12),
    "C03": (28, "veggie", 10),
    "C04": (56, "cirrus", 11),
    "C05": (28, "snow and ice", 10),
    "C06": (56, "cloud particle size", 10),
    "C07": (56, "shortwave window", 14),
    "C08": (56, "upper-level water vapour", 12),
    "C09": (56, "mid-level water vapour", 11),
    "C10": (56, "lower-level water vapour", 12),
    "C11": (56, "cloud-top phase", 12),
    "C12": (56, "ozone", 11),
    "C13": (56, "clean longwave window", 12),
    "C14": (56, "longwave window", 12),
    "C15": (56, "dirty longwave window", 12),
    "C16": (56, "carbon dioxide", 10),
}
"""Pixel at nadir in microradians, title, and bits of a count; all of them set is the fill value."""
_SUN, _HEAT = tuple(_BANDS)[:6], tuple(_BANDS)[6:]
"""Bands of reflected sunlight and of emission."""
_UNITS = {_SUN: "W m-2 sr-1 um-1", _HEAT: "mW m-2 sr-1 (cm-1)-1"}
_FILES, _GRID_MAPPING = "ABI L1b", "goes_imager_projection"
_UNDEFINED = (-999.0, 9.969209968386869e36)
"""ABI's own number for none, and netCDF's for what was never written."""
_NO_COUNT = -1.0
_BC1 = {
    "C07": 0.44,
    "C08": 1.547,
    "C09": 0.342,
    "C10": 0.057,
    "C11": 0.191,
    "C12": 0.091,
    "C13": 0.077,
    "C14": 0.221,
    "C15": 0.219,
    "C16": 0.062,
}
"""Kelvins by which a band's own width corrects Planck's law: those of GOES-16 and GOES-17 differ by 0.012 at most."""
_ROUNDING = 1e-3
_SCALARS = (
    "esun",
    "earth_sun_distance_anomaly_in_AU",
    "kappa0",
    "planck_fk1",
    "planck_fk2",
    "planck_bc1",
    "planck_bc2",
    "band_wavelength",
    "valid_pixel_count",
)

_DEPTHS = {
    bits: tuple(name for name, (_, _, depth) in _BANDS.items() if depth == bits)
    for bits in sorted({depth for _, _, depth in _BANDS.values()})
}
"""Bands by the bits of their counts."""

_PACKINGS = {
    "C01": (0.8121064, -25.936647),
    "C02": (0.15859237, -20.289911),
    "C03": (0.37691253, -12.037643),
    "C04": (0.07073108, -4.5223684),
    "C05": (0.09580004, -3.0596137),
    "C06": (0.030088475, -0.9609507),
    "C07": (0.001564351, -0.0376),
    "C08": (0.007104763, -0.5586),
    "C09": (0.022539102, -0.8236),
    "C10": (0.02004128, -0.9561),
    "C11": (0.03335779, -1.3022),
    "C12": (0.05443998, -1.5394),
    "C13": (0.04572892, -1.6443),
    "C14": (0.049492206, -1.7187),
    "C15": (0.05277411, -1.7558),
    "C16": (0.17605852, -5.2392),
}
"""Radiance of a count, and of count 0, by band."""

_PUG = "GOES-R Product Definition and Users' Guide, volume 3"
_ORBITS = "orbital slots of the GOES-R series: West 137, storage 105, test 89.5 and East 75 degrees west, 35,786 km up"
_SEEN = "the one packing in all files seen of GOES-16 and GOES-17 from 2017 to 2023, widened by 1.6 for others"
_OTHERS = 1.6


def _read(h5: h5py.File, source: SourceFile) -> FileIndex:
    band, rad, dqf = ABI.band(source.channel), dataset(h5, "Rad"), dataset(h5, "DQF")
    refuse_other_content(h5, source)
    for image, size in ((rad, 2), (dqf, 1)):
        refuse_unfit(image, ABI, band)
        if image.dtype.kind not in "iu" or image.dtype.itemsize != size:
            raise ValueError(f"{image.name.strip('/')} is of {image.dtype} where {8 * size}-bit integers are expected")
    if rad.shape != dqf.shape:
        raise ValueError(f"Rad {rad.shape} and DQF {dqf.shape} are not images of one shape")
    units = text(attribute(rad, "units"))
    refuse_other([("radiance's unit", units, _UNITS[_SUN if band.name in _SUN else _HEAT])])
    grid = _grid(h5, rad.shape)
    refuse_other_grid(grid, ABI, band)
    refuse_off_grid(grid, ABI)
    refuse_other_place(h5, grid.projection)
    table = _chunk_table(rad)
    numbers = _numbers(h5, rad, grid.projection) | {"_FillValue": table.fill}
    refuse_implausible(ABI, band, numbers)
    lacking = [n for n in _SCALARS if n.startswith("planck_") and numbers[n] is None]
    if band.name in _HEAT and lacking:  # the band would have no temperature, without a word
        raise ValueError(f"it lacks {lacking[0]}")
    told = {name: math.nan if value is None else value for name, value in numbers.items()}
    valid = told["valid_pixel_count"] / math.prod(table.shape)
    if valid > 1:
        raise ValueError(f"its valid_pixel_count is {told['valid_pixel_count']:g} of {math.prod(table.shape)} pixels")
    return FileIndex(
        source=source,
        grid=grid,
        rad=table,
        dqf=_chunk_table(dqf),
        scale=told["scale_factor"],
        offset=told["add_offset"],
        units=units,
        coefficients={name: told[name] for name in ABI.coefficients},
        mid_time=_mid_time(h5, source),
        wavelength=told["band_wavelength"],
        valid_fraction=valid,
    )


def _chunk_table(dataset: h5py.Dataset) -> ChunkTable:
    kind = dataset.dtype.newbyteorder("=")
    told = attribute_or_none(dataset, "_Unsigned")
    unsigned = told is not None and text(told).lower() == "true"
    dtype = np.dtype(f"{dataset.dtype.str[0]}{'u' if unsigned else kind.kind}{kind.itemsize}")
    fill = np.asarray(attribute(dataset, "_FillValue")).astype(dataset.dtype).astype(dtype.newbyteorder("="))
    return chunk_table(dataset, _FILES, dtype.str, int(fill))


def _grid(h5: h5py.File, shape: tuple[int, int]) -> FixedGrid:
    mapping = dataset(h5, "goes_imager_projection")
    numbers = ("perspective_point_height", "semi_major_axis", "semi_minor_axis", "longitude_of_projection_origin")
    projection = GeosProjection(
        **{name: number(mapping, name) for name in numbers},
        sweep_angle_axis=text(attribute(mapping, "sweep_angle_axis")),
    )
    if projection.sweep_angle_axis != "x":
        raise ValueError(f"its sweep_angle_axis is {projection.sweep_angle_axis} where x is expected")
    y0, dy = _axis(dataset(h5, "y"), shape[0])
    x0, dx = _axis(dataset(h5, "x"), shape[1])
    return FixedGrid(projection, x0, y0, dx, dy, *shape)


def _axis(dataset: h5py.Dataset, pixels: int) -> tuple[float, float]:
    """First centre and spacing of an axis in radians, packed or (in rewritten files) already floating point."""
    name = dataset.name.strip("/")
    if dataset.shape != (pixels,):
        raise ValueError(f"{name} has {dataset.shape} values for {pixels} pixels")
    refuse_other([(f"{name}'s unit", text_or_none(dataset, "units"), "rad")])
    packing = [attribute_or_none(dataset, what) for what in ("scale_factor", "add_offset")]
    if dataset.dtype.kind in "iu" and None in packing:
        raise ValueError(f"{name} is packed, but lacks its scale_factor or add_offset")
    scale, offset = (
        default if n is None else as_number(n, f"{name} packing")
        for n, default in zip(packing, (1.0, 0.0), strict=True)
    )
    values = dataset[[0, pixels - 1]].astype("f8") * scale + offset
    step = (values[1] - values[0]) / (pixels - 1)
    return whole_microradians(values[0], step), whole_microradians(step, step / pixels)


def _mid_time(h5: h5py.File, source: SourceFile) -> np.datetime64:
    """The file's ``t``, which is to lie within the scan; where it has none, the middle of the scan."""
    seconds = _scalar(h5, "t")
    told: np.datetime64
    if seconds is None:
        start, end = np.datetime64(source.start, "ns"), np.datetime64(source.end, "ns")
        told = start + (end - start) // 2
    else:
        told = moment(seconds)
        refuse_other_time("t", told, source.start, source.end)
    refuse_other_times(h5, source, _UNDEFINED)
    return told


def _numbers(h5: h5py.File, rad: h5py.Dataset, projection: GeosProjection) -> dict[str, float | None]:
    """All numbers that have bounds, None where the file lacks one, as archives do now and then."""
    found: dict[str, float | None] = {name: _scalar(h5, name) for name in _SCALARS}
    found |= {name: number(rad, name) for name in ("scale_factor", "add_offset")}
    found |= {k: v for k, v in asdict(projection).items() if not isinstance(v, str)}
    esun, distance, written = (found[n] for n in ("esun", "earth_sun_distance_anomaly_in_AU", "kappa0"))
    if esun and distance is not None:
        # Files write ``kappa0`` rounded to five digits, up to 3e-5 from the quotient of their own Esun and distance.
        found["kappa0"] = factor = math.pi * distance**2 / esun
        if written is not None and not abs(written - factor) < _ROUNDING * abs(factor):
            raise ValueError(f"its kappa0 is {written:g}, but pi d2 / Esun of its own is {factor:g}")
    return found


def _scalar(h5: h5py.File, name: str) -> float | None:
    """Value of a scalar variable, None where it is absent or was never filled in (archives lack some)."""
    variable = variable_or_none(h5, name)
    if variable is None:
        return None
    value = as_number(first_value(variable), name)
    if value in _UNDEFINED:
        return None
    # Its own number for none is asked for only where it may be that: an attribute takes as long as the value.
    fill = attribute_or_none(variable, "_FillValue") if value == _NO_COUNT or math.isnan(value) else None
    return None if fill is not None and (value == fill or math.isnan(fill)) else value


def _attributes(first: FileIndex) -> dict[str, dict[str, Any]]:
    return {
        "Rad": {
            "scale_factor": first.scale,
            "add_offset": first.offset,
            "_FillValue": first.rad.fill,
            "units": first.units,
            "long_name": f"ABI {BANDS['abi'][first.source.channel].name} radiance",
            "grid_mapping": _GRID_MAPPING,
        },
        "DQF": {
            "long_name": "ABI data quality flag",
            "_FillValue": first.dqf.fill,
            "grid_mapping": _GRID_MAPPING,
        },
    }


DIALECT = Dialect(
    names=ABI_NAMES,
    files=_FILES,
    read=_read,
    counts="Rad",
    quality="DQF",
    flags=("good", "conditionally_usable", "out_of_range", "no_value", "focal_plane_temperature_exceeded"),
    grid_mapping=_GRID_MAPPING,
    source="NOAA GOES-R ABI L1b radiances",
    attributes=_attributes,
    timelines=ABI_TIMELINES,
)
"""How ABI's files speak."""


ABI = Instrument(
    name="abi",
    title="ABI",
    long_name="Advanced Baseline Imager",
    bands=tuple(
        Band(b.name, b.channel, b.wavelength, b.fwhm, float(pixel), title, b.common_name, 2**bits - 1)
        for b in BANDS["abi"].values()
        for pixel, title, bits in [_BANDS[b.name]]
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
            "brightness_temperature", "toa_brightness_temperature", "K", "brightness temperature", "planck", _HEAT
        ),
    ),
    scan=ScanGeometry(
        (
            Resolution("500m", 14.0, 500.0, 21696),
            Resolution("1km", 28.0, 1000.0, 10848),
            Resolution("2km", 56.0, 2000.0, 5424),
        ),
        (15.0, 10.0),  # modes 3 and 6
    ),
    bounds=(
        *(
            Bound(
                name, min(number / _OTHERS, number * _OTHERS), max(number / _OTHERS, number * _OTHERS), (band,), _SEEN
            )
            for band, numbers in _PACKINGS.items()
            for name, number in zip(("scale_factor", "add_offset"), numbers, strict=True)
        ),
        *(
            Bound("_FillValue", 2.0**bits - 1, 65535.0, bands, f"the largest of {bits} bits in every file seen")
            for bits, bands in _DEPTHS.items()
        ),
        Bound("esun", 70.0, 2200.0, _SUN, f"{_PUG}, 5.1.3.1: solar irradiance in a band, from 76 to 2,050 W m-2 um-1"),
        Bound(
            "earth_sun_distance_anomaly_in_AU",
            0.98,
            1.02,
            _SUN,
            "the Earth's orbit: 0.9833 to 1.0167 astronomical units",
        ),
        Bound("kappa0", 5e-4, 0.05, _SUN, f"{_PUG}, 5.1.3.1: pi d2 / Esun, Esun from 76 to 2,020 W m-2 um-1"),
        Bound("planck_fk1", 4e3, 3e5, _HEAT, f"{_PUG}, 5.1.3.2: 2 h c2 / wavelength3, from 13.3 to 3.9 um"),
        Bound("planck_fk2", 1e3, 4e3, _HEAT, f"{_PUG}, 5.1.3.2: h c / (k wavelength), from 13.3 to 3.9 um"),
        *(
            Bound(
                "planck_bc1", bc1 - 0.1, bc1 + 0.1, (band,), f"{_PUG}, 5.1.3.2: as of GOES-16 and GOES-17, within 0.1 K"
            )
            for band, bc1 in _BC1.items()
        ),
        Bound("planck_bc2", 0.98, 1.01, _HEAT, f"{_PUG}, 5.1.3.2: a correction of a hundredth at most"),
        Bound("valid_pixel_count", 0.0, 21696.0**2, (*_SUN, *_HEAT), "pixels of a full disk of 0.5 km"),
        Bound("longitude_of_projection_origin", -141.0, -60.0, (*_SUN, *_HEAT), _ORBITS),
        Bound("perspective_point_height", 35.7e6, 35.9e6, (*_SUN, *_HEAT), _ORBITS),
        Bound("semi_major_axis", 6.37e6, 6.385e6, (*_SUN, *_HEAT), f"{_PUG}, 5.1.2.8: GRS80"),
        Bound("semi_minor_axis", 6.35e6, 6.365e6, (*_SUN, *_HEAT), f"{_PUG}, 5.1.2.8: GRS80"),
        Bound("reflectance", -0.1, 2.0, _SUN, "bright cloud at a low Sun, not divided by its cosine; noise below 0"),
        Bound("brightness_temperature", 150.0, 420.0, _HEAT, "coldest cloud tops to saturation of C07 by fires"),
    ),
    dialect=DIALECT,
)
"""Bit ``channel - 1`` of a mask is the band's, as it was before there were other instruments."""
