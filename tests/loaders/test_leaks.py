"""The checker of any two stores: leaks that are planted are found, and only those."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from pyproj import CRS

from catalog.splits import SplitRule
from loaders.cubes import CubeDataset
from loaders.extents import tile_extents
from loaders.leaks import leaks_of_stores, main, samples_of
from loaders.store import TileStore
from stratacube.errors import UsageError
from tests.loaders.test_extents import add_view


def composites(months: list[str], west: float, south: float, side: int = 40) -> xr.Dataset:
    """Monthly composites as builds write them: the start of each month, and both ends as its bounds."""
    start, step = pd.DatetimeIndex(months), 0.4 / side
    bounds = np.stack([start.values, (start + pd.offsets.MonthBegin(1)).values], axis=1)
    values = np.ones((len(months), side, side), "f4")
    coords = {
        "time": ("time", start, {"bounds": "time_bnds"}),
        "time_bnds": (("time", "bnds"), bounds),
        "y": south + 0.4 - (np.arange(side) + 0.5) * step,
        "x": west + (np.arange(side) + 0.5) * step,
        "spatial_ref": ((), 0, {"crs_wkt": CRS.from_epsg(4326).to_wkt()}),
    }
    return xr.Dataset({"B02": (("time", "y", "x"), values)}, coords)


def test_composites_last_from_the_first_to_the_last_day_of_their_period(write_cube: Callable[..., Path]) -> None:
    june = samples_of(write_cube(composites(["2021-06-01"], -60.0, 0.0), name="june.zarr"), 20)
    july = samples_of(write_cube(composites(["2021-07-01", "2021-09-01"], -59.9, 0.1), name="july.zarr"), 20)
    far = samples_of(write_cube(composites(["2021-07-01"], -50.0, 0.1), name="far.zarr"), 20)
    assert (len(june.names), len(july.names)) == (4, 8)
    assert june.extents.start[0] == np.datetime64("2021-06-01")
    assert june.extents.end[0] == np.datetime64("2021-07-01") - np.timedelta64(1, "us")
    # The last day of June is beside the first of July; of the same pixels half a month apart there would be none.
    assert leaks_of_stores(june, july) == []
    found = {(leak.one, leak.other) for leak in leaks_of_stores(june, july, gap_hours=1)}
    boxes = [[(-60 + 0.2 * i, 0.4 - 0.2 * j) for j in (0, 1) for i in (0, 1)], []]
    boxes[1] = [(-59.9 + 0.2 * i, 0.5 - 0.2 * j) for j in (0, 1) for i in (0, 1)]
    assert found == {
        (i, j)
        for i, (a, b) in enumerate(boxes[0])
        for j, (c, d) in enumerate(boxes[1])
        if max(abs(a - c), abs(b - d)) < 0.2
    }
    assert leaks_of_stores(june, far, gap_hours=1) == []
    assert leaks_of_stores(june, far, gap_hours=1, gap_km=2000)


def test_windows_of_any_dimensions_reach_to_the_edge(write_cube: Callable[..., Path]) -> None:
    """Of 50 pixels two windows of 20 leave ten, where alone the other cube lies."""
    cube = composites(["2021-06-01"], -60.0, 0.0, side=50)  # pixels of 0.008 degrees
    one = samples_of(write_cube(cube.rename(y="lat", x="lon"), name="one.zarr"), 20)
    assert one.names == [f"time 0 lat {row} lon {column}" for row in (0, 20, 30) for column in (0, 20, 30)]
    corner = samples_of(write_cube(composites(["2021-06-01"], -59.63, -0.37), name="corner.zarr"), 256)
    assert corner.names == ["time 0 y 0 x 0"]
    assert {one.names[leak.one] for leak in leaks_of_stores(one, corner)} == {"time 0 lat 30 lon 30"}
    with pytest.raises(UsageError, match="`edges` are of a grid, and `sampling` is stratified"):
        CubeDataset(cube, {"y": 20, "x": 20}, sampling="stratified", edges=True)


def test_tiles_and_cubes_are_told_apart_and_compared(
    make_store: Callable[..., Path], write_cube: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = make_store()
    add_view(tiles)
    store, extents = TileStore.open(tiles), tile_extents(tiles)
    ring = extents.footprints.ring(3)
    lat, lon = (float(np.degrees(v)) for v in (np.arcsin(ring[:, 2].mean()), np.arctan2(*ring.mean(axis=0)[[1, 0]])))
    month = f"{pd.Timestamp(store.times()[3, 0]):%Y-%m}-01"
    later = f"{pd.Timestamp(month) + pd.DateOffset(months=3):%Y-%m-%d}"
    cube = write_cube(composites([month, later], lon - 0.2, lat - 0.2))
    samples = samples_of(tiles), samples_of(str(cube), 64)
    leaks = leaks_of_stores(*samples)
    others = [i for i in range(len(store)) if np.linalg.norm(extents.footprints.centres[i] - ring.mean(axis=0)) > 0.05]
    assert 3 in {leak.one for leak in leaks}
    assert {leak.other for leak in leaks} == {0}  # the month, and not the later one
    assert not {leak.one for leak in leaks} & {*others}
    marked = replace(samples[0], splits=np.where(np.arange(len(store)) == 3, "val", "train"))
    held_out = leaks_of_stores(marked, samples[1], splits=("val", None))
    assert [leak.one for leak in held_out] == [3]  # by its number in the store
    capsys.readouterr()
    assert main([str(tiles), str(cube), "--window", "64", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == len(leaks)
    assert main([str(tiles), str(cube), "--splits", "train", "moon"]) == 2
    assert "no sample is of the split 'moon'; there are none" in capsys.readouterr().err


def test_windows_of_a_cube_that_a_rule_splits_do_not_leak(
    write_cube: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    months = [f"2021-{month:02d}-01" for month in range(1, 13)]
    path = write_cube(composites(months, -60.0, 0.0))
    rule = SplitRule(None, 2400.0, 0.0, 48.0, {"train": 0.5, "val": 0.5}, seed=3)
    samples = samples_of(path, 20, rule)
    assert {"train", "val"} <= {*samples.splits.tolist()}
    assert leaks_of_stores(samples, gap_hours=48) == []
    samples.splits[samples.splits == "gap"] = "val"  # as if the gap were none
    assert leaks_of_stores(samples, gap_hours=48)
    with pytest.raises(UsageError, match="tells no splits"):
        leaks_of_stores(samples_of(path, 20))
    assert main([str(path), "--window", "20", "--split-hours", "2400", "--gap-hours", "48"]) == 0
    assert "0 pairs of 48 samples leak" in capsys.readouterr().out
