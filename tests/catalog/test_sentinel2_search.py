"""Searching: a real STAC server, CDSE's recorded answers on command, and the OData fallback."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from catalog.sentinel2.fetch import Fetcher
from catalog.sentinel2.find import find_products
from catalog.sentinel2.items import Asset
from catalog.sentinel2.odata import expand_manifest, product_from_odata, search_odata
from catalog.sentinel2.query import Query
from catalog.sentinel2.rate import Pace
from catalog.sentinel2.search import search_stac
from catalog.sentinel2.web import PacedAdapter
from stratacube.errors import SourceError, UsageError
from tests.catalog.cdse_server import Answer, CdseServer, serve
from tests.catalog.stac_server import serve_items
from tests.catalog.test_sentinel2_fetch import download

JULY = Query(start=datetime(2020, 7, 1), end=datetime(2020, 8, 1), areas=((8.0, 46.5, 10.0, 47.5),))


@pytest.fixture
def cdse() -> Iterator[CdseServer]:
    with serve() as server:
        yield server


@pytest.fixture
def stac(data_folder: Path) -> Path:
    folder = data_folder / "stac"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture
def items(stac: Path) -> list[dict[str, Any]]:
    path = stac / "cdse" / "recorded" / "search_sentinel-2-l2a_32T_2020-07.json"
    return list(json.loads(path.read_text())["features"])


@pytest.fixture(scope="module")
def rustac(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Iterator[str]:
    """Landing page of a real STAC server with the recorded items and 30 younger twins."""
    path = data_folder / "stac" / "cdse" / "recorded" / "search_sentinel-2-l2a_32T_2020-07.json"
    if not path.is_file():
        pytest.skip("the recorded search is not here")
    recorded = json.loads(path.read_text())["features"]
    with serve_items(tmp_path_factory.mktemp("stac"), recorded + [_twin(recorded[0], day) for day in range(30)]) as url:
        yield url


def _twin(item: dict[str, Any], day: int) -> dict[str, Any]:
    time_ = datetime(2021, 7, 1, 10, 16) + timedelta(days=day)
    twin = json.loads(json.dumps(item))
    twin["id"] = f"S2B_MSIL2A_{time_:%Y%m%dT%H%M%S}_N0500_R065_T32TNT_20230530T175912"
    twin["properties"] |= dict.fromkeys(("datetime", "start_datetime", "end_datetime"), time_.isoformat() + "Z")
    twin["assets"] = {k: twin["assets"][k] for k in ("B02_20m", "SCL_20m")}
    return dict(twin)


# a real server


def test_real_server_gives_all_pages(rustac: str) -> None:
    query = replace(JULY, start=datetime(2021, 7, 1), end=datetime(2021, 8, 1))
    found = search_stac(query, rustac, page_size=7, pace=Pace(1000.0))
    assert len({i["id"] for i in found}) == len(found) == 30
    assert [i["properties"]["datetime"] for i in found] == sorted(i["properties"]["datetime"] for i in found)


def test_real_server_area_period_and_filters(rustac: str) -> None:
    found = find_products(replace(JULY, max_cloud_cover=50), stac_url=rustac)
    assert [p.id[39:44] for p in found.products] == ["32TMT", "32TNT"]
    assert {d.reason for d in found.selection.dropped} == {
        "cloud cover 99.7 % is above 50 %",
        "cloud cover 98.4 % is above 50 %",
    }
    west = replace(JULY, areas=((7.7, 46.9, 7.9, 47.0),))
    assert {p.tile for p in find_products(west, stac_url=rustac).products} == {"32TMT"}
    summers = replace(JULY, end=datetime(2022, 1, 1), months=[7], platforms=["S2B"])
    assert len(find_products(summers, stac_url=rustac).products) == 32
    with pytest.raises(
        UsageError, match="has no Sentinel-2 L2A product from 2020-07-01T00:00 to 2020-08-01T00:00 in 170"
    ):
        find_products(replace(JULY, areas=((170.0, 0.0, -170.0, 1.0),)), stac_url=rustac)


def test_unknown_collection_and_what_is_no_api(rustac: str, cdse: CdseServer) -> None:
    assert len(search_stac(JULY, rustac, "sentinel-3")) == 0
    cdse.search = lambda path, asked: (200, {"Content-Type": "application/json"}, b'{"hello": "world"}')
    with pytest.raises(UsageError, match=r"is not a STAC API .*; give its landing page as `stac_url`"):
        search_stac(JULY, cdse.url)


# CDSE's answers, on command


def as_cdse(
    cdse: CdseServer, stac: Path, pages: list[list[dict[str, Any]]], conforms: str = ""
) -> list[dict[str, Any]]:
    """Let the server answer as CDSE's STAC API does; returns the list of search bodies it gets."""
    landing = json.loads((stac / "cdse" / "recorded" / "root_v1.json").read_text())
    text = json.dumps(landing).replace("https://stac.dataspace.copernicus.eu/v1/", f"{cdse.url}/v1/")
    root = json.loads(text)
    root["conformsTo"] = [c for c in root["conformsTo"] if not conforms or not re.search(conforms, c)]
    bodies: list[dict[str, Any]] = []

    def answer(path: str, asked: dict[str, Any]) -> Answer:
        if path == "/v1/":
            return 200, {"Content-Type": "application/json"}, json.dumps(root).encode()
        bodies.append(asked)
        number = int(asked.get("token", 0))
        links = []
        if number + 1 < len(pages):
            body = {**asked, "token": str(number + 1)}
            links = [{"rel": "next", "href": f"{cdse.url}/v1/search", "method": "POST", "body": body}]
        page = {"type": "FeatureCollection", "features": pages[number], "links": links}
        return 200, {"Content-Type": "application/geo+json"}, json.dumps(page).encode()

    cdse.search = answer
    return bodies


