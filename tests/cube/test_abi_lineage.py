"""The reprocessed record is another lineage: read when it is asked for, and never mixed with the operational one."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

import boto3
import botocore.config
import h5py
import numpy as np
import pytest

import cube
from catalog.geostationary.archives import LocalArchive, S3Archive
from catalog.geostationary.fetch import destination
from catalog.geostationary.items import load_items, save_items
from catalog.geostationary.naming import REPROCESSED
from catalog.geostationary.scans import find_scans, group_scans
from cube.build import main
from cube.geostationary.index import index_file
from cube.testing import write_abi_file
from stratacube.errors import SourceError, UsageError

START = datetime(2019, 7, 1, 16)
PERIOD = {"start": START, "end": START.replace(hour=17)}
OPERATIONAL, AGAIN = 100, 200
"""Counts of all pixels of each lineage."""


def write(root: Path, counts: int, *, again: bool = False) -> Path:
    """A small full disk; the reprocessed one where and as NOAA's bucket has it."""
    place = {"sector": "F", "start": START, "corner": (0.0, 0.050008)}
    path = write_abi_file(root, channel=13, counts=np.full((130, 130), counts, "u2"), **place)
    if not again:
        return path
    made = Path(str(path.parent).replace("ABI-L1b-RadF", "ABI-L1b-RadF-Reproc")) / path.name.replace("OR_", "RP_")
    made.parent.mkdir(parents=True)
    return path.rename(made)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("both")
    write(root, AGAIN, again=True)
    write(root, OPERATIONAL)
    return root


def counts_of(tree: object) -> float:
    node = tree["2km"]  # type: ignore[index]
    first = (node["radiance"].values[0, 0, 0, 0] - node["add_offset"].values.ravel()[0]) / node["scale_factor"]
    return round(float(first.values.ravel()[0]))


def test_of_an_archive_of_both_the_operational_one_is_read_unless_asked(both: Path) -> None:
    (ours,) = LocalArchive(both).files("goes16", "F", None, None)
    (again,) = LocalArchive(both, lineage=REPROCESSED).files("goes16", "F", None, None)
    assert (ours.product, again.product) == ("ABI-L1b-RadF", "ABI-L1b-RadF-Reproc")
    assert ours.identity != again.identity
    assert counts_of(cube.open_abi(both)) == OPERATIONAL
    assert counts_of(cube.open_abi(both, product="ABI-L1b-RadF-Reproc")) == AGAIN
    assert counts_of(cube.open_abi(both / "noaa-goes16" / "ABI-L1b-RadF-Reproc")) == AGAIN
    assert counts_of(cube.open_abi(both / "noaa-goes16" / "ABI-L1b-RadF")) == OPERATIONAL


def test_scans_of_two_lineages_are_two(both: Path, tmp_path: Path) -> None:
    files = [
        f for lineage in ("", REPROCESSED) for f in LocalArchive(both, lineage=lineage).files(None, None, None, None)
    ]
    scans = group_scans(files)
    assert [s.id for s in scans] == [
        "goes16_ABI-L1b-RadF_s20191821600000", "goes16_ABI-L1b-RadF-Reproc_s20191821600000",
    ]  # fmt: skip
    save_items(tmp_path / "sources.json", scans)
    assert load_items(tmp_path / "sources.json") == scans


def test_a_folder_without_products_is_told_apart_by_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for counts in (OPERATIONAL, AGAIN):
        path = write(tmp_path / str(counts), counts, again=counts == AGAIN)
        path.rename(tmp_path / path.name)
    with caplog.at_level(logging.WARNING):
        assert counts_of(cube.open_abi(tmp_path)) == OPERATIONAL
    assert "files of ABI-L1b-RadF-Reproc are left out; give `product=ABI-L1b-RadF-Reproc`" in caplog.text
    assert counts_of(cube.open_abi(tmp_path, product="ABI-L1b-RadF-Reproc")) == AGAIN


def test_names_that_do_not_tell_take_the_lineage_of_their_folder(tmp_path: Path) -> None:
    path = write(tmp_path, AGAIN, again=True)
    path.rename(path.with_name(path.name.replace("RP_", "OR_")))
    assert list(LocalArchive(tmp_path).files(None, None, None, None)) == []
    (file,) = LocalArchive(tmp_path, lineage=REPROCESSED).files(None, None, None, None)
    assert file.product == "ABI-L1b-RadF-Reproc"
    assert (
        destination(file, tmp_path / "x") == tmp_path / "x" / "ABI-L1b-RadF-Reproc/2019/182/16" / Path(file.href).name
    )
    (tmp_path / "years" / "2019").mkdir(parents=True)
    assert destination(file, tmp_path / "years").parts[-5] == "ABI-L1b-RadF-Reproc"  # not among those of operation


def test_a_reprocessed_file_under_an_operational_name_is_refused(both: Path, tmp_path: Path) -> None:
    path = write(tmp_path, OPERATIONAL)
    with h5py.File(path, "r+") as h5:
        h5.attrs["dataset_name"] = h5.attrs["dataset_name"].decode().replace("OR_", "RP_")
    (file,) = LocalArchive(tmp_path).files(None, None, None, None)
    with pytest.raises(SourceError, match=r"its dataset_name is RP_ABI-L1b-RadF.*, which is reprocessed"):
        index_file(file)


