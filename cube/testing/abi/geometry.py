"""Where on the Earth the pixels of the ABI fixed grid lie, for the writers.

Source: GOES-R Product Definition and Users' Guide (PUG), volume 3, section 5.1.2.8. What reads the files has formulas
of its own and takes its numbers from each file: a wrong one here does not cancel out there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["HEIGHT", "Grid", "angles_of", "earth_edge", "ground_of", "view_zenith"]

Floats = npt.NDArray[np.float64]

HEIGHT = 35786023.0
"""Of the satellite above the equator, in metres."""
_EQUATOR, _POLE = 6378137.0, 6356752.31414
"""Semi-axes of the Earth (GRS 80), in metres."""
_DISTANCE = HEIGHT + _EQUATOR
"""Of the satellite from the centre of the Earth, in metres."""


@dataclass(frozen=True)
class Grid:
    """Pixels of one file; angles in radians, counted from the point below the satellite to east and north."""

    lon_0: float
    """Longitude of the projection origin in degrees."""
    x0: float
    y0: float
    """Scan angles of the centre of pixel [0, 0], the north-western one."""
    dx: float
    dy: float
    """Steps from pixel to pixel; that to the south is negative."""
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    @property
    def left(self) -> float:
        """Scan angle of the western edge."""
        return self.x0 - self.dx / 2

    @property
    def top(self) -> float:
        """Scan angle of the northern edge."""
        return self.y0 - self.dy / 2

    @property
    def x(self) -> Floats:
        """Scan angles of the column centres."""
        return self.x0 + self.dx * np.arange(self.width, dtype="f8")

    @property
    def y(self) -> Floats:
        """Scan angles of the row centres."""
        return self.y0 + self.dy * np.arange(self.height, dtype="f8")

    def lonlat(self, row: npt.ArrayLike, col: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Longitude and latitude of fractional pixel positions; [0, 0] is a pixel's centre.

        Parameters
        ----------
        row, col : array_like
            Broadcast together.

        Returns
        -------
        longitude, latitude : ndarray of float64
            Degrees; NaN where the line of sight misses the Earth.
        """
        x, y = self.x0 + self.dx * np.asarray(col, "f8"), self.y0 + self.dy * np.asarray(row, "f8")
        return ground_of(self.lon_0, x, y)

    def rowcol(self, lon: npt.ArrayLike, lat: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Fractional row and column of places on the ground.

        Parameters
        ----------
        lon, lat : array_like
            Geodetic degrees, broadcast together.

        Returns
        -------
        row, col : ndarray of float64
            NaN where the Earth hides the place.
        """
        x, y = angles_of(self.lon_0, lon, lat)
        return (y - self.y0) / self.dy, (x - self.x0) / self.dx

    def rescaled(self, factor: float) -> Grid:
        """Return the grid with pixels ``factor`` times as large and the same north-western corner."""
        return Grid(
            self.lon_0,
            self.left + self.dx * factor / 2,
            self.top + self.dy * factor / 2,
            self.dx * factor,
            self.dy * factor,
            int(self.height / factor),
            int(self.width / factor),
        )


def ground_of(lon_0: float, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Longitude and latitude of scan angles (PUG 5.1.2.8.1).

    Parameters
    ----------
    lon_0 : float
        Longitude of the projection origin in degrees.
    x, y : array_like
        Radians, broadcast together.

    Returns
    -------
    longitude, latitude : ndarray of float64
        Degrees, longitude in [-180, 180); NaN where the line of sight misses the Earth.
    """
    x, y = np.broadcast_arrays(np.asarray(x, "f8"), np.asarray(y, "f8"))
    toward, east, north = np.cos(x) * np.cos(y), np.sin(x), np.cos(x) * np.sin(y)
    a = toward**2 + east**2 + (_EQUATOR / _POLE) ** 2 * north**2
    b = -2.0 * _DISTANCE * toward
    c = _DISTANCE**2 - _EQUATOR**2
    root = b**2 - 4.0 * a * c
    reach = (-b - np.sqrt(np.where(root >= 0, root, np.nan))) / (2.0 * a)
    toward, east, north = reach * toward, reach * east, reach * north
    lat = np.arctan((_EQUATOR / _POLE) ** 2 * north / np.hypot(_DISTANCE - toward, east))
    lon = np.radians(lon_0) + np.arctan2(east, _DISTANCE - toward)
    return (np.degrees(lon) + 180.0) % 360.0 - 180.0, np.degrees(lat)


def angles_of(lon_0: float, lon: npt.ArrayLike, lat: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Scan angles of places on the ground (PUG 5.1.2.8.2).

    Parameters
    ----------
    lon_0 : float
        Longitude of the projection origin in degrees.
    lon, lat : array_like
        Geodetic degrees, broadcast together.

    Returns
    -------
    x, y : ndarray of float64
        Radians; NaN where the Earth hides the place.
    """
    phi = np.radians(np.asarray(lat, "f8"))
    away = np.radians(np.asarray(lon, "f8")) - np.radians(lon_0)
    geocentric = np.arctan((_POLE / _EQUATOR) ** 2 * np.tan(phi))
    radius = _POLE / np.sqrt(1.0 - (1.0 - (_POLE / _EQUATOR) ** 2) * np.cos(geocentric) ** 2)
    sx = _DISTANCE - radius * np.cos(geocentric) * np.cos(away)
    sy = -radius * np.cos(geocentric) * np.sin(away)
    sz = radius * np.sin(geocentric)
    hidden = _DISTANCE * (_DISTANCE - sx) < sy**2 + (_EQUATOR / _POLE) ** 2 * sz**2
    sx, sy, sz = (np.where(hidden, np.nan, v) for v in (sx, sy, sz))
    return np.arcsin(-sy / np.sqrt(sx**2 + sy**2 + sz**2)), np.arctan(sz / sx)


def view_zenith(lon_0: float, lon: npt.ArrayLike, lat: npt.ArrayLike) -> Floats:
    """Zenith angle of the satellite seen from the ground.

    Parameters
    ----------
    lon_0 : float
        Longitude below the satellite in degrees.
    lon, lat : array_like
        Geodetic degrees, broadcast together.

    Returns
    -------
    ndarray of float64
        Degrees; above 90 below the horizon.
    """
    phi = np.radians(np.asarray(lat, "f8"))
    away = np.radians(np.asarray(lon, "f8")) - np.radians(lon_0)
    squashed = 1.0 - (_POLE / _EQUATOR) ** 2
    normal = _EQUATOR / np.sqrt(1.0 - squashed * np.sin(phi) ** 2)
    # Geocentric, the x axis to the satellite: the vector from the ground to the satellite.
    dx = _DISTANCE - normal * np.cos(phi) * np.cos(away)
    dy = -normal * np.cos(phi) * np.sin(away)
    dz = -normal * (1.0 - squashed) * np.sin(phi)
    east = -np.sin(away) * dx + np.cos(away) * dy
    level = np.cos(away) * dx + np.sin(away) * dy
    north = -np.sin(phi) * level + np.cos(phi) * dz
    up = np.cos(phi) * level + np.sin(phi) * dz
    return np.asarray(np.degrees(np.arctan2(np.hypot(east, north), up)))


def earth_edge(y: npt.NDArray[np.float64]) -> Floats:
    """East-west scan angle of the Earth's limb on rows of the fixed grid.

    The discriminant of the PUG's quadratic (section 5.1.2.8.1) solved for x.

    Parameters
    ----------
    y : ndarray of float64
        North-south scan angles in radians.

    Returns
    -------
    ndarray of float64
        Radians: pixels with larger ``abs(x)`` see space; -1 where the whole row does.
    """
    squashed = (_EQUATOR / _POLE) ** 2 - 1.0
    c = _DISTANCE**2 - _EQUATOR**2
    cosine2 = c / (_DISTANCE**2 * np.cos(y) ** 2 - c * squashed * np.sin(y) ** 2)
    return np.where(cosine2 <= 1.0, np.arccos(np.sqrt(np.minimum(cosine2, 1.0))), -1.0)
