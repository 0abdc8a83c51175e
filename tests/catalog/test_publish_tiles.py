"""A published catalogue: it can be walked, opened, validated and written again to the same bytes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import pyarrow
import pyproj
import pystac
import pytest
import stac_geoparquet.arrow
import xarray as xr
from pyarrow import parquet
from shapely.geometry import shape

from catalog.publish import publish_tiles
from catalog.publish.collection import Tally, root_catalog
from catalog.publish.public import file_fields, is_public
from catalog.publish.sources import source_item
from catalog.publish.values import relative
from stratacube.errors import ClaimLostError, SourceError, UsageError
from stratacube.files import digest_of, fenced, is_stray, recorded, write_json
from tests.catalog.publishing import PIXEL, SIZE, add_companions, make_build
from tests.stac_validation import validate_stac

TILES = 5


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    output = tmp_path_factory.mktemp("publish") / "out"
    plan, build = make_build(output, TILES)
    add_companions(output, plan)
    path = publish_tiles(output, plan, build)
    return output, plan, build, path


def all_json(output: Path) -> list[Path]:
    return [output / "catalog.json", *(output / "tiles").rglob("*.json"), *(output / "sources").rglob("*.json")]


def files_of(output: Path) -> dict[str, bytes]:
    folders = (output / "tiles", output / "sources")
    paths = [
        *(output / name for name in ("catalog.json", "croissant.json", "DATACARD.md")),
        *(p for f in folders for p in f.rglob("*") if p.is_file()),
    ]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


def item_of(output: Path, plan: pd.DataFrame, tile: int) -> pystac.Item:
    return pystac.Item.from_file(output / "tiles" / "items" / f"{plan['tile_id'][tile]}.json")


def test_everything_is_valid(published):
    output = published[0]
    paths = all_json(output)
    assert len(paths) == 2 + TILES + 14
    for path in paths:
        validate_stac(json.loads(path.read_text()))


def test_catalog_can_be_walked(published):
    _, plan, _, path = published
    catalog = pystac.Catalog.from_file(path)
    items = list(catalog.get_items(recursive=True))
    assert [item.id for item in items] == list(plan["tile_id"])
    assert {item.get_collection().id for item in items} == {"abi-tiles-test"}
    assert {item.get_root().id for item in items} == {catalog.id}
    assert all(item.get_parent().id == "abi-tiles-test" for item in items)


def test_every_address_is_there(published):
    output = published[0]
    count = 0
    for path in all_json(output):
        obj = json.loads(path.read_text())
        holders = [*obj["links"], *obj.get("assets", {}).values()]
        if path.parent.name == "sources":
            holders = obj["links"]
        for holder in holders:
            if urlparse(holder["href"]).scheme:
                assert holder["rel"] == "license"
                continue
            assert not holder["href"].startswith("/")
            assert (path.parent / holder["href"]).exists(), holder
            count += 1
    assert count > 60


def test_store_opens_by_its_asset(published):
    output, plan, _, _ = published
    asset = item_of(output, plan, 3).assets["tiles"]
    with xr.open_zarr(asset.get_absolute_href()) as store:
        tile = store.isel(tile=asset.extra_fields["stratacube:tile_index"])
        assert dict(tile.sizes) == {"time": 3, "y": SIZE, "x": SIZE, "band": 2}
    assert asset.extra_fields["stratacube:tile_index"] == 3
    assert asset.media_type == "application/vnd.zarr; version=3"


def test_item_lies_where_proj_says(published):
    output, plan, build, _ = published
    for tile in range(TILES):
        item = item_of(output, plan, tile)
        crs = pyproj.CRS.from_wkt(item.properties["proj:wkt2"])
        to_ground = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
        a, _, c, _, e, f = item.properties["proj:transform"]
        lon, lat = to_ground.transform(c + a * SIZE / 2, f + e * SIZE / 2)
        assert (lon, lat) == pytest.approx((plan["longitude"][tile], plan["latitude"][tile]), abs=1e-6)
        assert (a * SIZE, -e * SIZE) == pytest.approx((PIXEL * SIZE * 35786023.0,) * 2)
        corner = to_ground.transform(c, f)
        assert np.abs(np.asarray(build.footprints[tile])[0] - corner).max() < 1e-6
        assert item.properties["proj:code"] is None


def test_footprint_over_the_antimeridian(published):
    output, plan, _, _ = published
    item = item_of(output, plan, 2)
    assert item.geometry["type"] == "MultiPolygon"
    assert item.bbox[0] > 179 > -179 > item.bbox[2]
    assert shape(item.geometry).is_valid
    extent = pystac.Collection.from_file(output / "tiles" / "collection.json").extent
    west, _, east, _ = extent.spatial.bboxes[0]
    assert west > 179
    assert -90 < east < -80


def test_item_tells_its_provenance(published):
    output, plan, _, _ = published
    item = item_of(output, plan, 1)
    told = item.properties
    assert told["stratacube:missing"] == ["C02@2", "C13@2"]
    assert told["stratacube:scan_starts"][2] is None
    assert told["stratacube:system_id"] == 17
    assert told["stratacube:errors"] == [{"scan": plan["scan_ids"][1][0], "file": "b.nc", "reason": "no DQF"}]
    assert told["goes:mode"] == "6"
    assert told["datetime"] == "2020-01-01T02:20:00Z"
    assert told["start_datetime"] == "2020-01-01T02:00:26.2Z"
    assert told["end_datetime"] == "2020-01-01T02:21:23Z"
    scans = [scan for scan in plan["scan_ids"][1] if scan]
    sources = [link for link in item.links if link.rel == "derived_from"]
    assert [pystac.Item.from_file(link.get_absolute_href()).id for link in sources] == scans
    first = item_of(output, plan, 0).properties
    assert "stratacube:score" not in first
    assert told["stratacube:score"] == 1.5
    assert [error["reason"] for error in first["stratacube:errors"]] == ["truncated"]


def test_collection_describes_the_build(published):
    output, _, build, _ = published
    collection = json.loads((output / "tiles" / "collection.json").read_text())
    assert set(collection["assets"]) == {
        *("store", "plan", "references", "index", "contact_sheet", "report"),
        *("sources", "completeness", "datacard", "croissant"),
    }
    assert collection["summaries"]["platform"] == ["GOES-16", "GOES-17"]
    assert collection["summaries"]["stratacube:stratum"] == ["convection", "random"]
    assert collection["extent"]["temporal"]["interval"] == [["2020-01-01T00:00:26.2Z", "2020-01-01T08:41:23Z"]]
    items = [json.loads(path.read_text())["properties"] for path in (output / "tiles" / "items").iterdir()]
    for name in ("view:off_nadir", "view:incidence_angle", "view:sun_elevation"):
        values = [item[name] for item in items]
        assert collection["summaries"][name] == {"minimum": min(values), "maximum": max(values)}
    assert collection["stratacube:config"] == build.config
    assert collection["stratacube:dropped"] == {"view zenith above 65 degrees": 12}
    assert collection["stratacube:config_hash"] == build.config_hash
    assert collection["stratacube:seed"] == 42
    assert collection["assets"]["store"]["zarr:consolidated"] is True
    assert set(collection["cube:variables"]) == {"C02", "C13", "stratum"}
    bands = {band["name"]: band for band in collection["item_assets"]["tiles"]["bands"]}
    assert bands["C02"]["nodata"] == 4095
    assert bands["C02"]["gsd"] == 500.0
    assert bands["C02"]["raster:spatial_resolution"] == 1000.0
    assert bands["C13"]["raster:scale"] == 0.04572892
    assert "raster:scale" not in bands["C02"]


def test_extent_orders_fractions_of_a_second():
    tally = Tally()
    for second in ("26.2Z", "26Z", "26.1Z"):
        time = f"2020-01-01T00:00:{second}"
        times = dict.fromkeys(("datetime", "start_datetime", "end_datetime"), time)
        tally.add({"bbox": [0, 0, 1, 1], "properties": times})
    assert tally.extent()["temporal"]["interval"] == [["2020-01-01T00:00:26Z", "2020-01-01T00:00:26.2Z"]]


def test_index_gives_the_items_back(published):
    output, plan, _, _ = published
    table = parquet.read_table(output / "tiles" / "items.parquet")
    items = list(stac_geoparquet.arrow.stac_table_to_items(table))
    assert [item["id"] for item in items] == list(plan["tile_id"])
    for tile, item in enumerate(items):
        written = item_of(output, plan, tile)
        assert shape(item["geometry"]).equals(shape(written.geometry))
        assert item["bbox"] == written.bbox
        assert item["properties"]["stratacube:tile_index"] == tile
        assert item["properties"]["proj:transform"] == written.properties["proj:transform"]
        assert (item["properties"].get("stratacube:missing") or []) == written.properties.get("stratacube:missing", [])


def test_same_input_gives_the_same_bytes(published, tmp_path):
    plan, build = make_build(tmp_path / "again", TILES)
    add_companions(tmp_path / "again", plan)
    plan = pd.read_parquet(tmp_path / "again" / "plan.parquet")  # as a run that is resumed has it
    publish_tiles(tmp_path / "again", plan.sample(frac=1, random_state=0), build)
    assert files_of(tmp_path / "again") == files_of(published[0])


def test_a_plan_read_block_by_block_gives_the_same_bytes(published, tmp_path):
    plan, build = make_build(tmp_path / "again", TILES)
    add_companions(tmp_path / "again", plan)
    asked = []

    def blocks(columns):
        asked.append(columns)
        for first in range(0, TILES, 2):
            yield plan.iloc[first : first + 2] if columns is None else plan.iloc[first : first + 2][columns]

    publish_tiles(tmp_path / "again", blocks, build)
    assert files_of(tmp_path / "again") == files_of(published[0])
    assert asked.count(None) == 1  # whole rows are read once, and no list of all is made but of what is named


def test_a_tile_of_two_blocks_is_told(tmp_path):
    plan, build = make_build(tmp_path / "out", 2)
    with pytest.raises(UsageError, match=f"tile {plan['tile_id'][0]} twice"):
        publish_tiles(tmp_path / "out", lambda columns: [plan, plan.head(1)], build)
    with pytest.raises(UsageError, match="nothing to publish"):
        publish_tiles(tmp_path / "out", lambda columns: [], build)


def test_rewriting_leaves_nothing_stale(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 4)
    publish_tiles(output, plan, build)
    before = files_of(output)
    publish_tiles(output, plan, build)
    assert files_of(output) == before
    publish_tiles(output, plan.head(2), build)
    after = files_of(output)
    assert sum(name.startswith("tiles/items/") for name in after) == 2
    assert sum(name.startswith("sources/") for name in after) == 5
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_interrupted_run_leaves_no_catalog_and_can_be_repeated(tmp_path, monkeypatch):
    output = tmp_path / "out"
    plan, build = make_build(output, 3)
    publish_tiles(output, plan, build)
    whole = files_of(output)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("catalog.publish.tiles.root_catalog", lambda _: {"unwritable": object()})
        with pytest.raises(TypeError):
            publish_tiles(output, plan, build)
        assert not (output / "catalog.json").exists()
    with monkeypatch.context() as patched:
        patched.setattr("catalog.publish.tiles.write_index", killed)
        with pytest.raises(KeyboardInterrupt):
            publish_tiles(output, plan, build)
    publish_tiles(output, plan, build)
    assert files_of(output) == whole


def test_all_that_is_published_is_recorded(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 3)
    for _ in range(2):  # where nothing was, and in the place of what there was
        with recorded(output) as written:
            publish_tiles(output, plan, build)
        assert {w.path for w in written} == set(files_of(output))
        assert all(w.digest == digest_of(output / w.path) for w in written)
    assert not [p for p in output.rglob("*") if is_stray(p.name)]


def test_a_lost_claim_keeps_the_old_catalog(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 3)
    publish_tiles(output, plan, build)
    whole, lost = files_of(output), False

    def check():
        if lost:
            raise ClaimLostError("lost")

    def prepared(made):
        nonlocal lost
        lost = True
        return root_catalog(made)

    with pytest.MonkeyPatch.context() as patched, fenced(output, check):
        patched.setattr("catalog.publish.tiles.root_catalog", prepared)
        with pytest.raises(ClaimLostError):
            publish_tiles(output, plan, replace(build, title="another"))
    assert files_of(output) == whole


def test_failure_before_the_exchange_keeps_the_old_catalog(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 3)
    publish_tiles(output, plan, build)
    whole = files_of(output)
    with pytest.raises(SourceError, match="not among the 0 sources given"):
        publish_tiles(output, plan, replace(build, sources={}))
    assert files_of(output) == whole


def test_many_tiles_are_split_by_day(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 1003)
    path = publish_tiles(output, plan, build)
    collection = json.loads((output / "tiles" / "collection.json").read_text())
    children = [link["href"] for link in collection["links"] if link["rel"] in ("child", "item")]
    assert children == [f"./2020-01-0{day}/catalog.json" for day in (1, 2, 3)]
    validate_stac(collection)
    day = output / "tiles" / "2020-01-02"
    validate_stac(json.loads((day / "catalog.json").read_text()))
    item = pystac.Item.from_file(next(day.glob("goes*.json")))
    validate_stac(item.to_dict(include_self_link=False, transform_hrefs=False))
    assert Path(item.assets["tiles"].get_absolute_href()) == output / "tiles.zarr"
    assert item.properties["datetime"].startswith("2020-01-02")
    for link in item.links:
        assert Path(link.get_absolute_href()).exists()
    ids = {item.id for item in pystac.Catalog.from_file(path).get_items(recursive=True)}
    assert ids == set(plan["tile_id"])
    assert parquet.read_metadata(output / "tiles" / "items.parquet").num_rows == 1003


def test_native_grid(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 1, native=True)
    publish_tiles(output, plan, build)
    item = item_of(output, plan, 0)
    validate_stac(item.to_dict(include_self_link=False, transform_hrefs=False))
    collection = json.loads((output / "tiles" / "collection.json").read_text())
    assert set(collection["cube:dimensions"]) == {"tile", "time", "band", "x_500m", "y_500m", "x_2km", "y_2km"}
    assert collection["cube:variables"]["C02"]["dimensions"] == ["tile", "time", "y_500m", "x_500m"]
    assert collection["summaries"]["gsd"] == [500.0]
    assert "thumbnail" not in item.assets


def test_source_by_address(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 1)
    scans = plan["scan_ids"][0]
    addresses = dict.fromkeys(scans, "https://example.org/scan.json")
    addresses[scans[1]] = "sources.json"
    publish_tiles(output, plan, replace(build, sources=addresses))
    hrefs = [link.href for link in item_of(output, plan, 0).links if link.rel == "derived_from"]
    assert hrefs == [addresses[scans[0]], "../../sources.json", addresses[scans[2]]]
    assert not list((output / "sources").iterdir())


def test_wrong_use_is_told_in_a_sentence(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 2)
    with pytest.raises(UsageError, match="nothing to publish"):
        publish_tiles(output, plan.head(0), build)
    with pytest.raises(UsageError, match="twice"):
        publish_tiles(output, pd.concat([plan, plan]), build)
    with pytest.raises(UsageError, match="no footprint"):
        publish_tiles(output, plan, replace(build, footprints={}))
    with pytest.raises(UsageError, match=re.escape("projections are given for goes18; add that platform")):
        publish_tiles(output, plan, replace(build, projections={"goes18": build.projections["goes16"]}))
    (output / "tiles").mkdir()
    (output / "tiles" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not part of a catalogue"):
        publish_tiles(output, plan, build)
    assert (output / "tiles" / "mine.txt").read_text() == "keep"


def test_missing_store_is_told(tmp_path):
    output = tmp_path / "out"
    plan, build = make_build(output, 1)
    (output / "tiles.zarr").rename(output / "elsewhere")
    with pytest.raises(SourceError, match="holds no Zarr group"):
        publish_tiles(output, plan, build)


def test_what_all_tiles_share_is_told_once(tmp_path):
    """Of seven steps and sixteen bands an item took 28 kB, most of it the same in all."""
    output = tmp_path / "out"
    plan, build = make_build(output, 2)
    plan = plan.head(1)
    longer = {
        name: plan[name].map(lambda steps: [*steps, *steps, steps[0]]) for name in ("requested_times", "scan_starts")
    }
    scans = [f"{plan['scan_ids'][0][0][:-3]}{step:03d}" for step in range(7)]
    plan = plan.assign(**longer, scan_ids=[scans], window_scores=[[1 / 3] * 7])
    bands = [replace(build.bands[0], name=f"C{n:02d}") for n in range(1, 17)]
    sources = dict.fromkeys(scans, next(iter(build.sources.values())))
    publish_tiles(output, plan, replace(build, sources=sources, bands=bands))
    path = output / "tiles" / "items" / f"{plan['tile_id'][0]}.json"
    assert path.stat().st_size < 3000
    collection = json.loads((output / "tiles" / "collection.json").read_text())
    validate_stac(collection)
    validate_stac(json.loads(path.read_text()))
    shared = collection["item_assets"]["tiles"]
    assert pyproj.CRS.from_wkt(shared["proj:wkt2"]) == build.projections["goes16"]
    assert [band["name"] for band in shared["bands"]] == [band.name for band in bands]


def test_tiles_of_two_satellites_tell_their_own_projections(published):
    output, plan, build, _ = published
    collection = json.loads((output / "tiles" / "collection.json").read_text())
    assert "proj:wkt2" not in collection["item_assets"]["tiles"]
    told = [pyproj.CRS.from_wkt(item_of(output, plan, tile).properties["proj:wkt2"]) for tile in range(TILES)]
    assert told == [build.projections[platform] for platform in plan["platform"]]


def test_beyond_a_limit_items_and_scans_are_in_tables_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.publish.tiles.FILES_LIMIT", 4)
    output = tmp_path / "out"
    plan, build = make_build(output, TILES)
    add_companions(output, plan)
    path = publish_tiles(output, plan, build)
    assert {p.name for p in (output / "tiles").rglob("*")} == {"collection.json", "items.parquet"}
    assert not list((output / "sources").iterdir())
    validate_stac(json.loads((output / "tiles" / "collection.json").read_text()))
    assert not list(pystac.Catalog.from_file(path).get_items(recursive=True))
    items = list(stac_geoparquet.arrow.stac_table_to_items(parquet.read_table(output / "tiles" / "items.parquet")))
    assert [item["id"] for item in items] == list(plan["tile_id"])
    for item, scans in zip(items, plan["scan_ids"], strict=True):
        assert item["properties"]["stratacube:scan_ids"] == scans
        for holder in (*item["links"], *item["assets"].values()):
            assert (output / "tiles" / holder["href"]).exists(), holder
    before = files_of(output)
    publish_tiles(output, plan, build)
    assert files_of(output) == before
    # A list that names files of this machine is not shown to others; one of what the tiles were made of is.
    (output / "sources.json").write_text('{"features": [\n{"assets": {"C13": {"href": "/archive/C13.nc"}}}\n]}')
    publish_tiles(output, plan, build)
    told = json.loads((output / "tiles" / "collection.json").read_text())["assets"]["sources"]
    rows = stac_geoparquet.arrow.stac_table_to_items(parquet.read_table(output / "tiles" / told["href"]))
    used = sorted({scan for scans in plan["scan_ids"] for scan in scans if scan})
    hrefs = [source_item(build.sources[scan])["assets"]["C13"]["href"] for scan in used]
    assert [(row["id"], row["assets"]["C13"]["href"]) for row in rows] == [*zip(used, hrefs, strict=True)]


@pytest.mark.parametrize("form", ["json", "parquet"])
@pytest.mark.parametrize(
    ("href", "public"), [("/a/b.nc", False), ("file:///a/b.nc", False), ("s3://a/b.nc", True), ("a/b.nc", True)]
)
def test_lists_that_lead_to_this_machine_are_known(tmp_path: Path, form: str, href: str, public: bool) -> None:
    items = [
        {"id": str(n), "assets": {"C01": {"href": "s3://a/c.nc"}, "C02": {"href": href if n == 1 else "https://a/d"}}}
        for n in range(3)
    ]
    path = tmp_path / f"sources.{form}"
    if form == "json":
        path.write_text(json.dumps({"features": items}, indent=1))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(items), path)
    assert is_public(path) is public


@pytest.mark.parametrize(("protocol", "public"), [("file", False), ("s3", True)])
def test_references_that_lead_to_this_machine_are_known(tmp_path: Path, protocol: str, public: bool) -> None:
    told = {"href": "./C13", "xarray:open_kwargs": {"storage_options": {"remote_protocol": protocol}}}
    write_json(tmp_path / "collection.json", {"assets": {"C13": told}})
    assert is_public(tmp_path) is is_public(tmp_path / "collection.json") is public


def test_fields_that_only_late_items_have_are_in_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr("catalog.publish.geoparquet._BATCH", 1)
    output = tmp_path / "out"
    plan, build = make_build(output, TILES)
    last = pd.DataFrame([{"tile": plan["tile_id"].iloc[-1], "scan": "", "file": "late.nc", "reason": "late"}])
    plan["system_id"] = pd.array([pd.NA] * (TILES - 1) + [17], dtype="Int64")
    plan.at[0, "scan_starts"] = [None] * len(plan["scan_starts"][0])
    publish_tiles(output, plan, replace(build, errors=last))
    items = list(stac_geoparquet.arrow.stac_table_to_items(parquet.read_table(output / "tiles" / "items.parquet")))
    told = [item["properties"] for item in items]
    assert [t.get("stratacube:system_id") for t in told] == [None] * (TILES - 1) + [17]
    assert [t["stratacube:scan_starts"][0] is None for t in told] == [True] + [False] * (TILES - 1)
    assert [e["reason"] for t in told for e in t.get("stratacube:errors") or []] == ["late"]


def test_what_tells_the_time_is_written_when_all_is_prepared(tmp_path):
    output, seen = tmp_path / "out", []
    plan, build = make_build(output, 1)
    publish_tiles(output, plan, build)
    publish_tiles(output, plan, build, lambda: seen.append(len(list(output.glob(".tiles.*/tiles/items.parquet")))))
    assert seen == [1]


def test_files_of_this_machine_are_told_by_where_the_agency_has_them() -> None:
    hrefs = {"C01": "/a/x.nc", "C02": "file:///a/y.nc", "C03": "b/z.nc", "C04": "s3://other/w.nc"}
    item = {"id": "scan", "links": [], "assets": {name: {"href": href} for name, href in hrefs.items()}}
    told = source_item(item, {"x.nc": "s3://agency/x.nc"}.get)
    found = {name: asset["href"] for name, asset in told["assets"].items()}
    assert found == {"C01": "s3://agency/x.nc", "C03": "../b/z.nc", "C04": "s3://other/w.nc"}
    assert relative("/a/tiles.zarr", "tiles") == "/a/tiles.zarr"
    assert relative("tiles.zarr", "tiles/items") == "../../tiles.zarr"


def test_a_large_file_is_told_by_its_size_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert file_fields(tmp_path / "a").keys() == {"file:size", "file:checksum"}
    monkeypatch.setattr("catalog.publish.public.LARGEST_READ", 4)
    assert file_fields(tmp_path / "a") == {"file:size": 5}
    assert file_fields(tmp_path) == {}
