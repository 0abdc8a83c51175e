"""What one synthetic ABI L1b file says about itself: name, grid, packing, coefficients, attributes.

The coefficients are typical of GOES-16 (read off NOAA's files of 2020) and serve every platform; they are for
writing test files only. Readers take theirs from each file.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.errors import UsageError
from cube.abi.bands import BANDS
from cube.abi.grid import FixedGrid, GeosProjection

__all__ = ["Coefficients", "FileSpec", "PixelStatistics", "header_values", "naive_utc", "sector_grid"]

SYNTHETIC = "Synthetic data written by stratacube for demonstrations and tests: not an observation."
J2000 = datetime(2000, 1, 1, 12)
UNDEFINED = -999.0
"""What real files hold where a coefficient has no meaning."""
FLAGS = (
    "good_pixel_qf",
    "conditionally_usable_pixel_qf",
    "out_of_range_pixel_qf",
    "no_value_pixel_qf",
    "focal_plane_temperature_threshold_exceeded_qf",
)
_LATTICE = -0.151872
"""Western (and, with its sign changed, northern) edge of the full disk in radians: every sector's pixels lie on it."""
_WAVELENGTH = (
    0.47,
    0.64,
    0.87,
    1.38,
    1.61,
    2.25,
    3.89,
    6.17,
    6.93,
    7.34,
    8.44,
    9.61,
    10.33,
    11.19,
    12.27,
    13.27,
)
_LATER = {6: 0.56, 9: 0.58, 12: 0.57, 15: 0.56, 7: 1.12, 10: 1.15, 13: 1.14, 16: 1.13}
"""Seconds by which a channel's scan ends later than that of the others."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Packing and calibration of one channel (radiance units of the channel; planck_* in K and without unit)."""

    bits: int
    scale: float
    offset: float
    esun: float = UNDEFINED
    planck_fk1: float = UNDEFINED
    planck_fk2: float = UNDEFINED
    planck_bc1: float = UNDEFINED
    planck_bc2: float = UNDEFINED


GOES16 = {
    1: Coefficients(10, 0.8121064, -25.936647, 2017.1648),
    2: Coefficients(12, 0.15859237, -20.289911, 1631.3351),
    3: Coefficients(10, 0.37691253, -12.037643, 957.0699),
    4: Coefficients(11, 0.07073108, -4.5223684, 360.90176),
    5: Coefficients(10, 0.09580004, -3.0596137, 242.54037),
    6: Coefficients(10, 0.030088475, -0.9609507, 76.8999),
    7: Coefficients(14, 0.001564351, -0.0376, UNDEFINED, 202263.0, 3698.19, 0.43361, 0.99939),
    8: Coefficients(12, 0.007104763, -0.5586, UNDEFINED, 50687.1, 2331.58, 1.55228, 0.99667),
    9: Coefficients(11, 0.022539102, -0.8236, UNDEFINED, 35828.3, 2076.95, 0.34427, 0.99918),
    10: Coefficients(12, 0.02004128, -0.9561, UNDEFINED, 30174.0, 1961.38, 0.05651, 0.99986),
    11: Coefficients(12, 0.03335779, -1.3022, UNDEFINED, 19779.9, 1703.83, 0.18733, 0.99948),
    12: Coefficients(11, 0.05443998, -1.5394, UNDEFINED, 13432.1, 1497.61, 0.09102, 0.99971),
    13: Coefficients(12, 0.04572892, -1.6443, UNDEFINED, 10803.3, 1392.74, 0.0755, 0.99975),
    14: Coefficients(12, 0.049492206, -1.7187, UNDEFINED, 8510.22, 1286.27, 0.22516, 0.9992),
    15: Coefficients(12, 0.05277411, -1.7558, UNDEFINED, 6454.62, 1173.03, 0.21702, 0.99916),
    16: Coefficients(10, 0.17605852, -5.2392, UNDEFINED, 5101.27, 1084.53, 0.06266, 0.99974),
}
"""By channel."""

