"""Scans as STAC items, saved and read back."""

from __future__ import annotations

import itertools
import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyproj
import pystac
import pytest

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.items import load_items, save_items, scan_from_item, scan_item
from catalog.geostationary.names import parse_name
from catalog.geostationary.scans import Scan, SourceFile, find_scans, group_scans
from stratacube.errors import SourceError
from tests.stac_validation import validate_stac

START = datetime(2020, 1, 1, 0, 0, 21, 600_000)


def make_scan(
    start: datetime = START,
    *,
    sector: str = "F",
    platform: int = 16,
    mode: int = 6,
    channels: tuple[int, ...] = tuple(range(1, 17)),
    root: str = "s3://noaa-goes16",
) -> Scan:
    files = []
    for channel in channels:
        times = (
            start + timedelta(milliseconds=100 * (channel % 3)),
            start + timedelta(minutes=9, seconds=channel),
            start + timedelta(minutes=10),
        )
        stamps = "_".join(f"{k}{t:%Y%j%H%M%S}{t.microsecond // 100_000}" for k, t in zip("sec", times, strict=True))
        name = f"OR_ABI-L1b-Rad{sector}-M{mode}C{channel:02d}_G{platform}_{stamps}.nc"
        fields = parse_name(name)
        assert fields is not None
        files.append(SourceFile(f"{root}/ABI-L1b-Rad{sector[0]}/{name}", 10**7 + channel, "0f" * 16, *fields))
    (scan,) = group_scans(files)
    return scan


CRS = pyproj.CRS.from_cf(
    {
        "grid_mapping_name": "geostationary",
        "perspective_point_height": 35786023.0,
        "semi_major_axis": 6378137.0,
        "semi_minor_axis": 6356752.31414,
        "longitude_of_projection_origin": -75.0,
        "sweep_angle_axis": "x",
    }
)


@pytest.mark.parametrize("sector", ["F", "C", "M1", "M2"])
@pytest.mark.parametrize("known", [False, True])
def test_an_item_is_valid(sector, known):
    ring = [(-100.0, 20.0), (-90.0, 20.0), (-90.0, 30.0), (-100.0, 30.0)]
    scan = make_scan(sector=sector)
    item = scan_item(scan, geometry=ring, projection=CRS) if known else scan_item(scan)
    validate_stac(item)
    assert (item["geometry"] is None) == (not known) == ("bbox" not in item)
    if known:
        assert item["bbox"] == [-100, 20, -90, 30]
        assert pyproj.CRS.from_wkt(item["properties"]["proj:wkt2"]) == CRS


def test_an_item_says_what_the_goes_extension_asks():
    item = scan_item(make_scan(sector="M2"))
    assert item["id"] == "goes16_ABI-L1b-RadM2_s20200010000216"
    found = {k: v for k, v in item["properties"].items() if k.startswith("goes:")}
    assert found == {
        "goes:orbital_slot": "East",
        "goes:system_environment": "OR",
        "goes:image_type": "MESOSCALE",
        "goes:mesoscale_image_number": 2,
        "goes:mode": "6",
    }
    assert item["properties"]["platform"] == "GOES-16"
    assert item["properties"]["datetime"] == "2020-01-01T00:00:21.6Z"
    asset = item["assets"]["C02"]
    assert asset["href"].startswith("s3://noaa-goes16/ABI-L1b-RadM/OR_ABI-L1b-RadM2-M6C02_G16_s2020001000021")
    assert asset["file:size"] == 10**7 + 2
    assert "file:checksum" not in asset
    assert asset["bands"] == [
        {"name": "C02", "eo:common_name": "red", "eo:center_wavelength": 0.64, "eo:full_width_half_max": 0.1}
    ]


def test_scans_come_back_exactly(tmp_path):
    scans = [
        make_scan(START + i * timedelta(minutes=10), sector=sector, mode=mode, channels=channels)
        for i, (sector, mode, channels) in enumerate(
            itertools.product(("F", "M1"), (1, 3, 6), (tuple(range(1, 17)), (13,), (2, 7)))
        )
    ]
    save_items(tmp_path / "sources.json", scans)
    assert load_items(tmp_path / "sources.json") == scans
    assert [path.name for path in tmp_path.iterdir()] == ["sources.json"]


def test_a_scan_cut_down_to_channels_keeps_its_times(tmp_path):
    whole = make_scan()
    part = Scan(**{f: getattr(whole, f) for f in Scan.__slots__} | {"files": {1: whole.files[1]}})
    assert part.files[1].start != part.start
    assert part.files[1].end != part.end
    save_items(tmp_path / "sources.json", [part])
    assert load_items(tmp_path / "sources.json") == [part]


