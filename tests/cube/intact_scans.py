"""Intact scans as hard ones are: of real images, by night, at the limb, at sunset, with the Sun's glint, in an eclipse.

A scene is a part of a real image, turned and brightened by chance, so that its statistics are those of the instrument.
It drifts from scan to scan, is lit as the Sun stands over its place (pyorbital), and gets noise of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from pyorbital.astronomy import cos_zen
from scipy.ndimage import uniform_filter

from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.geostationary.index import index_file
from cube.geostationary.screen_file import record_of
from cube.geostationary.screen_rules import judge, neighbours, strangers
from cube.testing import write_abi_file
from tests.cube.bad_scans import source_of

__all__ = ["SCANS", "SCENES", "Series", "alarms", "series_of"]

SCENES = ("night", "limb", "terminator", "glint", "eclipse")
SCANS = 5
"""Of a series."""
_SIDE = 450
"""Pixels of 2 km along an image, in chunks of half of that."""
_VIEW = GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0)
_FINE = (1, 3, 5)
_SUNLIT, _THERMAL = (4, 6, 4, 6, 1, 3, 5), tuple(range(7, 17))
_ECLIPSES = (datetime(2017, 8, 21, 18, 26), datetime(2023, 10, 14, 18, 0), datetime(2024, 4, 8, 18, 17))
"""Greatest eclipse, as NASA's catalogue has it, rounded to minutes."""
_PENUMBRA, _SHADOW = 3500.0, 0.7
"""Radius in km, and speed over the ground in km/s."""
Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Series:
    """Scans of two bands, one after the other."""

    scene: str
    seed: int
    channels: tuple[int, int]
    """One of reflected sunlight, one of heat."""
    corner: tuple[float, float]
    start: datetime
    minutes: float
    """Between scans."""


def series_of(scene: str, seed: int) -> Series:
    """Draw a series."""
    rng = np.random.default_rng([SCENES.index(scene), seed])
    corner = _corner(rng, scene)
    minutes = float(rng.choice([1, 5, 10]))
    start = datetime(2020, 1, 1) + timedelta(days=int(rng.integers(1400)), minutes=float(rng.integers(60)))
    if scene == "eclipse":
        start = _ECLIPSES[int(rng.integers(3))] - timedelta(minutes=minutes * SCANS / 2 + float(rng.integers(-40, 40)))
    else:
        start += timedelta(hours=_hour(rng, scene, corner, start))
    channels = int(rng.choice(_SUNLIT)), int(rng.choice(_THERMAL))
    return Series(scene, seed, channels, corner, start, minutes)


