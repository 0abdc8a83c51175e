"""A later end in the folder of a finished build: scenes are added, and only the cells they reach are made again."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr

from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.saved import load_items, save_items
from cube.build import main
from cube.job.folder import BuildFolder
from cube.sentinel2 import extend, run
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.making import Making
from cube.sentinel2.run import run_sentinel2
from stratacube.errors import UsageError
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, Scene, expected_stack, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

EAST = {"tile": "06WVA", "ulx": ULX + 160 * 20}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scene]]:
    """Both tiles on two dates, and the eastern one, which reaches only the eastern cells, on a third."""
    root = tmp_path_factory.mktemp("later")
    scenes = [make_scene(n, FIRST + timedelta(days=5 * n), bands=("B02",)) for n in range(2)]
    scenes += [make_scene(10 + n, FIRST + timedelta(days=d), bands=("B02",), **EAST) for n, d in enumerate((0, 5, 20))]
    for scene in scenes:
        scene.write(root / "safe")
    write_grid(make_grid(2000, (ULX, ULY - 2000, ULX + 4000, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    return root, scenes


def _config(work: Path, root: Path, end: str, **options: Any) -> Sentinel2Config:
    values = {"work_dir": work, "safe_dir": root / "safe", "grid_csv": root / "grid.csv", "start": "2021-06-01"}
    fields = {**values, "end": end, "bands": ["B02"], "workers": 1, "products": ["cog", "zarr"], **options}
    config: Sentinel2Config = Sentinel2Config.load(None, {k: v for k, v in fields.items() if v is not None})
    return config


def _truth(scenes: list[Scene]) -> np.ndarray:
    stack = expected_stack(scenes, "B02", 200, 100)
    empty = np.isnan(stack).all(axis=0)
    return np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, stack), axis=0))


def _stored(work: Path) -> np.ndarray:
    with xr.open_zarr(work / "composites.zarr", mask_and_scale=False, chunks=None) as store:
        values: np.ndarray = store["B02"].values
        return values


def _files(work: Path) -> np.ndarray:
    out = np.full((100, 200), np.nan, "f4")
    for path in work.glob("composites/*/*_B02_median_clip.tif"):
        with rasterio.open(path) as file:
            col = round((file.transform.c - ULX) / 20)
            out[:, col : col + 100] = np.where((data := file.read(1)) == -9999, np.nan, data)
    return out


def test_a_later_end_adds_scenes_and_makes_again_what_they_reach(
    tmp_path: Path, there: tuple[Path, list[Scene]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, scenes = there
    assert run_sentinel2(_config(tmp_path, root, "2021-06-15")).code == 0
    np.testing.assert_array_equal(_stored(tmp_path), _truth(scenes[:4]))
    before = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("composites/*/*_B02_median_clip.tif")}
    told = run_sentinel2(_config(tmp_path, root, "2021-06-30", dry_run=True)).lines
    assert any(line.startswith("products") and "5 of 5 acquisitions" in line for line in told)
    assert len(load_items(tmp_path / "indices" / "items.json")) == 5
    answer = run_sentinel2(_config(tmp_path, root, "2021-06-30"))
    assert answer.code == 0
    np.testing.assert_array_equal(_stored(tmp_path), _truth(scenes))
    np.testing.assert_array_equal(_files(tmp_path), _truth(scenes))
    after = {p.parent.name: p.stat().st_mtime_ns for p in tmp_path.glob("composites/*/*_B02_median_clip.tif")}
    assert {name for name in after if after[name] != before[name]} == {name for name in after if name.endswith("C0001")}
    document = json.loads((tmp_path / "collection.json").read_text())
    assert document["extent"]["temporal"]["interval"][0][1] == "2021-07-01T00:00:00Z"
    assert (
        json.loads((tmp_path / "composites.zarr" / "zarr.json").read_text())["attributes"]["time_coverage_end"][:10]
        == "2021-07-01"
    )
    assert set(pd.read_csv(tmp_path / "indices" / "query_manifest.csv")["status"]) == {"used"}
    assert main(["verify", str(tmp_path)]) == 0
    # once more it does nothing, an earlier end is another build, and so is another band with a later one
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")}
    assert run_sentinel2(_config(tmp_path, root, "2021-06-30")).code == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")} == stamps
    for end, options in (("2021-06-15", {}), ("2021-07-30", {"reducer": "mean"})):
        with pytest.raises(UsageError, match="holds a build of another configuration"):
            run_sentinel2(_config(tmp_path, root, end, **options))
    # where nothing more is found, the build only knows it
    assert run_sentinel2(_config(tmp_path, root, "2021-07-30")).code == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tif")} == stamps


def _periods(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("period,start,end", *rows)) + "\n")
    return path


@pytest.mark.slow
def test_periods_of_the_time_that_a_later_end_adds(tmp_path: Path, there: tuple[Path, list[Scene]]) -> None:
    """One more period, then a longer last one: each as of a build that had them from the beginning."""
    root, scenes = there
    work, rows = tmp_path / "w", ["first,2021-06-01,2021-06-03", "second,2021-06-04,2021-06-10"]
    longer = [rows[0], "second,2021-06-04,2021-06-30"]
    later = "third,2021-07-01,2021-07-30"  # of which there is nothing

    def config(*rows: str, **options: Any) -> Sentinel2Config:
        table = _periods(tmp_path / "periods.csv", *rows)
        return _config(work, root, None, start=None, periods=table, **options)  # type: ignore[arg-type]

    def truths(*groups: list[Scene]) -> list[np.ndarray]:
        return [_truth(group) for group in groups]

    first, second = [s for s in scenes if s.when == FIRST], [s for s in scenes if s.when == FIRST + timedelta(days=5)]
    last = [s for s in scenes if s.when == FIRST + timedelta(days=20)]
    assert len(first) == len(second) == 2
    assert run_sentinel2(config(rows[0])).code == 0
    np.testing.assert_array_equal(_stored(work), truths(first))
    before = {p: p.stat().st_mtime_ns for p in work.glob("composites/*/*_first_*.tif")}
    assert len(before) == 4
    for wrong in (["other,2021-06-01,2021-06-03", rows[1]], ["first,2021-06-02,2021-06-03", rows[1]], [rows[1]],
                  ["first,2021-06-01,2021-06-02", rows[1]], [rows[0], "second,2021-06-03,2021-06-10"]):  # fmt: skip
        with pytest.raises(UsageError, match="holds a build of another configuration"):
            run_sentinel2(config(*wrong))
    assert run_sentinel2(config(*rows)).code == 0
    np.testing.assert_array_equal(_stored(work), truths(first, second))
    middle = {p: p.stat().st_mtime_ns for p in work.glob("composites/*/*_second_*.tif")}
    assert run_sentinel2(config(*longer, later)).code == 0
    np.testing.assert_array_equal(_stored(work), [*truths(first, second + last), np.full((100, 200), np.nan)])
    assert {p: p.stat().st_mtime_ns for p in work.glob("composites/*/*_first_*.tif")} == before
    east = {p for p in middle if p.parent.name.endswith("C0001")}
    assert {p for p in middle if p.stat().st_mtime_ns != middle[p]} == east
    assert len(east) == 2
    with xr.open_zarr(work / "composites.zarr", chunks=None) as store:
        assert store["time"].values.astype("M8[D]").astype(str).tolist() == ["2021-06-01", "2021-06-04", "2021-07-01"]
        assert store["time"].attrs["periods"] == ["first", "second", "third"]
    assert {p.name.split("_")[-1] for p in work.glob("items/*.json")} == {
        f"{n}.json" for n in ("first", "second", "third")
    }
    assert pd.read_parquet(work / "plan.parquet")["period"].nunique() == 3
    assert main(["verify", str(work)]) == 0


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (extend, "write_lists"),
        (extend, "note_searched"),
        (run, "write_plan"),
        (run, "describe_arrays"),
        (run, "publish"),
    ],
)
@pytest.mark.slow
def test_stopped_on_the_way_it_goes_on(
    tmp_path: Path, there: tuple[Path, list[Scene]], monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    root, scenes = there
    assert run_sentinel2(_config(tmp_path, root, "2021-06-15")).code == 0
    with monkeypatch.context() as broken:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        broken.setattr(module, name, stop)
        with pytest.raises(KeyboardInterrupt):
            run_sentinel2(_config(tmp_path, root, "2021-06-30"))
    assert run_sentinel2(_config(tmp_path, root, "2021-06-30")).code == 0
    np.testing.assert_array_equal(_stored(tmp_path), _truth(scenes))
    np.testing.assert_array_equal(_files(tmp_path), _truth(scenes))
    items = [item["id"] for item in load_items(tmp_path / "indices" / "items.json")]
    assert len(items) == len(set(items)) == 5
    document = json.loads((tmp_path / "collection.json").read_text())
    assert document["extent"]["temporal"]["interval"][0][1] == "2021-07-01T00:00:00Z"


@pytest.mark.slow
def test_killed_between_the_configuration_and_the_ledger_it_goes_on(
    tmp_path: Path, there: tuple[Path, list[Scene]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scenes = there
    with monkeypatch.context() as broken:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        broken.setattr(Making, "_shards", stop)  # cells are made, and not in the store
        with pytest.raises(KeyboardInterrupt):
            run_sentinel2(_config(tmp_path, root, "2021-06-15"))
        broken.undo()
        broken.setattr(BuildFolder, "_record", stop)
        with pytest.raises(KeyboardInterrupt):
            run_sentinel2(_config(tmp_path, root, "2021-06-30"))
    with pytest.raises(UsageError, match="is missing or damaged, and was of another configuration"):
        run_sentinel2(_config(tmp_path, root, "2021-07-30"))
    assert run_sentinel2(_config(tmp_path, root, "2021-06-30")).code == 0
    np.testing.assert_array_equal(_stored(tmp_path), _truth(scenes))
    np.testing.assert_array_equal(_files(tmp_path), _truth(scenes))


def test_a_newer_saved_search_tells_the_scenes_and_old_time_stays(
    tmp_path: Path, there: tuple[Path, list[Scene]]
) -> None:
    root, scenes = there
    items = {s.spec.id: item_from_product(read_safe(root / "safe" / f"{s.spec.id}.SAFE")) for s in scenes}
    names = [s.spec.id for s in scenes]
    save_items(tmp_path / "june.json", [items[n] for n in names[1:4]])
    save_items(tmp_path / "later.json", [items[n] for n in names])
    options = {"safe_dir": None, "access": "local", "products": ["zarr"]}
    work = tmp_path / "w"
    assert run_sentinel2(_config(work, root, "2021-06-15", items=tmp_path / "june.json", **options)).code == 0
    planned = {"plan_only": True, "items": tmp_path / "later.json", **options}
    with pytest.raises(UsageError, match="`plan_only` instead of `shard` first"):
        run_sentinel2(_config(work, root, "2021-06-30", **{**planned, "plan_only": False, "shard": "1/2"}))
    assert run_sentinel2(_config(work, root, "2021-06-30", **planned)).code == 0
    assert {i["id"] for i in load_items(work / "indices" / "items.json")} == set(names[1:])
    assert run_sentinel2(_config(work, root, "2021-06-30", **{**planned, "plan_only": False})).code == 0
    np.testing.assert_array_equal(_stored(work), _truth(scenes[1:]))
