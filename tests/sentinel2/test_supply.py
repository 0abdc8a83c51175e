"""A search kept in a file, and files that are brought while scenes are processed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.items import Product
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.saved import save_items
from cube.config import load_config
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.run import run_sentinel2
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, Scene, expected_stack, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def _remote(product: Product) -> Product:
    """Return the product as a catalogue lists it, in the bucket."""
    assets = {
        key: replace(asset, href=f"s3://eodata/Sentinel-2/{product.id}.SAFE/{asset.href.partition('.SAFE/')[2]}")
        for key, asset in product.assets.items()
    }
    return replace(product, assets=assets)


def _config(tmp_path: Path, **options: object) -> Sentinel2Config:
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    values = {
        "work_dir": tmp_path / "w",
        "items": tmp_path / "search.json",
        "grid_csv": tmp_path / "grid.csv",
        "access": "local",
        "start": "2021-06-01",
        "end": "2021-06-30",
        "bands": ["B02"],
        "workers": 1,
        **options,
    }
    config: Sentinel2Config = load_config(Sentinel2Config, None, values)
    return config


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    scenes = [make_scene(n, FIRST + timedelta(days=n)) for n in range(6)]
    products = [read_safe(scene.write(tmp_path / "safe")) for scene in scenes]
    save_items(tmp_path / "search.json", [item_from_product(_remote(p)) for p in products])
    return scenes


def _mosaic(work: Path) -> np.ndarray:
    out = np.full((200, 200), np.nan, "f4")
    for path in work.glob("composites/*/*_B02_median_clip.tif"):
        with rasterio.open(path) as file:
            row, col = round((ULY - file.transform.f) / 20), round((file.transform.c - ULX) / 20)
            data = file.read(1)
        out[row : row + 100, col : col + 100] = np.where(data == -9999, np.nan, data)
    return out


def _expected(scenes: list[Scene]) -> np.ndarray:
    stack = expected_stack(scenes, "B02", 200, 200)
    empty = np.isnan(stack).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, stack), axis=0))


def test_saved_search_is_planned_and_built_from_a_mirror(
    tmp_path: Path, scenes: list[Scene], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_sentinel2(_config(tmp_path, dry_run=True)) == 0
    told = capsys.readouterr().out
    assert "download   24 files" in told  # a band, the classes and two documents of six products
    config = _config(tmp_path)
    assert run_sentinel2(_config(tmp_path, plan_only=True)) == 0
    shutil.copytree(tmp_path / "safe", config.work_dir / "imagery_raw")
    assert run_sentinel2(config) == 0
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))
    assert len(pd.read_csv(config.work_dir / "indices" / "query_manifest.csv")) == 6
    assert len(pd.read_csv(config.work_dir / "indices" / "scene_index.csv")) >= 6


def test_a_file_that_cannot_be_had_drops_its_scene_only(tmp_path: Path, scenes: list[Scene]) -> None:
    config = _config(tmp_path)
    assert run_sentinel2(_config(tmp_path, plan_only=True)) == 0
    shutil.copytree(tmp_path / "safe", config.work_dir / "imagery_raw")
    next((config.work_dir / "imagery_raw").glob(f"{scenes[3].spec.id}.SAFE/**/*B02_20m.jp2")).unlink()
    assert run_sentinel2(config) == 1
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected([s for s in scenes if s is not scenes[3]]))
    errors = pd.read_csv(config.work_dir / "errors.csv")
    assert set(errors["product"]) == {scenes[3].spec.id}
    assert "--access https or s3" in errors["reason"].iloc[0]
    shutil.copytree(tmp_path / "safe", config.work_dir / "imagery_raw", dirs_exist_ok=True)
    assert run_sentinel2(config) == 0
    np.testing.assert_array_equal(_mosaic(config.work_dir), _expected(scenes))