_PLATFORMS = {
    "goes16": ("FM1", -75.0),
    "goes17": ("FM2", -137.0),
    "goes18": ("FM3", -137.0),
    "goes19": ("FM4", -75.0),
}
_SCENES = {"F": "Full Disk", "C": "CONUS", "M1": "Mesoscale", "M2": "Mesoscale"}
_SHAPES = {"F": (5424, 5424), "C": (1500, 2500), "M1": (500, 500), "M2": (500, 500)}
"""Rows and columns of a sector in 2 km pixels."""
_SECONDS = {"F": 570.82, "C": 157.2, "M1": 5.74, "M2": 5.74}


def sector_grid(
    platform: str,
    sector: str,
    *,
    centre: tuple[float, float] | None = None,
    corner: tuple[float, float] | None = None,
    shape_2km: tuple[int, int] | None = None,
    lon_0: float | None = None,
) -> FixedGrid:
    """Grid of a sector in 2 km pixels, on the lattice of the full disk.

    Parameters
    ----------
    platform : str
        ``goes16`` .. ``goes19``.
    sector : str
        ``F``, ``C``, ``M1`` or ``M2``.
    centre : (float, float), optional
        Longitude and latitude in degrees of the middle of the sector, snapped to the lattice; tropical and 13
        degrees east of the satellite for a mesoscale sector.
    corner : (float, float), optional
        Scan angles x, y of the outer north-west corner in radians, taken as they are instead of ``centre``.
    shape_2km : (int, int), optional
        Rows and columns; the sector's own by default.
    lon_0 : float, optional
        Longitude of the projection origin in degrees; the platform's own by default.

    Returns
    -------
    FixedGrid

    Raises
    ------
    UsageError
        For an unknown platform or sector, or a centre that the satellite does not see.
    """
    if platform not in _PLATFORMS or sector not in _SCENES:
        raise UsageError(
            f"no layout for {platform} {sector}; take one of goes16..goes19 and one of F, C, M1, M2"
        )
    lon_0 = _PLATFORMS[platform][1] if lon_0 is None else lon_0
    projection = GeosProjection(35786023.0, 6378137.0, 6356752.31414, lon_0)
    height, width = shape_2km or _SHAPES[sector]
    pixel = 56e-6
    if corner is None and centre is None and sector == "C":
        corner = (-0.10136 if platform in ("goes16", "goes19") else -0.07, 0.12824)
    if corner is None and centre is None and sector == "F":
        corner = (_LATTICE, -_LATTICE)
    if corner is None:
        lon, lat = centre or (lon_0 + 13.0, 6.0)
        x, y = (float(v) for v in projection.to_angles(lon, lat))
        if math.isnan(x):
            raise UsageError(
                f"longitude {lon}, latitude {lat} is hidden from {lon_0}; choose a nearer centre"
            )
        cols = round((x - _LATTICE) / pixel - width / 2)
        rows = round((-_LATTICE - y) / pixel - height / 2)
        corner = (_LATTICE + cols * pixel, -_LATTICE - rows * pixel)
    return FixedGrid(projection, corner[0] + pixel / 2, corner[1] - pixel / 2, pixel, -pixel, height, width)


