from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from pyproj import CRS

from tests.training.small import write_store


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small models are fastest on one thread, above all where tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that says where its tiles lie: 0 and 1, and 2 and 3 and so on, overlap in space; all differ in time."""
    folder = tmp_path_factory.mktemp("placed")
    path = write_store()(folder, tiles=12, steps=4, size=32)
    group = zarr.open_group(path)
    for name, step in (("longitude_coarse", 1.0), ("latitude_coarse", -1.0)):
        axis = np.linspace(0, 4, 8) * step
        grid = np.broadcast_to(axis[None, :] if step > 0 else axis[:, None], (8, 8))
        places = (np.arange(12) // 2 * 10 - 60)[:, None, None] * (1 if step > 0 else 0) + grid
        array = group.create_array(
            name, shape=places.shape, dtype="f4", chunks=places.shape, dimension_names=("tile", "y_coarse", "x_coarse")
        )
        array[...] = places.astype("f4")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(path)
    return folder


@pytest.fixture(scope="session")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 x 240 pixels of 10 m in UTM; the values tell row and column."""
    path = tmp_path_factory.mktemp("cube") / "composites.zarr"
    rows, columns = np.mgrid[:160, :240]
    image = (rows + columns / 1000).astype("f4")
    coordinates = {"y": 7_600_000 - 10 * (np.arange(160) + 0.5), "x": 400_000 + 10 * (np.arange(240) + 0.5)}
    bands = {band: (("y", "x"), image, {"grid_mapping": "spatial_ref"}) for band in ("B02", "B8A")}
    mapping = ((), 0, {"crs_wkt": CRS(32606).to_wkt()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        xr.Dataset({**bands, "spatial_ref": mapping}, coordinates).to_zarr(path, zarr_format=3)
    return path
