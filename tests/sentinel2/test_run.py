"""Whole builds: every composite against numpy, resumed, killed, and with bad input."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
import zarr
from rasterio.merge import merge

from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.run import run_sentinel2
from stratacube.errors import UsageError
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, Scene, expected_stack, make_scene, small_archive
from tests.stac_validation import validate_stac

# rasterio multiplies affine transforms by an operator that affine wants to retire
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

CELL, ACROSS, DOWN = 2000, 4, 3
BANDS = ["B02", "B03"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scene]]:
    root = tmp_path_factory.mktemp("safe")
    return root, small_archive(root)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve cells of 100 pixels on the tiles' own pixels: resampling changes nothing, so numpy knows the truth."""
    path = tmp_path_factory.mktemp("grid") / "grid.csv"
    bounds = (ULX, ULY - DOWN * CELL, ULX + ACROSS * CELL, ULY)
    write_grid(make_grid(CELL, bounds, f"EPSG:{EPSG}"), path)
    return path


def _config(work: Path, root: Path, grid: Path, **options: Any) -> Sentinel2Config:
    values = {
        "work_dir": work,
        "safe_dir": root,
        "grid_csv": grid,
        "start": "2021-06-01",
        "end": "2021-06-30",
        "bands": BANDS,
        "tr": [20, 20],
        "tap": True,
        "workers": 1,
        **options,
    }
    config: Sentinel2Config = Sentinel2Config.load(None, values)
    return config


def _mosaic(work: Path, band: str, reducer: str = "median") -> np.ndarray:
    """All cells joined, NaN without data; fails where two cells overlap or leave a hole."""
    name = f"*_{band}_{reducer}_clip.tif" if band != "count" else "*_count.tif"
    files = [rasterio.open(p) for p in sorted(work.glob(f"composites/*/{name}"))]
    covered, _ = merge(files, method="count")
    assert (covered <= 1).all()
    joined, transform = merge(files)
    assert (transform.c, transform.f) == (ULX, ULY)
    data = joined[0]
    nodata = files[0].nodata
    for file in files:
        file.close()
    return data if band == "count" else np.where(data == nodata, np.nan, data)


