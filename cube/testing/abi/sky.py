"""A plausible sky for synthetic ABI scans: surface, low clouds, cirrus and the moving convective systems.

Everything is a smooth function of place and time on the ground, computed once a scan on a coarse grid; finer pixels get
a drifting texture on top (``pixels``). The physics is that of a sketch: Planck's law, a solar zenith angle,
opaque and semi-transparent layers; no parallax and no shadow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from cube.testing.abi.geometry import HEIGHT, Grid, ground_of, view_zenith
from cube.testing.abi.spec import J2000, Coefficients
from cube.testing.systems import KM_PER_DEGREE, SystemState, active_systems

__all__ = ["Sky", "emitted", "fractal_tile", "reflected", "sky"]

Image = npt.NDArray[np.float32]

_LIMB = (0.15185, 0.15133)
"""Half axes of the Earth's disk in radians."""
_TILE_KM = 4.0
"""Ground size of a fractal tile's cell for the large-scale fields."""
# Share of the surface in what the band sees, temperature (K) of the air it sees otherwise, fall (K) of that per unit of
# upper humidity, and cooling (K) per unit of slant path.
_EMISSION = {
    7: (1.00, 290.0, 0.0, 0.5),
    8: (0.00, 240.0, 6.0, 4.0),
    9: (0.00, 250.0, 5.5, 4.0),
    10: (0.08, 260.0, 4.5, 4.0),
    11: (0.96, 270.0, 1.0, 1.0),
    12: (0.40, 245.0, 0.5, 4.0),
    13: (0.97, 275.0, 0.5, 1.0),
    14: (0.95, 275.0, 1.0, 1.3),
    15: (0.90, 275.0, 1.5, 2.0),
    16: (0.42, 252.0, 1.0, 4.0),
}
_ICE_ABSORPTION = {7: 0.8, 11: 0.9, 13: 0.95, 14: 1.05, 15: 1.2}
# Albedo of sea and land, reflectance of the air, and of low and ice clouds as shares of their visible one.
_REFLECTION = {
    1: (0.035, 0.055, 0.070, 1.00, 1.00),
    2: (0.025, 0.070, 0.025, 1.00, 1.00),
    3: (0.015, 0.300, 0.008, 0.98, 1.00),
    4: (0.000, 0.001, 0.000, 0.03, 0.65),
    5: (0.008, 0.220, 0.001, 0.90, 0.45),
    6: (0.005, 0.120, 0.001, 0.75, 0.32),
}
_SUN_C07 = 15.2
"""Solar irradiance in channel 7, mW m-2 (cm-1)-1 (9.97 W m-2 um-1 at 3.9 um; Gueymard 2004)."""


@dataclass(frozen=True)
class Sky:
    """The state of the sky over a coarse grid; arrays of one shape."""

    sun: Image
    """Cosine of the solar zenith angle, 0 at night."""
    slant: Image
    """1 / cos(view zenith) - 1, at most 4."""
    land: Image
    """0 sea, 1 land."""
    surface: Image
    """Temperature, K."""
    humidity: Image
    """Of the upper troposphere, about -2 to 2."""
    low: Image
    """Cover of low clouds, 0 to 1."""
    low_temperature: Image
    ice: Image
    """Emissivity of cirrus and anvils, 0 to 1."""
    ice_temperature: Image
    ice_brightness: Image
    """Reflectance of the ice clouds in the visible, 0 to 1."""


def sky(seed: int, grid: Grid, time: datetime) -> Sky:
    """Compute the sky over a grid.

    Parameters
    ----------
    seed : int
        Of the synthetic world.
    grid : Grid
        Coarse pixels; off the Earth, the sky of the nearest limb is continued.
    time : datetime
        Naive UTC.

    Returns
    -------
    Sky
    """
    x, y = np.broadcast_arrays(grid.x[None, :], grid.y[:, None])
    outside = np.maximum(1.0, np.hypot(x / _LIMB[0], y / _LIMB[1]) / 0.999)
    lon, lat = ground_of(grid.lon_0, x / outside, y / outside)
    zenith = view_zenith(grid.lon_0, lon, lat)
    noise = _Noise(seed, lon, lat, time)
    sun = _sun_cosine(lon, lat, time)
    land = np.clip(0.5 + 6.0 * noise(0, 1.6), 0, 1)
    warmth = np.clip(_sun_cosine(lon, lat, time - timedelta(hours=1.5)), 0, 1)
    sea_temperature = 301.0 - 0.011 * np.abs(lat) ** 2
    surface = sea_temperature + land * (12.0 * warmth - 5.0 + 1.5 * noise(1, 1.3, smooth=True))
    # Layers that drift apart: the clouds change shape while they move.
    field = 0.6 * noise(2, 0.37, (-6.0, 1.0)) + 0.4 * noise(3, 0.53, (-9.0, -2.0))
    field += 0.4 * noise(4, 1.9, (-7.0, 0.0), smooth=True)
    low = np.clip(0.9 * (field - 0.75), 0, 1)
    low_temperature = surface - 6.5 * (1.2 + 2.0 * low)
    cirrus = np.clip(0.3 * (noise(5, 0.7, (9.0, 2.0)) - 1.3), 0, 0.55)
    ice, temperature, brightness = _systems(active_systems(seed, time), grid, lon, lat, noise(6, 0.3, (-7.0, 0.5)))
    thin = cirrus > ice
    fields = (
        np.maximum(sun, 0.0),
        np.minimum(1.0 / np.maximum(np.cos(np.radians(zenith)), 0.2) - 1.0, 4.0),
        land,
        surface,
        noise(7, 1.5, (8.0, 1.0), smooth=True),
        low,
        low_temperature,
        np.where(thin, cirrus, ice),
        np.where(thin, 228.0, temperature),
        np.where(thin, 0.5 * cirrus, brightness),
    )
    return Sky(*(np.ascontiguousarray(f, "f4") for f in fields))


