"""How stores are compressed: every choice lets no flipped bit pass, by zarr and by the reader of the loaders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from cube.config import AbiConfig
from cube.job.codec import BEFORE, CODECS, codecs_of
from cube.job.store import ArraySpec, create_store, write_region
from cube.sentinel2.config import Sentinel2Config
from loaders.chunks import ChunkReader, Target
from stratacube.flags import Parser, add_flags

SHAPE = (2, 1, 8, 8)


def make_store(path: Path, codec: str) -> np.ndarray:
    """Two tiles that compress as images do, in one shard, and one array of other numbers, without shards."""
    rng = np.random.default_rng(3)
    values = (500 + 9 * np.arange(SHAPE[-1]) + rng.integers(0, 5, SHAPE)).astype("u2")
    angles = np.linspace(0, 90, 24, dtype="f4").reshape(2, 12)
    dims = ("tile", "time", "y", "x")
    arrays = {
        "C13": ArraySpec(dims, SHAPE, "<u2", (1, *SHAPE[1:]), SHAPE),
        "valid": ArraySpec(dims, SHAPE, "<u2", (1, *SHAPE[1:]), SHAPE, attributes={"flag_masks": [1]}),
        "angle": ArraySpec(("tile", "x"), angles.shape, "<f4", angles.shape, fill_value=float("nan")),
    }
    create_store(path, arrays, {}, codec)
    write_region(path, "C13", 0, values)
    write_region(path, "valid", 0, (values > 530).astype("u2"))
    write_region(path, "angle", 0, angles)
    np.testing.assert_array_equal(zarr.open_group(path)["C13"], values)
    np.testing.assert_array_equal(zarr.open_group(path)["angle"], angles)
    return values


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_is_an_error(tmp_path: Path, codec: str) -> None:
    values = make_store(tmp_path / "store", codec)
    shard = tmp_path / "store/C13/c/0/0/0/0"
    whole = shard.read_bytes()
    array = zarr.open_array(tmp_path / "store/C13", mode="r")
    for at in range(len(whole)):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        out = np.zeros(SHAPE, "u2")
        errors = ChunkReader(str(tmp_path / "store")).read([Target("C13", tile, out[tile]) for tile in (0, 1)])
        if codec == "zstd" and not any(errors):  # its checksum is of the values: some bits of a frame do not matter
            np.testing.assert_array_equal(out, values)
            np.testing.assert_array_equal(array[...], values)
            continue
        assert any(errors), f"byte {at} of {len(whole)}"
        with pytest.raises((ValueError, RuntimeError)):
            array[...]


def test_masks_are_shuffled_by_bytes() -> None:
    for name in CODECS:
        (counts, *_), (mask, *_) = codecs_of(name), codecs_of(name, mask=True)
        assert counts["configuration"].get("shuffle") == CODECS[name][0]["configuration"].get("shuffle")
        assert mask["configuration"].get("shuffle") in (None, "shuffle")


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_are_shuffled_by_the_size_of_the_numbers(tmp_path: Path, codec: str) -> None:
    make_store(tmp_path, codec)
    shuffles = {}
    for name, size in (("C13", 2), ("valid", 2), ("angle", 4)):
        chain = json.loads((tmp_path / name / "zarr.json").read_text())["codecs"]
        chain = chain[0]["configuration"]["codecs"] if chain[0]["name"] == "sharding_indexed" else chain
        assert [c["name"] for c in chain[1:]] == [c["name"] for c in CODECS[codec]]
        if chain[1]["name"] == "blosc":
            assert chain[1]["configuration"]["typesize"] == size
            shuffles[name] = chain[1]["configuration"]["shuffle"]
    assert shuffles.get("valid") in (None, "shuffle")
    assert shuffles.get("C13") == CODECS[codec][0]["configuration"].get("shuffle")


def test_choices_are_those_of_both_sources() -> None:
    assert BEFORE in CODECS
    for model in (AbiConfig, Sentinel2Config):
        assert model.former()["codec"] == BEFORE
        assert model.model_fields["codec"].default in CODECS
        told = Parser("x")
        add_flags(told, model)
        (action,) = (a for a in told._actions if a.dest == "codec")
        assert list(action.choices or ()) == list(CODECS)
