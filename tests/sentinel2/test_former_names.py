"""Products of baseline 02.05, whose documents name their elements otherwise: against GDAL's own driver."""

from __future__ import annotations

import warnings
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from catalog.sentinel2.metadata import read_product
from catalog.sentinel2.safe import read_safe
from cube.sentinel2.blocks import Decoded
from cube.sentinel2.lattice import Window
from cube.sentinel2.source import MaskRule, ProductSource
from cube.testing import SafeSpec, write_safe


@pytest.mark.parametrize("baseline", ["02.05", "02.12"])
def test_gdal_reads_the_same(tmp_path: Path, baseline: str) -> None:
    rng = np.random.default_rng(5)
    images = {"B8A_20m": rng.integers(1, 4000, (64, 64)).astype("u2"), "SCL_20m": np.full((64, 64), 4, "u1")}
    spec = SafeSpec(
        tile="06WUA", epsg=32606, ulx=400000, uly=7600000, datatake_start=datetime(2017, 6, 1, 21, 30, 1),
        processing_time=datetime(2017, 6, 2), baseline=baseline, images=images,
    )  # fmt: skip
    safe = write_safe(spec, tmp_path, block=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(safe / "MTD_MSIL2A.xml", driver="SENTINEL2") as file:
            told = file.tags()
    former = baseline == "02.05"
    document = read_product(safe / "MTD_MSIL2A.xml")
    assert f"{document.id}.SAFE" == told["PRODUCT_URI_2A" if former else "PRODUCT_URI"]
    assert told["L2A_BOA_QUANTIFICATION_VALUE" if former else "BOA_QUANTIFICATION_VALUE"] == "10000"
    assert ("PRODUCT_URI" in told) is not former
    assert document.baseline == told["PROCESSING_BASELINE"] == baseline
    assert document.datatake_start.isoformat() == told["DATATAKE_1_DATATAKE_SENSING_START"].removesuffix(".000Z")
    assert document.offset("B8A") == 0
    assert [Path(i).name.startswith("L2A_") for i in document.images] == [former, former]
    product = read_safe(safe)
    with rasterio.open(f"SENTINEL2_L2A:{safe}/MTD_MSIL2A.xml:20m:EPSG_32606") as file:
        names = [d.partition(",")[0] for d in file.descriptions]
        pixels = file.read(names.index("B8A") + 1)
        assert tuple(file.transform)[:6] == product.assets["B8A_20m"].transform
        assert product.assets["B8A_20m"].proj_code == str(file.crs)
    assert product.datastrip_start == datetime(2017, 6, 1, 21, 30, 4)
    window = Window(0, 0, 64, 64)
    with ProductSource(product, {"B8A": "B8A_20m"}, MaskRule([0]), Decoded()) as source:
        values, there = source.values("B8A", window, np.ones((64, 64), bool))
    assert there.all()
    np.testing.assert_array_equal(pixels, images["B8A_20m"])
    np.testing.assert_array_equal(values, pixels)


def test_lists_of_granules_by_resolution_are_read(tmp_path: Path) -> None:
    """Some of those baselines list the one granule once for each pixel size, as ``Granules``."""
    images = {"B8A_20m": np.full((64, 64), 9, "u2"), "SCL_20m": np.full((64, 64), 4, "u1")}
    spec = SafeSpec(
        tile="06WUA", epsg=32606, ulx=400000, uly=7600000, datatake_start=datetime(2017, 6, 1, 21, 30, 1),
        processing_time=datetime(2017, 6, 2), baseline="02.04", images=images,
    )  # fmt: skip
    path = write_safe(spec, tmp_path, block=64) / "MTD_MSIL2A.xml"
    text = path.read_text().replace("<Granule ", "<Granules ").replace("</Granule>", "</Granules>")
    begin, end = text.index("<Granule_List>"), text.index("</Granule_List>") + len("</Granule_List>")
    path.write_text(text[:end] + text[begin:end] + text[end:])
    assert read_product(path).datastrip_start == datetime(2017, 6, 1, 21, 30, 4)
