"""Composites of several periods by one run: each equal to that of a build of the period alone."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
import xarray as xr

import cube
from catalog.splits import SplitRule
from cube.build import main
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.plan import choose_cells, make_plan
from cube.sentinel2.run import run_sentinel2
from cube.sentinel2.splitting import splits_of
from loaders import cube_loader
from loaders.cell_splits import cell_splits
from loaders.cubes import CubeDataset
from loaders.leaks import leaks_of_stores, samples_of
from loaders.leaks import main as leaks_main
from stratacube.errors import UsageError
from tests.sentinel2.scenery import EPSG, ULX, ULY, Scene, expected_stack, small_archive
from tests.stac_validation import validate_stac
from tests.training.test_splits import cube_run
from training.data import open_data

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

PERIODS = {
    "early": ("2021-06-01", "2021-06-11T21:30:01"),
    "late": ("2021-06-16T21:30:01", "2021-06-30"),
    "all": ("2021-06-01", "2021-06-30"),
}
"""The third of June's five dates is where the first ends, the fourth where the second begins."""
DATES = {"early": slice(0, 2), "late": slice(3, 5), "all": slice(0, 5)}
"""Those of each period, in order."""


SPLIT = {"split_km": 0, "split_hours": 432, "split_gap_hours": 1, "split_shares": [0.5, 0.3, 0.2]}
"""Blocks of time alone: the first period is within one, the second in the next, the third in both."""


def _config(work: Path, root: Path, **options: Any) -> Sentinel2Config:
    values = {
        "work_dir": work,
        "safe_dir": root / "safe",
        "grid_csv": root / "grid.csv",
        "bands": ["B02"],
        "workers": 1,
    }
    config: Sentinel2Config = Sentinel2Config.load(None, {**values, "products": ["cog", "zarr"], **options})
    return config


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scene]]:
    root = tmp_path_factory.mktemp("periods")
    scenes = small_archive(root / "safe")
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    rows = [f"{name}, {start}, {end}" for name, (start, end) in PERIODS.items()]
    (root / "seasons.csv").write_text("\n".join(["period,start,end", *rows]) + "\n")
    return root, scenes


@pytest.fixture(scope="module")
def built(there: tuple[Path, list[Scene]]) -> Path:
    root, _ = there
    assert run_sentinel2(_config(root / "w", root, **SPLIT, periods=root / "seasons.csv")).code == 0
    return root / "w"


def _of_period(scenes: list[Scene], name: str) -> np.ndarray:
    dates = sorted({s.when for s in scenes})[DATES[name]]
    some = [s for s in scenes if s.when in dates]
    stack = expected_stack(some, "B02", 200, 200)
    empty = np.isnan(stack).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, stack), axis=0))


def test_store_and_files_hold_the_median_of_each_period(built: Path, there: tuple[Path, list[Scene]]) -> None:
    order = ["early", "all", "late"]  # by start, then end
    with xr.open_zarr(built / "composites.zarr", mask_and_scale=False, chunks=None) as store:
        assert store["B02"].dims == ("time", "y", "x")
        assert store["B02"].shape == (3, 200, 200)
        starts = [str(t)[:10] for t in store["time"].values]
        assert starts == [PERIODS[n][0][:10] for n in order]
        assert store["time"].attrs["bounds"] == "time_bnds"
        assert [str(t)[:10] for t in store["time_bnds"].values[:, 1]] == ["2021-06-11", "2021-07-01", "2021-07-01"]
        for step, name in enumerate(order):
            np.testing.assert_array_equal(store["B02"].values[step], _of_period(there[1], name))
    assert cube.open_composites(built)["period"].values.tolist() == order  # two of them start alike
    joined = {n: np.full((200, 200), np.nan, "f4") for n in order}
    paths = sorted(built.glob("composites/*/cell_*_B02_median_clip.tif"))
    assert len(paths) == 12
    for path in paths:
        with rasterio.open(path) as file:
            name, data = file.tags()["PERIOD"], file.read(1)
            assert file.tags()["PERIOD_START"][:10] == PERIODS[name][0][:10]
            row, col = round((ULY - file.transform.f) / 20), round((file.transform.c - ULX) / 20)
        assert path.name == f"cell_{path.parent.name}_{name}_B02_median_clip.tif"
        joined[name][row : row + 100, col : col + 100] = np.where(data == -9999, np.nan, data)
    for name, data in joined.items():
        np.testing.assert_array_equal(data, _of_period(there[1], name))


