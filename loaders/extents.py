"""What the tiles of a store cover in space and time, for splits and for the checker of splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from catalog.leaks import Extents
from cube.geostationary.outline import footprint_ring
from cube.geostationary.projections import read_views
from loaders.store import TileStore, translate_open_errors
from stratacube.errors import SourceError

__all__ = ["tile_extents"]

Floats = npt.NDArray[np.float64]


def tile_extents(store: Any, tiles: Any = None) -> Extents:
    """What tiles cover: their outlines, from their first frame to their last, and their systems.

    Parameters
    ----------
    store
        A tile store, opened or as :meth:`loaders.store.TileStore.open` takes it.
    tiles
        Numbers of tiles; all by default.

    Returns
    -------
    Extents
        In the order of ``tiles``.

    Raises
    ------
    SourceError
        If the store does not say where its tiles lie.
    """
    opened = TileStore.open(store)
    chosen = np.arange(len(opened)) if tiles is None else np.asarray(tiles, "i8")
    times = opened.times()[chosen]
    systems = opened.table["system_id"].to_numpy(object)[chosen] if "system_id" in opened.table else None
    return Extents.of(_rings(opened, chosen), times.min(axis=1), times.max(axis=1), systems)


def _rings(store: TileStore, tiles: npt.NDArray[np.int64]) -> list[Floats]:
    band = store.bands[0]
    if {"x_left", "y_top"} <= {*map(str, store.small.variables)} and band.pixel is not None:
        views = _views(store)
        left, top = (store.small[name].values for name in ("x_left", "y_top"))
        if views is not None:
            side = band.pixel * band.shape[-1]
            return [footprint_ring(views[int(i)], float(left[i]), float(top[i]), side) for i in tiles]
    return [_ring_of_blocks(store, int(i)) for i in tiles]


def _views(store: TileStore) -> Any:
    """From where each tile is seen; None where the store does not say, as of several satellites' in older ones."""
    options = store.reader.storage_options or None
    with translate_open_errors(store.url, "a tile store", "give the tiles.zarr of a build"):
        raw = xr.open_zarr(store.url, decode_times=False, chunks=None, storage_options=options)
        try:
            return read_views(raw)
        except SourceError:
            return None


def _ring_of_blocks(store: TileStore, tile: int) -> Floats:
    """Outline by the centres of a tile's blocks, half a block inside of it: exact to a part of a block."""
    names = ("longitude_coarse", "latitude_coarse")
    if not all(name in store.coarse for name in names):
        raise SourceError(f"{store.url} does not say where its tiles lie; build it again")
    lon, lat = (np.radians(store.coarse[name][tile].values.astype("f8")) for name in names)
    centres = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    if min(centres.shape[:2]) < 2:
        raise SourceError(f"{store.url} does not say where its tiles lie; build it again")
    for axis in (0, 1):
        first, second, last_but_one, last = (np.take(centres, [i], axis) for i in (0, 1, -2, -1))
        centres = np.concatenate([1.5 * first - 0.5 * second, centres, 1.5 * last - 0.5 * last_but_one], axis)
    edge = np.concatenate([centres[:-1, 0], centres[-1, :-1], centres[:0:-1, -1], centres[0, :0:-1]])
    edge = edge[np.isfinite(edge).all(axis=1)]  # beyond the limb there is no place
    edge /= np.linalg.norm(edge, axis=1, keepdims=True)
    found: Floats = np.degrees(np.stack([np.arctan2(edge[:, 1], edge[:, 0]), np.arcsin(edge[:, 2])], axis=1))
    return found