def test_references_of_both_are_not_mixed(both: Path, tmp_path: Path) -> None:
    files = [
        f for lineage in ("", REPROCESSED) for f in LocalArchive(both, lineage=lineage).files(None, None, None, None)
    ]
    cube.write_references([index_file(f) for f in files], tmp_path)
    said = "two lineages, ABI-L1b-RadF and ABI-L1b-RadF-Reproc; choose one with product="
    with pytest.raises(UsageError, match=said):
        cube.open_abi(tmp_path)
    assert counts_of(cube.open_abi(tmp_path, product="ABI-L1b-RadF")) == OPERATIONAL
    assert counts_of(cube.open_abi(tmp_path, product="ABI-L1b-RadF-Reproc")) == AGAIN


@pytest.mark.parametrize(("product", "counts"), [("ABI-L1b-RadF", OPERATIONAL), ("ABI-L1b-RadF-Reproc", AGAIN)])
def test_a_build_is_of_the_product_that_was_asked_for(both: Path, tmp_path: Path, product: str, counts: int) -> None:
    flags = ["abi", "--local-data-dir", str(both), "--output-dir", str(tmp_path / "out"), "--product", product]
    flags += ["--channels", "13", "--grid", "2km", "--tile-size", "32", "--num-tiles", "1", "--steps", "1"]
    assert main([*flags, "--workers", "1"]) == 0
    assert (cube.open_tiles(tmp_path / "out", "counts")["C13"].values == counts).all()
    assert counts_of(cube.open_abi(tmp_path / "out" / "references")) == counts


def test_mesoscale_sectors_were_not_reprocessed() -> None:
    with pytest.raises(UsageError, match="ABI-L1b-RadM-Reproc is not there for sector M1: F and C were reprocessed"):
        cube.open_abi(Path.cwd(), product="ABI-L1b-RadM-Reproc", sector="M1")


@pytest.fixture(scope="module")
def online(both: Path, s3_server: str) -> str:
    client = boto3.client(
        "s3", endpoint_url=s3_server, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1",
        config=botocore.config.Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket="noaa-goes16", ACL="public-read")
    root = both / "noaa-goes16"
    for path in root.rglob("*.nc"):
        client.upload_file(str(path), "noaa-goes16", str(path.relative_to(root)), ExtraArgs={"ACL": "public-read"})
    return s3_server


def test_buckets_hold_both_apart(online: str) -> None:
    for lineage, product in (("", "ABI-L1b-RadF"), (REPROCESSED, "ABI-L1b-RadF-Reproc")):
        archive = S3Archive(online, lineage=lineage)
        (scan,) = find_scans(archive, platform="goes16", sector="F", **PERIOD)
        assert {f.product for f in scan.files.values()} == {product}
        opened = cube.open_abi(f"s3://noaa-goes16/{product}", **PERIOD, s3_endpoint=online)
        assert counts_of(opened) == (AGAIN if lineage else OPERATIONAL)
    opened = cube.open_abi("s3://noaa-goes16/", **PERIOD, product="ABI-L1b-RadF-Reproc", s3_endpoint=online)
    assert counts_of(opened) == AGAIN


@pytest.mark.parametrize(
    ("location", "options", "said"),
    [
        ("s3://noaa-goes16/ABI-L2-CMIPF", {}, "is not a product of NOAA's ABI buckets that is read"),
        ("s3://noaa-goes16/GLM-L2-LCFA", {}, "is not a product of NOAA's ABI buckets"),
        ("s3://noaa-goes16/ABI-L1b-RadF/2019/182", {}, "give one whole, such as s3://noaa-goes16/ABI-L1b-RadF"),
        ("s3://noaa-goes16/ABI-L1b-RadF/2019/182/16/OR_ABI-L1b-RadF-M6C13_G16.nc", {}, "give one whole"),
        ("s3://noaa-goes16/ABI-L1b-RadX", {}, "is not a product"),
        ("s3://elsewhere/ABI-L1b-RadF", {}, "is not a product"),
        ("s3://noaa-goes16", {}, "holds several products; name one, such as s3://noaa-goes16/ABI-L1b-RadF"),
        ("s3://noaa-goes16/ABI-L1b-RadF", {"sector": "M1"}, "ABI-L1b-RadF and sector M1 contradict"),
        ("s3://noaa-goes16/ABI-L1b-RadF", {"platform": "goes17"}, "is of goes16, which is not goes17"),
        ("s3://noaa-goes16/ABI-L1b-RadF", {"platform": "west"}, "is of goes16, which is not west"),
        ("s3://noaa-goes16/ABI-L1b-RadF", {"product": "ABI-L1b-RadF-Reproc"}, "is of another lineage"),
        ("s3://noaa-goes16/ABI-L1b-RadF", {"product": "ABI-L2-CMIPF"}, "'ABI-L2-CMIPF' is not read"),
    ],
)
def test_what_is_not_read_is_refused_and_not_taken_for_another(
    online: str, location: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        cube.open_abi(location, **PERIOD, s3_endpoint=online, **options)
