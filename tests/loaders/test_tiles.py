from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

from cube.geostationary.tilestore import open_tiles
from loaders.augment import Placement, View, coarse_on, orient, pixel_transform
from loaders.batch import Batch, PackedBatch
from loaders.order import Pick
from loaders.store import TileStore, assign_splits
from loaders.tiles import TileDataset, tile_loader
from stratacube.errors import SourceError, UsageError

Maker = Callable[..., Path]


def assert_equal_to(batch: Batch, truth: xr.Dataset, rtol: float = 0) -> None:
    for i, tile in enumerate(batch.meta["tile"].tolist()):
        for c, band in enumerate(batch.bands):
            expected = truth[band].isel(tile=tile).values
            np.testing.assert_array_equal(batch.valid[i, :, c], np.isfinite(expected))
            found = np.where(batch.valid[i, :, c], batch.pixels[i, :, c], np.nan)
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shards": False},
        {"compressors": ZstdCodec(level=1)},
        {"compressors": (BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle", typesize=2), Crc32cCodec())},
        {"compressors": ()},
        {"compressors": GzipCodec()},
        {"serializer": BytesCodec(endian="big")},
        {"chunks": (1, 1, 16, 16)},
        {"tiles": 5, "per_shard": 3},
    ],
    ids=[
        "default",
        "unsharded",
        "zstd",
        "checksum",
        "uncompressed",
        "left-to-zarr",
        "big-endian",
        "small-chunks",
        "cut-shard",
    ],
)
def test_batches_equal_open_tiles(make_store: Maker, options: dict[str, Any]) -> None:
    path = make_store(**options)
    truth = open_tiles(path, chunks=None)
    seen = []
    for batch in tile_loader(path, 4, seed=1):
        assert_equal_to(batch, truth)
        seen += batch.meta["tile"].tolist()
    assert sorted(seen) == list(range(len(truth.tile)))


def test_one_sample_is_as_stored(store: Path) -> None:
    packed = TileDataset(store.parent)[0]
    assert packed.values.dtype == torch.uint16
    group = zarr.open_group(store, mode="r")
    np.testing.assert_array_equal(packed.values[0, 2], group["C08"][0])
    np.testing.assert_array_equal(packed.mask, group["valid"][:1])


@pytest.mark.parametrize("quantity", ["reflectance", "brightness_temperature"])
def test_other_quantities(store: Path, quantity: Any) -> None:
    bands = ["C01", "C03"] if quantity == "reflectance" else [8, 13]
    truth = open_tiles(store, quantity, chunks=None)
    for batch in tile_loader(store, 5, bands=bands, quantity=quantity, fill=float("nan")):
        assert_equal_to(batch, truth, rtol=2e-6)
    mixed = next(iter(tile_loader(store, 12, shuffle=False, quantity="mixed")))
    both = open_tiles(store, "reflectance", chunks=None)
    both.update(open_tiles(store, "brightness_temperature", chunks=None)[["C08", "C13"]])
    assert_equal_to(mixed, both, rtol=2e-6)
    with pytest.raises(UsageError, match=r"C\d\d has no"):
        next(iter(tile_loader(store, 4, quantity=quantity)))


def test_invalid_pixels_are_neutral(store: Path) -> None:
    numbers = {b: (100.0, 50.0) for b in ("C01", "C03", "C08", "C13")}
    physical = next(iter(tile_loader(store, 12, shuffle=False)))
    batch = next(iter(tile_loader(store, 12, shuffle=False, statistics=numbers)))
    assert (batch.pixels[~batch.valid] == 0).all()
    assert not batch.valid[0, :, :, :16].any(), "the limb"
    torch.testing.assert_close(batch.pixels[batch.valid], (physical.pixels[batch.valid] - 100) / 50)
    with_nan = next(iter(tile_loader(store, 12, shuffle=False, fill=float("nan"))))
    assert torch.isnan(with_nan.pixels).equal(~batch.valid)


def test_time_steps_and_crops(store: Path) -> None:
    truth = zarr.open_group(store, mode="r")
    view = View(steps=2, crop=16, align=8, where="random")
    starts = set()
    for epoch in range(9):
        dataset = TileDataset(store, view=view)
        batch = dataset[[Pick(i, 0, epoch, i) for i in range(12)]]
        for i, (step, row, col, turn) in enumerate(batch.meta["place"].tolist()):
            assert row % 8 == col % 8 == turn == 0
            starts.add((step, row, col))
            window = slice(step, step + 2), slice(row, row + 16), slice(col, col + 16)
            np.testing.assert_array_equal(batch.values[i, 1], truth["C03"][(i, *window)])
            np.testing.assert_array_equal(batch.mask[i], truth["valid"][(i, *window)])
            np.testing.assert_array_equal(
                batch.packing[i, :, 1, 0], truth["packing_scale"][i, step : step + 2, 1].astype("f4")
            )
            assert batch.meta["time"].shape == (12, 2)
    assert len(starts) == 2 * 3 * 3
    centred = TileDataset(store, view=View(steps=1, crop=16))[0]
    assert centred.meta["place"].tolist() == [[1, 8, 8, 0]]
    with pytest.raises(UsageError, match="ask for 1 to 3"):
        TileDataset(store, view=View(steps=4))
    with pytest.raises(UsageError, match="multiple of align"):
        TileDataset(store, view=View(crop=20, align=16))