def _systems(
    systems: list[SystemState],
    grid: Grid,
    lon: npt.NDArray[np.float64],
    lat: npt.NDArray[np.float64],
    rough: Image,
) -> tuple[Image, Image, Image]:
    """Emissivity, temperature and brightness of the convective systems."""
    ice, brightness = np.zeros(lon.shape, "f4"), np.zeros(lon.shape, "f4")
    temperature = np.full(lon.shape, 245.0, "f4")
    for system in systems:
        box = _box(grid, system)
        if box is None:
            continue
        depth = system.depth(lon[box], lat[box]).astype("f4") + 0.12 * rough[box]
        vigour = np.float32(math.sin(math.pi * min(0.5, system.age)) ** 0.5 if system.growing else 1.0)
        cover = np.clip(depth / 0.18, 0, 1)
        # A core of overshooting tops wanders round the centre while the system grows.
        core = np.exp(-((np.maximum(1.0 - depth, 0) / 0.25) ** 2)) * (1.0 - system.age)
        cold = 242.0 - (242.0 - system.top_temperature) * vigour * np.clip(1.6 * depth, 0, 1) ** 0.7
        cold = cold - 7.0 * core + 1.5 * rough[box]
        shine = cover * np.clip(0.45 + 0.5 * depth + 0.07 * rough[box], 0, 0.9)
        inside = cover > ice[box]
        ice[box] = np.where(inside, cover, ice[box])
        temperature[box] = np.where(cover > 0, np.minimum(cold, temperature[box]), temperature[box])
        brightness[box] = np.maximum(brightness[box], shine)
    return ice, temperature, brightness


def _box(grid: Grid, system: SystemState) -> tuple[slice, slice] | None:
    """Rows and columns that can hold the system, None where there are none."""
    row, col = (float(v) for v in grid.rowcol(system.longitude, system.latitude))
    if math.isnan(row):
        return None
    # A pixel covers at least its size at nadir, 35786 km below the satellite.
    reach = 1.15 * system.reach_km / (grid.dx * HEIGHT / 1000.0) + 2
    rows = slice(max(0, int(row - reach)), min(grid.height, int(row + reach) + 1))
    cols = slice(max(0, int(col - reach)), min(grid.width, int(col + reach) + 1))
    return (rows, cols) if rows.start < rows.stop and cols.start < cols.stop else None


def emitted(sky: Sky, channel: int, numbers: Coefficients) -> Image:
    """Radiance of an emissive channel, in mW m-2 sr-1 (cm-1)-1.

    Parameters
    ----------
    sky : Sky
        State of the sky.
    channel : int
        7 to 16; channel 7 includes the reflected sun.
    numbers : Coefficients
        The channel's Planck coefficients.

    Returns
    -------
    ndarray of float32
    """
    share, air, drying, limb = _EMISSION[channel]
    clear = share * sky.surface + (1.0 - share) * air - drying * sky.humidity - limb * sky.slant
    radiance = _planck(clear, numbers)
    seen = sky.low * share * share  # what absorbs the surface's radiance absorbs that of low clouds
    radiance += seen * (_planck(np.minimum(sky.low_temperature, clear), numbers) - radiance)
    if channel == 7:
        reflectance = (0.03 + 0.04 * sky.land) * (1.0 - sky.low) + 0.12 * sky.low
        radiance += sky.sun * (_SUN_C07 / math.pi) * reflectance
    ice = 1.0 - (1.0 - sky.ice) ** _ICE_ABSORPTION.get(channel, 1.0)
    cold = np.minimum(sky.ice_temperature + 3.0 * (1.0 - share), clear)
    radiance += ice * (_planck(cold, numbers) - radiance)
    if channel == 7:
        radiance += sky.sun * (_SUN_C07 / math.pi) * 0.02 * sky.ice
    return radiance


