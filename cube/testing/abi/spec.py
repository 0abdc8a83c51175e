"""What one synthetic ABI L1b file is: name, times, grid, packing, coefficients.

The coefficients are typical of GOES-16 (read off NOAA's files of 2020) and serve every platform; they are for
writing test files only. Readers take theirs from each file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cube.testing.abi.geometry import Grid, angles_of
from stratacube.errors import UsageError

__all__ = [
    "GOES16",
    "J2000",
    "PLATFORMS",
    "SCENES",
    "UNDEFINED",
    "Coefficients",
    "FileSpec",
    "is_reflective",
    "pixel_of",
    "sector_grid",
]

J2000 = datetime(2000, 1, 1, 12)
UNDEFINED = -999.0
"""What real files hold where a coefficient has no meaning."""
_LATTICE = -0.151872
"""Western (and, with its sign changed, northern) edge of the full disk in radians: all pixels lie on it."""
_LATER = {6: 0.56, 9: 0.58, 12: 0.57, 15: 0.56, 7: 1.12, 10: 1.15, 13: 1.14, 16: 1.13}
"""Seconds by which a channel's scan ends later than that of the others."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Packing and calibration of one channel (radiance units of the channel)."""

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
_PIXELS = {1: 28, 2: 14, 3: 28, 5: 28}
"""Side at nadir in microradians; 56 in other channels (PUG, volume 3, table 5.1.1)."""

PLATFORMS = {
    "goes16": ("FM1", -75.0),
    "goes17": ("FM2", -137.0),
    "goes18": ("FM3", -137.0),
    "goes19": ("FM4", -75.0),
}
SCENES = {"F": "Full Disk", "C": "CONUS", "M1": "Mesoscale", "M2": "Mesoscale"}
_SHAPES = {"F": (5424, 5424), "C": (1500, 2500), "M1": (500, 500), "M2": (500, 500)}
"""Rows and columns of a sector in 2 km pixels."""
_SECONDS = {"F": 570.82, "C": 157.2, "M1": 5.74, "M2": 5.74}


def is_reflective(channel: int) -> bool:
    """Whether a channel measures reflected sunlight rather than emission."""
    return channel <= 6


def pixel_of(channel: int) -> int:
    """Side of a channel's pixel at nadir, in microradians."""
    return _PIXELS.get(channel, 56)


def sector_grid(
    platform: str,
    sector: str,
    *,
    centre: tuple[float, float] | None = None,
    corner: tuple[float, float] | None = None,
    shape_2km: tuple[int, int] | None = None,
    lon_0: float | None = None,
) -> Grid:
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
    Grid

    Raises
    ------
    UsageError
        For an unknown platform or sector, or a centre that the satellite does not see.
    """
    if platform not in PLATFORMS or sector not in SCENES:
        raise UsageError(f"no layout for {platform} {sector}; take one of goes16..goes19 and one of F, C, M1, M2")
    lon_0 = PLATFORMS[platform][1] if lon_0 is None else lon_0
    height, width = shape_2km or _SHAPES[sector]
    pixel = 56e-6
    if corner is None and centre is None and sector == "C":
        corner = (-0.10136 if platform in ("goes16", "goes19") else -0.07, 0.12824)
    if corner is None and centre is None and sector == "F":
        corner = (_LATTICE, -_LATTICE)
    if corner is None:
        lon, lat = centre or (lon_0 + 13.0, 6.0)
        x, y = (float(v) for v in angles_of(lon_0, lon, lat))
        if math.isnan(x):
            raise UsageError(f"longitude {lon}, latitude {lat} is hidden from {lon_0}; choose a nearer centre")
        cols = round((x - _LATTICE) / pixel - width / 2)
        rows = round((-_LATTICE - y) / pixel - height / 2)
        corner = (_LATTICE + cols * pixel, -_LATTICE - rows * pixel)
    return Grid(lon_0, corner[0] + pixel / 2, corner[1] - pixel / 2, pixel, -pixel, height, width)


@dataclass(frozen=True)
class FileSpec:
    """One channel file to be written. Times are naive UTC; ``grid`` is in the channel's own pixels."""

    platform: str
    sector: str
    channel: int
    mode: int
    start: datetime
    grid: Grid
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
        coarse: Grid,
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
        coarse : Grid
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
        if channel not in GOES16:
            raise UsageError(f"there is no channel {channel}; ABI has channels 1 to 16")
        grid = coarse.rescaled(pixel_of(channel) / 56)
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
        calibration: Mapping[str, Any] | None = None,
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
        """Return ``pi d^2 / Esun``, with the seven decimals of real files; -999 for emissive channels."""
        if not is_reflective(self.channel):
            return UNDEFINED
        return round(math.pi * self.sun_distance**2 / self.coefficients.esun, 7)

    @property
    def max_count(self) -> int:
        """Largest valid count."""
        return int(2**self.coefficients.bits - 2)
