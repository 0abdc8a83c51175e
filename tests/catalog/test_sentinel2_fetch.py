from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from catalog.sentinel2 import rate
from catalog.sentinel2.checksums import read_checksum
from catalog.sentinel2.convert import product_from_item
from catalog.sentinel2.download import DiskError, Downloader, ServerError
from catalog.sentinel2.estimate import estimate_download
from catalog.sentinel2.fetch import Fetched, Fetcher, fetch_products
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.rate import Connections, Pace
from catalog.sentinel2.settings import Account, S3Keys, account_folder
from catalog.sentinel2.signing import S3Signer
from catalog.sentinel2.tokens import TokenSource
from catalog.sentinel2.transfers import Transfers
from stratacube import claim
from stratacube.errors import ClaimLostError, SourceError, UsageError
from stratacube.files import fenced
from tests.catalog.cdse_server import PASSWORD, S3_KEY, S3_SECRET, USER, CdseServer, serve

ID = "S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T212700"
NODES = (f"{ID}.SAFE", "GRANULE", "L2A_T32TMT_A026274_20200703T103715", "IMG_DATA", "R20m")
SIZE = 300_000


@pytest.fixture
def cdse() -> Iterator[CdseServer]:
    with serve() as server:
        yield server


def content(name: str, size: int = SIZE) -> bytes:
    return random.Random(name).randbytes(size)


def _asset(href: str, body: bytes, kind: str = "sha3") -> Asset:
    digest = {"sha3": hashlib.sha3_256(body).hexdigest(), "md5": hashlib.md5(body).hexdigest(), "": None}[kind]
    return Asset(href=href, size=len(body), checksum=digest)


def product_at(cdse: CdseServer, bands: Sequence[str] = ("B02_20m",), scheme: str = "https", name: str = ID) -> Product:
    """A product whose files the server has."""
    assets = {}
    for key in (*bands, "SCL_20m"):
        file = f"T32TMT_20200703T103031_{key}.jp2"
        nodes = (f"{name}.SAFE", *NODES[1:], file)
        if scheme == "https":
            href = cdse.put(cdse.zipper(*nodes), content(name + key))
        else:
            href = f"s3://eodata/Sentinel-2/{'/'.join(nodes)}"
            cdse.files[f"/eodata/Sentinel-2/{'/'.join(nodes)}"] = content(name + key)
        assets[key] = _asset(href, content(name + key), "md5" if key == "SCL_20m" else "sha3")
    return Product(
        id=name,
        tile="32TMT",
        platform="sentinel-2a",
        datatake_start=datetime(2020, 7, 3, 10, 30, 31),
        baseline="05.00",
        processing_time=datetime(2023, 6, 13, 21, 27),
        bbox=(7.6, 46.8, 9.1, 47.8),
        assets=assets,
    )


def account() -> Account:
    return Account(USER, PASSWORD)


def download(cdse: CdseServer, **changes: Any) -> Downloader:
    own = urlsplit(cdse.url).netloc
    fields: dict[str, Any] = {
        "tokens": TokenSource(account, f"{cdse.url}/token", pause=0.01),
        "signer": S3Signer(lambda: S3Keys(S3_KEY, S3_SECRET), cdse.url),
        "connections": Connections(3),
        "pace": Pace(1000.0),
        "timeout": (5.0, 1.5),
        "pause": 0.01,
        "trusted": lambda there: f"{there.host}:{there.port}" == own,
    }
    return Downloader(**{**fields, **changes})


def fetch(
    root: Path, cdse: CdseServer, product: Product, bands: Sequence[str] = ("B02_20m",), **options: Any
) -> Fetched:
    with Fetcher(root, bands, download=options.pop("using", None) or download(cdse), **options) as fetcher:
        return fetcher.submit(product).result(20)


def band_path(root: Path, key: str = "B02_20m") -> Path:
    return root.joinpath(*NODES, f"T32TMT_20200703T103031_{key}.jp2")


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "fetched.jsonl").read_text().splitlines()]


def test_a_lost_claim_gives_no_file_its_name(tmp_path: Path, cdse: CdseServer) -> None:
    def lost() -> None:
        raise ClaimLostError("lost")

    with fenced(tmp_path, lost), pytest.raises(ClaimLostError, match=r"^lost$"):
        fetch(tmp_path, cdse, product_at(cdse))
    assert not list(tmp_path.rglob("*.jp2"))
    assert list(tmp_path.rglob("*.part"))  # to go on from, whoever does
    assert fetch(tmp_path, cdse, product_at(cdse)).failures == ()


