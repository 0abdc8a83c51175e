"""The Advanced Baseline Imager of GOES-16 to GOES-19, as data, and how its files are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.bands import BANDS
from catalog.geostationary.scans import SourceFile
from cube.geostationary.abi_timelines import ABI_TIMELINES
from cube.geostationary.dialect import Dialect
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.hdf5 import attribute, chunk_table, text, whole_microradians
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
_FILES, _GRID_MAPPING = "ABI L1b", "goes_imager_projection"
_J2000, _MINUTE = np.datetime64("2000-01-01T12:00:00", "ns"), np.timedelta64(60, "s")

_PUG = "GOES-R Product Definition and Users' Guide, volume 3"
_SEEN = "packings seen in files of GOES-16 to GOES-18 from 2017 to 2023, widened twofold and more"


def _read(h5: h5py.File, source: SourceFile) -> FileIndex:
    rad, dqf = h5["Rad"], h5["DQF"]
    if rad.ndim != 2 or rad.chunks is None or rad.shape != dqf.shape:
        raise ValueError(f"Rad {rad.shape} and DQF {dqf.shape} are not chunked images of one shape")
    band = int(h5["band_id"][()].ravel()[0])
    if band != source.channel:
        raise ValueError(f"band_id is {band} but the name says C{source.channel:02d}")
    table = _chunk_table(rad)
    valid = _scalar(h5, "valid_pixel_count")
    return FileIndex(
        source=source,
        grid=_grid(h5, table.shape),
        rad=table,
        dqf=_chunk_table(dqf),
        scale=float(attribute(rad, "scale_factor")),
        offset=float(attribute(rad, "add_offset")),
        units=text(attribute(rad, "units")),
        coefficients={
            "kappa0": _reflectance_factor(h5),
            "planck_fk1": _scalar(h5, "planck_fk1"),
            "planck_fk2": _scalar(h5, "planck_fk2"),
            "planck_bc1": _scalar(h5, "planck_bc1"),
            "planck_bc2": _scalar(h5, "planck_bc2"),
        },
        mid_time=_mid_time(h5, source),
        wavelength=_scalar(h5, "band_wavelength"),
        valid_fraction=valid / float(np.prod(table.shape)),
    )


def _chunk_table(dataset: h5py.Dataset) -> ChunkTable:
    kind = dataset.dtype.newbyteorder("=")
    unsigned = text(dataset.attrs.get("_Unsigned", b"false")).lower() == "true"
    dtype = np.dtype(f"{dataset.dtype.str[0]}{'u' if unsigned else kind.kind}{kind.itemsize}")
    fill = np.asarray(attribute(dataset, "_FillValue")).astype(dataset.dtype).astype(dtype.newbyteorder("="))
    return chunk_table(dataset, _FILES, dtype.str, int(fill))


def _grid(h5: h5py.File, shape: tuple[int, int]) -> FixedGrid:
    mapping = h5["goes_imager_projection"].attrs
    numbers = ("perspective_point_height", "semi_major_axis", "semi_minor_axis", "longitude_of_projection_origin")
    projection = GeosProjection(
        **{name: float(np.ravel(mapping[name])[0]) for name in numbers},
        sweep_angle_axis=text(mapping["sweep_angle_axis"]),
    )
    x0, dx = _axis(h5["x"])
    y0, dy = _axis(h5["y"])
    return FixedGrid(projection, x0, y0, dx, dy, *shape)


def _axis(dataset: h5py.Dataset) -> tuple[float, float]:
    """First centre and spacing of an axis in radians, packed or (in rewritten files) already floating point."""
    scale = float(np.ravel(dataset.attrs.get("scale_factor", 1.0))[0])
    offset = float(np.ravel(dataset.attrs.get("add_offset", 0.0))[0])
    values = dataset[[0, dataset.shape[0] - 1]].astype("f8") * scale + offset
    step = (values[1] - values[0]) / (dataset.shape[0] - 1)
    return whole_microradians(values[0], step), whole_microradians(step, step / dataset.shape[0])


def _mid_time(h5: h5py.File, source: SourceFile) -> np.datetime64:
    """The file's ``t``, or where that lies outside the scan (units of a rewritten file), the middle of the scan."""
    start, end = np.datetime64(source.start, "ns"), np.datetime64(source.end, "ns")
    seconds = float(h5["t"][()]) if "t" in h5 else float("nan")
    if abs(seconds) < 1e10:
        told = _J2000 + np.timedelta64(round(seconds * 1e9), "ns")
        if start - _MINUTE <= told <= end + _MINUTE:
            return told
    return start + (end - start) // 2


def _scalar(h5: h5py.File, name: str) -> float:
    """Value of a scalar variable as float, NaN when absent or filled (archives lack some)."""
    if name not in h5:
        return float("nan")
    value = float(np.ravel(h5[name][()])[0])
    missing = value in (-999.0, -1.0) or abs(value) > 1e30
    return float("nan") if missing else value


def _reflectance_factor(h5: h5py.File) -> float:
    """Return pi d^2 / Esun, or the file's own ``kappa0`` where it lacks those.

    Files write ``kappa0`` rounded to five digits, up to 3e-5 from the quotient of their own Esun and distance.
    """
    esun, distance = _scalar(h5, "esun"), _scalar(h5, "earth_sun_distance_anomaly_in_AU")
    factor = np.pi * distance**2 / esun
    return float(factor) if np.isfinite(factor) else _scalar(h5, "kappa0")


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
                units,
                "top-of-atmosphere radiance",
                "identity",
                bands,
            )
            for per, units, bands in (
                ("wavelength", "W m-2 sr-1 um-1", _SUN),
                ("wavenumber", "mW m-2 sr-1 (cm-1)-1", _HEAT),
            )
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
        Bound("scale_factor", 1e-4, 2.0, (*_SUN, *_HEAT), _SEEN + "; radiances grow with counts"),
        Bound("add_offset", -50.0, 0.0, (*_SUN, *_HEAT), _SEEN + "; count 0 lies a little below no radiance"),
        Bound("kappa0", 5e-4, 0.05, _SUN, f"{_PUG}, 5.1.3.1: pi d2 / Esun, Esun from 76 to 2,020 W m-2 um-1"),
        Bound("planck_fk1", 4e3, 3e5, _HEAT, f"{_PUG}, 5.1.3.2: 2 h c2 / wavelength3, from 13.3 to 3.9 um"),
        Bound("planck_fk2", 1e3, 4e3, _HEAT, f"{_PUG}, 5.1.3.2: h c / (k wavelength), from 13.3 to 3.9 um"),
        Bound("planck_bc1", -1.0, 3.0, _HEAT, f"{_PUG}, 5.1.3.2: a correction of kelvins at most"),
        Bound("planck_bc2", 0.98, 1.01, _HEAT, f"{_PUG}, 5.1.3.2: a correction of a hundredth at most"),
        Bound("reflectance", -0.1, 2.0, _SUN, "bright cloud at a low Sun, not divided by its cosine; noise below 0"),
        Bound("brightness_temperature", 150.0, 420.0, _HEAT, "coldest cloud tops to saturation of C07 by fires"),
    ),
    dialect=DIALECT,
)
"""Bit ``channel - 1`` of a mask is the band's, as it was before there were other instruments."""
