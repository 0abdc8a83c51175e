"""When the steps of a tile are: how many, how far apart, and whether they are searched for or fixed about the event."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from cube.selecting import SelectSettings
from stratacube.settings import formerly

__all__ = ["WindowSettings"]


class WindowSettings(SelectSettings):
    """Settings of time windows; see :mod:`cube.strata.windows`."""

    steps: int = Field(7, ge=1, le=100, description="time steps of a tile")
    step_minutes: int = Field(20, ge=1, le=1440, description="minutes between steps")
    candidates: int | None = Field(
        None,
        ge=1,
        le=200,
        description="steps about the event of which the best consecutive `steps` are kept (default: twice as many)",
        json_schema_extra=formerly(None),
    )
    score_pixels: bool = Field(
        False,
        description="let the valid pixels under a tile, by quality flags of its steps, decide between time windows",
        json_schema_extra=formerly(False),
    )
    offsets: Annotated[list[int], Field(max_length=100)] = Field(
        [],
        description="minutes from the event to each step, which are kept as they are, without a search",
        json_schema_extra=formerly([]),
    )
    event_index: int | None = Field(
        None,
        ge=0,
        description="step, from 0, that the event is: the steps are fixed about it, without a search",
        json_schema_extra=formerly(None),
    )

    @model_validator(mode="after")
    def _windows_agree(self) -> WindowSettings:
        given = [name for name in ("candidates", "offsets", "event_index") if getattr(self, name) not in (None, [])]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` both say where the steps lie; give one of them")
        if self.offsets and len(self.offsets) != self.steps:
            raise ValueError(f"`offsets` are {len(self.offsets)} and `steps` {self.steps}; leave `steps` out")
        if self.offsets != sorted(set(self.offsets)) or any(abs(m) > 7 * 1440 for m in self.offsets):
            told = " ".join(map(str, self.offsets))
            raise ValueError(f"`offsets` {told} are not ascending minutes within a week of the event; correct them")
        if self.candidates is not None and self.candidates < self.steps:
            raise ValueError(f"`candidates` is {self.candidates}, fewer than the {self.steps} of `steps`; give more")
        if self.event_index is not None and self.event_index >= self.steps:
            raise ValueError(f"`event_index` is {self.event_index}, and steps are 0 to {self.steps - 1}; give one")
        return self

    @property
    def minutes_about(self) -> tuple[float, ...]:
        """Minutes from the event to each candidate step, ascending: 14 of 20, from -140 to 120, by default."""
        if self.offsets:
            return tuple(map(float, self.offsets))
        if self.event_index is not None:
            number, before = self.steps, self.event_index
        else:
            number = self.candidates or (2 * self.steps if self.steps > 1 else 1)
            before = number // 2
        return tuple(float((i - before) * self.step_minutes) for i in range(number))

    @property
    def steps_told(self) -> str:
        """How far apart the steps are, in words."""
        return f"at minutes {' '.join(map(str, self.offsets))}" if self.offsets else f"at {self.step_minutes} min steps"

    @property
    def window_minutes(self) -> float:
        """How long a window is, its last step included."""
        if self.offsets:
            return float(self.offsets[-1] - self.offsets[0] + self.step_minutes)
        return float(self.steps * self.step_minutes)