@pytest.fixture(scope="module")
def built(archive: tuple[Path, list[Scene]], grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("build") / "work"
    assert run_sentinel2(_config(work, archive[0], grid, products=["cog", "zarr"])).code == 0
    return work


def _expected(scenes: list[Scene], band: str) -> np.ndarray:
    return expected_stack(scenes, band, 100 * ACROSS, 100 * DOWN)


def _median(stack: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return np.nanmedian(stack, axis=0)


@pytest.mark.parametrize("band", BANDS)
def test_composite_is_the_median_of_one_vote_a_datatake(
    built: Path, archive: tuple[Path, list[Scene]], band: str
) -> None:
    np.testing.assert_array_equal(_mosaic(built, band), _median(_expected(archive[1], band)))


def test_count_is_the_number_of_votes(built: Path, archive: tuple[Path, list[Scene]]) -> None:
    seen = (~np.isnan(_expected(archive[1], "B02"))).sum(axis=0)
    assert seen.max() == 5
    np.testing.assert_array_equal(_mosaic(built, "count"), seen)


def test_geotiff_is_cloud_optimized_and_reads_as_reflectance(built: Path) -> None:
    path = next(built.glob("composites/*/*_B02_median_clip.tif"))
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE") == {
            "LAYOUT": "COG", "COMPRESSION": "ZSTD", "INTERLEAVE": "BAND", "PREDICTOR": "3",
        }  # fmt: skip
        assert (file.dtypes, file.nodata, file.scales, file.units) == (("float32",), -9999, (0.0001,), ("1",))
        assert file.descriptions == ("B02",)
        assert file.tags()["PERIOD_START"] == "2021-06-01T00:00:00Z"
        raw = file.read(1)
    assert path.name == f"cell_{path.parent.name}_B02_median_clip.tif"
    import rioxarray

    with rioxarray.open_rasterio(path, mask_and_scale=True) as data:
        np.testing.assert_allclose(data[0].values, np.where(raw == -9999, np.nan, raw * 1e-4), rtol=1e-6)


def test_zarr_store_holds_the_same_on_one_lattice(built: Path) -> None:
    with xr.open_zarr(built / "composites.zarr", mask_and_scale=False, chunks=None, decode_coords="all") as store:
        for band in BANDS:
            np.testing.assert_array_equal(store[band].values, _mosaic(built, band))
        np.testing.assert_array_equal(store["count"].values, _mosaic(built, "count"))
        assert store.rio.crs.to_epsg() == EPSG
        assert tuple(store.rio.transform())[:6] == (20, 0, ULX, 0, -20, ULY)
        assert store.attrs["spatial:transform"] == [20, 0, ULX, 0, -20, ULY]
        assert store["B02"].encoding["shards"] == (100, 100)  # one shard a cell


def test_catalogue_is_valid_and_tells_the_sources(built: Path, archive: tuple[Path, list[Scene]]) -> None:
    names = {s.spec.id for s in archive[1]}
    told = set()
    for path in (built / "catalog.json", built / "collection.json", *sorted(built.glob("items/*.json"))):
        document = json.loads(path.read_text())
        validate_stac(document)
        for link in document["links"]:
            if link["rel"] == "derived_from":
                told.add(link["title"])
        for asset in document.get("assets", {}).values():
            assert (path.parent / asset["href"]).exists()
    assert told <= names
    assert len(told) >= 8
    item = json.loads(next(iter(sorted(built.glob("items/*r000_c0000.json")))).read_text())
    assert item["assets"]["B02"]["bands"][0]["raster:scale"] == 0.0001
    assert item["properties"]["stratacube:observations"]["maximum"] <= 5


def test_second_run_does_nothing(built: Path, archive: tuple[Path, list[Scene]], grid: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in built.glob("composites/*/*.tif")}
    assert run_sentinel2(_config(built, archive[0], grid, products=["cog", "zarr"])).code == 0
    assert {p: p.stat().st_mtime_ns for p in built.glob("composites/*/*.tif")} == before
    assert not (built / "tmp").exists()
    listed = pd.read_csv(built / "indices" / "selected_gridcells.csv")
    assert len(listed) == 12


def _digest(work: Path) -> dict[str, str]:
    """Bytes of the GeoTIFFs, and values of the store: Blosc may cut its blocks otherwise in another process."""
    made = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in work.glob("composites/*/*.tif")}
    group = zarr.open_group(work / "composites.zarr", mode="r")
    stored = {n: hashlib.sha256(np.asarray(a[...]).tobytes()).hexdigest() for n, a in group.arrays()}
    return {**made, **stored}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_four_workers_make_the_same_bytes(
    built: Path, archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path
) -> None:
    assert run_sentinel2(_config(tmp_path / "w", archive[0], grid, products=["cog", "zarr"], workers=4)).code == 0
    assert _digest(tmp_path / "w") == _digest(built)


@pytest.mark.slow
def test_little_room_for_scenes_takes_turns_and_changes_nothing(
    built: Path, archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path
) -> None:
    options = {"products": ["cog", "zarr"], "tmp_gb": 0.0012, "keep_tmp": True}
    assert run_sentinel2(_config(tmp_path / "w", archive[0], grid, **options)).code == 0
    assert _digest(tmp_path / "w") == _digest(built)
    assert list((tmp_path / "w" / "tmp" / "scenes").iterdir())


def test_killed_run_is_finished_by_the_same_command(
    built: Path, archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path
) -> None:
    config = _config(tmp_path / "w", archive[0], grid, products=["cog", "zarr"])
    script = (
        "import sys; from cube.sentinel2.config import Sentinel2Config as C;"
        "from cube.sentinel2.run import run_sentinel2;"
        "sys.exit(run_sentinel2(C.model_validate_json(sys.argv[1])).code)"
    )
    command = [sys.executable, "-c", script, config.model_dump_json()]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    ledger = tmp_path / "w" / "ledger.jsonl"
    limit = time.monotonic() + 60
    while not (ledger.exists() and ledger.read_text().count("\n") >= 11):  # all scenes and a few cells
        assert running.poll() is None, "the run was over before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert run_sentinel2(config).code == 0
    assert _digest(tmp_path / "w") == _digest(built)