def test_cdse_gets_filters_as_cql2(cdse: CdseServer, stac: Path, items: list[dict[str, Any]]) -> None:
    bodies = as_cdse(cdse, stac, [items[:2], items[2:]])
    query = replace(
        JULY, max_cloud_cover=99.5, min_sun_elevation=10, orbits=[65, 108], platforms=["S2B"], baselines=["05.00"]
    )
    found = search_stac(query, f"{cdse.url}/v1/", page_size=2, pace=Pace(1000.0))
    assert [i["id"] for i in found] == sorted((i["id"] for i in items), key=lambda i: (i[11:26], i))
    first = bodies[0]
    assert first["collections"] == ["sentinel-2-l2a"]
    assert first["limit"] == 2
    assert first["datetime"] == "2020-06-30T23:00:00Z/2020-08-01T01:00:00Z"
    assert first["filter-lang"] == "cql2-json"
    assert first["filter"] == {
        "op": "and",
        "args": [
            {"op": "<=", "args": [{"property": "eo:cloud_cover"}, 99.5]},
            {"op": ">=", "args": [{"property": "view:sun_elevation"}, 10]},
            {
                "op": "or",
                "args": [
                    {"op": "=", "args": [{"property": "sat:relative_orbit"}, 65]},
                    {"op": "=", "args": [{"property": "sat:relative_orbit"}, 108]},
                ],
            },
            {"op": "=", "args": [{"property": "platform"}, "sentinel-2b"]},
            {"op": "=", "args": [{"property": "processing:version"}, "05.00"]},
        ],
    }


def test_filter_that_is_refused_is_put_otherwise(cdse: CdseServer, stac: Path, items: list[dict[str, Any]]) -> None:
    bodies = as_cdse(cdse, stac, [items])
    cdse.fail(f"{cdse.url}/v1/search", "400", "400")
    found = find_products(replace(JULY, max_cloud_cover=50), stac_url=f"{cdse.url}/v1/")
    assert len(found.products) == 2
    sent = [json.loads(body) for path, _, body in cdse.requests if path == "/v1/search"]
    assert [sorted({"filter", "query"} & set(b)) for b in sent] == [["filter"], ["query"], []]
    assert sent[1]["query"] == {"eo:cloud_cover": {"lte": 50}}
    assert len(bodies) == 1


def test_api_that_does_not_say_what_it_does(cdse: CdseServer, stac: Path, items: list[dict[str, Any]]) -> None:
    bodies = as_cdse(cdse, stac, [items], conforms="item-search")
    assert len(search_stac(replace(JULY, max_cloud_cover=50), f"{cdse.url}/v1/")) == 4
    assert "filter" not in bodies[0]


def test_antimeridian_is_cut_and_duplicates_are_one(cdse: CdseServer, stac: Path, items: list[dict[str, Any]]) -> None:
    bodies = as_cdse(cdse, stac, [items])
    query = replace(JULY, areas=((179.0, 60.0, -179.5, 61.0),))
    assert len(search_stac(query, f"{cdse.url}/v1/", pace=Pace(1000.0))) == 4
    assert [b["bbox"] for b in bodies] == [[179.0, 60.0, 180.0, 61.0], [-180.0, 60.0, -179.5, 61.0]]


