"""Which of the places that strata propose become tiles: shares of strata, quotas of classes, limits."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cube.splitting import SplitSettings
from stratacube.settings import formerly

__all__ = ["MIXED", "SelectSettings"]

MIXED = "mixed"
"""The stratification of a build of several strata."""


def _shares(value: Any) -> Any:
    """Take words ``name=value``, apart or joined by commas, for names and values."""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(word, str) for word in value)):
        words = re.split(r"[,\s]+", value if isinstance(value, str) else " ".join(value))
        pairs = [word.partition("=") for word in words if word]
        wrong = next((name for name, equals, share in pairs if not (name and equals and share)), None)
        if wrong is not None:
            raise ValueError(f"give names and values such as {wrong or 'random'}=0.2")
        return {name: share for name, _, share in pairs}
    return value


Shares = Annotated[dict[str, Annotated[float, Field(gt=0)]], BeforeValidator(_shares)]


class SelectSettings(SplitSettings):
    """Settings of the selector; see :mod:`cube.strata.select`."""

    strata: Shares = Field(
        {},
        description="several strata in one build, each with its share of the tiles, such as random=0.2 convection=0.4",
        json_schema_extra=formerly({}),
    )
    quotas: Shares = Field(
        {},
        description="shares of classes within a stratum that its tiles are held to, such as landcover.croplands=0.5",
        json_schema_extra=formerly({}),
    )
    latitudes: Annotated[list[float], Field(max_length=2)] = Field(
        [],
        description="southern and northern bound of tiles' centres, degrees (default: none)",
        json_schema_extra=formerly([]),
    )
    light: Literal["any", "day", "night"] = Field(
        "any",
        description="whether the Sun is to be above or below the horizon at a tile's centre at its event",
        json_schema_extra=formerly("any"),
    )
    min_solar_zenith: float | None = Field(
        None,
        ge=0,
        lt=180,
        description="least solar zenith angle of a tile's centre at its event, degrees",
        json_schema_extra=formerly(None),
    )
    margin: int = Field(
        0,
        ge=0,
        description="pixels along the edges of the sector that no tile touches (1600 of the 1 km grid: the inner disk)",
        json_schema_extra=formerly(0),
    )
    min_spacing_minutes: float | None = Field(
        None,
        gt=0,
        description="tiles nearer in time keep `min_spacing_km` (default: the length of a time window)",
        json_schema_extra=formerly(None),
    )
    surface: Literal["any", "land", "sea"] = Field(
        "any",
        description="whether tiles' centres lie on land or at sea, by the raster `landcover`",
        json_schema_extra=formerly("any"),
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> SelectSettings:
        if len(self.latitudes) == 1 or self.latitudes != sorted(self.latitudes):
            told = " ".join(f"{v:g}" for v in self.latitudes)
            raise ValueError(f"`latitudes` is {told}: give two, the southern one first")
        return self

    def strata_of(self, stratification: str) -> dict[str, float]:
        """Names of the strata, with their shares.

        Raises
        ------
        ValueError
            If the stratification is mixed without any, or is one and several are given.
        """
        if (stratification == MIXED) != bool(self.strata):
            if self.strata:
                names = " ".join(self.strata)
                raise ValueError(f"`strata` ({names}) goes with `stratification={MIXED}`, not with {stratification}")
            raise ValueError(f"`stratification={MIXED}` needs `strata`, such as random=0.2 convection=0.4")
        return dict(self.strata) or {stratification: 1.0}
