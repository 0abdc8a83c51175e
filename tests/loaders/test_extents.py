"""What tiles of a store cover, against PROJ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import zarr

from catalog.sphere import unit_vectors
from loaders.extents import tile_extents
from loaders.store import TileStore
from stratacube.errors import SourceError

HEIGHT = 35786023.0
GEOS = pyproj.Proj(proj="geos", h=HEIGHT, lon_0=-75.0, a=6378137.0, b=6356752.31414, sweep="x")
VIEW: dict[str, Any] = {
    "grid_mapping_name": "geostationary",
    "perspective_point_height": HEIGHT,
    "semi_major_axis": 6378137.0,
    "semi_minor_axis": 6356752.31414,
    "latitude_of_projection_origin": 0.0,
    "longitude_of_projection_origin": -75.0,
    "sweep_angle_axis": "x",
}


def add_view(store: Path) -> None:
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    group.create_array("goes_imager_projection", shape=(), dtype="i4", attributes=VIEW)
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(store)


def add_places(store: Path, size: int = 32, blocks: int = 8) -> None:
    """Centres of blocks, as builds store them."""
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    middles = (np.arange(blocks) + 0.5) * size / blocks * 28e-6
    left, top = (np.asarray(zarr.open_array(store / name, mode="r")[:]) for name in ("x_left", "y_top"))
    x = left[:, None, None] + middles[None, None, :] + 0 * middles[None, :, None]
    y = top[:, None, None] - middles[None, :, None] + 0 * middles[None, None, :]
    places = np.array(GEOS(x * HEIGHT, y * HEIGHT, inverse=True))
    for name, values in zip(("longitude_coarse", "latitude_coarse"), places, strict=True):
        array = group.create_array(
            name, shape=values.shape, dtype="f8", fill_value=np.nan, dimension_names=("tile", "y_coarse", "x_coarse")
        )
        array[...] = values
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(store)


def far_apart(store: TileStore, tile: int, corners: np.ndarray) -> float:
    """Kilometres from the tile's true corners to the nearest corner told."""
    left, top = (float(store.small[name].values[tile]) for name in ("x_left", "y_top"))
    side = 32 * 28e-6
    x, y = np.array([left, left + side, left + side, left]), np.array([top, top, top - side, top - side])
    true = unit_vectors(np.stack(GEOS(x * HEIGHT, y * HEIGHT, inverse=True), axis=1))
    return float(np.linalg.norm(true[:, None] - corners[None], axis=-1).min(axis=1).max()) * 6371


def test_tiles_lie_where_proj_puts_their_corners(make_store: Callable[..., Path]) -> None:
    path = make_store()
    add_view(path)
    store = TileStore.open(path)
    extents = tile_extents(store)
    assert len(extents) == len(store)
    for tile in range(len(store)):
        assert far_apart(store, tile, extents.footprints.ring(tile)) < 0.1
    times = store.times()
    assert (extents.start == times[:, 0]).all()
    assert (extents.end == times[:, -1]).all()
    some = tile_extents(path, [7, 2])
    assert (some.footprints.ring(0) == extents.footprints.ring(7)).all()
    assert some.start.tolist() == extents.start[[7, 2]].tolist()


def test_stores_that_tell_no_view_are_outlined_by_their_blocks(make_store: Callable[..., Path]) -> None:
    path = make_store()
    add_places(path)
    store = TileStore.open(path)
    extents = tile_extents(store)
    for tile in range(len(store)):
        assert far_apart(store, tile, extents.footprints.ring(tile)) < 0.5


def test_stores_that_tell_no_places_are_refused(store: Path) -> None:
    with pytest.raises(SourceError, match=r"tiles.zarr does not say where its tiles lie; build it again"):
        tile_extents(store)
