"""Masks whose cells lie anywhere: 2-D latitudes and longitudes, or the native pixels of a satellite."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cube.geostationary.grid import GeosProjection
from cube.strata.labels import EARTH_RADIUS_KM, Floats, Ints

__all__ = ["CellGrid", "NamedGrid", "SeenGrid"]


@dataclass(frozen=True)
class NamedGrid:
    """All that is kept of a grid when its file has been read: whether another is the same."""

    shape: tuple[int, int]
    digest: str
    extent: str

    def __str__(self) -> str:
        rows, cols = self.shape
        return f"{rows} x {cols}, {self.extent}"

    def same(self, other: Any) -> bool:
        """Whether another grid has the same cells."""
        return isinstance(other, NamedGrid) and self.digest == other.digest


class _Cells(ABC):
    """Cells that lie side by side as the rows and columns of an image do."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    @abstractmethod
    def named(self) -> NamedGrid:
        """The grid without its cells."""

    @abstractmethod
    def place(self, row: Ints, col: Ints) -> tuple[Floats, Floats]:
        """Longitude and latitude of cells; not finite where one does not see the Earth."""

    def same(self, other: Any) -> bool:
        """Whether another grid has the same cells."""
        return isinstance(other, _Cells) and self.named.same(other.named)

    def on_earth(self, position: Ints) -> npt.NDArray[np.bool_]:
        """Whether flat positions have a place on the Earth."""
        longitude, latitude = self.place(*np.divmod(position, self.shape[1]))
        return np.isfinite(longitude) & np.isfinite(latitude)

    def area(self, row: Ints, col: Ints) -> Floats:
        """Areas of cells, km2, by the distances to the neighbours; at an edge to the one that there is."""
        sides = []
        for rows, cols in ((1, 0), (0, 1)):
            ends = [
                self._vectors(
                    np.clip(row + sign * rows, 0, self.shape[0] - 1), np.clip(col + sign * cols, 0, self.shape[1] - 1)
                )
                for sign in (-1, 1)
            ]
            here, steps = self._vectors(row, col), np.zeros(len(row))
            for i, end in enumerate(ends):
                lost = np.atleast_1d(np.isnan(np.asarray(end)).any(axis=1))
                ends[i] = np.where(lost[:, None], here, end)
                steps += (~lost) & (np.abs(ends[i] - here).max(axis=1) > 0)
            sides.append((ends[1] - ends[0]) / np.maximum(steps, 1)[:, None])
        return np.asarray(EARTH_RADIUS_KM**2 * np.linalg.norm(np.cross(sides[0], sides[1]), axis=1))

    def middle(self, row: Ints, col: Ints, system: Ints, first: Ints) -> tuple[Floats, Floats, Floats]:
        """Mean row and column; distances are chords to the mean direction of the system's pixels."""
        number = len(first)
        count = np.bincount(system, minlength=number)
        vectors = self._vectors(row, col)
        mean = np.stack([np.bincount(system, v, number).astype("f8") for v in vectors.T], axis=1)
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
        distance = ((vectors - mean[system]) ** 2).sum(axis=1)
        return np.bincount(system, row, number) / count, np.bincount(system, col, number) / count, distance

    def _vectors(self, row: Ints, col: Ints) -> Floats:
        """Unit vectors of cells, (n, 3)."""
        return _unit(*self.place(row, col))