def test_real_scans_come_back_exactly(abi_data, tmp_path):
    scans = find_scans(LocalArchive(abi_data), platform="goes17", sector="M1")
    save_items(tmp_path / "sources.json", scans)
    assert load_items(tmp_path / "sources.json") == scans
    validate_stac(json.loads((tmp_path / "sources.json").read_text()))


def test_the_collection_is_read_by_pystac(tmp_path):
    scans = [make_scan(), make_scan(START + timedelta(minutes=10), root="/a folder/with spaces and ü")]
    save_items(tmp_path / "sources.json", scans)
    collection = pystac.ItemCollection.from_file(str(tmp_path / "sources.json"))
    assert [item.id for item in collection] == [scan.id for scan in scans]
    assert collection[0].datetime.replace(tzinfo=None) == START
    assert load_items(tmp_path / "sources.json") == scans


def test_no_scans_is_a_collection_too(tmp_path):
    save_items(tmp_path / "sources.json", [])
    assert json.loads((tmp_path / "sources.json").read_text()) == {"type": "FeatureCollection", "features": []}
    assert load_items(tmp_path / "sources.json") == []


def test_a_collection_laid_out_otherwise_is_read(tmp_path):
    scans = [make_scan(), make_scan(START + timedelta(minutes=10))]
    collection = {"type": "FeatureCollection", "features": [scan_item(s) for s in scans], "links": []}
    (tmp_path / "sources.json").write_text(json.dumps(collection, indent=2))
    assert load_items(tmp_path / "sources.json") == scans


def test_what_was_saved_stays_when_saving_fails(tmp_path):
    path = tmp_path / "sources.json"
    save_items(path, [make_scan()])

    def broken():
        yield make_scan(START + timedelta(hours=1))
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        save_items(path, broken())
    assert load_items(path) == [make_scan()]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: text.replace("\n]}\n", "\n"), "breaks off before its end"),
        (lambda text: '{"type": "Feature"}', "is not an item collection"),
        (lambda text: "", "is not JSON"),
        (lambda text: "[" * 100_000, "cannot be read .maximum recursion depth"),
        (lambda text: text.replace("2020", "0000").replace("OR_ABI", "OR_ABI"), "does not describe an ABI scan"),
        (lambda text: text.replace('"assets":{', '"assets":[{').replace("}}}", "}}}]"), "JSON|does not describe"),
        (lambda text: text.replace("file:size", "size"), "does not describe an ABI scan"),
        (lambda text: text.replace(f'"{"0f" * 16}"', "null"), "channel 1 has file:size 10000001 and .*tag None"),
        (lambda text: text.replace("OR_ABI", "XX_ABI"), "does not describe an ABI scan"),
    ],
)
def test_a_spoilt_collection_is_one_sentence_with_a_remedy(tmp_path, spoil, said):
    path = tmp_path / "sources.json"
    save_items(path, [make_scan()])
    path.write_text(spoil(path.read_text()))
    with pytest.raises(SourceError, match=rf"sources\.json.*{said}.*remove (it|the file) to list"):
        load_items(path)


def test_a_collection_that_is_gone_is_one_sentence(tmp_path):
    with pytest.raises(SourceError, match=r"cannot be read \(file not found\)"):
        load_items(tmp_path / "sources.json")


def test_an_item_alone_is_read():
    scan = make_scan()
    item = json.loads(json.dumps(scan_item(scan, projection=CRS)))
    item["assets"]["thumbnail"] = {"href": "./a.png"}
    assert scan_from_item(item) == scan


def test_an_outline_over_the_antimeridian_is_cut():
    ring = np.array([(170.0, 0.0), (-170.0, 0.0), (-170.0, 10.0), (170.0, 10.0)])
    item = scan_item(make_scan(platform=17), geometry=ring)
    validate_stac(item)
    assert item["geometry"]["type"] == "MultiPolygon"


def test_packed_files_are_the_same_files(tmp_path: Path) -> None:
    scans = [
        make_scan(START + i * timedelta(minutes=10), channels=channels) for i, channels in enumerate(((2, 5), (3,)))
    ]
    save_items(tmp_path / "sources.json", scans)
    packed = load_items(tmp_path / "sources.json", packed=True)
    assert packed == scans == load_items(tmp_path / "sources.json")
    (files, _) = (scan.files for scan in packed)
    assert not isinstance(files, dict)
    assert (len(files), [*files], 5 in files, 3 in files) == (2, [2, 5], True, False)
    assert {2} <= files.keys()
    assert scans[0].files.keys() >= files.keys()
    with pytest.raises(KeyError):
        files[300]
