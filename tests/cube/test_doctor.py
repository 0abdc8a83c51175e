"""What doctor finds: on this machine, with things broken on purpose, and of services that are not as they were."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import isal.isal_zlib
import numpy as np
import pytest
import rasterio

from catalog.sentinel2.assumptions import ASSUMPTIONS, broken_by
from cube.build import main
from cube.doctor import engines
from cube.sentinel2.checks import CHECKS
from stratacube.checks import tried
from stratacube.colours import in_colour, painted
from stratacube.errors import SourceError
from tests.catalog.cdse_server import PASSWORD, S3_KEY, S3_SECRET, USER, CdseServer, serve
from tests.cube.test_abi_run import put_in_bucket

Found = dict[str, dict[str, str]]
CREDENTIALS = (
    *("CDSE_USERNAME", "CDSE_PASSWORD", "CDSE_PASSWORD_FILE", "CDSE_TOTP", "CDSE_S3_ACCESS_KEY", "CDSE_S3_SECRET_KEY"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
)


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def examined(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> Found:
    assert main(["doctor", "--json", *arguments]) == code
    printed = capsys.readouterr().out
    assert PASSWORD not in printed
    assert S3_SECRET not in printed
    assert USER not in printed
    assert S3_KEY[:4] not in printed
    return {f"{check['group']} {check['what']}": check for check in json.loads(printed)}


@pytest.mark.slow
def test_what_works_here_is_told_and_what_is_broken_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD_FILE", str(password))
    monkeypatch.setattr(isal.isal_zlib, "decompress", lambda data: b"")
    mpich = tmp_path / "bin" / "mpirun"
    mpich.parent.mkdir()
    mpich.write_text("#!/bin/sh\necho HYDRA build details: MPICH 4.2\n")
    mpich.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mpich.parent}:{os.environ['PATH']}")
    found = examined(capsys, "--folder", str(tmp_path / "build"), code=1)
    assert found["software GDAL"]["told"].startswith(f"{rasterio.__gdal_version__} with GTiff, COG, JP2OpenJPEG")
    assert h5py.version.hdf5_version in found["software HDF5"]["told"]
    assert f"numpy {np.__version__}" in found["software packages"]["told"]
    assert f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} may be used" in found["machine cores"]["told"]
    assert not (tmp_path / "build").exists()
    for name in ("software PROJ", "software Zarr", "machine claims", "engines processes", "Sentinel-2 JPEG 2000"):
        assert found[name]["state"] == "works", found[name]
    broken = {name: check for name, check in found.items() if check["state"] == "broken"}
    assert broken.keys() == {"GOES inflating", "Sentinel-2 account"}
    assert "isal gives other bytes than zlib" in broken["GOES inflating"]["told"]
    assert f"chmod 600 {password}" in broken["Sentinel-2 account"]["told"]
    if shutil.which("ompi_info") or "Open MPI" in found["engines MPI"]["told"]:
        assert found["engines MPI"]["state"] == "lacks"
        assert "is HYDRA build details: MPICH 4.2" in found["engines MPI"]["told"]
    assert all(check["remedy"] for check in found.values() if check["state"] == "lacks" and check["what"] != "GPU")


def test_credentials_are_said_to_be_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD", PASSWORD)
    monkeypatch.setenv("CDSE_TOTP", "654321")
    monkeypatch.setenv("CDSE_S3_ACCESS_KEY", "AKIA")  # all of one so short was shown
    monkeypatch.setenv("CDSE_S3_SECRET_KEY", S3_SECRET)
    told = {check.what: check.told for check in CHECKS.here()}
    assert told["account"] == "is set, with a second factor"
    assert told["key pair"] == "is set"


def test_what_is_tried_is_broken_by_anything_raised() -> None:
    def fail(error: Exception) -> Callable[[], str]:
        def look() -> str:
            raise error

        return look

    assert (tried("a", lambda: "fine", "x").state, tried("a", lambda: "fine", "x").remedy) == ("works", "")
    odd = tried("a", fail(KeyError("b\n c")), "mend it", otherwise="lacks")
    assert (odd.state, odd.told, odd.remedy) == ("lacks", "KeyError: 'b\\n c'", "mend it")
    assert tried("a", fail(SourceError("gone; fetch it")), "mend it").told == "gone; fetch it"


def test_colours_are_for_terminals_whose_user_wants_them() -> None:
    class Stream:
        def __init__(self, terminal: bool) -> None:
            self.terminal = terminal

        def isatty(self) -> bool:
            return self.terminal

    terminal: Any = Stream(True)
    log: Any = Stream(False)
    assert in_colour(terminal, {"NO_COLOR": "", "TERM": "xterm"})
    for stream, environment in ((log, {}), (terminal, {"NO_COLOR": "1"}), (terminal, {"TERM": "dumb"})):
        assert not in_colour(stream, environment)
    assert painted("error", "red", log) == "error"


# live, against servers that stand for the services


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Scene classes of a whole tile in pixels of 20 m, as a JPEG 2000 image."""
    pixels = np.full((5490, 5490), 9, "u1")
    pixels[1000:1100, 200:300] = 4
    path = tmp_path_factory.mktemp("classes") / "SCL.jp2"
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(20, 0, 399960, 0, -20, 5300040)}
    options = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES", **place}
    with rasterio.open(path, "w", width=5490, height=5490, count=1, dtype="uint8", **options) as image:
        image.write(pixels, 1)
    return path.read_bytes()