def test_a_store_a_cell_tells_its_own_period(there: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    root, _ = there
    options = {"periods": root / "seasons.csv", "products": ["zarr"], "zarr_stores": "cell"}
    assert run_sentinel2(_config(tmp_path / "w", root, **options)).code == 0
    stores = sorted((tmp_path / "w" / "composites").glob("*R000_C0000/*.zarr"))
    told = {s.stem.rpartition("_")[2]: json.loads((s / "zarr.json").read_text())["attributes"] for s in stores}
    assert {n: a["time_coverage_start"] for n, a in told.items()} == {
        "early": "2021-06-01T00:00:00Z", "late": "2021-06-16T21:30:01Z", "all": "2021-06-01T00:00:00Z"
    }  # fmt: skip
    assert {n: a["time_coverage_end"][:10] for n, a in told.items()} == {
        "early": "2021-06-11", "late": "2021-07-01", "all": "2021-07-01"
    }  # fmt: skip


def test_files_alone_are_a_cube_with_time_and_an_image_a_period(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "composites.zarr")
    with xr.open_zarr(built / "composites.zarr", chunks=None).astype("f4") as store:
        alone = cube.open_composites(tmp_path / "moved")
        assert alone["B02"].dims == ("time", "y", "x")
        assert alone["period"].values.tolist() == ["early", "all", "late"]
        np.testing.assert_array_equal(alone["time"], store["time"])
        np.testing.assert_array_equal(alone["B02"], store["B02"])
        np.testing.assert_array_equal(alone["B02"][1, 20:30, 7], store["B02"][1, 20:30, 7])
        np.testing.assert_array_equal(alone["B02"][:, 5, 120:90:-2], store["B02"][:, 5, 120:90:-2])
        for step, name in enumerate(["early", "all", "late"]):
            with rasterio.open(built / "mosaics" / f"B02_median_{name}.vrt") as file:
                data = file.read(1)
            np.testing.assert_array_equal(
                np.where(data == -9999, np.nan, data.astype("f8") * 1e-4).astype("f4"), store["B02"][step]
            )
    assets = json.loads((built / "collection.json").read_text())["assets"]
    assert {f"mosaic_{b}_{n}" for b in ("B02", "count") for n in PERIODS} <= assets.keys()


def test_each_scene_is_processed_once(built: Path, there: tuple[Path, list[Scene]]) -> None:
    keys = Counter(json.loads(line)["key"] for line in (built / "ledger.jsonl").read_text().splitlines())
    scenes = {key: n for key, n in keys.items() if key.startswith("scene ")}
    assert len(scenes) == len({(s.when, s.tile) for s in there[1]})
    assert set(scenes.values()) == {1}


def test_items_lists_and_looks_tell_the_period(
    built: Path, there: tuple[Path, list[Scene]], capsys: pytest.CaptureFixture[str]
) -> None:
    items = [json.loads(p.read_text()) for p in sorted(built.glob("items/*.json"))]
    assert len(items) == 12
    for item in items:
        validate_stac(item)
        name = item["properties"]["stratacube:period"]
        assert item["id"].endswith(f"_{name}")
        assert item["properties"]["start_datetime"][:10] == PERIODS[name][0][:10]
        assert all((built / "items" / a["href"]).exists() for a in item["assets"].values())
    selected = pd.read_csv(built / "indices" / "selected_gridcells.csv")
    assert selected["tile_id_rc"].is_unique
    assert len(selected) == 4
    plan = pd.read_parquet(built / "plan.parquet").set_index("cell")["split"].to_dict()
    assert "split" not in selected  # periods of one cell are of several
    assert {i["properties"]["stratacube:cell_id"]: i["properties"]["stratacube:split"] for i in items} == plan
    report = (built / "report.md").read_text()
    assert "blocks of the whole Earth and 432 h, 1 h between them" in report
    assert "| gap | 4 |" in report
    of = {period: {plan[cell] for cell in plan if cell.endswith(f"_{period}")} for period in PERIODS}
    assert of == {"early": {"train"}, "all": {"gap"}, "late": {"val"}}
    samples = samples_of(built, 100)  # a cell's worth
    steps = pd.read_parquet(built / "plan.parquet").drop_duplicates("step").set_index("step")["split"]
    assert samples.splits.tolist() == [steps[int(name.split()[1])] for name in samples.names]
    assert len(samples.splits) == 12
    opened = cube.open_composites(built)
    with pytest.raises(UsageError, match="the cube has 1 times and its build 3 periods, so that the splits"):
        cell_splits(built, CubeDataset(opened.isel(time=[0]), {"y": 100, "x": 100}))
    assert main(["verify", str(built)]) == 0
    assert main(["status", str(built)]) == 0
    assert "4 cells in 3 periods" in capsys.readouterr().out
    other = {"start": "2021-05-30", "end": "2021-08-30"}
    with pytest.raises(UsageError, match="holds a build of another configuration"):
        run_sentinel2(_config(built, there[0], **SPLIT, periods=there[0] / "seasons.csv", **other))
    one = next(built.glob("composites/*/cell_*_late_B02_median_clip.tif"))
    content = one.read_bytes()
    one.unlink()
    assert main(["verify", str(built)]) == 1
    assert run_sentinel2(_config(built, there[0], **SPLIT, periods=there[0] / "seasons.csv")).code == 0
    assert one.read_bytes() == content
    assert main(["verify", str(built)]) == 0


def test_composites_open_with_their_times_and_load(built: Path) -> None:
    composites = cube.open_composites(built)
    assert composites["B02"].dims == ("time", "y", "x")
    assert float(composites["B02"].isel(time=0).max()) < 1
    batches = list(cube_loader(composites[["B02"]], {"time": 3, "y": 100, "x": 100}, 4, shuffle=False))
    assert [batch.pixels.shape for batch in batches] == [(4, 3, 1, 100, 100)]


@pytest.mark.slow
def test_parts_make_the_same(built: Path, there: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    root, _ = there
    options = {**SPLIT, "periods": root / "seasons.csv"}
    assert run_sentinel2(_config(tmp_path / "w", root, **options, plan_only=True)).code == 0
    for part in ("1/2", "2/2"):
        assert run_sentinel2(_config(tmp_path / "w", root, **options, shard=part)).code == 0
    assert run_sentinel2(_config(tmp_path / "w", root, **options, publish_only=True)).code == 0
    for name in ("B02", "count"):
        with (
            xr.open_zarr(built / "composites.zarr", chunks=None) as one,
            xr.open_zarr(tmp_path / "w" / "composites.zarr", chunks=None) as other,
        ):
            np.testing.assert_array_equal(one[name].values, other[name].values)


def test_windows_are_of_the_split_of_their_cells_and_do_not_leak(
    there: tuple[Path, list[Scene]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hundred cells of 20 x 20 pixels, in two periods that touch; windows of 8 x 8 lie within one cell, or not."""
    root, work = there[0], tmp_path / "w"
    write_grid(make_grid(400, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    (tmp_path / "p.csv").write_text("period,start,end\na,2021-06-01,2021-06-14\nb,2021-06-15,2021-06-30\n")
    shares = [0.5, 0.3, 0.2]
    rule = {"split_km": 1.0, "split_gap_km": 0.1, "split_shares": shares, "bands": ["B02", "B03"]}
    options = {"grid_csv": tmp_path / "grid.csv", "products": ["zarr"], "plan_only": True, **rule}
    assert run_sentinel2(_config(work, root, periods=tmp_path / "p.csv", **options)).code == 0
    plan = pd.read_parquet(work / "plan.parquet")
    listed = pd.read_csv(work / "indices" / "selected_gridcells.csv").set_index("tile_id_rc")["split"]
    assert {*plan["split"]} == {"train", "val", "test", "gap"}
    assert (plan["split"] == plan["tile_id_rc"].map(listed)).all()
    # By numpy alone: the split of each pixel, of windows where all their pixels have one.
    image = np.full((200, 200), "", "<U5")
    for row in plan.itertuples():
        top, left = row.row - plan["row"].min(), row.col - plan["col"].min()
        image[top : top + row.height, left : left + row.width] = row.split
    of = [{*image[i : i + 8, j : j + 8].ravel()} for i in range(0, 200, 8) for j in range(0, 200, 8)] * 2
    samples = samples_of(work, 8)
    assert samples.splits.tolist() == [min(kinds) if len(kinds) == 1 else "gap" for kinds in of]
    # A rule of the same blocks is of another opinion nowhere, though it splits windows where this one splits cells.
    names = dict(zip(("train", "val", "test"), shares, strict=True))
    theirs = SplitRule(1.0, None, 0.1, 24.0, names).assign(samples.extents)
    told = np.isin(samples.splits, ["train", "val", "test"])
    assert (theirs[told] == samples.splits[told]).all()
    capsys.readouterr()
    assert leaks_main([str(work), "--window", "8", "--gap-km", "0.1", "--gap-hours", "24"]) == 0
    assert "0 pairs of 1250 samples leak" in capsys.readouterr().out
    data = open_data(cube_run(tmp_path, work, ["B02", "B03"], split="plan", sampling="grid"), 0, 1, torch.device("cpu"))
    # The windows that are moved in from the edges are no samples of training: 200 pixels have 12 whole ones.
    windows = samples_of(work, 16).splits.reshape(2, 13, 13)[:, :12, :12]
    assert data.train.samples == (windows == "train").sum() > 0
    assert sum(len(batch.samples) for batch in data.validation or ()) == (windows == "val").sum() > 0
    samples.splits[samples.splits == "gap"] = "val"  # as if the gap were none
    assert leaks_of_stores(samples, gap_km=0.1, gap_hours=24)
    # A period that ends where a block of time does lies within the block: its end is no part of it.
    (tmp_path / "p.csv").write_text("period,start,end\na,2021-05-27,2021-06-13\nb,2021-06-14,2021-07-01\n")
    blocks = {**SPLIT, "split_gap_hours": 0, "grid_csv": tmp_path / "grid.csv", "periods": tmp_path / "p.csv"}
    config = _config(work, root, **blocks)
    assert "gap" not in splits_of(config, make_plan(config, choose_cells(config), [])).values()
    (work / "plan.parquet").unlink()
    with pytest.raises(UsageError, match=r"data.split is plan, and .* has no plan that tells splits; give blocks"):
        open_data(cube_run(tmp_path, work, ["B02", "B03"], split="plan"), 0, 1, torch.device("cpu"))


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("period,start,end\na_b,2021-06-01,2021-06-09\n", {}, "line 2: `period` is 'a_b'"),
        ("period,start,end\na,2021-06-01,2021-06-09\na,2021-07-01,2021-07-09\n", {}, "name a twice"),
        (
            "period,start,end\na,2021-06-01,2021-06-09\nA,2021-07-01,2021-07-09\n",
            {},
            "name a and A, alike but for case",
        ),
        ("period,start,end\na,2021-06-09,2021-06-01\n", {}, "give a later end"),
        ("period,start,end\na,June,2021-06-01\n", {}, "line 2: `start` is 'June': give ISO 8601"),
        ("name,start,end\na,2021-06-01,2021-06-09\n", {}, "has the columns name, start, end"),
        ("period,start,end\n", {}, "holds no row"),
        ("period,start,end\na,2021-06-01,2021-06-09\n", {"start": "2021-06-02"}, "is not within `start`"),
        ("period,start,end\na,2021-06-01,2021-06-09\n", {"end": "2021-06-08"}, "is not within `start`"),
        ("period,start,end\n..,2021-06-01,2021-06-09\n", {}, "line 2: `period` is '..'"),
    ],
)
def test_odd_periods_are_one_sentence(tmp_path: Path, text: str, options: dict[str, str], told: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    values = {"work_dir": tmp_path / "w", "bbox": [0, 60, 1, 61], "periods": tmp_path / "p.csv", **options}
    with pytest.raises(UsageError) as refusal:
        Sentinel2Config.load(None, values)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_build_knows_its_periods_by_content(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`periods` .* cannot be read"):
        Sentinel2Config.load(None, {"work_dir": tmp_path, "bbox": [0, 60, 1, 61], "periods": tmp_path / "none.csv"})
    for name, text in (("a.csv", "a,2021-06-01,2021-06-09"), ("b.csv", "a, 2021-06-01T00:00 ,2021-06-10T00:00:00Z")):
        (tmp_path / name).write_text(f"period,start,end\n{text}\n")
    values = {"work_dir": tmp_path / "w", "bbox": [0, 60, 1, 61]}
    digests = {Sentinel2Config.load(None, {**values, "periods": tmp_path / n}).digest() for n in ("a.csv", "b.csv")}
    assert len(digests) == 1
