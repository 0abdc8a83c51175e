"""How the tiles of a build are split into train, val and test: the settings, and the split of each tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from stratacube.errors import UsageError
from stratacube.settings import Settings, formerly

if TYPE_CHECKING:
    from catalog.splits import SplitRule

__all__ = ["SPLITS", "SplitSettings"]

SPLITS = ("train", "val", "test")


class SplitSettings(Settings):
    """Settings of splits; see :mod:`catalog.splits`."""

    splits: Literal["blocks", "off"] = Field(
        "blocks",
        description="tiles go to train, val and test by blocks of the Earth and of time, with a gap; or get no split",
        json_schema_extra=formerly("off"),
    )
    split_km: float = Field(
        3000.0,
        ge=0,
        le=20_000,
        description="side of the blocks of the Earth that splits are made of, about; 0: time alone splits",
        json_schema_extra=formerly(3000.0),
    )
    split_hours: float = Field(
        168.0,
        ge=0,
        description="length of the blocks of time that splits are made of; 0: the Earth alone splits",
        json_schema_extra=formerly(168.0),
    )
    split_gap_km: float = Field(
        100.0,
        ge=0,
        description="tiles of two splits are so far apart in space, or as far in time as `split_gap_hours`",
        json_schema_extra=formerly(100.0),
    )
    split_gap_hours: float = Field(
        24.0,
        ge=0,
        description="tiles of two splits are so far apart in time, or as far in space as `split_gap_km`",
        json_schema_extra=formerly(24.0),
    )
    split_shares: Annotated[list[float], Field(min_length=3, max_length=3)] = Field(
        [0.8, 0.1, 0.1],
        description="share of the blocks that go to train, val and test",
        json_schema_extra=formerly([0.8, 0.1, 0.1]),
    )

    @model_validator(mode="after")
    def _is_a_rule(self) -> SplitSettings:
        _ = self.split_rule
        return self

    @property
    def split_rule(self) -> SplitRule | None:
        """The rule of splits, None for none.

        Raises
        ------
        UsageError
            If it is none.
        """
        if self.splits == "off":
            return None
        from catalog.splits import SplitRule  # noqa: PLC0415  (shapely takes a while, and the command line needs none)

        try:
            return SplitRule(
                block_km=self.split_km or None,
                block_hours=self.split_hours or None,
                gap_km=self.split_gap_km,
                gap_hours=self.split_gap_hours,
                shares=dict(zip(SPLITS, self.split_shares, strict=True)),
            )
        except UsageError as error:
            named = str(error).replace("`block_", "`split_").replace("`gap_", "`split_gap_")
            raise UsageError(named.replace("the shares of the splits are", "`split_shares` are")) from error

    @property
    def split_rows(self) -> list[tuple[str, str]]:
        """What a report says of the rule: a row of its title and the rule in words, or none."""
        if self.splits == "off":
            return []
        earth = f"{self.split_km:g} km" if self.split_km else "the whole Earth"
        time = f"{self.split_hours:g} h" if self.split_hours else "all time"
        gaps = [f"{self.split_gap_km:g} km"] * bool(self.split_km) + [f"{self.split_gap_hours:g} h"] * bool(
            self.split_hours
        )
        return [
            (
                "Splits",
                f"blocks of {earth} and {time}, {' or '.join(gaps)} between them; what reaches over is in none (gap)",
            )
        ]
