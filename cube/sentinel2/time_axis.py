"""The time axis of a store of composites of several periods, by the CF conventions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from cube.job.store import ArraySpec, write_region
from cube.sentinel2.periods import Period

__all__ = ["NAMES", "time_arrays", "write_times"]

NAMES = "periods"
"""Attribute of ``time``: the name of each period."""

_UNITS = {"units": "seconds since 1970-01-01 00:00:00", "calendar": "proleptic_gregorian"}
_NEVER = np.iinfo("i8").min
"""Fill value of times: 0, the default, would hide a period that begins with 1970 from readers that mask it."""


def time_arrays(periods: Sequence[Period]) -> dict[str, ArraySpec]:
    """Specify ``time``, the start of each period, and ``time_bnds``, its start and end (exclusive).

    Their names are an attribute of the first: several may start alike, and Zarr v3 has no strings that all can read.
    """
    steps = len(periods)
    axis: dict[str, Any] = {**_UNITS, "standard_name": "time", "axis": "T", "bounds": "time_bnds"}
    axis[NAMES] = [p.period for p in periods]
    return {
        "time": ArraySpec(("time",), (steps,), "<i8", (steps,), None, _NEVER, axis),
        "time_bnds": ArraySpec(("time", "bnds"), (steps, 2), "<i8", (steps, 2), None, _NEVER, _UNITS),
    }


def write_times(path: Path, periods: Sequence[Period]) -> None:
    """Write both."""
    ends = np.array([[_seconds(p.start), _seconds(p.end)] for p in periods], "i8")
    write_region(path, "time", 0, ends[:, 0])
    write_region(path, "time_bnds", 0, ends)


def _seconds(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1)).total_seconds())