def test_another_image_in_place_of_the_classes_drops_its_scene_and_capitals_do_not(
    archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path
) -> None:
    root = tmp_path / "safe"
    scenes = [make_scene(20 + n, FIRST + timedelta(days=n)) for n in range(3)]
    for scene in scenes:
        scene.write(root)
    images = {key: next(root.glob(f"{scenes[1].spec.id}.SAFE/**/*{key}_20m.jp2")) for key in ("SCL", "B03")}
    images["SCL"].write_bytes(images["B03"].read_bytes())
    named = next(root.glob(f"{scenes[2].spec.id}.SAFE/**/*B03_20m.jp2"))
    named.rename(named.with_suffix(".JP2"))
    config = _config(tmp_path / "w", root, grid, verify_digests="never")
    assert run_sentinel2(config).code == 1
    kept = [scenes[0], scenes[2]]
    for band in BANDS:
        np.testing.assert_array_equal(_mosaic(config.work_dir, band), _median(_expected(kept, band)))
    errors = pd.read_csv(config.work_dir / "errors.csv")
    assert set(errors["product"]) == {scenes[1].spec.id}
    assert images["SCL"].name in errors["reason"].iloc[0]
    assert "scene classes go to 11" in errors["reason"].iloc[0]


def test_corrupt_image_drops_its_scene_only(
    archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = tmp_path / "safe"
    scenes = [make_scene(20 + n, FIRST + timedelta(days=n)) for n in range(4)]
    for scene in scenes:
        scene.write(root)
    path = next(root.glob(f"{scenes[2].spec.id}.SAFE/**/*B03_20m.jp2"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    config = _config(tmp_path / "w", root, grid, products=["cog", "zarr"])
    assert run_sentinel2(config).code == 1
    kept = [s for s in scenes if s is not scenes[2]]
    for band in BANDS:
        np.testing.assert_array_equal(_mosaic(config.work_dir, band), _median(_expected(kept, band)))
    errors = pd.read_csv(config.work_dir / "errors.csv")
    assert set(errors["product"]) == {scenes[2].spec.id}
    assert "cannot be decoded" in errors["reason"].iloc[0]
    assert "cannot be decoded" in caplog.text
    assert (config.work_dir / "indices" / "phase1_errors.csv").exists()
    item = json.loads(next(config.work_dir.glob("items/*r000_c0000.json")).read_text())
    assert item["properties"]["stratacube:dropped"][0]["product"] == scenes[2].spec.id
    assert scenes[2].spec.id not in {k.get("title") for k in item["links"]}
    validate_stac(item)
    # mended, the same command fills it in
    path.write_bytes(content)
    assert run_sentinel2(config).code == 0
    np.testing.assert_array_equal(_mosaic(config.work_dir, "B03"), _median(_expected(scenes, "B03")))
    assert not (config.work_dir / "errors.csv").exists()
    with xr.open_zarr(config.work_dir / "composites.zarr", mask_and_scale=False, chunks=None) as store:
        for band in BANDS:
            np.testing.assert_array_equal(store[band].values, _mosaic(config.work_dir, band))


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({"values": "reflectance", "reducer": "mean"}, lambda s: np.nanmean(s, axis=0) * 1e-4),
        ({"reducer": "count"}, lambda s: np.where(np.isnan(s).all(axis=0), np.nan, (~np.isnan(s)).sum(axis=0))),
        ({"values": "int16", "compress": "DEFLATE"}, lambda s: np.rint(np.nanmedian(s, axis=0))),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(empty slice|All-NaN).*:RuntimeWarning")
def test_other_reducers_and_values(
    archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path, options: dict[str, Any], check: Any
) -> None:
    config = _config(tmp_path / "w", archive[0], grid, bands=["B02"], **options)
    assert run_sentinel2(config).code == 0
    expected = check(_expected(archive[1], "B02"))
    np.testing.assert_allclose(_mosaic(config.work_dir, "B02", config.reducer), expected, rtol=1e-5, atol=2e-3)
    with rasterio.open(next(config.work_dir.glob("composites/*/*B02*.tif"))) as file:
        assert file.dtypes == ("int16" if config.values == "int16" else "float32",)
        assert file.scales == (0.0001 if config.values == "int16" else 1.0,)


def test_best_takes_the_least_clouded_and_medoid_an_observation(
    archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path
) -> None:
    cells = ["EPSG32606_Q2000_OE400000_N7600000_R000_C0000"]
    stacks = {b: _expected(archive[1], b)[:, :100, :100] for b in BANDS}
    for reducer in ("best", "medoid"):
        config = _config(tmp_path / reducer, archive[0], grid, reducer=reducer, cells=cells)
        assert run_sentinel2(config).code == 0
        found = {b: _mosaic(config.work_dir, b, reducer) for b in BANDS}
        same = np.all([stacks[b] == found[b] for b in BANDS], axis=0).any(axis=0)
        assert same[~np.isnan(found["B02"])].all()
        np.testing.assert_array_equal(np.isnan(found["B02"]), np.isnan(stacks["B02"]).all(axis=0))


def test_cell_without_a_valid_pixel_is_marked(
    archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = _config(tmp_path / "w", archive[0], grid, mask_classes=list(range(12)), products=["cog", "zarr"])
    assert run_sentinel2(config).code == 0
    assert "hold no pixel" in caplog.text
    assert np.isnan(_mosaic(config.work_dir, "B02")).all()
    item = json.loads(next(config.work_dir.glob("items/*.json")).read_text())
    assert item["properties"]["stratacube:empty"] is True
    validate_stac(item)


def test_plan_only_and_dry_run_move_no_pixel(
    archive: tuple[Path, list[Scene]], grid: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = run_sentinel2(_config(tmp_path / "dry", archive[0], grid, dry_run=True))
    told = "\n".join(answer.lines)
    assert answer.code == 0
    assert "12, 0 of them reached by no product" in told
    assert "download   0 files" in told
    assert not (tmp_path / "dry").exists()
    assert run_sentinel2(_config(tmp_path / "plan", archive[0], grid, plan_only=True)).code == 0
    plan = pd.read_parquet(tmp_path / "plan" / "plan.parquet")
    assert len(plan) == 12
    assert "train 0, val 0, test 12, gap 0; no cell is in train or val: with `split_km` 250" in caplog.text
    assert not (tmp_path / "plan" / "composites").exists()


def test_duplicates_give_one_vote(grid: Path, tmp_path: Path) -> None:
    old, new = make_scene(30, FIRST, baseline="02.12"), make_scene(31, FIRST, baseline="05.10")
    for scene in (old, new):
        scene.write(tmp_path / "safe")
    config = _config(tmp_path / "w", tmp_path / "safe", grid)
    assert run_sentinel2(config).code == 0
    np.testing.assert_array_equal(_mosaic(config.work_dir, "B02"), _median(_expected([new], "B02")))
    dropped = pd.read_csv(config.work_dir / "indices" / "left_out.csv")
    assert dropped["id"].tolist() == [old.spec.id]
    assert new.spec.id in dropped["reason"].iloc[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bands": ["B10"]}, "band 'B10' is unknown"),
        ({"tap": True, "tr": None}, "`tap` aligns pixels to `tr`"),
        ({"bbox": [0, 10, 1, 5]}, "south 10.0 and north 5.0"),
        ({"reducer": "mode"}, "reducer 'mode' is unknown"),
        ({"mask_classes": [12]}, "scene class 12"),
        ({"end": "2021-05-01"}, "is not after `start`"),
        ({"bands_res": 15}, "`bands_res` is 15"),
        ({"tr": [0.0, 1.0]}, "two positive numbers, got 0 1"),
    ],
)
def test_wrong_options_are_one_sentence(tmp_path: Path, grid: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        _config(tmp_path / "w", tmp_path, grid, **options)


def test_nothing_found_is_one_sentence(tmp_path: Path, grid: Path, archive: tuple[Path, list[Scene]]) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no"):
        run_sentinel2(_config(tmp_path / "w", tmp_path / "none", grid))
    with pytest.raises(UsageError, match="there is no folder"):
        run_sentinel2(_config(tmp_path / "v", tmp_path / "nowhere", grid))
    with pytest.raises(UsageError, match="sensed in month"):
        run_sentinel2(_config(tmp_path / "x", archive[0], grid, months=[1]))
