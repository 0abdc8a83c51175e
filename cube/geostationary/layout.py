"""How tiles lie in their store: grid, sizes, dimensions, shards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np

from catalog.geostationary.scans import SourceFile
from cube.config import HalfKm, StoreForm
from cube.geostationary.dialect import imager_of
from cube.geostationary.grid import FixedGrid, GeosProjection, Window
from cube.geostationary.resample import AVERAGE_FILL
from cube.instrument import Band, Instrument, Resolution, instrument
from stratacube.errors import SourceError, UsageError

__all__ = ["Frame", "GridName", "TileLayout", "TileSpec"]

GridName = Literal["1km", "2km", "native"]
_GRID_PIXEL = {"1km": 28, "2km": 56, "native": 28}
MOST_TILES = 4096
"""Of a shard: of tiles as small as 8 pixels 32 MB are 260,000, which as one task take a gigabyte to describe."""
COARSE_NODES = 16
"""Angles and locations are stored for this many blocks along a tile's side."""


@dataclass(frozen=True, slots=True)
class TileSpec:
    """Where one tile lies: its north-west corner in scan angle, seen by one satellite."""

    tile_id: str
    x_left: float
    y_top: float
    projection: GeosProjection


@dataclass(frozen=True)
class Frame:
    """One time step of one tile: the scan it is cut from."""

    tile: int
    """Position within the shard."""
    step: int
    scan_id: str
    start: datetime
    """When the scan began, by the names of its files."""
    files: Mapping[int, SourceFile]
    lost: Mapping[int, tuple[SourceFile, str]] = field(default_factory=dict)
    """Channels whose file could not be indexed, and why."""


