"""Objects that change behind a listing: read on condition, from a real S3 server, and told in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import numpy as np
import pandas as pd
import pytest

import cube
from catalog.geostationary.archives import S3Archive
from catalog.geostationary.fetch import fetch_files
from catalog.geostationary.s3 import read_ranges, refuse_changed
from catalog.geostationary.scans import SourceFile
from cube.build import main
from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.read import read_windows
from cube.testing import write_abi_file
from stratacube.errors import SourceError

START = datetime(2021, 7, 1, 16)
BUCKET = "noaa-goes18"
PLACE: dict[str, Any] = {"platform": "goes18", "channel": 13, "start": START, "shape": (260, 260)}


@pytest.fixture(scope="module")
def client(s3_server: str) -> Any:
    made = boto3.client(
        "s3", endpoint_url=s3_server, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1",
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    made.create_bucket(Bucket=BUCKET, ACL="public-read")
    return made


def put(client: Any, folder: Path, counts: int, **options: Any) -> str:
    """One file of one count, under the name that it always has."""
    path = write_abi_file(folder / str(counts), counts=np.full((260, 260), counts, "u2"), **PLACE | options)
    key = str(path.relative_to(folder / str(counts) / BUCKET))
    client.upload_file(str(path), BUCKET, key, ExtraArgs={"ACL": "public-read"})
    return key


@pytest.fixture
def listed(client: Any, s3_server: str, tmp_path: Path) -> Iterator[SourceFile]:
    """A file as it was listed; it is another when the test gets it."""
    put(client, tmp_path, 100)
    (source,) = S3Archive(s3_server).files("goes18", "M1", START, START.replace(hour=17))
    yield source
    client.delete_object(Bucket=BUCKET, Key=source.href.removeprefix(f"s3://{BUCKET}/"))


def test_ranges_are_read_only_of_what_was_listed(
    client: Any, listed: SourceFile, s3_server: str, tmp_path: Path
) -> None:
    ranges = [(0, 10), (100, 5000), (listed.size - 5, listed.size + 50)]
    whole = client.get_object(Bucket=BUCKET, Key=listed.href.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
    for tag in (listed.tag, ""):
        assert read_ranges(listed.href, ranges, tag, s3_server) == [whole[a:b] for a, b in ranges]
    put(client, tmp_path, 200)
    with pytest.raises(
        SourceError, match=rf"^{listed.href} at http.* has changed since it was listed; list the archive"
    ):
        read_ranges(listed.href, ranges, listed.tag, s3_server)
    assert len(read_ranges(listed.href, ranges, "", s3_server)) == 3


def test_an_index_is_made_only_of_what_was_listed(
    client: Any, listed: SourceFile, s3_server: str, tmp_path: Path
) -> None:
    index = index_file(listed, None, s3_server)
    put(client, tmp_path, 200)
    with pytest.raises(
        SourceError, match=rf"^{listed.href} has changed since it was listed \(ETag .* {listed.tag} was"
    ):
        index_file(listed, None, s3_server)
    pixels = np.empty((260, 260), "u2")
    with pytest.raises(SourceError, match="has changed since it was listed"):
        read_windows(index, "rad", [Window(0, 0, 260, 260)], [pixels], s3_server)


def test_references_know_what_they_were_made_of(
    client: Any, listed: SourceFile, s3_server: str, tmp_path: Path
) -> None:
    cube.write_references([index_file(listed, None, s3_server)], tmp_path / "refs")
    opened = cube.open_abi(tmp_path / "refs", s3_endpoint=s3_server, chunks=None)["2km"]["dqf"]
    assert (opened.values == 0).all()
    put(client, tmp_path, 200)
    with pytest.raises(SourceError, match="has changed since it was listed"):
        _ = cube.open_abi(tmp_path / "refs", s3_endpoint=s3_server, chunks=None)["2km"]["dqf"].values


def test_a_download_is_of_what_was_listed(client: Any, listed: SourceFile, s3_server: str, tmp_path: Path) -> None:
    in_parts = replace(listed, tag="0" * 32 + "-3")
    here, failures = fetch_files([in_parts], tmp_path / "a", endpoint_url=s3_server, retries=0)
    assert here == []
    assert "has changed since it was listed" in failures[0][1]
    refuse_changed(listed.href, listed.tag, f'"{listed.tag}"')
    refuse_changed(listed.href, "", "other")


def test_an_object_uploaded_in_parts_is_fetched(client: Any, s3_server: str, tmp_path: Path) -> None:
    path = write_abi_file(tmp_path / "a", counts=np.full((260, 260), 7, "u2"), **PLACE)
    key = str(path.relative_to(tmp_path / "a" / BUCKET))
    parts = boto3.s3.transfer.TransferConfig(multipart_threshold=1)
    client.upload_file(str(path), BUCKET, key, ExtraArgs={"ACL": "public-read"}, Config=parts)
    (source,) = S3Archive(s3_server).files("goes18", "M1", START, START.replace(hour=17))
    assert source.tag.endswith("-1")
    (here,), failures = fetch_files([source], tmp_path / "b", endpoint_url=s3_server)
    assert failures == []
    assert Path(here.href).read_bytes() == path.read_bytes()
    assert index_file(source, None, s3_server).rad.sizes.any()
    client.delete_object(Bucket=BUCKET, Key=key)


def test_a_build_leaves_out_what_changed_and_makes_it_when_it_is_back(
    client: Any, listed: SourceFile, s3_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = put(client, tmp_path / "c7", 100, channel=7)
    flags = ["abi", "--output-dir", str(tmp_path / "out"), "--satellite", "goes18", "--domain", "M1", "--steps", "1"]
    flags += ["--start-dt", "2021-07-01T16:00", "--end-dt", "2021-07-01T17:00", "--s3-endpoint", s3_server]
    flags += ["--channels", "7", "13", "--grid", "2km", "--tile-size", "64", "--num-tiles", "1", "--workers", "1"]
    assert main([*flags, "--plan-only"]) == 0
    put(client, tmp_path, 200)
    assert main([*flags, "--retries", "0"]) == 1
    (row,) = pd.read_csv(tmp_path / "out" / "errors.csv").itertuples()
    assert "has changed since it was listed" in row.reason
    assert row.channel == 13
    put(client, tmp_path / "again", 100)
    assert main(flags) == 0
    assert (cube.open_tiles(tmp_path / "out", "counts")["C13"].values == 100).all()
    client.delete_object(Bucket=BUCKET, Key=key)