def _corner(rng: np.random.Generator, scene: str) -> tuple[float, float]:
    """North-western corner, on the lattice of all pixels."""
    far = 2712 - _SIDE  # columns from the middle to the edge of the disk
    if scene == "limb":
        angle, at = rng.uniform(0, 2 * np.pi), rng.uniform(2500, 2700)
        col, row = (int(at * side) for side in (np.cos(angle), np.sin(angle)))
        col, row = (min(max(n - _SIDE // 2, -2712), far) for n in (col, row))
    else:
        col, row = (int(n) - _SIDE // 2 for n in rng.integers(-1200, 1200, 2))
    return col * 56e-6, -row * 56e-6


def _hour(rng: np.random.Generator, scene: str, corner: tuple[float, float], day: datetime) -> float:
    """Of the day in UTC at which the Sun stands so over the middle."""
    lon, lat = _middle(corner)
    heights = [cos_zen(day + timedelta(hours=float(h)), lon, lat) for h in range(24)]
    if scene == "night":
        return float(np.argmin(heights))
    if scene == "terminator":
        return float(np.argmin(np.abs(heights))) + float(rng.uniform(-1, 1))
    return float(np.argmax(heights)) + float(rng.uniform(-2, 2))


def _middle(corner: tuple[float, float]) -> tuple[float, float]:
    half = _SIDE / 2 * 56e-6
    lon, lat = _VIEW.to_lonlat(corner[0] + half, corner[1] - half)
    return (float(lon), float(lat)) if np.isfinite(lon) else (-75.0, 0.0)


def write_series(folder: Path, series: Series, real: Path) -> dict[tuple[int, int], Path]:
    """Write the files of a series, by scan and channel, of the real images below a folder."""
    return {
        (number, channel): _write(folder / str(number), series, number, channel, real)
        for number in range(SCANS)
        for channel in series.channels
    }


def _write(folder: Path, series: Series, number: int, channel: int, real: Path) -> Path:
    start = series.start + timedelta(minutes=number * series.minutes)
    factor = 2 if channel in _FINE else 1
    side, pixel = _SIDE * factor, 56e-6 / factor
    image, dark, top = _drifted(series, number, channel, real, side)
    lon, lat = _places(series.corner, pixel, side)
    rng = np.random.default_rng([SCENES.index(series.scene), series.seed, number, channel])
    light = image - dark
    if channel <= 6:
        light = light * _sun(series, start, lon, lat)
    if series.scene == "glint" and channel <= 7:
        light = light + _glint(series, number, factor, image, top)
    counts = np.rint(dark + light + rng.normal(0, 1.2, image.shape))
    flags = np.where(counts > top, 2, 0).astype("i1")
    counts = np.clip(counts, 0, top).astype("u2")
    hidden = ~np.isfinite(lon)
    counts[hidden], flags[hidden] = top + 1, -1
    return write_abi_file(
        folder, sector="M1", channel=channel, start=start, corner=series.corner, shape=(side, side),
        chunks=(side // 2 if factor == 1 else side // 4,) * 2, counts=counts, dqf=flags,
    )  # fmt: skip


@lru_cache(maxsize=2)
def _places(corner: tuple[float, float], pixel: float, side: int) -> tuple[Pixels, Pixels]:
    """Longitude and latitude of all pixels; NaN off the Earth."""
    grid = FixedGrid(_VIEW, corner[0] + pixel / 2, corner[1] - pixel / 2, pixel, -pixel, side, side)
    return grid.lonlat(np.arange(side)[:, None], np.arange(side)[None, :])


def _drifted(series: Series, number: int, channel: int, real: Path, side: int) -> tuple[Pixels, float, int]:
    """A part of a real image where a wind has taken it, the count of no radiance, and the highest."""
    rng = np.random.default_rng([series.seed, channel])
    night = series.scene == "night" and channel > 6
    image, dark, top = _images(real, channel, night)[int(rng.integers(len(_images(real, channel, night))))]
    turned = image[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    room = [n - side for n in turned.shape]
    first = np.array([rng.integers(max(1, n)) for n in room])
    wind = rng.uniform(-0.5, 0.5, 2) * (side / _SIDE)  # pixels a minute: up to 17 m/s
    last = first + np.rint(wind * (SCANS - 1) * series.minutes).astype(int)
    beyond = np.minimum(last, 0) + np.maximum(last - np.maximum(0, np.array(room) - 1), 0)
    at = first - beyond + np.rint(wind * number * series.minutes).astype(int)
    at = np.clip(at, 0, room)  # where the image has no room for the wind, it stops
    gain = rng.uniform(0.7, 1.1) if channel <= 6 else 1.0
    return dark + gain * (turned[at[0] : at[0] + side, at[1] : at[1] + side].astype("f4") - dark), dark, top


@cache
def _images(real: Path, channel: int, night: bool) -> Sequence[tuple[Pixels, float, int]]:
    """Whole real images of a band, of mesoscale and CONUS sectors, without a pixel that has no count."""
    found = []
    for path in sorted(real.rglob(f"OR_ABI-L1b-Rad*C{channel:02d}_G*.nc")):
        is_night = any(day in path.name for day in ("s2019335", "s2020004", "s2020001"))
        if is_night != (night and channel > 6):
            continue
        with h5py.File(path) as h5:
            rad = h5["Rad"]
            counts = rad[:].view("u2")
            scale, offset, fill = (
                float(np.ravel(rad.attrs[n])[0]) for n in ("scale_factor", "add_offset", "_FillValue")
            )
        counts = _filled(counts, int(fill) & 0xFFFF)
        if min(counts.shape) < _SIDE * (2 if channel in _FINE else 1):
            continue
        found.append((counts, -offset / scale, int(fill) - 1))
    return found


def _filled(counts: Pixels, fill: int) -> Pixels:
    """Rows and columns of an image that have all their counts, in most of it."""
    whole = counts != fill
    counts = counts[:, whole.mean(axis=0) > 0.999]
    return np.where(counts == fill, np.median(counts), counts).astype("u2")


def _sun(series: Series, time: datetime, lon: Pixels, lat: Pixels) -> Pixels:
    """Share of the image's light that the Sun gives: as it stands, and behind the Moon."""
    few = np.s_[::25, ::25]
    where = np.isfinite(lon[few])
    coarse = np.zeros(where.shape)
    coarse[where] = np.clip(cos_zen(time, lon[few][where], lat[few][where]), 0, None)
    light = np.repeat(np.repeat(coarse, 25, axis=0), 25, axis=1)[: lon.shape[0], : lon.shape[1]]
    light = uniform_filter(light, 25, mode="nearest")  # steps made slopes
    if series.scene != "eclipse":
        return light
    rng = np.random.default_rng([series.seed, 99])
    east, north = rng.uniform(-1500, 1500, 2)
    seconds = (time - min(_ECLIPSES, key=lambda e: abs(e - time))).total_seconds()
    pixel = 2.0 * _SIDE / len(lon)  # km
    x = np.arange(lon.shape[1]) * pixel - east - _SHADOW * seconds
    y = np.arange(lon.shape[0]) * pixel - north
    return light * np.clip(np.hypot(x[None, :], y[:, None]) / _PENUMBRA, 0.01, 1)


def _glint(series: Series, number: int, factor: int, image: Pixels, top: int) -> Pixels:
    """A bright spot over dark ground, which moves with the Sun: 65 pixels of 2 km in ten minutes."""
    rng = np.random.default_rng([series.seed, 98])
    row, col = rng.uniform(0.2, 0.8, 2) * len(image)
    col -= 6.5 * factor * number * series.minutes
    width, height = rng.uniform(20, 60) * factor, rng.uniform(0.2, 1.0) * top
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    spot = height * np.exp(-((y - row) ** 2 + (x - col) ** 2) / (2 * width**2))
    return spot * np.clip((np.median(image) - image) / (image.std() + 1) + 1, 0, 1)


def alarms(folder: Path, scene: str, seed: int, real: Path) -> Iterator[tuple[int, str]]:
    """Scans of a series that are taken for unfit, and why; none should be."""
    series = series_of(scene, seed)
    records = {}
    for (number, channel), path in write_series(folder, series, real).items():
        records[number, channel] = record_of(index_file(source_of(path)), f"scan {number}")
    for number in range(SCANS):
        own = [records[number, c] for c in series.channels]
        aside = strangers(own)
        near = _near(number)
        for record in own:
            others = [found[0] for n in near if (found := neighbours(record, [records[n, record.channel]]))]
            foreign = [[records[n, c] for c in series.channels if c != record.channel] for n in near]
            verdict = judge(record, others, foreign[: len(others)])
            reason = aside.get(record.href) or (verdict.reason if verdict.word != "fit" else "")
            if reason:
                yield number, f"{scene} {seed} C{record.channel:02d}: {reason}"
                break


def _near(number: int) -> list[int]:
    """As the screening takes them: one before and one after, else two of a side."""
    return [n for n in (number - 1, number + 1, number - 2, number + 2) if 0 <= n < SCANS][:2]