@pytest.fixture
def cdse() -> Iterator[CdseServer]:
    with serve() as server:
        yield server


@pytest.fixture
def item(data_folder: Path) -> dict[str, Any]:
    name = "S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T212700"
    path = data_folder / "stac" / "cdse" / "recorded" / f"item_{name}.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def serving(cdse: CdseServer, item: dict[str, Any], content: bytes) -> None:
    """Let the server be CDSE: its landing page, one item, and the file of it."""
    asset = item["assets"]["SCL_20m"]
    nodes = [part.partition(")")[0] for part in asset["alternate"]["https"]["href"].split("/Nodes(")[1:]]
    href = cdse.put(cdse.zipper(*nodes), content)
    asset |= {"file:size": len(content), "file:checksum": "1620" + hashlib.sha3_256(content).hexdigest()}
    asset |= {"proj:shape": [5490, 5490], "proj:transform": [20.0, 0.0, 399960.0, 0.0, -20.0, 5300040.0]}
    asset["alternate"]["https"]["href"] = href
    cdse.files["/" + asset["href"].removeprefix("s3://")] = content
    root = {
        "type": "Catalog", "id": "cdse-stac", "stac_version": "1.1.0", "description": "a", "links": [
            {"rel": "search", "href": f"{cdse.url}/v1/search", "method": method} for method in ("GET", "POST")],
        "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
    }  # fmt: skip
    page = {"type": "FeatureCollection", "features": [item], "links": []}

    def answer(path: str, asked: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        kind = "application/json" if path == "/v1/" else "application/geo+json"
        return 200, {"Content-Type": kind}, json.dumps(root if path == "/v1/" else page).encode()

    cdse.search = answer


def live(cdse: CdseServer, s3: str) -> tuple[str, ...]:
    at = cdse.url
    return ("--live", "--service", f"stac={at}/v1/", f"token={at}/token", f"eodata={at}", f"files={at}", f"noaa={s3}")


@pytest.fixture
def bucket(small_archive: Path, s3_server: str) -> str:
    put_in_bucket(s3_server, small_archive)
    return s3_server


def test_live_services_that_are_as_they_were(
    cdse: CdseServer, bucket: str, item: dict[str, Any], classes: bytes, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    serving(cdse, item, classes)
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD", PASSWORD)
    found = examined(capsys, *live(cdse, bucket), code=0)
    assert {check["state"] for check in found.values()} == {"works"}
    assert found["Sentinel-2 assumptions"]["told"] == f"{len(ASSUMPTIONS)} of {len(ASSUMPTIONS)} on items hold"
    assert found["Sentinel-2 token"]["told"] == "valid for 600 s, and refreshed for 3600 s"
    assert "with the digest listed" in found["Sentinel-2 file"]["told"]
    assert found["Sentinel-2 decoding"]["told"].startswith("5490 x 5490 pixels of EPSG:32632, classes up to 9")
    assert found["GOES header"]["told"].endswith("300 x 300 pixels")
    sent = len(classes) + len(json.dumps(item))
    assert sent < 1_000_000
    assert len(cdse.logins) == 1
    assert [path for path, _, _ in cdse.requests].count("/v1/search") == 1
    monkeypatch.delenv("CDSE_USERNAME")
    monkeypatch.delenv("CDSE_PASSWORD")
    assert examined(capsys, *live(cdse, bucket), code=0)["Sentinel-2 file"]["state"] == "lacks"
    monkeypatch.setenv("CDSE_S3_ACCESS_KEY", S3_KEY)
    monkeypatch.setenv("CDSE_S3_SECRET_KEY", S3_SECRET)
    assert examined(capsys, *live(cdse, bucket), code=0)["Sentinel-2 decoding"]["state"] == "works"


def test_live_services_that_are_not_as_they_were(
    cdse: CdseServer, bucket: str, item: dict[str, Any], classes: bytes, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    serving(cdse, item, classes)
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD", PASSWORD)
    href = item["assets"]["SCL_20m"]["alternate"]["https"]["href"]
    item["assets"]["B08_20m"] = item["assets"]["B08_10m"]
    cdse.life = 60
    cdse.fail(href, "spoil", "spoil")
    found = examined(capsys, *live(cdse, bucket), code=1)
    told = [check["told"] for check in found.values() if check["state"] == "broken"]
    assert "came with a digest other than the" in found["Sentinel-2 file"]["told"]
    assert "that an access token lives 600 s does not hold: this one lives 60 s" in told
    cdse.life = 600
    assert main(["doctor", *live(cdse, bucket)]) == 1
    printed = capsys.readouterr().out
    assert "broken  assumption: that assets have CDSE's keys does not hold: an asset B08_20m\n" in printed
    assert f"{len(ASSUMPTIONS) - 1} of {len(ASSUMPTIONS)} on items hold" in printed
    del item["assets"]["B08_20m"]
    for faults, state, words in (
        (["login-page"], "broken", "answered text/html where a file was asked for"),
        (["zipper", "zipper"], "broken", "had too many connections open (DAT-ZIP-100) in 2 attempts"),
        (["zipper"], "works", "with the digest listed"),
    ):
        cdse.fail(href, *faults)
        check = examined(capsys, *live(cdse, bucket), code=int(state == "broken"))["Sentinel-2 file"]
        assert (check["state"], words in check["told"]) == (state, True), check
    item["assets"]["SCL_20m"]["proj:shape"] = [5489, 5490]
    decoding = examined(capsys, *live(cdse, bucket), code=1)["Sentinel-2 decoding"]
    assert decoding["told"] == "the image has 5490 x 5490 pixels where (5489, 5490) are listed"
    monkeypatch.setenv("CDSE_PASSWORD", "wrong " + PASSWORD[::-1])
    assert "refuses the login" in examined(capsys, *live(cdse, bucket), code=1)["Sentinel-2 token"]["told"]


def test_each_assumption_is_held_against_an_item(item: dict[str, Any]) -> None:
    assert [*broken_by(item)] == []
    for broken, words in (
        ({"id": "S2A_MSIL1C_x"}, "is not the name of a Sentinel-2 L2A product"),
        ({"assets": {"product_metadata": {"href": "s3://eodata/MTD_MSIL2a.xml"}}}, "not MTD_MSIL2A.xml"),
        ({"assets": {"SCL_20m": {"href": "https://eodata/a.jp2"}}}, "not in s3://eodata"),
        ({"assets": {"SCL_20m": {"alternate": {}}}}, "not a node that is asked by HTTP"),
        ({"assets": {"SCL_20m": {"proj:code": None}}}, "proj:code is None"),
        ({"assets": {"SCL_20m": {"proj:shape": [1830, 1830]}}}, "[1830, 1830], not 5490 x 5490"),
        ({"assets": {"SCL_20m": {"proj:transform": None}}}, "proj:transform is None"),
        ({"assets": {"SCL_20m": {"file:size": "251390"}}}, "file:size is '251390'"),
        ({"assets": {"SCL_20m": {"file:checksum": "1220" + "0" * 64}}}, "is neither of MD5 nor of SHA3-256"),
        ({"assets": {"B02_20m": {"raster:offset": 0}}}, "raster:offset of B02_20m is 0, not -0.1"),
        ({"properties": {"processing:version": "05.10"}}, "processing:version 05.10, not 05.00"),
        ({"properties": {"sat:relative_orbit": 109}}, "sat:relative_orbit 109"),
        ({"properties": {"eopf:datatake_id": None}}, "eopf:datatake_id None"),
        ({"properties": {"eo:cloud_cover": "low"}}, "eo:cloud_cover is 'low'"),
        ({"properties": None}, "the item has no such part"),
    ):
        found = [told for _, told in broken_by(merged(item, broken))]
        assert any(words in told for told in found), (broken, found)
        assert len(found) <= 2 or broken == {"properties": None}


def merged(whole: Any, change: Any) -> Any:
    if not isinstance(whole, dict) or not isinstance(change, dict) or not change:
        return change
    return {**whole, **{key: merged(whole.get(key), value) for key, value in change.items()}}


def test_no_network_is_one_sentence(capsys: pytest.CaptureFixture[str], cdse: CdseServer, bucket: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["doctor", "--live", "--service", f"stac={nowhere}/v1/", f"noaa={nowhere}"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("no network: s3://noaa-goes16 at ")
    assert printed.count("\n") == 1
    found = examined(capsys, "--live", "--service", f"stac={nowhere}/v1/", f"noaa={bucket}", code=1)
    assert found["GOES header"]["state"] == "works"
    assert found["Sentinel-2 network"]["told"] == f"{nowhere}/v1/ cannot be reached (ConnectionError)"


@pytest.mark.parametrize(
    ("service", "said"),
    [("stack=http://x", "did you mean stac?"), ("stac", "give names and addresses such as stac=")],
)
def test_services_are_named(service: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--live", "--service", service]) == 2
    assert said in capsys.readouterr().err


def test_workers_that_do_not_answer_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_SECONDS", 0.5)
    monkeypatch.setattr(engines, "abs", time.sleep, raising=False)
    monkeypatch.setattr(engines, "range", lambda *_: [60] * 4, raising=False)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        engines._processes()
    assert time.monotonic() - begun < 50  # what they sleep is 60 s
