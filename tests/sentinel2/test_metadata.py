"""Product and granule metadata, real and synthetic, and the harmonisation they mean."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.metadata import parse_product, parse_product_name, read_granule, read_product
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.tiles import size_remark
from cube.sentinel2.source import Harmonisation, harmonisation
from cube.testing import SafeSpec, write_safe
from stratacube.errors import SourceError


@pytest.fixture
def real(data_folder: Path) -> Path:
    folder = data_folder / "sentinel2" / "metadata"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


def test_offsets_of_all_real_products(real: Path) -> None:
    found = {}
    for path in real.glob("*/MTD_MSIL2*.xml"):
        product = read_product(path)
        found[product.baseline] = {product.offset(b) for b in ("B01", "B02", "B8A", "B12")}
        assert len(product.images) >= 35
        assert product.datastrip_start is not None
    assert found == {"02.12": {0}, "02.14": {0}, "04.00": {-1000}, "05.09": {-1000}}


def test_real_granules_agree_with_their_grids(real: Path) -> None:
    granule = read_granule(next(real.glob("S2A*T01KAB*/GRANULE/*/MTD_TL.xml")))
    assert (granule.tile, granule.proj_code) == ("01KAB", "EPSG:32701")
    assert granule.grids[20].transform == (20, 0, 99960, 0, -20, 8200000)
    assert granule.grids[10].rows == 10980
    assert granule.sun_elevation == pytest.approx(90 - 38.4174390061789)


def test_no_real_granule_is_refused_but_those_that_name_another_tile(real: Path) -> None:
    """34LBQ's three are 34LBP's with another name in TILE_ID, as the list of files beside them tells."""
    found, refused = set(), []
    for path in [*real.glob("**/MTD_TL.xml"), *real.glob("**/metadata.xml")]:
        if b"Level-1C_Tile_ID" in path.read_bytes()[:2000]:
            continue
        try:
            granule = read_granule(path)
        except SourceError as error:
            told = json.loads((path.parent / "tileInfo.json").read_text())
            square = f"{told['utmZone']}{told['latitudeBand']}{told['gridSquare']}"
            refused.append((square, str(error).partition(": ")[2]))
            continue
        found.add(granule.tile)
        assert {size_remark((grid.rows, grid.cols), grid.transform) for grid in granule.grids.values()} == {""}
    words = "tile 34LBQ lies in EPSG:32734 with its corner at 199980 9000040, but its grid begins at 199980 8900020"
    assert refused == [("34LBP", f"{words}; fetch the product again")] * 3
    assert found >= {"34LBP", "01KAB", "01WCP", "01WCS", "01CCV", "01CDL", "60CWS", "33XWJ", "22HBD", "11SLT"}


def test_another_document_under_the_name_is_refused(data_folder: Path) -> None:
    path = data_folder / "sentinel2" / "metadata_n0211" / "MTD_MSIL2A.xml"
    with pytest.raises(SourceError, match="Level-2A_Tile_ID document where Level-2A_User_Product"):
        read_product(path)


def _spec(baseline: str, **options: object) -> SafeSpec:
    return SafeSpec(
        tile="06WUA",
        epsg=32606,
        ulx=400000,
        uly=7600000,
        datatake_start=datetime(2021, 6, 1, 21, 30, 1),
        processing_time=datetime(2023, 1, 1),
        baseline=baseline,
        images={"B02_20m": np.full((64, 64), 1200, "u2"), "SCL_20m": np.full((64, 64), 4, "u1")},
        **options,  # type: ignore[arg-type]
    )


def _product(tmp_path: Path, baseline: str, **options: object) -> Product:
    return read_safe(write_safe(_spec(baseline, **options), tmp_path, block=64))


@pytest.mark.parametrize(
    ("baseline", "options", "reflectance"),
    [
        ("02.11", {}, 0.12),
        ("03.01", {}, 0.12),
        ("04.00", {}, 0.02),
        ("05.10", {}, 0.02),
        ("99.99", {"offset": 0}, 0.12),
        ("99.99", {"offset": -1000}, 0.02),
    ],
)
def test_reflectance_follows_the_metadata(
    tmp_path: Path, baseline: str, options: dict[str, int], reflectance: float
) -> None:
    rules = harmonisation(_product(tmp_path, baseline, **options), {"B02": "B02_20m"})
    assert rules.apply("B02", np.array([1200], "u2"))[0] / 10000 == pytest.approx(reflectance)


@pytest.mark.parametrize(("baseline", "offset"), [("05.10", 0), ("04.00", 0), ("02.12", -1000), ("03.01", -1000)])
def test_metadata_against_baseline_is_refused(tmp_path: Path, baseline: str, offset: int) -> None:
    product = _product(tmp_path, baseline, offset=offset)
    with pytest.raises(SourceError, match=f"processing baseline {re.escape(baseline)} means"):
        harmonisation(product, {"B02": "B02_20m"})


def test_listed_baseline_against_document_is_refused(tmp_path: Path) -> None:
    product = _product(tmp_path, "05.10")
    lying = Product(**{**vars(product), "baseline": "02.12"})
    with pytest.raises(SourceError, match=r"listed with baseline 02\.12 but its MTD_MSIL2A\.xml says 05\.10"):
        harmonisation(lying, {"B02": "B02_20m"})


def test_without_document_the_baseline_tells(tmp_path: Path) -> None:
    product = _product(tmp_path, "05.10")
    bare = {k: v for k, v in product.assets.items() if k != "product_metadata"}
    assert harmonisation(Product(**{**vars(product), "assets": bare}), {"B02": "B02_20m"}).offsets == {"B02": -1000}
    with pytest.raises(SourceError, match="alone tells"):
        harmonisation(Product(**{**vars(product), "assets": bare, "baseline": "99.99"}), {"B02": "B02_20m"})
    done = Product(**{**vars(product), "assets": bare, "offset_applied": True})
    assert harmonisation(done, {"B02": "B02_20m"}).offsets == {"B02": 0}


def test_dark_pixels_stay_negative() -> None:
    values = Harmonisation({"B02": -1000}).apply("B02", np.array([1, 999, 1000, 65534], "u2"))
    assert values.tolist() == [-999, -1, 0, 64534]


def test_baseline_is_read_from_the_product_not_from_a_folder() -> None:
    path = "/L2A_N0101_/x/S2A_MSIL2A_20200703T103031_N0500_R108_T32TMT_20230613T212700.SAFE/"
    assert parse_product_name(path).baseline == "05.00"
    with pytest.raises(SourceError, match="not the name"):
        parse_product_name("S2A_MSIL1C_20200703T103031_N0500_R108_T32TMT_20230613T212700")


def test_safe_folder_is_read_back(tmp_path: Path) -> None:
    product = _product(tmp_path, "05.10")
    assert product.id == _spec("05.10").id
    assert product.assets["B02_20m"].shape == (64, 64)
    assert product.assets["B02_20m"].transform == (20, 0, 400000, 0, -20, 7600000)
    assert product.datastrip_start == datetime(2021, 6, 1, 21, 30, 4)
    assert product.relative_orbit == 27
    assert isinstance(product.assets["granule_metadata"], Asset)
    with pytest.raises(SourceError, match="one of each is needed"):
        read_safe(tmp_path)


@pytest.mark.parametrize("text", [b"", b"<a/>", b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", b"\x89PNG"])
def test_no_metadata_at_all(text: bytes) -> None:
    with pytest.raises(SourceError):
        parse_product(text)


def test_a_folder_named_after_another_date_is_told(tmp_path: Path) -> None:
    """Its metadata says what it is; whatever else is named after another time or tile is told too."""
    spec = SafeSpec(
        tile="32TMT",
        epsg=32632,
        ulx=399960.0,
        uly=5300040.0,
        datatake_start=datetime(2021, 6, 5, 10, 20, 31),
        processing_time=datetime(2021, 6, 5, 14),
        images={"B02_20m": np.ones((64, 64), "u2")},
    )
    right = write_safe(spec, tmp_path / "a")
    assert read_safe(right).datatake_start == datetime(2021, 6, 5, 10, 20, 31)
    renamed = shutil.copytree(right, tmp_path / right.name.replace("20210605T102031", "20210615T102031", 1))
    with pytest.raises(SourceError, match=rf"{renamed} holds the product {right.stem}; give it its name"):
        read_safe(renamed)
    for old, new, said in (
        ("<DATATAKE_SENSING_START>2021-06-05", "<DATATAKE_SENSING_START>2021-06-15", "but at 2021-06-15 10:20:31 by"),
        ("<SENSING_TIME", "2021-06-15", "by its MTD_TL.xml the tile was seen at 2021-06-15"),
    ):
        copy = shutil.copytree(right, tmp_path / f"other{said[:6].strip()}" / right.name)
        (document,) = copy.glob("MTD_MSIL2A.xml" if "DATATAKE" in old else "GRANULE/*/MTD_TL.xml")
        text = document.read_text()
        if "DATATAKE" in old:
            document.write_text(text.replace(old, new))
        else:
            document.write_text(re.sub(r"(<SENSING_TIME[^>]*>)2021-06-05", rf"\g<1>{new}", text))
        assert document.read_text() != text
        with pytest.raises(SourceError, match=said):
            read_safe(copy)
    copy = shutil.copytree(right, tmp_path / "image" / right.name)
    image = next(copy.glob("GRANULE/*/IMG_DATA/*/*_B02_20m.jp2"))
    image.rename(image.with_name(image.name.replace("20210605T", "20210615T")))
    with pytest.raises(SourceError, match="is of another tile or time than"):
        read_safe(copy)