@dataclass(frozen=True)
class FileSpec:
    """One channel file to be written. Times are naive UTC; ``grid`` is in the channel's own pixels."""

    platform: str
    sector: str
    channel: int
    mode: int
    start: datetime
    grid: FixedGrid
    coefficients: Coefficients
    fill: int
    """Unsigned."""
    chunks: tuple[int, int]
    shuffle: bool = False
    flag_count: int = 5
    """Number of DQF meanings: 4 in files before 2019, 5 since."""
    reissue: int = 0
    """How many times the file was made again: each is created a minute later."""

    @staticmethod
    def nominal(
        platform: str,
        sector: str,
        channel: int,
        start: datetime,
        coarse: FixedGrid,
        *,
        mode: int = 6,
        shape: tuple[int, int] | None = None,
    ) -> FileSpec:
        """Return the file as the ground system writes it.

        Parameters
        ----------
        platform, sector : str
            As in `sector_grid`.
        channel : int
            1 to 16.
        start : datetime
            Of the scan, naive UTC.
        coarse : FixedGrid
            Of the sector, in 2 km pixels.
        mode : int
            Scan mode.
        shape : (int, int), optional
            Rows and columns in the channel's pixels; those that ``coarse`` covers by default.

        Returns
        -------
        FileSpec

        Raises
        ------
        UsageError
            For an unknown channel.
        """
        if channel not in BANDS:
            raise UsageError(f"there is no channel {channel}; ABI has channels 1 to 16")
        grid = coarse.rescaled(BANDS[channel].pixel / 56)
        if shape is not None:
            grid = replace(grid, height=shape[0], width=shape[1])
        side = 226 if sector == "F" else 250
        chunks = min(side, grid.height), min(side, grid.width)
        coefficients = GOES16[channel]
        fill = 2**coefficients.bits - 1
        return FileSpec(platform, sector, channel, mode, start, grid, coefficients, fill, chunks)

    def encoded(
        self,
        *,
        packing: tuple[float, float] | None = None,
        fill: int | None = None,
        chunks: tuple[int, int] | None = None,
        calibration: Mapping[str, float] | None = None,
    ) -> FileSpec:
        """Return the same file encoded otherwise; what is None stays.

        Parameters
        ----------
        packing : (float, float), optional
            Scale factor and add offset.
        fill : int, optional
            Unsigned fill value.
        chunks : (int, int), optional
            Chunk shape.
        calibration : mapping, optional
            Fields of `Coefficients` by name.

        Returns
        -------
        FileSpec
        """
        numbers = replace(self.coefficients, **(calibration or {}))
        if packing is not None:
            numbers = replace(numbers, scale=packing[0], offset=packing[1])
        fill = (2**numbers.bits - 1 if "bits" in (calibration or {}) else self.fill) if fill is None else fill
        return replace(self, coefficients=numbers, fill=fill, chunks=chunks or self.chunks)

    @property
    def end(self) -> datetime:
        """End of the scan."""
        seconds = 636.7 if (self.sector, self.mode) == ("F", 3) else _SECONDS[self.sector]
        return self.start + timedelta(seconds=seconds + _LATER.get(self.channel, 0.0))

    @property
    def created(self) -> datetime:
        """Time the file was made: five to seven seconds after the scan, as in real files."""
        return self.end + timedelta(seconds=5.1 + 0.1 * (self.channel * 7 % 16), minutes=self.reissue)

    @property
    def name(self) -> str:
        """File name."""
        start, end, created = (
            f"{t:%Y%j%H%M%S}{t.microsecond // 100_000}" for t in (self.start, self.end, self.created)
        )
        return (
            f"OR_ABI-L1b-Rad{self.sector}-M{self.mode}C{self.channel:02d}_G{self.platform[4:]}"
            f"_s{start}_e{end}_c{created}.nc"
        )

    @property
    def key(self) -> str:
        """Path below the root of an archive: bucket, product, year, day, hour, name."""
        return f"noaa-{self.platform}/ABI-L1b-Rad{self.sector[0]}/{self.start:%Y/%j/%H}/{self.name}"

    @property
    def sun_distance(self) -> float:
        """Earth-Sun distance in astronomical units (Astronomical Almanac's low-precision formula)."""
        days = (self.start - J2000) / timedelta(days=1)
        anomaly = math.radians(357.528 + 0.9856003 * days)
        return 1.00014 - 0.01671 * math.cos(anomaly) - 0.00014 * math.cos(2 * anomaly)

    @property
    def kappa0(self) -> float:
        """pi d^2 / Esun, with the seven decimals of real files; -999 for emissive channels."""
        if not BANDS[self.channel].is_reflective:
            return UNDEFINED
        return round(math.pi * self.sun_distance**2 / self.coefficients.esun, 7)

    @property
    def max_count(self) -> int:
        """Largest valid count."""
        return 2**self.coefficients.bits - 2


