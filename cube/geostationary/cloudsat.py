"""SatVision-Pix4D's cutter of chips along CloudSat's track, by its own options: a build of the CloudSat stratum."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from cube.engine_choice import Engine
from cube.job.parts import TOLD, Shard
from stratacube.settings import RUN_ONLY, LocalPath, Settings

if TYPE_CHECKING:
    from cube.config import AbiConfig
    from stratacube.command import Answer

__all__ = ["CloudsatConfig", "run_cloudsat"]

_log = logging.getLogger(__name__)

_NEEDLESS = ("latlon_path", "latlon_dir", "lat_lon_path", "cloudsat_index_root")
"""Files that the cutter read and nobody needs here."""
_OF_21 = {"cloudsat_path": "cloudsat_root", "root_dir": "cloudsat_root", "abi_data": "abi_root"}
"""Flags of its README's section 2.1, and what they are here; of two for one the last counts."""
_OF_ABI = ("split_km", "split_hours", "split_gap_km", "split_gap_hours", "max_view_zenith", "screen")
"""Parameters of a build that the cutter has not: the command ``abi`` gives them to the stratum of the same name."""


class CloudsatConfig(Settings):
    """Chips along CloudSat's track: names and defaults are those of SatVision-Pix4D's cutter."""

    SHORT: ClassVar[Mapping[str, str]] = {
        "lat_lon_path": "-llp",
        "cloudsat_path": "-c",
        "root_dir": "-r",
        "abi_data": "-a",
        "year": "-y",
        "output_dir": "-o",
        "day_skip": "-d",
    }
    ALIASES: ClassVar[Mapping[str, str]] = {
        "local_data_dir": "abi_root",
        "start_dt": "day_start",
        "end_dt": "day_end",
        "tile_size": "chip_size",
        "tolerance_minutes": "max_scan_delta_minutes",
        "min_valid": "min_valid_fraction",
        "margin": "inner_disk_margin",
        "num_tiles": "max_chips",
        "latitudes": "transect",
        "steps": "offsets",
        "allow_missing": "allow_missing_timesteps",
        **{name: f"abi --{name.replace('_', '-')}" for name in _OF_ABI},
    }

    abi_root: LocalPath | None = Field(None, description="folder of ABI files, any depth; S3 alone if not given")
    cloudsat_root: LocalPath | None = Field(None, description="folder of granules, any depth")
    cloudsat_aux_root: LocalPath | None = Field(None, description="folder of ECMWF-AUX granules, for `cloudsat_aux`")
    output_dir: LocalPath = Field(
        Path("abi_tiles"), validate_default=True, description="folder of the build", json_schema_extra=RUN_ONLY
    )
    year: int = Field(2019, ge=2006, le=2100, description="year of the chips")
    day_start: int = Field(1, ge=1, le=366, description="first day of the year")
    day_end: int | None = Field(None, ge=1, le=366, description="last day of the year (default: the year's)")
    orbit: int | None = Field(None, ge=0, description="take this orbit alone")
    transect: list[float] = Field(
        [-90.0, 90.0], min_length=2, max_length=2, description="southern and northern bound of chips' centres, degrees"
    )
    satellite: str = Field("goes16", description="satellite whose scans are cut")
    domain: str | None = Field(None, description="sector of the scans (default: the full disk)")
    channels: list[str] = Field([], description="channels by number or name (default: all)")
    offsets: list[int] = Field([-40, -20, 0, 20, 40], min_length=1, description="minutes of the steps from the profile")
    chip_size: int = Field(128, ge=2, description="pixels of 1 km along a chip's side")
    profile_stride: int = Field(45, ge=1, description="profiles between the centres of chips")
    profiles_per_chip: int = Field(91, ge=1, description="profiles about the centre, when they are fixed")
    profile_selection: Literal["fixed", "chip"] = Field(
        "fixed", description="so many profiles about the centre, or all that cross the chip"
    )
    parallax: Literal["surface", "top"] = Field("surface", description="pixel of a profile by its place, or its top")
    metadata: list[Literal["cloudsat", "cloudsat_aux", "merra2"]] = Field(
        ["cloudsat"], description="what is kept beside the pixels"
    )
    merra2_root: LocalPath | None = Field(None, description="folder of MERRA-2's files, for `merra2`")
    merra2_variables: list[str] = Field([], description="its variables (default: T QV H PHIS T2M U10M V10M)")
    max_scan_delta_minutes: float = Field(8.0, ge=0, le=1440, description="how far a scan may be from its step")
    min_valid_fraction: float = Field(1.0, ge=0, le=1, description="share of valid pixels that a chip must have")
    inner_disk_margin: int = Field(1600, ge=0, description="pixels of 1 km left out along the edges of the disk")
    min_cloudsat_valid_fraction: float = Field(1.0, ge=0, le=1, description="share of profiles that are observations")
    require_cloud: bool = Field(False, description="leave out chips without a cloud")
    allow_missing_timesteps: bool = Field(False, description="scans that are not there are expected")
    max_chips: int | None = Field(None, ge=1, description="chips to make (default: all)")
    seed: int = Field(42, ge=0, le=2**63 - 1, description="seed of which chips, if not all, are made")
    overwrite: bool = Field(False, description="remove the build in the folder first", json_schema_extra=RUN_ONLY)
    workers: int | None = Field(None, ge=1, description="processes (default: one per core)", json_schema_extra=RUN_ONLY)
    engine: Engine = Field(
        None, description="where tasks run (default: local, or mpi of several ranks)", json_schema_extra=RUN_ONLY
    )
    plan_only: bool = Field(False, description="stop after the plan", json_schema_extra=RUN_ONLY)
    shard: Shard | None = Field(None, description=TOLD, json_schema_extra=RUN_ONLY)
    dry_run: bool = Field(False, description="say what would be read and written", json_schema_extra=RUN_ONLY)
    log_level: str | None = Field(None, description="not needed: see -v and -q", json_schema_extra=RUN_ONLY)
    latlon_path: str | None = Field(None, description="not needed: pixels are placed by formula")
    latlon_dir: str | None = Field(None, description="not needed")
    cloudsat_index_root: str | None = Field(None, description="not needed")
    lat_lon_path: str | None = Field(None, description="not needed")
    cloudsat_path: LocalPath | None = Field(None, description="the same as `cloudsat_root`")
    root_dir: LocalPath | None = Field(None, description="the same as `cloudsat_root`")
    abi_data: LocalPath | None = Field(None, description="the same as `abi_root`")
    day_skip: int = Field(0, ge=0, le=365, description="days left out at the start")

    @model_validator(mode="before")
    @classmethod
    def _of_21(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        for theirs, ours in _OF_21.items():
            if values.get(theirs) is not None:
                values[ours] = values[theirs]
        return values

    @model_validator(mode="after")
    def _agree(self) -> CloudsatConfig:
        if self.cloudsat_root is None:
            raise ValueError("`cloudsat_root` is required: give the folder of granules of 2B-CLDCLASS(-LIDAR)")
        if "merra2" in self.metadata and self.merra2_root is None:
            raise ValueError("`metadata=merra2` needs `merra2_root`, the folder of MERRA-2's files")
        if "cloudsat_aux" in self.metadata and self.cloudsat_aux_root is None:
            raise ValueError("`metadata=cloudsat_aux` needs `cloudsat_aux_root`, the folder of ECMWF-AUX granules")
        days = (datetime(self.year + 1, 1, 1) - datetime(self.year, 1, 1)).days
        if not self.first_day <= self.last_day <= days:
            told = f"`day_start` and `day_end` are {self.first_day} and {self.last_day}"
            raise ValueError(f"{told}: {self.year} has the days 1 to {days}")
        return self

    @property
    def first_day(self) -> int:
        """First day of the year, after those that are left out."""
        return self.day_start + self.day_skip

    @property
    def last_day(self) -> int:
        """Last day of the year."""
        return self.day_end or (datetime(self.year + 1, 1, 1) - datetime(self.year, 1, 1)).days

    def build(self) -> AbiConfig:
        """Return the build that makes these chips.

        Raises
        ------
        UsageError
            If its settings do not agree.
        """
        from cube.config import AbiConfig  # noqa: PLC0415  (help needs no instruments)

        first = datetime(self.year, 1, 1) + timedelta(days=self.first_day - 1)
        values = {
            "stratification": "cloudsat",
            "output_dir": self.output_dir,
            "local_data_dir": self.abi_root,
            "satellite": self.satellite,
            "domain": self.domain,
            "start_dt": first,
            "end_dt": datetime(self.year, 1, 1) + timedelta(days=self.last_day),
            "offsets": self.offsets,
            "tile_size": self.chip_size,
            "tolerance_minutes": self.max_scan_delta_minutes,
            "min_valid": self.min_valid_fraction,
            "margin": self.inner_disk_margin,
            "num_tiles": self.max_chips,
            "seed": self.seed,
            "allow_missing": self.allow_missing_timesteps,
            "cloudsat_root": str(self.cloudsat_root),
            "cloudsat_aux_root": str(self.cloudsat_aux_root) if "cloudsat_aux" in self.metadata else None,
            **({"merra2_root": str(self.merra2_root)} if "merra2" in self.metadata else {}),
            **({"merra2_variables": self.merra2_variables} if "merra2" in self.metadata else {}),
            **{name: getattr(self, name) for name in _SHARED},
        }
        if self.channels:
            values["channels"] = self.channels
        if self.transect != [-90.0, 90.0]:
            values["latitudes"] = self.transect
        return AbiConfig.check({name: value for name, value in values.items() if value is not None})

    def notes(self) -> Iterator[str]:
        """Say what of it is not needed, and which defaults of the cutter hold."""
        for name in _NEEDLESS:
            if getattr(self, name) is not None:
                yield f"`{name}` is not needed: pixels are placed by formula, and granules found by their names"
        for name, kind in _OF_METADATA.items():
            if getattr(self, name) and kind not in self.metadata:
                yield f"`{name}` is not used without `metadata={kind}`"
        if self.log_level is not None:
            yield "`log_level` is not needed: -v shows more, -q less"
        holding = [name for name in ("output_dir", "year") if name not in self.model_fields_set]
        if holding:
            yield "by default: " + ", ".join(f"`{name}` {getattr(self, name)}" for name in holding)


_OF_METADATA = {"cloudsat_aux_root": "cloudsat_aux", "merra2_root": "merra2", "merra2_variables": "merra2"}
"""Settings, and the kind of metadata that each is of."""

_SHARED = (
    "orbit",
    "profile_stride",
    "profiles_per_chip",
    "profile_selection",
    "parallax",
    "min_cloudsat_valid_fraction",
    "require_cloud",
    "overwrite",
    "workers",
    "engine",
    "plan_only",
    "shard",
    "dry_run",
)


def run_cloudsat(config: CloudsatConfig) -> Answer:
    """Make chips.

    Returns
    -------
    Answer
        As of :func:`cube.geostationary.run.run_abi`.

    Raises
    ------
    StratacubeError
        If the build cannot be made at all.
    """
    from cube.geostationary.run import run_abi  # noqa: PLC0415  (nor what builds)

    for note in config.notes():
        _log.warning("%s", note)
    return run_abi(config.build())
