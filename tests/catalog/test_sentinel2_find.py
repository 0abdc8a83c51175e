"""Names, items of several APIs, filters, de-duplication, and searches kept on disk."""

from __future__ import annotations

import ast
import csv
import json
import re
import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from catalog.sentinel2.convert import item_from_product, product_from_item, products_from_items
from catalog.sentinel2.find import find_products, find_safe, save_found
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.lists import mark_fetched, write_scene_files
from catalog.sentinel2.names import (
    asset_key,
    normalise_baseline,
    normalise_platform,
    normalise_tile,
    parse_datastrip,
    parse_product_name,
)
from catalog.sentinel2.query import Query
from catalog.sentinel2.saved import load_items, save_items
from catalog.sentinel2.select import deduplicate, refuse_lacking, select_products
from stratacube.errors import SourceError, UsageError
from tests.stac_validation import validate_stac

EVER = Query(start=datetime(2014, 1, 1), end=datetime(2030, 1, 1))


def product(
    name: str = "S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T212700",
    strip: str = "20200703T103715",
    **changes: Any,
) -> Product:
    told = parse_product_name(name)
    fields: dict[str, Any] = {
        "id": name,
        "tile": told.tile,
        "platform": told.platform,
        "datatake_start": told.sensing,
        "datastrip_start": datetime.strptime(strip, "%Y%m%dT%H%M%S") if strip else None,
        "baseline": told.baseline,
        "processing_time": told.discriminator,
        "relative_orbit": told.relative_orbit,
        "bbox": (7.6, 46.8, 9.1, 47.8),
    }
    return Product(**{**fields, **changes})


