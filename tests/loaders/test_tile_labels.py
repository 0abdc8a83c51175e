"""What strata say of tiles as labels: numbers a tile, and profiles padded, with the pixels they cross."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from loaders.augment import View
from loaders.tiles import TileDataset, tile_loader
from stratacube.errors import SourceError, UsageError

COUNTS = np.array([3, 0, 5, 2, 4, 1])


def add(path: Path, name: str, dims: tuple[str, ...], values: Any, **attributes: Any) -> None:
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, dimension_names=dims, attributes=attributes
    )
    array[...] = values


@pytest.fixture
def labelled(make_store: Callable[..., Path]) -> Path:
    """Six tiles, crossed by 15 profiles of known classes and pixels, and of three classes of land."""
    path = make_store(tiles=6)
    rng = np.random.default_rng(2)
    total = int(COUNTS.sum())
    side = _side(path)
    add(path, "cloudsat_profile_count", ("tile",), COUNTS.astype("i4"), sample_dimension="profile")
    add(path, "cloudsat_profile_start", ("tile",), (np.cumsum(COUNTS) - COUNTS).astype("i8"))
    add(
        path,
        "cloudsat_class",
        ("profile", "cloudsat_height"),
        rng.integers(-1, 9, (total, 40)).astype("i1"),
        flag_values=[-1, *range(9)],
        flag_meanings="missing clear ci as ac st sc cu ns dc",
    )
    add(path, "cloudsat_layer_top", ("profile", "cloudsat_layer"), rng.uniform(0, 15, (total, 10)).astype("f4"))
    add(path, "cloudsat_valid", ("profile",), (rng.random(total) > 0.2).astype("i1"))
    for axis in ("row", "col"):
        add(path, f"cloudsat_{axis}", ("profile",), rng.integers(-2, side + 2, total).astype("i4"))
    add(path, "landcover_fraction", ("tile", "landcover"), rng.dirichlet(np.ones(3), 6).astype("f4"))
    add(
        path,
        "landcover",
        ("landcover",),
        np.array([0, 2, 12], "i4"),
        flag_values=[0, 2, 12],
        flag_meanings="water forest crops",
    )
    zarr.consolidate_metadata(path)
    return path


def _side(path: Path) -> int:
    return TileDataset(path).bands[0].shape[1]


def held(path: Path, name: str) -> Any:
    return zarr.open_group(path, mode="r", use_consolidated=False)[name][...]


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_profiles_come_padded_with_their_tiles(labelled: Path) -> None:
    loader = tile_loader(labelled, 6, shuffle=False, labels="cloudsat")
    batch = next(iter(loader))
    classes = held(labelled, "cloudsat_class")
    start = np.cumsum(COUNTS) - COUNTS
    assert batch.labels["cloudsat"].shape == (6, 5, 40)
    valid, row, col = (held(labelled, f"cloudsat_{n}") for n in ("valid", "row", "col"))
    side = _side(labelled)
    for tile, count in enumerate(COUNTS.tolist()):
        own = slice(start[tile], start[tile] + count)
        assert np.array_equal(batch.labels["cloudsat"][tile, :count], classes[own])
        assert (batch.labels["cloudsat"][tile, count:] == -1).all()
        inside = (row[own] >= 0) & (row[own] < side) & (col[own] >= 0) & (col[own] < side) & (valid[own] != 0)
        assert np.array_equal(batch.labels["cloudsat_mask"][tile, :count], inside)
        assert not batch.labels["cloudsat_mask"][tile, count:].any()
    assert TileDataset(labelled, labels="cloudsat").label_classes["cloudsat"][:2] == ["missing", "clear"]


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("view", [{}, {"crop": 16, "where": "random"}])
def test_pixels_of_profiles_follow_every_cut_and_turn(labelled: Path, view: dict[str, Any]) -> None:
    stored = next(iter(tile_loader(labelled, 6, shuffle=False, fill=float("nan")))).pixels
    row, col = held(labelled, "cloudsat_row"), held(labelled, "cloudsat_col")
    start = np.cumsum(COUNTS) - COUNTS
    compared = 0
    for seed in range(6):
        options = View(flips=True, rotations=True, **view)
        for batch in tile_loader(labelled, 3, seed=seed, view=options, labels=["cloudsat"], fill=float("nan")):
            for i, tile in enumerate(batch.meta["tile"].tolist()):
                for p in torch.nonzero(batch.labels["cloudsat_mask"][i]).flatten().tolist():
                    y, x = batch.labels["cloudsat_pixel"][i, p].tolist()
                    there = stored[tile, :, :, row[start[tile] + p], col[start[tile] + p]]
                    assert torch.equal(batch.pixels[i, :, :, y, x].nan_to_num(-9), there.nan_to_num(-9))
                    compared += 1
    assert compared > 20


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_fractions_and_single_variables_are_labels_too(labelled: Path) -> None:
    dataset = TileDataset(labelled, labels=["landcover", "cloudsat_layer_top", "stratum"], where=[4, 0])
    batch = dataset[[0, 1]]
    assert np.array_equal(batch.labels["landcover"], held(labelled, "landcover_fraction")[[4, 0]])
    assert dataset.label_classes["landcover"] == ["water", "forest", "crops"]
    tops = batch.labels["cloudsat_layer_top"]
    assert tops.shape == (2, 4, 10)
    assert np.array_equal(tops[1, :3], held(labelled, "cloudsat_layer_top")[:3])
    assert torch.isnan(tops[1, 3:]).all()
    assert batch.labels["stratum"].shape == (2,)
    with pytest.raises(UsageError, match="no column 'cloudsad' to label by"):
        TileDataset(labelled, labels="cloudsad")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_damaged_profiles_are_one_sentence(labelled: Path) -> None:
    group = zarr.open_group(labelled, mode="r+", use_consolidated=False)
    group["cloudsat_profile_count"][5] = 99
    with pytest.raises(SourceError, match="its tiles have profiles up to 113, and there are 15"):
        TileDataset(labelled, labels="cloudsat")