def test_seven_of_fourteen_steps(make_store: Maker) -> None:
    path = make_store(tiles=6, steps=14, size=16, chunks=(1, 7, 16, 16))
    truth = open_tiles(path, chunks=None)
    starts = set()
    for seed in range(4):
        (batch,) = tile_loader(path, 6, seed=seed, view=View(steps=7, where="random"))
        for i, (tile, (step, *_)) in enumerate(
            zip(batch.meta["tile"].tolist(), batch.meta["place"].tolist(), strict=True)
        ):
            starts.add(step)
            expected = truth["C08"].values[tile, step : step + 7]
            np.testing.assert_array_equal(batch.pixels[i, :, 2], np.nan_to_num(expected))
            asked = truth["requested_time"].values[tile, step : step + 7].astype("M8[us]").astype("i8")
            assert (abs(batch.meta["time"][i].numpy() - asked) <= 31e6).all()
    assert len(starts) > 4
    assert max(starts) <= 7


def test_choosing_by_split_and_view_zenith(store: Path) -> None:
    table = TileStore.open(store).table
    for split in sorted(set(table["split"])):
        chosen = TileDataset(store, where=f"split == '{split}'")
        assert chosen.tiles.tolist() == np.flatnonzero(table["split"] == split).tolist()
    zenith = 5.0 * np.arange(12)
    near = TileDataset(store, where="view_zenith > 5", weights="1 / view_zenith")
    assert near.tiles.tolist() == list(range(2, 12))
    assert near.weights is not None
    np.testing.assert_allclose(near.weights, 1 / zenith[2:])
    by_split = TileDataset(
        store, weights={"split": {name: i + 1.0 for i, name in enumerate(sorted(set(table["split"])))}}
    )
    assert by_split.weights is not None
    assert len(set(by_split.weights.tolist())) == table["split"].nunique()


def test_turns_carry_the_metadata(make_store: Maker) -> None:
    path = make_store()
    plain = tile_loader(path, 12, shuffle=False, device="cpu")
    still = next(iter(plain))
    turned = next(
        iter(tile_loader(path, 12, shuffle=False, view=View(flips=True, rotations=True), fields=["solar_zenith"]))
    )
    codes = turned.meta["place"][:, 3].tolist()
    assert len(set(codes)) > 3
    for i, code in enumerate(codes):
        np.testing.assert_array_equal(turned.pixels[i], orient(still.pixels[i].numpy(), code))
        np.testing.assert_array_equal(turned.valid[i], orient(still.valid[i].numpy(), code))
        expected = orient(np.broadcast_to(np.arange(8, dtype="f4"), (3, 8, 8)), code)
        np.testing.assert_array_equal(turned.meta["solar_zenith"][i], expected)


@pytest.mark.parametrize("code", range(8))
def test_transform_follows_every_turn(code: int) -> None:
    left, top, pixel = -0.05, 0.03, 28e-6
    row, col = np.mgrid[:24, :24]
    x, y = left + (col + 0.5) * pixel, top - (row + 0.5) * pixel
    window = slice(4, 12), slice(8, 16)
    a, b, c, d, e, f = pixel_transform(left, top, pixel, Placement(0, 4, 8, code), (8, 8))
    i, j = np.mgrid[:8, :8] + 0.5
    np.testing.assert_allclose(a * j + b * i + c, orient(x[window], code), atol=1e-12)
    np.testing.assert_allclose(d * j + e * i + f, orient(y[window], code), atol=1e-12)


def test_fields_follow_the_crop() -> None:
    """A field linear in row and column stays exact at the centres of the crop's blocks."""
    centres = (np.arange(16) + 0.5) * 16
    field = (centres[:, None] * 0.1 + centres * 0.02).astype("f4")
    at = (np.arange(16) + 0.5) * 4
    expected = (100 + at[:, None]) * 0.1 + (60 + at) * 0.02
    np.testing.assert_allclose(coarse_on(field, 256, Placement(0, 100, 60), 64), expected, rtol=1e-5)
    wrapping = np.where(np.arange(16) % 2, 1.0, 359.0) * np.ones((16, 1))
    between = coarse_on(wrapping.astype("f4"), 256, Placement(0, 0, 0), 128) % 360
    assert ((between < 2) | (between > 358)).all()


