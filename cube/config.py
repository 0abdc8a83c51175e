"""What a build is: one model whose fields are the flags of the command line and the keys of the YAML file."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import types
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.config import JsonDict

from catalog.abi.names import normalise_platform, parse_sector
from stratacube.errors import UsageError

__all__ = ["AbiConfig", "add_flags", "default_cache", "load_config"]


def default_cache() -> Path:
    """Folder of cached references for interactive use: ``STRATACUBE_CACHE``, else the user's cache folder."""
    named = os.environ.get("STRATACUBE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(base) / "stratacube"


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _moment(value: Any) -> Any:
    """A time as naive UTC; only ISO 8601 text and real times pass, for a bare number may mean anything."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("give ISO 8601, such as 2020-01-31 or 2020-01-31T12:00") from None
    elif isinstance(value, date) and not isinstance(value, datetime):  # a date read from YAML
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise ValueError("give ISO 8601, such as 2020-01-31 or 2020-01-31T12:00")
    return value if value.tzinfo is None else value.replace(tzinfo=None) - (value.utcoffset() or timedelta())


def _end_of_day(value: Any) -> Any:
    """A date without a time of day, as an end, means the whole of that day."""
    only_date = isinstance(value, date) and not isinstance(value, datetime)
    if isinstance(value, str):
        with suppress(ValueError):
            only_date = bool(date.fromisoformat(value.strip()))
    return _moment(value) + timedelta(days=int(only_date))


def _local(value: Any) -> Any:
    """A path as it is from anywhere, so that the same build is known by the same configuration."""
    if value is None or "://" not in str(value):
        return None if value is None else os.path.abspath(os.path.expanduser(str(value)))
    raise ValueError("give a folder of this machine; S3 is read where no local folder is given")


Start = Annotated[datetime, BeforeValidator(_moment)]
End = Annotated[datetime, BeforeValidator(_end_of_day)]
LocalPath = Annotated[Path, BeforeValidator(_local)]
_RUN_ONLY: JsonDict = {"how": "run"}
"""Marks fields that change how a run goes but not what it makes: they are left out of the config's hash."""


class AbiConfig(BaseModel):
    """A build of ABI tiles."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    output_dir: LocalPath = Field(description="folder of the build", json_schema_extra=_RUN_ONLY)
    stratification: Literal["random", "convection"] = Field("random", description="how places and times are chosen")
    convection_regex: Annotated[str, BeforeValidator(_local)] | None = Field(
        None, description="glob of cloud-system masks (YYYYMMDD_cloudsystems.nc or YYYYMM_DCS_number_monthly.nc)"
    )
    systems: Literal["middle", "all"] = Field(
        "middle", description="convection: one record a system (the middle of its life) or one every time step"
    )
    local_data_dir: LocalPath | None = Field(
        None, description="folder of local ABI files, any depth; S3 alone if not given"
    )
    download: bool = Field(
        False, description="fetch what is missing in --local-data-dir (or OUTPUT/archive) from S3, whole files"
    )
    s3_endpoint: str | None = Field(None, description="S3 endpoint instead of AWS", json_schema_extra=_RUN_ONLY)
    satellite: str = Field("goes16", description="goes16 .. goes19, or east or west, which follow the date")
    product: str = Field("ABI-L1b-Rad", description="product, with or without the sector's letter")
    domain: str | None = Field(None, description="sector: F, C, M1 or M2 (default: the product's letter, else F)")
    channels: list[int] = Field(list(range(1, 17)), description="ABI channels", min_length=1)
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
    engine: Literal["local"] = Field("local", description="where tasks run", json_schema_extra=_RUN_ONLY)
    workers: int | None = Field(
        None, ge=1, description="processes (default: one per core)", json_schema_extra=_RUN_ONLY
    )
    retries: int = Field(2, ge=0, description="tries again after an error of the machine", json_schema_extra=_RUN_ONLY)
    overwrite: bool = Field(False, description="remove the build in the folder first", json_schema_extra=_RUN_ONLY)
    plan_only: bool = Field(False, description="stop after the plan", json_schema_extra=_RUN_ONLY)
    dry_run: bool = Field(
        False, description="say what would be read and written; move no bytes", json_schema_extra=_RUN_ONLY
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
            raise ValueError(f"channels {self.channels} name one twice; name each once")
        if self.stratification == "convection" and not self.convection_regex:
            raise ValueError("--stratification convection needs --convection-regex, a glob of cloud-system masks")
        if self.stratification == "random" and self.convection_regex:
            raise ValueError(
                "--convection-regex is given but --stratification is random; pass --stratification convection"
            )
        for name, stratum in (("systems", "convection"), ("area", "random")):
            if self.stratification != stratum and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"--{name} goes with --stratification {stratum}, not with {self.stratification}")
        wrong = [flag for flag in self.good_dqf if not 0 <= flag <= 4]
        if wrong or not self.good_dqf:
            raise ValueError(f"--good-dqf is {self.good_dqf}; DQF has the values 0 to 4, and one must be good")
        if self.start_dt and self.end_dt and self.end_dt <= self.start_dt:
            raise ValueError(f"the period ends at {self.end_dt} before it starts at {self.start_dt}")
        return self

    @property
    def sector(self) -> str:
        """Sector of the scans: F, C, M1 or M2."""
        return str(self.domain)

    def described(self) -> dict[str, Any]:
        """What determines the product, as plain values in a stable order."""
        run_only = {n for n, f in type(self).model_fields.items() if f.json_schema_extra == _RUN_ONLY}
        return self.model_dump(mode="json", exclude=run_only)

    def digest(self) -> str:
        """Hash of what determines the product."""
        return hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()[:16]


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel]) -> None:
    """Add one flag per field of a model; every default is the model's, so that a flag overrides only when given."""
    for name, info in model.model_fields.items():
        flag, kind = "--" + name.replace("_", "-"), _bare(info.annotation)
        help_text = info.description or ""
        if info.default is not None and not info.is_required() and info.default != []:
            help_text += f" (default: {_shown(info.default)})" if "(default" not in help_text else ""
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_text.replace("%", "%%")}
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif get_origin(kind) is list:
            parser.add_argument(flag, nargs="+", metavar=name.upper(), **options)
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, choices=get_args(kind), **options)
        else:
            parser.add_argument(flag, metavar=name.upper(), **options)