def zarr_at(cdse: CdseServer, bands: Sequence[str]) -> tuple[Product, str]:
    """A product in Zarr form whose images are one chunk each, and the address of its metadata."""
    home, zarray = f"{cdse.url}/eopf/{ID}.zarr", {"shape": [2, 2], "chunks": [2, 2], "zarr_format": 2}
    places = {band: f"measurements/reflectance/r20m/{band[:3].lower()}" for band in bands}
    places["SCL_20m"] = "conditions/mask/l2a_classification/r20m/scl"
    for inside in places.values():
        cdse.put(f"{home}/{inside}/0.0", content(inside, 9))
    metadata = {"metadata": {f"{inside}/.zarray": zarray for inside in places.values()}}
    told = cdse.put(f"{home}/.zmetadata", json.dumps(metadata).encode())
    assets = {band: Asset(href=f"{home}/{inside}") for band, inside in places.items()}
    return replace(product_at(cdse), assets=assets), told


def test_the_metadata_of_a_product_in_zarr_form_comes_once_and_counts(tmp_path: Path, cdse: CdseServer) -> None:
    bands = ["B02_20m", "B03_20m", "B04_20m"]
    product, told = zarr_at(cdse, bands)
    (account := tmp_path / "account").mkdir()
    with Fetcher(tmp_path / "products", bands, download=download(cdse)) as fetcher:
        fetcher.meter.shared_at(account)
        got = fetcher.submit(product).result(20)
    assert got.failures == ()
    assert Transfers(account).used() == fetcher.meter.bytes_received
    assert [path for path, _, _ in cdse.requests if path.endswith(".zmetadata")] == [urlsplit(told).path]
    assert fetcher.meter.bytes_received == len(cdse.files[urlsplit(told).path]) + 4 * 9


def test_metadata_that_could_not_be_had_is_asked_for_again(tmp_path: Path, cdse: CdseServer) -> None:
    product, told = zarr_at(cdse, ["B02_20m"])
    whole = cdse.files.pop(urlsplit(told).path)
    with Fetcher(tmp_path, ["B02_20m"], download=download(cdse)) as fetcher:
        assert len(fetcher.submit(product).result(20).failures) == 2
        cdse.files[urlsplit(told).path] = whole
        assert fetcher.submit(product).result(20).failures == ()


def test_only_bands_asked_for_and_scl_come(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse, ("B02_20m", "B03_20m", "B04_20m"))
    got = fetch(tmp_path, cdse, product)
    assert got.failures == ()
    assert set(got.product.assets) == {"B02_20m", "SCL_20m"}
    assert Path(got.product.assets["B02_20m"].href) == band_path(tmp_path)
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")
    assert not list(tmp_path.rglob("*.part"))
    assert {line["path"].rpartition("_")[0].rpartition("_")[2] for line in lines(tmp_path)} == {"B02", "SCL"}
    assert len(cdse.logins) == 1


