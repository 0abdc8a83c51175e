"""Lists where S2SR has them, with its columns first: what its users' scripts read goes on being there."""

from __future__ import annotations

import ast
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.run import run_sentinel2
from tests.sentinel2.s2sr import GRID, MANIFEST, PHASE1, PHASE2, SCENES
from tests.sentinel2.scenery import EPSG, FIRST, SIDE, ULX, ULY, Scene, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Scene]]:
    """Two scenes, of which one is cut; two cells of a larger grid, of which one cannot be written."""
    root = tmp_path_factory.mktemp("lists")
    scenes = [make_scene(n, FIRST + timedelta(days=n), bands=("B02", "B03")) for n in range(2)]
    band = next(scenes[1].write(root / "safe").glob("**/*_B03_20m.jp2"))
    scenes[0].write(root / "safe")
    band.write_bytes(band.read_bytes()[:5000])
    frame = make_grid(2000, (ULX - 6000, ULY - 4000, ULX + 4000, ULY + 4000), f"EPSG:{EPSG}")
    write_grid(frame, root / "grid.csv")
    cells = [row.tile_id_rc for row in frame.itertuples() if row.row == 2 and row.col >= 3]
    config = _config(root, root / "grid.csv", cells=cells)
    assert run_sentinel2(_config(root, root / "grid.csv", cells=cells, plan_only=True)).code == 0
    (config.work_dir / "composites").mkdir()
    (config.work_dir / "composites" / cells[0]).write_text("in the way")
    assert run_sentinel2(config).code == 1
    return root, scenes


def _config(root: Path, grid: Path, **options: Any) -> Sentinel2Config:
    values = {"work_dir": root / "w", "safe_dir": root / "safe", "grid_csv": grid, "bands": ["B02", "B03"]}
    config: Sentinel2Config = Sentinel2Config.load(
        None, {**values, "start": "2021-06-01", "end": "2021-06-30", "workers": 1, **options}
    )
    return config


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    table = pd.read_csv(path)
    assert tuple(table.columns[: len(columns)]) == columns
    return table


def test_selected_cells_are_rows_of_the_grid(built: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    root, _ = built
    selected = root / "w" / "indices" / "selected_gridcells.csv"
    table, grid = _table(selected, GRID), pd.read_csv(root / "grid.csv")
    wanted = grid[(grid["row"] == 2) & (grid["col"] >= 3)].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[list(GRID)], wanted[list(GRID)])
    assert table["lattice_row"].tolist() == [-ULY // 20] * 2
    assert table["width"].tolist() == [100, 100]
    # a build takes the list for a grid
    assert run_sentinel2(_config(root, selected, work_dir=tmp_path / "w", plan_only=True)).code == 0
    again = _table(tmp_path / "w" / "indices" / "selected_gridcells.csv", GRID)
    pd.testing.assert_frame_equal(again, table)


def test_manifest_and_scenes_have_a_row_each(built: tuple[Path, list[Scene]]) -> None:
    root, scenes = built
    manifest = _table(root / "w" / "indices" / "query_manifest.csv", MANIFEST)
    assert set(manifest["Name"]) == {f"{s.spec.id}.SAFE" for s in scenes}
    begun = {ast.literal_eval(text)["Start"][:19] for text in manifest["ContentDate"]}
    assert begun == {f"{s.when:%Y-%m-%dT%H:%M:%S}" for s in scenes}
    index = _table(root / "w" / "indices" / "scene_index.csv", SCENES)
    assert len(index) == 2
    for row in index.itertuples():
        xml = Path(row.tile_xml_path)
        assert (xml.name, xml.parent.name, xml.parents[2].name) == ("MTD_TL.xml", row.scene_id, row.product_name)
        assert xml.is_file()
        edges = ULX, ULY - 20 * SIDE, ULX + 20 * SIDE, ULY
        assert (row.epsg, row.xmin, row.ymin, row.xmax, row.ymax) == (EPSG, *edges)
        assert (row.xres, row.yres, row.ncols, row.nrows) == (20, 20, SIDE, SIDE)
        assert (row.files, row.fetched) == (3, 3)
    assert set(index["decision"]) == {"used", "refused"}
    files = pd.read_csv(root / "w" / "indices" / "scene_files.csv")
    assert len(files) == 6


def test_errors_lie_where_its_readme_says(built: tuple[Path, list[Scene]]) -> None:
    root, scenes = built
    work = root / "w"
    first = _table(work / "indices" / "phase1_errors.csv", PHASE1)
    assert len(first) == 1
    assert scenes[1].spec.id in first["scene"][0]
    assert "cut" in first["error"][0] or "decoded" in first["error"][0]
    second = _table(work / "logs" / "phase2_errors.csv", PHASE2)
    cells = pd.read_csv(work / "indices" / "selected_gridcells.csv")["tile_id_rc"]
    assert second[["cell", "band"]].to_numpy().tolist() == [[cells[0], "B02"], [cells[0], "B03"]]
    assert second["error"].str.len().min() > 10
    # mended, the same command takes both lists away
    (work / "composites" / cells[0]).unlink()
    scenes[1].write(root / "safe")
    assert run_sentinel2(_config(root, root / "grid.csv", cells=cells.tolist())).code == 0
    assert not (work / "indices" / "phase1_errors.csv").exists()
    assert not (work / "logs" / "phase2_errors.csv").exists()


def test_cells_of_no_grid_have_no_row(tmp_path: Path, built: tuple[Path, list[Scene]]) -> None:
    ring = [[-149.42, 68.46], [-149.38, 68.46], [-149.38, 68.48], [-149.42, 68.46]]
    feature = {"type": "Feature", "id": "a", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    config = _config(built[0], tmp_path / "cells.geojson", work_dir=tmp_path / "w", plan_only=True)
    assert run_sentinel2(config).code == 0
    table = _table(tmp_path / "w" / "indices" / "selected_gridcells.csv", GRID)
    assert table[["row", "col"]].isna().all().all()