@dataclass(frozen=True)
class TileLayout:
    """Shapes of a tile store."""

    grid: GridName
    tile_size: int
    """Pixels along a side, of the grid; of 1 km pixels when native."""
    steps: int
    channels: tuple[int, ...]
    shard_mb: float = 32.0
    """Decoded megabytes of one band in one shard, about."""
    instrument_name: str = "abi"
    store: StoreForm = "common"
    """Of a grid of 1 km: bands of 2 km stored once, the grid being a view of them, or repeated on it."""
    half_km: HalfKm = "mean"
    """What becomes of pixels of 0.5 km on a grid of 1 km: their mean, the north-western one, or they are kept."""
    differing: frozenset[int] = frozenset()
    """Bands of 2 km whose pixels on the grid of 1 km are no repeated blocks: stored there, never shifted."""
    observed: bool = True
    """Whether the store says when each tile was seen; one that an earlier version planned does not."""

    def __post_init__(self) -> None:
        multiple = 1 if self.grid == "2km" else 2
        if self.tile_size < 2 or self.tile_size % multiple:
            raise UsageError(
                f"tile size {self.tile_size} does not fit the {self.grid} grid; "
                f"take a multiple of {max(2, multiple)}, such as {self.tile_size + self.tile_size % 2}"
            )

    @classmethod
    def of(cls, config: Any) -> TileLayout:
        """Layout that a configuration, or its plain values, asks for."""
        values = config if isinstance(config, dict) else config.described()
        return cls(
            values["grid"],
            values["tile_size"],
            values["steps"],
            tuple(values["channels"]),
            values["shard_mb"],
            imager_of(values["satellite"].split()[0]).name,
            values.get("store", "common"),
            values.get("half_km", "mean"),
        )

    @property
    def instrument(self) -> Instrument:
        """Whose bands these are."""
        return instrument(self.instrument_name)

    def band(self, channel: int) -> Band:
        """What is nominal about a band."""
        return self.instrument.band(channel)

    def resolution(self, channel: int) -> Resolution:
        """Native resolution of a band."""
        return self.instrument.scan.resolution(self.band(channel).pixel_urad)

    @property
    def pixel(self) -> float:
        """Side of a grid pixel in radians (1 km for a native store, whose tiles are counted so)."""
        return _GRID_PIXEL[self.grid] * 1e-6

    @property
    def full_disk(self) -> int:
        """Grid pixels along a side of the full disk."""
        own = self.instrument.scan.resolutions[0]
        return round(own.full_disk * own.pixel_urad / (self.pixel * 1e6))

    @property
    def align(self) -> int:
        """Tile origins are multiples of this many grid pixels, so that every band starts on a whole pixel."""
        return 1 if self.grid == "2km" else 2

    @property
    def side(self) -> float:
        """Side of a tile in radians."""
        return self.tile_size * self.pixel

    def band_pixel(self, channel: int) -> float:
        """Side of a stored pixel of a band, in radians."""
        own = self.band(channel).pixel_urad * 1e-6
        if self.grid == "native" or (own < self.pixel and self.half_km == "keep"):
            return own
        return max(own, self.pixel) if self.is_view and channel not in self.differing else self.pixel

    def stored_fill(self, channel: int) -> int:
        """What pixels of a band without a value hold: the files' own fill where they are copied."""
        averaged = self.band_pixel(channel) > 1.5e-6 * self.band(channel).pixel_urad and not self.takes_one(channel)
        return AVERAGE_FILL if averaged else self.band(channel).fill

    @property
    def is_view(self) -> bool:
        """Whether the grid is a view of bands that are stored at their own pixels."""
        return self.grid == "1km" and self.store == "native"

    def repeat(self, channel: int) -> int:
        """How often a stored pixel of a band repeats along either side of the grid; 1 if it is finer than that."""
        return max(1, round(self.band_pixel(channel) / self.pixel))

    @property
    def has_finer(self) -> bool:
        """Whether a band has pixels finer than the grid's, of which ``half_km`` speaks."""
        return any(self.band(c).pixel_urad * 1e-6 < self.pixel / 1.5 for c in self.channels)

    def takes_one(self, channel: int) -> bool:
        """Whether one of several pixels of a band is stored, not their mean."""
        return self.half_km == "decimate" and self.band(channel).pixel_urad * 1e-6 < self.pixel / 1.5

    def band_size(self, channel: int) -> int:
        """Stored pixels along a side of a band."""
        return round(self.side / self.band_pixel(channel))

    def suffix(self, channel: int) -> str:
        """What distinguishes dimensions and masks of a band's resolution in a native store."""
        aside = self.grid == "native" or self.band_pixel(channel) != self.pixel
        return f"_{self.resolution(channel).name}" if aside else ""

    def mask_groups(self) -> dict[str, tuple[int, ...]]:
        """Channels by the mask variable that holds their validity."""
        groups: dict[str, tuple[int, ...]] = {}
        for channel in self.channels:
            name = self.mask_name(channel)
            groups[name] = (*groups.get(name, ()), channel)
        return groups

    @property
    def images(self) -> list[str]:
        """Names of the arrays of pixels: bands, then masks."""
        return [*(self.band(c).name for c in self.channels), *self.mask_groups()]

    def mask_name(self, channel: int) -> str:
        """Variable that holds a band's validity: one a resolution, and one for each 64 bands of the instrument."""
        which, _ = self.instrument.mask_place(self.band(channel).name)
        return "valid" + self.suffix(channel) + (f"_{which}" if which else "")

    def mask_bit(self, channel: int) -> np.unsignedinteger[Any]:
        """Bit of a band in its mask, as a number of the mask's type."""
        _, place = self.instrument.mask_place(self.band(channel).name)
        bit: np.unsignedinteger[Any] = np.dtype(self.instrument.mask_dtype).type(1 << place)
        return bit

    @property
    def tiles_per_shard(self) -> int:
        """Tiles of one shard: no band of it decodes to more than about ``shard_mb``, and no task is too long."""
        largest = max(self.band_size(c) for c in self.channels)
        return min(MOST_TILES, max(1, int(self.shard_mb * 2**20) // (self.steps * largest**2 * 2)))

    @property
    def coarse_step(self) -> int:
        """Grid pixels along the side of a block of the coarse angle grid."""
        return -(-self.tile_size // COARSE_NODES)

    @property
    def coarse_size(self) -> int:
        """Blocks along a tile's side."""
        return -(-self.tile_size // self.coarse_step)

    def source_window(self, tile: TileSpec, grid: FixedGrid, channel: int) -> tuple[Window, float]:
        """Native pixels of a band under a tile.

        Returns
        -------
        window, shift
            The window in the file's grid and how far, in native pixels, the file's lattice lies from the tile's
            (mesoscale files up to 2019 are written half a 1 km pixel off).

        Raises
        ------
        SourceError
            If the file sees the Earth from elsewhere, has other pixels, or does not cover the tile.
        """
        if grid.projection != tile.projection:
            one, other = asdict(tile.projection), asdict(grid.projection)
            name = next(n for n in one if one[n] != other[n])
            raise SourceError(
                f"projection differs: the tile's {name} is {one[name]}, the file's {other[name]}; "
                "fetch the file again, or leave it out"
            )
        native = self.band(channel).pixel_urad * 1e-6
        if abs(grid.dx / native - 1) > 1e-3 or abs(grid.dy / native + 1) > 1e-3:
            raise SourceError(
                f"pixels are {grid.dx * 1e6:.3g} microradians where {self.band(channel).name} has {native * 1e6:.0f}"
            )
        size = round(self.side / native)
        col, row = (tile.x_left - grid.left) / native, (grid.top - tile.y_top) / native
        window = Window(_nearest(row), _nearest(col), size, size)
        if window.row < 0 or window.col < 0 or window.row + size > grid.height or window.col + size > grid.width:
            raise SourceError(f"the sector does not cover the tile ({window} of {grid.height} x {grid.width} pixels)")
        return window, max(abs(row - window.row), abs(col - window.col))


def _nearest(position: float) -> int:
    """Nearest pixel; exactly between two, the first, whatever the last bits of the floating point say."""
    return math.ceil(position - 0.5 - 1e-6)
