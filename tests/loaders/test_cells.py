"""Builds of files a cell: read as they lie, as one cube, the same as from their store."""

from __future__ import annotations

import json
import shutil
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import s3fs
import torch
import xarray as xr
import xbatcher
from pyproj import CRS

from cube.job.inspect import verify
from cube.job.ledger import Ledger
from cube.mosaic import open_cells
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.inspect import SENTINEL2
from cube.sentinel2.lazy import open_composites
from cube.sentinel2.run import run_sentinel2
from loaders.counting import compute_statistics
from loaders.cubes import CubeDataset, cube_loader, images_of, open_cube
from stratacube.errors import SourceError, UsageError
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene
from training.config import validate
from training.data import open_data

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

CELL, BANDS = 800, ["B02", "B03"]
APART = ["R000_C0000", "R000_C0001", "R003_C0004"]
"""Two neighbours, and one at the other end of the grid."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One build with its store, and a copy that has its files alone."""
    root = tmp_path_factory.mktemp("cells")
    _build(root, "whole", products=["cog", "zarr"])
    shutil.copytree(root / "whole", root / "files", ignore=shutil.ignore_patterns("composites.zarr", "plan.parquet"))
    return root / "whole", root / "files"


def _build(root: Path, name: str, **options: Any) -> Path:
    for day in range(0 if (root / "safe").exists() else 3):
        make_scene(day, FIRST + timedelta(days=5 * day)).write(root / "safe")
    grid = make_grid(CELL, (ULX, ULY - 4 * CELL, ULX + 5 * CELL, ULY), f"EPSG:{EPSG}")
    write_grid(grid, root / "grid.csv")
    cells = [i for i in grid["tile_id_rc"] if i.endswith(tuple(APART))]
    config = Sentinel2Config.load(
        None,
        {
            "work_dir": root / name, "safe_dir": root / "safe", "grid_csv": root / "grid.csv", "cells": cells,
            "start": "2021-06-01", "end": "2021-06-30", "bands": BANDS, "workers": 1, **options,
        },
    )  # fmt: skip
    assert run_sentinel2(config).code == 0
    return root / name


def test_files_of_cells_are_the_cube_that_their_store_is(both: tuple[Path, Path]) -> None:
    whole, files = both
    store, cells = open_cube(whole), open_cube(files)
    assert store.sizes == {d: n for d, n in cells.sizes.items() if d in "yx"} == {"y": 160, "x": 200}
    for name in (*BANDS, "count"):
        np.testing.assert_array_equal(cells[name], store[name].astype(cells[name].dtype))
        np.testing.assert_array_equal(cells[name][7:90:3, -1], store[name][7:90:3, -1].astype(cells[name].dtype))
        assert cells[name][5, 6].item() == pytest.approx(store[name][5, 6].item(), nan_ok=True)
    for axis in "xy":
        np.testing.assert_allclose(cells[axis], store[axis], rtol=0, atol=1e-6)
    assert CRS(cells.rio.crs) == CRS(f"EPSG:{EPSG}")
    assert cells.rio.transform() == store.rio.transform()
    lazily = open_composites(files)
    assert lazily["B02"].chunks
    xr.testing.assert_equal(lazily[BANDS].compute().drop_vars("cell_bounds", errors="ignore"), cells[BANDS].compute())
    again = open_composites(str(files / "collection.json"))
    np.testing.assert_array_equal(again["B03"], store["B03"].astype("f4"))


def test_a_store_a_cell_is_the_same_cube(both: tuple[Path, Path]) -> None:
    """Of a build that writes nothing else; what is damaged in one is found, and made again alone."""
    whole = open_cube(both[0])
    work = _build(both[0].parent, "stores", products=["zarr"], zarr_stores="cell", also=["months"])
    assert not (work / "composites.zarr").exists()
    assert not [*work.rglob("*.tif")]
    cells = open_cube(work)
    for name in (*BANDS, "count"):
        np.testing.assert_array_equal(cells[name], whole[name].astype(cells[name].dtype))
    np.testing.assert_array_equal(cells["count_06"], cells["count"])
    assert images_of(cells, None)[0] == tuple(BANDS)
    one = next((work / "composites").glob("*R003_C0004"))
    own = open_composites(work / "items" / f"{one.name.lower()}.json")
    np.testing.assert_array_equal(own["B03"], cells["B03"][-40:, -40:])
    np.testing.assert_allclose(own["x"], cells["x"][-40:])
    assert verify(work).code == 0
    chunk = next(p for p in (one / f"cell_{one.name}.zarr" / "B03" / "c").rglob("*") if p.is_file())
    before = chunk.read_bytes()
    chunk.unlink()
    assert verify(work).code == 1
    told = {"bands": BANDS, "products": ["zarr"], "zarr_stores": "cell", "also": ["months"], "reducer": "median"}
    (fault,) = SENTINEL2.faults(Sentinel2Folder(work), told, Ledger(work / "ledger.jsonl"))
    assert "B03 holds 0 values where" in fault, "pixels are counted, whatever the ledger says of files"
    _build(both[0].parent, "stores", products=["zarr"], zarr_stores="cell", also=["months"])
    assert chunk.read_bytes() == before
    assert verify(work).code == 0


