"""How the cells of a build are split into train, val and test: the settings of any build, in words of cells."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cube.splitting import SplitSettings
from stratacube.settings import formerly

__all__ = ["CellSplitSettings"]


class CellSplitSettings(SplitSettings):
    """Settings of the splits of cells, which last as long as their composites: places alone split them by default."""

    splits: Literal["blocks", "off"] = Field(
        "blocks",
        description="cells go to train, val and test by blocks of the Earth and of time, with a gap; or get no split",
        json_schema_extra=formerly("off"),
    )
    split_km: float = Field(
        500.0,
        ge=0,
        le=20_000,
        description="side of the blocks of the Earth that splits are made of, about; 0: time alone splits",
        json_schema_extra=formerly(500.0),
    )
    split_hours: float = Field(
        0.0,
        ge=0,
        description="length of the blocks of time that splits are made of, longer than `periods`; "
        "0: the Earth alone splits",
        json_schema_extra=formerly(0.0),
    )
    split_gap_km: float = Field(
        20.0,
        ge=0,
        description="cells of two splits are so far apart in space, or as far in time as `split_gap_hours`",
        json_schema_extra=formerly(20.0),
    )
    split_gap_hours: float = Field(
        24.0,
        ge=0,
        description="composites of two splits are so far apart in time, or as far in space as `split_gap_km`",
        json_schema_extra=formerly(24.0),
    )
