"""The Sun's place, against pyorbital and published worked examples."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
from pyorbital import astronomy

from cube.sun import solar_angles


def test_agrees_with_pyorbital_over_places_and_years() -> None:
    rng = np.random.default_rng(5)
    n = 4000
    span = np.timedelta64(20 * 365 * 86400, "s").astype(int)
    times = np.datetime64("2012-01-01T00:00:00", "ns") + rng.integers(0, span, n).astype("timedelta64[s]")
    lon, lat = rng.uniform(-180, 180, n), rng.uniform(-89, 89, n)
    zenith, azimuth = solar_angles(times, lon, lat)
    assert np.abs(zenith - astronomy.sun_zenith_angle(times, lon, lat)).max() < 0.02
    elevation, theirs = (np.asarray(v) for v in astronomy.get_alt_az(times, lon, lat))
    assert np.abs(90 - zenith - np.degrees(elevation)).max() < 0.02
    off = (azimuth - np.degrees(theirs) + 180) % 360 - 180
    high = np.abs(np.sin(np.radians(zenith))) > 0.05  # azimuth means little where the Sun is overhead
    assert np.abs(off * np.sin(np.radians(zenith)))[high].max() < 0.02


def test_agrees_with_the_example_of_the_nrel_solar_position_algorithm() -> None:
    # Reda & Andreas 2004 (NREL/TP-560-34302), table A5.1: zenith before refraction 90 - 39.872046, azimuth 194.340241.
    zenith, azimuth = solar_angles(datetime(2003, 10, 17, 19, 30, 30), -105.1786, 39.742476)
    assert zenith == pytest.approx(50.127954, abs=0.01)
    assert azimuth == pytest.approx(194.340241, abs=0.02)


def test_sun_is_overhead_at_its_declination_and_meridian() -> None:
    # Meeus, Astronomical Algorithms, example 25.a: 1992-10-13 0 h TD, declination -7.78507 degrees.
    noon = datetime(1992, 10, 12, 23, 59, 1)
    lon = np.linspace(-180, 179.9, 3600)
    zenith, _ = solar_angles(noon, lon, -7.78507)
    assert zenith.min() == pytest.approx(0, abs=0.06)
    sixty = solar_angles(noon, lon, 52.21493)[0]
    assert sixty.min() == pytest.approx(60, abs=0.01)


def test_shapes_broadcast_and_nan_stays_nan() -> None:
    times = np.array(["2020-06-01T12:00", "NaT"], dtype="datetime64[ns]")
    zenith, azimuth = solar_angles(times[:, None], np.zeros(3), np.array([0.0, 10.0, np.nan]))
    assert zenith.shape == azimuth.shape == (2, 3)
    assert np.isnan(zenith[1]).all()
    assert np.isfinite(zenith[0, :2]).all()
    assert np.isnan(zenith[0, 2])
