from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import torch
import xarray as xr

from loaders.counting import compute_statistics
from loaders.cubes import cube_loader, open_cube
from loaders.tiles import tile_loader


@pytest.fixture
def bucket(s3_server: str, store: Path) -> tuple[str, dict[str, object]]:
    options: dict[str, object] = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": s3_server}}
    files = s3fs.S3FileSystem(**options)
    name = f"tiles-{uuid.uuid4().hex}"
    files.mkdir(name)
    files.put(str(store.parent), f"{name}/build", recursive=True)
    return f"s3://{name}/build", options


def test_object_storage_gives_the_same(store: Path, bucket: tuple[str, dict[str, object]]) -> None:
    url, options = bucket
    local = list(tile_loader(store, 5, seed=2, labels=["score"]))
    remote = list(tile_loader(url, 5, seed=2, labels=["score"], storage_options=options, workers=1))
    for a, b in zip(local, remote, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.labels["score"], b.labels["score"])


def test_shards_never_written_on_object_storage(bucket: tuple[str, dict[str, object]]) -> None:
    url, options = bucket
    files = s3fs.S3FileSystem(**options)
    files.rm(f"{url}/tiles.zarr/valid/c/0", recursive=True)
    batch = next(iter(tile_loader(url, 12, shuffle=False, storage_options=options)))
    assert not batch.valid[:4].any()
    assert batch.valid[4:].any()


@pytest.mark.slow
def test_cubes_on_object_storage(s3_server: str, write_cube: Any) -> None:
    values = np.random.default_rng(0).random((64, 64)).astype("f4")
    path = write_cube(xr.Dataset({"B02": (("y", "x"), values)}), chunks=(16, 32), name="build/composites.zarr")
    options: dict[str, Any] = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": s3_server}}
    files = s3fs.S3FileSystem(**options)
    name = f"cube-{uuid.uuid4().hex}"
    files.mkdir(name)
    files.put(str(path.parent), f"{name}/build", recursive=True)
    url = f"s3://{name}/build"
    remote = compute_statistics([url], storage_options=options, workers=1)
    assert remote.splits == compute_statistics([path]).splits
    assert remote.provenance["stores"][0]["store"] == f"{url}/composites.zarr"
    (batch,) = cube_loader(open_cube(url, options), {"y": 64, "x": 64}, 1, workers=1)
    np.testing.assert_array_equal(batch.pixels[0, 0, 0], values)
