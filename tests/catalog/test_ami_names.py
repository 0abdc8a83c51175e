"""Names of GK-2A's files, and what is said of those that are not read."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.ami import AMI_NAMES
from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.items import load_items, save_items
from catalog.geostationary.scans import find_scans
from catalog.geostationary.shelf import ScanShelf
from stratacube.errors import UsageError

NAME = "gk2a_ami_le1b_ir105_la020ge_202308090034.nc"
PIXELS = {"vi004": "010", "vi005": "010", "vi006": "005", "vi008": "010"}


def test_a_name_is_read() -> None:
    name = AMI_NAMES.parse(NAME)
    assert name is not None
    assert (name.platform, name.sector, name.channel, name.mode) == ("gk2a", "LA", 13, 0)
    assert (name.start, name.end) == (datetime(2023, 8, 9, 0, 34), datetime(2023, 8, 9, 0, 36))
    assert name.created == name.start  # of which the name says nothing
    for area, minutes in (("fd", 10), ("ela", 2)):
        other = AMI_NAMES.parse(NAME.replace("la020", f"{area}020"))
        assert other is not None
        assert (other.sector, other.end - other.start) == (area.upper(), timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (NAME.replace("la020ge", "ea020lc"), "area code 'ea' is unknown; the areas read are fd, ela, la"),
        (NAME.replace("la020", "la010"), "pixels of 1 km are not those of ir105, 2 km"),
        (NAME.replace("020ge", "020lc"), "projection 'lc' is not geostationary"),
        (NAME.replace("ir105", "ir999"), "band 'ir999' is none of AMI's"),
        (NAME.replace("0809", "0899"), "'202308990034' is not a time"),
        (NAME.replace("2023", "9999"), "'999908090034' is not a time of AMI's"),
        ("x" + NAME, "its form is not gk2a_ami_le1b_BAND_AREA_TIME.nc"),
        (NAME + "4", "its form is not"),
    ],
)
def test_what_nearly_is_one_of_its_names_is_said_to_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    assert AMI_NAMES.parse(name) is None
    for there in (name, NAME):
        (tmp_path / there).touch()
    with caplog.at_level(logging.WARNING):
        assert [f.channel for f in LocalArchive(tmp_path, AMI_NAMES).files(None, None, None, None)] == [13]
    assert reason in caplog.text
    assert f"1 file looks like AMI L1b and was not understood: {name} (" in caplog.text


@pytest.mark.parametrize("name", ["." + NAME, "OR_ABI-L1b-RadF-M6C01_G16_s20200010000000.nc", "notes.nc"])
def test_other_names_are_other_peoples(name: str) -> None:
    assert AMI_NAMES.parse(name) is None
    assert AMI_NAMES.nearly(name) is None


def test_bands_by_number_or_name() -> None:
    for key in ("ir105", "IR105", "13", 13, "013"):
        assert AMI_NAMES.number(key) == 13
    assert [AMI_NAMES.number(n) for n in ("vi004", "nr016", "sw038", "ir133")] == [1, 6, 7, 16]
    assert [ABI_NAMES.number(n) for n in ("C02", "c2", 2)] == [2, 2, 2]
    for naming, key in ((AMI_NAMES, "C02"), (AMI_NAMES, "17"), (ABI_NAMES, "vi004"), (ABI_NAMES, "0")):
        with pytest.raises(UsageError, match=rf"channel '{key}' is unknown; {naming.title} has channels 1 to 16"):
            naming.number(key)


def test_satellites_areas_and_products() -> None:
    for spelling in ("gk2a", "GK-2A", "GK 2A", "GEO-KOMPSAT-2A"):
        assert AMI_NAMES.normalise(spelling) == "gk2a"
    assert not AMI_NAMES.knows("goes16")
    assert not ABI_NAMES.knows("gk2a")
    assert [AMI_NAMES.parse_sector("AMI-L1b", d) for d in (None, "la", "ELA")] == ["FD", "LA", "ELA"]
    assert AMI_NAMES.parse_sector("AMI-L1b-LA", None) == "LA"
    for product, domain, said in (
        ("AMI-L1b", "M1", "domain 'M1' is unknown; the areas of AMI are FD, ELA, LA"),
        ("AMI-L1b-FD", "LA", "contradict each other"),
        ("ABI-L1b-RadF", None, "is not AMI's"),
    ):
        with pytest.raises(UsageError, match=said):
            AMI_NAMES.parse_sector(product, domain)


def test_scans_come_back_from_their_items(tmp_path: Path) -> None:
    for minute in (34, 36):
        for band in ("ir105", "vi004"):
            pixels = PIXELS.get(band, "020")
            (tmp_path / f"gk2a_ami_le1b_{band}_la{pixels}ge_2023080900{minute}.nc").write_bytes(b"x" * minute)
    (tmp_path / "OR_ABI-L1b-RadM1-M6C13_G16_s20232210034000_e20232210034570_c20232210035000.nc").touch()
    archive = LocalArchive(tmp_path, AMI_NAMES)
    scans = find_scans(archive, platform="gk2a", sector="LA", naming=AMI_NAMES)
    assert [s.id for s in scans] == ["gk2a_AMI-L1b-LA_s20232210034000", "gk2a_AMI-L1b-LA_s20232210036000"]
    assert [sorted(s.files) for s in scans] == [[1, 13]] * 2
    for name in ("sources.json", "sources.parquet"):
        path = tmp_path / name
        save_items(path, scans, naming=AMI_NAMES)
        assert load_items(path, AMI_NAMES) == scans
        assert list(ScanShelf(path, naming=AMI_NAMES).scans()) == scans
    assert find_scans(archive, platform="gk2a", sector="FD", naming=AMI_NAMES) == []


def test_names_share_what_they_have_in_common() -> None:
    names = [f"gk2a_ami_le1b_{band}_la020ge_202308090034.nc" for band in ("ir105", "ir112")]
    one, other = map(AMI_NAMES.parse, names)
    assert one is not None
    assert other is not None
    assert one.product is other.product
    assert one.sector is other.sector
