"""What a synthetic ABI L1b file says in its attributes and scalar variables."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.testing.abi.spec import J2000, PLATFORMS, SCENES, UNDEFINED, FileSpec, is_reflective, pixel_of

__all__ = ["FLAGS", "PixelStatistics", "header_values"]

SYNTHETIC = "Synthetic data written by stratacube for demonstrations and tests: not an observation."
FLAGS = (
    "good_pixel_qf",
    "conditionally_usable_pixel_qf",
    "out_of_range_pixel_qf",
    "no_value_pixel_qf",
    "focal_plane_temperature_threshold_exceeded_qf",
)
"""Meanings of DQF."""
# fmt: off
_WAVELENGTH = (0.47, 0.64, 0.87, 1.38, 1.61, 2.25, 3.89, 6.17, 6.93, 7.34, 8.44, 9.61, 10.33, 11.19, 12.27, 13.27)
"""As the files have it, in micrometres."""
# fmt: on


@dataclass
class PixelStatistics:
    """What the header says about the pixels: gathered chunk by chunk while they are written."""

    valid: npt.NDArray[np.int64]
    """Histogram of the counts of good and conditionally usable pixels."""
    flags: npt.NDArray[np.int64]
    """Histogram of DQF read as an unsigned byte (255: not on the Earth)."""

    @staticmethod
    def empty() -> PixelStatistics:
        """Return statistics of no pixel."""
        return PixelStatistics(np.zeros(65536, "i8"), np.zeros(256, "i8"))

    def add(self, counts: npt.NDArray[np.uint16], dqf: npt.NDArray[np.int8]) -> None:
        """Add pixels."""
        flags = np.bincount(dqf.view("u1").ravel(), minlength=256)
        self.flags += flags
        usable = counts if flags[0] + flags[1] == dqf.size else counts[(dqf == 0) | (dqf == 1)]
        self.valid += np.bincount(usable.ravel(), minlength=65536)

    def radiances(self, scale: float, offset: float) -> dict[str, float]:
        """Minimum, maximum, mean and standard deviation of the valid radiances (-999 where there is none)."""
        counts = np.flatnonzero(self.valid)
        if not len(counts):
            return dict.fromkeys(("min_radiance", "max_radiance", "mean_radiance", "std_dev_radiance"), UNDEFINED)
        radiance, weight = counts * scale + offset, self.valid[counts]
        mean = float(np.average(radiance, weights=weight))
        spread = float(np.sqrt(np.average((radiance - mean) ** 2, weights=weight)))
        return {
            "min_radiance": float(radiance[0]),
            "max_radiance": float(radiance[-1]),
            "mean_radiance": mean,
            "std_dev_radiance": spread,
        }


def header_values(spec: FileSpec, statistics: PixelStatistics) -> dict[str, Any]:
    """Everything the layout's ``{names}`` stand for: texts, and numbers as typed arrays.

    Parameters
    ----------
    spec : FileSpec
        The file.
    statistics : PixelStatistics
        Of the pixels already written.

    Returns
    -------
    dict
    """
    return {**_texts(spec), **_grid_numbers(spec), **_band_numbers(spec), **_pixel_numbers(spec, statistics)}


def _texts(spec: FileSpec) -> dict[str, Any]:
    sun = is_reflective(spec.channel)
    kind, source = ("reflective", "VISIBLE") if sun else ("emissive", "INFRARED")
    stamps = {
        "time_coverage_start": spec.start,
        "time_coverage_end": spec.end,
        "date_created": spec.created,
    }
    raw_sector = spec.sector if spec.sector[0] == "M" else spec.sector[0]
    start, end = spec.name.split("_")[3:5]
    return {
        **{k: f"{t:%Y-%m-%dT%H:%M:%S}.{t.microsecond // 100_000}Z" for k, t in stamps.items()},
        "synthetic": SYNTHETIC,
        "dataset_name": spec.name,
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, spec.key)),
        "platform_id": f"G{spec.platform[4:]}",
        "instrument_id": PLATFORMS[spec.platform][0],
        "orbital_slot": _slot(spec.grid.lon_0),
        "scene_id": SCENES[spec.sector],
        "mode": spec.mode,
        "spatial_resolution": f"{ {14: '0.5', 28: '1', 56: '2'}[pixel_of(spec.channel)] }km at nadir",
        "summary": f"{SYNTHETIC} In the layout of the single {kind} band ABI L1b Radiance Products.",
        "keywords": f"SPECTRAL/ENGINEERING > {source} WAVELENGTHS > {source} RADIANCE",
        "units": "W m-2 sr-1 um-1" if sun else "mW m-2 sr-1 (cm-1)-1",
        "quantity": f"toa_outgoing_radiance_per_unit_{'wavelength' if sun else 'wavenumber'}",
        "step": f"{spec.grid.dx:.6f}",
        "level0_name": f"OR_ABI-L0-{raw_sector}-M{spec.mode}_G{spec.platform[4:]}_{start}_{end}_c*.nc",
        "flag_meanings": " ".join(FLAGS[: spec.flag_count]),
    }


def _grid_numbers(spec: FileSpec) -> dict[str, Any]:
    grid, lon_0 = spec.grid, spec.grid.lon_0
    right, bottom = grid.left + grid.dx * grid.width, grid.top + grid.dy * grid.height
    sample = np.linspace(0, 1, 65)
    lon, lat = grid.lonlat((grid.height * sample - 0.5)[:, None], grid.width * sample - 0.5)
    east = (lon - lon_0 + 180.0) % 360.0 - 180.0  # a sector may lie across the date line
    seen = np.isfinite(east)
    west_east = (east[seen].min(), east[seen].max()) if seen.any() else (np.nan, np.nan)
    south_north = (lat[seen].min(), lat[seen].max()) if seen.any() else (np.nan, np.nan)
    centre_lon, centre_lat = grid.lonlat((grid.height - 1) / 2, (grid.width - 1) / 2)
    return {
        "x": np.arange(grid.width, dtype="i2"),
        "y": np.arange(grid.height, dtype="i2"),
        "x_scale": _f4(grid.dx),
        "y_scale": _f4(grid.dy),
        "x_offset": _f4(grid.x0),
        "y_offset": _f4(grid.y0),
        "x_image": _f4((grid.left + right) / 2),
        "y_image": _f4((grid.top + bottom) / 2),
        "x_image_bounds": _f4(grid.left, right),
        "y_image_bounds": _f4(grid.top, bottom),
        "lon_0": np.array([lon_0], "f8"),
        "lon_nadir": _f4(lon_0),
        "subpoint_lon": _f4(lon_0 - 0.2),
        "westbound_longitude": _f4(_normal(lon_0 + west_east[0])),
        "eastbound_longitude": _f4(_normal(lon_0 + west_east[1])),
        "southbound_latitude": _f4(south_north[0]),
        "northbound_latitude": _f4(south_north[1]),
        "lat_center": _f4(centre_lat),
        "lon_center": _f4(centre_lon),
    }


def _band_numbers(spec: FileSpec) -> dict[str, Any]:
    numbers, sun = spec.coefficients, is_reflective(spec.channel)
    bounds = [(t - J2000) / timedelta(seconds=1) for t in (spec.start, spec.end)]
    low, high = numbers.offset, numbers.offset + numbers.scale * spec.max_count
    return {
        "t": np.array([sum(bounds) / 2], "f8"),
        "time_bounds": np.array(bounds, "f8"),
        "band_id": np.array([spec.channel], "i1"),
        "wavelength": _f4(_WAVELENGTH[spec.channel - 1]),
        "fill": np.array([spec.fill], "u2").view("i2"),
        "bits": np.array([numbers.bits], "i1"),
        "counts_range": np.array([0, spec.max_count], "u2").view("i2"),
        "radiance_range": _f4(low, high),
        "scale_factor": _f4(numbers.scale),
        "add_offset": _f4(numbers.offset),
        "esun": _f4(numbers.esun),
        "kappa0": _f4(spec.kappa0),
        **{k: _f4(getattr(numbers, k)) for k in ("planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2")},
        "sun_distance": _f4(spec.sun_distance),
        "focal_plane_temperature": _f4(UNDEFINED if sun else 59.9),
        "focal_plane_threshold": _f4(UNDEFINED if sun else 81.0),
        "threshold_exceeded_count": np.array([-1 if sun else 0], "i4"),
        "flag_range": np.array([0, spec.flag_count - 1], "i1"),
        "flag_values": np.arange(spec.flag_count, dtype="i1"),
        "flag_count": np.array([spec.flag_count], "i1"),
    }


def _pixel_numbers(spec: FileSpec, statistics: PixelStatistics) -> dict[str, Any]:
    good, conditional, out_of_range, no_value = (int(n) for n in statistics.flags[:4])
    on_earth = max(1, int(statistics.flags[: spec.flag_count].sum()))
    radiances = statistics.radiances(spec.coefficients.scale, spec.coefficients.offset)
    return {
        "valid_pixel_count": np.array([good + conditional], "i4"),
        "saturated_pixel_count": np.array([out_of_range], "i4"),
        "missing_pixel_count": np.array([no_value], "i4"),
        **{f"percent_{flag}": _f4(statistics.flags[i] / on_earth) for i, flag in enumerate(FLAGS)},
        **{name: _f4(value) for name, value in radiances.items()},
    }


def _f4(*values: Any) -> npt.NDArray[np.float32]:
    return np.array(values, "f4")


def _normal(longitude: float) -> float:
    return (longitude + 180.0) % 360.0 - 180.0


def _slot(longitude: float) -> str:
    """Name of the place that a satellite stands at, degrees east."""
    return next(
        (name for name, at in (("GOES-East", -75.0), ("GOES-West", -137.0)) if abs(longitude - at) < 1), "GOES-Test"
    )
