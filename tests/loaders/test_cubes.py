from __future__ import annotations

import itertools
import tracemalloc
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import xbatcher
from affine import Affine
from odc.geo.geobox import GeoBox
from zarr.storage import LocalStore, WrapperStore

from cube.geostationary.open import open_abi
from cube.geostationary.tilestore import open_tiles
from cube.sentinel2.lazy import open_composites, open_sentinel2
from cube.testing import SafeSpec, write_safe
from loaders.cubes import CubeDataset, cube_loader, open_cube
from loaders.order import Pick
from loaders.store import TileStore
from stratacube.errors import SourceError, UsageError


@pytest.fixture
def cube() -> xr.Dataset:
    rng = np.random.default_rng(0)
    values = rng.random((4, 50, 70)).astype("f4")
    values[:, :5] = np.nan
    coords = {
        "time": pd.date_range("2023-03-01", periods=4, freq="5D"),
        "y": np.arange(50) * -20.0 + 10,
        "x": np.arange(70) * 20.0 + 500,
    }
    bands = {name: (("time", "y", "x"), values + i) for i, name in enumerate(("B02", "B03"))}
    return xr.Dataset({**bands, "crs": ((), 0)}, coords=coords)


def test_grid_windows_are_xbatchers(cube: xr.Dataset) -> None:
    sizes, overlap = {"time": 2, "y": 16, "x": 16}, {"y": 4, "x": 8}
    theirs = xbatcher.BatchGenerator(cube[["B02", "B03"]], input_dims=sizes, input_overlap=overlap)
    ours = list(cube_loader(cube, sizes, 5, overlap=overlap, shuffle=False, fill=float("nan")))
    assert sum(len(b) for b in ours) == len(theirs)
    pixels = torch.cat([b.pixels for b in ours]).numpy()
    for found, expected in zip(pixels, theirs, strict=True):
        np.testing.assert_array_equal(found, np.stack([expected.B02, expected.B03], 1))
    valid = torch.cat([b.valid for b in ours]).numpy()
    np.testing.assert_array_equal(valid, np.isfinite(pixels))


@pytest.mark.parametrize("chunks", [None, {"time": 1, "y": 25, "x": 25}])
def test_metadata_and_dask(cube: xr.Dataset, chunks: Any) -> None:
    lazily = cube if chunks is None else cube.chunk(chunks)
    batch = next(iter(cube_loader(lazily, {"y": 10, "x": 10}, 6, seed=2, statistics={"B02": (1, 2), "B03": (2, 4)})))
    assert batch.pixels.shape == (6, 1, 2, 10, 10)
    for i, (t, y, x) in enumerate(batch.meta["origin"].tolist()):
        expected = (cube.B03.values[t, y : y + 10, x : x + 10] - 2) / 4
        np.testing.assert_allclose(batch.pixels[i, 0, 1], np.nan_to_num(expected), rtol=1e-5)
        assert batch.meta["time_code"][i, 0, :2].tolist() == [2023, 60 + 5 * t]
        assert batch.meta["transform"][i].tolist() == [20, 0, 490 + 20 * x, 0, -20, 20 - 20 * y]


def test_random_and_stratified_places(cube: xr.Dataset) -> None:
    sizes = {"y": 16, "x": 16}
    stratified = CubeDataset(cube, sizes, sampling="stratified")
    grid = CubeDataset(cube, sizes)
    assert len(stratified) == len(grid) == 4 * 3 * 4
    moved = 0
    for i in range(len(grid)):
        home, place = grid.origin(i), stratified.origin(Pick(i, 1, 2, i))
        assert place[0] == home[0]
        assert ((place - home >= 0) & (place - home < 16)).all()
        assert (place + np.array([1, 16, 16]) <= [4, 50, 70]).all()
        moved += int((place != home).any())
    assert moved > 40
    anywhere = CubeDataset(cube, sizes, sampling="random")
    places = {tuple(anywhere.origin(Pick(0, 1, 2, i)).tolist()) for i in range(100)}
    assert len(places) > 95
    assert (anywhere.origin(Pick(7, 1, 2, 3)) == anywhere.origin(Pick(9, 1, 2, 3))).all(), "of the position alone"