def _planck(temperature: Image, numbers: Coefficients) -> Image:
    effective = numbers.planck_bc1 + numbers.planck_bc2 * temperature
    return np.asarray(numbers.planck_fk1 / (np.exp(numbers.planck_fk2 / effective) - 1.0), "f4")


def reflected(sky: Sky, channel: int, kappa0: float) -> Image:
    """Radiance of a reflective channel (1 to 6), in W m-2 sr-1 um-1: 0 at night."""
    sea, soil, air, low_share, ice_share = _REFLECTION[channel]
    low = 0.75 * low_share * sky.low * (1.0 - sky.ice)
    ice = ice_share * sky.ice_brightness
    cloud = 1.0 - (1.0 - low) * (1.0 - ice)
    ground = sea + (soil - sea) * sky.land
    reflectance = cloud + (1.0 - cloud) ** 2 * ground + air * (1.0 + sky.slant) * (1.0 - 0.7 * ice)
    return np.asarray(reflectance * sky.sun / kappa0, "f4")


def _sun_cosine(lon: npt.NDArray[np.float64], lat: npt.NDArray[np.float64], time: datetime) -> npt.NDArray[np.float64]:
    """Cosine of the solar zenith angle; negative where the sun is below the horizon.

    Source: the Astronomical Almanac's low-precision formula as J. J. Michalsky gives it, Solar Energy 40 (1988) 227.
    """
    days = (np.datetime64(time, "ns") - np.datetime64(J2000, "ns")) / np.timedelta64(1, "D")
    anomaly = np.radians(357.528 + 0.9856003 * days)
    ecliptic = 280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2.0 * anomaly)
    ecliptic, obliquity = np.radians(ecliptic), np.radians(23.439 - 0.0000004 * days)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(obliquity) * np.sin(ecliptic))
    sidereal = 15.0 * ((6.697375 + 0.0657098242 * days + (days + 0.5) % 1.0 * 24.0) % 24.0)
    hour_angle, phi = np.radians(sidereal + lon) - right_ascension, np.radians(lat)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.sin(declination) * np.cos(phi) - np.cos(declination) * np.sin(phi) * np.cos(hour_angle)
    up = np.sin(declination) * np.sin(phi) + np.cos(declination) * np.cos(phi) * np.cos(hour_angle)
    # ``up`` itself but for its last bits; with those of the angle a seed gives the pixels that it always gave.
    return np.asarray(np.cos(np.radians(np.degrees(np.arctan2(np.hypot(east, north), up)))))


class _Noise:
    """Smooth random fields fixed to the ground or drifting over it, each with unit variance."""

    def __init__(self, seed: int, lon: npt.NDArray[np.float64], lat: npt.NDArray[np.float64], time: datetime) -> None:
        self._rough, self._smooth = fractal_tile(seed, 1024, 2.0), fractal_tile(seed, 1024, 2.8)
        self._east, self._north = (lon % 360.0) * KM_PER_DEGREE, lat * KM_PER_DEGREE
        self._seconds = (time - datetime(2000, 1, 1)) / timedelta(seconds=1)

    def __call__(
        self, layer: int, stretch: float, wind: tuple[float, float] = (0.0, 0.0), *, smooth: bool = False
    ) -> Image:
        """Layer number, size of its features (1: 4 km cells), drift in m/s to east and north."""
        tile = self._smooth if smooth else self._rough
        size = tile.shape[0]
        step = _TILE_KM * stretch
        # Each layer looks at another part of the tile, by an irrational stride.
        u = (self._east - wind[0] * self._seconds / 1000.0) / step + layer * 197.618
        v = (self._north - wind[1] * self._seconds / 1000.0) / step + layer * 318.297
        col, row = np.floor(u), np.floor(v)
        a, b = (u - col).astype("f4"), (v - row).astype("f4")
        i, j = row.astype("i8") % size, col.astype("i8") % size
        i2, j2 = (i + 1) % size, (j + 1) % size
        above = tile[i, j] * (1 - a) + tile[i, j2] * a
        below = tile[i2, j] * (1 - a) + tile[i2, j2] * a
        return np.asarray(above * (1 - b) + below * b, "f4")


@lru_cache(maxsize=8)
def fractal_tile(seed: int, size: int, slope: float) -> Image:
    """Periodic noise with a power-law amplitude spectrum, mean 0 and variance 1.

    Parameters
    ----------
    seed : int
        Of the synthetic world.
    size : int
        Rows and columns.
    slope : float
        Amplitude falls as wave number to this power.

    Returns
    -------
    ndarray of float32, (size, size)
        Read-only.
    """
    rng = np.random.default_rng([seed, size, round(100 * slope)])
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype="f4"))
    k = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    k[0, 0] = np.inf
    # Flat below the sixth wave: no one shape fills the tile and shows where it repeats.
    tile = np.fft.irfft2(spectrum * np.maximum(k, 6.0) ** -slope, (size, size))
    result: Image = (tile / tile.std()).astype("f4")
    result.setflags(write=False)
    return result
