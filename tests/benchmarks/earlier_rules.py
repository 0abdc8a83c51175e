"""The rules of two earlier pipelines, written anew and plainly: NumPy, SciPy and pyproj, nothing of ours.

S2SR made medians of Sentinel-2 in degrees, SatVision-Pix4D cut tiles of full disks on a grid of 1 km. Each rule is a
record of what may differ from ours, so that one cause can be turned on at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pyproj import Transformer
from scipy.ndimage import map_coordinates

F = npt.NDArray[np.float64]
MASKED = (0, 1, 2, 3, 7, 8, 9, 10, 11)


@dataclass(frozen=True)
class Scene:
    """One product on the tile's own grid: stored counts, scene classes, and the offset that its baseline adds."""

    datatake: str
    counts: npt.NDArray[np.integer[Any]]
    classes: npt.NDArray[np.integer[Any]]
    offset: int
    epsg: int
    ulx: float
    uly: float
    pixel: float = 20.0


def clear(scene: Scene) -> npt.NDArray[np.bool_]:
    """Pixels whose class is kept."""
    return ~np.isin(scene.classes, MASKED)


@dataclass(frozen=True)
class CompositeRule:
    """How a median is made; by default as ours is."""

    resampling: Literal["bilinear", "nearest", "nearest twice"] = "bilinear"
    negatives_at_zero: bool = False
    zero_is_a_value: bool = False
    """Counts of 0, which are no data, are taken for the darkest ground."""
    duplicates_vote: bool = False
    """Two processings of one scene are two votes."""
    own_corner: bool = False
    """Pixels are counted from the cell's corner, not from one lattice of all cells."""


def composite(
    scenes: Sequence[Scene],
    bounds: tuple[float, float, float, float],
    step: float,
    rule: CompositeRule,
    epsg: int = 4326,
    lattice: tuple[float, float] = (-180.0, 90.0),
) -> tuple[F, F, F]:
    """Median over a cell; and x and y of its pixels' centres.

    Parameters
    ----------
    scenes
        Later processings of one datatake first.
    bounds, step, epsg
        Of the cell and its pixels.
    rule
        What differs from ours.
    lattice
        Where the lattice of all cells is counted from.
    """
    xmin, ymin, xmax, ymax = bounds
    x0, y0 = (xmin, ymax) if rule.own_corner else lattice
    x = x0 + (np.arange(np.ceil((xmin - x0) / step - 0.5), np.ceil((xmax - x0) / step - 0.5)) + 0.5) * step
    y = y0 - (np.arange(np.ceil((y0 - ymax) / step - 0.5), np.ceil((y0 - ymin) / step - 0.5)) + 0.5) * step
    layers: list[F] = []
    seen: dict[str, int] = {}
    for scene in scenes:
        if scene.datatake in seen and not rule.duplicates_vote:
            layer = layers[seen[scene.datatake]]
            np.copyto(layer, _warped(scene, x, y, step, epsg, lattice, rule), where=np.isnan(layer))
            continue
        seen.setdefault(scene.datatake, len(layers))
        layers.append(_warped(scene, x, y, step, epsg, lattice, rule))
    stack = np.stack(layers)
    empty = np.isnan(stack).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, stack), axis=0)), x, y


def _warped(scene: Scene, x: F, y: F, step: float, epsg: int, lattice: tuple[float, float], rule: CompositeRule) -> F:
    known = clear(scene)
    if not rule.zero_is_a_value:
        known &= scene.counts != 0
    values = scene.counts.astype("f8") + scene.offset
    if rule.negatives_at_zero:
        values = np.maximum(values, 0)
    grid_x, grid_y = np.meshgrid(x, y)
    if rule.resampling == "nearest twice":  # first to the lattice, from which the cell's pixels are taken
        grid_x = lattice[0] + (np.floor((grid_x - lattice[0]) / step) + 0.5) * step
        grid_y = lattice[1] - (np.floor((lattice[1] - grid_y) / step) + 0.5) * step
    east, north = Transformer.from_crs(epsg, scene.epsg, always_xy=True).transform(grid_x, grid_y)
    u, v = (east - scene.ulx) / scene.pixel, (scene.uly - north) / scene.pixel
    height, width = values.shape
    inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
    col, row = (np.clip(np.floor(a), 0, n - 1).astype(int) for a, n in ((u, width), (v, height)))
    there = inside & known[row, col]
    if rule.resampling != "bilinear":
        return np.where(there, values[row, col], np.nan)
    weight = map_coordinates(known.astype("f8"), (v - 0.5, u - 0.5), order=1, mode="constant")
    total = map_coordinates(np.where(known, values, 0), (v - 0.5, u - 0.5), order=1, mode="constant")
    return np.where(there, total / np.where(there, weight, 1), np.nan)


@dataclass(frozen=True)
class TileRule:
    """How a tile of the 1 km grid is cut from a band's own grid; by default as ours is."""

    every_second: bool = False
    """Of 0.5 km every second pixel each way is taken, not the mean of four."""
    quality_unseen: bool = False
    """Pixels that the file's quality flags call unusable are kept."""
    rounded_corner: bool = False
    """The corner is rounded to a pixel of 2 km, so that odd corners shift the band by 1 km."""


def tile(
    image: F,
    quality: npt.NDArray[np.integer[Any]],
    kilometres: float,
    corner: tuple[int, int],
    side: int,
    rule: TileRule,
) -> F:
    """Cut a tile.

    Parameters
    ----------
    image, quality
        Of a band on its own grid: values, NaN where the file has none; flags, of which 0 and 1 are usable.
    kilometres
        Of that grid's pixel: 0.5, 1 or 2.
    corner, side
        First row and column, and pixels along a side, on the grid of 1 km.
    """
    usable = image if rule.quality_unseen else np.where(quality <= 1, image, np.nan)
    if kilometres == 2:
        if rule.rounded_corner:
            rows, cols = (round(c / 2) + np.arange(side) // 2 for c in corner)
        else:
            rows, cols = ((c + np.arange(side)) // 2 for c in corner)
        return usable[np.ix_(rows, cols)]
    times = round(1 / kilometres)
    part = usable[corner[0] * times : (corner[0] + side) * times, corner[1] * times : (corner[1] + side) * times]
    if rule.every_second:
        return part[::times, ::times]
    found: F = part.reshape(side, times, side, times).mean(axis=(1, 3))
    return found
