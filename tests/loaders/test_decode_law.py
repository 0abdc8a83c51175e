"""One law: the same pixels have the same bits, whoever decodes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
import xarray as xr

import cube
from cube.build import main
from cube.decode import LAWS, apply_law
from cube.preview import _Tile, open_raw
from loaders.rules import TORCH
from loaders.tally import Tally, _physical
from loaders.tiles import TileDataset, tile_loader

QUANTITIES = ("radiance", "reflectance", "brightness_temperature")
SIZE = 64
Floats = npt.NDArray[np.float32]


def bits(values: Any) -> npt.NDArray[np.uint32]:
    """Bits of float32, all NaN alike."""
    array = np.asarray(values).copy()
    assert array.dtype == np.float32
    array[np.isnan(array)] = np.float32("nan")
    return array.view("u4")


DAYS = {"2019-10-27": tuple(range(1, 17)), "2019-12-01": (1, 2, 5, 7, 8, 11, 13, 16)}
"""Of real scans, by day and by night; with the channels that are asked for."""
LACKING = {"2019-10-27": {"C02"}, "2019-12-01": set[str]()}
"""What the archive has not."""


@pytest.fixture(scope="module", params=DAYS)
def build(request: pytest.FixtureRequest, abi_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Tiles of a real scan, each band at its own pixels, and its day."""
    output, day = tmp_path_factory.mktemp("law"), request.param
    given = ["--local-data-dir", str(abi_data), "--output-dir", str(output), "--satellite", "goes17", "--domain", "M1"]
    shape = ["--tile-size", str(SIZE), "--num-tiles", "3", "--steps", "1", "--grid", "native", "--workers", "1"]
    period = ["--start-dt", day, "--end-dt", day, "--max-view-zenith", "85", "--allow-missing"]
    shape += ["--channels", *map(str, DAYS[day])]
    assert main(["abi", *given, *shape, *period]) == 0
    return output, day


def same_resolution(store: xr.Dataset) -> Iterator[list[str]]:
    names = [n for n in (f"C{c:02d}" for c in range(1, 17)) if n in store]
    for size in sorted({store[n].shape[-1] for n in names}):
        yield [n for n in names if store[n].shape[-1] == size]


def decoded_by_loaders(store: Path, bands: list[str], quantity: Any) -> Floats:
    """(tile, time, band, y, x), by torch."""
    tiles = len(TileDataset(store, bands=bands))
    batch = next(iter(tile_loader(store, tiles, shuffle=False, bands=bands, quantity=quantity, fill=np.nan)))
    return batch.pixels.numpy()


def decoded_by_statistics(store: Path, bands: list[str], quantity: Any) -> Floats:
    """The same, by the table of counts that statistics are made of."""
    dataset = TileDataset(store, bands=bands)
    whole = []
    for tile in range(len(dataset)):
        packed, counted = dataset[[tile]], Tally()
        counted.count(packed, ["all"])
        image = np.full((1, len(bands), *packed.values.shape[3:]), np.nan, "f4")
        for (_, band, laws, numbers), table in counted.tables.items():
            there = np.flatnonzero(table)
            values = _physical(laws, there, numbers, quantity)
            c = bands.index(band)
            by_count = np.full(len(table), np.nan)
            by_count[there] = np.nan if values is None else values
            image[0, c] = by_count[packed.values[0, c, 0].numpy()]
        whole.append(image)
    return np.stack(whole)