@dataclass
class PixelStatistics:
    """What the header says about the pixels: gathered chunk by chunk while they are written."""

    valid: npt.NDArray[np.int64]
    """Histogram of the counts of good and conditionally usable pixels."""
    flags: npt.NDArray[np.int64]
    """Histogram of DQF read as an unsigned byte (255: not on the Earth)."""

    @staticmethod
    def empty() -> PixelStatistics:
        """Return statistics of no pixel."""
        return PixelStatistics(np.zeros(65536, "i8"), np.zeros(256, "i8"))

    def add(self, counts: npt.NDArray[np.uint16], dqf: npt.NDArray[np.int8]) -> None:
        """Add pixels."""
        flags = np.bincount(dqf.view("u1").ravel(), minlength=256)
        self.flags += flags
        usable = counts if flags[0] + flags[1] == dqf.size else counts[(dqf == 0) | (dqf == 1)]
        self.valid += np.bincount(usable.ravel(), minlength=65536)

    def radiances(self, scale: float, offset: float) -> dict[str, float]:
        """Minimum, maximum, mean and standard deviation of the valid radiances (-999 where there is none)."""
        counts = np.flatnonzero(self.valid)
        if not len(counts):
            return dict.fromkeys(
                ("min_radiance", "max_radiance", "mean_radiance", "std_dev_radiance"), UNDEFINED
            )
        radiance, weight = counts * scale + offset, self.valid[counts]
        mean = float(np.average(radiance, weights=weight))
        spread = float(np.sqrt(np.average((radiance - mean) ** 2, weights=weight)))
        return {
            "min_radiance": float(radiance[0]),
            "max_radiance": float(radiance[-1]),
            "mean_radiance": mean,
            "std_dev_radiance": spread,
        }


def header_values(spec: FileSpec, statistics: PixelStatistics) -> dict[str, Any]:
    """Everything the layout's ``{names}`` stand for: texts, and numbers as typed arrays.

    Parameters
    ----------
    spec : FileSpec
        The file.
    statistics : PixelStatistics
        Of the pixels already written.

    Returns
    -------
    dict
    """
    return {**_texts(spec), **_grid_numbers(spec), **_band_numbers(spec), **_pixel_numbers(spec, statistics)}


def _texts(spec: FileSpec) -> dict[str, Any]:
    band, sun = BANDS[spec.channel], BANDS[spec.channel].is_reflective
    kind, source = ("reflective", "VISIBLE") if sun else ("emissive", "INFRARED")
    stamps = {
        "time_coverage_start": spec.start,
        "time_coverage_end": spec.end,
        "date_created": spec.created,
    }
    raw_sector = spec.sector if spec.sector[0] == "M" else spec.sector[0]
    start, end = spec.name.split("_")[3:5]
    return {
        **{k: f"{t:%Y-%m-%dT%H:%M:%S}.{t.microsecond // 100_000}Z" for k, t in stamps.items()},
        "synthetic": SYNTHETIC,
        "dataset_name": spec.name,
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, spec.key)),
        "platform_id": f"G{spec.platform[4:]}",
        "instrument_id": _PLATFORMS[spec.platform][0],
        "orbital_slot": "GOES-East" if spec.platform in ("goes16", "goes19") else "GOES-West",
        "scene_id": _SCENES[spec.sector],
        "mode": spec.mode,
        "spatial_resolution": f"{ {14: '0.5', 28: '1', 56: '2'}[band.pixel] }km at nadir",
        "summary": f"{SYNTHETIC} In the layout of the single {kind} band ABI L1b Radiance Products.",
        "keywords": f"SPECTRAL/ENGINEERING > {source} WAVELENGTHS > {source} RADIANCE",
        "units": band.units,
        "quantity": f"toa_outgoing_radiance_per_unit_{'wavelength' if sun else 'wavenumber'}",
        "step": f"{spec.grid.dx:.6f}",
        "level0_name": f"OR_ABI-L0-{raw_sector}-M{spec.mode}_G{spec.platform[4:]}_{start}_{end}_c*.nc",
        "flag_meanings": " ".join(FLAGS[: spec.flag_count]),
    }


