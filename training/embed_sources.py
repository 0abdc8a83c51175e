"""What features can be made of: the tiles of a store, and cubes such as composites or an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from pyproj import Transformer

from loaders.batch import Batch, PackedBatch
from loaders.cubes import images_of
from loaders.extents import tile_extents
from loaders.statistics import Statistics as StoredStatistics
from loaders.statistics import make_decoder
from loaders.store import TileStore
from loaders.tiles import TileDataset
from loaders.windows import crs_of, rings_of, unit_of
from stratacube.errors import SourceError, UsageError
from training.batches import minutes_of
from training.feature_store import Place
from training.features import Rows
from training.models import ModelConfig

__all__ = ["CubeSource", "FeatureSource", "TileSource"]


class FeatureSource(Protocol):
    """Images, each of as many frames as the model takes."""

    name: str
    samples: int
    size: tuple[int, int]
    """Height and width, pixels."""
    one_cell: bool
    """Whether an image is pooled as a whole; else by cells of the size of a window."""

    def read(self, sample: int, top: int, bottom: int) -> Rows:
        """Rows of pixels of an image, normalised."""

    def place(self, sample: int, cell: tuple[int, int]) -> Place:
        """Where its cells of so many pixels lie, and when it was seen."""


class TileSource:
    """Tiles of a store; one that has more frames than the model takes is several images.

    Parameters
    ----------
    store
        As `loaders.store.TileStore.open` takes it.
    model
        Bands and frames.
    statistics, quantity
        What the model was trained with.
    where
        Condition on the plan's columns; all tiles by default.
    storage_options
        For fsspec.
    """

    one_cell = True

    def __init__(
        self,
        store: Any,
        model: ModelConfig,
        statistics: StoredStatistics,
        quantity: str,
        where: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        opened = TileStore.open(store, storage_options)
        self.tiles = TileDataset(opened, bands=model.bands, where=where)
        self.tiles.require(quantity)
        self.name, self.frames = self.tiles.url, model.frames
        steps, *size = self.tiles.bands[0].shape
        if steps < model.frames:
            raise UsageError(f"tiles of {self.name} have {steps} frames, the model takes {model.frames}")
        self.parts, self.size = steps // model.frames, (size[0], size[1])
        self.samples = len(self.tiles) * self.parts
        self._decoder = make_decoder(statistics, quantity)
        self._decoded = lru_cache(maxsize=1)(self._decode)

    def _decode(self, number: int) -> Batch:
        with torch.no_grad():
            decoded: Batch = self._decoder(self.tiles[number])
        return decoded

    def _frames(self, sample: int) -> tuple[int, slice]:
        tile, part = divmod(sample, self.parts)
        return tile, slice(part * self.frames, (part + 1) * self.frames)

    def read(self, sample: int, top: int, bottom: int) -> Rows:
        """Rows of pixels of a tile, normalised."""
        tile, frames = self._frames(sample)
        batch = self._decoded(tile)
        cut = (0, frames, slice(None), slice(top, bottom))
        return Rows(batch.pixels[cut], batch.valid[cut], minutes_of(batch.meta["time"][0, frames]))

    def place(self, sample: int, cell: tuple[int, int]) -> Place:
        """Where a tile lies, as one cell."""
        tile, frames = self._frames(sample)
        number = int(self.tiles.tiles[tile])
        times = self.tiles.store.times()[number][frames]
        try:
            corners = tile_extents(self.tiles.store, [number]).footprints.ring(0)
        except SourceError:  # a store that does not say where its tiles lie
            return Place(np.full((1, 1, 4, 2), np.nan), times, number)
        lonlat = np.degrees(np.stack([np.arctan2(corners[:, 1], corners[:, 0]), np.arcsin(corners[:, 2])], axis=-1))
        return Place(lonlat[None, None], times, number)


class CubeSource:
    """A cube, each run of as many frames as the model takes one image.

    Parameters
    ----------
    cube
        Of decoded values, as `loaders.cubes.CubeDataset` takes it: composites, or a group of an archive of
        `cube.open_abi`, lazily opened.
    name
        Of the cube.
    model, statistics, quantity
        As of `TileSource`.
    variables
        Variable that holds the bands, where they lie along a dimension ``band``; the model's bands by default.
    bbox
        West, south, east and north (degrees) of what is wanted; all by default.
    """

    one_cell = False

    def __init__(
        self,
        cube: xr.Dataset,
        name: str,
        model: ModelConfig,
        statistics: StoredStatistics,
        quantity: str,
        variables: Sequence[str] | None = None,
        bbox: tuple[float, float, float, float] | None = None,
    ) -> None:
        names, images = images_of(cube, variables or model.bands)
        missing = [band for band in model.bands if band not in names]
        if missing:
            raise UsageError(f"{name} has bands {', '.join(names)}, not {', '.join(missing)}")
        self.dims = tuple(str(d) for d in images[0].dims if d != "band")
        if [d for d in self.dims[:-2] if d != "time"]:
            raise UsageError(f"{name} has dimensions {', '.join(self.dims)}; select one of each but time, y and x")
        self.cube = cube if bbox is None else _within(cube, self.dims, bbox, name)
        self.name, self.bands, self.frames = name, model.bands, model.frames
        self.names, self.images = images_of(self.cube, variables or model.bands)
        count = self.cube.sizes["time"] if "time" in self.dims else 1
        if count < model.frames:
            raise UsageError(f"{name} has {count} frames, the model takes {model.frames}")
        self.samples = count // model.frames
        self.size = self.cube.sizes[self.dims[-2]], self.cube.sizes[self.dims[-1]]
        self._decoder = make_decoder(statistics, quantity)

    def _times(self, sample: int) -> npt.NDArray[np.datetime64]:
        frames = slice(sample * self.frames, (sample + 1) * self.frames)
        if "time" not in self.dims or "time" not in self.cube.coords or self.cube["time"].dtype.kind != "M":
            return np.full(self.frames, np.datetime64("NaT", "us"))
        return self.cube["time"].values[frames].astype("M8[us]")

    def read(self, sample: int, top: int, bottom: int) -> Rows:
        """Rows of pixels, normalised."""
        frames = slice(sample * self.frames, (sample + 1) * self.frames)
        parts = []
        for band in self.bands:
            several = len(self.images) > 1 or "band" not in self.images[0].dims
            image = self.images[self.names.index(band) if several else 0]
            key = {"time": frames, self.dims[-2]: slice(top, bottom)}
            key |= {} if several else {"band": self.names.index(band)}  # type: ignore[dict-item]
            values = np.asarray(image[tuple(key.get(str(d), slice(None)) for d in image.dims)].data, "f4")
            parts.append(values.reshape(self.frames, bottom - top, self.size[1]))
        packed = PackedBatch(torch.from_numpy(np.stack(parts))[None], None, self.bands)
        with torch.no_grad():
            decoded: Batch = self._decoder(packed)
        times = torch.from_numpy(self._times(sample).astype("i8"))
        return Rows(decoded.pixels[0], decoded.valid[0], minutes_of(times))

    def place(self, sample: int, cell: tuple[int, int]) -> Place:
        """Where the cells of so many pixels lie; those at the lower and right border may be smaller."""
        first = np.stack(
            np.meshgrid(*[np.arange(0, n, c) for n, c in zip(self.size, cell, strict=True)], indexing="ij"), -1
        )
        end = np.minimum(first + cell, self.size)
        rings = rings_of(self.cube, self.dims[-2:], first.reshape(-1, 2), end.reshape(-1, 2))
        return Place(rings.reshape(*first.shape[:2], *rings.shape[1:]), self._times(sample), sample * self.frames)


def _within(cube: xr.Dataset, dims: tuple[str, ...], bbox: tuple[float, ...], name: str) -> xr.Dataset:
    """Rows and columns that hold a box of degrees."""
    west, south, east, north = bbox
    if not west < east or not south < north:
        raise UsageError(f"`bbox` {' '.join(f'{n:g}' for n in bbox)} is not a box; give west, south, east and north")
    along = np.linspace(0, 1, 21)
    lon = np.concatenate([west + (east - west) * along, [east] * 21, west + (east - west) * along, [west] * 21])
    lat = np.concatenate([[south] * 21, south + (north - south) * along, [north] * 21, south + (north - south) * along])
    x, y = Transformer.from_crs("EPSG:4326", crs_of(cube), always_xy=True).transform(lon, lat)
    chosen = {}
    for dim, edge in zip(dims[-2:], (y, x), strict=True):
        wanted = edge[np.isfinite(edge)]
        low, high = (wanted.min(), wanted.max()) if wanted.size else (np.inf, -np.inf)
        places = cube[dim].values.astype("f8") * unit_of(cube, dim)
        inside = np.flatnonzero((places >= low) & (places <= high))
        if not len(inside):
            raise UsageError(f"`bbox` {' '.join(f'{n:g}' for n in bbox)} lies beside {name}; give one that it holds")
        chosen[dim] = slice(int(inside[0]), int(inside[-1]) + 1)
    return cube.isel(chosen)
