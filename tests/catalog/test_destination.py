"""A secret goes to one host: what is decided about an address is compared with where the request arrives."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from catalog.geostationary.archives import S3Archive
from catalog.geostationary.s3 import s3_filesystem
from catalog.sentinel2 import destination
from catalog.sentinel2.convert import products_from_items
from catalog.sentinel2.destination import Destination, asks_cdse, prepare
from catalog.sentinel2.download import Downloader
from catalog.sentinel2.fetch import Fetcher
from catalog.sentinel2.items import Asset
from catalog.sentinel2.lists import write_scene_files
from catalog.sentinel2.odata import search_odata
from catalog.sentinel2.query import Query
from catalog.sentinel2.rate import Connections, Pace
from catalog.sentinel2.search import search_stac
from catalog.sentinel2.settings import Account, S3Keys
from catalog.sentinel2.signing import S3Signer
from catalog.sentinel2.tokens import TokenSource
from catalog.sentinel2.web import http_session
from cube.config import AbiConfig
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.publish import _origin
from loaders.store import TileStore
from stratacube.addresses import plain_url, why_odd
from stratacube.errors import SourceError, StratacubeError, UsageError
from training.settings_data import CubesData, TilesData

SECRET = "hush"
JULY = Query(start=datetime(2020, 7, 1), end=datetime(2020, 8, 1), areas=((7.5, 46.5, 9.5, 48.0),))


class Server(ThreadingHTTPServer):
    """Answers all, and keeps what it was sent."""

    daemon_threads = True
    leads_to = ""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        super().__init__(("127.0.0.1", 0), _Answers)
        self.port = int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up, or speak TLS, are part of the tests."""


