"""What planning, looking at and publishing very many cells hold and look at, counted on a few."""

from __future__ import annotations

import pickle
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pyproj
import pytest
import shapely

from catalog.sentinel2 import publish as publishing
from catalog.sentinel2.convert import item_from_product, product_from_item
from catalog.sentinel2.find import Found, save_found
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.packed import PackedItems
from catalog.sentinel2.packed_assets import PackedAssets
from catalog.sentinel2.publish import CellRecord, CompositeBuild, publish_cells
from catalog.sentinel2.saved import load_items
from catalog.sentinel2.select import Selection
from catalog.sentinel2.tiles import tile_grid
from cube.job.ledger import Entry, Problem
from cube.sentinel2 import publish as describing
from cube.sentinel2.composite import CellResult
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.plan import choose_cells, make_plan
from stratacube.addresses import plain_url, why_odd
from tests.cube.test_large_ledger import imports_of_status, line

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12", "SCL", "AOT", "WVP")

TILES = [f"{zone}TNT" for zone in range(32, 60, 3)]


def product(tile: str, files: int = 38) -> Product:
    """A product as CDSE lists one, with as many files of it."""
    code, ulx, uly = tile_grid(tile)
    name = f"S2A_MSIL2A_20200601T000000_N0500_R001_T{tile}_20230101T000000"
    of = [f"{band}_{size}m" for size in (20, 60, 10) for band in BANDS][:files]
    assets = {
        key: Asset(
            href=f"s3://eodata/Sentinel-2/MSI/L2A_N0500/2020/06/01/{name}.SAFE/GRANULE/L2A_T{tile}_A017394_"
            f"20200601T000000/IMG_DATA/R{key[-3:]}/T{tile}_20200601T000000_{key}.jp2",
            size=2_379_238 + n,
            checksum=f"{n:02d}".rjust(64, "7"),
            proj_code=code,
            shape=(109_800 // int(key[-3:-1]),) * 2,
            transform=(float(key[-3:-1]), 0.0, float(ulx), 0.0, -float(key[-3:-1]), float(uly)),
        )
        for n, key in enumerate(of)
    }
    return Product(
        id=name,
        tile=tile,
        platform="sentinel-2a",
        datatake_start=datetime(2020, 6, 1),
        baseline="05.00",
        processing_time=datetime(2023, 1, 1),
        relative_orbit=1,
        bbox=(-180.0, -90.0, 180.0, 90.0),
        assets=assets,
    )


def held(make: Callable[[], Any]) -> int:
    """Bytes that stay of what is made."""
    make()  # what is made once and kept, by caches, does not count
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = make()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return after - before


def test_packed_files_are_the_files() -> None:
    files = dict(product("32TNT").assets)
    files["product_metadata"] = Asset(href="https://host/Nodes(é)/$value")
    files["B03_10m"] = replace(files["B02_20m"], transform=(0.1, 0.0, 1 / 3, 0.0, -0.1, 1e-300), size=2**60)
    packed = PackedAssets(files)
    assert dict(packed) == files
    assert packed == files
    assert list(packed) == list(files)
    assert len(packed) == len(files)
    assert "B02_20m" in packed
    assert "B99_20m" not in packed
    assert packed.get("B99_20m") is None
    with pytest.raises(KeyError):
        packed["B99_20m"]
    assert pickle.loads(pickle.dumps(packed)) == files
    assert all(isinstance(f.shape, tuple) and isinstance(f.transform, tuple) for f in packed.values() if f.shape)


def test_a_product_of_a_list_is_held_in_a_few_kilobytes() -> None:
    """23,000 of them, twice while they are read once more, are to leave room in 1 GB: as objects they take 43 kB."""
    items = [item_from_product(product(tile)) for tile in TILES]
    read = [product_from_item(item) for item in items]
    assert [p.assets for p in read] == [product(tile).assets for tile in TILES]
    many = 8 * items  # beside which the last addresses, which the standard library keeps parsed, are little
    assert held(lambda: [product_from_item(item) for item in many]) / len(many) < 10_000


def test_each_tile_looks_at_the_cells_near_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 cells and 7,800 tiles, all of one and all of the other are 10^9 pairs."""
    area = {"start": "2020-06-01", "end": "2020-07-01", "bands": ["B02"], "bbox": [0, 40, 10, 50]}
    config = Sentinel2Config.load(None, {"work_dir": Path("w"), **area})
    cells, looked = choose_cells(config), list[int]()
    tiles = [product(tile, 2) for tile in ("31TGL", "31UFP", "32TLR", "32TMT", "32ULU")]
    intersects = shapely.intersects

    def counted(one: Any, other: Any, **options: Any) -> Any:
        looked.append(np.size(other))
        return intersects(one, other, **options)

    monkeypatch.setattr(shapely, "intersects", counted)
    plan = make_plan(config, cells, tiles)
    assert len(cells) == 1600
    assert sum(looked) < len(tiles) * 100

    degrees = {p.tile: _outline(p) for p in tiles}
    for planned in plan.cells:
        box = shapely.box(*planned.cell.bounds)
        meeting = {tile for tile, outline in degrees.items() if outline.intersection(box).area > 1e-6}
        assert {key.rpartition("_T")[2] for key in planned.acquisitions} == meeting


def _outline(of: Product) -> Any:
    """Of a tile in degrees, by its corners and many points between."""
    code, ulx, uly = tile_grid(of.tile)
    ring = np.array(shapely.box(ulx, uly - 109_800, ulx + 109_800, uly).segmentize(1000).exterior.coords)
    return shapely.Polygon(np.column_stack(pyproj.Transformer.from_crs(code, 4326, always_xy=True).transform(*ring.T)))


@pytest.mark.parametrize("character", ["\t", "\n", " ", "\x7f", "\u00a0", "\u2028", "\u3000", "\u200b", "\ud800"])
def test_every_blank_and_control_character_is_odd(character: str) -> None:
    assert why_odd(f"https://host/a{character}b") == "has a blank or a control character"
    shown = character if character == " " else "?"
    assert plain_url(f"https://host/a{character}b") == f"https://host/a{shown}b"


@pytest.mark.parametrize("look", [why_odd, plain_url])
def test_an_address_is_looked_at_as_a_whole(look: Callable[[str], str | None]) -> None:
    """A search of 20,000 items is some 40 million characters of addresses, looked at several times each."""
    url, calls = "https://host/" + 3000 * "a", list[str]()
    sys.setprofile(lambda _, event, __: calls.append(event))
    look(url)
    sys.setprofile(None)
    assert len(calls) < 1000


def test_a_search_is_saved_item_by_item(tmp_path: Path) -> None:
    """Packed an item of CDSE is 7 kB; what is saved is not to be held twice."""
    noise = random.Random(1)
    items = PackedItems(item_from_product(product(tile)) | {"noise": noise.randbytes(9000).hex()} for tile in TILES)
    few, many = (_saving(tmp_path, items.ordered((5 * [*range(len(TILES))])[:n])) for n in (1, 41))
    assert many - few < 40 * 3000
    assert load_items(tmp_path / "items.json")[0] == items[0]


def _saving(indices: Path, items: PackedItems) -> int:
    found = Found(Selection((), ()), (), items)
    tracemalloc.start()
    save_found(found, indices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_status_brings_nothing_that_reads_pixels(tmp_path: Path) -> None:
    folder = Sentinel2Folder(tmp_path)
    area = {"start": "2020-06-01", "end": "2020-07-01", "bands": ["B02"], "bbox": [0, 40, 10, 50]}
    config = Sentinel2Config.load(None, {"work_dir": tmp_path, **area})
    with folder.opened(config.described(), config.digest(), overwrite=False), folder.ledger.open("a") as file:
        file.write(line(Entry("planned", "done", facts={"tasks": "1600", "words": "1600 cells"})))
        file.write(line(Entry("cell Q025_R160_C0720", "done", (), {"seconds": 9.6})))
    said, imported = imports_of_status(tmp_path)
    assert "planned    1600 cells\ndone       1\nto do      1599" in said
    assert "cube.sentinel2.folder" in imported
    assert not {"numpy", "pandas", "zarr", "xarray", "pyarrow", "rasterio"} & imported


def test_items_are_published_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item is 30 kB as objects: what grows with the cells is to be less than a tenth of that."""
    monkeypatch.setattr(publishing, "write_index", lambda _, part, *rest: part.touch())  # it reads lines, in batches
    monkeypatch.setattr(publishing, "write_json", lambda *_: None)
    few, many = (_peak(tmp_path, number) for number in (20, 120))
    assert (many - few) / 100 < 3000


def _peak(output: Path, number: int) -> int:
    build = CompositeBuild(
        id="b", title="b", start=datetime(2020, 6, 1), end=datetime(2020, 7, 1), created=datetime(2020, 8, 1),
        version="1", config={}, config_hash="0", reducer="median", crs="EPSG:4326", wkt2="", bands=BANDS[1:10],
        data_type="int16", scale=1e-4, unit="1", nodata=-9999, resolution=20.0,
    )  # fmt: skip
    told, sources = {"minimum": 0.0, "maximum": 1.0, "mean": 0.5}, {f"p{n}": "s3://a" for n in range(6)}
    cell = CellRecord(
        id="c", alias="c", ring=[(0, 0), (0, 1), (1, 1), (0, 0)], shape=(10, 10), transform=(1.0, 0, 0, 0, -1.0, 0),
        bounds=(0, 0, 1, 1), corner=(0, 0), files={}, preview=None, store="c.zarr", valid_share=1.0,
        statistics={band: told for band in BANDS[1:10]}, observations=told, sources=sources,
    )  # fmt: skip
    cells = [replace(cell, id=f"c{n}") for n in range(number)]
    tracemalloc.start()
    publish_cells(output, build, cells)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


class _Read(list[Problem]):
    """Problems that count how often they are looked through."""

    times = 0

    def __iter__(self) -> Iterator[Problem]:
        self.times += 1
        return super().__iter__()


def test_problems_are_looked_through_once_for_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 cells that lack a product each, every problem for every cell would be 10^10."""
    folder = Sentinel2Folder(tmp_path)
    area = {"start": "2020-06-01", "end": "2020-07-01", "bands": ["B02"], "bbox": [0, 40, 2, 42]}
    values = {"work_dir": tmp_path, "products": ["zarr"], "zarr_stores": "cell", **area}
    config, written = Sentinel2Config.load(None, values), list[CellRecord]()
    plan = make_plan(config, choose_cells(config), [product("31TDG", 2)])
    results = {p.name: CellResult(p.cell.id, 1.0, {"minimum": 1.0, "maximum": 1.0, "mean": 1.0}) for p in plan.cells}
    problems = _Read(Problem("source", f"of {p.name}", p.name, "S2A_x") for p in plan.cells)
    problems += [Problem("product", "no scan", plan.cells[0].name)]
    for name in ("draw", "composite_report", "write_report"):
        monkeypatch.setattr(describing, name, MagicMock())
    monkeypatch.setattr(describing, "told_splits", lambda _: {})
    monkeypatch.setattr(describing, "publish_cells", lambda _, __, cells, ___: written.extend(cells))
    with folder.opened(config.described(), config.digest(), overwrite=False):
        describing.publish(config, folder, plan, results, problems, {}, {}, MagicMock())
    assert len(written) == 64
    assert all(c.dropped == [{"product": "S2A_x", "reason": f"of {c.id}"}] for c in written)
    assert problems.times < 5
