"""Chunks that a product lacks: which they are is kept, and one that is lost, here or there, is not taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalog.sentinel2.download import AbsentError, ServerError
from catalog.sentinel2.eopf_tree import Tree, read_tree
from catalog.sentinel2.fetch_arrays import bring_array, is_whole
from catalog.sentinel2.items import Asset

ADDRESS = "https://example.org/eopf/one.zarr"
BANDS = "measurements/reflectance/r20m"
CLASSES = "conditions/mask/l2a_classification/r20m/scl"


class Store:
    """A product of 2 x 2 chunks an image, some of which are not there."""

    def __init__(self, *absent: str) -> None:
        self.absent, self.asked = absent, list[str]()
        self.broken = ""
        told = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [200, 200],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [100, 100]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        }
        images = dict.fromkeys((f"{BANDS}/b02", f"{BANDS}/b05", CLASSES), told)
        self.document = json.dumps({"zarr_format": 3, "consolidated_metadata": {"metadata": images}}).encode()

    def known(self, address: str) -> Tree:
        return read_tree(address, self.read)

    def read(self, href: str) -> bytes:
        assert href == f"{ADDRESS}/zarr.json"
        return self.document

    def fetch(self, asset: Asset, path: Path) -> None:
        inside = asset.href.removeprefix(f"{ADDRESS}/")
        self.asked.append(inside)
        if inside == self.broken:
            raise ServerError(f"{asset.href} was busy (503)")
        if inside in self.absent:
            raise AbsentError(f"{asset.href} does not exist (404)")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")

    def bring(self, root: Path, inside: str) -> list[str]:
        """What was asked for, by its place in the image, or in the product."""
        self.asked.clear()
        assert bring_array(Asset(href=f"{ADDRESS}/{inside}"), root / inside, self.known, self.fetch).href == str(
            root / inside
        )
        return [place.removeprefix(f"{inside}/") for place in self.asked]


def test_what_is_absent_is_asked_for_once_also_when_another_chunk_was_lost(tmp_path: Path) -> None:
    store, band = Store(f"{BANDS}/b02/c/0/1"), f"{BANDS}/b02"
    assert not is_whole(tmp_path / band)
    assert store.bring(tmp_path, band) == ["c/0/0", "c/0/1", "c/1/0", "c/1/1"]
    assert is_whole(tmp_path / band)
    for _ in range(2):
        (tmp_path / band / "c/1/0").unlink()
        assert not is_whole(tmp_path / band)
        assert store.bring(tmp_path, band) == ["c/1/0"]
        assert is_whole(tmp_path / band)
    assert store.bring(tmp_path, band) == []


def test_a_server_that_fails_has_not_said_that_a_chunk_is_absent(tmp_path: Path) -> None:
    store, band = Store(), f"{BANDS}/b02"
    store.broken = f"{band}/c/1/0"
    with pytest.raises(ServerError, match="busy"):
        store.bring(tmp_path, band)
    assert not is_whole(tmp_path / band)
    store.broken = ""
    assert store.bring(tmp_path, band) == ["c/1/0", "c/1/1"]
    assert is_whole(tmp_path / band)


def test_whether_absent_classes_are_lost_is_told_by_a_band_of_the_same_pixels(tmp_path: Path) -> None:
    store = Store(f"{CLASSES}/c/0/1", f"{BANDS}/b05/c/0/1", f"{CLASSES}/c/1/1")
    asked = store.bring(tmp_path, CLASSES)
    assert asked == ["c/0/0", "c/0/1", f"{BANDS}/b05/c/0/1", "c/1/0", "c/1/1", f"{BANDS}/b05/c/1/1"]
    there = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("b05/c/*/*")]
    assert there == [f"{BANDS}/b05/c/1/1"]  # the classes of this chunk were lost, those of the other are none


def test_the_folder_of_that_band_is_there_though_none_of_its_chunks_is(tmp_path: Path) -> None:
    Store(f"{CLASSES}/c/0/1", f"{BANDS}/b05/c/0/1").bring(tmp_path, CLASSES)
    assert (tmp_path / BANDS / "b05").is_dir()