def drawn(raw: xr.Dataset, tile: int, band: str, quantity: str, size: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    shown = _Tile(raw, tile, size)
    facts = shown.facts.band(band)
    radiance, mask = shown.radiance(facts, 0)
    told = shown.facts.quantity(quantity, band)
    assert told is not None
    return shown.quantity(told.standard_name, facts, 0, radiance), mask


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_all_decode_to_the_same_bits(build: tuple[Path, str], abi_data: Path, quantity: str) -> None:
    output, day = build
    store, plan = output / "tiles.zarr", pd.read_parquet(output / "plan.parquet")
    opened = cube.open_tiles(output, quantity).load()
    had = [n for n in (f"C{c:02d}" for c in range(1, 17)) if n in opened]
    kinds = {"radiance": range(1, 17), "reflectance": range(1, 7), "brightness_temperature": range(7, 17)}
    assert had == [f"C{c:02d}" for c in DAYS[day] if c in kinds[quantity]]
    seen = dict.fromkeys(had, 0)
    with open_raw(store) as read:
        raw = read.load()
    for names in same_resolution(raw):
        bands = [n for n in names if n in had]
        if not bands:
            continue
        by_torch, by_counting = (f(store, bands, quantity) for f in (decoded_by_loaders, decoded_by_statistics))
        for c, name in enumerate(bands):
            for row in plan.itertuples():
                tile = int(row.tile)
                truth = opened[name][tile, 0].values
                good = np.isfinite(truth)
                seen[name] += int(good.sum())
                np.testing.assert_array_equal(bits(by_torch[tile, 0, c]), bits(truth), err_msg=f"{name} torch")
                counted = by_counting[tile, 0, c]
                np.testing.assert_array_equal(bits(counted[good]), bits(truth[good]), err_msg=f"{name} statistics")
                values, mask = drawn(raw, tile, name, quantity, truth.shape[-1])
                np.testing.assert_array_equal(
                    bits(values[mask & good]), bits(truth[mask & good]), err_msg=f"{name} drawn"
                )
    assert {name for name in had if not seen[name]} == LACKING[day] & {*had}
    start = pd.Timestamp(day)
    end = start + pd.Timedelta("1D")
    tree = cube.open_abi(abi_data, start=start, end=end, platform="goes17", sector="M1", chunks=None)
    for row in plan.itertuples():
        assert_archive_agrees(tree, opened, row, [n for n in had if seen[n]], quantity)


def assert_archive_agrees(tree: xr.DataTree, opened: xr.Dataset, row: Any, names: list[str], quantity: str) -> None:
    for name in names:
        node = next(n.ds for n in tree.children.values() if name in n.ds.band)
        tile = opened[name][row.tile, 0].values
        pixel = float(node.x_rad[-1] - node.x_rad[0]) / (node.sizes["x"] - 1)
        left, top = node.x_rad.values[0] - pixel / 2, node.y_rad.values[0] + pixel / 2
        c, r = round((row.x_left - left) / pixel), round((top - row.y_top) / pixel)
        there = node[quantity].sel(band=name)[0, r : r + len(tile), c : c + len(tile)].values
        good = np.isfinite(tile)
        np.testing.assert_array_equal(bits(there[good]), bits(tile[good]), err_msg=f"{name} archive")


def test_packings_of_tiles_are_their_own(store: Path) -> None:
    """The tiny store's packing differs between tiles and between bands."""
    radiance = cube.open_tiles(store, "radiance", chunks=None)
    raw = xr.open_zarr(store, mask_and_scale=False, chunks=None)
    for quantity, names in (("radiance", ["C01", "C08", "C13"]), ("brightness_temperature", ["C08", "C13"])):
        opened = cube.open_tiles(store, quantity, chunks=None)
        by_torch, by_counting = (f(store, names, quantity) for f in (decoded_by_loaders, decoded_by_statistics))
        for c, name in enumerate(names):
            truth = opened[name].values
            good = np.isfinite(truth)
            np.testing.assert_array_equal(bits(by_torch[:, :, c]), bits(truth))
            first = good[:, 0]
            np.testing.assert_array_equal(bits(by_counting[:, 0, c][first]), bits(truth[:, 0][first]))
            at = {"band": raw.band.values.tolist().index(int(name[1:]))}
            scale, offset = (
                raw[n].isel(at).astype("f4").values[..., None, None] for n in ("packing_scale", "packing_offset")
            )
            plain = raw[name].values.astype("f4") * scale + offset
            valid = np.isfinite(radiance[name].values)
            np.testing.assert_array_equal(bits(radiance[name].values[valid]), bits(plain[valid]))


@pytest.mark.parametrize("law", LAWS)
def test_laws_give_the_same_bits_in_numpy_and_torch(law: str) -> None:
    rng = np.random.default_rng(3)
    radiance = np.concatenate([rng.uniform(-1, 200, 200_000), [0, -0.0, np.nan, np.inf, 1e-30]]).astype("f4")
    ranges = {"kappa0": (1e-3, 0.05), "planck_fk1": (4e3, 3e5), "planck_fk2": (1e3, 4e3)}
    ranges |= {"planck_bc1": (-1, 3), "planck_bc2": (0.98, 1.01)}
    ranges |= {"tbb_c0": (-10, 10), "tbb_c1": (0.97, 1.03), "tbb_c2": (-1e-4, 1e-4)}
    numbers = {n: rng.uniform(*ranges[n], radiance.shape).astype("f4") for n in LAWS[law].coefficients}
    ours = apply_law(law, radiance, numbers)
    theirs = apply_law(law, torch.from_numpy(radiance), {n: torch.from_numpy(v) for n, v in numbers.items()}, TORCH)
    np.testing.assert_array_equal(bits(theirs), bits(ours))


def test_the_law_is_true_in_double_precision() -> None:
    """Rounding in float32 costs some units in the last place, and no more."""
    radiance = np.linspace(0.05, 150, 100_001).astype("f4")
    fk1, fk2, bc1, bc2 = (np.float32(n) for n in (10803.3, 1392.74, 0.0755, 0.99975))
    ours = apply_law("planck", radiance, dict(planck_fk1=fk1, planck_fk2=fk2, planck_bc1=bc1, planck_bc2=bc2))
    wide = radiance.astype("f8")
    truth = (np.float64(fk2) / np.log(np.float64(fk1) / wide + 1) - np.float64(bc1)) / np.float64(bc2)
    np.testing.assert_allclose(ours, truth, rtol=4e-7)
    assert np.isnan(
        apply_law("planck", np.float32([0, -1]), dict(planck_fk1=fk1, planck_fk2=fk2, planck_bc1=bc1, planck_bc2=bc2))
    ).all()
