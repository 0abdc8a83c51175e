"""Grid cells and the lattice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cube.sentinel2.cell_selection import select_cells
from cube.sentinel2.grid import (
    Cell,
    cell_from_id,
    footprint,
    grid_cells,
    make_grid,
    read_cells,
    write_grid,
)
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.plan import read_geometry
from stratacube.errors import UsageError

STEP = 0.000179663056824


@pytest.fixture(scope="module")
def panarctic() -> pd.DataFrame:
    return make_grid()


@pytest.fixture(scope="module")
def arctic_cells(panarctic: pd.DataFrame) -> list[Cell]:
    return grid_cells(panarctic)


def test_default_grid_is_the_predecessors(panarctic: pd.DataFrame) -> None:
    assert list(panarctic) == ["tile_id_rc", "tile_id_geo", "xmin", "ymin", "xmax", "ymax", "row", "col"]
    assert len(panarctic) == 172_800
    row = panarctic[panarctic["tile_id_rc"] == "Q025_R083_C0119"].iloc[0]
    assert (row["xmin"], row["ymax"]) == (-180 + 119 * 0.25, 90 - 83 * 0.25)
    assert panarctic.iloc[0]["ymax"] == 90
    toolik = panarctic[panarctic["tile_id_geo"] == "Q025_W149_75_N68_50"].iloc[0]
    assert (toolik["xmin"], toolik["ymin"], toolik["xmax"], toolik["ymax"]) == (-149.75, 68.5, -149.5, 68.75)


def test_ids_of_the_predecessor_name_their_cells(arctic_cells: list[Cell]) -> None:
    cells = arctic_cells
    for cell in cells[:: len(cells) // 50]:
        assert cell_from_id(cell.id) == cell
        assert cell_from_id(cell.alias) == cell
    with pytest.raises(UsageError, match="not of the form"):
        cell_from_id("tile_7")


def test_grid_survives_its_file(tmp_path: Path) -> None:
    frame = make_grid(0.1, (10, 45.3, 10.7, 45.9))
    write_grid(frame, tmp_path / "grid.csv")
    assert read_cells(tmp_path / "grid.csv") == grid_cells(frame)
    write_grid(frame, tmp_path / "grid.geojson")
    assert [c.id for c in read_cells(tmp_path / "grid.geojson")] == list(frame["tile_id_rc"])


def test_other_crs_and_corner_make_other_ids() -> None:
    polar = make_grid(20000, (500000, -1000000, 540000, -960000), "EPSG:3413")
    assert polar["tile_id_rc"].iloc[0] == "EPSG3413_Q20000_OE500000_S960000_R000_C0000"
    assert polar["tile_id_geo"].is_unique
    assert set(polar["crs"]) == {"EPSG:3413"}
    shifted = make_grid(0.25, (10, 45, 11, 46))
    assert shifted["tile_id_rc"].iloc[0] != make_grid(0.25, (11, 45, 12, 46))["tile_id_rc"].iloc[0]


@pytest.mark.parametrize(
    ("bbox", "columns"),
    [
        ((179.9, 68.1, -179.9, 68.2), {0, 1439}),
        ((-149.7, 68.55, -149.6, 68.6), {121}),
        ((-180, 68.1, -179.9, 68.2), {0}),
    ],
)
def test_selection_by_box(arctic_cells: list[Cell], bbox: tuple[float, ...], columns: set[int]) -> None:
    found = select_cells(arctic_cells, bbox=bbox)
    assert {int(c.id[-4:]) for c in found} == columns


def test_selection_by_polygon_and_id(arctic_cells: list[Cell]) -> None:
    cells = arctic_cells
    ring = [[179.8, 68.3], [180.3, 68.3], [180.3, 68.45], [179.8, 68.3]]
    found = select_cells(cells, polygon={"type": "Polygon", "coordinates": [ring]})
    assert {int(c.id[-4:]) for c in found} == {1439, 0, 1}
    assert [c.alias for c in select_cells(cells, ids=["Q025_W149_75_N68_50"])] == ["Q025_W149_75_N68_50"]
    with pytest.raises(UsageError, match="not in the grid"):
        select_cells(cells, ids=["Q025_R999_C0000"])
    with pytest.raises(UsageError, match="south 69"):
        select_cells(cells, bbox=(0, 69, 1, 68))


def test_the_area_that_left_nothing_is_named() -> None:
    cells = grid_cells(make_grid(0.25, (-151, 68, -149, 69)))
    far = {"type": "Polygon", "coordinates": [[[0, 61], [1, 61], [1, 62], [0, 61]]]}
    here = (-149.7, 68.55, -149.3, 68.6)
    for values, said in (
        ({"bbox": here, "polygon": far}, r"^the polygon touches none of the 2 cells that bbox -149\.7 .* touches$"),
        ({"bbox": (0, 1, 1, 2), "polygon": far}, "^bbox 0 1 1 2 touches none of the 32 cells of the grid$"),
        ({"polygon": far, "ids": [cells[3].id]}, "^the polygon touches none of the 1 cell named$"),
        ({"bbox": here, "ids": []}, "^no cell is named; name one, or give an area instead$"),
    ):
        with pytest.raises(UsageError, match=said):
            select_cells(cells, **values)


def test_projected_cells_are_found_across_the_antimeridian() -> None:
    cells = grid_cells(make_grid(50000, (-100000, -2400000, 100000, -2300000), "EPSG:3571"))  # 180 degrees at x = 0
    areas = footprint(cells)
    assert max(a.bounds[2] - a.bounds[0] for a in areas) < 5
    found = select_cells(cells, bbox=(179, 60, -179, 80))
    assert {c.xmin for c in found} >= {-50000.0, 0.0}


def test_neighbours_share_every_edge(panarctic: pd.DataFrame) -> None:
    lattice = Lattice("EPSG:4326", STEP, STEP)
    block = panarctic[panarctic["row"].between(80, 90) & panarctic["col"].between(100, 140)]
    windows = {
        (r, c): lattice.window(*b) for r, c, *b in block[["row", "col", "xmin", "ymin", "xmax", "ymax"]].to_numpy()
    }
    for (row, col), window in windows.items():
        if (row, col + 1) in windows:
            assert windows[row, col + 1].col == window.end_col
        if (row + 1, col) in windows:
            assert windows[row + 1, col].row == window.end_row
    assert {w.width for w in windows.values()} == {1391, 1392}


def test_lattice_does_not_depend_on_what_is_asked() -> None:
    lattice = Lattice("EPSG:4326", STEP, STEP)
    for west, south in ((-149.75, 68.5), (-149.5, 68.75), (10.0, 60.0), (10.25, 60.25)):
        window = lattice.window(west, south, west + 0.25, south + 0.25)
        x = lattice.x(np.arange(window.col, window.end_col))
        y = lattice.y(np.arange(window.row, window.end_row))
        assert x[0] - STEP < west <= x[0]
        assert x[-1] < west + 0.25 <= x[-1] + STEP
        assert y[0] <= south + 0.25 < y[0] + STEP
        assert y[-1] - STEP <= south < y[-1]
        assert x[0] / STEP % 1 == pytest.approx(0.5, abs=1e-6)


def test_window_is_cut_along_the_lattice() -> None:
    window = Window(-5, 10, 20, 9)
    parts = window.split(8)
    assert sum(p.height * p.width for p in parts) == 180
    assert {p.row for p in parts} == {-5, 0, 8}
    assert {p.col for p in parts} == {10, 16}


def test_outline_of_a_geojson_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cells.geojson"
    triangle = {"type": "Polygon", "coordinates": [[[10, 45], [11, 45], [10, 46], [10, 45]]]}
    path.write_text(json.dumps({"type": "Feature", "id": "t", "properties": {}, "geometry": triangle}))
    (cell,) = read_cells(path)
    assert cell.outline
    assert cell.bounds == (10, 45, 11, 46)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "has no column tile_id_rc"),
        ("tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax\nq,r,1,2,x,4\n", "line 2"),
        ("tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax\n../q,r,1,2,3,4\n", "become names of files"),
        ("tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax\nq,r,1,2,3,4\nq,r,1,2,3,4\n", "names cell q twice"),
    ],
)
def test_bad_grid_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grid.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_cells(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_cells(tmp_path / "none.csv")


_SQUARE = {"type": "Polygon", "coordinates": [[[10, 45], [11, 45], [11, 46], [10, 46], [10, 45]]]}
_ODD_FEATURES = [
    (None, "not an object"),
    (3, "not an object"),
    ({"type": "Feature", "properties": {}, "geometry": None}, "has no geometry"),
    ({"type": "Feature", "properties": "text", "geometry": _SQUARE}, "feature 1 is not a cell"),
    ({"type": "Feature", "properties": {}, "geometry": {"type": "Polygon"}}, "it lacks coordinates"),
    (
        {"type": "Polygon", "coordinates": [[[10, 45], [float("nan"), 45], [11, 46], [10, 46], [10, 45]]]},
        "a corner of it is not a number",
    ),
    ({"type": "Polygon", "coordinates": "x"}, "feature 1 is not a cell"),
    ({"type": "Star", "coordinates": [[[10, 45], [11, 45], [11, 46], [10, 45]]]}, "feature 1 is not a cell"),
]


@pytest.mark.parametrize(("feature", "said"), _ODD_FEATURES)
def test_odd_features_are_one_sentence(tmp_path: Path, feature: object, said: str) -> None:
    path = tmp_path / "cells.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [_SQUARE, feature]}))
    with pytest.raises(UsageError, match=rf"cells\.geojson.*{said}"):
        read_cells(path)
    if said != "feature 1 is not a cell" or not isinstance(feature, dict) or "properties" not in feature:
        with pytest.raises(UsageError, match=r"`polygon` .*cells\.geojson is not GeoJSON"):
            read_geometry(path)


def test_csv_with_a_header_alone_is_told(tmp_path: Path) -> None:
    (tmp_path / "grid.csv").write_text("tile_id_rc,tile_id_geo,xmin,ymin,xmax,ymax\n")
    with pytest.raises(UsageError, match=r"grid\.csv holds no cell, only a header"):
        read_cells(tmp_path / "grid.csv")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be understood"):
        read_cells(tmp_path / "empty.csv")
    (tmp_path / "random.csv").write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match=r"random\.csv"):
        read_cells(tmp_path / "random.csv")


def test_bad_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="whole number of cells"):
        make_grid(0.3, (0, 0, 1, 1))
    with pytest.raises(UsageError, match=r"300000 x 3.6e\+06 cells of 0.0001 are more"):
        make_grid(0.0001)
    with pytest.raises(UsageError, match="unknown"):
        make_grid(1, (0, 0, 1, 1), "EPSG:1")
    with pytest.raises(UsageError, match="no pixel"):
        Lattice("EPSG:4326", 1, 1).window(0.6, 0.6, 0.9, 0.9)


@pytest.mark.parametrize("crs", ["EPSG:999999", "x", "nan", ""])
def test_a_csv_of_a_crs_that_is_none_is_told(tmp_path: Path, crs: str) -> None:
    path = tmp_path / "grid.csv"
    write_grid(make_grid(1000, (0, 0, 2000, 1000), "EPSG:3413"), path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].replace("EPSG:3413", crs)]))
    with pytest.raises(UsageError, match=rf"^grid file {path}: CRS .* is unknown"):
        read_cells(path)


@pytest.mark.parametrize("crs", [None, "EPSG:3413"])
def test_a_part_without_a_corner_is_told_and_ends_no_process(tmp_path: Path, crs: str | None) -> None:
    path = tmp_path / "grid.geojson"
    parts = [[[]], [[[-180, 1], [-179, 1], [-180, 2], [-180, 1]]]]
    path.write_text(json.dumps({"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": parts}}))
    read = f"read_cells(Path({str(path)!r}), {crs!r})"
    code = f"from pathlib import Path; from cube.sentinel2.grid import read_cells; {read}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"grid file {path}: feature 0 is not a cell (a part of it is empty)" in done.stderr