def test_windows_are_those_that_hold_a_cell(both: tuple[Path, Path]) -> None:
    whole, files = both
    store, cells = open_cube(whole), open_cube(files)
    window = {"y": 20, "x": 20}
    loader = cube_loader(cells, window, 4, shuffle=False, fill=float("nan"))
    seen = [(tuple(o), p.numpy()) for b in loader for o, p in zip(b.meta["origin"].tolist(), b.pixels, strict=True)]
    assert len(seen) == 3 * 4
    for (y, x), pixels in seen:
        assert (y < 40 and x < 80) or (y >= 120 and x >= 160)
        for band, image in zip(BANDS, pixels[0], strict=True):
            np.testing.assert_array_equal(image, store[band][y : y + 20, x : x + 20].astype("f4"))
    assert len(CubeDataset(open_cube(whole), window)) == 8 * 10
    (same, *_) = cube_loader(str(files), window, 12, shuffle=False, fill=float("nan"))
    assert same.meta["origin"].tolist() == [list(origin) for origin, _ in seen]
    for sampling in ("stratified", "random"):
        moved = cube_loader(cells, window, 12, sampling=sampling, fill=float("nan"))
        assert all(bool(v.any()) for b in moved for v in b.valid)
    half = CubeDataset(cells, window)
    half.choose(np.arange(8, 12))
    assert {tuple(half.origin(i)) for i in range(4)} == {(y, x) for y in (120, 140) for x in (160, 180)}
    assert half.fingerprint != CubeDataset(cells, window).fingerprint
    theirs = xbatcher.BatchGenerator(cells[BANDS], input_dims={"y": 40, "x": 40})
    np.testing.assert_array_equal(theirs[0]["B02"], cells["B02"][:40, :40])


@pytest.mark.parametrize("workers", [0, 1])
def test_statistics_are_those_of_the_store(both: tuple[Path, Path], workers: int) -> None:
    whole, files = both
    expected, found = compute_statistics([whole]), compute_statistics([files], workers=workers)
    for band in BANDS:
        theirs, ours = expected.splits["all"][band], found.splits["all"][band]
        assert (ours.count, ours.min, ours.max, ours.percentiles) == (
            theirs.count, theirs.min, theirs.max, theirs.percentiles,
        )  # fmt: skip
        assert ours.mean == pytest.approx(theirs.mean, rel=1e-9)
        assert ours.units == "1"


def test_training_reads_the_files_and_holds_out_a_part(both: tuple[Path, Path], tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "name": "cells", "output_dir": str(tmp_path),
        "model": {
            "kind": "group", "bands": BANDS, "groups": [["B02"], ["B03"]], "frames": 1, "size": "nano",
            "image_size": 8, "patch_size": 4,
        },
        "data": {
            "source": "cubes", "cubes": [{"path": str(both[1])}], "batch_size": 2, "workers": 0,
            "statistics": {"B02": [0.2, 0.1], "B03": [0.2, 0.1]}, "quantity": "reflectance",
            "sampling": "grid",
            "split": {
                "block_km": 0.8, "block_hours": None, "gap_km": 0, "gap_hours": 0, "shares": {"train": 0.5, "val": 0.5},
            },
        },
        "optimizer": {"lr": 1e-3, "steps": 2, "warmup_steps": 1},
        "validation": {"every_epochs": None},
    }  # fmt: skip
    found = open_data(validate(values, "test"), 0, 1, torch.device("cpu"))
    assert found.validation is not None
    sides = []
    for side in (found.train, found.validation):
        batches = list(side)
        assert all(bool(sample.any()) for batch in batches for sample in batch.valid)
        sides.append(sum(len(batch.valid) for batch in batches))
    assert min(sides) > 0
    assert sum(sides) <= 3 * 25


@pytest.mark.slow
def test_files_of_cells_are_read_on_object_storage(both: tuple[Path, Path], s3_server: str) -> None:
    options: dict[str, Any] = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": s3_server}}
    files = s3fs.S3FileSystem(**options)
    name = f"cells-{uuid.uuid4().hex}"
    files.mkdir(name)
    files.put(str(both[1]), f"{name}/build", recursive=True)
    remote = open_cube(f"s3://{name}/build", options)
    np.testing.assert_array_equal(remote["B03"], open_cube(both[1])["B03"])
    files.rm(f"{name}/build/composites", recursive=True)
    with pytest.raises(SourceError, match=r"s3://cells-.*B02_median_clip.tif cannot be read"):
        remote["B02"].load()


def test_what_is_wrong_with_a_file_is_said(both: tuple[Path, Path], tmp_path: Path) -> None:
    files = tmp_path / "files"
    shutil.copytree(both[1], files)
    cell = next((files / "composites").glob("*R000_C0000"))
    image = cell / f"cell_{cell.name}_B02_median_clip.tif"
    opened = open_cube(files)
    assert np.isfinite(opened["B02"][:40, :40]).any()
    with rasterio.open(image) as file:
        profile, values = file.profile, file.read()
    with rasterio.open(image, "w", **{**profile, "driver": "GTiff"}) as file:
        file.write(np.full_like(values, 5000))
    assert (opened["B02"][:40, :40] == np.float32(0.5)).all(), "a file that was put in its place is read"
    image.unlink()
    with pytest.raises(SourceError, match=r"B02_median_clip.tif cannot be read \(.*run the build again"):
        opened["B02"][:40, :40].load()
    item = next((files / "items").glob("*.json"))
    told = json.loads(item.read_text())
    del told["properties"]["stratacube:lattice_row"]
    item.write_text(json.dumps(told))
    with pytest.raises(UsageError, match="counted from their own corners"):
        open_cells(str(files))
    item.unlink()
    with pytest.raises(SourceError, match="does not describe the cells of a build"):
        open_cells(str(files))
