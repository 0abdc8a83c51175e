"""What a build of tiles of a geostationary imager is: the settings of all, and the options of the strata there are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, ValidationInfo, create_model, field_validator, model_validator

from cube.engine_choice import Engine
from cube.geostationary.dialect import Dialect, dialect_of, together, told_of_imagers
from cube.geostationary.help import EXAMPLES, GROUPS
from cube.job.codec import BEFORE, CodecName
from cube.job.parts import TOLD, Shard
from cube.registry import STRATA, Registry
from cube.selecting import MIXED
from cube.strata.plug import Options, Stratum
from cube.windowing import WindowSettings
from stratacube.addresses import checked_address
from stratacube.choices import OneOf, Told, Worded, one_of
from stratacube.errors import UsageError
from stratacube.settings import RUN_ONLY, End, LocalPath, Start, formerly, refuse_empty

__all__ = ["AbiConfig", "TileConfig", "default_cache", "default_workers"]

_ALWAYS_TOLD = frozenset({"area", "convection_regex", "systems"})
"""Options that are part of every configuration's digest: 0.1.0 knew them as settings, whatever the stratum."""

_OF_SURFACE = frozenset({"landcover", "landcover_legend"})
"""Options of a stratum that tell land from sea, too."""


def default_cache() -> Path:
    """Folder of cached references for interactive use: ``STRATACUBE_CACHE``, else the user's cache folder."""
    named = os.environ.get("STRATACUBE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(named) if named else Path(base) / "stratacube"


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


StoreForm = Literal["native", "common"]
HalfKm = Literal["mean", "decimate", "keep"]
ScreenDepth = Literal["quick", "full", "off"]


_satellites = partial(told_of_imagers, lambda names: names.satellites)
_products = partial(told_of_imagers, lambda names: names.product)
_sectors = partial(told_of_imagers, lambda names: ", ".join(names.sectors))
_bands = partial(told_of_imagers, lambda names: names.told_bands)


def _stratifications() -> list[str]:
    return [*STRATA.names(), MIXED]


class Part(NamedTuple):
    """One of the strata of a build."""

    name: str
    stratum: Stratum
    options: Options
    share: float


class TileConfig(WindowSettings):
    """A build of tiles, but for the options of the strata; :data:`AbiConfig` has those too."""

    GROUPS: ClassVar[Mapping[str, Sequence[str]]] = GROUPS
    EXAMPLES: ClassVar[Sequence[tuple[str, str]]] = EXAMPLES
    STRATA_BY_OPTION: ClassVar[Mapping[str, str]] = {}
    """The stratum each option belongs to."""
    SHORT: ClassVar[Mapping[str, str]] = {
        "stratification": "-r",
        "output_dir": "-o",
        "convection_regex": "-cr",
        "tile_size": "-ts",
        "channels": "-c",
        "satellite": "-s",
        "product": "-p",
        "domain": "-d",
    }
    """SatVision-Pix4D's."""

    output_dir: LocalPath = Field(Path("abi_tiles"), description="folder of the build", json_schema_extra=RUN_ONLY)
    stratification: Annotated[str, OneOf(_stratifications, STRATA.failed)] = Field(
        "random", description="how places and times are chosen"
    )
    plan: LocalPath | None = Field(
        None,
        description="build the tiles of an edited plan (plan.parquet, or a CSV of its columns), and draw none",
        json_schema_extra=formerly(None),
    )
    local_data_dir: LocalPath | None = Field(
        None, description="folder of local files, any depth; S3 alone if not given"
    )
    download: bool = Field(
        False, description="fetch what is missing in `local_data_dir` (or OUTPUT/archive) from S3, whole files"
    )
    s3_endpoint: str | None = Field(None, description="S3 endpoint instead of AWS", json_schema_extra=RUN_ONLY)
    satellite: Annotated[str, Told(_satellites), Worded("SATELLITE", "SATELLITE")] = Field(
        "goes16",
        description="satellite whose scans are cut; of several (auto: east west), each event by the best placed",
    )
    product: Annotated[str, Told(_products)] = Field(
        "", description="product, with or without the sector's letter (default: the imager's)"
    )
    domain: Annotated[str | None, Told(_sectors)] = Field(
        None, description="sector of the scans (default: the product's, else the full disk)"
    )
    channels: Annotated[list[int], Told(_bands)] = Field(
        [], description="channels by number or name (default: all of the imager)", min_length=1
    )
    start_dt: Start | None = Field(
        None,
        description="first scan start, ISO 8601 UTC (default: that of the stratum's inputs, else all there is locally)",
    )
    end_dt: End | None = Field(None, description="end of the period, exclusive; a date alone means that whole day")
    num_tiles: int | None = Field(
        None, ge=1, le=10_000_000, description="tiles to make (default: 100 for random, every record for convection)"
    )
    tile_size: int = Field(512, ge=2, description="pixels along a tile's side (of 1 km when the grid is native)")
    grid: Literal["1km", "2km", "native"] = Field("1km", description="one grid for all bands, or each band's own")
    store: StoreForm = Field(
        "native",
        description="on the 1 km grid: 2 km pixels stored once, the grid being a view, or repeated on it",
        json_schema_extra=formerly("common"),
    )
    half_km: HalfKm = Field(
        "mean",
        description="0.5 km pixels on the 1 km grid: averaged, one of four taken, or kept as they are",
        json_schema_extra=formerly("mean"),
    )
    tolerance_minutes: float = Field(10.0, ge=0, le=1440, description="how far a scan may start from the time wanted")
    max_view_zenith: float = Field(
        70.0, gt=0, le=90, description="largest view zenith angle of a tile's centre, degrees"
    )
    max_solar_zenith: float | None = Field(
        None, gt=0, le=180, description="largest solar zenith angle of a tile's centre at its event, degrees"
    )
    min_spacing_km: float = Field(0.0, ge=0, description="least distance between tiles that are near in time")
    screen: ScreenDepth = Field(
        "quick",
        description="look at the scans that tiles would be cut from, a few chunks a file; at all of the period; not",
        json_schema_extra=formerly("off"),
    )
    good_dqf: list[int] = Field([0, 1], description="DQF values whose pixels are valid")
    min_valid: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of valid pixels that a tile must have; one with fewer is told, and not in the catalog",
        json_schema_extra=formerly(0.0),
    )
    shard_mb: float = Field(
        32.0, gt=0, le=4096, description="decoded megabytes of one band in one shard, about; of 4,096 tiles at most"
    )
    codec: CodecName = Field(
        "lz4hc",
        description="compression of the store: fast to read, fast to write, smallest, or as it was first",
        json_schema_extra=formerly(BEFORE),
    )
    allow_missing: bool = Field(
        False, description="channels and scans absent from the archive are expected: report them, exit 0"
    )
    seed: int = Field(42, ge=0, le=2**63 - 1, description="seed of every random choice")
    engine: Engine = Field(
        None, description="where tasks run (default: local, or mpi of several ranks)", json_schema_extra=RUN_ONLY
    )
    workers: int | None = Field(None, ge=1, description="processes (default: one per core)", json_schema_extra=RUN_ONLY)
    retries: int = Field(2, ge=0, description="tries again after an error of the machine", json_schema_extra=RUN_ONLY)
    task_minutes: float = Field(
        60.0,
        gt=0,
        description="minutes after which a task that does not end is given up",
        json_schema_extra=RUN_ONLY,
    )
    previews: int = Field(
        64,
        ge=0,
        description="tiles of which a picture is drawn, at even steps; the same command with more draws them",
        json_schema_extra=RUN_ONLY,
    )
    overwrite: bool = Field(False, description="remove the build in the folder first", json_schema_extra=RUN_ONLY)
    plan_only: bool = Field(
        False, description="stop after the plan and the metadata of the arrays", json_schema_extra=RUN_ONLY
    )
    archive: bool = Field(
        True,
        description="look for scans; without, and with `plan_only`, the stratum's inputs alone are read and their "
        "tables written",
        json_schema_extra=RUN_ONLY,
    )
    shard: Shard | None = Field(None, description=TOLD, json_schema_extra=RUN_ONLY)
    publish_only: bool = Field(
        False, description="build nothing; describe what jobs of `shard` have made", json_schema_extra=RUN_ONLY
    )
    dry_run: bool = Field(
        False, description="say what would be read and written; move no bytes", json_schema_extra=RUN_ONLY
    )

    @model_validator(mode="before")
    @classmethod
    def _names(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        satellite = together(values.get("satellite", cls.model_fields["satellite"].default))
        names = dialect_of(satellite.partition(" ")[0]).names
        if "satellite" in values:
            values["satellite"] = satellite
        values.setdefault("channels", sorted(names.bands))
        if values.get("strata"):
            values.setdefault("stratification", MIXED)
        if isinstance(values.get("offsets"), list) and values["offsets"]:
            values.setdefault("steps", len(values["offsets"]))
        values["product"] = values.get("product") or names.product
        domain = values.get("domain")
        if domain is None or isinstance(domain, str):  # else it is refused as what it is
            values["domain"] = names.parse_sector(str(values["product"]), domain)
        return values

    @field_validator("channels", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Take the names of the imager's bands, and ranges of them, for their numbers."""
        satellite = info.data.get("satellite")
        if not isinstance(value, list) or satellite is None:
            return value
        names = dialect_of(satellite.partition(" ")[0]).names
        return [number for v in value for number in (names.numbers_of(v) if isinstance(v, str) else [v])]

    @model_validator(mode="after")
    def _agree(self) -> TileConfig:
        names = self.dialect.names
        unknown = [c for c in self.channels if c not in names.bands]
        if unknown:
            raise ValueError(f"channel {unknown[0]} is unknown; {names.title} has {names.told_bands}")
        if not names.online and (self.download or self.local_data_dir is None):
            raise ValueError(
                f"files of {self.satellite} are read from a local folder only; give `local_data_dir`"
                + (" and leave `download` out" if self.download else "")
            )
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"`channels` {self.channels} name one twice; name each once")
        if self.s3_endpoint:  # here, where what is refused is not repeated
            checked_address(self.s3_endpoint, "s3_endpoint")
        last = len(self.dialect.flags) - 1
        if not self.good_dqf or not all(0 <= flag <= last for flag in self.good_dqf):
            told = f"the quality of {names.title} has the values 0 to {last}, and one must be good"
            raise ValueError(f"`good_dqf` is {self.good_dqf}; {told}")
        if self.grid != "1km":
            self.__dict__["store"] = "common"  # there the two forms are one; that it was given is still known
        if self.half_km != "mean" and (self.grid != "1km" or (self.half_km, self.store) == ("keep", "common")):
            where = "grid=1km" if self.grid != "1km" else "store=native"
            raise ValueError(f"`half_km={self.half_km}` goes with `{where}`; leave it out or give that")
        if self.start_dt and self.end_dt:
            refuse_empty(self.start_dt, self.end_dt, ("start_dt", "end_dt"))
        return self

    @model_validator(mode="after")
    def _strata_agree(self) -> TileConfig:
        shares = self.strata_of(self.stratification)
        for name, stratum in self.STRATA_BY_OPTION.items():
            given = getattr(self, name) != type(self).model_fields[name].default
            if given and stratum not in shares and not (self.surface != "any" and name in _OF_SURFACE):
                raise ValueError(f"`{name}` goes with `stratification={stratum}`, not with {' '.join(shares)}")
        if self.stratification == MIXED and self.num_tiles is None:
            raise ValueError("several strata have no natural number of tiles; give `num_tiles`")
        for key in self.quotas:
            if key.partition(".")[0] not in shares or not key.partition(".")[2]:
                raise ValueError(f"`quotas` names {key!r}: give stratum.class of one of {' '.join(shares)}")
        if self.surface != "any" and not getattr(self, "landcover", None):
            raise ValueError(
                f"`surface={self.surface}` needs `landcover`, a raster of classes that tells land from sea"
            )
        parts = self.parts  # whose options they may refuse
        if not self.archive and not (self.plan_only and len(parts) == 1 and parts[0].stratum.alone):
            able = [name for name, stratum in STRATA.all().items() if stratum.alone]
            raise ValueError(
                f"`no_archive` goes with `plan_only` and `stratification={one_of(able)}`; give both, or leave it out"
            )
        return self

    @property
    def sector(self) -> str:
        """Sector of the scans, as the imager calls it."""
        return str(self.domain)

    @property
    def dialect(self) -> Dialect:
        """How the files of the satellite's imager speak."""
        return dialect_of(self.satellites[0])

    @property
    def satellites(self) -> list[str]:
        """The satellites whose scans are cut."""
        return self.satellite.split()

    @property
    def parts(self) -> list[Part]:
        """The strata, each with its options and share.

        Raises
        ------
        UsageError
            If a stratum is unknown, or refuses its options.
        """
        shares = self.strata_of(self.stratification)
        return [Part(name, STRATA.load(name), self._options(name), share) for name, share in shares.items()]

    def _options(self, stratum: str) -> Options:
        model: type[Options] = STRATA.load(stratum).options
        given = {name: getattr(self, name) for name in model.model_fields}
        with STRATA.blamed(stratum):
            return model.check({name: value for name, value in given.items() if value is not None})

    @classmethod
    def deciding(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of plain values, those that determine the tiles: of the options, those of the stratum."""
        used = {values.get("stratification"), *(values.get("strata") or ())}
        others = {n for n, owner in cls.STRATA_BY_OPTION.items() if owner not in used} - _ALWAYS_TOLD
        if values.get("surface", "any") != "any":
            others -= _OF_SURFACE
        return super().deciding({name: value for name, value in values.items() if name not in others})


@cache
def _with_options(base: type[TileConfig], strata: Registry) -> type[TileConfig]:
    """A configuration with the options of all strata: each a flag and a key, by its own name."""
    fields: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for name, stratum in strata.all().items():
        mine = stratum.options.model_fields
        taken = sorted(mine.keys() & {*base.model_fields, *fields})
        if taken:
            strata.drop(name, UsageError(f"its option {taken[0]!r} is another's"))
            continue
        for option, info in mine.items():
            kind: Any = info.annotation
            needed = Field(None, description=info.description)  # by its stratum, which will say so
            fields[option] = (kind | None, needed) if info.is_required() else (kind, info)
            owners[option] = name
    model = create_model(
        "AbiConfig", __base__=base, __doc__="A build of tiles of a geostationary imager.", __module__=__name__, **fields
    )
    model.STRATA_BY_OPTION = owners
    of_strata = {name: [option for option, owner in owners.items() if owner == name] for name in owners.values()}
    model.GROUPS = {**base.GROUPS, **{f"options of {name}": options for name, options in of_strata.items()}}
    return model


if TYPE_CHECKING:
    AbiConfig = TileConfig


def __getattr__(name: str) -> Any:
    """Put ``AbiConfig`` together when it is first used: strata from outside have options too."""
    if name != "AbiConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _with_options(TileConfig, STRATA)
