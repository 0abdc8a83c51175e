"""What a build of ABI tiles is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from catalog.geostationary.names import normalise_platform, parse_sector
from stratacube.settings import RUN_ONLY, End, LocalPath, Settings, Start, local_path, refuse_empty

__all__ = ["AbiConfig", "default_cache", "default_workers"]


def default_cache() -> Path:
    """Folder of cached references for interactive use: ``STRATACUBE_CACHE``, else the user's cache folder."""
    named = os.environ.get("STRATACUBE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(base) / "stratacube"


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _channel(value: Any) -> Any:
    """Take ``C02`` for 2."""
    match = re.fullmatch(r"[Cc]?0*(\d+)", value) if isinstance(value, str) else None
    return value if match is None else int(match[1])


Channel = Annotated[int, BeforeValidator(_channel)]


class AbiConfig(Settings):
    """A build of ABI tiles."""

    output_dir: LocalPath = Field(description="folder of the build", json_schema_extra=RUN_ONLY)
    stratification: Literal["random", "convection"] = Field("random", description="how places and times are chosen")
    convection_regex: Annotated[str, BeforeValidator(local_path)] | None = Field(
        None, description="glob of cloud-system masks (YYYYMMDD_cloudsystems.nc or YYYYMM_DCS_number_monthly.nc)"
    )
    systems: Literal["middle", "all"] = Field(
        "middle", description="convection: one record a system (the middle of its life) or one every time step"
    )
    local_data_dir: LocalPath | None = Field(
        None, description="folder of local ABI files, any depth; S3 alone if not given"
    )
    download: bool = Field(
        False, description="fetch what is missing in `local_data_dir` (or OUTPUT/archive) from S3, whole files"
    )
    s3_endpoint: str | None = Field(None, description="S3 endpoint instead of AWS", json_schema_extra=RUN_ONLY)
    satellite: str = Field("goes16", description="goes16 .. goes19, or east or west, which follow the date")
    product: str = Field("ABI-L1b-Rad", description="product, with or without the sector's letter")
    domain: str | None = Field(None, description="sector: F, C, M1 or M2 (default: the product's letter, else F)")
    channels: list[Channel] = Field(list(range(1, 17)), description="ABI channels, such as 2 or C02", min_length=1)
    start_dt: Start | None = Field(None, description="first scan start, ISO 8601 UTC (default: all there is locally)")
    end_dt: End | None = Field(None, description="end of the period, exclusive; a date alone means that whole day")
    num_tiles: int | None = Field(
        None, ge=1, description="tiles to make (default: 100 for random, every record for convection)"
    )
    tile_size: int = Field(512, ge=2, description="pixels along a tile's side (of 1 km when the grid is native)")
    grid: Literal["1km", "2km", "native"] = Field("1km", description="one grid for all bands, or each band's own")
    steps: int = Field(7, ge=1, le=100, description="time steps of a tile")
    step_minutes: int = Field(20, ge=1, le=1440, description="minutes between steps")
    tolerance_minutes: float = Field(10.0, ge=0, le=1440, description="how far a scan may start from the time wanted")
    max_view_zenith: float = Field(
        70.0, gt=0, le=90, description="largest view zenith angle of a tile's centre, degrees"
    )
    max_solar_zenith: float | None = Field(
        None, gt=0, le=180, description="largest solar zenith angle of a tile's centre at its event, degrees"
    )
    area: Literal["solid-angle", "km2"] = Field(
        "solid-angle", description="random: places uniform in scan angle or on the ground"
    )
    min_spacing_km: float = Field(0.0, ge=0, description="least distance between tiles whose times overlap")
    good_dqf: list[int] = Field([0, 1], description="DQF values whose pixels are valid")
    shard_mb: float = Field(32.0, gt=0, le=4096, description="decoded megabytes of one band in one shard, about")
    allow_missing: bool = Field(
        False, description="channels and scans absent from the archive are expected: report them, exit 0"
    )
    seed: int = Field(42, ge=0, description="seed of every random choice")
    engine: Literal["local"] = Field("local", description="where tasks run", json_schema_extra=RUN_ONLY)
    workers: int | None = Field(None, ge=1, description="processes (default: one per core)", json_schema_extra=RUN_ONLY)
    retries: int = Field(2, ge=0, description="tries again after an error of the machine", json_schema_extra=RUN_ONLY)
    overwrite: bool = Field(False, description="remove the build in the folder first", json_schema_extra=RUN_ONLY)
    plan_only: bool = Field(False, description="stop after the plan", json_schema_extra=RUN_ONLY)
    dry_run: bool = Field(
        False, description="say what would be read and written; move no bytes", json_schema_extra=RUN_ONLY
    )

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        if "satellite" in values:
            values["satellite"] = normalise_platform(str(values["satellite"]))
        values["domain"] = parse_sector(str(values.get("product") or "ABI-L1b-Rad"), values.get("domain"))
        return values

    @model_validator(mode="after")
    def _agree(self) -> AbiConfig:
        unknown = [c for c in self.channels if not 1 <= c <= 16]
        if unknown:
            raise ValueError(f"channel {unknown[0]} is unknown; ABI has channels 1 to 16")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"`channels` {self.channels} name one twice; name each once")
        if self.stratification == "convection" and not self.convection_regex:
            raise ValueError("`stratification=convection` needs `convection_regex`, a glob of cloud-system masks")
        if self.stratification == "random" and self.convection_regex:
            raise ValueError(
                "`convection_regex` is given but `stratification` is random; give `stratification=convection`"
            )
        for name, stratum in (("systems", "convection"), ("area", "random")):
            if self.stratification != stratum and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` goes with `stratification={stratum}`, not with {self.stratification}")
        wrong = [flag for flag in self.good_dqf if not 0 <= flag <= 4]
        if wrong or not self.good_dqf:
            raise ValueError(f"`good_dqf` is {self.good_dqf}; DQF has the values 0 to 4, and one must be good")
        if self.start_dt and self.end_dt:
            refuse_empty(self.start_dt, self.end_dt, ("start_dt", "end_dt"))
        return self

    @property
    def sector(self) -> str:
        """Sector of the scans: F, C, M1 or M2."""
        return str(self.domain)