def _bare(annotation: Any) -> Any:
    """The type behind Optional and Annotated."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def load_config(model: type[BaseModel], file: Path | None, flags: dict[str, Any]) -> Any:
    """Read a configuration: the file's keys, overridden by flags.

    Raises
    ------
    UsageError
        If the file cannot be read, a key is unknown or a value does not fit; the sentence names key and remedy.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text())
        except OSError as error:
            raise UsageError(f"config file {file} cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"config file {file} is not YAML ({' '.join(str(error).split())[:120]})") from error
        if not isinstance(loaded, dict):
            raise UsageError(f"config file {file} holds {type(loaded).__name__}, not keys and values")
        if {"digest", "build"} <= loaded.keys():  # the config.yaml of a build
            loaded = loaded["build"]
        values = {str(k).replace("-", "_"): v for k, v in loaded.items()}
    for key in values:
        if key not in model.model_fields:
            near = difflib.get_close_matches(key, model.model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys are {', '.join(model.model_fields)}"
            raise UsageError(f"unknown key {key!r} in {file}{hint}")
    try:
        return model.model_validate({**values, **flags})
    except ValidationError as error:
        raise UsageError(_sentence(error)) from error


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = "--" + str(first["loc"][0]).replace("_", "-")
    if first["type"] == "missing":
        return f"{name} is required"
    return f"{name} is {first['input']!r}: {message[0].lower()}{message[1:]}"
