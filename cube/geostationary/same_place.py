"""Whether the files of one scan look at one place, and which of them do where one does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cube.geostationary.file_index import FileIndex

__all__ = ["aside_allowed", "majority"]

_ASIDE, _ASIDE_BEFORE, _SINCE = 1.0, 30.0, np.datetime64("2019-10-27")
"""Microradians by which images of one scan may lie aside, those until a day too: mesoscale files of 2017 and of January
2019 are half a pixel of 1 km off the others' lattice, those from that day on lie on one."""


def aside_allowed(start: np.datetime64) -> float:
    """Microradians by which images of a scan that starts then may lie aside of each other."""
    return _ASIDE if start >= _SINCE else _ASIDE_BEFORE


def majority(files: Sequence[FileIndex]) -> list[FileIndex]:
    """Those files that look at the place that more than half of them do, in order; none where no place has as many."""
    alike = [[other for other in files if _same_place(one, other)] for one in files]
    most: list[FileIndex] = max(alike, key=len, default=[])
    return most if 2 * len(most) > len(files) else []


def _same_place(one: FileIndex, other: FileIndex) -> bool:
    aside = aside_allowed(np.datetime64(min(one.source.start, other.source.start), "us")) * 1e-6
    return (
        one.grid.projection == other.grid.projection
        and abs(one.grid.left - other.grid.left) <= aside
        and abs(one.grid.top - other.grid.top) <= aside
    )
