"""The cloud-feature stratum, as the registry knows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cube.strata.plug import Options, Stratum
from stratacube.settings import local_path

__all__ = ["CLOUDS", "CloudsOptions"]


class CloudsOptions(Options):
    """Options of the cloud-feature stratum."""

    cloud_products: Annotated[str, BeforeValidator(local_path)] | None = Field(
        None, description="clouds: folder of products (ACHA, COD; ACM or ACTP for clear sky), or a glob"
    )
    clouds_by: Literal["level", "phase", "texture", "organisation", "type"] | None = Field(
        None, description="clouds: what classes go by (default: type with products, else level)"
    )
    cloud_classes: list[str] = Field(
        [], description="clouds: classes to draw, with shares such as cold=2 (default: all that are found, alike)"
    )
    cloud_places: int = Field(8, ge=1, le=4096, description="clouds: places looked at together in a scan")
    cloud_looks: int = Field(
        40, ge=1, description="clouds: scans looked at without a tile of a class before it is given up"
    )

    @model_validator(mode="after")
    def _agree(self) -> CloudsOptions:
        if (self.clouds_by == "type") != (self.cloud_products is not None) and self.clouds_by is not None:
            raise ValueError(
                "`clouds_by=type` goes with `cloud_products`, a folder of products, and other classes without it"
            )
        return self


CLOUDS = Stratum(
    "cube.strata.clouds.sampler:CloudsSampler",
    CloudsOptions,
    tiles=100,
    refusals=10_000,
    time_means="scan_start",
    labels="cube.strata.clouds.labels:CloudLabels",
)
"""Its events are the starts of scans that it draws."""
