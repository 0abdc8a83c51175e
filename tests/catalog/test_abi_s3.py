"""Listing and fetching from S3, against a real server that speaks its protocol (moto's)."""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import requests

from catalog.geostationary.archives import FirstOf, LocalArchive, S3Archive, s3_filesystem
from catalog.geostationary.fetch import FetchTask, destination, fetch_files
from catalog.geostationary.s3 import translate_s3_errors
from catalog.geostationary.scans import SourceFile, find_scans
from stratacube.errors import ClaimLostError, SourceError, UsageError
from stratacube.files import fenced
from tests.catalog.answering import answering, xml_error

NOON = datetime(2020, 1, 1, 12)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
PAGE = 7
"""Keys in a page of a listing: small, so that listings take several."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def key_at(start: datetime, channel: int, sector: str = "M1", made: int = 60) -> str:
    end, created = start + timedelta(seconds=5), start + timedelta(seconds=made)
    stamps = "_".join(f"{k}{t:%Y%j%H%M%S}0" for k, t in zip("sec", (start, end, created), strict=True))
    name = f"OR_ABI-L1b-Rad{sector}-M6C{channel:02d}_G16_{stamps}.nc"
    return f"ABI-L1b-Rad{sector[0]}/{start:%Y/%j/%H}/{name}"


def content_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest() * (50 + len(key) % 7)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Endpoint with bucket noaa-goes16: M1 every ten minutes from 11 to 14 h, three channels; one scan of M2."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with requests.Session() as session:
            wait_for(session, endpoint)
            session.put(f"{endpoint}/noaa-goes16", timeout=10).raise_for_status()
            keys = [key_at(NOON - HOUR + 10 * i * MINUTE, c) for i in range(18) for c in (1, 2, 13)]
            for key in [*keys, key_at(NOON, 1, "M2"), key_at(NOON, 1, "F"), "ABI-L1b-RadM/2020/001/12/index.html"]:
                address, public = f"{endpoint}/noaa-goes16/{key}", {"x-amz-acl": "public-read"}
                session.put(address, data=content_of(key), headers=public, timeout=10).raise_for_status()
        yield endpoint
    finally:
        process.kill()
        process.wait()


def wait_for(session: requests.Session, endpoint: str) -> None:
    for _ in range(200):
        try:
            session.get(endpoint, timeout=10)
            return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise TimeoutError(f"{endpoint} does not answer")


def listed(archive: S3Archive | FirstOf, start: datetime, end: datetime, sector: str = "M1") -> list[SourceFile]:
    return list(archive.files("goes16", sector, start, end))


def test_a_period_is_listed_over_pages_and_hours(server):
    files = listed(S3Archive(server), NOON, NOON + 90 * MINUTE)
    assert len(files) == 27 > PAGE
    assert {file.start for file in files} == {NOON + 10 * i * MINUTE for i in range(9)}
    for file in files:
        key = file.href.removeprefix("s3://noaa-goes16/")
        assert key == key_at(file.start, file.channel)
        assert (file.size, file.tag) == (len(content_of(key)), hashlib.md5(content_of(key)).hexdigest())
        assert file.sector == "M1"


def test_hours_without_files_are_empty(server):
    assert listed(S3Archive(server), NOON - 30 * HOUR, NOON - 2 * HOUR) == []
    assert listed(S3Archive(server), NOON - 30 * HOUR, NOON + 30 * HOUR, "C") == []
    assert len(listed(S3Archive(server, listings=2), NOON - 40 * HOUR, NOON + 40 * HOUR)) == 54


def test_sectors_of_one_product_are_told_apart(server):
    (file,) = listed(S3Archive(server), NOON, NOON + HOUR, "M2")
    assert file.sector == "M2"


def test_scans_of_s3_are_those_of_a_local_copy(server, tmp_path):
    archive = S3Archive(server)
    remote = find_scans(archive, platform="east", sector="M1", start=NOON, end=NOON + HOUR)
    fetched, failures = fetch_files([f for s in remote for f in s.files.values()], tmp_path, endpoint_url=server)
    assert failures == []
    local = find_scans(LocalArchive(tmp_path), platform="east", sector="M1", start=NOON, end=NOON + HOUR)
    assert [scan.id for scan in local] == [scan.id for scan in remote]
    assert [f for scan in local for f in scan.files.values()] == fetched


def test_local_files_come_first_and_s3_completes_them(server, tmp_path):
    archive = S3Archive(server)
    some = [f for f in listed(archive, NOON, NOON + 20 * MINUTE) if f.channel != 2]
    fetch_files(some, tmp_path, endpoint_url=server)
    # These few bytes are no HDF5 file, so only their size keeps them: both archives agree on it.
    both = listed(FirstOf(LocalArchive(tmp_path), archive), NOON, NOON + 30 * MINUTE)
    assert [(f.start, f.channel) for f in both] == [(NOON + 10 * i * MINUTE, c) for i in range(3) for c in (1, 2, 13)]
    here = {(f.start, f.channel) for f in both if not f.href.startswith("s3://")}
    assert here == {(f.start, f.channel) for f in some}


def test_byte_ranges_are_read_by_the_same_file_system(server):
    key = key_at(NOON, 1)
    s3 = s3_filesystem(server)
    assert s3 is s3_filesystem(server)
    url = f"s3://noaa-goes16/{key}"
    assert s3.cat_ranges([url, url], [0, 100], [10, 140]) == [content_of(key)[:10], content_of(key)[100:140]]


def one_sentence(error: BaseException, endpoint: str) -> str:
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    assert endpoint in text
    assert "s3://noaa-goes16" in text
    assert "check `s3_endpoint` or read a local copy with `local_data_dir`" in text
    return text


def quick(endpoint: str) -> S3Archive:
    return S3Archive(endpoint, connect_timeout=0.5, read_timeout=0.3, retries=0)


def test_a_refused_connection_is_one_sentence():
    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(SourceError) as caught:
        listed(quick(endpoint), NOON, NOON + HOUR)
    assert "cannot be reached" in one_sentence(caught.value, endpoint)


def test_a_server_that_never_answers_is_one_sentence_and_soon():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(SourceError) as caught:
            listed(quick(endpoint), NOON, NOON + HOUR)
        assert time.monotonic() - begin < 5
    assert "did not answer in time" in one_sentence(caught.value, endpoint)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "refused access without credentials (AccessDenied it is)"),
        (404, "NoSuchBucket", "does not exist (NoSuchBucket it is)"),
        (503, "SlowDown", "could not be read ([Errno 16] SlowDown it is)"),
    ],
)
def test_a_server_that_refuses_is_one_sentence(status, code, said):
    with answering(xml_error(status, code)) as endpoint, pytest.raises(SourceError) as caught:
        listed(quick(endpoint), NOON, NOON + HOUR)
    assert said in one_sentence(caught.value, endpoint)


@pytest.mark.parametrize("endpoint", ["nonsense", "http://"])
def test_an_endpoint_that_is_no_url_is_one_sentence(endpoint):
    with pytest.raises(UsageError, match=f"`s3_endpoint` is {endpoint} and has no .*; give an address such as"):
        listed(quick(endpoint), NOON, NOON + HOUR)


def test_an_error_of_ours_is_not_translated_again():
    with pytest.raises(UsageError, match=r"^as it is$"), translate_s3_errors("noaa-goes16"):
        raise UsageError("as it is")


def test_a_passing_fault_is_repeated(server):
    faults = [True]

    def flaky(handler: http.server.BaseHTTPRequestHandler) -> None:
        if faults:
            faults.pop()
            xml_error(500, "InternalError")(handler)
            return
        answer = requests.get(server + handler.path, timeout=10)
        handler.send_response(answer.status_code)
        handler.send_header("Content-Length", str(len(answer.content)))
        handler.end_headers()
        handler.wfile.write(answer.content)

    with answering(flaky) as endpoint:
        archive = S3Archive(endpoint, listings=1, retries=1)
        assert len(listed(archive, NOON, NOON + HOUR)) == 18
    assert not faults


@pytest.mark.parametrize(
    ("folders", "place"),
    [
        ([], "ABI-L1b-RadM/2020/001/12"),
        (["ABI-L1b-RadF/2020"], "ABI-L1b-RadM/2020/001/12"),
        (["2019/365/01"], "2020/001/12"),
        (["2019/365/01", "ABI-L1b-RadM"], "ABI-L1b-RadM/2020/001/12"),
        (["noaa-goes16"], "noaa-goes16/ABI-L1b-RadM/2020/001/12"),
        (["noaa-goes17"], "ABI-L1b-RadM/2020/001/12"),
    ],
)
def test_an_archive_keeps_its_layout(server, tmp_path, folders, place):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    files = listed(S3Archive(server), NOON, NOON + MINUTE)
    fetched, failures = fetch_files(files, tmp_path, endpoint_url=server)
    assert failures == []
    for file, before in zip(fetched, files, strict=True):
        path = Path(file.href)
        assert path == destination(before, tmp_path)
        assert path.parent == tmp_path / place
        assert path.read_bytes() == content_of(before.href.removeprefix("s3://noaa-goes16/"))
        assert file == replace(before, href=str(path), tag=str(path.stat().st_mtime_ns))


def test_complete_files_are_kept_and_others_replaced(server, tmp_path):
    files = listed(S3Archive(server), NOON, NOON + MINUTE)
    first, _ = fetch_files(files, tmp_path, endpoint_url=server)
    Path(first[1].href).write_bytes(b"cut short")
    left = Path(first[2].href + ".0123abcd.part")
    left.touch()
    os.utime(left, (0, 0))
    Path(first[2].href).unlink()
    seen: list[SourceFile] = []
    again, failures = fetch_files(files, tmp_path, endpoint_url=server, progress=seen.append)
    assert failures == []
    assert seen == files
    assert again[0] == first[0]  # its modification time too: not touched
    assert [f.size for f in again] == [f.size for f in files]
    assert Path(again[1].href).read_bytes() == content_of(files[1].href.removeprefix("s3://noaa-goes16/"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_lost_claim_gives_no_file_its_name(tmp_path, server):
    def lost():
        raise ClaimLostError("lost")

    files = listed(S3Archive(server), NOON, NOON + MINUTE)
    with fenced(tmp_path, lost), pytest.raises(ClaimLostError, match=r"^lost$"):
        fetch_files(files, tmp_path, endpoint_url=server)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_local_files_pass_through(tmp_path, server):
    (remote, *_) = listed(S3Archive(server), NOON, NOON + MINUTE)
    local = replace(remote, href=str(tmp_path / "elsewhere.nc"))
    assert fetch_files([local], tmp_path / "root") == ([local], [])
    assert not (tmp_path / "root").exists()


def test_files_that_differ_from_their_listing_fail_alone(server, tmp_path):
    good, size, digest, gone = (
        *listed(S3Archive(server), NOON, NOON + MINUTE),
        listed(S3Archive(server), NOON, NOON + HOUR)[3],
    )
    files = [
        replace(size, size=size.size + 1),
        replace(digest, tag="0" * 32),
        replace(gone, href=gone.href + "x.nc"),
        good,
    ]
    here, failures = fetch_files(files, tmp_path, endpoint_url=server, retries=1, backoff=0.01)
    assert [file.channel for file in here] == [good.channel]
    reasons = {file.href: reason for file, reason in failures}
    assert f"came with {size.size} bytes where the listing says {size.size + 1}" in reasons[size.href]
    assert "digest other than its ETag" in reasons[digest.href]
    assert "does not exist" in reasons[gone.href + "x.nc"]
    assert len(list(tmp_path.rglob("*"))) == 5  # four folders and the good file


@pytest.mark.slow
def test_a_server_that_gives_nothing_is_told_from_files_that_are_gone(server, tmp_path):
    files = tuple(listed(S3Archive(server), NOON, NOON + MINUTE))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        failures, in_vain = FetchTask("a", files, tmp_path / "a", nobody).fetch()
    assert (len(failures), in_vain) == (len(files), True)
    gone = tuple(replace(file, href=file.href + "x.nc") for file in files)
    failures, in_vain = FetchTask("b", gone, tmp_path / "b", server).fetch()
    assert (len(failures), in_vain) == (len(files), False)
    assert FetchTask("c", files, tmp_path / "c", server).fetch() == ([], False)


def test_a_tag_that_is_no_digest_is_compared_with_the_servers(server, tmp_path):
    (file, *_) = listed(S3Archive(server), NOON, NOON + MINUTE)
    changed = replace(file, tag="0" * 32 + "-3")
    here, failures = fetch_files([changed], tmp_path, endpoint_url=server, retries=0)
    assert here == []
    assert "has changed since it was listed" in failures[0][1]


def test_a_body_that_breaks_off_is_fetched_again(server, tmp_path):
    (file, *_) = listed(S3Archive(server), NOON, NOON + MINUTE)
    whole = content_of(file.href.removeprefix("s3://noaa-goes16/"))
    tries: list[str] = []

    def breaking(handler: http.server.BaseHTTPRequestHandler) -> None:
        tries.append(handler.path)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole if len(tries) > 2 else whole[:100])

    with answering(breaking) as endpoint:
        here, failures = fetch_files([file], tmp_path, endpoint_url=endpoint, backoff=0.01)
    assert failures == []
    assert Path(here[0].href).read_bytes() == whole
    assert len(tries) == 3


@pytest.mark.parametrize("status", [403, 404])
def test_what_is_missing_or_refused_is_asked_for_once(server, tmp_path, status):
    (file, *_) = listed(S3Archive(server), NOON, NOON + MINUTE)
    asked: list[str] = []

    def refusing(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with answering(refusing) as endpoint:
        fetch_files([file], tmp_path, endpoint_url=endpoint, retries=0, backoff=0.01)
        once = len(asked)
        _, failures = fetch_files([file], tmp_path, endpoint_url=endpoint, retries=3, backoff=0.01)
    assert len(failures) == 1
    assert len(asked) == 2 * once


def test_a_dead_server_is_given_up_with_the_reasons(server, tmp_path):
    files = listed(S3Archive(server), NOON - HOUR, NOON + HOUR)
    endpoint = f"http://127.0.0.1:{free_port()}"
    begin = time.monotonic()
    here, failures = fetch_files(files, tmp_path, endpoint_url=endpoint, connections=2, retries=1, backoff=0.05)
    assert time.monotonic() - begin < 10
    assert here == []
    assert [file for file, _ in failures] == files
    assert "cannot be reached" in failures[0][1]
    assert "\n" not in failures[0][1]
    assert failures[-1][1] == "not tried: the server had failed 8 times in a row"


def test_a_folder_that_cannot_be_written_is_refused(server, tmp_path):
    (tmp_path / "file").touch()
    files = listed(S3Archive(server), NOON, NOON + MINUTE)
    with pytest.raises(UsageError, match=r"file/archive cannot be written \(Not a directory\); give a writable"):
        fetch_files(files, tmp_path / "file" / "archive", endpoint_url=server)


def test_a_folder_in_the_way_is_that_files_failure(server, tmp_path):
    files = listed(S3Archive(server), NOON, NOON + MINUTE)
    destination(files[0], tmp_path).mkdir(parents=True)
    here, failures = fetch_files(files, tmp_path, endpoint_url=server, retries=0)
    assert len(here) == 2
    ((file, reason),) = failures
    assert file == files[0]
    assert "cannot be written (Is a directory)" in reason