def test_retry_after_and_pace(cdse: CdseServer, stac: Path, items: list[dict[str, Any]]) -> None:
    as_cdse(cdse, stac, [[i] for i in items])
    cdse.fail(f"{cdse.url}/v1/search", "429:0.5", "503")
    begun = time.monotonic()
    assert len(search_stac(JULY, f"{cdse.url}/v1/", pace=Pace(20.0), pause=0.01)) == 4
    assert time.monotonic() - begun > 0.5 + 5 * 0.05  # landing page, four pages and a repetition after the wait
    begun = time.monotonic()
    search_stac(JULY, f"{cdse.url}/v1/")
    assert time.monotonic() - begun > 4 * 0.25  # 4 requests a second


def test_busy_answers_are_closed_before_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answered(requests.Response):
        closed = False

        def close(self) -> None:
            self.closed = True

    answers = [Answered(), Answered(), Answered()]
    for answer, status in zip(answers, (503, 429, 503), strict=True):
        answer.status_code = status
    left = list(answers)
    monkeypatch.setattr(HTTPAdapter, "send", lambda *_, **__: left.pop(0))
    adapter = PacedAdapter(Pace(1000.0), tries=3, pause=0.0)
    last = adapter.send(requests.Request("GET", "https://host/x").prepare())
    assert last is answers[-1]
    assert [answer.closed for answer in answers] == [True, True, False]  # the last one is the caller's


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        (["401"], r"v1/ refuses access \(401\); give another API as `stac_url`"),
        (["403"], r"refuses access \(403\)"),
        (["429"] * 2, r"still asks to slow down \(429\) after repeated waits; run again later"),
        (["429:7200"], r"still asks to slow down"),
        (["504"] * 2, r"is out of order \(504\); run again later"),
        (["404"], r"answered 404 \(no\)"),
    ],
)
def test_refusals_are_one_sentence(cdse: CdseServer, stac: Path, faults: list[str], sentence: str) -> None:
    as_cdse(cdse, stac, [[]])
    cdse.fail(f"{cdse.url}/v1/search", *faults)
    with pytest.raises(SourceError, match=sentence):
        search_stac(JULY, f"{cdse.url}/v1/", tries=2, pause=0.01, pace=Pace(1000.0))


def test_slow_and_absent_servers_are_one_sentence(cdse: CdseServer) -> None:
    def slow(path: str, asked: dict[str, Any]) -> Answer:
        time.sleep(0.5)
        return 200, {}, b"{}"

    cdse.search = slow
    with pytest.raises(SourceError, match="did not answer in time; give another API"):
        search_stac(JULY, cdse.url, timeout=0.2, tries=1)
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:1 cannot be reached .*; check the network"):
        search_stac(JULY, "http://127.0.0.1:1", tries=2, pause=0.01)


def test_server_that_repeats_a_page_is_left(cdse: CdseServer, stac: Path, items: list[dict[str, Any]]) -> None:
    as_cdse(cdse, stac, [items, items, items])
    with pytest.raises(SourceError, match="repeats a page after 4 items"):
        search_stac(JULY, f"{cdse.url}/v1/", pace=Pace(1000.0))


