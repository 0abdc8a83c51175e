"""Where a map's pixels are on the Earth, and where its land is.

``land.json`` is Natural Earth's land at 1:110 million, which is in the public domain (naturalearthdata.com): rings of
longitude and latitude in hundredths of a degree, each point told as its difference from the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

__all__ = ["Frame", "unrolled"]

Floats = npt.NDArray[np.float64]
Lines = list[tuple[float, str, float]]
"""Meridians or parallels: degrees, what is written beside them, and pixel."""

_LEAST_SPAN = 0.2
"""Degrees that a map shows at least."""
_MARGIN = 0.12
_FLATTEST = 0.25
"""Least cosine of the latitude that a map is drawn with; nearer to the poles it would be a needle."""


@lru_cache(1)
def _land() -> tuple[Floats, ...]:
    told = json.loads((files("stratacube.page") / "land.json").read_text())
    return tuple(np.cumsum(np.reshape(ring, (-1, 2)), axis=0) / 100.0 for ring in told)


def unrolled(lon: Floats, middle: float) -> Floats:
    """Longitudes within half a turn of a middle one, so that what crosses the antimeridian hangs together."""
    shifted: Floats = (np.asarray(lon, "f8") - middle + 180.0) % 360.0 - 180.0
    return shifted


@dataclass(frozen=True)
class Frame:
    """The part of the Earth on a map, which is as wide in kilometres as it is high at its middle latitude."""

    middle: float
    """Longitude in the middle, degrees."""
    west: float
    east: float
    """Edges, degrees east of the middle."""
    south: float
    north: float
    width: float
    """Pixels."""

    @classmethod
    def around(cls, places: Floats, width: float, *, flattest: float = 0.36, steepest: float = 0.62) -> Frame:
        """Frame some places, with a margin.

        Parameters
        ----------
        places
            Longitude and latitude, shape (n, 2); the whole Earth where there are none.
        width
            Of the map in pixels.
        flattest, steepest
            Between which its height lies, as a share of its width.
        """
        if not len(places):
            return cls(0.0, -180.0, 180.0, -90.0, 90.0, width)
        lon, lat = places.T
        middle = float(np.degrees(np.angle(np.exp(1j * np.radians(lon)).mean())))
        offset = unrolled(lon, middle)
        middle += float(offset.min() + offset.max()) / 2
        offset = unrolled(lon, middle)
        centre = float(lat.min() + lat.max()) / 2
        stretch = max(float(np.cos(np.radians(centre))), _FLATTEST)
        high = max(float(np.ptp(lat)) * (1 + 2 * _MARGIN), _LEAST_SPAN)
        wide = max(float(np.ptp(offset)) * (1 + 2 * _MARGIN), _LEAST_SPAN / stretch)
        wide = min(max(wide, high / steepest / stretch), 360.0)
        high = min(max(high, wide * stretch * flattest), 180.0)
        south = min(max(centre - high / 2, -90.0), 90.0 - high)
        return cls((middle + 180.0) % 360.0 - 180.0, -wide / 2, wide / 2, south, south + high, width)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels a degree of longitude and of latitude."""
        along = self.width / (self.east - self.west)
        centre = (self.south + self.north) / 2
        return along, along / max(float(np.cos(np.radians(centre))), _FLATTEST)

    @property
    def height(self) -> float:
        """Pixels."""
        return (self.north - self.south) * self.scale[1]

    @property
    def corners(self) -> Floats:
        """Longitude and latitude of the corners, shape (4, 2)."""
        west, east = self.west + self.middle, self.east + self.middle
        return np.array([[west, self.south], [east, self.south], [east, self.north], [west, self.north]])

    def pixels(self, places: Floats, *, whole: bool = False) -> Floats:
        """Pixels of places, shape (n, 2); a ``whole`` ring is not torn where it leaves the half turn."""
        lon, lat = np.asarray(places, "f8").T
        offset = unrolled(lon, self.middle)
        if whole and len(offset):
            steps = unrolled(np.diff(lon, prepend=lon[0]), 0.0)
            offset = offset[0] + np.cumsum(steps)
        along, up = self.scale
        return np.stack([(offset - self.west) * along, (self.north - lat) * up], axis=1)

    def land(self) -> Iterator[Floats]:
        """Rings of the land in sight, in pixels, not yet cut off at the edges of more than the map's own size."""
        along, _ = self.scale
        for ring in _land():
            pixels = self.pixels(ring, whole=True)
            for turn in (-360.0, 0.0, 360.0):
                moved = pixels + np.array([turn * along, 0.0])
                low, high = moved.min(axis=0), moved.max(axis=0)
                if high[0] > 0 and low[0] < self.width and high[1] > 0 and low[1] < self.height:
                    yield moved

    def meridians(self) -> Lines:
        """Meridians in sight."""
        step = self._step()
        first = np.ceil((self.west + self.middle) / step)
        found: Lines = []
        for lon in np.arange(first, (self.east + self.middle) / step) * step:
            told = (lon + 180.0) % 360.0 - 180.0
            side = "" if told in (0.0, -180.0) else "W" if told < 0 else "E"
            found.append(
                (float(told), f"{abs(round(told, 6)):g}°{side}", (lon - self.middle - self.west) * self.scale[0])
            )
        return found

    def parallels(self) -> Lines:
        """Parallels in sight."""
        step = self._step()
        found: Lines = []
        for lat in np.arange(np.ceil(self.south / step), self.north / step) * step:
            side = "" if lat == 0 else "S" if lat < 0 else "N"
            found.append((float(lat), f"{abs(round(lat, 6)):g}°{side}", (self.north - lat) * self.scale[1]))
        return found

    def _step(self) -> float:
        span = self.east - self.west
        return next((s for s in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0) if span / s <= 9), 30.0)
