"""What a stratum says of the tiles that were planned: variables of their own in the store, read by no pixel of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import pandas as pd

from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.job.store import ArraySpec

__all__ = ["Labeller", "PlannedTiles"]


@dataclass(frozen=True)
class PlannedTiles:
    """The tiles of a plan, as a labeller knows them."""

    tiles: int
    blocks: Callable[[], Iterator[pd.DataFrame]]
    """Their rows, some at a time: ``tile``, ``x_left``, ``y_top`` (radians), ``projection`` and, where the stratum told
    some, ``details`` (JSON of what its candidates knew)."""
    projections: Sequence[GeosProjection]
    """By the numbers in ``projection``."""
    size: int
    """Pixels along a tile's side."""
    pixel: float
    """Side of a pixel, radians."""
    frame: int
    """Such pixels along a side of the full disk."""

    def grid(self, row: Any) -> FixedGrid:
        """Grid of the pixels of one tile, a row of :attr:`blocks`."""
        half, view = self.pixel / 2, self.projections[row.projection]
        return FixedGrid(view, row.x_left + half, row.y_top - half, self.pixel, -self.pixel, self.size, self.size)


class Labeller(Protocol):
    """Variables that a stratum adds to a store.

    It is called with the planned tiles and the arguments of the stratum's options, by the driver, before any tile is
    cut. What it writes must follow from those alone.
    """

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Describe the arrays; those of a number a tile have ``tile`` as their first dimension."""
        ...

    def values(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        """Yield name, first row and rows of what the arrays hold: all rows of every chunk that is touched."""
        ...
