from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import s3fs
import torch

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
