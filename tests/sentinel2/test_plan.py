"""Which acquisitions reach which cells."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyproj
import pytest

from catalog.sentinel2.items import Asset, Product
from cube.build import main
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.plan import choose_cells, make_plan
from stratacube.errors import SourceError, UsageError


def _config(**options: object) -> Sentinel2Config:
    values = {"work_dir": Path("w"), "start": "2020-06-01", "end": "2020-07-01", "bands": ["B02"], **options}
    config: Sentinel2Config = Sentinel2Config.load(None, values)
    return config


def _product(tile: str, epsg: int, ulx: float, uly: float, day: int = 1) -> Product:
    where = {"proj_code": f"EPSG:{epsg}", "shape": (5490, 5490), "transform": (20.0, 0.0, ulx, 0.0, -20.0, uly)}
    return Product(
        id=f"S2A_MSIL2A_2020060{day}T000000_N0500_R001_T{tile}_20230101T000000",
        tile=tile,
        platform="sentinel-2a",
        datatake_start=datetime(2020, 6, day),
        baseline="05.00",
        processing_time=datetime(2023, 1, 1),
        bbox=(-180.0, -90.0, 180.0, 90.0),
        assets={"B02_20m": Asset(href="x.jp2", **where)},  # type: ignore[arg-type]
    )


def test_tiles_on_both_sides_of_the_antimeridian_reach_both() -> None:
    config = _config(bbox=[179.8, 68.6, -179.8, 68.7])
    cells = choose_cells(config)
    assert {c.alias for c in cells} == {"Q025_E179_75_N68_50", "Q025_W180_00_N68_50"}
    east, _ = pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform(180, 68.6)
    west, _ = pyproj.Transformer.from_crs(4326, 32601, always_xy=True).transform(180, 68.6)
    products = [
        _product("60WWB", 32660, east - 54900, 7700000),
        _product("01WCS", 32601, west - 54900, 7700000),
        _product("01WES", 32601, west + 120000, 7700000),
    ]
    plan = make_plan(config, cells, products)
    for planned in plan.cells:
        assert {a.rpartition("_T")[2] for a in planned.acquisitions} == {"60WWB", "01WCS"}
    assert len(plan.acquisitions) == 2


@pytest.mark.parametrize("latitude", [60.1, 70.1, 78.1, 83.1])
def test_cells_far_north_are_reached_by_every_tile_over_them(latitude: float) -> None:
    config = _config(bbox=[14.9, latitude, 15.1, latitude + 0.1])
    cells = choose_cells(config)
    for epsg in (32633, 32632, 32634):
        x, y = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(15, latitude + 0.05)
        over = make_plan(config, cells, [_product("33XWG", epsg, x - 54900, y + 54900)])
        assert all(p.acquisitions for p in over.cells)
        beside = make_plan(config, cells, [_product("33XWG", epsg, x + 150000, y + 54900)])
        assert not any(p.acquisitions for p in beside.cells)


def test_cells_by_id_and_by_polygon(tmp_path: Path) -> None:
    (cell,) = choose_cells(_config(cells=["Q025_R085_C0121"]))
    assert cell.alias == "Q025_W149_75_N68_50"
    assert choose_cells(_config(cells=["Q025_R085_C0121", cell.alias])) == [cell]  # one cell by both of its names
    area = tmp_path / "area.geojson"
    area.write_text('{"type": "Polygon", "coordinates": [[[10.3, 45.3], [10.4, 45.3], [10.4, 45.4], [10.3, 45.3]]]}')
    assert [c.alias for c in choose_cells(_config(polygon=area))] == ["Q025_E010_25_N45_25"]
    area.write_text("{}")
    with pytest.raises(UsageError, match="`polygon`"):
        choose_cells(_config(polygon=area))
    with pytest.raises(UsageError, match="no area is given"):
        _config()


def test_tiles_share_a_datatake_and_halves_an_acquisition() -> None:
    config = _config(cells=["Q025_R085_C0121"])
    cells = choose_cells(config)
    x, y = pyproj.Transformer.from_crs(4326, 32606, always_xy=True).transform(-149.6, 68.6)
    one, two = _product("06WUA", 32606, x - 50000, y + 50000), _product("06WVA", 32606, x - 5000, y + 50000)
    half = Product(**{**vars(one), "id": one.id + "x", "datastrip_start": datetime(2020, 6, 1, 0, 0, 9)})
    plan = make_plan(config, cells, [one, two, half])
    assert [len(a.products) for a in plan.acquisitions.values()] == [2, 1]
    assert len({a.datatake for a in plan.acquisitions.values()}) == 1


def test_a_product_that_lies_nowhere_is_told() -> None:
    config = _config(cells=["Q025_R085_C0121"])
    lost = Product(**{**vars(_product("06WUA", 32606, 0, 0)), "assets": {"B02_20m": Asset(href="x.jp2")}})
    with pytest.raises(SourceError, match="proj:code"):
        make_plan(config, choose_cells(config), [lost])


def test_recorded_search_is_planned_and_priced(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CDSE's own answer: nine bands, the classes and two documents of each of four products."""
    search = data_folder / "stac" / "cdse" / "recorded" / "search_sentinel-2-l2a_32T_2020-07.json"
    if not search.is_file():
        pytest.skip(f"{search} is not here")
    flags = ["--items", str(search), "--start", "2020-07-01", "--end", "2020-07-31", "--bbox", "8", "46.8", "9", "47.2"]
    assert main(["sentinel2", "--work-dir", str(tmp_path / "w"), *flags, "--dry-run"]) == 0
    keys = [f"{b}_20m" for b in ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL")]
    size = 0
    for item in json.loads(search.read_text())["features"]:
        size += sum(item["assets"][k]["file:size"] for k in (*keys, "product_metadata", "granule_metadata"))
    told = capsys.readouterr().out
    assert "cells      8, 0 of them reached by no product" in told
    assert f"download   48 files, {size / 1e6:.3g} MB" in told
    assert main(["sentinel2", "--work-dir", str(tmp_path / "w"), *flags, "--plan-only"]) == 0
    plan = pd.read_parquet(tmp_path / "w" / "plan.parquet")
    tiles = {
        c: {a.rpartition("_T")[2] for a in found} for c, found in zip(plan["cell"], plan["acquisitions"], strict=True)
    }
    # tile 32TNT begins at 9 degrees east, its 10 km of overlap reach west of it
    assert {len(found) for found in tiles.values()} == {1, 2}
    assert all("32TMT" in found for found in tiles.values())
