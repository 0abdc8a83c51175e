"""Where the Sun stands.

Source: the Astronomical Almanac's low-precision formula as given by J. J. Michalsky, The Astronomical
Almanac's algorithm for approximate solar position (1950-2050), Solar Energy 40 (1988) 227-235: 0.01 degree.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

__all__ = ["solar_angles"]

_J2000 = np.datetime64("2000-01-01T12:00:00", "ns")
_DAY = np.timedelta64(86_400_000_000_000, "ns")


def solar_angles(
    time: datetime | np.datetime64 | npt.NDArray[np.datetime64], lon: npt.ArrayLike, lat: npt.ArrayLike
) -> tuple[Floats, Floats]:
    """Zenith and azimuth of the Sun's centre, geometric (no refraction, no parallax).

    Parameters
    ----------
    time : datetime or datetime64 or ndarray of datetime64
        Naive UTC, from 1950 to 2050; UTC stands for UT1 here (less than 0.004 degree).
    lon, lat : array_like
        Geodetic degrees, broadcast together with ``time``.

    Returns
    -------
    zenith, azimuth : ndarray of float64
        Degrees; zenith in [0, 180], azimuth clockwise from north in [0, 360). NaN where an input is.
    """
    days = (np.asarray(time, dtype="datetime64[ns]") - _J2000) / _DAY
    right_ascension, declination = _equatorial(days)
    hours_ut = (days + 0.5) % 1.0 * 24.0
    sidereal = 15.0 * ((6.697375 + 0.0657098242 * days + hours_ut) % 24.0)
    longitude, latitude = np.asarray(lon, "f8"), np.radians(np.asarray(lat, "f8"))
    hour_angle = np.radians(sidereal + longitude) - right_ascension
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.sin(declination) * np.cos(latitude)
    north = north - np.cos(declination) * np.sin(latitude) * np.cos(hour_angle)
    up = np.sin(declination) * np.sin(latitude)
    up = up + np.cos(declination) * np.cos(latitude) * np.cos(hour_angle)
    zenith = np.degrees(np.arctan2(np.hypot(east, north), up))
    azimuth = np.degrees(np.arctan2(east, north)) % 360.0
    return zenith, azimuth


def _equatorial(days: Floats) -> tuple[Floats, Floats]:
    """Right ascension and declination (radians) at days since J2000.0."""
    mean_longitude = 280.460 + 0.9856474 * days
    anomaly = np.radians(357.528 + 0.9856003 * days)
    ecliptic = np.radians(mean_longitude + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2.0 * anomaly))
    obliquity = np.radians(23.439 - 0.0000004 * days)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(obliquity) * np.sin(ecliptic))
    return right_ascension, declination
