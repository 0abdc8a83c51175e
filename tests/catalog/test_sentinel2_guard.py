"""Whatever is wrong with one product, item or answer is one sentence with its name, and nothing else escapes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.sentinel2.convert import item_from_product, product_from_item, products_from_items
from catalog.sentinel2.find import find_products
from catalog.sentinel2.metadata import parse_granule, parse_product
from catalog.sentinel2.odata import product_from_odata
from catalog.sentinel2.query import Query
from catalog.sentinel2.safe import read_safe
from cube.testing import SafeSpec, write_safe
from stratacube.errors import SourceError

EVER = Query(start=datetime(2015, 1, 1), end=datetime(2030, 1, 1))
NAME = "S2A_MSIL2A_20210601T213001_N0510_R027_T06WUA_20230101T000000"


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = {"B02_20m": np.full((64, 64), 1200, "u2"), "SCL_20m": np.full((64, 64), 4, "u1")}
    spec = SafeSpec(
        tile="06WUA", epsg=32606, ulx=400000, uly=7600000, datatake_start=datetime(2021, 6, 1, 21, 30, 1),
        processing_time=datetime(2023, 1, 1), images=images,
    )  # fmt: skip
    return write_safe(spec, tmp_path_factory.mktemp("safe"), block=64)


def _documents(safe: Path) -> tuple[bytes, bytes]:
    return (safe / "MTD_MSIL2A.xml").read_bytes(), next(safe.glob("GRANULE/*/MTD_TL.xml")).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('band_id="3"', 'band_id="99"', "band_id '99' that is unknown"),
        ('band_id="3"', 'band_id="4"', "unknown or twice"),
        ("<Cloud_Coverage_Assessment>0.000000", "<Cloud_Coverage_Assessment>N/A", "Assessment is 'N/A', not a number"),
        ("<Cloud_Coverage_Assessment>0.000000", "<Cloud_Coverage_Assessment>NaN", "Assessment is 'NaN', not a number"),
        ("<Cloud_Coverage_Assessment>0.000000", "<Cloud_Coverage_Assessment>170", "is 170, not per cent"),
        ("21:30:01.000Z", "21:30:01 UTC", "2021-06-01T21:30:01 UTC"),
        ('unit="none">10000', 'unit="none">inf', "BOA_QUANTIFICATION_VALUE is 'inf', not a number"),
        ('unit="none">10000', 'unit="none">1000', "is 1000 where every processing has 10000"),
        ('unit="none">10000', 'unit="none">1', "is 1 where every processing has 10000"),
        (">-1000<", ">+1000<", r"BOA_ADD_OFFSET of B01 is \+1000 where processings have 0 or -1000"),
        (">-1000<", ">-7000<", "is -7000 where processings have"),
        (">-1000<", ">-9000<", "is -9000 where processings have"),
        ('encoding="UTF-8"', 'encoding="no-such"', "unknown encoding"),
        ("<SENSING_ORBIT_NUMBER>27", "<SENSING_ORBIT_NUMBER>27.5", "SENSING_ORBIT_NUMBER is 27.5, not a whole"),
        ("20210601T213001_N0510", "20211301T213001_N0510", "there is no time 20211301T213001"),
    ],
)
def test_odd_product_metadata_is_one_sentence(safe: Path, old: str, new: str, words: str) -> None:
    document = _documents(safe)[0].decode()
    assert old in document
    with pytest.raises(SourceError, match=rf"(?s)/x/MTD_MSIL2A\.xml.*{words}"):
        parse_product(document.replace(old, new).encode(), "/x/MTD_MSIL2A.xml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<NCOLS>64", "<NCOLS>abc", "NCOLS is 'abc', not a number"),
        ('<Size resolution="20"', '<Size resolution="60"', "there is no Size of 20 m beside its Geoposition"),
        ("<ULX>400000", "<ULX>-1e999", "ULX is '-1e999', not a number"),
        ("<ULX>400000", "<ULX>nan", "ULX is 'nan', not a number"),
        ("EPSG:32606", "EPSG:32607", "said to be in EPSG:32607"),
        ("<XDIM>20", "<XDIM>10", "pixels of 20 m have XDIM 10"),
        ("<YDIM>-20", "<YDIM>20", "are not the grid of a tile"),
        ("_T06WUA_", "_T06WUO_", "tile 06WUO does not exist"),
        ("_T06WUA_", "_T61WUA_", "not the name of a Sentinel-2 tile"),
        ("2021-06-01T21:30:04.000Z", "9999-99-01", "month must be in 1..12"),
        ('unit="deg">50.0', 'unit="deg">steep', "steep"),
    ],
)
def test_odd_granule_metadata_is_one_sentence(safe: Path, old: str, new: str, words: str) -> None:
    document = _documents(safe)[1].decode()
    assert old in document
    with pytest.raises(SourceError, match=rf"^/x/MTD_TL\.xml(?s:.*)({words})"):
        parse_granule(document.replace(old, new).encode(), "/x/MTD_TL.xml")


def test_grids_that_cover_different_ground_are_refused(safe: Path) -> None:
    document = _documents(safe)[1].decode()
    more = '<Size resolution="10"><NROWS>64</NROWS><NCOLS>64</NCOLS></Size>'
    place = '<Geoposition resolution="10"><ULX>400000</ULX><ULY>7600000</ULY><XDIM>10</XDIM><YDIM>-10</YDIM>'
    both = document.replace("</Tile_Geocoding>", f"{more}{place}</Geoposition></Tile_Geocoding>")
    with pytest.raises(SourceError, match="grids of 20, 10 m do not cover one ground"):
        parse_granule(both.encode())


def test_a_footprint_that_is_none_is_left_out(safe: Path) -> None:
    document = _documents(safe)[0].decode()
    start = document.index("<EXT_POS_LIST>") + len("<EXT_POS_LIST>")
    end = document.index("</EXT_POS_LIST>")
    for ring in ("1 2 3", "a b c d", "", "91 0 91 1 91 2 91 3", "nan nan nan nan nan nan nan nan"):
        assert parse_product((document[:start] + ring + document[end:]).encode()).footprint == ()


def _mutated(document: bytes, rng: random.Random) -> bytes:
    """Document with a few bytes changed, cut, doubled, or a number or a word put elsewhere."""
    text = bytearray(document)
    for _ in range(rng.randint(1, 4)):
        if not text:
            break
        at = rng.randrange(len(text))
        to = min(len(text), at + rng.randint(1, 12))
        kind = rng.randrange(5)
        if kind == 0:
            text[at] = rng.randrange(256)
        elif kind == 1:
            del text[at:to]
        elif kind == 2:
            text[at:at] = text[at:to]
        elif kind == 3:
            text[at:to] = rng.choice([b"NaN", b"inf", b"-1", b"1e999", b"", b"abc", b"9" * 400, b"\xff", b"N/A", b"\0"])
        else:
            there = rng.randrange(len(text))
            text[at:to] = text[there : there + to - at]
    return bytes(text)


@pytest.mark.slow
@pytest.mark.parametrize(("which", "parse"), [(0, parse_product), (1, parse_granule)])
@pytest.mark.parametrize("values", [False, True])
def test_nothing_escapes_from_mutated_documents(
    safe: Path, which: int, parse: Callable[[bytes], Any], values: bool
) -> None:
    """Anywhere in the document, or in what stands between its tags: those come further."""
    document, rng = _documents(safe)[which], random.Random(which)
    refused = 0
    for _ in range(300):
        changed = _mutated_values(document, rng) if values else _mutated(document, rng)
        try:
            parse(changed)
        except SourceError:
            refused += 1
    assert refused > 50


def _mutated_values(document: bytes, rng: random.Random) -> bytes:
    parts = document.split(b">")
    full = [i for i, p in enumerate(parts) if p.partition(b"<")[0].strip() or b'="' in p]
    at = rng.choice(full)
    text, less, tag = parts[at].partition(b"<")
    parts[at] = _mutated(text, rng) + less + tag if text.strip() else _mutated(parts[at], rng)
    return b">".join(parts)


def _item(safe: Path) -> dict[str, Any]:
    return json.loads(json.dumps(item_from_product(read_safe(safe))))


def _without(item: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = item
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return item


def _with(item: dict[str, Any], value: Any, *path: str) -> dict[str, Any]:
    inner = item
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return item


ODD: list[Callable[[dict[str, Any]], Any]] = [
    lambda i: _with(_with(i, None, "id"), None, "properties", "grid:code"),
    lambda i: _with(i, "https://[::1/x", "assets", "B02_20m", "href"),
    lambda i: 3,
    lambda i: None,
    lambda i: [i],
    lambda i: _without(i, "properties"),
    lambda i: _with(i, "text", "properties"),
    lambda i: _with(i, "N/A", "properties", "eo:cloud_cover"),
    lambda i: _with(i, float("nan"), "properties", "eo:cloud_cover"),
    lambda i: _with(i, "2021-06-01T21:30:01 UTC", "properties", "processing:datetime"),
    lambda i: _with(i, 12, "properties", "processing:datetime"),
    lambda i: _with(i, ["a"], "assets"),
    lambda i: _with(i, None, "assets", "B02_20m"),
    lambda i: _with(i, [20, 0, 1e999, 0, -20, 0], "assets", "B02_20m", "proj:transform"),
    lambda i: _with(i, [5490, 5490], "assets", "B02_20m", "proj:shape"),
    lambda i: _with(i, [64], "assets", "B02_20m", "proj:shape"),
    lambda i: _with(i, "large", "assets", "B02_20m", "file:size"),
    lambda i: _with(i, -5, "assets", "B02_20m", "file:size"),
    lambda i: _with(i, 5, "assets", "B02_20m", "file:checksum"),
    lambda i: _with(i, "EPSG:99999", "assets", "B02_20m", "proj:code"),
    lambda i: _with(i, "\ud800", "id"),
]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_an_odd_item_drops_only_itself(safe: Path, tmp_path: Path, number: int) -> None:
    good = _item(safe)
    odd = ODD[number](_with(_item(safe), NAME.replace("213001", "223001"), "id"))
    if number == 20:
        odd["properties"].pop("product:type")
    products, refused = products_from_items([odd, good])
    assert [p.id for p in products] == [NAME]
    assert [(d.place, d.fault) for d in refused] == [(0, True)]
    assert re.search(r"item |tile 06WUA lies in|are not the grid of a tile", refused[0].reason)
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [odd, good]}))
    found = find_products(EVER, items=path)
    assert ([p.id for p in found.products], [d.fault for d in found.selection.dropped]) == ([NAME], [True])


def test_an_item_without_a_footprint_is_read(safe: Path) -> None:
    for geometry in ({"type": "Polygon", "coordinates": []}, {"type": "Polygon", "coordinates": [[]]}, None, "x", {}):
        found = product_from_item({**_item(safe), "geometry": geometry})
        west, south, east, north = found.bbox
        assert -152 < west < -149.1
        assert -149.2 < east < -146
        assert south < 68.4 < north


def test_an_odd_entry_of_odata_is_one_sentence(data_folder: Path) -> None:
    path = data_folder / "stac" / "odata" / "cdse_odata_S2L2A_N0509_count1.json"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    entry = json.loads(path.read_text())["value"][0]
    assert product_from_odata(entry).id
    for odd in (
        3,
        None,
        {},
        {**entry, "Name": None},
        {**entry, "ContentDate": None},
        {**entry, "ContentDate": {"Start": "yesterday"}},
        {**entry, "Attributes": [3]},
        {**entry, "Attributes": [{"Name": "cloudCover", "Value": "N/A"}]},
        {**entry, "Attributes": [{"Name": "cloudCover", "Value": float("nan")}]},
        {**entry, "Attributes": [{"Name": "processingDate", "Value": 5}]},
    ):
        with pytest.raises(SourceError, match=r"of the OData catalogue|is not the name"):
            product_from_odata(odd)
    assert product_from_odata({**entry, "GeoFootprint": None, "Footprint": "geography'SRID=4326;POLYGON(('"}).bbox