def test_resume_and_turns(cube: xr.Dataset) -> None:
    options: dict[str, Any] = {"sampling": "stratified", "seed": 3, "flips": True, "rotations": True}
    whole = [b.pixels for b in cube_loader(cube, {"y": 16, "x": 16}, 7, **options)]
    first = cube_loader(cube, {"y": 16, "x": 16}, 7, **options)
    list(itertools.islice(first, 2))
    resumed = cube_loader(cube, {"y": 16, "x": 16}, 7, workers=1, **options)
    resumed.load_state_dict(first.state_dict())
    for found, expected in zip((b.pixels for b in resumed), whole[2:], strict=True):
        assert torch.equal(found, expected)


def test_array_with_bands_and_tiles(store: Path) -> None:
    stacked = open_tiles(store, chunks=None)[["C01", "C13"]].to_dataarray("band")
    batch = next(iter(cube_loader(stacked, {"time": 3, "y": 8, "x": 8}, 4, seed=1)))
    assert batch.bands == ("C01", "C13")
    assert batch.pixels.shape == (4, 3, 2, 8, 8)
    for i, (tile, _, y, x) in enumerate(batch.meta["origin"].tolist()):
        expected = stacked.values[:, tile, :, y : y + 8, x : x + 8].swapaxes(0, 1)
        np.testing.assert_array_equal(batch.pixels[i], np.nan_to_num(expected))


def test_millions_of_windows_take_no_memory() -> None:
    cube = xr.DataArray(np.broadcast_to(np.float32(1), (20, 5000, 5000)), dims=("time", "y", "x"), name="B")
    tracemalloc.start()
    dataset = CubeDataset(cube, {"y": 8, "x": 8}, overlap={"y": 4, "x": 4})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset) == 20 * 1249**2
    assert peak < 5e6
    assert dataset[len(dataset) - 1].values.shape == (1, 1, 1, 8, 8)


def test_windows_that_do_not_fit(cube: xr.Dataset) -> None:
    for window, options, match in (
        ({"y": 51, "x": 8}, {}, "does not fit"),
        ({"row": 8}, {}, "does not fit"),
        ({"y": 8, "x": 8}, {"overlap": {"y": 8}}, "overlap 8"),
        ({"y": 8, "x": 8}, {"variables": ["B9"]}, "B9"),
        ({"y": 8, "x": 16}, {"rotations": True}, "rotated"),
        ({"y": 8, "x": 8}, {"sampling": "some"}, "choose grid"),
    ):
        with pytest.raises(UsageError, match=match):
            CubeDataset(cube, window, **options)  # type: ignore[arg-type]


class CountingStore(WrapperStore[LocalStore]):
    """Counts the chunks that are asked for."""

    chunks = 0

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        self.chunks += "/c/" in key
        return await super().get(key, *args, **options)


@pytest.mark.parametrize("shuffle", [False, True])
def test_chunks_that_windows_share_are_read_once(cube: xr.Dataset, write_cube: Any, shuffle: bool) -> None:
    counting = CountingStore(LocalStore(write_cube(cube, chunks=(2, 32, 35)), read_only=True))
    window = {"time": 2, "y": 8, "x": 7}
    opened = xr.open_zarr(counting, chunks=None)
    assert counting.chunks < 10, "opening reads coordinates, no pixels"
    loader = cube_loader(opened, window, 5, shuffle=shuffle, fill=float("nan"), seed=2)
    counting.chunks = 0
    for batch in loader:
        for pixels, (t, y, x) in zip(batch.pixels, batch.meta["origin"].tolist(), strict=True):
            expected = (
                cube[["B02", "B03"]].isel(time=slice(t, t + 2), y=slice(y, y + 8), x=slice(x, x + 7)).to_dataarray()
            )
            np.testing.assert_array_equal(pixels, expected.values.swapaxes(0, 1))
    apart = 2 * 2 * 6 * 10
    assert counting.chunks < (0.9 if shuffle else 0.25) * apart


def test_composites_without_their_counts(cube: xr.Dataset, write_cube: Any) -> None:
    """Counts of observations stand beside the bands; they are not one of them."""
    flat = cube.isel(time=0, drop=True).assign(count=(("y", "x"), np.ones((50, 70), "u2")))
    path = write_cube(flat.drop_vars("crs"), scale=0.5, name="build/composites.zarr")
    for opened in (open_composites(path.parent), open_cube(path.parent), open_cube(str(path))):
        batch = next(iter(cube_loader(opened, {"y": 25, "x": 35}, 4, shuffle=False, fill=float("nan"))))
        assert batch.bands == ("B02", "B03")
        np.testing.assert_array_equal(batch.pixels[3, 0, 1], 0.5 * flat.B03.values[25:, 35:])
        assert batch.valid[0, 0, :, :5].logical_not().all()
    with pytest.raises(UsageError, match="no bands C01"):
        TileStore.open(path.parent)
    with pytest.raises(UsageError, match="`products=cog zarr`"):
        open_cube(path.parents[1])