@pytest.fixture
def stac(data_folder: Path) -> Path:
    folder = data_folder / "stac"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def features(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    return content["features"] if content["type"] == "FeatureCollection" else [content]


# names


def test_baseline_is_that_of_the_product_alone() -> None:
    path = "/data/S2_N0101_R001/S2A_MSIL2A_20220217T183431_N0510_R027_T13VEK_20240516T022440.SAFE/"
    name = parse_product_name(path)
    assert (name.baseline, name.relative_orbit, name.tile, name.platform) == ("05.10", 27, "13VEK", "sentinel-2a")
    assert parse_product_name("S2B_MSIL2A_20220217T183431_N9999_R027_T13VEK_20240516T022440").baseline == "99.99"
    for wrong in (
        "S2A_MSIL1C_20220217T183431_N0510_R027_T13VEK_20240516T022440",
        "S2A_MSIL2A_20220217T183431_R027_T13VEK_20240516T022440",
        "",
    ):
        with pytest.raises(SourceError, match="is not the name of a Sentinel-2 L2A product"):
            parse_product_name(wrong)


def test_small_names() -> None:
    assert asset_key("a/T32TMT_20200703T103031_B8A_20m.jp2") == "B8A_20m"
    assert asset_key("SCL_20m") == "SCL_20m"
    assert asset_key("B02_20m.jp2/other.txt") is None
    assert normalise_tile("MGRS-6VVN") == normalise_tile("T06VVN") == "06VVN"
    assert normalise_tile("nowhere") is None
    assert {normalise_platform(p) for p in ("S2A", "Sentinel-2A", "sentinel-2a", "2A")} == {"sentinel-2a"}
    assert {normalise_baseline(b) for b in ("N0510", "0510", "5.10", "05.10")} == {"05.10"}
    strip = "S2A_OPER_MSI_L2A_DS_S2RP_20230613T212700_S20200703T103715_N05.00"
    assert parse_datastrip(strip) == datetime(2020, 7, 3, 10, 37, 15)
    for function, wrong in ((normalise_platform, "landsat-8"), (normalise_baseline, "newest")):
        with pytest.raises(UsageError, match="is unknown"):
            function(wrong)


# items


def test_recorded_cdse_items(stac: Path) -> None:
    paths = [*sorted((stac / "cdse" / "recorded").glob("item_*.json")), *(stac / "cdse").glob("S2A_*.json")]
    assert len(paths) == 6
    for path in paths:
        (item,) = features(path)
        found = product_from_item(item)
        properties = item["properties"]
        assert found.id == item["id"]
        assert found.baseline == properties["processing:version"]
        assert f"MGRS-{found.tile}" == properties["grid:code"]
        assert found.platform == properties["platform"]
        assert found.relative_orbit == properties["sat:relative_orbit"]
        assert found.cloud_cover == properties["eo:cloud_cover"]
        assert found.sun_elevation == properties["view:sun_elevation"]
        assert found.datatake_start.microsecond == 24_000
        assert found.datastrip_start is not None
        assert f"_S{found.datastrip_start:%Y%m%dT%H%M%S}_" in properties["eopf:datastrip_id"]
        assert found.bbox == pytest.approx(item["bbox"], abs=1e-5)
        assert "B08_10m" in found.assets
        assert not {"B08_20m", "SCL_10m", "thumbnail", "Product"} & set(found.assets)
        band = found.assets["B02_20m"]
        assert (band.shape, band.size) == ((5490, 5490), item["assets"]["B02_20m"]["file:size"])
        assert band.transform == tuple(item["assets"]["B02_20m"]["proj:transform"])
        assert band.proj_code == item["assets"]["B02_20m"]["proj:code"]
        assert band.checksum is not None
        assert item["assets"]["B02_20m"]["file:checksum"].endswith(band.checksum)
        for key in ("product_metadata", "granule_metadata"):  # 32 bytes behind the prefix of MD5
            assert len(found.assets[key].checksum or "") == 64
        s3 = product_from_item(item, "s3")
        for key, asset in found.assets.items():
            assert asset.href.startswith("https://zipper.dataspace.copernicus.eu/odata/v1/Products(")
            assert "Nodes()" not in asset.href
            nodes = [part.rstrip(")") for part in asset.href.removesuffix("/$value").split("/Nodes(")[1:]]
            assert s3.assets[key].href.startswith("s3://eodata/Sentinel-2/MSI/L2A_N05")
            assert s3.assets[key].href.endswith("/".join(nodes))


def test_other_apis(stac: Path, data_folder: Path) -> None:
    found, refused = products_from_items(features(stac / "planetary_computer" / "site2-2020_jun_jul-35MNM.geojson"))
    assert (len(found), refused) == (13, [])
    first = found[0]
    assert first.id == "S2A_MSIL2A_20200731T080611_N0212_R078_T35MNM_20200818T062751"
    assert first.baseline == "02.12"
    assert first.sun_elevation == pytest.approx(90 - 36.401639408824)
    assert first.assets["SCL_20m"].proj_code == "EPSG:32735"
    assert {"B02_10m", "B8A_20m", "B09_60m", "product_metadata", "granule_metadata"} <= set(first.assets)
    (old,) = products_from_items(features(stac / "earth_search" / "S2A_28QCH_20200714_0_L2A.json"))[0]
    assert old.datatake_start == datetime(2020, 7, 14, 11, 52, 21)  # not the tile's own 11:55:52
    assert old.assets["SCL_20m"].transform == (20.0, 0.0, 300000.0, 0.0, -20.0, 2300040.0)
    mixed, others = products_from_items(features(stac / "earth_search" / "recorded" / "search_filter_page1.json"))
    assert {p.baseline for p in mixed} == {"05.11"}
    assert {p.offset_applied for p in mixed} == {True, False}  # the older collection's COGs have it, c1's have not
    assert {d.id[:3] for d in others} == {"S1A", "S2B"}
    paths = sorted((data_folder / "sentinel2" / "t33twl_120m_2023").glob("*/*_L2A.json"))
    for path in paths:
        (local,) = products_from_items(load_items(path))[0]
        assert local.offset_applied
        assert Path(local.assets["SCL_20m"].href) == path.parent / "SCL.tif"
        assert local.assets["B08_10m"].proj_code == "EPSG:32633"


def test_items_of_products_are_read_back_and_valid(stac: Path) -> None:
    for item in features(stac / "cdse" / "recorded" / "search_sentinel-2-l2a_32T_2020-07.json"):
        found = product_from_item(item)
        described = item_from_product(found)
        assert product_from_item(json.loads(json.dumps(described))) == found
        # CDSE's rings run clockwise, and there are no schemas here of these three.
        described["geometry"]["coordinates"][0].reverse()
        described["stac_extensions"] = [
            e for e in described["stac_extensions"] if not re.search(r"/(grid|sat|view)/", e)
        ]
        for field in ("grid:code", "sat:relative_orbit", "view:sun_elevation"):
            del described["properties"][field]
        validate_stac(described)


def test_what_is_no_product_is_told() -> None:
    for item in ({}, {"id": "x", "properties": {}, "assets": {}}, {"id": "x", "properties": None, "assets": None}):
        with pytest.raises(SourceError, match="does not describe a Sentinel-2 L2A product"):
            product_from_item(item)


def test_footprint_across_the_antimeridian() -> None:
    ring = [[179.5, 60.0], [-179.0, 60.0], [-179.0, 61.0], [179.5, 61.0], [179.5, 60.0]]
    pieces = [[[[179.5, 60], [180, 60], [180, 61], [179.5, 60]]], [[[-180, 60], [-179, 60], [-179, 61], [-180, 60]]]]
    plain = item_from_product(product("S2A_MSIL2A_20200703T103031_N0500_R108_T01VCH_20230613T212700"))
    for geometry in (
        {"type": "Polygon", "coordinates": [ring]},
        {"type": "Polygon", "coordinates": [[[x + 360 if x < 0 else x, y] for x, y in ring]]},
        {"type": "MultiPolygon", "coordinates": pieces},
    ):
        found = product_from_item({**plain, "geometry": geometry, "bbox": [-180, 60, 180, 61]})
        assert found.bbox == (179.5, 60, -179.0, 61)
        for area, touches in (
            ((179.0, 61.0, -179.5, 61.5), True),
            ((-179.9, 61.0, -179.2, 61.5), True),
            ((0.0, 61.0, 1.0, 61.5), False),
        ):
            assert (replace(EVER, areas=(area,)).refusal(found) == "") is touches


# filters


def test_filters_name_what_they_refuse() -> None:
    one = product(cloud_cover=30.0, sun_elevation=20.0)
    for changes, reason in (
        ({"end": datetime(2020, 7, 3, 10, 30, 31)}, "sensed 2020-07-03 10:30:31, outside of the period"),
        ({"max_cloud_cover": 29.9}, "cloud cover 30.0 % is above 29.9 %"),
        ({"min_sun_elevation": 20.5}, "sun elevation 20.0 is below 20.5 degrees"),
        ({"orbits": [107]}, "orbit 108 is not asked for"),
        ({"platforms": ["S2B"]}, "platform sentinel-2a is not asked for"),
        ({"months": [6, 8]}, "sensed in month 7"),
        ({"baselines": ["0510"]}, "baseline 05.00 is not asked for"),
        ({"areas": ((20.0, 46.0, 21.0, 47.0),)}, "does not touch the area"),
    ):
        assert replace(EVER, **changes).refusal(one) == reason
    wanted = replace(
        EVER,
        start=one.datatake_start,
        max_cloud_cover=30,
        min_sun_elevation=20,
        orbits=[108],
        platforms=["S2A"],
        months=[7],
        baselines=["N0500"],
        areas=((9.0, 47.0, 10.0, 48.0),),
    )
    assert wanted.refusal(one) == ""
    assert (
        replace(EVER, max_cloud_cover=1, min_sun_elevation=1).refusal(
            replace(one, cloud_cover=None, sun_elevation=None)
        )
        == ""
    )


def test_the_tile_decides_and_not_the_footprint() -> None:
    """Bow-ties, footprints of another place, too small ones and none: the tile 32TMT reaches from 7.66 E, 47.85 N."""
    corner = replace(EVER, areas=((7.5, 47.8, 7.7, 47.9),))
    bow_tie = [[7.7, 46.9], [9.1, 47.8], [9.1, 46.9], [7.7, 47.8], [7.7, 46.9]]
    for ring in (bow_tie, [[20, 0], [21, 0], [21, 1], [20, 0]], [[9, 47], [9.1, 47], [9.1, 47.1], [9, 47]], []):
        item = {**item_from_product(product()), "geometry": {"type": "Polygon", "coordinates": [ring]}}
        assert corner.refusal(product_from_item(item)) == ""
    assert corner.refusal(product_from_item({**item_from_product(product()), "geometry": None})) == ""
    south = replace(EVER, areas=((7.5, 46.7, 7.7, 46.8),))
    over_it = [[7, 46], [8, 46], [8, 47], [7, 47], [7, 46]]
    assert south.refusal(replace(product(), geometry={"type": "Polygon", "coordinates": [over_it]})) != ""


def test_months_cut_the_period() -> None:
    query = Query(start=datetime(2019, 6, 15), end=datetime(2021, 7, 2), months=[12, 1, 6, 7])
    assert query.intervals() == [
        (datetime(2019, 6, 15), datetime(2019, 8, 1)),
        (datetime(2019, 12, 1), datetime(2020, 2, 1)),
        (datetime(2020, 6, 1), datetime(2020, 8, 1)),
        (datetime(2020, 12, 1), datetime(2021, 2, 1)),
        (datetime(2021, 6, 1), datetime(2021, 7, 2)),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"end": datetime(2014, 1, 1)},
        {"areas": ((0.0, 10.0, 1.0, 9.0),)},
        {"areas": ((0.0, 10.0, 190.0, 11.0),)},
        {"months": [13]},
        {"platforms": ["S1A"]},
        {"baselines": ["x"]},
    ],
)
def test_wrong_queries_are_told(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(EVER, **changes)


# de-duplication


def test_highest_baseline_then_latest_processing() -> None:
    ids = [
        "S2A_MSIL2A_20200703T103031_N0214_R108_T32TMT_20200703T140000",
        "S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T212700",
        "S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230614T212700",
        "S2A_MSIL2A_20200703T103031_N9999_R108_T32TMT_20240101T000000",
    ]
    for order in (ids, ids[::-1]):
        kept = deduplicate([product(i) for i in order])
        assert [p.id for p in kept.products] == [ids[2]]
        reasons = {d.id: d.reason for d in kept.dropped}
        same = f"same tile, datatake and datastrip as {ids[2]}, which"
        assert reasons == {
            ids[0]: f"{same} has baseline 05.00 and not 02.14",
            ids[1]: f"{same} was processed later (2023-06-14 21:27:00)",
            ids[3]: f"{same} has baseline 05.00 and not 99.99",
        }


def test_halves_of_a_tile_are_kept() -> None:
    first = product()
    second = product("S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T220000", strip="20200703T104015")
    again = product("S2A_MSIL2A_20200703T103031_N0300_R108_T32TMT_20200703T140000", strip="20200703T104015")
    other = product("S2B_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T212700")
    kept = deduplicate([first, second, again, other, product(strip="")])
    assert {(p.id, p.datastrip_start) for p in kept.products} == {
        (p.id, p.datastrip_start) for p in (first, second, other)
    }
    # one product in two forms, of which one tells no datastrip, is one
    assert [d.id for d in kept.dropped] == [again.id, first.id]


def test_milliseconds_of_catalogues_do_not_matter() -> None:
    exact = product(datatake_start=datetime(2020, 7, 3, 10, 30, 31, 24000))
    kept = deduplicate([product(), exact])
    assert len(kept.products) == 1
    assert kept.dropped[0].reason.startswith("listed twice")


def test_real_pair_of_one_processing_time(data_folder: Path) -> None:
    folder = data_folder / "sentinel2" / "metadata"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    found, dropped = find_safe(folder)
    pair = [p for p in found if p.tile == "01WCP"]
    assert len(pair) == 2
    kept = deduplicate(pair)
    assert len(kept.products) == len(kept.dropped) == 1
    assert kept.products[0].id >= kept.dropped[0].id
    assert "is not of level 2A" in {d.reason for d in dropped}
    assert all(d.reason for d in dropped)


# searches kept on disk


def recorded(stac: Path) -> list[dict[str, Any]]:
    return features(stac / "cdse" / "recorded" / "search_sentinel-2-l2a_32T_2020-07.json")


@pytest.mark.parametrize("name", ["items.json", "items.parquet"])
def test_saved_search_is_replayed(stac: Path, tmp_path: Path, name: str) -> None:
    items = recorded(stac)
    bare = json.loads(json.dumps(items[0]))
    del bare["assets"]["B02_20m"]  # columns of a table are those of all items
    bare["id"] = bare["id"].replace("T32TNT", "T32TPT")
    for asset in bare["assets"].values():
        if "proj:transform" in asset:
            asset["proj:transform"][2] = 600000
    query = replace(EVER, max_cloud_cover=50)
    save_items(tmp_path / name, [*items, bare])
    found = find_products(query, items=tmp_path / name)
    expected = select_products([product_from_item(i) for i in [*items, bare]], query)
    assert found.products == expected.products
    assert found.selection.dropped == expected.dropped
    assert [p.id[39:44] for p in found.products] == ["32TMT", "32TNT", "32TPT"]
    assert "B02_20m" not in found.products[-1].assets
    assert [f.name for f in tmp_path.iterdir()] == [name]
    assert [i["id"] for i in found.items[1:3]] == [i["id"] for i in items[1:3]]


def test_lists_of_the_predecessor(stac: Path, tmp_path: Path) -> None:
    save_items(tmp_path / "search.json", recorded(stac))
    found = find_products(replace(EVER, max_cloud_cover=20), items=tmp_path / "search.json")
    path = save_found(found, tmp_path / "indices", geoparquet=True)
    assert list(load_items(path)) == recorded(stac)
    by_s3 = find_products(EVER, items=tmp_path / "search.json", access="s3")  # whose addresses tell no number
    save_found(by_s3, tmp_path / "s3")
    with (tmp_path / "s3" / "query_manifest.csv").open() as file:
        assert {r["Name"]: r["Id"] for r in csv.DictReader(file)} == {
            f"{i['id']}.SAFE": re.search(r"Products\(([^)]+)\)", json.dumps(i))[1]  # type: ignore[index]
            for i in recorded(stac)
        }
    with (tmp_path / "indices" / "query_manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["Id", "Name", "ContentDate", "queried_utc"]  # as the predecessor's code has them
    for row in rows:
        assert row["Name"] == f"{row['product_id']}.SAFE"
        begun = ast.literal_eval(row["ContentDate"])["Start"]  # a dict as pandas writes one
        assert datetime.fromisoformat(begun).replace(tzinfo=None) == datetime.fromisoformat(row["sensing_time"])
        (item,) = (i for i in recorded(stac) if i["id"] == row["product_id"])
        assert f"/Products({row['Id']})/" in json.dumps(item)
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", row["Id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["queried_utc"])
    assert [(r["product_id"][39:44], r["status"]) for r in rows] == [
        ("32TNT", "dropped"),
        ("32TMT", "used"),
        ("32TNT", "dropped"),
        ("32TMT", "dropped"),
    ]
    assert rows[0]["reason"] == "cloud cover 31.6 % is above 20 %"
    assert rows[1]["reason"] == ""
    assert len(load_items(tmp_path / "indices" / "items.parquet")) == 4
    band = tmp_path / "B02.jp2"
    band.write_bytes(b"x")
    (used,) = found.products
    used = replace(used, assets={**used.assets, "B02_20m": Asset(href=str(band), size=1)})
    write_scene_files(tmp_path / "indices" / "scene_files.csv", [used])
    with (tmp_path / "indices" / "scene_files.csv").open() as file:
        scenes = {(r["band"], r["resolution"]): r for r in csv.DictReader(file)}
    assert scenes["B02", "20m"]["fetched"] == "1"
    assert scenes["SCL", "20m"]["fetched"] == "0"
    assert len(scenes) == len(used.assets) - 3
    # an image of EOPF's form is a folder
    (tmp_path / "B03").mkdir()
    (tmp_path / "B03" / ".zarray").write_text("{}")
    array = replace(used, assets={**used.assets, "B03_20m": Asset(href=str(tmp_path / "B03"))})
    write_scene_files(tmp_path / "arrays.csv", [array])
    with (tmp_path / "arrays.csv").open() as file:
        assert {r["band"] for r in csv.DictReader(file) if r["fetched"] == "1"} == {"B02", "B03"}
    # a remote file has the path it will have; once it lies there, the index can be told
    index = tmp_path / "indices" / "scene_files.csv"
    write_scene_files(index, found.products, tmp_path / "imagery_raw")
    with index.open() as file:
        (row,) = [r for r in csv.DictReader(file) if (r["band"], r["resolution"]) == ("SCL", "20m")]
    assert row["path"].startswith(str(tmp_path / "imagery_raw" / f"{used.id}.SAFE" / "GRANULE"))
    assert row["fetched"] == "0"
    Path(row["path"]).parent.mkdir(parents=True)
    Path(row["path"]).write_bytes(b"x")
    mark_fetched(index)
    with index.open() as file:
        assert [r["path"] for r in csv.DictReader(file) if r["fetched"] == "1"] == [row["path"]]


def test_search_counts_as_saved_only_with_its_lists(stac: Path, tmp_path: Path) -> None:
    save_items(tmp_path / "search.json", recorded(stac))
    found = find_products(EVER, items=tmp_path / "search.json")
    (tmp_path / "indices").mkdir()
    (tmp_path / "indices" / "query_manifest.csv").mkdir()  # cannot be replaced by a file
    with pytest.raises(SourceError, match=r"cannot be written .*; mend that and run the same command again"):
        save_found(found, tmp_path / "indices")
    assert not (tmp_path / "indices" / "items.json").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not a STAC ItemCollection"),
        ("[]", "holds a list, not a STAC ItemCollection"),
        ('{"type": "Catalog"}', "holds a Catalog, not"),
        ('{"type": "FeatureCollection"}', "is not a STAC ItemCollection"),
    ],
)
def test_wrong_item_files_are_told(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        find_products(EVER, items=path)
    path.write_text('{"type":"FeatureCollection","features":[\n{"id": "cut", "assets": {}},\n')
    with pytest.raises(UsageError, match="breaks off before its end"):
        load_items(path)
    with pytest.raises(UsageError, match="there is no file"):
        find_products(EVER, items=tmp_path / "none.json")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(UsageError, match="is not a STAC ItemCollection"):
        load_items(tmp_path / "x.parquet")


def test_empty_search_and_search_of_which_nothing_is_wanted(stac: Path, tmp_path: Path) -> None:
    save_items(tmp_path / "none.json", [])
    with pytest.raises(UsageError, match="has no Sentinel-2 L2A product from 2014-01-01T00:00"):
        find_products(EVER, items=tmp_path / "none.json")
    save_items(tmp_path / "some.json", recorded(stac))
    with pytest.raises(UsageError, match=r"none of 4 products .* is wanted: 4 x cloud cover is above 5 %; widen"):
        find_products(replace(EVER, max_cloud_cover=5), items=tmp_path / "some.json")


def test_where_products_cannot_be_read_nothing_found_is_no_wrong_use(tmp_path: Path) -> None:
    other, broken = (
        f"S2A_MSI{level}_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE" for level in ("L1C", "L2A")
    )
    (tmp_path / other).mkdir()
    with pytest.raises(UsageError, match=r"none of 1 products .* is wanted: 1 x is not of level 2A; widen"):
        find_products(EVER, safe_dir=tmp_path)
    (tmp_path / broken).mkdir()
    with pytest.raises(SourceError, match=r"none of 2 products .*; mend those that cannot be read, or widen"):
        find_products(EVER, safe_dir=tmp_path)


def test_files_that_no_product_has_are_refused_at_once() -> None:
    asset = Asset(href="/x.jp2")
    one, other = (
        replace(product(), assets=dict.fromkeys(keys, asset)) for keys in (("B02_10m", "SCL_20m"), ("B03_10m",))
    )
    refuse_lacking([one, other], ["B02_10m", "B03_10m"])
    refuse_lacking([], ["B11_20m"])
    with pytest.raises(UsageError, match=r"none of 2 products has B11_20m; they have B02_10m, B03_10m: change `bands`"):
        refuse_lacking([one, other], ["B02_10m", "B11_20m"])


# folders of SAFE products


def test_folder_of_safe_products(data_folder: Path, tmp_path: Path) -> None:
    name = "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE"
    source = data_folder / "sentinel2" / "metadata" / name
    if not source.is_dir():
        pytest.skip(f"{source} is not here")
    shutil.copytree(source, tmp_path / "a" / "deep" / name)
    (tmp_path / "a" / "S2A_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found, dropped = find_safe(tmp_path)
    assert [p.id for p in found] == [name.removesuffix(".SAFE")]
    assert [d.reason.partition(" has ")[2][:16] for d in dropped] == ["0 MTD_MSIL2A.xml"]
    searched = find_products(EVER, safe_dir=tmp_path)
    assert list(searched.products) == found
    assert product_from_item(searched.items[0]) == found[0]
    with pytest.raises(UsageError, match="there is no folder"):
        find_safe(tmp_path / "none")