@dataclass(frozen=True)
class CellGrid(_Cells):
    """Cells whose centres are given."""

    latitude: Floats
    """Degrees, (rows, columns); NaN where a cell does not see the Earth."""
    longitude: Floats

    @classmethod
    def of(cls, latitude: Floats, longitude: Floats) -> CellGrid:
        """Make a grid of 2-D centres.

        Raises
        ------
        ValueError
            They are out of range, or none is on the Earth.
        """
        made = []
        for name, axis, low, high in (("lat", latitude, -90.0, 90.0), ("lon", longitude, -180.0, 360.0)):
            axis = np.where(np.abs(axis) <= 720.0, axis, np.nan)  # noqa: PLW2901  (fill values, whatever they are)
            seen = axis[np.isfinite(axis)]
            if min(axis.shape) < 2 or not len(seen) or seen.min() < low - 0.01 or seen.max() > high + 0.01:
                raise ValueError(f"{name} is not 2 or more values a side in {low:g} to {high:g} degrees")
            made.append(axis)
        return cls(*made)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.latitude.shape
        return rows, cols

    @property
    def named(self) -> NamedGrid:
        """The grid without its cells."""
        digest = hashlib.sha256(self.latitude.tobytes() + self.longitude.tobytes()).hexdigest()
        lat, lon = ((np.nanmin(axis), np.nanmax(axis)) for axis in (self.latitude, self.longitude))
        return NamedGrid(self.shape, digest, f"lat {lat[0]:g} to {lat[1]:g}, lon {lon[0]:g} to {lon[1]:g}")

    def place(self, row: Ints, col: Ints) -> tuple[Floats, Floats]:
        """Longitude and latitude of cells."""
        return self.longitude[row, col], self.latitude[row, col]

    def locate(self, longitude: Floats, latitude: Floats) -> Ints:
        """Flat position of the cell whose centre is nearest, -1 farther than a cell's side from any."""
        cells, tree, reach = self._tree
        seen = np.isfinite(longitude) & np.isfinite(latitude)
        found = np.full(np.shape(longitude), -1, "i8")
        apart, nearest = tree.query(x=_unit(longitude[seen], latitude[seen]))
        found[seen] = np.where(apart <= reach, cells[nearest], -1)
        return found

    @cached_property
    def _tree(self) -> tuple[Ints, cKDTree, float]:
        """Flat positions of the cells on the Earth, their directions, and the usual side of one."""
        on = np.isfinite(self.latitude) & np.isfinite(self.longitude)
        vectors = _unit(self.longitude, self.latitude)
        sides = [np.linalg.norm(np.diff(vectors, axis=axis), axis=-1) for axis in (0, 1)]
        reach = max(float(np.nanmedian(side)) for side in sides)
        return np.flatnonzero(on), cKDTree(vectors[on]), reach


@dataclass(frozen=True)
class SeenGrid(_Cells):
    """Pixels of a geostationary satellite, by the scan angles of its columns and rows."""

    projection: GeosProjection
    x: Floats
    """Radians, by column."""
    y: Floats
    """Radians, by row."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.y), len(self.x)

    @property
    def named(self) -> NamedGrid:
        """The grid without its cells."""
        told = repr(self.projection).encode() + self.x.tobytes() + self.y.tobytes()
        where = f"seen from {self.projection.longitude_of_projection_origin:g} E"
        return NamedGrid(self.shape, hashlib.sha256(told).hexdigest(), where)

    def place(self, row: Ints, col: Ints) -> tuple[Floats, Floats]:
        """Longitude and latitude of pixels."""
        return self.projection.to_lonlat(self.x[col], self.y[row])

    def locate(self, longitude: Floats, latitude: Floats) -> Ints:
        """Flat position of the pixel that sees a place, -1 where none does."""
        x, y = self.projection.to_angles(longitude, latitude)
        col = np.rint((x - self.x[0]) / np.median(np.diff(self.x)))
        row = np.rint((y - self.y[0]) / np.median(np.diff(self.y)))
        with np.errstate(invalid="ignore"):
            inside = (row >= 0) & (row < len(self.y)) & (col >= 0) & (col < len(self.x))
        flat = np.where(inside, row, 0).astype("i8") * len(self.x) + np.where(inside, col, 0).astype("i8")
        return np.where(inside, flat, -1)


def _unit(longitude: Floats, latitude: Floats) -> Floats:
    """Directions of places, (..., 3)."""
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
