"""The splits that a build of composites tells of its cells, for windows of its cube."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from catalog.splits import GAP
from loaders.cubes import CubeDataset
from loaders.store import find_store, plan_beside
from stratacube.errors import UsageError

__all__ = ["cell_splits"]

_BOUNDS = ("xmin", "ymin", "xmax", "ymax")
_INSIDE = 0.25
"""Pixels by which cells are drawn in, so that windows that only share an edge with one do not touch it."""


def cell_splits(
    source: Any, windows: CubeDataset, storage_options: Mapping[str, Any] | None = None
) -> npt.NDArray[np.str_] | None:
    """Tell the split of each window of a build of composites, by the splits of the cells that it may reach.

    Parameters
    ----------
    source
        The build, as :func:`loaders.cubes.open_cube` takes it.
    windows
        Of its cube.
    storage_options
        For fsspec.

    Returns
    -------
    ndarray of str, or None
        The split of the cells where it is one, ``gap`` where they are of several, and nothing where there is no cell.
        None where the build tells no splits.

    Raises
    ------
    UsageError
        If the cube is of some of the build's periods only, so that they cannot be told apart.
    SourceError
        If the plan cannot be read.
    """
    options = dict(storage_options or {})
    place = find_store(source, options)
    beside = place if place.endswith((".zarr", ".json")) else f"{place}/catalog.json"
    plan = plan_beside(beside, options, "cell", *_BOUNDS)
    if plan is None or "split" not in plan:
        return None
    first, end = windows.reach()
    boxes = shapely.box(first[:, -1], first[:, -2], end[:, -1], end[:, -2])
    tree = shapely.STRtree(_cells(plan, windows))
    window, cell = tree.query(boxes, predicate="intersects")
    together = _at_one_time(plan, windows, first, end, window, cell)
    return _one_each(len(windows), window[together], plan["split"].to_numpy(str)[cell[together]])


def _cells(plan: pd.DataFrame, windows: CubeDataset) -> Any:
    """Cells as boxes of columns and rows of the cube: a pixel is of the cell that its centre lies in."""
    y, x = (windows.cube[d].values.astype("f8") for d in windows.dims[-2:])
    xmin, ymin, xmax, ymax = (plan[name].to_numpy("f8") for name in _BOUNDS)
    left, right = _between(x, xmin, xmax)
    top, bottom = _between(-y, -ymax, -ymin)
    boxes = shapely.box(left + _INSIDE, top + _INSIDE, right - _INSIDE, bottom - _INSIDE)
    return np.where((left < right) & (top < bottom), boxes, None)  # a cube may be of some of the cells


def _between(centres: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """First pixel between bounds, and that behind the last."""
    little = 1e-6 * (centres[1] - centres[0]) if len(centres) > 1 else 0.0
    return np.searchsorted(centres, low - little), np.searchsorted(centres, high - little)


def _at_one_time(plan: pd.DataFrame, windows: CubeDataset, first: Any, end: Any, window: Any, cell: Any) -> Any:
    """Whether composites are of a time that a window has, where the cube has times."""
    if "step" not in plan:
        return np.ones(len(window), bool)
    times, steps = windows.cube.sizes.get("time", 1), int(plan["step"].max()) + 1
    if "time" not in windows.dims or times != steps:
        raise UsageError(
            f"the cube has {times} times and its build {steps} periods, so that the splits of its composites cannot "
            "be told; open the whole build"
        )
    place, step = windows.dims.index("time"), plan["step"].to_numpy("i8")[cell]
    return (first[window, place] <= step) & (step < end[window, place])


def _one_each(number: int, window: Any, names: Any) -> npt.NDArray[np.str_]:
    kinds, kind = np.unique(names, return_inverse=True)
    has = np.zeros((number, len(kinds)), bool)
    has[window, kind] = True
    found = np.full(number, "", dtype=f"<U{max(map(len, [GAP, *kinds.tolist()]))}")
    several = has.sum(axis=1)
    found[several == 1] = kinds[has[several == 1].argmax(axis=1)]
    found[several > 1] = GAP
    return found
