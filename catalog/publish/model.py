"""What the catalogue says of a build beyond its plan and its store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy.typing as npt
import pandas as pd
import pyproj

__all__ = ["BandInfo", "Observatory", "TileBuild"]


@dataclass(frozen=True, kw_only=True)
class BandInfo:
    """One band, as its files and its instrument's manual describe it."""

    name: str
    """Name of the variable in the store."""
    title: str
    center_wavelength: float
    """Micrometres."""
    fwhm: float | None = None
    """Full width at half maximum in micrometres."""
    units: str
    """Units of the decoded radiance."""
    resolution: float
    """Nominal pixel of the instrument at nadir, in metres."""
    stored: float | None = None
    """Nominal pixel in the store; None where the grid of the build tells it."""
    common_name: str | None = None
    """One of the EO extension's common names, where one fits."""


@dataclass(frozen=True, kw_only=True)
class Observatory:
    """The satellites and the instrument of a build, as STAC speaks of them."""

    mission: str
    """Also the constellation, and the first keyword."""
    instruments: tuple[str, ...]
    origin: str
    """What the pixels are cut from, in words."""
    lineage: str
    """What the pixels were before they were cut, in words."""
    level: str
    """``processing:level``."""
    extension: str | None
    """Address of the schema of the fields that are its own, where they have one."""
    summarised: tuple[str, ...]
    """Which of its own properties the collection sums up."""
    provider: Mapping[str, Any]
    license_link: Mapping[str, Any]
    """The data have no SPDX identifier: what they may be used for stands there."""
    platform_name: Callable[[str], str]
    """Name of a satellite by its short name in a plan."""
    fields: Callable[[Any, Sequence[Mapping[str, Any] | str | None]], dict[str, Any]]
    """Its own properties of a tile: of a row of the plan and the items of its scans."""
    scan_fields: Callable[[Any], dict[str, Any]] = field(default=lambda scan: {})
    """Its own properties of a scan."""
    publications: Sequence[Mapping[str, str]] = ()
    """How its data are cited: ``citation`` and ``doi``."""
    public_address: Callable[[str], str | None] = field(default=lambda name: None)
    """Where the agency has a file of a name for everyone; None where it is not known to have."""

    @property
    def extensions(self) -> list[str]:
        """Addresses of the schemas of its own fields."""
        return [self.extension] if self.extension else []


@dataclass(frozen=True, kw_only=True)
class TileBuild:
    """A build of tiles: what it is called, how it was made and from what. Times are naive UTC."""

    id: str
    """Identifier of the collection; the catalogue's is this followed by ``-catalog``."""
    title: str
    description: str
    version: str
    """Version of this software."""
    config: Mapping[str, Any]
    """The configuration, as it can be written to JSON; no secrets."""
    config_hash: str
    created: datetime
    """When the build was made; the catalogue takes no time from the clock, so it can be rewritten equal."""
    seed: int
    time_means: str | None = None
    """What the times of events mean, and so which scan is nearest to one: ``scan_start`` or ``observation``."""
    observed: Mapping[int, npt.ArrayLike] = field(default_factory=dict)
    """When each tile was seen, by frame; by tile index, of those of which it is known."""
    grid: str
    """``1km``, ``2km`` or ``native``."""
    lineage: str = ""
    """How the bands' pixels lie in the store, in words, where the grid does not tell."""
    tile_size: int
    """Side of a tile in pixels of the build grid (of the 1 km grid for ``native``)."""
    pixel: float
    """Pixel of the build grid in radians: 28e-6 for 1 km."""
    bands: Sequence[BandInfo]
    observatory: Observatory
    projections: Mapping[int | str, pyproj.CRS]
    """Fixed grid of each tile by its number (a satellite can be moved), or of all tiles of a platform by its name."""
    footprints: Mapping[int, npt.ArrayLike]
    """Ring of each tile, shape (points, 2): longitude and latitude in degrees, clipped at the limb."""
    sources: Mapping[str, Mapping[str, Any] | str]
    """By scan id: its STAC item, or the address of one (relative to the output folder, or absolute)."""
    errors: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=["tile", "scan", "file", "reason"], dtype=str)
    )
    """What could not be read: ``tile`` (id; empty: all tiles of the scan), ``scan``, ``file``, ``reason``."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """How many candidates were left out of the plan, by reason."""
    angles: pd.DataFrame | None = None
    """By tile index, at its centre and event time, degrees: view_zenith, solar_zenith, solar_azimuth."""
    software: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that decoded and wrote."""
