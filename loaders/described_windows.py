"""Windows of a cube of which something is known: how much of each is valid, and which land cover it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyproj import Transformer

from cube.strata.landcover.raster import NODATA, OFF_EARTH, LandCover, open_landcover
from loaders.batch import PackedBatch
from loaders.cubes import CubeDataset
from loaders.order import Pick
from loaders.windows import crs_of, unit_of
from stratacube.errors import UsageError

__all__ = ["LANDCOVER", "UNCLASSED", "DescribedWindows"]

LANDCOVER = "landcover"
"""Name of the label."""
UNCLASSED = "unclassed"
"""Class of windows that the raster does not cover."""

_AT_ONCE = 64
"""Windows read together to see how much of them is valid."""
_POINTS = 16
"""Along a side: places of a window at which the land cover is looked up."""


class DescribedWindows(CubeDataset):
    """Windows of a cube, some of which can be left out, and which can have labels.

    Parameters
    ----------
    cube, window, **options
        As of :class:`loaders.cubes.CubeDataset`.
    landcover
        Raster of classes, or a glob of some, as the stratum of land cover takes them. Each window is labelled by the
        class that most of it has where it lies, looked up at 16 x 16 places: ``labels["landcover"]`` of a batch is its
        place in ``classes["landcover"]``.

    Raises
    ------
    UsageError
        If windows do not fit, or the cube does not say where it lies and land cover is asked for.
    """

    def __init__(self, cube: Any, window: Mapping[str, int], *, landcover: str | None = None, **options: Any) -> None:
        super().__init__(cube, window, **options)
        self.classes: dict[str, list[str]] = {}
        self._numbers: npt.NDArray[np.int64] | None = None
        self._cover: LandCover | None = None
        if landcover is not None:
            self._cover = open_landcover(landcover)
            names = [str(self._cover.names.get(number, number)) for number in self._cover.classes]
            self.classes[LANDCOVER] = [*names, UNCLASSED]
            self._numbers = np.arange(len(names) + 1)
            self._crs = crs_of(self.cube)
            self._units = tuple(unit_of(self.cube, d) for d in self.dims[-2:])

    def renumber(self, label: str, classes: Sequence[str]) -> None:
        """Number the classes by their places in a list that holds them, such as that of several cubes."""
        places = np.array([classes.index(name) for name in self.classes[label]])
        assert self._numbers is not None
        self._numbers = places[self._numbers]
        self.classes[label] = list(classes)

    def valid_shares(self) -> npt.NDArray[np.float64]:
        """Share of the pixels of each window that are valid in every band, where the grid has it; all are read.

        Raises
        ------
        SourceError
            If the cube cannot be read.
        """
        found = np.empty(len(self))
        for first in range(0, len(self), _AT_ONCE):
            values = super().__getitems__(range(first, min(first + _AT_ONCE, len(self)))).values
            found[first : first + len(values)] = values.isfinite().all(1).flatten(1).double().mean(1).numpy()
        return found

    def require_valid(self, least: float) -> None:
        """Keep windows with so large a share of valid pixels.

        Parameters
        ----------
        least
            Of the pixels of a window, those that are valid in every band.

        Raises
        ------
        UsageError
            If no window has so many, or windows lie anywhere, so that those of the grid say nothing of them.
        """
        if self.sampling == "random":
            raise UsageError(
                f"windows that lie anywhere (`sampling=random`) cannot be chosen by `min_valid` {least:g}, which is of"
                " the windows of a grid; take `sampling=stratified`, or `min_valid=0`"
            )
        shares = self.valid_shares()
        kept = np.flatnonzero(shares >= least)
        if not len(kept):
            raise UsageError(
                f"none of the {len(self)} windows has a share of {least:g} valid pixels, the best has"
                f" {shares.max():.3f}; take less, or smaller windows"
            )
        if len(kept) < len(self):
            self.choose(kept)

    def __getitems__(self, draws: Sequence[int | Pick]) -> PackedBatch:
        """Read windows together, with their labels."""
        batch = super().__getitems__(draws)
        if self._cover is None:
            return batch
        codes = torch.from_numpy(self._landcover(batch.meta["origin"].numpy()))
        return replace(batch, labels={**batch.labels, LANDCOVER: codes})

    def _landcover(self, origins: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number of the commonest class of windows by their first indices."""
        assert self._cover is not None
        assert self._numbers is not None
        share = (np.arange(_POINTS) + 0.5) / _POINTS
        along = []
        for dim, first, size, unit in zip(self.dims[-2:], origins.T[-2:], self._sizes[-2:], self._units, strict=True):
            places = (first[:, None] + share * size).astype(int)
            along.append(self._coordinates[dim].astype("f8")[places] * unit)
        y, x = np.broadcast_arrays(along[0][:, :, None], along[1][:, None, :])
        lon, lat = Transformer.from_crs(self._crs, "EPSG:4326", always_xy=True).transform(x, y)
        beyond = ~(np.isfinite(lon) & np.isfinite(lat))
        codes = self._cover.codes(np.where(beyond, np.nan, lon).ravel(), np.where(beyond, np.nan, lat).ravel())
        counts = np.zeros((len(origins), len(self._numbers)), "i8")
        known = np.where((codes == NODATA) | (codes == OFF_EARTH), 0, codes).reshape(len(origins), -1)
        classed = ((codes != NODATA) & (codes != OFF_EARTH)).reshape(len(origins), -1)
        np.add.at(counts, (np.arange(len(origins))[:, None], known), classed)
        counts[:, -1] = np.where(classed.any(axis=1), 0, 1)
        found: npt.NDArray[np.int64] = self._numbers[counts.argmax(axis=1)]
        return found
