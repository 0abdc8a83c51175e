"""The strata that come with stratacube: their options, and what samples them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cube.strata.plug import Options, Stratum
from stratacube.settings import local_path

__all__ = ["CONVECTION", "RANDOM", "ConvectionOptions", "RandomOptions"]


class RandomOptions(Options):
    """Options of the random stratum."""

    area: Literal["solid-angle", "km2"] = Field(
        "solid-angle", description="random: places uniform in scan angle or on the ground"
    )

    def arguments(self) -> dict[str, Any]:
        """Return them as the sampler knows them."""
        return {"area": self.area.replace("-", "_")}


class ConvectionOptions(Options):
    """Options of the convection stratum."""

    convection_regex: Annotated[str, BeforeValidator(local_path)] | None = Field(
        None, description="glob of cloud-system masks (YYYYMMDD_cloudsystems.nc or YYYYMM_DCS_number_monthly.nc)"
    )
    systems: Literal["middle", "all"] = Field(
        "middle", description="convection: one record a system (the middle of its life) or one every time step"
    )

    @model_validator(mode="after")
    def _has_masks(self) -> ConvectionOptions:
        if not self.convection_regex:
            raise ValueError("`stratification=convection` needs `convection_regex`, a glob of cloud-system masks")
        return self

    def arguments(self) -> dict[str, Any]:
        """Return them as the sampler knows them."""
        return {"masks": self.convection_regex, "records": self.systems}


RANDOM = Stratum("cube.strata.random:RandomSampler", RandomOptions, tiles=100, refusals=10_000, time_means="scan_start")
"""Its events are the starts of scans that it draws."""
CONVECTION = Stratum(
    "cube.strata.convection:ConvectionSampler",
    ConvectionOptions,
    parallel=True,
    time_means="scan_start",
    tables=("convection_metadata.csv", "convection_lifetimes.csv"),
)
"""Masks of tracked systems tell the start of the scan that each step was made from."""
