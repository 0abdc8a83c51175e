"""What features are asked for, as a command says it: a model, and tiles, a cube or an archive; opened anew anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from cube import open_abi
from loaders.cubes import open_cube
from loaders.statistics import Statistics as StoredStatistics
from stratacube.errors import UsageError
from training.batches import Statistics
from training.embed_sources import CubeSource, FeatureSource, TileSource
from training.runs import Opened, open_run

__all__ = ["Asked", "statistics_of"]


@dataclass(frozen=True)
class Asked:
    """A model and a source by name, small enough to travel to workers."""

    checkpoint: Path
    source: str
    which: str = "last"
    where: str | None = None
    """Condition on the columns of a tile store's plan."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east and north of a cube's part, degrees."""
    grid: str | None = None
    """Group of an archive; the source is one then."""
    start: str | None = None
    end: str | None = None
    part: str = ""
    """Of a model of several sources, the one whose part is taken."""

    def open(self) -> tuple[Opened, FeatureSource]:
        """Open both.

        Raises
        ------
        UsageError
            If there is no checkpoint or no such source, or one does not fit the other.
        """
        opened = open_run(self.checkpoint, which=self.which, part=self.part)
        config, statistics = opened.config, statistics_of(opened)
        quantity = statistics.quantity or getattr(config.data, "quantity", "")
        if self.grid is not None:
            bands = [quantity]
            return opened, CubeSource(
                self._archive(quantity), self.source, config.model, statistics, quantity, bands, self.bbox
            )
        cube = open_cube(self.source)
        if {"tile", "band"} <= {*map(str, cube.dims)}:
            if self.bbox is not None:
                raise UsageError("tiles are chosen by `where`, not by `bbox`")
            return opened, TileSource(self.source, config.model, statistics, quantity, self.where)
        if self.where is not None:
            raise UsageError("cubes have no table of tiles; leave `where` out, or give `bbox`")
        return opened, CubeSource(cube, self.source, config.model, statistics, quantity, None, self.bbox)

    def _archive(self, quantity: str) -> xr.Dataset:
        tree: Any = open_abi(self.source, start=self.start, end=self.end, chunks=None)
        if self.grid not in tree.children:
            raise UsageError(f"`grid` is {self.grid}; the archive has {', '.join(tree.children)}")
        cube: xr.Dataset = tree[self.grid].to_dataset()
        if quantity not in cube:
            raise UsageError(
                f"the model takes {quantity}, the archive has radiance, reflectance and brightness_temperature"
            )
        return cube


def statistics_of(opened: Opened) -> StoredStatistics:
    """Statistics that a model was trained with, as every decoder takes them.

    Raises
    ------
    UsageError
        If the model learned from data that have none, such as blobs.
    """
    if not hasattr(opened.config.data, "quantity"):
        raise UsageError(
            f"{opened.config.name} learned from {opened.config.data.source}, which are no satellite images"
        )
    return Statistics.stored(opened.manifest["statistics"])
