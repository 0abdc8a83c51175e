"""The page over catalogs: what it shows, what it keeps to itself, and how a browser shows it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import stac_geoparquet.arrow
from PIL import Image

from catalog.browse.maps import time_of
from catalog.browse.pages import index_page, item_page
from catalog.browse.records import Asked, Record, Shelf
from catalog.browse.server import make_server
from catalog.publish import tiles as publishing
from catalog.publish.tiles import publish_tiles
from stratacube.errors import SourceError, UsageError
from tests.browser import assert_readable, chromium
from tests.catalog.publishing import add_companions, make_build

TILES = 5


def published(output: Path) -> Path:
    plan, build = make_build(output, TILES)
    add_companions(output, plan)
    for tile_id in plan["tile_id"]:
        Image.new("RGB", (8, 8), (10, 20, 30)).save(output / "previews" / f"{tile_id}.png")
    publish_tiles(output, plan, build)
    return output


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("browse") / "out")


class Client:
    """Asks a server as a browser does, and says who it takes it for."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, *, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, headers={"Host": host or f"127.0.0.1:{self.port}"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def page(self, path: str) -> str:
        status, _, content = self.get(path)
        assert status == 200, content
        return content.decode()


@pytest.fixture(scope="module")
def client(catalog: Path) -> Iterator[Client]:
    with make_server(Shelf.of([catalog]), 0) as server:
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield Client(server.server_address[1])
        server.shutdown()


def items(catalog: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted((catalog / "tiles" / "items").glob("*.json"))]


def test_page_shows_all_items_where_and_when(client: Client, catalog: Path) -> None:
    page = client.page("/")
    for item in items(catalog):
        assert f"<title>{item['id']}\n" in page  # on the map
        assert unescape(re.sub("<[^>]+>", "", page)).count(item["id"]) >= 2  # and in the list
    strata = {item["properties"]["stratacube:stratum"] for item in items(catalog)}
    assert {*re.findall(r'<option value="([^"]+)"', page)} >= strata


def test_filters_show_what_is_asked_for(client: Client, catalog: Path) -> None:
    stored = items(catalog)
    first = stored[0]["properties"]
    alike = [i for i in stored if i["properties"]["stratacube:stratum"] == first["stratacube:stratum"]]
    page = client.page(f"/?stratum={first['stratacube:stratum']}")
    assert f'<dd>{len(alike)}</dd><dd class="note">of {len(stored)}</dd>' in page
    day = first["start_datetime"][:10]
    of_day = [i for i in stored if i["properties"]["start_datetime"][:10] == day]
    assert f"<dd>{len(of_day)}</dd>" in client.page(f"/?since={day}&until={day}")
    shelf = Shelf.of([catalog])
    assert shelf.asked(Asked(until="2019-12-31")) == shelf.asked(Asked(since="2020-01-02")) == []
    assert len(shelf.asked(Asked(until="2020-01-01"))) == len(stored)
    assert "<dd>1</dd>" in client.page(f"/?name={stored[-1]['id'].lower()}")
    assert "No item is as asked for." in client.page("/?stratum=none&page=77")
    evil = client.page("/?name=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&page=-1")
    assert "<script>alert" not in evil


def test_item_page_tells_all_and_its_code_runs(client: Client, catalog: Path) -> None:
    (item,) = (i for i in items(catalog) if i["properties"]["stratacube:tile_index"] == 0)
    key = next(r.key for r in Shelf.of([catalog]).records if r.id == item["id"])
    page = client.page(f"/item/{key}")
    text = unescape(re.sub("<[^>]+>", "", page))
    told = [name for name, value in item["properties"].items() if value is not None]
    assert [name for name in (item["id"], *told, *item["assets"]) if name not in text] == []
    assert f"../sources/{Path(item['links'][-1]['href']).name}" in text
    blocks = [unescape(re.sub("<[^>]+>", "", b)) for b in re.findall(r"<pre.*?</pre>", page, re.S)]
    plain = next(b for b in blocks if "xarray" in b)
    names: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore"):
        exec(compile(plain, "page", "exec"), names)
    assert "tile" not in names["data"].dims
    assert names["data"].sizes["time"] == 3
    status, headers, content = client.get(f"/preview/{key}")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert content == (catalog / "previews" / f"{item['id']}.png").read_bytes()


