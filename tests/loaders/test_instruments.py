"""Stores of made-up instruments: loaders know them by what the store says, whatever their bands are called and many."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from cube.geostationary.tilestore import open_tiles
from cube.instrument import Band, Instrument, Quantity, Resolution, ScanGeometry
from loaders.batch import PackedBatch, join
from loaders.counting import compute_statistics
from loaders.mixture import Mixture
from loaders.store import TileStore
from loaders.tiles import TileDataset, tile_loader
from stratacube.errors import SourceError, UsageError

TILES, STEPS, SIZE = 3, 2, 8
FACTOR = 0.25


def made_up(bands: int) -> Instrument:
    """Bands whose number and place differ; those at odd places have a scaled quantity."""
    names = [f"vi{i:03d}" for i in range(bands)]
    return Instrument(
        "made-up",
        "MU",
        "Made-Up",
        tuple(Band(n, 3 + i, 1.0 + i / 8, None, 40.0, "a band") for i, n in enumerate(names)),
        (
            Quantity("radiance", "toa_radiance", "furlong", "radiance", "identity", tuple(names)),
            Quantity("reflectance", "toa_reflectance", "shilling", "scaled", "proportional", tuple(names[1::2])),
        ),
        ScanGeometry((Resolution("1km", 40.0, 1000.0, 100),), (5.0,)),
    )


def write(folder: Path, facts: Instrument, *, flagged: bool = True) -> tuple[Path, dict[str, Any]]:
    """Write a store of an instrument; returns it with what is valid, and the radiances, by band."""
    rng, path = np.random.default_rng(5), folder / "tiles.zarr"
    shape, number = (TILES, STEPS, SIZE, SIZE), len(facts.bands)
    group = zarr.open_group(path, mode="w", zarr_format=3, attributes={"instrument": facts.described(), "grid": "1km"})
    width = next(w for w in (8, 16, 32, 64) if number <= w or w == 64)
    masks = {f"valid_{i}": np.zeros(shape, f"u{width // 8}") for i in range(-(-number // 64))}
    flags: dict[str, tuple[list[int], list[str]]] = {name: ([], []) for name in masks}
    truth = {}
    for place, band in enumerate(facts.bands):
        name, bit = f"valid_{place // 64}", 1 << (place % 64)
        counts, good = rng.integers(0, 4000, shape).astype("u2"), rng.random(shape) > 0.3
        masks[name][good] |= masks[name].dtype.type(bit)
        flags[name][0].append(bit)
        flags[name][1].append(band.name)
        array = group.create_array(
            band.name, shape=shape, dtype="u2", chunks=(1, *shape[1:]), dimension_names=("tile", "time", "y", "x"),
            attributes={"ancillary_variables": name},
        )  # fmt: skip
        array[:] = counts
        truth[band.name] = good, counts.astype("f4") * np.float32(0.5) + np.float32(-3)
    for name, mask in masks.items():
        told = {"flag_masks": flags[name][0], "flag_meanings": " ".join(flags[name][1])} if flagged else {}
        array = group.create_array(
            name, shape=shape, dtype=mask.dtype, chunks=(1, *shape[1:]), dimension_names=("tile", "time", "y", "x"),
            attributes=told,
        )  # fmt: skip
        array[:] = mask
    times = np.arange(TILES * STEPS).reshape(TILES, STEPS).astype("i8")
    group.create_array("band", data=np.array([b.number for b in facts.bands], "i2"), dimension_names=("band",))
    group.create_array(
        "requested_time", data=times, dimension_names=("tile", "time"),
        attributes={"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"},
    )  # fmt: skip
    for name, value in (("packing_scale", 0.5), ("packing_offset", -3.0), ("kappa0", FACTOR)):
        values = np.full((TILES, STEPS, number), value)
        group.create_array(name, data=values, dimension_names=("tile", "time", "band"))
    view = {"grid_mapping_name": "geostationary", "perspective_point_height": 35786023.0, "semi_major_axis": 6378137.0}
    view |= {"semi_minor_axis": 6356752.3, "longitude_of_projection_origin": 128.2, "sweep_angle_axis": "y"}
    group.create_array("somewhere", shape=(), dtype="i4", dimension_names=(), attributes=view)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(path)
    return path, truth


@pytest.mark.parametrize(("bands", "workers"), [(5, 0), (11, 0), (20, 0), (64, 0), (70, 0), (70, 1)])
def test_bands_and_masks_of_any_number(tmp_path: Path, bands: int, workers: int) -> None:
    path, truth = write(tmp_path, made_up(bands))
    opened, names = open_tiles(path, chunks=None), list(truth)
    batch = next(iter(tile_loader(path, TILES, shuffle=False, fill=float("nan"), workers=workers)))
    assert batch.bands == tuple(names)
    for c, (name, (good, radiance)) in enumerate(truth.items()):
        np.testing.assert_array_equal(batch.valid[:, :, c], good, err_msg=name)
        wanted = np.where(good, radiance, np.float32("nan"))
        np.testing.assert_array_equal(batch.pixels[:, :, c], wanted, err_msg=name)
        np.testing.assert_array_equal(opened[name], wanted)
    assert opened[names[0]].attrs["units"] == "furlong"
    assert (opened["projection_longitude"] == 128.2).all()
    few = next(iter(tile_loader(path, TILES, shuffle=False, bands=[names[-1], 3 + 1])))  # by name and by number
    assert few.bands == (names[-1], names[1])
    np.testing.assert_array_equal(few.valid.swapaxes(0, 2), [truth[n][0].swapaxes(0, 1) for n in few.bands])


def test_quantities_are_those_of_the_store(tmp_path: Path) -> None:
    path, truth = write(tmp_path, made_up(6))
    with pytest.raises(UsageError, match="vi000 has no reflectance"):
        next(iter(tile_loader(path, 1, quantity="reflectance")))
    with pytest.raises(UsageError, match="'brightness_temperature', which is not one of counts, radiance, reflectance"):
        open_tiles(path, "brightness_temperature")
    batch = next(iter(tile_loader(path, TILES, shuffle=False, bands=["vi001"], quantity="reflectance")))
    good, radiance = truth["vi001"]
    np.testing.assert_array_equal(batch.pixels[:, :, 0], np.where(good, radiance * np.float32(FACTOR), 0))
    told = compute_statistics([path], quantity="reflectance").splits["all"]
    assert list(told) == ["vi001", "vi003", "vi005"]
    assert (told["vi003"].units, told["vi003"].wavelength_um) == ("shilling", 1.375)
    values = (radiance * np.float32(FACTOR))[good].astype("f8")
    assert told["vi001"].mean == pytest.approx(values.mean(), rel=1e-12)
    assert told["vi001"].count == good.sum()
    store = TileStore.open(path)
    assert store.bands[0].pixel == pytest.approx(40e-6)
    dataset = TileDataset(path, bands=["vi001", "vi003"])
    assert dataset.units("reflectance") == {"vi001": "shilling", "vi003": "shilling"}


def test_bands_of_two_units_are_not_put_together(tmp_path: Path) -> None:
    facts = made_up(4)
    other = replace(facts, quantities=tuple(replace(q, units="groat") for q in facts.quantities))
    for name, instrument in (("a", facts), ("b", other)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, instrument)
    stores = [tmp_path / "a" / "tiles.zarr", tmp_path / "b" / "tiles.zarr"]
    with pytest.raises(UsageError, match=r"reflectance of vi001 is in shilling in one store and in groat in .*b.tiles"):
        compute_statistics(stores, quantity="reflectance", bands=["vi001"])
    with pytest.raises(UsageError, match=r"has no wetness; take `quantity=radiance`, .* or `quantity=mixed`"):
        compute_statistics(stores[:1], quantity="wetness")


def test_the_masks_of_a_batch_of_many_bands_are_counted_apart(tmp_path: Path) -> None:
    path, truth = write(tmp_path, made_up(70))
    packed = TileDataset(path, bands=["vi003", "vi067"])[[0, 1, 2]]
    assert packed.mask is not None
    assert packed.mask.shape == (TILES, 2, STEPS, SIZE, SIZE)
    assert packed.mask.dtype == torch.uint64
    assert [(r.mask, r.bit) for r in packed.rules] == [(0, 3), (1, 3)]
    told = compute_statistics([path], bands=["vi003", "vi067"]).splits["all"]
    assert {n: s.count for n, s in told.items()} == {n: int(truth[n][0].sum()) for n in ("vi003", "vi067")}


def test_a_mask_without_flags_is_refused(tmp_path: Path) -> None:
    path, _ = write(tmp_path, made_up(3), flagged=False)
    for read in (TileStore.open, open_tiles):
        with pytest.raises(SourceError, match="mask valid_0 has flags for no band but not for vi000"):
            read(path)


def test_instruments_are_not_mixed_in_one_batch(tmp_path: Path) -> None:
    for name, bands in (("a", 4), ("b", 12)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, made_up(bands))
    one, other = (TileDataset(tmp_path / n / "tiles.zarr", bands=["vi000"]) for n in ("a", "b"))
    same = Mixture([one, one]).__getitems__([0, 3])
    assert isinstance(same, PackedBatch)
    assert same.rules == one.rules
    a, b = one[[0]], other[[0]]
    odd = PackedBatch(b.values, b.mask, b.bands, b.packing, b.coefficients, b.coefficient_names, ((0, 1, ()),))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="instruments with different masks or laws"):
        join([a, odd])


def test_the_tile_of_a_damaged_chunk_is_the_one_that_is_told(tmp_path: Path) -> None:
    path, _ = write(tmp_path, made_up(70))
    (path / "vi003" / "c" / "1" / "0" / "0" / "0").write_bytes(b"damaged")
    dataset = TileDataset(path, bands=["vi003", "vi067"], on_error="skip")
    packed = dataset[[0, 1, 2]]
    assert packed.meta["failed"].tolist() == [False, True, False]
    assert packed.mask is not None
    assert not packed.mask[1].to(torch.int64).any()
    assert packed.mask[2].to(torch.int64).any()
