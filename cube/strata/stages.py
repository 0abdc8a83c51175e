"""What is asked of a cloud system's record: area, lifetime, stage of life, coldest top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from cube.strata.labels import Floats, Ints, SystemSteps
from stratacube.errors import UsageError

__all__ = ["STAGES", "Stage", "SystemFilter", "stage_of"]

Stage = Literal["initiating", "developing", "mature", "decaying"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Quarters of a system's life, as SatVision-Pix4D's labels have them, there numbered from 1."""


def stage_of(age: Floats) -> Ints:
    """Place among :data:`STAGES` of an age, the share of its life that a system has behind it."""
    return np.asarray(np.minimum((age * len(STAGES)).astype("i8"), len(STAGES) - 1))


@dataclass(frozen=True)
class SystemFilter:
    """Limits of records of systems; None, and no stage, is no limit."""

    min_area_km2: float | None = None
    """Area at the record's time."""
    max_area_km2: float | None = None
    min_lifetime_hours: float | None = None
    """Of the whole life, as the masks show it."""
    max_lifetime_hours: float | None = None
    max_top_temperature: float | None = None
    """Brightness temperature, K, of the coldest part at the record's time."""
    life_stages: Sequence[Stage] = ()

    def __bool__(self) -> bool:
        return any(value not in (None, (), []) for value in vars(self).values())

    def keeps(self, steps: SystemSteps, hours: Floats, age: Floats) -> npt.NDArray[np.bool_]:
        """Whether records satisfy all limits.

        Parameters
        ----------
        steps
            The records.
        hours, age
            By record, the lifetime of its system, and how much of it has passed, in [0, 1].

        Raises
        ------
        UsageError
            If a limit is of something that the masks do not tell.
        """
        keep = np.ones(len(steps), bool)
        if self.min_area_km2 is not None or self.max_area_km2 is not None:
            self._refuse_unknown(steps.area_km2, "areas", "min_area_km2", "max_area_km2")
            with np.errstate(invalid="ignore"):
                keep &= steps.area_km2 >= (self.min_area_km2 or 0.0)
                keep &= steps.area_km2 <= (np.inf if self.max_area_km2 is None else self.max_area_km2)
        if self.min_lifetime_hours is not None:
            keep &= hours >= self.min_lifetime_hours
        if self.max_lifetime_hours is not None:
            keep &= hours <= self.max_lifetime_hours
        if self.max_top_temperature is not None:
            self._refuse_unknown(steps.top, "brightness temperatures", "max_top_temperature")
            with np.errstate(invalid="ignore"):
                keep &= steps.top <= self.max_top_temperature
        if self.life_stages:
            keep &= np.isin(stage_of(age), [STAGES.index(stage) for stage in self.life_stages])
        return keep

    @staticmethod
    def _refuse_unknown(values: npt.NDArray[np.float32], what: str, *names: str) -> None:
        if len(values) and np.isnan(values).all():
            told = " and ".join(f"`{name}`" for name in names)
            raise UsageError(f"these cloud systems tell no {what}: leave {told} out, or give masks or tracks that do")