def _grid_numbers(spec: FileSpec) -> dict[str, Any]:
    grid, lon_0 = spec.grid, spec.grid.projection.longitude_of_projection_origin
    right, bottom = grid.left + grid.dx * grid.width, grid.top + grid.dy * grid.height
    sample = np.linspace(0, 1, 65)
    lon, lat = grid.lonlat((grid.height * sample - 0.5)[:, None], grid.width * sample - 0.5)
    east = (lon - lon_0 + 180.0) % 360.0 - 180.0  # a sector may lie across the date line
    seen = np.isfinite(east)
    west_east = (east[seen].min(), east[seen].max()) if seen.any() else (np.nan, np.nan)
    south_north = (lat[seen].min(), lat[seen].max()) if seen.any() else (np.nan, np.nan)
    centre_lon, centre_lat = grid.lonlat((grid.height - 1) / 2, (grid.width - 1) / 2)
    return {
        "x": np.arange(grid.width, dtype="i2"),
        "y": np.arange(grid.height, dtype="i2"),
        "x_scale": _f4(grid.dx),
        "y_scale": _f4(grid.dy),
        "x_offset": _f4(grid.x0),
        "y_offset": _f4(grid.y0),
        "x_image": _f4((grid.left + right) / 2),
        "y_image": _f4((grid.top + bottom) / 2),
        "x_image_bounds": _f4(grid.left, right),
        "y_image_bounds": _f4(grid.top, bottom),
        "lon_0": np.array([lon_0], "f8"),
        "lon_nadir": _f4(lon_0),
        "subpoint_lon": _f4(lon_0 - 0.2),
        "westbound_longitude": _f4(_normal(lon_0 + west_east[0])),
        "eastbound_longitude": _f4(_normal(lon_0 + west_east[1])),
        "southbound_latitude": _f4(south_north[0]),
        "northbound_latitude": _f4(south_north[1]),
        "lat_center": _f4(centre_lat),
        "lon_center": _f4(centre_lon),
    }


def _band_numbers(spec: FileSpec) -> dict[str, Any]:
    numbers, sun = spec.coefficients, BANDS[spec.channel].is_reflective
    bounds = [(t - J2000) / timedelta(seconds=1) for t in (spec.start, spec.end)]
    low, high = numbers.offset, numbers.offset + numbers.scale * spec.max_count
    return {
        "t": np.array([sum(bounds) / 2], "f8"),
        "time_bounds": np.array(bounds, "f8"),
        "band_id": np.array([spec.channel], "i1"),
        "wavelength": _f4(_WAVELENGTH[spec.channel - 1]),
        "fill": np.array([spec.fill], "u2").view("i2"),
        "bits": np.array([numbers.bits], "i1"),
        "counts_range": np.array([0, spec.max_count], "u2").view("i2"),
        "radiance_range": _f4(low, high),
        "scale_factor": _f4(numbers.scale),
        "add_offset": _f4(numbers.offset),
        "esun": _f4(numbers.esun),
        "kappa0": _f4(spec.kappa0),
        **{k: _f4(getattr(numbers, k)) for k in ("planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2")},
        "sun_distance": _f4(spec.sun_distance),
        "focal_plane_temperature": _f4(UNDEFINED if sun else 59.9),
        "focal_plane_threshold": _f4(UNDEFINED if sun else 81.0),
        "threshold_exceeded_count": np.array([-1 if sun else 0], "i4"),
        "flag_range": np.array([0, spec.flag_count - 1], "i1"),
        "flag_values": np.arange(spec.flag_count, dtype="i1"),
        "flag_count": np.array([spec.flag_count], "i1"),
    }


def _pixel_numbers(spec: FileSpec, statistics: PixelStatistics) -> dict[str, Any]:
    good, conditional, out_of_range, no_value = (int(n) for n in statistics.flags[:4])
    on_earth = max(1, int(statistics.flags[: spec.flag_count].sum()))
    radiances = statistics.radiances(spec.coefficients.scale, spec.coefficients.offset)
    return {
        "valid_pixel_count": np.array([good + conditional], "i4"),
        "saturated_pixel_count": np.array([out_of_range], "i4"),
        "missing_pixel_count": np.array([no_value], "i4"),
        **{f"percent_{flag}": _f4(statistics.flags[i] / on_earth) for i, flag in enumerate(FLAGS)},
        **{name: _f4(value) for name, value in radiances.items()},
    }


def _f4(*values: Any) -> npt.NDArray[np.float32]:
    return np.array(values, "f4")


def _normal(longitude: float) -> float:
    return (longitude + 180.0) % 360.0 - 180.0


def naive_utc(time: datetime) -> datetime:
    """Return the time as naive UTC; a naive one is taken to be so already."""
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
