"""The moving cloud systems of the synthetic world: who is alive when, where, how large.

Systems are a function of the seed and the time alone, so that scans and cloud-system masks agree whatever sector,
hour or product is written. About a million are born in a year between 150 and 360 degrees east, most of them near the
intertropical convergence zone; each drifts, grows, decays and dies within 18 hours. The same id can come back in
another year only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["KM_PER_DEGREE", "SystemState", "active_systems"]

KM_PER_DEGREE = 111.2
BIRTHS_PER_DAY = 2700
LONGEST_HOURS = 18.0
WEST, EAST = 150.0, 360.0
"""Longitudes of birth in degrees east."""
_HARMONICS = ((2, 0.14), (3, 0.09), (5, 0.06))
"""Order and amplitude of the wobbles of a system's outline."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SystemState:
    """One system at one time."""

    system_id: int
    """Positive; the same through the system's life."""
    longitude: float
    """Degrees in [0, 360)."""
    latitude: float
    """Degrees."""
    radius_km: float
    age: float
    """0 at birth, 0.5 when largest, 1 at death."""
    top_temperature: float
    """Of its coldest part, in K."""
    phases: tuple[float, ...]
    """Of the outline's wobbles, in radians."""

    @property
    def growing(self) -> bool:
        """Whether it still grows."""
        return self.age < 0.5

    def depth(self, longitude: npt.ArrayLike, latitude: npt.ArrayLike) -> Floats:
        """How deep inside the system points lie.

        Parameters
        ----------
        longitude, latitude : array_like
            Degrees, broadcast together.

        Returns
        -------
        ndarray of float64
            1 at the centre, 0 on the outline, negative outside.
        """
        east = (np.asarray(longitude, "f8") - self.longitude + 180.0) % 360.0 - 180.0
        east = east * (KM_PER_DEGREE * math.cos(math.radians(self.latitude)))
        north = (np.asarray(latitude, "f8") - self.latitude) * KM_PER_DEGREE
        azimuth = np.arctan2(north, east)
        outline = np.ones(azimuth.shape)
        for (order, amplitude), phase in zip(_HARMONICS, self.phases, strict=True):
            outline += amplitude * np.cos(order * azimuth + phase)
        return np.asarray(1.0 - np.hypot(east, north) / (self.radius_km * outline))

    @property
    def reach_km(self) -> float:
        """No point of the system is farther from its centre."""
        return self.radius_km * (1.0 + sum(amplitude for _, amplitude in _HARMONICS))


def active_systems(seed: int, time: datetime) -> list[SystemState]:
    """List the systems alive at a time.

    Parameters
    ----------
    seed : int
        Of the synthetic world.
    time : datetime
        Naive UTC.

    Returns
    -------
    list of SystemState
        By id of birth: yesterday's, then today's.
    """
    days = (time.date() - timedelta(days=1), time.date())
    return [state for day in days for state in _births(seed, day).at(time)]


@dataclass(frozen=True)
class _Births:
    """The systems born on one day, as columns."""

    day: date
    hour: Floats
    hours: Floats
    longitude: Floats
    latitude: Floats
    east: Floats
    north: Floats
    radius: Floats
    top: Floats
    phases: Floats

    def at(self, time: datetime) -> list[SystemState]:
        lived = (time - datetime(self.day.year, self.day.month, self.day.day)) / timedelta(hours=1) - self.hour
        age = lived / self.hours
        first_id = (self.day.timetuple().tm_yday - 1) * BIRTHS_PER_DAY + 1
        states = []
        for i in np.flatnonzero((age > 0) & (age < 1)).tolist():
            latitude = self.latitude[i] + self.north[i] * lived[i]
            longitude = self.longitude[i] + self.east[i] * lived[i] / math.cos(math.radians(latitude))
            states.append(
                SystemState(
                    first_id + i,
                    longitude % 360.0,
                    latitude,
                    max(12.0, self.radius[i] * math.sin(math.pi * age[i]) ** 0.6),
                    float(age[i]),
                    float(self.top[i]),
                    tuple((self.phases[i] + 1.5 * age[i]).tolist()),
                )
            )
        return states


@lru_cache(maxsize=64)
def _births(seed: int, day: date) -> _Births:
    rng, n = np.random.default_rng([seed, day.toordinal()]), BIRTHS_PER_DAY
    season = math.sin(2 * math.pi * (day.timetuple().tm_yday - 110) / 365)
    tropical = rng.random(n) < 0.65
    latitude = np.where(tropical, rng.normal(2.0 + 7.0 * season, 7.0, n), rng.uniform(-36.0, 36.0, n))
    latitude = np.clip(latitude, -36.0, 36.0)
    longitude = rng.uniform(WEST, EAST, n)
    # Convection over a continent peaks in the local afternoon.
    local_hour = np.where(rng.random(n) < 0.5, rng.normal(14.0, 4.0, n), rng.uniform(0.0, 24.0, n))
    hours = np.clip(np.exp(rng.normal(math.log(5.0), 0.5, n)), 1.5, LONGEST_HOURS)
    westerlies = np.clip((np.abs(latitude) - 15.0) / 15.0, 0.0, 1.0)
    wind = np.stack([-7.0 + 19.0 * westerlies + rng.normal(0, 2.0, n), rng.normal(0, 1.5, n)])
    east, north = wind * 3.6 / KM_PER_DEGREE  # m/s to degrees of latitude an hour
    return _Births(
        day,
        (local_hour - longitude / 15.0) % 24.0,
        hours,
        longitude,
        latitude,
        east,
        north,
        np.clip(32.0 * hours**0.65 * np.exp(rng.normal(0, 0.3, n)), 25.0, 300.0),
        np.clip(rng.normal(202.0, 8.0, n), 186.0, 225.0),
        rng.uniform(0, 2 * math.pi, (n, len(_HARMONICS))),
    )
