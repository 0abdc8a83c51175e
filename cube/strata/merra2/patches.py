"""The weather about each tile: a window of MERRA-2's own grid at a tile's steps, and the cell of each pixel in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.geostationary.grid import FixedGrid
from cube.job.store import ArraySpec
from cube.strata.labelling import PlannedTiles
from cube.strata.merra2.files import Merra2
from stratacube.errors import SourceError

__all__ = ["Merra2Patches"]

_BLOCK = 1024
"""Tiles of a chunk of what is small."""
_NO_TIME = np.iinfo("i8").min
_TIME = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Patch:
    """Which cells of the grid a tile takes."""

    row: int
    column: int
    height: int
    width: int


class Merra2Patches:
    """Windows of the grid that hold a tile, and one cell around.

    Parameters
    ----------
    tiles : PlannedTiles
        Of the store.
    files : Merra2
        What they are read from.
    """

    def __init__(self, tiles: PlannedTiles, files: Merra2) -> None:
        self.tiles, self.files = tiles, files
        self._patches: dict[int, _Patch] = {}

    def place(self, tile: int, grid: FixedGrid, longitude: Floats, latitude: Floats) -> None:
        """Find the patch of a tile that holds its pixels, and some places besides.

        Raises
        ------
        SourceError
            If the files are of a part of the Earth in which some do not lie.
        """
        lon, lat = _lonlat(grid)
        seen = np.isfinite(lon)
        rows, columns = self._cells(
            np.concatenate([lon[seen], longitude]), np.concatenate([lat[seen], latitude]), f"tile {tile}"
        )
        column, width = self._across(np.unique(columns))
        row, end = max(0, int(rows.min()) - 1), min(self.files.grid.shape[0], int(rows.max()) + 2)
        self._patches[tile] = _Patch(row, column, end - row, width)

    def index(self, tile: int, longitude: Floats, latitude: Floats) -> tuple[Ints, Ints]:
        """Row and column in a tile's patch of the cell whose centre is nearest; -1 off the Earth."""
        patch, seen = self._patches[tile], np.isfinite(longitude)
        row, column = np.full((2, *longitude.shape), -1, "i8")
        rows, columns = self._cells(longitude[seen], latitude[seen], f"tile {tile}")
        row[seen], column[seen] = rows - patch.row, (columns - patch.column) % self.files.grid.shape[1]
        return row, column

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Describe the variables."""
        tiles, size, steps = self.tiles.tiles, self.tiles.size, self._steps()
        height, width = self._size()
        some = min(_BLOCK, tiles)
        specs = {
            f"merra2_{name}": ArraySpec(
                ("tile", "y", "x"), (tiles, size, size), "<i2", (1, size, size), None, -1,
                {"long_name": f"{name} of the patch of MERRA-2 whose cell's centre is nearest, -1 off the Earth"},
            )
            for name in ("row", "column")
        }  # fmt: skip
        for name, dim, number, units in (
            ("latitude", "merra2_y", height, "degrees_north"),
            ("longitude", "merra2_x", width, "degrees_east"),
        ):
            told = {"standard_name": name, "units": units, "long_name": "of the patch's cells"}
            specs[f"merra2_{name}"] = ArraySpec(
                ("tile", dim), (tiles, number), "<f8", (some, number), None, np.nan, told
            )
        if levels := len(self.files.levels):
            about = {"long_name": "pressure of the level", "units": "hPa"}
            specs["merra2_level"] = ArraySpec(("merra2_level",), (levels,), "<f8", (levels,), attributes=about)
        for name, told_of in self.files.told.items():
            dims = (("time", steps),) * (not told_of.constant) + (("merra2_level", levels),) * told_of.levels
            dims += ("merra2_y", height), ("merra2_x", width)
            shape = tuple(number for _, number in dims)
            about = {"long_name": told_of.long_name, "units": told_of.units, "source": told_of.collection}
            specs[f"merra2_{name}"] = ArraySpec(
                ("tile", *(dim for dim, _ in dims)), (tiles, *shape), "<f4", (1, *shape), None, np.nan, about
            )
            if not told_of.constant:
                when: dict[str, Any] = {
                    "long_name": f"step of MERRA-2 that {name} is of",
                    "_FillValue": _NO_TIME,
                    **_TIME,
                }
                specs[f"merra2_{name}_time"] = ArraySpec(
                    ("tile", "time"), (tiles, steps), "<i8", (some, steps), None, _NO_TIME, when
                )
        return specs

    def values(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        """Read the files tile by tile and yield the variables."""
        height, width = self._size()
        tiles, steps, grid = self.tiles.tiles, self._steps(), self.files.grid
        axes = np.full((tiles, height), np.nan), np.full((tiles, width), np.nan)
        moving = [name for name, told in self.files.told.items() if not told.constant]
        times = {name: np.full((tiles, steps), _NO_TIME, "i8") for name in moving}
        if len(self.files.levels):
            yield "merra2_level", 0, self.files.levels
        for row in self._rows():
            tile, patch = int(row.tile), self._patches[int(row.tile)]
            rows, columns = slice(patch.row, patch.row + patch.height), self._columns(patch)
            axes[0][tile, : patch.height] = grid.latitude[rows]
            axes[1][tile, : patch.width] = grid.longitude[columns]
            for name, index in zip(("row", "column"), self.index(tile, *_lonlat(self.tiles.grid(row))), strict=True):
                yield f"merra2_{name}", tile, index[None].astype("i2")
            wanted = np.asarray(list(row.requested_times), "M8[us]")
            for name, told in self.files.told.items():
                read = [self.files.read(name, t, rows, columns) for t in (wanted[:1] if told.constant else wanted)]
                values = read[0] if told.constant else np.stack(read)
                padded = np.full((1, *values.shape[:-2], height, width), np.nan, "f4")
                padded[0, ..., : patch.height, : patch.width] = values
                yield f"merra2_{name}", tile, padded
                if not told.constant:
                    times[name][tile] = self.files.nearest(name, wanted).astype("i8")
        yield "merra2_latitude", 0, axes[0]
        yield "merra2_longitude", 0, axes[1]
        for name in moving:
            yield f"merra2_{name}_time", 0, times[name]

    def _rows(self) -> Iterator[Any]:
        for block in self.tiles.blocks():
            yield from block[block["tile"].isin([*self._patches])].itertuples()

    def _steps(self) -> int:
        return len(next(next(self.tiles.blocks()).itertuples()).requested_times)

    def _size(self) -> tuple[int, int]:
        """Rows and columns of the largest patch."""
        patches = self._patches.values()
        return max((p.height for p in patches), default=1), max((p.width for p in patches), default=1)

    def _cells(self, longitude: Floats, latitude: Floats, what: str) -> tuple[Ints, Ints]:
        flat = self.files.grid.locate(longitude, latitude)
        if (flat < 0).any():
            i = int(np.argmin(flat))
            raise SourceError(
                f"`merra2_root` is {self.files.root}: its grid {self.files.grid} does not hold {what}, which reaches "
                f"{latitude[i]:.2f} N {longitude[i]:.2f} E; bring files of the whole Earth"
            )
        rows, columns = np.divmod(flat, self.files.grid.shape[1])
        return rows, columns

    def _across(self, columns: Ints) -> tuple[int, int]:
        """First column and number of the fewest that hold some, and one on each side; over the grid's edge perhaps."""
        number = self.files.grid.shape[1]
        if not self.files.grid.circular:
            first, end = max(0, int(columns[0]) - 1), min(number, int(columns[-1]) + 2)
            return first, end - first
        gaps = np.diff(np.append(columns, columns[0] + number))
        after = (int(gaps.argmax()) + 1) % len(columns)
        width = number - int(gaps.max()) + 1
        return (int(columns[after]) - 1) % number, min(number, width + 2)

    def _columns(self, patch: _Patch) -> Ints:
        return (patch.column + np.arange(patch.width)) % self.files.grid.shape[1]


def _lonlat(grid: FixedGrid) -> tuple[Floats, Floats]:
    """Longitude and latitude of a tile's pixels (rows, columns); NaN off the Earth."""
    return grid.lonlat(np.arange(grid.height, dtype="f8")[:, None], np.arange(grid.width, dtype="f8")[None, :])
