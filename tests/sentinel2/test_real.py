"""Real pixels: scenes near Exeter as SAFE products of several baselines, tile 33TWL, and ESA's own JP2 files."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.warp import Resampling, reproject
from scipy.ndimage import map_coordinates

from catalog.sentinel2.items import Asset, Product
from cube.sentinel2.blocks import BlockReader, Decoded
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.lattice import Window
from cube.sentinel2.run import run_sentinel2
from cube.testing import SafeSpec, write_safe

BASELINES = ("02.12", "03.01", "04.00", "05.00", "05.10")
MASKED = (0, 1, 2, 3, 7, 8, 9, 10, 11)

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


def _folder(data_folder: Path, name: str) -> Path:
    folder = data_folder / "sentinel2" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def test_exeter_through_five_baselines(data_folder: Path, tmp_path: Path) -> None:
    """The same reflectances, written as each baseline writes them, make one composite on the predecessor's lattice."""
    ulx, uly, side = 460000, 5623000, 400
    stacks: dict[str, list[np.ndarray]] = {"B02": [], "B04": []}
    files = sorted(_folder(data_folder, "exeter_20m_2024").glob("*.tif"))
    assert len(files) == 5
    for path, baseline in zip(files, BASELINES, strict=True):
        images = {}
        with rasterio.open(path) as file:
            for index, name in enumerate(file.descriptions, 1):
                if name in ("B02", "B04", "SCL"):
                    grid = np.zeros((side, side), "u2")
                    reproject(
                        rasterio.band(file, index), grid, dst_crs="EPSG:32630", resampling=Resampling.nearest,
                        dst_transform=rasterio.Affine(20, 0, ulx, 0, -20, uly),
                    )  # fmt: skip
                    images[name] = grid
        when = datetime.strptime(path.stem[4:23], "%Y-%m-%d_%H-%M-%S")
        offset = 0 if baseline < "04.00" else 1000
        seen = ~np.isin(images["SCL"], MASKED)
        safe: dict[str, np.ndarray] = {"SCL_20m": images["SCL"].astype("u1")}
        for band, stack in stacks.items():
            truth = images[band].astype("i8") - 1000  # the samples are of baseline 05.10
            known = images[band] > 0
            safe[f"{band}_20m"] = np.where(known, np.clip(truth + offset, 1, None), 0).astype("u2")
            stack.append(np.where(seen & known, np.clip(truth, 1 - offset, None), np.nan).astype("f4"))
        spec = SafeSpec(
            tile="30UVB", epsg=32630, ulx=ulx, uly=uly, datatake_start=when, processing_time=datetime(2024, 12, 1),
            baseline=baseline, images=safe,
        )  # fmt: skip
        write_safe(spec, tmp_path / "safe", block=128)
    write_grid(make_grid(4000, (ulx, uly - 8000, ulx + 8000, uly), "EPSG:32630"), tmp_path / "grid.csv")
    common = {
        "start": "2024-06-01",
        "end": "2024-09-01",
        "bands": ["B02", "B04"],
        "workers": 1,
        "safe_dir": tmp_path / "safe",
    }
    exact = Sentinel2Config.load(None, {**common, "work_dir": tmp_path / "exact", "grid_csv": tmp_path / "grid.csv"})
    assert run_sentinel2(exact).code == 0
    for band, stack in stacks.items():
        layers = np.stack(stack)
        filled = np.where(np.isnan(layers).all(axis=0), 0, layers)  # quietens nanmedian where nothing is seen
        expected = np.where(np.isnan(layers).all(axis=0), np.nan, np.nanmedian(filled, axis=0))
        for row, col in np.ndindex(2, 2):
            path = next((tmp_path / "exact").glob(f"composites/*R{row:03d}_C{col:04d}/*_{band}_median_clip.tif"))
            with rasterio.open(path) as file:
                found = file.read(1)
            part = expected[200 * row : 200 * row + 200, 200 * col : 200 * col + 200]
            np.testing.assert_array_equal(np.where(found == -9999, np.nan, found), part)
    degrees = Sentinel2Config.load(
        None,
        {**common, "bands": ["B02"], "work_dir": tmp_path / "deg", "bbox": [-3.53, 50.70, -3.51, 50.73]},
    )
    assert run_sentinel2(degrees).code == 0
    (path,) = (tmp_path / "deg").glob("composites/*/*_B02_median_clip.tif")
    with rasterio.open(path) as file:
        found, transform = file.read(1), file.transform
    found = np.where(found == -9999, np.nan, found)
    expected = _bilinear_median(stacks["B02"], (ulx, uly), found.shape, transform)
    there = ~np.isnan(expected)
    assert there.sum() > 100_000
    assert (there != ~np.isnan(found)).mean() < 1e-4  # centres on the edge of two pixels
    apart = np.abs(found - expected)[there & ~np.isnan(found)]
    assert np.median(apart) < 0.02
    assert np.quantile(apart, 0.999) < 2


