"""The land-cover stratum, as the registry knows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cube.strata.plug import Options, Stratum
from stratacube.settings import local_path

__all__ = ["LANDCOVER", "LandcoverOptions"]


class LandcoverOptions(Options):
    """Options of the land-cover stratum."""

    landcover: Annotated[str, BeforeValidator(local_path)] | None = Field(
        None, description="landcover: raster of classes (MCD12C1, WorldCover, any GeoTIFF; HDF4 by pyhdf), or a glob"
    )
    landcover_classes: list[str] = Field(
        [],
        description="landcover: classes to draw, by number or name, with shares such as croplands=2 (default: all that "
        "there are, alike)",
    )
    landcover_min_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="landcover: a tile is of a class that covers this share of its pixels (default: of its commonest)",
    )
    landcover_legend: Literal["auto", "igbp", "worldcover", "numbers"] = Field(
        "auto", description="landcover: names of the classes"
    )

    @model_validator(mode="after")
    def _has_raster(self) -> LandcoverOptions:
        if not self.landcover:
            raise ValueError("`stratification=landcover` needs `landcover`, a raster of classes")
        return self


LANDCOVER = Stratum(
    "cube.strata.landcover.sampler:LandcoverSampler",
    LandcoverOptions,
    tiles=100,
    refusals=10_000,
    time_means="scan_start",
    tables=("landcover_classes.csv",),
    labels="cube.strata.landcover.labels:LandcoverLabels",
)
"""Its events are the starts of scans that it draws."""
