"""The strata that come with stratacube: their options, and what samples them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cube.strata.plug import Options, Stratum
from stratacube.settings import formerly, local_path

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
        None,
        description="glob of files of tracked cloud systems, or their folder: masks (YYYYMMDD_cloudsystems.nc, "
        "YYYYMM_DCS_number_monthly.nc, TOOCAN's, PyFLEXTRKR's, tobac's) or tables (CSV, Parquet, GeoJSON)",
    )
    metadata_csv: Annotated[str, BeforeValidator(local_path)] | None = Field(
        None,
        description="convection: glob of the metadata that `no_archive` or SatVision-Pix4D wrote, in place of "
        "`convection_regex`",
        json_schema_extra=formerly(None),
    )
    systems: Literal["middle", "all", "balanced"] = Field(
        "middle",
        description="convection: one record a system (the middle of its life), one every time step, or one a system "
        "at any of four stages of life alike",
    )
    min_area_km2: float | None = Field(
        None, ge=0, description="convection: least area of a system at its event, km2", json_schema_extra=formerly(None)
    )
    max_area_km2: float | None = Field(
        None, gt=0, description="convection: largest area", json_schema_extra=formerly(None)
    )
    min_lifetime_hours: float | None = Field(
        None, ge=0, description="convection: least lifetime of a system, hours", json_schema_extra=formerly(None)
    )
    max_lifetime_hours: float | None = Field(
        None, gt=0, description="convection: longest lifetime", json_schema_extra=formerly(None)
    )
    life_stages: list[Literal["initiating", "developing", "mature", "decaying"]] = Field(
        [], description="convection: quarters of a system's life that events lie in", json_schema_extra=formerly([])
    )
    max_top_temperature: float | None = Field(
        None,
        gt=0,
        description="convection: warmest that a system's coldest part may be at its event, K",
        json_schema_extra=formerly(None),
    )

    system_labels: bool = Field(
        False,
        description="convection: store which system, at which stage of life, is under each pixel and step",
        json_schema_extra=formerly(False),
    )
    forecast_steps: int = Field(
        0,
        ge=0,
        le=100,
        description="convection: the same at so many steps after a tile's last, to be forecast",
        json_schema_extra=formerly(0),
    )
    forecast_step_minutes: int | None = Field(
        None,
        ge=1,
        le=1440,
        description="convection: minutes between those (default: the masks' own step)",
        json_schema_extra=formerly(None),
    )

    @model_validator(mode="after")
    def _has_masks(self) -> ConvectionOptions:
        if self.convection_regex and self.metadata_csv:
            raise ValueError("`convection_regex` and `metadata_csv` both tell the systems; give one of them")
        if not self.files:
            raise ValueError("`stratification=convection` needs `convection_regex`, a glob of cloud-system masks")
        for what in ("area_km2", "lifetime_hours"):
            least, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"`min_{what}` is {least:g}, more than the {most:g} of `max_{what}`")
        return self

    @property
    def files(self) -> str:
        """Glob of the files that tell the systems."""
        return self.convection_regex or self.metadata_csv or ""

    def arguments(self) -> dict[str, Any]:
        """Return them as the sampler knows them."""
        labels = {"system_labels", "forecast_steps", "forecast_step_minutes"}
        limits = self.model_dump(exclude={"convection_regex", "metadata_csv", "systems", *labels})
        given = {"masks": self.files, "records": self.systems, "limits": limits}
        return given | self.model_dump(include=labels)


RANDOM = Stratum("cube.strata.random:RandomSampler", RandomOptions, tiles=100, refusals=10_000, time_means="scan_start")
"""Its events are the starts of scans that it draws."""
CONVECTION = Stratum(
    "cube.strata.convection:ConvectionSampler",
    ConvectionOptions,
    parallel=True,
    time_means="scan_start",
    period="cube.strata.masks:period_of_masks",
    alone="cube.strata.tables_alone:write_tables_alone",
    labels="cube.strata.system_labels:SystemLabels",
    tables=("convection_metadata.csv", "convection_lifetimes.csv"),
)
"""Masks of tracked systems tell the start of the scan that each step was made from."""
