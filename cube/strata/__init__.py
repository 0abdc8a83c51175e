"""Where and when tiles lie: samplers of strata, the selector, and time windows.

A new stratum is a class that satisfies :class:`cube.strata.base.Sampler`, a :class:`cube.strata.plug.Stratum` that
names it, and one line in :mod:`cube.registry`; or, from outside, an entry point.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cube.strata.base import Candidate, Problem, Sampler, SampleRequest, place_tile

__all__ = ["Candidate", "Problem", "SampleRequest", "Sampler", "place_tile"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: options of strata are read without NumPy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("cube.strata.base"), name)


def __dir__() -> list[str]:
    """All names, for tab completion, though most are not yet imported."""
    return sorted(__all__)
