"""Stores that hold pixels of 2 km once give the batches, bit by bit, of stores that hold them repeated."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from cube.build import main
from loaders import Batch, Loader, Mixture, PackedBatch, TileDataset, View, tile_loader
from loaders.chunks import ChunkReader
from loaders.counting import compute_statistics
from loaders.order import Pick
from loaders.parts import stored_span
from loaders.store import TileStore

CHANNELS = ("1", "2", "3", "7", "13")
BASE = ("--domain", "M1", "--tile-size", "128", "--steps", "2", "--step-minutes", "10", "--num-tiles", "6", "--quiet")


def build(archive: Path, output: Path, form: str) -> Path:
    given = ("--output-dir", str(output), "--local-data-dir", str(archive), "--channels", *CHANNELS, *BASE)
    assert main(["abi", *given, "--store", form, "--shard-mb", "0.3", "--workers", "1", "--max-view-zenith", "85"]) == 0
    return output


@pytest.fixture(scope="module")
def forms(small_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tiles, held once and held repeated; some pixels of every band are not valid."""
    folder = tmp_path_factory.mktemp("forms")
    native, common = (build(small_archive, folder / form, form) for form in ("native", "common"))
    rng = np.random.default_rng(5)
    masks = {}
    for name in ("valid", "valid_2km"):
        mask = zarr.open_array(native / "tiles.zarr" / name, mode="r+")
        masks[name] = np.where(rng.random(mask.shape) < 0.1, 0, mask[...]).astype(mask.dtype)
        mask[...] = masks[name]
    whole = zarr.open_array(common / "tiles.zarr/valid", mode="r+")
    whole[...] = masks["valid"] | masks["valid_2km"].repeat(2, -1).repeat(2, -2)
    return native, common


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.bands == other.bands
    torch.testing.assert_close(one.pixels, other.pixels, rtol=0, atol=0, equal_nan=True)
    assert one.valid.equal(other.valid)
    assert one.meta.keys() == other.meta.keys()
    for name, values in one.meta.items():
        torch.testing.assert_close(values, other.meta[name], rtol=0, atol=0, equal_nan=True)


VIEWS = {
    "whole": View(),
    "turned": View(flips=True, rotations=True),
    "odd": View(crop=48, where="random", flips=True, rotations=True),
    "odd size": View(steps=1, crop=33, where="random"),
    "aligned": View(crop=64, align=16, where="random", flips=True),
    "aligned at odd": View(crop=63, align=7, where="random"),
    "centre": View(crop=30),
    "nearly whole": View(crop=127, where="random"),
}


SOME = {"mixed": (13, 2, 7), "coarse": (7, 13), "fine": (3, 1)}
FEW = ("odd", "aligned at odd", "centre")
"""Views that bands of some sizes alone are tried with."""


@pytest.mark.parametrize(
    ("bands", "view"),
    [
        *(pytest.param(None, view, id=f"all-{name}") for name, view in VIEWS.items()),
        *(pytest.param(bands, VIEWS[name], id=f"{some}-{name}") for some, bands in SOME.items() for name in FEW),
    ],
)
def test_batches_are_those_of_the_form_before(forms: tuple[Path, Path], bands: Any, view: View) -> None:
    options = {"view": view, "bands": bands, "seed": 3, "quantity": "mixed", "fill": -1.0, "fields": ["view_zenith"]}
    seen = set()
    for epoch in range(2):
        loaders = [tile_loader(folder, 4, **options) for folder in forms]
        for loader in loaders:
            loader.set_epoch(epoch)
        for one, other in zip(*loaders, strict=True):
            assert_equal(one, other)
            assert not one.valid.all()
            seen |= {tuple(place) for place in one.meta["place"].tolist()}
    assert len(seen) > 1 or not (view.flips or view.where == "random")


def test_what_travels_is_what_is_stored(forms: tuple[Path, Path]) -> None:
    native, common = (TileDataset(folder)[[0, 1]] for folder in forms)
    assert {times: tuple(part.values.shape) for times, part in native.parts.items()} == {
        **{1: (2, 3, 2, 128, 128)},
        **{2: (2, 2, 2, 64, 64)},
    }
    assert native.values.numel() == 0
    assert common.parts == {}
    viewed = native.on_grid()
    assert viewed.values.equal(common.values)
    assert viewed.mask is not None
    assert common.mask is not None
    assert viewed.mask.equal(common.mask)
    assert viewed.rules == common.rules
    stored = zarr.open_group(forms[0] / "tiles.zarr", mode="r")
    np.testing.assert_array_equal(native.parts[2].values[1, 1], stored["C13"][1])