def test_a_picture_too_large_for_a_page_is_none(client: Client, catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.browse.server._LARGEST", 10)
    assert client.get("/preview/0")[1]["Content-Type"] == "image/gif"


def test_item_page_names_files_as_they_were_asked_for(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(catalog.parent)
    shelf = Shelf.of([Path(catalog.name)])
    record = next(r for r in shelf.records if r.id == items(catalog)[0]["id"])
    page = item_page(shelf, record)
    assert str(catalog.parent) not in page
    blocks = [unescape(re.sub("<[^>]+>", "", b)) for b in re.findall(r"<pre.*?</pre>", page, re.S)]
    assert [b.count('("out/tiles.zarr")') for b in blocks] == [1, 1]
    assert "<td>tiles.zarr</td>" in page
    assert f"<td>previews/{record.id}.png</td>" in re.sub("</?wbr>", "", page)
    with warnings.catch_warnings(action="ignore"):
        exec(compile(blocks[1], "page", "exec"), {})
    told = items(catalog)[0]["properties"]
    start, end = (told[name][:16].replace("T", " ") for name in ("start_datetime", "end_datetime"))
    assert start[:10] == end[:10]
    assert f"<dd>{start} to {end[11:]}</dd>" in page


@pytest.mark.parametrize(
    ("start", "end", "told", "days"),
    [
        ("2021-06-01T00:00:00Z", "2021-07-01T00:00:00Z", "2021-06-01 to 2021-06-30", ("2021-06-01", "2021-06-30")),
        ("2021-06-01T00:00:00Z", "2021-06-02T00:00:00Z", "2021-06-01", ("2021-06-01", "2021-06-01")),
        ("2021-06-01T16:00:26.2Z", "2021-06-01T17:10:00Z", "2021-06-01 16:00 to 17:10", ("2021-06-01",) * 2),
        ("2021-06-01T16:00:00Z", "2021-06-02T01:10:00Z", "2021-06-01 16:00 to 2021-06-02 01:10", None),
        ("2021-06-01T16:00:00Z", "2021-06-01T16:00:00Z", "2021-06-01 16:00", ("2021-06-01", "2021-06-01")),
        ("", "", "", ("", "")),
    ],
)
def test_periods_are_told_and_asked_for(
    start: str, end: str, told: str, days: tuple[str, str] | None, tmp_path: Path
) -> None:
    record = Record(0, "a", "c", (), start, "", "", "", tmp_path, end=end)
    assert time_of(record) == told
    first, last = record.days
    assert (first, last) == (days or ("2021-06-01", "2021-06-02"))
    if start:
        assert Asked(since=last, until=last).wants(record)
        assert Asked(since=first, until=first).wants(record)
        after, before = str(np.datetime64(last) + 1), str(np.datetime64(first) - 1)
        assert not Asked(since=after).wants(record)
        assert not Asked(until=before).wants(record)
    else:
        assert not any(asked.wants(record) for asked in (Asked(since="2000-01-01"), Asked(until="2030-01-01")))
    page = index_page(Shelf([record], {"c": tmp_path}, {"c": tmp_path}), Asked(), 0)
    counted = re.findall(r"since=([\d-]+)&amp;until=([\d-]+)", page)
    assert (
        {c[0] for c in counted} == {str(d) for d in np.arange(first, np.datetime64(last) + 1)} if start else not counted
    )


def test_pages_hold_all_items_in_order_of_time(tmp_path: Path) -> None:
    times = [f"2021-06-{1 + n % 28:02d}T{n // 28:02d}:00:00Z" for n in range(100)]
    ring = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    shares = [0.25 + n % 2 / 2 for n in range(100)]
    records = [
        Record(n, f"item-{n:03d}", "c", (ring,), time, "", "", "", tmp_path, share=shares[n], end=time)
        for n, time in enumerate(times)
    ]
    shelf = Shelf(records, {"c": tmp_path}, {"c": tmp_path})
    pages = [index_page(shelf, Asked(), number) for number in range(3)]
    shown = [re.findall(r'src="/preview/(\d+)"', page) for page in pages]
    assert [*map(len, shown)] == [48, 48, 4]
    assert [times[int(key)] for page in shown for key in page] == sorted(times)
    assert [("Previous" in page, "Next" in page) for page in pages] == [(False, True), (True, True), (True, False)]
    assert index_page(shelf, Asked(), 99) == pages[2]
    assert index_page(shelf, Asked(), -1) == pages[0]
    assert "valid pixels" in pages[0]  # items without strata are coloured by what is known of them
    later = dict.fromkeys(f"2021-{month:02d}-30T12:00:00Z" for month in (1, 3, 5, 7, 8, 10))
    years = [Record(n, str(n), "c", (), time, "", "", "", tmp_path) for n, time in enumerate(later)]
    spread = [
        Record(len(years) + n, f"d{n}", "c", (), f"2021-02-{1 + n % 28:02d}", "", "", "", tmp_path) for n in range(28)
    ]
    many = [Record(100 + n, f"e{n}", "c", (), f"2021-04-{1 + n % 30:02d}", "", "", "", tmp_path) for n in range(30)]
    page = index_page(Shelf([*years, *spread, *many], {"c": tmp_path}, {"c": tmp_path}), Asked(), 0)
    months = re.findall(r"since=([\d-]+)&amp;until=([\d-]+)", page)
    assert ("2021-07-01", "2021-07-31") in months  # by months, for there are more days than columns
    assert Asked(since="2021-07-01", until="2021-07-31").wants(replace(years[3], start="2021-07-31T01:00:00Z"))


def test_only_this_machine_is_answered_and_only_the_catalogs_files(client: Client, tmp_path: Path) -> None:
    for host in (
        "evil.example",
        f"evil.example:{client.port}",
        "127.0.0.1",
        f"127.0.0.1:{client.port + 1}",
        "[::1]:80",
    ):
        assert client.get("/", host=host)[0] == 421, host
    assert client.get("/", host=f"localhost:{client.port}")[0] == 200
    for path in ("/item/99", "/item/-1", "/item/1/../..", "/preview/../../etc/passwd", "/catalog.json", "/item/%C2%B2"):
        assert client.get(path)[0] == 404, path
    assert client.get("/", method="POST")[0] == 501
    status, headers, content = client.get("/", method="HEAD")
    assert (status, content) == (200, b"")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_pictures_elsewhere_are_not_shown(tmp_path: Path) -> None:
    output = published(tmp_path / "out")
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    file = sorted((output / "tiles" / "items").glob("*.json"))[0]
    for href in (
        "../../../secret.png",
        str(tmp_path / "secret.png"),
        "file:///etc/hostname",
        "https://example.org/a.png",
    ):
        item = json.loads(file.read_text())
        item["assets"]["thumbnail"]["href"] = href
        file.write_text(json.dumps(item))
        shelf = Shelf.of([output])
        record = next(r for r in shelf.records if r.file == file)
        with make_server(shelf, 0) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            assert Client(server.server_address[1]).get(f"/preview/{record.key}")[1]["Content-Type"] == "image/gif", (
                href
            )
            server.shutdown()


def batches_of(file: pyarrow.parquet.ParquetFile, size: int) -> Iterator[Any]:
    """A table in batches of so many rows."""
    table = file.read()
    yield from table.to_batches(max_chunksize=size)


def test_items_of_a_table_alone_are_shown_too(tmp_path: Path, catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "FILES_LIMIT", 2)
    output = published(tmp_path / "out")
    assert not [*(output / "tiles").rglob("items/*.json")]
    shelf, files = Shelf.of([output]), Shelf.of([catalog])
    assert [(r.id, r.start[:16], r.stratum, r.split) for r in shelf.asked(Asked())] == [
        (r.id, r.start[:16], r.stratum, r.split) for r in files.asked(Asked())
    ]
    made, to_items = list[int](), stac_geoparquet.arrow.stac_table_to_items
    monkeypatch.setattr(
        stac_geoparquet.arrow, "stac_table_to_items", lambda table: made.append(len(table)) or to_items(table)
    )
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", partialmethod(batches_of, 2))
    for record in shelf.records:
        assert shelf.item(record)["id"] == record.id
    assert sum(made) == len(shelf.records), "one item is made, not those of the whole table"
    item = shelf.item(record := shelf.records[2])
    assert shelf.file(record, item["assets"]["tiles"]["href"]) == (output / "tiles.zarr").resolve()


def test_what_is_no_catalog_is_told_in_a_sentence(tmp_path: Path, catalog: Path) -> None:
    with pytest.raises(UsageError, match=r"catalog.json does not exist; give the catalog.json of a build"):
        Shelf.of([tmp_path])
    file = tmp_path / "catalog.json"
    file.write_text("[]")
    with pytest.raises(SourceError, match="is not a STAC file"):
        Shelf.of([tmp_path])
    file.write_text(json.dumps({"id": "x", "links": [{"rel": "child", "href": "./catalog.json"}]}))
    with pytest.raises(SourceError, match="lies 9 catalogs deep: their links go in a ring"):
        Shelf.of([file])
    file.write_text(json.dumps({"id": "x", "links": [{"rel": "child", "href": "https://example.org/c.json"}]}))
    with pytest.raises(SourceError, match="only catalogs on disk with relative links are browsed"):
        Shelf.of([file])
    (tmp_path / "item.json").write_text('{"id": "a", "properties": {}, "geometry": {"type": "Nothing"}}')
    file.write_text(json.dumps({"id": "x", "links": [{"rel": "item", "href": "./item.json"}]}))
    with pytest.raises(SourceError, match=r"item.json is not a STAC item"):
        Shelf.of([file])
    with make_server(Shelf.of([catalog]), 0) as taken, pytest.raises(UsageError, match="cannot be listened at"):
        make_server(Shelf.of([catalog]), taken.server_address[1])


def test_command_says_where_and_ends_with_ctrl_c(catalog: Path) -> None:
    command = [sys.executable, "-m", "catalog.browse", str(catalog), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"(\d+) items of 1 catalog at http://127\.0\.0\.1:(\d+)/", said)
        assert found, said
        assert int(found[1]) == TILES
        assert "Where" in Client(int(found[2])).page("/")
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()  # which does nothing to one that has ended


@pytest.mark.slow
def test_pages_are_readable_in_a_browser(client: Client) -> None:
    base = f"http://127.0.0.1:{client.port}/"
    for browser in chromium():
        assert_readable(browser, base, allowed=base)
        assert_readable(browser, f"{base}item/0", allowed=base)
        page = browser.new_page()
        page.goto(base)
        page.select_option("#stratum", index=1)
        page.get_by_role("button", name="Show").press("Enter")
        assert "stratum=" in page.url
        page.locator("#items .gallery a").first.press("Enter")
        page.wait_for_url("**/item/*")
        assert page.locator("img.preview").evaluate("image => image.naturalWidth") == 8
        page.close()
