"""The strata of a build as the planner asks them: their samplers, streams and limits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np

from catalog.geostationary.scans import Scan
from cube.config import AbiConfig
from cube.geostationary.headers import PlannedHeaders
from cube.geostationary.layout import TileLayout
from cube.job.engine import InlineExecutor, Workers
from cube.selecting import MIXED
from cube.strata.base import SampleRequest
from cube.strata.named import NamedSampler
from cube.strata.select import Limits
from cube.strata.streams import Stream
from cube.strata.turns import counts_of
from stratacube.choices import nearest
from stratacube.errors import UsageError

__all__ = ["PlannedPart", "Wanted", "limits_of", "parts_of", "time_means_of"]

HORIZON = 90.0
"""Solar zenith angle of day's end, degrees: that of the Sun's centre, without refraction."""


@dataclass(frozen=True)
class PlannedPart:
    """A stratum of a build, with what proposes its places."""

    name: str
    sampler: NamedSampler
    share: float
    seed: int
    refusals: int | None
    by_observation: bool
    quotas: Mapping[str, float]
    """Shares of classes that the build gives."""

    def stream(self, *, strict: bool) -> Stream:
        """Its candidates, from the first on."""
        return Stream(
            self.name,
            self.sampler.candidates,
            self.share,
            self.refusals,
            strict,
            self.by_observation,
            self._given if self.quotas else partial(self.sampler.shares, "quotas"),
            partial(self.sampler.shares, "class_shares"),
        )

    def _given(self) -> Mapping[str, float]:
        """The quotas that the build gives, of classes that the sampler proposes as far as it tells them."""
        known = self.sampler.shares("class_shares")
        unknown = next((name for name in self.quotas if known and name not in known), None)
        if unknown is None:
            return self.quotas
        names = sorted(filter(None, known))
        there = f"its candidates have {', '.join(names)}{nearest(unknown, names)}" if names else "they have no classes"
        raise UsageError(f"`quotas` names class {unknown!r} of {self.name}; {there}")


@dataclass(frozen=True)
class Wanted:
    """What a time window is to be like."""

    steps: int
    told: str
    """How far apart they are, in words."""
    minutes_about: tuple[float, ...]
    """From the event to each step that may be in it."""
    tolerance: timedelta
    """How far a scan may be from the time of its step."""
    gaps: bool
    """Whether steps may lack a scan."""
    moving: bool
    """Whether the sector moves, so that not every scan sees a place."""
    daylight: bool
    """Whether daylight counts."""
    together: bool
    """Whether there are several satellites, each event being of that which sees it best."""
    margin: int
    """Pixels along the edges of the sector that no tile touches."""

    @classmethod
    def of(cls, config: AbiConfig) -> Wanted:
        """What a build asks for."""
        return cls(
            config.steps,
            config.steps_told,
            config.minutes_about,
            timedelta(minutes=config.tolerance_minutes),
            config.allow_missing,
            config.sector in config.dialect.names.moving,
            config.max_solar_zenith is not None or config.light == "day",
            len(config.satellites) > 1,
            config.margin,
        )


def parts_of(
    config: AbiConfig, scans: Sequence[Scan], layout: TileLayout, views: PlannedHeaders, workers: Workers
) -> list[PlannedPart]:
    """Ask the strata of a build, each for its share of the tiles.

    Alone, a stratum draws by the seed of the build; of several, each has its own, made of that and its name.
    """
    parts, found = config.parts, []
    counts = counts_of({n: part.share for n, part in enumerate(parts)}, config.num_tiles or 0)
    for number, part in enumerate(parts):
        wanted = counts[number] if config.num_tiles is not None else part.stratum.tiles
        seed = config.seed if config.stratification != MIXED else _seed_of(config.seed, part.name)
        request = SampleRequest(
            scans=scans,
            grid_of=lambda scan: views.grid(scan, layout.pixel),
            tile_size=layout.tile_size,
            align=layout.align,
            margin=config.margin,
            max_view_zenith=config.max_view_zenith,
            start=config.start_dt,
            end=config.end_dt and config.end_dt - timedelta(microseconds=1),
            num_tiles=wanted,
            seed=seed,
            endpoint_url=config.s3_endpoint,
            reach=timedelta(minutes=max(map(abs, config.minutes_about)) + 1),
            executor=workers.executor if part.stratum.parallel else InlineExecutor(),
        )
        sampler = NamedSampler(part.name, part.stratum, request, part.options)
        quotas = {k.partition(".")[2]: v for k, v in config.quotas.items() if k.partition(".")[0] == part.name}
        observed = part.stratum.time_means == "observation"
        found.append(PlannedPart(part.name, sampler, part.share, seed, part.stratum.refusals, observed, quotas))
    return found


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little") >> 1


def limits_of(config: AbiConfig) -> Limits:
    """What the tiles of a build must satisfy."""
    least, most = config.min_solar_zenith, config.max_solar_zenith
    if config.light == "day":
        most = min(HORIZON, HORIZON if most is None else most)
    elif config.light == "night":
        least = max(HORIZON, HORIZON if least is None else least)
    parts = config.parts
    return Limits(
        num_tiles=config.num_tiles if config.num_tiles is not None else parts[0].stratum.tiles,
        max_view_zenith=config.max_view_zenith,
        max_solar_zenith=most,
        min_solar_zenith=least,
        latitudes=(config.latitudes[0], config.latitudes[1]) if config.latitudes else None,
        spacing_km=config.min_spacing_km or None,
        spacing_minutes=config.window_minutes if config.min_spacing_minutes is None else config.min_spacing_minutes,
        surface=_surface_of(config),
    )


def _surface_of(config: AbiConfig) -> Callable[[float, float], str | None] | None:
    """Why no tile may lie at a place, by the raster of land cover; None where land and sea are alike."""
    if config.surface == "any":
        return None
    from cube.strata.landcover.raster import open_landcover  # noqa: PLC0415  (GDAL takes a while)

    cover = open_landcover(config.landcover, config.landcover_legend)  # type: ignore[attr-defined]
    water = {cover.classes.index(number) for number, name in cover.names.items() if "water" in name.lower()}
    wanted = config.surface

    def refusal(longitude: float, latitude: float) -> str | None:
        code = int(cover.codes(np.array([longitude]), np.array([latitude]))[0])
        is_sea = code in water
        return None if code < len(cover.classes) and is_sea == (wanted == "sea") else f"not {wanted}"

    return refusal


def time_means_of(config: AbiConfig) -> str:
    """What the times of events mean: :attr:`cube.strata.plug.Stratum.time_means`, or ``mixed``."""
    found = {part.stratum.time_means for part in config.parts}
    return found.pop() if len(found) == 1 else MIXED