def test_nothing_else_of_a_tile_is_read(forms: tuple[Path, Path]) -> None:
    bytes_read = []
    for folder in forms:
        dataset = TileDataset(folder)
        dataset[[0]]
        bytes_read.append(dataset.reader.time.decoded_bytes)
    assert bytes_read == [2 * 2 * (128**2 * 4 + 64**2 * 3), 2 * 2 * 128**2 * 6]


@pytest.mark.parametrize("kind", [pytest.param("processes", marks=pytest.mark.slow), "threads"])
def test_parts_travel_from_workers(forms: tuple[Path, Path], kind: Any) -> None:
    view = View(crop=48, where="random", rotations=True)
    options = {"view": view, "seed": 3, "workers": 2, "workers_are": kind}
    for one, other in zip(*(tile_loader(folder, 4, **options) for folder in forms), strict=True):
        assert_equal(one, other)


def test_batches_of_parts_move_and_are_pickled_whole(forms: tuple[Path, Path]) -> None:
    packed = TileDataset(forms[0])[[0, 1]]
    assert packed.to("meta").parts[2].values.device.type == "meta"
    again = pickle.loads(pickle.dumps(packed))
    assert isinstance(again, PackedBatch)
    assert again.on_grid().values.equal(packed.on_grid().values)


def test_stores_of_both_forms_mix(forms: tuple[Path, Path]) -> None:
    view = View(crop=48, where="random")
    mixed = Mixture([TileDataset(folder, view=view) for folder in forms])
    truth = Mixture([TileDataset(forms[1], view=view) for _ in forms])
    same = Mixture([TileDataset(forms[0], view=view) for _ in forms])
    draws = [Pick(1, 0, 0, 1), Pick(8, 0, 0, 2), Pick(4, 0, 0, 3)]
    wanted = truth.__getitems__(draws)
    for found in (mixed, same):
        viewed = found.__getitems__(draws).on_grid()
        assert viewed.values.equal(wanted.values)
        assert viewed.mask is not None
        assert wanted.mask is not None
        assert viewed.mask.equal(wanted.mask)


def test_a_run_goes_on_over_the_other_form(forms: tuple[Path, Path]) -> None:
    """The tiles are the same, and so is what is drawn of them."""
    one, other = (TileStore.open(folder) for folder in forms)
    assert one.fingerprint == other.fingerprint
    first, second = (Loader(TileDataset(folder), 2, seed=1) for folder in forms)
    iterator = iter(first)
    next(iterator)
    second.load_state_dict(first.state_dict())
    assert_equal(next(iterator), next(iter(second)))


@pytest.mark.parametrize("quantity", ["radiance", "mixed"])
def test_statistics_count_pixels_of_the_grid(forms: tuple[Path, Path], quantity: Any) -> None:
    one, other = (compute_statistics([folder], quantity=quantity) for folder in forms)
    assert one.splits == other.splits
    for name in ("valid_pixels", "pixels"):
        assert one.provenance[name] == other.provenance[name]


def test_a_damaged_chunk_of_a_coarse_band_is_told_or_skipped(forms: tuple[Path, Path], tmp_path: Path) -> None:
    class Broken(ChunkReader):
        def read(self, targets: Any) -> Any:
            found = super().read(targets)
            return [
                OSError("torn") if (t.name, t.tile) == ("C13", 1) else e for t, e in zip(targets, found, strict=True)
            ]

    dataset = TileDataset(forms[0], on_error="skip")
    dataset.reader = Broken(dataset.url)
    batch = dataset[[0, 1]]
    assert batch.meta["failed"].tolist() == [False, True]
    viewed = batch.on_grid()
    assert viewed.mask is not None
    assert not viewed.mask[1].to(torch.int32).any()
    assert viewed.mask[0].to(torch.int32).any()


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("align", [1, 2, 3])
def test_spans_hold_what_is_wanted_and_have_one_size(times: int, align: int) -> None:
    stored = 8
    for size in range(1, stored * times + 1):
        spans = [stored_span(s, size, times, stored, align) for s in range(0, stored * times - size + 1, align)]
        assert len({number for _, number, _ in spans}) == 1
        for start, (first, number, cut) in zip(range(0, stored * times - size + 1, align), spans, strict=True):
            assert 0 <= first <= first + number <= stored
            assert (first * times + cut, cut >= 0) == (start, True)
            assert cut + size <= number * times
            assert number <= -(-size // times) + 1


def test_a_part_is_joined_only_with_its_like(forms: tuple[Path, Path]) -> None:
    packed = TileDataset(forms[0])[[0]]
    other = replace(packed.parts[2], bands=(0, 1))
    assert packed.parts[2].shape != other.shape