def test_what_is_on_disk_needs_no_credentials_and_no_server(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    fetch(tmp_path, cdse, product)
    cdse.requests.clear()

    def nobody() -> Account:
        pytest.fail("credentials were read")

    def no_keys() -> S3Keys:
        pytest.fail("credentials were read")

    using = download(cdse, tokens=TokenSource(nobody, f"{cdse.url}/token"), signer=S3Signer(no_keys))
    got = fetch(tmp_path, cdse, product, using=using)
    assert got.failures == ()
    assert cdse.requests == []
    # Without the ledger the digest is made again, and the default downloader is not even set up.
    (tmp_path / "fetched.jsonl").unlink()
    with Fetcher(tmp_path, ["B02_20m"]) as fetcher:
        assert fetcher.submit(product).result(10).failures == ()
    assert not (tmp_path / ".limits").exists()


def test_spoilt_file_on_disk_is_fetched_again(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    fetch(tmp_path, cdse, product)
    path = band_path(tmp_path)
    path.write_bytes(bytes(SIZE))  # same size, another digest
    assert fetch(tmp_path, cdse, product).failures == ()
    assert path.read_bytes() == content(ID + "B02_20m")
    path.write_bytes(b"short")
    assert fetch(tmp_path, cdse, product).failures == ()
    assert path.read_bytes() == content(ID + "B02_20m")


@pytest.mark.parametrize("fault", ["truncate:131072", "stall:131072"])
def test_broken_transfer_goes_on_where_it_broke_off(tmp_path: Path, cdse: CdseServer, fault: str) -> None:
    product = product_at(cdse)
    href = product.assets["B02_20m"].href
    cdse.fail(href, fault)
    assert fetch(tmp_path, cdse, product).failures == ()
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")
    assert [h.get("Range") for h in cdse.asked(urlsplit(href).path)] == [None, "bytes=131072-"]
    assert sum(line["received"] for line in lines(tmp_path)) == 2 * SIZE


def test_killed_run_is_resumed_by_the_next(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    href = product.assets["B02_20m"].href
    cdse.fail(href, "truncate:65536", *["500"] * 9)
    got = fetch(tmp_path, cdse, product, using=download(cdse, tries=2))
    (failure,) = got.failures
    assert failure.key == "B02_20m"
    assert "was busy (500) in 2 attempts; run again" in failure.reason
    assert "B02_20m" not in got.product.assets
    part = band_path(tmp_path).with_name(band_path(tmp_path).name + ".part")
    assert part.stat().st_size == 65536
    failed = [line for line in lines(tmp_path) if "failed" in line]
    assert [line["received"] for line in failed] == [65536]
    cdse.script.clear()
    cdse.requests.clear()
    assert fetch(tmp_path, cdse, product).failures == ()
    assert [h.get("Range") for h in cdse.asked(urlsplit(href).path)] == ["bytes=65536-"]
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")


def test_process_killed_on_the_line_loses_nothing(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    href = product.assets["B02_20m"].href
    cdse.fail(href, "stall:131072")
    script = f"""
from pathlib import Path
from tests.catalog.test_sentinel2_fetch import CdseServer, content, download, product_at
from catalog.sentinel2.fetch import Fetcher
cdse = CdseServer()
cdse.url = {cdse.url!r}
fetcher = Fetcher(Path({str(tmp_path)!r}), ["B02_20m"], download=download(cdse, timeout=(5.0, 60.0)))
fetcher.submit(product_at(cdse)).result()
"""
    child = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2])
    part = band_path(tmp_path).with_name(band_path(tmp_path).name + ".part")
    until = time.monotonic() + 20
    while time.monotonic() < until and not (part.exists() and part.stat().st_size >= 131072 - 16384):
        time.sleep(0.02)
    child.kill()
    child.wait()
    received = part.stat().st_size
    assert 0 < received <= 131072
    cdse.requests.clear()
    assert fetch(tmp_path, cdse, product).failures == ()
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")
    assert [h.get("Range") for h in cdse.asked(urlsplit(href).path)] == [f"bytes={received}-"]


def test_server_without_ranges_sends_all_again(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    href = product.assets["B02_20m"].href
    cdse.fail(href, "truncate:70000", "no-range")
    assert fetch(tmp_path, cdse, product).failures == ()
    assert len(cdse.asked(urlsplit(href).path)) == 2
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")


def test_part_of_a_file_without_digest_is_not_trusted(tmp_path: Path, cdse: CdseServer) -> None:
    href = cdse.put(cdse.zipper(*NODES, "T32TMT_20200703T103031_B02_20m.jp2"), content("x"))
    part = band_path(tmp_path).with_name(band_path(tmp_path).name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of another file")
    download(cdse).fetch(Asset(href=href), band_path(tmp_path), lambda n: None)
    assert band_path(tmp_path).read_bytes() == content("x")


def test_whole_part_of_unknown_size_is_begun_anew(tmp_path: Path, cdse: CdseServer) -> None:
    href = product_at(cdse).assets["B02_20m"].href
    part = band_path(tmp_path).with_name(band_path(tmp_path).name + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(content(ID + "B02_20m") + b"too much")  # the server answers 416
    asset = Asset(href=href, checksum=_asset(href, content(ID + "B02_20m")).checksum)
    download(cdse).fetch(asset, band_path(tmp_path), lambda n: None)
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")
    assert [h.get("Range") for h in cdse.asked(urlsplit(href).path)] == [f"bytes={SIZE + 8}-", None]


def test_wrong_digest_is_tried_once_more_and_then_told(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    href = product.assets["B02_20m"].href
    cdse.fail(href, "spoil")
    assert fetch(tmp_path / "a", cdse, product).failures == ()
    cdse.fail(href, "spoil", "spoil")
    (failure,) = fetch(tmp_path / "b", cdse, product).failures
    assert "came with a digest other than the" in failure.reason
    assert not list((tmp_path / "b").rglob("*B02*"))


def test_busy_answers_are_waited_out(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    href = product.assets["B02_20m"].href
    cdse.fail(href, "429:0.4", "truncate:65536", "503", "429:date", "zipper", "429")
    begun = time.monotonic()
    assert fetch(tmp_path, cdse, product, using=download(cdse, tries=7)).failures == ()
    assert time.monotonic() - begun >= 0.4
    assert cdse.asked(urlsplit(href).path)[-1]["Range"] == "bytes=65536-"
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")


def test_wait_that_is_too_long_ends_the_file_at_once(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    cdse.fail(product.assets["B02_20m"].href, "429:86400")
    begun = time.monotonic()
    (failure,) = fetch(tmp_path, cdse, product).failures
    assert time.monotonic() - begun < 5
    assert "busy (429)" in failure.reason


def test_login_page_is_no_file(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    cdse.fail(product.assets["B02_20m"].href, "login-page")
    (failure,) = fetch(tmp_path, cdse, product).failures
    assert "answered text/html where a file was asked for" in failure.reason


def test_missing_file_is_named_and_the_others_come(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    del cdse.files[urlsplit(product.assets["B02_20m"].href).path]
    got = fetch(tmp_path, cdse, product, ("B02_20m", "B12_20m"))
    reasons = {f.key: f.reason for f in got.failures}
    assert "does not exist (404)" in reasons["B02_20m"]
    assert reasons["B12_20m"] == f"{ID} has no B12_20m; it has B02_20m, SCL_20m"
    assert set(got.product.assets) == {"SCL_20m"}


def test_token_goes_to_trusted_hosts_only(tmp_path: Path, cdse: CdseServer) -> None:
    with serve() as store:
        product = product_at(cdse)
        body = content(ID + "B02_20m")
        # A detour within CDSE keeps the token, the store elsewhere does not get it; its address is signed.
        detour = cdse.zipper(f"{ID}.SAFE", "detour")
        target = f"{store.url}/bucket/file?X-Signature=hidden-signature"
        store.put(target, body)
        store.fail(target, "truncate:65536")
        cdse.fail(product.assets["B02_20m"].href, f"redirect:{detour}", f"redirect:{detour}")
        cdse.fail(detour, f"redirect:{target}", f"redirect:{target}")
        assert fetch(tmp_path, cdse, product).failures == ()
        assert band_path(tmp_path).read_bytes() == body
        assert all(h["Authorization"].startswith("Bearer access-") for h in cdse.asked(urlsplit(detour).path))
        told = store.asked("/bucket/file")
        assert [h.get("Range") for h in told] == [None, "bytes=65536-"]
        assert all("Authorization" not in h for h in told)


def test_netrc_does_not_replace_the_token(tmp_path: Path, cdse: CdseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password thief\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert fetch(tmp_path / "out", cdse, product_at(cdse)).failures == ()


def test_redirects_without_end(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    href = product.assets["B02_20m"].href
    cdse.fail(href, *[f"redirect:{href}"] * 20)
    (failure,) = fetch(tmp_path, cdse, product).failures
    assert "from one address to another without an end" in failure.reason


def test_expired_token_is_refreshed_once_for_all_threads(tmp_path: Path, cdse: CdseServer) -> None:
    bands = [f"B{n:02d}_20m" for n in range(2, 8)]
    product = product_at(cdse, bands)
    using = download(cdse, connections=Connections(6))
    using.tokens.token()
    cdse.tokens.clear()  # all tokens end before their time
    cdse.token_delay = 0.1
    got = fetch(tmp_path, cdse, product, bands, using=using, connections=6)
    assert got.failures == ()
    assert [fields["grant_type"] for fields in cdse.logins] == ["password", "refresh_token"]


def test_refused_login_stops_everything_and_is_not_repeated(tmp_path: Path, cdse: CdseServer) -> None:
    bands = [f"B{n:02d}_20m" for n in range(2, 8)]
    product = product_at(cdse, bands)
    wrong = TokenSource(lambda: Account(USER, "wrong-secret"), f"{cdse.url}/token", pause=0.01)
    with (
        pytest.raises(UsageError) as caught,
        Fetcher(tmp_path, bands, download=download(cdse, tokens=wrong)) as fetcher,
    ):
        fetch_products(fetcher, [product, product_at(cdse, bands, name=ID[:-1] + "1")])
    text = "".join(traceback.format_exception(caught.value))
    assert "refuses the login (" in str(caught.value)
    assert "wrong-secret" not in text
    assert USER not in text
    assert len(cdse.logins) == 1


def test_s3_is_signed_in_headers_and_resumed(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse, scheme="s3")
    cdse.fail("/eodata/" + product.assets["B02_20m"].href.removeprefix("s3://eodata/"), "truncate:70000", "503")
    got = fetch(tmp_path, cdse, product, access="s3")
    assert got.failures == ()
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")
    assert cdse.logins == []
    wrong = S3Signer(lambda: S3Keys(S3_KEY, "wrong"), cdse.url)
    got = fetch(tmp_path / "b", cdse, product, access="s3", using=download(cdse, signer=wrong))
    assert {f.reason.partition("refuses ")[2][:13] for f in got.failures} == {"access (403);"}


def test_s3_bucket_of_others_is_refused() -> None:
    with pytest.raises(SourceError, match="lies in bucket sentinel-cogs, but CDSE has only eodata"):
        S3Signer(lambda: S3Keys("a", "b")).url("s3://sentinel-cogs/x.tif")


def test_local_access_reads_a_mirror_and_moves_nothing(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse, scheme="s3")
    mirror = tmp_path / "eodata"
    for path, body in cdse.files.items():
        place = mirror / path.removeprefix("/eodata/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(body)
    got = fetch(tmp_path / "root", cdse, product, access="local", mirrors=[mirror])
    assert got.failures == ()
    assert str(got.product.assets["B02_20m"].href).startswith(str(mirror))
    assert not (tmp_path / "root").exists()
    assert cdse.requests == []
    (missing,) = fetch(tmp_path, cdse, product, ("B99_20m",), access="local", mirrors=[mirror]).failures
    assert "has no B99_20m" in missing.reason
    next(mirror.rglob("*B02*")).write_bytes(b"cut")
    (cut,) = fetch(tmp_path / "root", cdse, product, access="local", mirrors=[mirror]).failures
    assert f"has 3 bytes where {SIZE} are listed" in cut.reason


def test_connections_are_not_exceeded(tmp_path: Path, cdse: CdseServer) -> None:
    bands = [f"B{n:02d}_20m" for n in range(1, 9)]
    product = product_at(cdse, bands)
    for key in bands:
        cdse.fail(product.assets[key].href, "slow:0.05")
    using = download(cdse, connections=Connections(2, tmp_path / "limits"))
    assert fetch(tmp_path / "out", cdse, product, bands, using=using, connections=8).failures == ()
    assert cdse.most_at_once == 2


def test_processes_share_connections_and_pace(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from catalog.sentinel2.rate import Connections, Pace
folder = Path(sys.argv[1])
pace, connections = Pace(20.0, folder / "pace"), Connections(1, folder)
for _ in range(5):
    with connections.one():
        pace.wait()
        with open(folder / "log", "a") as log: log.write(f"{time.time():.4f} begin\\n")
        time.sleep(0.07)
        with open(folder / "log", "a") as log: log.write(f"{time.time():.4f} end\\n")
"""
    root = Path(__file__).resolve().parents[2]
    runs = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=root) for _ in range(2)]
    assert [run.wait(30) for run in runs] == [0, 0]
    events = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [kind for _, kind in events] == ["begin", "end"] * 10
    times = [float(t) for t, kind in events if kind == "begin"]
    assert times[-1] - times[0] > 0.3  # 9 intervals of 0.05 s, less what the first one was late


def test_pace_holds_all_threads_and_survives_a_clock_set_back(tmp_path: Path) -> None:
    pace = Pace(1000.0, tmp_path / "pace")
    pace.hold(0.3)
    begun = time.monotonic()
    threads = [threading.Thread(target=pace.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.25 < time.monotonic() - begun < 2
    (tmp_path / "pace").write_text(f"{time.time() + 1e6} {time.time() + 1e6}")
    pace.wait()
    assert time.monotonic() - begun < 2


def test_two_fetchers_of_one_file_do_not_spoil_it(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    cdse.fail(product.assets["B02_20m"].href, "slow:0.3", "slow:0.3")
    with (
        Fetcher(tmp_path, ["B02_20m"], download=download(cdse)) as a,
        Fetcher(tmp_path, ["B02_20m"], download=download(cdse)) as b,
    ):
        waiting = [a.submit(product), b.submit(product), a.submit(product)]
        assert [w.result(20).failures for w in waiting] == [(), (), ()]
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")
    assert not list(tmp_path.rglob("*.part"))


def test_server_that_is_down_is_not_asked_for_every_file(tmp_path: Path, cdse: CdseServer) -> None:
    bands = [f"B{n:02d}_20m" for n in range(1, 40)]
    product = product_at(cdse, bands)
    for key in product.assets:
        cdse.fail(product.assets[key].href, *["502"] * 4)
    with pytest.raises(SourceError, match="8 files failed in a row, the rest was not tried"):
        fetch(tmp_path, cdse, product, bands, using=download(cdse, tries=2))
    assert len(cdse.requests) < 40


def test_full_disk_stops_with_a_sentence(tmp_path: Path, cdse: CdseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    product = product_at(cdse)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"cannot be written \(No space left on device\); make room for it"):
        fetch(tmp_path, cdse, product)


def test_file_that_the_disk_does_not_take(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"cannot be written \(File too large\)"):
            fetch(tmp_path, cdse, product)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fetch(tmp_path, cdse, product).failures == ()
    assert band_path(tmp_path).read_bytes() == content(ID + "B02_20m")


def test_interrupted_run_keeps_what_came(tmp_path: Path, cdse: CdseServer) -> None:
    bands = [f"B{n:02d}_20m" for n in range(1, 20)]
    product = product_at(cdse, bands)
    for key in bands:
        cdse.fail(product.assets[key].href, "slow:0.1")
    fetcher = Fetcher(tmp_path, bands, download=download(cdse))
    future = fetcher.submit(product)
    time.sleep(0.15)
    fetcher.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(SourceError, match="the run was stopped"):
        future.result(0)
    assert len(cdse.requests) < 20
    assert fetch(tmp_path, cdse, product, bands).failures == ()


def test_progress_line_has_the_quota(tmp_path: Path, cdse: CdseServer) -> None:
    told: list[str] = []
    fetch(tmp_path, cdse, product_at(cdse), progress=lambda meter: told.append(meter.line()))
    assert len(told) == 2
    assert told[-1].startswith("fetched 2 of 2 files, 0.00 of 0.00 GB")
    assert told[-1].endswith("of 12 TB in 30 days")
    with Fetcher(tmp_path, []) as fetcher:
        assert fetcher.transfers.used() == 2 * SIZE
        assert fetcher.transfers.used(time.time() + 31 * 86400) == 0


def test_torn_ledger_line_is_skipped(tmp_path: Path, cdse: CdseServer) -> None:
    fetch(tmp_path, cdse, product_at(cdse))
    ledger = tmp_path / "fetched.jsonl"
    ledger.write_text(ledger.read_text() + '{"path": "half')
    fetch(tmp_path, cdse, product_at(cdse, ("B03_20m",)), ("B03_20m",))
    with Fetcher(tmp_path, []) as fetcher:
        assert fetcher.transfers.used() == 3 * SIZE


def test_secrets_are_nowhere(tmp_path: Path, cdse: CdseServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    product = product_at(cdse)
    cdse.fail(
        product.assets["B02_20m"].href, "429", "truncate:10", "redirect:http://127.0.0.1:1/x?signature=hidden-one"
    )
    got = fetch(tmp_path, cdse, product, using=download(cdse, tries=2))
    assert len(got.failures) == 1
    written = "".join(p.read_text() for p in [tmp_path / "fetched.jsonl"])
    seen = caplog.text + repr(got) + written + repr(account()) + repr(S3Keys(S3_KEY, S3_SECRET))
    for secret in (PASSWORD, S3_SECRET, "access-1", "refresh-1"):
        assert secret not in seen
    assert "hidden-one" not in repr(got) + written


def test_faults_do_not_carry_requests_along(tmp_path: Path, cdse: CdseServer) -> None:
    product = product_at(cdse)
    href = "https://127.0.0.1:1/file.jp2"
    for fault in (f"redirect:{href}", "truncate:10"):
        cdse.fail(product.assets["B02_20m"].href, *[fault] * 2)
        with pytest.raises(ServerError) as caught:
            download(cdse, tries=2).fetch(product.assets["B02_20m"], tmp_path / "x.jp2", lambda n: None)
        chain: list[BaseException | None] = [caught.value]
        while chain:
            error = chain.pop()
            if error is not None:
                assert not hasattr(error, "request")
                chain += [error.__cause__, error.__context__]


def test_hostile_paths_stay_inside(tmp_path: Path, cdse: CdseServer) -> None:
    body = content("x")
    product = product_at(cdse)
    for href in (
        cdse.zipper(f"{ID}.SAFE", "..", "..", "..", "evil.jp2"),
        f"s3://eodata/x/{ID}.SAFE/../../evil.jp2",
        f"{cdse.url}/x/{ID}.SAFE/..%2f..%2fevil.jp2",
    ):
        hostile = Product(
            **{**vars(product), "assets": {"B02_20m": _asset(href, body), "SCL_20m": product.assets["SCL_20m"]}}
        )
        (failure,) = fetch(tmp_path / "root", cdse, hostile).failures
        assert "is not a path inside of a product" in failure.reason
    evil = Product(**{**vars(product), "id": "../../evil"})
    assert len(fetch(tmp_path / "root", cdse, evil).failures) == 2


def test_recorded_item_can_be_estimated(data_folder: Path) -> None:
    path = data_folder / "stac" / "cdse" / "recorded" / f"item_{ID}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    item = json.loads(path.read_text())
    product = product_from_item(item)
    bands = [f"{b}_20m" for b in ["B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12"]]
    told = estimate_download([product], bands)
    expected = sum(item["assets"][k]["file:size"] for k in (*bands, "SCL_20m", "product_metadata", "granule_metadata"))
    assert (told.files, told.bytes, told.unknown, told.present) == (12, expected, 0, 0)
    assert told.seconds() == pytest.approx(expected / 60e6)
    assert 2.8e8 < told.bytes < 3.0e8


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("1620" + "ab" * 32, "ab" * 32),
        ("d50120" + "AB" * 32, "ab" * 32),  # CDSE's prefix of MD5 before 32 bytes
        ("d50110" + "cd" * 16, "cd" * 16),
        ("cd" * 16, "cd" * 16),
        ("1220" + "ab" * 32, None),  # SHA2-256
        ("1620" + "ab" * 31, None),
        ("not hex", None),
        (None, None),
    ],
)
def test_digest_is_told_by_its_length(text: str | None, digest: str | None) -> None:
    assert read_checksum(text) == digest


HOLDER = """
import socket, sys, time
from pathlib import Path
socket.gethostname = lambda: "another-node"
from stratacube import claim
claim.HEARTBEAT = 0.2
from catalog.sentinel2.rate import Connections
with Connections(1, Path(sys.argv[1]), 1).one():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_slot_of_a_dead_node_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken while its holder lives, whose process this node cannot see."""
    longest = 2 * rate._LONGEST_POLL
    assert rate._SILENCE + claim._WATCH * claim.HEARTBEAT + longest < 60
    monkeypatch.setattr(claim, "HEARTBEAT", 0.2)
    monkeypatch.setattr(rate, "_SILENCE", 1.0)
    root = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    taken = threading.Event()

    def take() -> None:
        with Connections(1, tmp_path, 1).one():
            taken.set()

    with subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waiting = threading.Thread(target=take)
        waiting.start()
        assert not taken.wait(1.5)
        holder.kill()
    assert taken.wait(20)
    waiting.join()
    assert list(tmp_path.iterdir()) == []


def test_limits_lie_beside_the_credentials(tmp_path: Path) -> None:
    home = {"XDG_STATE_HOME": str(tmp_path / "state")}
    assert account_folder(home) is None
    user = {"CDSE_USERNAME": USER, **home}
    folder = account_folder(user)
    assert folder is not None
    assert folder.parent == tmp_path / "state" / "stratacube"
    assert USER not in str(folder)
    beside = account_folder({**user, "CDSE_PASSWORD_FILE": str(tmp_path / "keys" / "password")})
    assert beside == tmp_path / "keys" / folder.name
    assert account_folder({"AWS_ACCESS_KEY_ID": "k", **home}) != folder