def test_more_items_than_memory_holds_are_refused(
    cdse: CdseServer, stac: Path, items: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catalog.sentinel2.search._MOST_ITEMS", 3)
    as_cdse(cdse, stac, [items, [items[0] | {"id": "another"}]])
    with pytest.raises(SourceError, match="has more than 3 items for one question; ask for a smaller area"):
        search_stac(JULY, f"{cdse.url}/v1/", pace=Pace(1000.0))


def test_answer_that_is_no_page(cdse: CdseServer, stac: Path) -> None:
    as_cdse(cdse, stac, [[]])
    known = cdse.search
    assert known is not None

    def broken(path: str, asked: dict[str, Any]) -> Answer:
        return known(path, asked) if path == "/v1/" else (200, {}, b"<html>")

    cdse.search = broken
    with pytest.raises(SourceError, match="answered what is not a page of items"):
        search_stac(JULY, f"{cdse.url}/v1/", pace=Pace(1000.0))


# OData


def _entry(stac: Path) -> dict[str, Any]:
    return dict(json.loads((stac / "odata" / "cdse_odata_S2L2A_N0509_count1.json").read_text())["value"][0])


def test_recorded_odata_product(stac: Path) -> None:
    found = product_from_odata(_entry(stac))
    assert found.id == "S2B_MSIL2A_20230209T055009_N0509_R048_T43SBB_20230209T084058"
    assert found.datatake_start == datetime(2023, 2, 9, 5, 50, 9, 24000)
    assert found.datastrip_start == datetime(2023, 2, 9, 5, 55, 24)
    assert found.processing_time == datetime(2023, 2, 9, 8, 40, 58)
    assert (found.cloud_cover, found.relative_orbit) == (98.799485, 48)
    assert found.bbox == pytest.approx((72.5924464, 36.932372271, 72.86397495, 37.7956097))
    assert found.assets["safe_manifest"].href == (
        "https://zipper.dataspace.copernicus.eu/odata/v1/Products(0c104c0f-0508-5f5d-9997-1b61ea3b20d6)"
        f"/Nodes({found.id}.SAFE)/Nodes(manifest.safe)/$value"
    )
    s3 = product_from_odata(_entry(stac), "s3").assets["safe_manifest"].href
    assert s3 == f"s3://eodata/Sentinel-2/MSI/L2A/2023/02/09/{found.id}.SAFE/manifest.safe"
    for entry in json.loads((stac / "odata" / "cop_dataspace_search.json").read_text())["value"]:
        with pytest.raises(SourceError, match="is not the name of a Sentinel-2 L2A product"):
            product_from_odata(entry)


def test_recorded_manifest(stac: Path) -> None:
    document = (stac / "odata" / "manifest.safe.S2_MSI_L2A").read_bytes()
    expanded = expand_manifest(product_from_odata(_entry(stac)), document)
    band = expanded.assets["B02_20m"]
    assert (band.size, band.checksum) == (1352653, "09ee421edad17cefd83cd0c9de61c96a")
    assert band.href.endswith(
        "/Nodes(GRANULE)/Nodes(L2A_T51RVQ_A029973_20210319T024721)/Nodes(IMG_DATA)/Nodes(R20m)"
        "/Nodes(T51RVQ_20210319T023551_B02_20m.jp2)/$value"
    )
    assert {"SCL_20m", "B08_10m", "product_metadata", "granule_metadata"} <= set(expanded.assets)
    assert not {k for k in expanded.assets if k.startswith("MSK")}
    s3 = expand_manifest(product_from_odata(_entry(stac), "s3"), document).assets["granule_metadata"].href
    assert s3.endswith(".SAFE/GRANULE/L2A_T51RVQ_A029973_20210319T024721/MTD_TL.xml")
    with pytest.raises(SourceError, match="is not XML"):
        expand_manifest(product_from_odata(_entry(stac)), b"nothing")


class ODataService:
    """Answers ``$filter`` by the two times in it, ``$top``, ``$skip``; past the last it gives none any more."""

    def __init__(self, entry: dict[str, Any], count: int, last: int = 10_000) -> None:
        self.entries, self.last = [], last
        for number in range(count):
            start = datetime(2020, 7, 1) + timedelta(minutes=10 * number)
            name = f"S2B_MSIL2A_{start:%Y%m%dT%H%M%S}_N0509_R048_T43SBB_20230209T084058.SAFE"
            self.entries.append({**entry, "Name": name, "ContentDate": {"Start": f"{start.isoformat()}.000Z"}})
        self.asked: list[dict[str, str]] = []

    def __call__(self, path: str, asked: dict[str, Any]) -> Answer:
        self.asked.append(asked)
        first, last = re.findall(r"ContentDate/Start \w+ (\S+)", asked["$filter"])
        found = [e for e in self.entries if first <= e["ContentDate"]["Start"] < last]
        skip, top = int(asked["$skip"]), int(asked["$top"])
        page = [] if skip + top > self.last else found[skip : skip + top]
        return 200, {"Content-Type": "application/json"}, json.dumps({"value": page}).encode()


def test_odata_is_sliced_until_all_is_reached(cdse: CdseServer, stac: Path) -> None:
    service = ODataService(_entry(stac), 45, last=20)
    cdse.search = service
    query = replace(JULY, areas=(), max_cloud_cover=20)
    found, _ = search_odata(query, f"{cdse.url}/Products", page_size=10, last=20, pace=Pace(1000.0))
    assert len(found) == 45
    assert all(a["$orderby"] == "ContentDate/Start asc,Name asc" and int(a["$top"]) == 10 for a in service.asked)
    assert "'cloudCover' and a/OData.CSC.DoubleAttribute/Value le 20.00" in service.asked[0]["$filter"]


def test_odata_area_and_faults(cdse: CdseServer, stac: Path) -> None:
    service = ODataService(_entry(stac), 1)
    cdse.search = service
    cdse.fail(f"{cdse.url}/Products", "429:0.1")
    search_odata(JULY, f"{cdse.url}/Products", pause=0.01)
    ring = "8.0000000 46.5000000,10.0000000 46.5000000,10.0000000 47.5000000,8.0000000 47.5000000,8.0000000 46.5000000"
    assert f"OData.CSC.Intersects(area=geography'SRID=4326;POLYGON(({ring}))')" in service.asked[0]["$filter"]
    cdse.fail(f"{cdse.url}/Products", "403")
    with pytest.raises(SourceError, match=r"Products refuses access \(403\); give a saved search as `items`"):
        search_odata(JULY, f"{cdse.url}/Products")


def test_odata_stands_in_for_cdse_stac(cdse: CdseServer, stac: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = ODataService(_entry(stac), 3)
    cdse.search = service

    def down(*args: Any, **options: Any) -> Any:
        raise SourceError("STAC is down")

    monkeypatch.setattr("catalog.sentinel2.find.search_stac", down)
    found = find_products(replace(JULY, areas=()), odata_url=f"{cdse.url}/Products")
    assert len(found.products) == 3
    assert "STAC is down" in found.note
    assert len(found.items) == 3
    cdse.fail(f"{cdse.url}/Products", "403")
    with pytest.raises(SourceError, match=r"STAC is down; nor did the OData catalogue help: .*refuses access"):
        find_products(JULY, odata_url=f"{cdse.url}/Products")
    with pytest.raises(SourceError, match=r"^STAC is down$"):  # of another API, CDSE's OData knows nothing
        find_products(JULY, stac_url="https://earth-search.aws.element84.com/v1")


def test_odata_product_is_fetched_by_its_manifest(
    cdse: CdseServer, stac: Path, data_folder: Path, tmp_path: Path
) -> None:
    name = "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126"
    folder = data_folder / "sentinel2" / "metadata" / f"{name}.SAFE"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    granule = next(folder.glob("GRANULE/*/MTD_TL.xml"))
    images = f"GRANULE/{granule.parent.name}/IMG_DATA/R20m/T33XWJ_20220413T150759"
    files = {
        "MTD_MSIL2A.xml": (folder / "MTD_MSIL2A.xml").read_bytes(),
        f"GRANULE/{granule.parent.name}/MTD_TL.xml": granule.read_bytes(),
        f"{images}_B02_20m.jp2": b"blue",
        f"{images}_SCL_20m.jp2": b"classes",
    }
    streams = "".join(
        f'<byteStream size="{len(body)}"><fileLocation href="./{path}"/></byteStream>' for path, body in files.items()
    )
    listed = product_from_odata({**_entry(stac), "Name": f"{name}.SAFE", "Id": "1"}, zipper=f"{cdse.url}/odata/v1")
    cdse.put(listed.assets["safe_manifest"].href, f"<XFDU>{streams}</XFDU>".encode())
    for path, body in files.items():
        cdse.put(cdse.zipper(f"{name}.SAFE", *path.split("/")), body)
    with Fetcher(tmp_path, ["B02_20m"], download=download(cdse)) as fetcher:
        future = fetcher.submit(listed)
    got = future.result(0)
    assert got.failures == ()
    assert (tmp_path / f"{name}.SAFE" / f"{images}_B02_20m.jp2").read_bytes() == b"blue"
    band = got.product.assets["B02_20m"]
    assert (band.proj_code, band.shape) == ("EPSG:32633", (5490, 5490))
    assert band.transform is not None
    assert band.transform[0] == 20
    assert got.product.sun_elevation is not None
    broken = replace(
        listed, id=listed.id[:-1] + "7", assets={"safe_manifest": Asset(href=f"{cdse.url}/odata/v1/Products(1)/no")}
    )
    with Fetcher(tmp_path / "b", ["B02_20m"], download=download(cdse)) as fetcher:
        (failure,) = fetcher.submit(broken).result(10).failures
    assert failure.key == "safe_manifest"
