"""A whole build by command line: a search on a real STAC server, files over https and by S3."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import pytest
import rasterio
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.server import ThreadedMotoServer

from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.safe import read_safe
from cube.build import main
from cube.sentinel2.grid import make_grid, write_grid
from stratacube.files import digest_of
from tests.catalog.cdse_server import PASSWORD, USER, CdseServer, serve
from tests.catalog.stac_server import serve_items
from tests.sentinel2.scenery import EPSG, ULX, ULY, small_archive

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]

KEY, SECRET = "AKIAOURS", "secret-of-s3"


def _certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A certificate of ``localhost`` that signs itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


@dataclass
class World:
    """Products on disk, the same behind servers, and what was built from disk."""

    root: Path
    cdse: CdseServer
    certificate: Path
    stac: str
    s3: str
    flags: tuple[str, ...]

    def build(self, work: str, *flags: str) -> int:
        return main(["sentinel2", "--work-dir", str(self.root / work), *self.flags, *flags])

    def equals_disk(self, work: str) -> None:
        told = sorted((self.root / "disk").glob("composites/*/*.tif"))
        assert len(told) == 8
        for path in told:
            with (
                rasterio.open(path) as one,
                rasterio.open(self.root / work / path.relative_to(self.root / "disk")) as two,
            ):
                np.testing.assert_array_equal(one.read(1), two.read(1), err_msg=path.name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("end")
    small_archive(root / "safe")
    write_grid(make_grid(2400, (ULX, ULY - 4800, ULX + 4800, ULY), f"EPSG:{EPSG}"), root / "grid.csv")
    common = ("--grid-csv", str(root / "grid.csv"), "--start", "2021-06-01", "--end", "2021-06-30", "--bands", "B02")
    flags = (*common, "--workers", "1")
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    client.create_bucket(Bucket="eodata")
    tls, certificate = _certificate(root)
    try:
        with serve(tls) as cdse:
            items = [_item(path, cdse, client) for path in sorted((root / "safe").iterdir())]
            with serve_items(root, items) as stac:
                world = World(root, cdse, certificate, stac, endpoint, flags)
                assert world.build("disk", "--safe-dir", str(root / "safe")) == 0
                yield world
    finally:
        server.stop()


def _item(safe: Path, cdse: CdseServer, client: Any) -> dict[str, Any]:
    """Item of a product as CDSE has it: an address in its bucket, and another over https. The files lie there."""
    item = item_from_product(read_safe(safe))
    for asset in item["assets"].values():
        path = Path(asset["href"])
        inside = path.relative_to(safe.parent)
        key = f"Sentinel-2/MSI/L2A/{inside.as_posix()}"
        client.put_object(Bucket="eodata", Key=key, Body=path.read_bytes())
        https = cdse.put(cdse.zipper(*inside.parts), path.read_bytes())
        asset |= {"href": f"s3://eodata/{key}", "alternate": {"https": {"href": https}}}
    return {**item, "collection": "sentinel-2-l2a"}


def test_over_https(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD", PASSWORD)
    monkeypatch.setenv("XDG_STATE_HOME", str(world.root / "state"))
    host = urlsplit(world.cdse.url).netloc
    own = ("--cdse-token-url", f"{world.cdse.url}/token", "--cdse-hosts", host)
    assert world.build("untrusted", "--stac-url", world.stac, *own) == 2
    assert "has a certificate that is not trusted; set REQUESTS_CA_BUNDLE" in capsys.readouterr().err
    assert world.cdse.logins == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(world.certificate))
    assert world.build("https", "--stac-url", world.stac, *own) == 0
    world.equals_disk("https")
    assert [login["grant_type"] for login in world.cdse.logins] == ["password"]
    files = [path for path, _, _ in world.cdse.requests if path.startswith("/odata")]
    assert len(files) == len(set(files)) > 20  # each once
    assert not any(path.endswith("B03_20m.jp2/$value") or "B03_20m.jp2)" in path for path in files)
    assert main(["verify", str(world.root / "https")]) == 0
    kept = (world.root / "https" / "config.yaml").read_text()
    for secret in (PASSWORD, host, *world.cdse.tokens):
        assert secret not in kept
        assert not any(secret in p.read_text() for p in (world.root / "https" / "logs").iterdir())
    # the same command again asks nobody for anything
    before = len(world.cdse.requests)
    assert world.build("https", "--stac-url", world.stac, *own) == 0
    assert len(world.cdse.requests) == before


def test_a_host_that_nobody_named_gets_no_token(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CDSE_USERNAME", USER)
    monkeypatch.setenv("CDSE_PASSWORD", PASSWORD)
    monkeypatch.setenv("XDG_STATE_HOME", str(world.root / "state"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(world.certificate))
    before = len(world.cdse.requests)
    assert world.build("unnamed", "--stac-url", world.stac, "--cdse-token-url", f"{world.cdse.url}/token") == 1
    asked = world.cdse.requests[before:]
    assert asked
    assert not any("Authorization" in headers for _, headers, _ in asked)


def test_by_s3(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDSE_S3_ACCESS_KEY", KEY)
    monkeypatch.setenv("CDSE_S3_SECRET_KEY", SECRET)
    monkeypatch.setenv("XDG_STATE_HOME", str(world.root / "state"))
    assert world.build("s3", "--stac-url", world.stac, "--access", "s3", "--cdse-s3-endpoint", world.s3) == 0
    world.equals_disk("s3")
    there = sorted((world.root / "s3" / "imagery_raw").rglob("*_B02_20m.jp2"))
    assert len(there) == 9
    for path in there:
        told = world.root / "safe" / path.relative_to(world.root / "s3" / "imagery_raw")
        assert digest_of(path) == digest_of(told)


@pytest.mark.parametrize("key", ["cdse_token_url", "cdse-hosts", "cdse_s3_endpoint"])
def test_a_shared_configuration_does_not_say_where_secrets_go(
    world: World, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = ["thief.org"] if "hosts" in key else "https://thief.org/x"
    (tmp_path / "build.yaml").write_text(yaml.safe_dump({"start": "2021-06-01", key: value}))
    assert world.build("never", "--config", str(tmp_path / "build.yaml")) == 2
    told = capsys.readouterr().err
    name = key.replace("_", "-")
    assert f"--{name} in {tmp_path / 'build.yaml'} is not taken from a file" in told
    assert json.dumps(told).count("thief") == 0
    assert not (world.root / "never").exists()
