"""A product whose parts contradict each other is refused, with both values."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from catalog.sentinel2.items import Product
from catalog.sentinel2.safe import read_safe
from cube.sentinel2.blocks import Decoded
from cube.sentinel2.source import MaskRule, ProductSource
from cube.testing import SafeSpec, write_safe
from stratacube.errors import SourceError

WHEN = datetime(2021, 6, 1, 21, 30, 1)


def _spec(**options: object) -> SafeSpec:
    values = {
        "tile": "06WUA",
        "epsg": 32606,
        "ulx": 400000,
        "uly": 7600000,
        "datatake_start": WHEN,
        "processing_time": datetime(2023, 1, 1),
        "images": {"B02_20m": np.full((64, 64), 1200, "u2"), "SCL_20m": np.full((64, 64), 4, "u1")},
        **options,
    }
    return SafeSpec(**values)  # type: ignore[arg-type]


def _open(product: Product) -> None:
    with ProductSource(product, {"B02": "B02_20m"}, MaskRule([0]), Decoded()):
        pass


def test_a_product_in_order_opens(tmp_path: Path) -> None:
    _open(read_safe(write_safe(_spec(), tmp_path, block=64)))


def test_a_grid_moved_in_the_metadata_is_not_that_of_the_images(tmp_path: Path) -> None:
    safe = write_safe(_spec(), tmp_path, block=64)
    path = next(safe.glob("GRANULE/*/MTD_TL.xml"))
    path.write_text(path.read_text().replace("<ULX>400000", "<ULX>380000"))
    with pytest.raises(SourceError, match=r"by its MTD_TL\.xml tile 06WUA lies at 380000 .*, but .*jp2 at 400000 "):
        read_safe(safe)
    product = read_safe(write_safe(_spec(), tmp_path, block=64))
    moved = {k: replace(a, transform=(20, 0, 380000, 0, -20, 7600000)) for k, a in product.assets.items()}
    with pytest.raises(SourceError, match=r"lies at 400000 .* but by the list of its files at 380000 "):
        _open(replace(product, assets=moved))


def test_a_list_against_the_metadata(tmp_path: Path) -> None:
    """An item whose grid is that of the images, and metadata of another place."""
    safe = write_safe(_spec(), tmp_path, block=64)
    product = read_safe(safe)
    path = next(safe.glob("GRANULE/*/MTD_TL.xml"))
    path.write_text(path.read_text().replace("<ULY>7600000", "<ULY>7600040"))
    with pytest.raises(SourceError, match=r"but by its MTD_TL\.xml at 400000 7598760"):
        _open(product)


@pytest.mark.parametrize("key", ["B02_20m", "SCL_20m"])
def test_an_image_of_another_tile(tmp_path: Path, key: str) -> None:
    other = _spec(ulx=420000, tile="06WVA")
    theirs = write_safe(other, tmp_path, block=64) / f"{other.image_path(key)}.jp2"
    safe = write_safe(_spec(), tmp_path, block=64)
    shutil.copy(theirs, safe / f"{_spec().image_path(key)}.jp2")
    words = (
        r"lies at 420000 .* in EPSG:32606, but by the list of its files at 400000|jp2 at 420000 7600000 in EPSG:32606"
    )
    with pytest.raises(SourceError, match=words):
        _open(read_safe(safe))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": "06WVA", "ulx": 410000}, "MTD_MSIL2A.xml is of 06WVA"),
        ({"datatake_start": WHEN + timedelta(days=5)}, "MTD_MSIL2A.xml is of 06WUA, 2021-06-06"),
    ],
)
def test_metadata_of_another_product(tmp_path: Path, options: dict[str, object], words: str) -> None:
    product = read_safe(write_safe(_spec(), tmp_path, block=64))
    other = read_safe(write_safe(_spec(**options), tmp_path, block=64))
    mixed = {**product.assets, "product_metadata": other.assets["product_metadata"]}
    with pytest.raises(SourceError, match=words):
        _open(replace(product, assets=mixed))
    folder = Path(other.assets["granule_metadata"].href)
    if options.get("tile"):
        shutil.copy(folder, product.assets["granule_metadata"].href)
        with pytest.raises(SourceError, match=r"is of tile 06WUA but its MTD_TL\.xml of 06WVA"):
            read_safe(Path(product.assets["product_metadata"].href).parent)


def test_a_size_alone_that_differs_is_read(tmp_path: Path) -> None:
    """Overviews of an archive over the same ground, listed with the size of the whole."""
    product = read_safe(write_safe(_spec(), tmp_path, block=64))
    grids = {
        key: replace(asset, shape=(128, 128), transform=(10.0, 0.0, 400000.0, 0.0, -10.0, 7600000.0))
        for key, asset in product.assets.items()
        if key.endswith("_20m")
    }
    _open(replace(product, assets=grids))