def _bilinear_median(
    layers: list[np.ndarray], corner: tuple[float, float], shape: tuple[int, int], transform: rasterio.Affine
) -> np.ndarray:
    """Positions by pyproj pixel by pixel, weights by scipy, none for masked pixels, and numpy's median."""
    rows, cols = np.indices(shape)
    x, y = Transformer.from_crs(4326, 32630, always_xy=True).transform(*(transform @ (cols + 0.5, rows + 0.5)))
    v, u = (corner[1] - y) / 20 - 0.5, (x - corner[0]) / 20 - 0.5
    warped = []
    for layer in layers:
        known = ~np.isnan(layer)
        nearest = [np.clip(np.rint(p), 0, n - 1).astype(int) for p, n in zip((v, u), layer.shape, strict=True)]
        inside = np.all([abs(p - n) <= 0.5 for p, n in zip((v, u), nearest, strict=True)], axis=0)
        weight = map_coordinates(known.astype("f8"), (v, u), order=1, mode="constant")
        total = map_coordinates(np.where(known, layer, 0).astype("f8"), (v, u), order=1, mode="constant")
        with np.errstate(invalid="ignore"):
            warped.append(np.where(inside & known[tuple(nearest)], total / weight, np.nan))
    empty = np.isnan(warped).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, warped), axis=0))


def test_tile_33twl_is_read_where_it_lies(data_folder: Path, tmp_path: Path) -> None:
    """Five dates of lossy JP2 whose offset the archive has already added, on a lattice of its own pixels."""
    products, layers = [], []
    for path in sorted(_folder(data_folder, "t33twl_120m_2023").glob("*/*_L2A.json")):
        item = json.loads(path.read_text())
        told = item["properties"]
        with rasterio.open(path.parent / "B04.tif") as file:
            where = {"proj_code": "EPSG:32633", "shape": file.shape, "transform": tuple(file.transform)[:6]}
            red = file.read(1)
        with rasterio.open(path.parent / "SCL.tif") as file:
            scl = file.read(1)
        when = datetime.fromisoformat(told["datetime"].removesuffix("Z"))
        products.append(
            Product(
                id=item["id"], tile="33TWL", platform=told["platform"], datatake_start=when,
                baseline=told["s2:processing_baseline"], processing_time=when, bbox=tuple(item["bbox"]),
                offset_applied=told["earthsearch:boa_offset_applied"],
                assets={
                    key: Asset(href=str(path.parent / f"{key[:3]}.tif"), **where) for key in ("B04_20m", "SCL_20m")
                },
            )
        )  # fmt: skip
        seen = ~np.isin(scl, (*MASKED, *range(12, 256))) & (red > 0) & (red < 65535)
        layers.append(np.where(seen, red, np.nan).astype("f4"))
    left, top = 499980, 5100000
    write_grid(make_grid(54900, (left, top - 109800, left + 109800, top), "EPSG:32633"), tmp_path / "grid.csv")
    cell = "EPSG32633_Q54900_OE499980_N5100000_R001_C0000"
    # pixels of 120 m from 0 would cut the tile's in two: the cells are counted in 60 m
    config = Sentinel2Config.load(None,
        {
            "work_dir": tmp_path / "w", "grid_csv": tmp_path / "grid.csv", "start": "2023-08-01", "end": "2023-09-01",
            "bands": ["B04"], "tr": [60, 60], "resampling": "nearest", "workers": 1, "cells": [cell],
        },
    )  # fmt: skip
    assert run_sentinel2(config, products).code == 0
    stack = np.stack(layers)
    empty = np.isnan(stack).all(axis=0)
    expected = np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, stack), axis=0)).repeat(2, 0).repeat(2, 1)
    with rasterio.open(tmp_path / "w" / "composites" / cell / f"cell_{cell}_B04_median_clip.tif") as file:
        found = file.read(1)
    np.testing.assert_array_equal(np.where(found == -9999, np.nan, found), expected[915:1830, :915])


def test_esas_own_jp2_is_read_by_its_blocks(data_folder: Path) -> None:
    path = next(_folder(data_folder, "native_jp2_60m").glob("*B01.jp2"))
    decoded = Decoded()
    with BlockReader(Asset(href=str(path)), decoded) as reader:
        assert reader.block == (192, 192)
        part = reader.read(Window(180, 380, 20, 10))
        assert decoded.blocks == 4 - 2 * (380 // 192 == 389 // 192)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(part, file.read(1)[180:200, 380:390])