def test_filters_weights_and_labels(store: Path) -> None:
    chosen = TileDataset(store, where="stratum == 'convection' and view_zenith < 30", labels=["stratum", "score"])
    assert chosen.tiles.tolist() == [1, 3, 5]
    assert chosen.classes == {"stratum": ["convection", "random"]}
    batch = chosen[[2, 0]]
    assert batch.labels["stratum"].tolist() == [0, 0]
    assert batch.labels["score"].tolist() == [5.0, 1.0]
    weighted = tile_loader(store, 12, weights={"stratum": {"random": 1, "convection": 3}})
    drawn = torch.cat([b.meta["tile"] for b in weighted])
    assert abs(int((drawn % 2 == 1).sum()) - 9) <= 1
    inverse = TileDataset(store, weights="1 / probability")
    assert inverse.weights is not None
    assert inverse.weights[0] == pytest.approx(10)
    for wrong, match in (
        ({"where": "nonsense > 1"}, "cannot be evaluated"),
        ({"where": "score + 1"}, "comparison"),
        ({"where": "@pd.io.common.os.system('exit 1') == 1"}, "@ is not allowed"),
        ({"where": "score.map('{}'.format) == '1.0'"}, "is not allowed; allowed are columns"),
        ({"weights": "@pd.io.common.os.system('exit 1')"}, "@ is not allowed"),
        ({"weights": "stratum"}, "not numbers"),
        ({"where": "score > 99"}, "leaves none"),
        ({"weights": {"stratum": {"random": 1}}}, "convection"),
        ({"labels": ["genus"]}, "genus"),
        ({"bands": ["C02"]}, "C02"),
        ({"fields": ["view_azimuth"]}, "view_azimuth"),
    ):
        with pytest.raises(UsageError, match=match):
            TileDataset(store, **wrong)  # type: ignore[arg-type]


def test_splits_are_by_week_and_stable() -> None:
    days = np.datetime64("2019-01-01") + np.arange(3000)
    splits = assign_splits(days)
    shares = {name: (splits == name).mean() for name in ("train", "val", "test")}
    assert shares["train"] == pytest.approx(0.8, abs=0.06)
    assert shares["val"] == pytest.approx(0.1, abs=0.05)
    changes = np.flatnonzero(splits[1:] != splits[:-1]) + 1
    assert (days[changes].astype("i8") % 7 == 0).all()
    assert (assign_splits(days[100:]) == splits[100:]).all()


def test_time_codes(store: Path) -> None:
    batch = TileDataset(store)[[0, 1]]
    assert batch.meta["time_code"][0, 1].tolist() == [2020, 1, pytest.approx(620.5167), 20]
    assert batch.meta["time_code"][1, 2, 2] == 640, "no scan: the time asked for"
    assert batch.meta["time"][0, 0] == np.datetime64("2020-01-01T10:00:31", "us").astype("i8")


@pytest.mark.parametrize("where", ["index", "chunk", "cut"])
def test_damage_is_named_or_skipped(make_store: Maker, where: str) -> None:
    path = make_store(tiles=8, per_shard=4, compressors=(ZstdCodec(level=1), Crc32cCodec()))
    shard = path / "C08" / "c" / "1" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    if where == "index":
        data[-10] ^= 1
    elif where == "chunk":
        data[len(data) // 8] ^= 1
    else:
        data = data[: len(data) // 2]
    shard.write_bytes(data)
    with pytest.raises(SourceError, match=r"tile \d of .*tiles.zarr, C08: .*C08/c/1/0/0/0"):
        list(tile_loader(path, 2, shuffle=False))
    loader = tile_loader(path, 3, shuffle=False, on_error="skip")
    batches = list(loader)
    failed = torch.cat([b.meta["failed"] for b in batches])
    assert loader.failed == int(failed.sum()) == {"index": 4, "chunk": 1, "cut": 4}[where]
    valid = torch.cat([b.valid.flatten(1).any(1) for b in batches])
    assert valid.equal(~failed)


def test_tiles_never_written_are_not_valid(make_store: Maker) -> None:
    path = make_store(tiles=8, per_shard=4)
    for name in ("C01", "valid"):
        (path / name / "c" / "1" / "0" / "0" / "0").unlink()
    batch = next(iter(tile_loader(path, 8, shuffle=False)))
    assert not batch.valid[4:].any()
    assert batch.valid[:4].any()


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a tile store"):
        TileStore.open(tmp_path / "nothing.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("a", shape=(), dtype="f4")
    with pytest.warns(RuntimeWarning, match="consolidated"), pytest.raises(UsageError, match="no bands"):
        TileStore.open(tmp_path / "other.zarr")


def test_fingerprint_is_of_content(make_store: Maker) -> None:
    first, again, other = make_store(), make_store(compressors=ZstdCodec()), make_store(tiles=11)
    assert TileDataset(first).fingerprint == TileDataset(again).fingerprint
    assert TileDataset(first).fingerprint != TileDataset(other).fingerprint
    assert TileDataset(first).fingerprint != TileDataset(first, bands=[1]).fingerprint


def test_datasets_pickle(store: Path) -> None:
    dataset = TileDataset(store, fields=["view_zenith"])
    copy = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(copy[[3]].values.int(), dataset[[3]].values.int())


def test_batches_move_whole(store: Path) -> None:
    packed = TileDataset(store, labels=["score"])[[0, 1]]
    moved = packed.to("meta")
    assert isinstance(moved, PackedBatch)
    assert moved.values.device.type == moved.meta["time"].device.type == moved.labels["score"].device.type == "meta"
