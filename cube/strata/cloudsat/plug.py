"""The CloudSat stratum, as the registry knows it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cube.strata.plug import Options, Stratum
from stratacube.settings import formerly, local_path

__all__ = ["CLOUDSAT", "CloudsatOptions"]

Granules = Annotated[str, BeforeValidator(local_path)]


class CloudsatOptions(Options):
    """Options of the CloudSat stratum; names and defaults are those of SatVision-Pix4D's cutter."""

    cloudsat_root: Granules | None = Field(
        None, description="cloudsat: folder of granules (2B-CLDCLASS or 2B-CLDCLASS-LIDAR, any depth), or a glob"
    )
    cloudsat_aux_root: Granules | None = Field(
        None, description="cloudsat: folder of ECMWF-AUX granules, or a glob, to keep temperatures and winds too"
    )
    merra2_root: Granules | None = Field(
        None,
        description="cloudsat: folder of MERRA-2's files, or a glob, to keep the weather about each tile",
        json_schema_extra=formerly(None),
    )
    merra2_variables: list[str] = Field(
        [],
        description="cloudsat: its variables (default: T QV H PHIS T2M U10M V10M)",
        json_schema_extra=formerly([]),
    )
    orbit: int | None = Field(None, ge=0, description="cloudsat: take this orbit alone")
    profile_stride: int = Field(45, ge=1, description="cloudsat: profiles between the centres of tiles")
    profiles_per_chip: int = Field(91, ge=1, description="cloudsat: profiles about the centre, when they are fixed")
    profile_selection: Literal["fixed", "chip"] = Field(
        "fixed",
        description="cloudsat: so many profiles about the centre, or all that cross the tile from top to bottom",
    )
    parallax: Literal["surface", "top"] = Field(
        "surface", description="cloudsat: pixel of a profile by its place on the ground, or by its highest cloud's top"
    )
    min_cloudsat_valid_fraction: float = Field(
        1.0, ge=0, le=1, description="cloudsat: share of a tile's profiles that must be observations"
    )
    require_cloud: bool = Field(False, description="cloudsat: leave out tiles without a cloud in their profiles")

    @model_validator(mode="after")
    def _agree(self) -> CloudsatOptions:
        if not self.cloudsat_root:
            raise ValueError("`stratification=cloudsat` needs `cloudsat_root`, a folder of granules")
        if self.merra2_variables and not self.merra2_root:
            raise ValueError("`merra2_variables` needs `merra2_root`, the folder of MERRA-2's files")
        return self


CLOUDSAT = Stratum(
    "cube.strata.cloudsat.sampler:CloudsatSampler",
    CloudsatOptions,
    parallel=True,
    time_means="observation",
    tables=("cloudsat_granules.csv",),
    labels="cube.strata.cloudsat.labels:CloudsatLabels",
)
"""Profiles tell when their place was seen, so the scan is that which saw it nearest to then."""