def test_damaged_chunks_are_named(cube: xr.Dataset, write_cube: Any) -> None:
    path = write_cube(cube, chunks=(1, 50, 70))
    (path / "B03" / "c" / "2" / "0" / "0").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"windows at \[\[2, 0, 0\]"):
        list(cube_loader(open_cube(path), {"y": 25, "x": 35}, 1, shuffle=False))


@pytest.mark.parametrize("workers", [0, 1])
def test_archives_opened_lazily(small_archive: Path, workers: int) -> None:
    tree = open_abi(small_archive, bands=["C07", "C13"])
    truth = tree["2km"].ds["radiance"]
    with pytest.raises(UsageError, match="such as tree"):
        cube_loader(tree, {"y": 8, "x": 8}, 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"variables=\['radiance'\]"):
        cube_loader(tree["2km"].ds, {"y": 8, "x": 8}, 1)
    window = {"time": 2, "y": 16, "x": 24}
    loader = cube_loader(tree["2km"].ds, window, 3, variables=["radiance"], workers=workers, fill=float("nan"))
    batch = next(iter(loader))
    assert batch.bands == ("C07", "C13")
    for pixels, (t, y, x) in zip(batch.pixels, batch.meta["origin"].tolist(), strict=True):
        expected = truth.isel(time=slice(t, t + 2), y=slice(y, y + 16), x=slice(x, x + 24))
        np.testing.assert_array_equal(pixels, expected.transpose("time", "band", "y", "x"))


@pytest.mark.filterwarnings(  # odc-geo uses what shapely and affine retire
    "ignore:.*shapely.ops.transform.*:DeprecationWarning", "ignore:Use `@` matmul:PendingDeprecationWarning"
)
def test_scenes_opened_lazily(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for day in (1, 6):
        values = {f"{band}_20m": rng.integers(1001, 5000, (96, 96)).astype("u2") for band in ("B02", "B03")}
        scl = np.where(rng.random((96, 96)) < 0.2, 9, 4).astype("u1")
        taken = datetime(2021, 6, day, 21, 30)
        write_safe(
            SafeSpec(
                tile="06WUA", epsg=32606, ulx=400000, uly=7600000, datatake_start=taken, datastrip_start=taken,
                processing_time=datetime(2023, 1, 1), baseline="05.10", images={**values, "SCL_20m": scl},
            ),
            tmp_path,
            block=64,
        )  # fmt: skip
    grid = GeoBox((96, 96), Affine(20, 0, 400000, 0, -20, 7600000), "EPSG:32606")
    scenes = open_sentinel2(sorted(tmp_path.glob("*.SAFE")), ["B02", "B03"], geobox=grid)
    loader = cube_loader(scenes, {"time": 2, "y": 32, "x": 32}, 4, overlap={"y": 8}, fill=float("nan"))
    batch = next(iter(loader))
    assert 0.7 < float(batch.valid.float().mean()) < 0.9
    for pixels, (t, y, x) in zip(batch.pixels, batch.meta["origin"].tolist(), strict=True):
        expected = scenes.isel(time=slice(t, t + 2), y=slice(y, y + 32), x=slice(x, x + 32)).to_dataarray()
        np.testing.assert_array_equal(pixels, expected.transpose("time", "variable", "y", "x"))


def test_transform_follows_the_turns(cube: xr.Dataset) -> None:
    """Bands that hold their own coordinates are where the affine says, however they are turned."""
    grid = np.broadcast_arrays(cube.y.values[None, :, None], cube.x.values[None, None])
    bands = {n: (("time", "y", "x"), v.astype("f4")) for n, v in zip(("north", "east"), grid, strict=True)}
    places = xr.Dataset(bands, {"y": cube.y, "x": cube.x})
    turns = set()
    for batch in cube_loader(places, {"y": 8, "x": 8}, 5, flips=True, rotations=True):
        turns |= set(batch.meta["turn"].tolist())
        for pixels, (a, b, c, d, e, f) in zip(batch.pixels, batch.meta["transform"].tolist(), strict=True):
            row, col = np.mgrid[:8, :8] + 0.5
            np.testing.assert_allclose(pixels[0, 0], d * col + e * row + f)
            np.testing.assert_allclose(pixels[0, 1], a * col + b * row + c)
    assert turns == set(range(8))
