"""Products that cannot be read when they are found: told, counted, and tried again when they were mended."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio

from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.safe import read_safe
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import cell_from_id, make_grid, write_grid
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.plan import Plan, PlannedCell, cells_of_tile
from cube.sentinel2.run import run_sentinel2
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, Scene, expected_stack, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture
def scenes(tmp_path: Path) -> list[Scene]:
    made = [make_scene(30 + n, FIRST + timedelta(days=n), bands=("B02",)) for n in range(3)]
    for scene in made:
        scene.write(tmp_path / "safe")
    return made


def _config(root: Path, **options: Any) -> Sentinel2Config:
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    values = {
        "work_dir": root / "w",
        "safe_dir": root / "safe",
        "grid_csv": root / "grid.csv",
        "start": "2021-06-01",
        "end": "2021-06-30",
        "bands": ["B02"],
        "tr": [20, 20],
        "tap": True,
        "workers": 1,
        **options,
    }
    config: Sentinel2Config = Sentinel2Config.load(None, values)
    return config


def _check(work: Path, scenes: list[Scene]) -> None:
    """Every cell is the median of just these scenes."""
    stack = expected_stack(scenes, "B02", 200, 200)
    empty = np.isnan(stack).all(axis=0)
    expected = np.where(empty, np.nan, np.nanmedian(np.where(empty, 0, stack), axis=0))
    for row, col in np.ndindex(2, 2):
        with rasterio.open(next(work.glob(f"composites/*R{row:03d}_C{col:04d}/*_B02_median_clip.tif"))) as file:
            found = file.read(1)
        part = expected[100 * row : 100 * row + 100, 100 * col : 100 * col + 100]
        np.testing.assert_array_equal(np.where(found == -9999, np.nan, found), part)


def _empty(safe: Path) -> Path:
    path = safe / "MTD_MSIL2A.xml"
    path.write_bytes(b"")
    return path


def _cut(safe: Path) -> Path:
    path = next(safe.glob("GRANULE/*/MTD_TL.xml"))
    path.write_bytes(path.read_bytes()[:500])
    return path


@pytest.mark.parametrize("spoil", [_empty, _cut])
def test_metadata_that_cannot_be_read_is_told_and_tried_again(
    tmp_path: Path, scenes: list[Scene], spoil: Callable[[Path], Path]
) -> None:
    safe = tmp_path / "safe" / f"{scenes[1].spec.id}.SAFE"
    kept = {p: p.read_bytes() for p in safe.rglob("*.xml")}
    path = spoil(safe)
    config = _config(tmp_path)
    for _ in range(2):
        assert run_sentinel2(config).code == 1
        errors = pd.read_csv(config.work_dir / "errors.csv")
        assert set(errors["product"]) == {scenes[1].spec.id}
        assert len(errors) == 4  # cells
        assert set(errors["kind"]) == {"source"}
        assert errors["reason"].str.contains(path.name).all()
        assert errors["href"].str.endswith(".SAFE").all()
        _check(config.work_dir, [scenes[0], scenes[2]])
        item = json.loads(next(config.work_dir.glob("items/*r000_c0000.json")).read_text())
        assert item["properties"]["stratacube:dropped"][0]["product"] == scenes[1].spec.id
    path.write_bytes(kept[path])
    assert run_sentinel2(config).code == 0
    assert not (config.work_dir / "errors.csv").exists()
    _check(config.work_dir, scenes)
    before = {p: p.stat().st_mtime_ns for p in config.work_dir.glob("composites/*/*.tif")}
    assert run_sentinel2(config).code == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    products = pd.read_parquet(config.work_dir / "plan.parquet")["products"]
    assert all(scenes[1].spec.id in names for names in products)


def test_what_is_not_wanted_by_its_name_is_no_fault(tmp_path: Path, scenes: list[Scene]) -> None:
    late = make_scene(9, FIRST + timedelta(days=60), bands=("B02",))
    far = make_scene(9, FIRST + timedelta(days=1), bands=("B02",), tile="06WUB", ulx=ULX)
    _empty(late.write(tmp_path / "safe"))
    folder = far.write(tmp_path / "far").rename(
        tmp_path / "safe" / "S2A_MSIL2A_20210602T213001_N0510_R027_T33TWL_20230101T000003.SAFE"
    )
    _empty(folder)
    config = _config(tmp_path)
    assert run_sentinel2(config).code == 0
    left = pd.read_csv(config.work_dir / "indices" / "left_out.csv")
    assert len(left) == 2


def test_one_odd_item_drops_only_itself_and_is_tried_again(tmp_path: Path, scenes: list[Scene]) -> None:
    items = [item_from_product(read_safe(p)) for p in sorted((tmp_path / "safe").iterdir())]
    right = items[1]["properties"]["eo:cloud_cover"]
    path = tmp_path / "items.json"
    config = _config(tmp_path, safe_dir=None, items=path)

    def write(cloud: object) -> None:
        items[1]["properties"]["eo:cloud_cover"] = cloud
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))

    write(float("nan"))
    assert run_sentinel2(config).code == 1
    errors = pd.read_csv(config.work_dir / "errors.csv")
    assert set(errors["product"]) == {scenes[1].spec.id}
    assert errors["reason"].str.contains("NaN is not a number|nan is not a number", case=False).all()
    _check(config.work_dir, [scenes[0], scenes[2]])
    write(right)
    assert run_sentinel2(config).code == 0
    _check(config.work_dir, scenes)


def test_builds_from_before_learn_what_could_not_be_read(tmp_path: Path, scenes: list[Scene]) -> None:
    """A folder without the list of what was not read, as an earlier version left it."""
    safe = tmp_path / "safe" / f"{scenes[1].spec.id}.SAFE"
    content = (safe / "MTD_MSIL2A.xml").read_bytes()
    _empty(safe)
    config = _config(tmp_path)
    assert run_sentinel2(config).code == 1
    (config.work_dir / "indices" / "unread.json").unlink()
    ledger = config.work_dir / "ledger.jsonl"
    ledger.write_text("".join(x for x in ledger.read_text().splitlines(keepends=True) if '"key": "unread"' not in x))
    assert run_sentinel2(config).code == 1
    (safe / "MTD_MSIL2A.xml").write_bytes(content)
    assert run_sentinel2(config).code == 0
    _check(config.work_dir, scenes)


def test_the_tile_of_a_name_tells_which_cells_lack_it() -> None:
    cells = [cell_from_id("Q025_R176_C0780"), cell_from_id("Q025_R176_C0800")]
    planned = tuple(PlannedCell(c, Window(0, 0, 1, 1), ()) for c in cells)
    plan = Plan(Lattice("EPSG:4326", 0.001, 0.001), planned, {})
    name = "S2A_MSIL2A_20230815T095031_N0509_R079_T33TWL_20230815T155057"  # 15 to 16.4 E, 45.1 to 46.05 N
    assert cells_of_tile(plan, name) == [cells[0].id]
    assert cells_of_tile(plan, "some folder") == [""]
