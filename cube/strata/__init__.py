"""Where and when tiles lie: samplers of strata, the selector, and time windows.

A new stratum is one module with a class that satisfies :class:`cube.strata.base.Sampler`, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from cube.strata.base import Candidate, Problem, Sampler, SampleRequest, place_tile
from cube.strata.convection import ConvectionSampler
from cube.strata.random import RandomSampler

__all__ = ["SAMPLERS", "Candidate", "Problem", "SampleRequest", "Sampler", "place_tile"]

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "random": RandomSampler,
    "convection": ConvectionSampler,
}
"""By stratum; each is called with a SampleRequest and the stratum's own options by keyword."""
