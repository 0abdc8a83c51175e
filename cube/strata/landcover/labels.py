"""Land cover of the tiles of a store: how many of their pixels are of which class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cube.geostationary.grid import FixedGrid
from cube.job.store import ArraySpec, pad_names
from cube.strata.labelling import PlannedTiles
from cube.strata.landcover.footprints import class_image, footprint_counts
from cube.strata.landcover.raster import NODATA, OFF_EARTH, open_landcover
from cube.strata.shares import word

__all__ = ["LandcoverLabels"]

_BLOCK = 1024
_TOGETHER = 1e-3
"""Part of a pixel by which tiles of one lattice may be off it."""


class LandcoverLabels:
    """Shares of land-cover classes in each tile, counted over all its pixels.

    Parameters
    ----------
    tiles : PlannedTiles
        Of the store.
    landcover, landcover_legend : str
        See :class:`cube.strata.landcover.sampler.LandcoverSampler`.
    **_ : Any
        Options that say how places are drawn.
    """

    def __init__(self, tiles: PlannedTiles, *, landcover: str, landcover_legend: str = "auto", **_: Any) -> None:
        self.tiles = tiles
        self.cover = open_landcover(landcover, landcover_legend)

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Describe the variables."""
        classes, names, count = self.cover.classes, self.cover.names, self.tiles.tiles
        chunk = min(_BLOCK, count)
        told = {
            "flag_values": [int(number) for number in classes],
            "flag_meanings": pad_names([word(names.get(number, f"class {number}")) for number in classes]),
        }
        shares = {
            "landcover_fraction": (
                f"share of the tile's pixels of {1e6 * self.tiles.pixel:g} microradians whose centre lies in a cell "
                "of the class"
            ),
            "landcover_nodata": "share of pixels without a class",
            "landcover_off_earth": "share of pixels that miss the Earth",
        }
        number = len(classes)
        specs = {
            name: ArraySpec(
                ("tile", "landcover") if name == "landcover_fraction" else ("tile",),
                (count, number) if name == "landcover_fraction" else (count,),
                "<f4",
                (chunk, number) if name == "landcover_fraction" else (chunk,),
                fill_value=np.nan,
                attributes={"long_name": title, "units": "1"},
            )
            for name, title in shares.items()
        }
        specs["landcover"] = ArraySpec(
            ("landcover",), (number,), "<i4", (number,), attributes={"long_name": "class of land cover", **told}
        )
        return specs

    def values(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        """Count, block by block."""
        yield "landcover", 0, np.array(self.cover.classes, "i4")
        for block in self.tiles.blocks():
            start = int(block["tile"].iloc[0])
            shares = (self._counts(block) / self.tiles.size**2).astype("f4")
            yield "landcover_fraction", start, shares[:, :-2]
            yield "landcover_nodata", start, shares[:, -2]
            yield "landcover_off_earth", start, shares[:, -1]

    def _counts(self, block: pd.DataFrame) -> npt.NDArray[np.int32]:
        """By tile: pixels of each class, without one, and off the Earth."""
        counts = np.zeros((len(block), len(self.cover.classes) + 2), "i4")
        columns = block[["x_left", "y_top", "projection"]].reset_index(drop=True)
        lattice = ((columns[["x_left", "y_top"]] / self.tiles.pixel) % 1 / _TOGETHER).round() * _TOGETHER % 1
        for _, rows in columns.groupby([columns["projection"], lattice["x_left"], lattice["y_top"]]):
            places = rows.index.to_numpy()
            first = rows.iloc[0]
            left, top = rows["x_left"].min(), rows["y_top"].max()
            col = ((rows["x_left"] - left) / self.tiles.pixel).round().to_numpy("i8")
            row = ((top - rows["y_top"]) / self.tiles.pixel).round().to_numpy("i8")
            size, pixel = self.tiles.size, self.tiles.pixel
            view = self.tiles.projections[int(first["projection"])]
            height, width = int(row.max()) + size, int(col.max()) + size
            whole = FixedGrid(view, left + pixel / 2, top - pixel / 2, pixel, -pixel, height, width)
            if height * width <= len(rows) * size**2:
                counts[places] = footprint_counts(self.cover, whole, row, col, size)
                continue
            for place, tile in zip(places, rows.itertuples(), strict=True):
                pixels = np.bincount(class_image(self.cover, self.tiles.grid(tile)).ravel(), minlength=256)
                counts[place] = [*pixels[: len(self.cover.classes)], pixels[NODATA], pixels[OFF_EARTH]]
        return counts
