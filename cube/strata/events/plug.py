"""The stratum of events, as the registry knows it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from cube.strata.plug import Options, Stratum
from stratacube.settings import local_path

__all__ = ["EVENTS", "EventsOptions"]


class EventsOptions(Options):
    """Options of the stratum of events."""

    events: Annotated[str, BeforeValidator(local_path)] | None = Field(
        None, description="events: table (CSV, Parquet or GeoJSON) of time, lat, lon and, if wanted, id, class, weight"
    )

    @model_validator(mode="after")
    def _has_table(self) -> EventsOptions:
        if not self.events:
            raise ValueError("`stratification=events` needs `events`, a table of time, lat and lon")
        return self

    def arguments(self) -> dict[str, Any]:
        """Return them as the sampler knows them."""
        return {"table": self.events}


EVENTS = Stratum("cube.strata.events.sampler:EventSampler", EventsOptions, time_means="observation")
"""What happens somewhere happens when it is seen there."""