class _Answers(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        everything = f"{self.headers}{body.decode()}"
        self.server.seen.append((self.headers["Host"], self.path, everything))
        leads_to = self.server.leads_to if self.path == "/start" else ""
        self.send_response(302 if leads_to else 200)
        if leads_to:
            self.send_header("Location", leads_to)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"file")

    do_POST = do_CONNECT = do_GET

    def log_message(self, *told: Any) -> None:
        return


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Server, Server]]:
    """The server that may have the secret, and the thief's."""
    with serving() as own, serving() as thief:
        yield own, thief


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name that is looked up is this machine."""
    look_up = socket.getaddrinfo
    numeric = ("127.", "::1", "localhost")

    def here(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        return look_up(host if str(host).startswith(numeric) else "127.0.0.1", port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Tokens(TokenSource):
    def token(self, refused: str | None = None) -> str:
        return SECRET


def downloader(own: Server, **changes: Any) -> Downloader:
    fields: dict[str, Any] = {
        "tokens": Tokens(),
        "signer": S3Signer(lambda: S3Keys("id", SECRET), f"http://localhost:{own.port}"),
        "connections": Connections(3),
        "pace": Pace(1000.0),
        "timeout": (2.0, 2.0),
        "tries": 1,
        "trusted": Destination("http", "localhost", own.port).__eq__,
    }
    return Downloader(**{**fields, **changes})


ODD = [
    "http://{own}/x",
    "http://{thief}/x",
    "HTTP://LOCALHOST:{own_port}/x",
    "http://{thief}\\@{own}/x",
    "http://{own}\\@{thief}/x",
    "http://{thief}\\/@{own}/x",
    "http://{thief}%5C@{own}/x",
    "http:\\\\{thief}\\x",
    "http://{thief}@{own}/x",
    "http://{own}@{thief}/x",
    "http://user:pw@{own}/x",
    "http://{own}:pw@{thief}/x",
    "http://a@{own}@{thief}/x",
    "http://{thief}#@{own}/x",
    "http://{own}#@{thief}/x",
    "http://{thief}?@{own}/x",
    "http://{thief}/@{own}/x",
    "http://{thief};@{own}/x",
    "http://{own}%40{thief}/x",
    "http://{thief}%2F@{own}/x",
    "http://{thief}%00@{own}/x",
    "http:/{thief}/x",
    "http:///{thief}/x",
    "http:{thief}/x",
    "//{thief}/x",
    " http://{thief}/x",
    "http://{thief}/x ",
    "http://{thief} @{own}/x",
    "http://{thief}\t@{own}/x",
    "http://{own}\n.{thief}/x",
    "http://{thief}/x\r\nHost: {own}",
    "http://{thief}\u200b@{own}/x",
    "http://{thief}\uff0f@{own}/x",
    "http://{thief}\uff03@{own}/x",
    "http://\uff4cocalhost:{own_port}/x",
    "http://localhost\u3002test:{thief_port}/x",
    "http://localhost.:{thief_port}/x",
    "http://localhost.test:{thief_port}/x",
    "http://test-localhost:{thief_port}/x",
    "http://localhost%2etest:{thief_port}/x",
    "http://l%6fcalhost:{own_port}/x",
    "http://127.1:{thief_port}/x",
    "http://2130706433:{thief_port}/x",
    "http://0x7f.1:{thief_port}/x",
    "http://[::1/x",
    "http://[::1]{thief}/x",
    "http://[{own}]@{thief}/x",
    "http://{own}:{thief_port}/x",
    "http://localhost:{thief_port}:{own_port}/x",
    "http://localhost:99999/x",
    "http://localhost:-1/x",
    "http://localhost:x@{thief}/x",
    "http://:{thief_port}/x",
    "https://{thief}/x",
    "ftp://{own}/x",
    "file:///etc/passwd",
    "s3://{thief}/x",
    "s3://bucket\\@{thief}/x",
    "s3://../../{thief}/x",
    "",
]


@pytest.mark.parametrize("way", ["asked", "led to", "asked, and not looked at"])
@pytest.mark.parametrize("odd", ODD)
def test_the_host_that_gets_the_secret_is_the_one_decided_on(
    odd: str, way: str, both: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, thief = both
    own.seen.clear()
    thief.seen.clear()
    url = odd.format(
        own=f"localhost:{own.port}",
        thief=f"127.0.0.1:{thief.port}",
        own_port=own.port,
        thief_port=thief.port,
    )
    if way == "asked, and not looked at":  # the decision stands by itself
        monkeypatch.setattr(destination, "why_odd", lambda url: None)
    if way == "led to":
        if not url.isprintable():
            pytest.skip("no header holds that")
        own.leads_to = url.encode().decode("latin-1")
    with suppress(StratacubeError):
        start = f"http://localhost:{own.port}/start" if way == "led to" else url
        downloader(own).fetch(Asset(href=start), tmp_path / "file", lambda size: None)
    assert not [all_ for _, _, all_ in thief.seen if SECRET in all_ or "Authorization" in all_]
    assert {host for host, _, all_ in own.seen if "Authorization" in all_} <= {f"localhost:{own.port}"}
    if way != "led to" and not url.startswith("s3://"):
        assert {host.lower() for host, *_ in own.seen + thief.seen} <= decided(url)
    if odd == ODD[0]:
        assert SECRET in own.seen[-1][2]
    if odd == ODD[1]:
        assert thief.seen


def decided(url: str) -> set[str]:
    """Host and port that the decision is about, as a ``Host`` header says it."""
    try:
        there = destination.destination(prepare(http_session(), url))
    except SourceError:
        return set()
    return {f"{there.host}:{there.port}"}


@pytest.mark.parametrize(
    ("url", "cdse"),
    [
        ("https://zipper.dataspace.copernicus.eu/odata/v1/Products(1)/$value", True),
        ("https://dataspace.copernicus.eu", True),
        ("HTTPS://Zipper.DataSpace.Copernicus.EU:443/x", True),
        ("http://zipper.dataspace.copernicus.eu/x", False),
        ("https://zipper.dataspace.copernicus.eu:8443/x", False),
        ("https://zipper.dataspace.copernicus.eu.thief.org/x", False),
        ("https://thiefdataspace.copernicus.eu/x", False),
        ("https://thief.org:444\\@zipper.dataspace.copernicus.eu/x", False),
        ("https://thief.org/@zipper.dataspace.copernicus.eu/x", False),
        ("https://thief.org#.dataspace.copernicus.eu", False),
        ("https://zipper.dataspace.copernicus.eu@thief.org/x", False),
        ("https://zipper.dataspace.copernicus.eu%2ethief.org/x", False),
        ("https://[::1/x", False),
        ("", False),
    ],
)
def test_what_is_cdse(url: str, cdse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asks_cdse(url) is cdse
    monkeypatch.setattr(destination, "why_odd", lambda url: None)
    if not url.startswith("https://zipper.dataspace.copernicus.eu@"):
        assert asks_cdse(url) is cdse


def test_two_readings_of_one_prepared_address_are_no_destination() -> None:
    request = prepare(http_session(), "https://a.org/x")
    for text in ("https://thief.org\\@a.org/x", "https://a.org:x/", "https://[::1/x", "x", "https:///x", "ftp://a/x"):
        request.url = text
        with pytest.raises(SourceError, match="two hosts"):
            destination.destination(request)


def test_without_tls_a_secret_stays_on_this_machine(
    both: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, thief = both
    thief.seen.clear()
    caplog.set_level(logging.DEBUG)
    said = []
    away = f"http://store.test:{thief.port}"
    trusting = downloader(own, trusted=lambda there: True, signer=S3Signer(lambda: S3Keys("id", SECRET), away))
    trusting.fetch(Asset(href=f"{away}/x"), tmp_path / "file", lambda size: None)
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:{thief.port}")
    for url in (away, f"http://localhost:{own.port}"):
        with pytest.raises(UsageError, match="without TLS; give an https address") as caught:
            TokenSource(lambda: Account("me", SECRET), f"{url}/token", tries=1).token()
        said.append(str(caught.value))
    trusting.fetch(Asset(href=f"http://localhost:{own.port}/x"), tmp_path / "file", lambda size: None)
    with pytest.raises(SourceError, match="is not signed: keys are for") as refused:
        trusting.fetch(Asset(href="s3://eodata/x"), tmp_path / "file", lambda size: None)
    assert thief.seen, "the proxy was used"
    assert not [text for _, _, text in thief.seen if "\nAuthorization" in text or "password=" in text]
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:9")
    with pytest.raises(SourceError, match="could not be reached") as broken:
        trusting.fetch(Asset(href=f"{away}/x"), tmp_path / "file", lambda size: None)
    assert SECRET not in caplog.text + "".join([*said, str(refused.value), str(broken.value)])


def test_netrc_is_not_read_for_anyone(
    both: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, thief = both
    own.seen.clear()
    thief.seen.clear()
    (tmp_path / "netrc").write_text(f"default login me password {SECRET}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    own.leads_to = f"http://127.0.0.1:{thief.port}/x"
    for ask in (search_stac, search_odata):
        with pytest.raises(StratacubeError):
            ask(JULY, f"http://localhost:{own.port}/start", tries=1)
    assert own.seen
    assert thief.seen
    assert not [text for _, _, text in own.seen + thief.seen if "Authorization" in text]


def test_what_the_first_host_was_told_does_not_go_on_with_a_redirect(both: tuple[Server, Server]) -> None:
    own, thief = both
    thief.seen.clear()
    own.leads_to = f"http://127.0.0.1:{thief.port}/x"
    headers = {"Authorization": SECRET}
    http_session().get(f"http://localhost:{own.port}/start", headers=headers, timeout=2)
    own.leads_to = f"http://localhost:{own.port}/x"
    http_session().get(f"http://localhost:{own.port}/start", headers=headers, timeout=2)
    assert SECRET not in thief.seen[-1][2]
    assert SECRET not in own.seen[-1][2]


def test_keys_of_the_environment_do_not_go_to_an_endpoint(
    both: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, thief = both
    thief.seen.clear()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    with suppress(OSError, ValueError):
        s3_filesystem(f"http://127.0.0.1:{thief.port}", retries=0).ls("noaa-goes16")
    assert thief.seen
    assert not [text for _, _, text in thief.seen if "authorization" in text.lower() or SECRET in text]


@pytest.mark.parametrize(
    "give",
    [
        lambda url: AbiConfig.check({"output_dir": "/x", "s3_endpoint": url}),
        lambda url: Sentinel2Config.check(
            {"work_dir": "/x", "bbox": [0, 0, 1, 1], "start": "2020-01-01", "end": "2020-01-02", "stac_url": url}
        ),
        lambda url: search_stac(JULY, url),
        s3_filesystem,
        lambda url: list(S3Archive(url).files("goes16", "F", datetime(2020, 1, 1), datetime(2020, 1, 2))),
    ],
    ids=["s3_endpoint", "stac_url", "search_stac", "s3_filesystem", "S3Archive"],
)
def test_an_address_with_a_password_is_refused_before_it_is_written_anywhere(give: Any) -> None:
    with pytest.raises(UsageError, match="has a user or password before the host") as caught:
        give(f"https://me:{SECRET}@host.org/v1")
    assert SECRET not in str(caught.value)
    assert "https://host.org/v1" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host.org/a/b?sig=secret#secret", "https://host.org/a/b"),
        ("https://me:secret@host.org/a", "https://host.org/a"),
        ("https://me:sec/ret@host.org/a", "https://host.org/a"),
        ("https://host.org/a@b", "https://host.org/a@b"),
        ("https://host.org/a\nb", "https://host.org/a?b"),
        ("https://[::1/x", "https://[::1/x"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("folder #1/tiles?.zarr", "folder #1/tiles?.zarr"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert plain_url(url) == shown


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://host.org/a?b=c", None),
        ("https://host.org/a@b", None),
        ("s3://bucket/key", None),
        ("https://[::1]:8080/x", None),
        ("https://[::1/x", "has a host or port that is not one"),
        ("https://host:99999/x", "has a host or port that is not one"),
        ("https://a\\b", "has a backslash"),
        ("https://a\u00a0b/", "has a blank or a control character"),
        ("https://a/\x00", "has a blank or a control character"),
        ("https://a@b", "has a user or password before the host"),
        ("https:/a", "has no scheme and host"),
        ("https://:80/", "has no host"),
    ],
)
def test_what_is_odd(url: str, reason: str | None) -> None:
    assert why_odd(url) == reason


def item(href: str) -> dict[str, Any]:
    name = "S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T212700"
    return {
        "id": name,
        "bbox": [7.6, 46.8, 9.1, 47.8],
        "properties": {"datetime": "2020-07-03T10:30:31Z"},
        "assets": {"B02_20m": {"href": href}},
    }


@pytest.mark.parametrize("href", ["https://[::1/x", "https://thief\\@zipper.dataspace.copernicus.eu/x", "B02\n.jp2"])
def test_an_item_with_an_odd_address_is_left_out_and_named(href: str) -> None:
    good = item("https://zipper.dataspace.copernicus.eu/x")
    products, (left_out,) = products_from_items([item(href), good])
    assert [p.id for p in products] == [good["id"]]
    assert (left_out.id, left_out.fault, left_out.place) == (good["id"], True, 0)
    assert "address" in left_out.reason
    assert left_out.reason.isprintable()


def test_a_signature_is_not_in_what_is_told_or_kept_for_readers(tmp_path: Path, both: tuple[Server, Server]) -> None:
    own, _ = both
    address = f"http://localhost:{own.port}/x/B02_20m.jp2"
    signed = f"{address}?sig={SECRET}"
    (product,), _ = products_from_items([item(signed)])
    wrong = replace(product, assets={"B02_20m": replace(product.assets["B02_20m"], size=5, checksum=None)})
    with Fetcher(tmp_path, ["B02_20m"], download=downloader(own)) as fetcher:
        failures = fetcher.submit(wrong).result(20).failures
    assert {f.href for f in failures if f.key == "B02_20m"} == {address}
    write_scene_files(tmp_path / "index.csv", [product])
    assert address in (tmp_path / "index.csv").read_text()
    text = "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file())
    assert SECRET not in text + str(failures)
    assert _origin(product.assets, product.id) == address


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        ("anon", True, True),
        ("profile", "mine", True),
        ("token", "anon", True),
        ("endpoint_url", "https://host.org", True),
        ("requester_pays", True, True),
        ("key", SECRET, False),
        ("secret", SECRET, False),
        ("aws_session_token", SECRET, False),
        ("account_key", SECRET, False),
        ("sas_token", SECRET, False),
        ("blob_sas", SECRET, False),
        ("password", SECRET, False),
        ("endpoint_url", f"https://me:{SECRET}@host.org", False),
    ],
)
@pytest.mark.parametrize("data", [TilesData, CubesData])
def test_no_key_is_in_a_configuration_of_training(
    data: type[TilesData] | type[CubesData], option: str, value: Any, kept: bool
) -> None:
    given = {"source": data.model_fields["source"].annotation.__args__[0], "statistics": "x"}  # type: ignore[union-attr]
    given |= {"stores": [{"path": "x"}]} if data is TilesData else {"cubes": [{"path": "x"}]}
    if kept:
        assert data.check({**given, "storage_options": {option: value}}).storage_options == {option: value}
        return
    with pytest.raises(UsageError, match="storage_options") as caught:
        data.check({**given, "storage_options": {option: value}})
    assert SECRET not in str(caught.value)


def test_the_key_of_a_catalogue_is_not_in_what_is_told_of_it(both: tuple[Server, Server]) -> None:
    own, thief = both
    own.leads_to = f"http://127.0.0.1:{thief.port}/x"
    for url in (f"http://localhost:{own.port}/x?key={SECRET}", f"http://127.0.0.1:9/x?key={SECRET}"):
        with pytest.raises(StratacubeError) as caught:
            search_stac(JULY, url, tries=1)
        assert SECRET not in str(caught.value)
        assert url.partition("?")[0] in str(caught.value)


def test_a_store_that_cannot_be_opened_is_named_without_its_signature() -> None:
    with pytest.raises(StratacubeError) as caught:
        TileStore.open(f"http://127.0.0.1:9/tiles.zarr?sig={SECRET}")
    assert SECRET not in str(caught.value)
