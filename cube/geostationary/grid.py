"""The ABI fixed grid: closed-form navigation between scan angles and geodetic coordinates.

Source: GOES-R Product Definition and Users' Guide, volume 3, section 5.1.2.8. Every constant is read from the
file at hand; nothing here knows a satellite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from pydantic import TypeAdapter

Floats = npt.NDArray[np.float64]

__all__ = ["FixedGrid", "GeosProjection", "Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: rows ``row:row + height``, columns ``col:col + width``."""

    row: int
    col: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"rows {self.row}:{self.row + self.height}, columns {self.col}:{self.col + self.width}"


@dataclass(frozen=True)
class GeosProjection:
    """The geostationary view of one satellite.

    Attributes are those of ``goes_imager_projection``: heights and axes in metres, longitude in degrees.
    """

    perspective_point_height: float
    semi_major_axis: float
    semi_minor_axis: float
    longitude_of_projection_origin: float
    sweep_angle_axis: str = "x"

    @cached_property
    def distance(self) -> float:
        """Distance of the satellite from the centre of the Earth, in metres."""
        return self.perspective_point_height + self.semi_major_axis

    @property
    def crs(self) -> pyproj.CRS:
        """The coordinate reference system; its metres are scan angle times perspective point height."""
        return _crs(self)

    def cf_attributes(self) -> dict[str, Any]:
        """Return the CF grid mapping attributes, as ABI files carry them."""
        return {
            "grid_mapping_name": "geostationary",
            "perspective_point_height": self.perspective_point_height,
            "semi_major_axis": self.semi_major_axis,
            "semi_minor_axis": self.semi_minor_axis,
            "latitude_of_projection_origin": 0.0,
            "longitude_of_projection_origin": self.longitude_of_projection_origin,
            "sweep_angle_axis": self.sweep_angle_axis,
        }

    def to_lonlat(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Geodetic longitude and latitude of scan angles.

        Parameters
        ----------
        x, y : array_like
            East-west and north-south scan angles in radians, broadcast together.

        Returns
        -------
        longitude, latitude : ndarray of float64
            Degrees, longitude in [-180, 180); NaN where the line of sight misses the Earth.
        """
        # Not broadcast yet: of a row and a column, sines and cosines are taken of each once.
        x, y = np.asarray(x, "f8"), np.asarray(y, "f8")
        req, rpol, h = self.semi_major_axis, self.semi_minor_axis, self.distance
        if self.sweep_angle_axis == "x":
            los_x, los_y, los_z = np.cos(x) * np.cos(y), np.sin(x), np.cos(x) * np.sin(y)
        else:
            los_x, los_y, los_z = np.cos(x) * np.cos(y), np.sin(x) * np.cos(y), np.sin(y)
        a = los_x**2 + los_y**2 + (req / rpol) ** 2 * los_z**2
        b = -2.0 * h * los_x
        c = h**2 - req**2
        root = b**2 - 4.0 * a * c
        with np.errstate(invalid="ignore"):
            reach = (-b - np.sqrt(np.where(root >= 0, root, np.nan))) / (2.0 * a)
            sx, sy, sz = reach * los_x, reach * los_y, reach * los_z
            lat = np.arctan((req / rpol) ** 2 * sz / np.hypot(h - sx, sy))
            lon = np.radians(self.longitude_of_projection_origin) + np.arctan2(sy, h - sx)
        return (np.degrees(lon) + 180.0) % 360.0 - 180.0, np.degrees(lat)

    def to_angles(
        self, lon: npt.ArrayLike, lat: npt.ArrayLike, height: npt.ArrayLike | None = None
    ) -> tuple[Floats, Floats]:
        """Scan angles of geodetic coordinates.

        Parameters
        ----------
        lon, lat : array_like
            Degrees, broadcast together.
        height : array_like, optional
            Metres above the ellipsoid; on it by default.

        Returns
        -------
        x, y : ndarray of float64
            Radians; NaN where the ellipsoid's point is not visible from the satellite.
        """
        east, north, up_toward = self._satellite_vector(lon, lat)
        if height is not None:
            east, north, up_toward = self._raised((east, north, up_toward), lon, lat, height)
        with np.errstate(invalid="ignore"):
            norm = np.sqrt(up_toward**2 + east**2 + north**2)
            if self.sweep_angle_axis == "x":
                x, y = np.arcsin(-east / norm), np.arctan(north / up_toward)
            else:
                x, y = np.arctan(-east / up_toward), np.arcsin(north / norm)
        return x, y

    def _satellite_vector(self, lon: npt.ArrayLike, lat: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Vector from the satellite (PUG's sx, sy, sz), NaN where the Earth hides the point."""
        req, rpol, h = self.semi_major_axis, self.semi_minor_axis, self.distance
        phi, lam = np.radians(np.asarray(lat, "f8")), np.radians(np.asarray(lon, "f8"))
        dlam = lam - np.radians(self.longitude_of_projection_origin)
        phi_c = np.arctan((rpol / req) ** 2 * np.tan(phi))
        rc = rpol / np.sqrt(1.0 - (1.0 - (rpol / req) ** 2) * np.cos(phi_c) ** 2)
        sx = h - rc * np.cos(phi_c) * np.cos(dlam)
        sy = -rc * np.cos(phi_c) * np.sin(dlam)
        sz = rc * np.sin(phi_c)
        # As PROJ has it: beyond the tangent from the satellite. PUG's inequality lacks the first square, and takes a
        # strip of 4 degrees behind the limb for visible.
        hidden = h * (h - sx) < (h - sx) ** 2 + sy**2 + (req / rpol) ** 2 * sz**2
        sx, sy, sz = (np.where(hidden, np.nan, v) for v in (sx, sy, sz))
        return sy, sz, sx

    def _raised(
        self, vector: tuple[Floats, Floats, Floats], lon: npt.ArrayLike, lat: npt.ArrayLike, height: npt.ArrayLike
    ) -> tuple[Floats, Floats, Floats]:
        """Add a height along the ellipsoid's normal to a vector from the satellite (sy, sz, sx)."""
        phi, lam = np.radians(np.asarray(lat, "f8")), np.radians(np.asarray(lon, "f8"))
        dlam, up = lam - np.radians(self.longitude_of_projection_origin), np.asarray(height, "f8")
        sy, sz, sx = vector
        return (
            sy - up * np.cos(phi) * np.sin(dlam),
            sz + up * np.sin(phi),
            sx - up * np.cos(phi) * np.cos(dlam),
        )

    def view_angles(self, lon: npt.ArrayLike, lat: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Zenith and azimuth of the satellite seen from the ground.

        Parameters
        ----------
        lon, lat : array_like
            Geodetic degrees, broadcast together.

        Returns
        -------
        zenith, azimuth : ndarray of float64
            Degrees; azimuth clockwise from north in [0, 360); NaN where the satellite is below the horizon.
        """
        req, rpol, h = self.semi_major_axis, self.semi_minor_axis, self.distance
        phi, lam = np.radians(np.asarray(lat, "f8")), np.radians(np.asarray(lon, "f8"))
        dlam = lam - np.radians(self.longitude_of_projection_origin)
        e2 = 1.0 - (rpol / req) ** 2
        n = req / np.sqrt(1.0 - e2 * np.sin(phi) ** 2)
        # Geocentric frame whose x axis points to the satellite; dx, dy, dz run from the ground to the satellite.
        dx = h - n * np.cos(phi) * np.cos(dlam)
        dy = -n * np.cos(phi) * np.sin(dlam)
        dz = -n * (1.0 - e2) * np.sin(phi)
        east = -np.sin(dlam) * dx + np.cos(dlam) * dy
        north = -np.sin(phi) * (np.cos(dlam) * dx + np.sin(dlam) * dy) + np.cos(phi) * dz
        up = np.cos(phi) * (np.cos(dlam) * dx + np.sin(dlam) * dy) + np.sin(phi) * dz
        zenith = np.degrees(np.arctan2(np.hypot(east, north), up))
        azimuth = np.degrees(np.arctan2(east, north)) % 360.0
        visible = zenith <= 90.0
        return np.where(visible, zenith, np.nan), np.where(visible, azimuth, np.nan)


@lru_cache(maxsize=32)
def _crs(projection: GeosProjection) -> pyproj.CRS:
    """Made once per projection: PROJ takes a quarter of a second to look its ellipsoid up."""
    return pyproj.CRS.from_cf(projection.cf_attributes())


@dataclass(frozen=True)
class FixedGrid:
    """Pixels of one file on the fixed grid.

    ``x0, y0`` are the scan angles of the centre of pixel [0, 0] (north-west) in radians; ``dx`` is positive,
    ``dy`` negative.
    """

    projection: GeosProjection
    x0: float
    y0: float
    dx: float
    dy: float
    height: int
    width: int

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> FixedGrid:
        """Make a grid of what was stored of one.

        Raises
        ------
        ValueError
            If these are not the numbers of a grid.
        """
        grid: FixedGrid = _stored_grid().validate_python(values)
        if not (grid.dx > 0 > grid.dy and grid.height > 0 < grid.width):
            raise ValueError(f"a grid of {grid.height} x {grid.width} pixels of {grid.dx:g} x {grid.dy:g} rad is none")
        return grid

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    @property
    def left(self) -> float:
        """Scan angle of the western edge, in radians."""
        return self.x0 - self.dx / 2

    @property
    def top(self) -> float:
        """Scan angle of the northern edge, in radians."""
        return self.y0 - self.dy / 2

    @property
    def resolution(self) -> str:
        """Name of the nominal resolution at nadir: ``500m``, ``1km``, ``2km`` (any other in microradians)."""
        names = {14: "500m", 28: "1km", 56: "2km", 112: "4km", 280: "10km"}
        microradians = round(self.dx * 1e6)
        return names.get(microradians, f"{microradians}urad")

    @property
    def x(self) -> Floats:
        """Scan angles of the column centres, in radians."""
        return self.x0 + self.dx * np.arange(self.width, dtype="f8")

    @property
    def y(self) -> Floats:
        """Scan angles of the row centres, in radians."""
        return self.y0 + self.dy * np.arange(self.height, dtype="f8")

    def same_pixels(self, other: FixedGrid, tolerance: float = 0.01) -> bool:
        """Whether both grids have the same pixels, to a tolerance in pixels."""
        close = (
            abs(self.x0 - other.x0) < tolerance * self.dx
            and abs(self.y0 - other.y0) < tolerance * self.dx
            and abs(self.dx - other.dx) * self.width < tolerance * self.dx
            and abs(self.dy - other.dy) * self.height < tolerance * self.dx
        )
        return close and self.shape == other.shape and self.projection == other.projection

    def lonlat(self, row: npt.ArrayLike, col: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Longitude and latitude (degrees) of fractional pixel positions; [0, 0] is a pixel's centre."""
        return self.projection.to_lonlat(
            self.x0 + self.dx * np.asarray(col, "f8"), self.y0 + self.dy * np.asarray(row, "f8")
        )

    def rowcol(self, lon: npt.ArrayLike, lat: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Fractional row and column of geodetic coordinates; NaN where hidden by the Earth."""
        x, y = self.projection.to_angles(lon, lat)
        return (y - self.y0) / self.dy, (x - self.x0) / self.dx

    def window(self, window: Window) -> FixedGrid:
        """Return the grid of a window of this one."""
        return FixedGrid(
            self.projection,
            self.x0 + self.dx * window.col,
            self.y0 + self.dy * window.row,
            self.dx,
            self.dy,
            window.height,
            window.width,
        )

    def rescaled(self, factor: int | float) -> FixedGrid:
        """Return the grid with pixels ``factor`` times as large and the same north-west corner."""
        return FixedGrid(
            self.projection,
            self.left + self.dx * factor / 2,
            self.top + self.dy * factor / 2,
            self.dx * factor,
            self.dy * factor,
            int(self.height / factor),
            int(self.width / factor),
        )


@cache
def _stored_grid() -> TypeAdapter[FixedGrid]:
    return TypeAdapter(FixedGrid)
