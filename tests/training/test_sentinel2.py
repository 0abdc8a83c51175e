"""Composites as they come: with gaps, with land cover beside them, and judged beside baselines that know something."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from pyproj import CRS
from rasterio import Affine

from loaders.described_windows import DescribedWindows
from loaders.order import Pick
from stratacube.errors import UsageError
from tests.training.test_data import CPU
from tests.training.test_splits import cube_run
from training.data import open_data
from training.evaluation import evaluate
from training.probing import probe
from training.runs import open_run
from training.trainer import Trainer

LEFT, TOP = 400_000, 7_600_000
BLOCKS = {
    "block_km": 0.7,
    "block_hours": None,
    "gap_km": 0.0,
    "gap_hours": 0.0,
    "shares": {"train": 0.6, "val": 0.4},
    "seed": 5,
}
"""By which both sides have windows of both classes."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """160 x 240 pixels of 10 m, NaN in the west of B8A; classes 10 in the north, 80 in the south, none in the east.

    The classes differ by their values in B02, so that features can tell them apart.
    """
    folder = tmp_path_factory.mktemp("scene")
    rows, columns = np.mgrid[:160, :240]
    smooth = np.sin(rows / 9) * np.cos(columns / 7) * 0.05
    random = np.random.default_rng(3)
    values = {
        "B02": 0.2 + 0.2 * (rows >= 80) + smooth,
        "B8A": 0.3 + 0.1 * (rows >= 80) + 0.5 * smooth + random.normal(0, 0.002, rows.shape),
    }
    values["B8A"] = np.where(columns < 40, np.nan, values["B8A"])
    bands = {n: (("y", "x"), v.astype("f4"), {"grid_mapping": "spatial_ref"}) for n, v in values.items()}
    coordinates = {"y": TOP - 10 * (np.arange(160) + 0.5), "x": LEFT + 10 * (np.arange(240) + 0.5)}
    mapping = ((), 0, {"crs_wkt": CRS(32606).to_wkt()})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        xr.Dataset({**bands, "spatial_ref": mapping}, coordinates).to_zarr(folder / "composites.zarr", zarr_format=3)
    classes = np.where(rows >= 80, 80, 10).astype("u1")
    classes[:, 208:] = 255
    raster = folder / "classes.tif"
    with rasterio.open(
        raster, "w", driver="GTiff", height=160, width=240, count=1, dtype="uint8", nodata=255, crs=32606,
        transform=Affine(10, 0, LEFT, 0, -10, TOP),
    ) as file:  # fmt: skip
        file.write(classes, 1)
        file.update_tags(legend="10 trees\n80 water")
    return folder / "composites.zarr", raster


def windows(cube: Path, **options: object) -> DescribedWindows:
    return DescribedWindows(xr.open_zarr(cube, chunks=None), {"y": 16, "x": 16}, variables=["B02", "B8A"], **options)


def test_windows_are_labelled_by_the_class_that_lies_under_them(scene: tuple[Path, Path]) -> None:
    cube, raster = scene
    labelled = windows(cube, landcover=str(raster), sampling="stratified")
    assert labelled.classes["landcover"][-1] == "unclassed"
    picks = [Pick(n, 0, 2, n) for n in range(len(labelled))]
    batch = labelled.__getitems__(picks)
    rows, columns = batch.meta["origin"].numpy().T
    moved = np.stack([rows, columns]) % 16
    assert moved.any()
    with rasterio.open(raster) as file:
        classes = file.read(1)
    for row, column, number in zip(rows, columns, batch.labels["landcover"].tolist(), strict=True):
        under = classes[row : row + 16, column : column + 16]
        counts = {"trees": (under == 10).sum(), "water": (under == 80).sum()}
        name = labelled.classes["landcover"][number]
        assert counts[name] == max(counts.values()) if name in counts else not sum(counts.values())
    labelled.renumber("landcover", ["water", "unclassed", "other", "trees"])
    names = ["water", "unclassed", "other", "trees"]
    again = labelled.__getitems__(picks[:1]).labels["landcover"].item()
    assert names[again] == "trees"


def test_windows_without_enough_valid_pixels_are_left_out(scene: tuple[Path, Path], tmp_path: Path) -> None:
    cube, _ = scene
    every = windows(cube)
    shares = every.valid_shares().reshape(10, 15)
    assert np.allclose(shares[:, :4], [0, 0, 0.5, 1])  # a band that is not valid is enough
    assert (shares[:, 4:] == 1).all()
    data = open_data(cube_run(tmp_path, cube, split=BLOCKS, min_valid=0.6, sampling="grid"), 0, 1, CPU)
    seen = 0
    for batch in (*data.train, *(data.validation or ())):
        assert batch.valid.all()
        seen += len(batch)
    whole = open_data(cube_run(tmp_path, cube, split=BLOCKS, sampling="grid"), 0, 1, CPU)
    assert 0 < seen < whole.train.samples + sum(map(len, whole.validation or ()))
    small = DescribedWindows(xr.open_zarr(cube, chunks=None).isel(x=slice(32, 48)), {"y": 16, "x": 16})
    anywhere = windows(cube, sampling="random")
    with pytest.raises(
        UsageError, match=r"\(`sampling=random`\) cannot be chosen by `min_valid` 0\.6, .*or `min_valid=0`"
    ):
        anywhere.require_valid(0.6)
    with pytest.raises(UsageError, match=r"none of the 10 windows has a share of 1 valid pixels, the best has 0\.500"):
        small.require_valid(1.0)


def test_features_of_composites_are_judged_by_land_cover_and_beside_baselines(
    scene: tuple[Path, Path], tmp_path: Path
) -> None:
    cube, raster = scene
    config = cube_run(tmp_path, cube, split=BLOCKS, min_valid=0.9, landcover=str(raster), statistics="own")
    Trainer(config).fit()
    opened = open_run(tmp_path)
    found = probe(opened)
    assert {"trees", "water"} <= set(found["classes"])
    assert found["scores"]["pixel statistics"]["accuracy"] > found["scores"]["commonest class"]["accuracy"]
    report = evaluate(opened, tmp_path / "e", pictures=0)
    errors = {(row["method"], row["band"]): row["rmse"] for row in report.rows}
    for band in ("B02", "B8A"):
        assert errors["spatial infill", band] < 0.8 * errors["band mean", band]
        assert errors["regression", band] < errors["band mean", band]
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["samples"] > 0
    assert torch.isfinite(torch.tensor(list(errors.values()))).all()
