"""What is searched for: a period, areas and filters, as text for an API and as a test of a product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from catalog.sentinel2.items import Product
from catalog.sentinel2.names import ProductName, normalise_baseline, normalise_platform
from catalog.sentinel2.tiles import Ground, tile_grid, touches
from stratacube.errors import UsageError
from stratacube.settings import refuse_empty

__all__ = ["BBox", "Query", "describe", "split_bbox"]

BBox = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east across the antimeridian."""

CLOUD_COVER = "eo:cloud_cover"
"""The one property that all APIs of level 2A spell alike."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is wanted; None means no limit. Times are naive UTC, those of the datatake's start."""

    start: datetime
    end: datetime
    """Exclusive."""
    areas: tuple[BBox, ...] = ()
    """Products that touch one of them; all of the world if empty."""
    periods: tuple[tuple[datetime, datetime], ...] = ()
    """Parts of the period in which products are wanted, ends exclusive; all of it if empty."""
    max_cloud_cover: float | None = None
    """Per cent; a product whose cover is unknown passes."""
    min_sun_elevation: float | None = None
    """Degrees; a product whose sun is unknown passes."""
    orbits: Sequence[int] | None = None
    platforms: Sequence[str] | None = None
    months: Sequence[int] | None = None
    baselines: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check, and spell platforms and baselines as products do."""
        refuse_empty(self.start, self.end, ("start", "end"))
        for west, south, east, north in self.areas:
            if not (-90 <= south < north <= 90 and -180 <= west <= 180 and -180 <= east <= 180 and west != east):
                raise UsageError(
                    f"area {west:g} {south:g} {east:g} {north:g} "
                    "is not west south east north in degrees with south < north"
                )
        wrong = [m for m in self.months or () if not 1 <= m <= 12]
        if wrong:
            raise UsageError(f"month {wrong[0]} is unknown; months run from 1 to 12")
        if self.platforms is not None:
            object.__setattr__(self, "platforms", tuple(normalise_platform(p) for p in self.platforms))
        if self.baselines is not None:
            object.__setattr__(self, "baselines", tuple(normalise_baseline(b) for b in self.baselines))

    def boxes(self) -> list[BBox]:
        """Areas with those across the antimeridian cut in two: many servers do not take west > east."""
        return [part for area in self.areas for part in split_bbox(area)]

    def intervals(self) -> list[tuple[datetime, datetime]]:
        """The period, or the parts of it that lie in the months wanted, in order."""
        if self.months is None:
            return [(self.start, self.end)]
        parts: list[tuple[datetime, datetime]] = []
        begin = self.start
        while begin < self.end:
            end = min(_next_month(begin), self.end)
            if begin.month in self.months:
                if parts and parts[-1][1] == begin:
                    parts[-1] = parts[-1][0], end
                else:
                    parts.append((begin, end))
            begin = end
        return parts

    def cql2(self, *, full: bool) -> dict[str, Any] | None:
        """Filter in CQL2-JSON, basic comparisons only; None where nothing is to be filtered.

        Parameters
        ----------
        full
            With all properties as CDSE names them; else cloud cover alone. A property that a server lacks matches
            nothing there, without a word.
        """
        terms: list[dict[str, Any]] = []
        for name, (operator, value) in self._terms(full=full):
            if operator == "in":
                choices = [_comparison("=", name, v) for v in value]
                terms.append(choices[0] if len(choices) == 1 else {"op": "or", "args": choices})
            else:
                terms.append(_comparison(operator, name, value))
        if not terms:
            return None
        return terms[0] if len(terms) == 1 else {"op": "and", "args": terms}

    def properties(self, *, full: bool) -> dict[str, Any] | None:
        """Filter in the older ``query`` extension."""
        names = {"<=": "lte", ">=": "gte", "in": "in"}
        found = {name: {names[operator]: value} for name, (operator, value) in self._terms(full=full)}
        return found or None

    def _terms(self, *, full: bool) -> list[tuple[str, tuple[str, Any]]]:
        limits: list[tuple[str, str, Any]] = [(CLOUD_COVER, "<=", self.max_cloud_cover)]
        if full:
            limits += [
                ("view:sun_elevation", ">=", self.min_sun_elevation),
                ("sat:relative_orbit", "in", _plain(self.orbits)),
                ("platform", "in", _plain(self.platforms)),
                ("processing:version", "in", _plain(self.baselines)),
            ]
        return [(name, (operator, value)) for name, operator, value in limits if value not in (None, [])]

    def refusal(self, product: Product) -> str:
        """Why a product is not wanted; empty if it is."""
        cloud, sun = product.cloud_cover, product.sun_elevation
        if self.max_cloud_cover is not None and cloud is not None and cloud > self.max_cloud_cover:
            return f"cloud cover {cloud:.1f} % is above {self.max_cloud_cover:g} %"
        if self.min_sun_elevation is not None and sun is not None and sun < self.min_sun_elevation:
            return f"sun elevation {sun:.1f} is below {self.min_sun_elevation:g} degrees"
        told = product.relative_orbit, product.platform, product.baseline
        return self._refusal(product.datatake_start, _ground(product), *told)

    def refusal_by_name(self, name: ProductName) -> str:
        """Why a product of which only the name is known is not wanted; empty if it may be."""
        ground = tile_grid(name.tile).ground
        return self._refusal(name.sensing, ground, name.relative_orbit, name.platform, name.baseline)

    def _refusal(self, start: datetime, ground: Ground, orbit: int | None, platform: str, baseline: str) -> str:
        if not self.start <= start < self.end:
            return f"sensed {start:%Y-%m-%d %H:%M:%S}, outside of the period"
        if self.periods and not any(first <= start < last for first, last in self.periods):
            return f"sensed {start:%Y-%m-%d %H:%M:%S}, in none of the periods"
        if self.months is not None and start.month not in self.months:
            return f"sensed in month {start.month}"
        checks: tuple[tuple[Any, Sequence[Any] | None, str], ...] = (
            (orbit, self.orbits, "orbit"),
            (platform, self.platforms, "platform"),
            (baseline, self.baselines, "baseline"),
        )
        for told, allowed, name in checks:
            if allowed is not None and told not in allowed:
                return f"{name} {told} is not asked for"
        # The tile's own ground decides: footprints cross themselves at times, or are of another place.
        return "" if not self.areas or any(touches(ground, box) for box in self.boxes()) else "does not touch the area"


def _ground(product: Product) -> Ground:
    """Ground of a product's images where they tell it, else of its tile."""
    for asset in product.assets.values():
        if asset.proj_code is not None and asset.shape is not None and asset.transform is not None:
            (rows, cols), (dx, _, left, _, dy, top) = asset.shape, asset.transform
            return Ground(asset.proj_code, left, top + rows * dy, left + cols * dx, top)
    return tile_grid(product.tile).ground


def split_bbox(bbox: BBox) -> list[BBox]:
    """Cut a box across the antimeridian in two."""
    west, south, east, north = bbox
    if west <= east:
        return [bbox]
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def _next_month(time: datetime) -> datetime:
    return (time.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)


def _comparison(operator: str, name: str, value: Any) -> dict[str, Any]:
    return {"op": operator, "args": [{"property": name}, value]}


def _plain(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def describe(query: Query) -> str:
    """Period and areas in words, for messages."""
    areas = "; ".join(" ".join(f"{n:g}" for n in a) for a in query.areas[:3]) + (" .." if len(query.areas) > 3 else "")
    return f"{query.start:%Y-%m-%dT%H:%M} to {query.end:%Y-%m-%dT%H:%M}" + (f" in {areas}" if areas else "")
