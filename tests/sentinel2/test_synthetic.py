"""Products of the testing kit, as readers that are not ours see them: satpy, GDAL, pyproj."""

from __future__ import annotations

import sys
import types
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import satpy
import shapely
from rasterio.errors import NotGeoreferencedWarning

from catalog.sentinel2.metadata import BAND_IDS, OFFSET_SINCE
from cube.sentinel2.grid import grid_cells, make_grid, read_cells
from cube.testing import SafeSpec, write_safe, write_sentinel2_archive

EPSG, ULX, ULY = 32630, 460000, 5623000


def spec_of(baseline: str) -> SafeSpec:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 12000, (13, 192, 160)).astype("u2")
    counts[:, 3, 5], counts[:, 4, 6] = 0, 65535
    scl = rng.integers(1, 12, (192, 160)).astype("u1")
    return SafeSpec(
        tile="30UVB",
        epsg=EPSG,
        ulx=ULX,
        uly=ULY,
        datatake_start=datetime(2021, 6, 4, 11, 6, 21),
        datastrip_start=datetime(2021, 6, 4, 11, 6, 24),
        processing_time=datetime(2023, 1, 1),
        baseline=baseline,
        platform="S2B",
        images={"B04_20m": counts[0], "B8A_20m": counts[1], "B12_20m": counts[2], "SCL_20m": scl},
    )


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("baseline", "offset"), [("02.14", 0), ("03.01", 0), ("04.00", -1000), ("05.10", -1000)])
def test_satpy_reads_the_reflectance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: str, offset: int
) -> None:
    for name in ("bottleneck", "geotiepoints"):  # asked for by the reader, for angles that are not read here
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or types.ModuleType(name))
    spec = spec_of(baseline)
    files = [str(path) for path in write_safe(spec, tmp_path).rglob("*.*")]
    scene = satpy.Scene(files, reader="msi_safe_l2a")
    bands = ["B04", "B8A", "B12"]
    scene.load(bands, resolution=20, calibration="reflectance")
    for band in bands:
        counts = spec.images[f"{band}_20m"].astype("f8")
        expected = (counts + offset) / 100
        expected[3, 5], expected[4, 6] = np.nan, np.inf
        np.testing.assert_allclose(scene[band].values, expected, rtol=1e-6)
        assert scene[band].attrs["platform_name"] == "Sentinel-2B"
        area = scene[band].attrs["area"]
        assert area.area_extent == (ULX, ULY - 20 * 192, ULX + 20 * 160, ULY)
        assert area.crs.to_epsg() == EPSG


@pytest.mark.parametrize("baseline", ["03.01", "05.10"])
def test_gdal_reads_the_metadata(tmp_path: Path, baseline: str) -> None:
    spec = spec_of(baseline)
    folder = write_safe(spec, tmp_path)
    with pytest.warns(NotGeoreferencedWarning):
        file = rasterio.open(folder / "MTD_MSIL2A.xml", driver="SENTINEL2")
    with file:
        tags = file.tags()
    told = {
        "PROCESSING_BASELINE": baseline,
        "PRODUCT_URI": f"{spec.id}.SAFE",
        "DATATAKE_1_DATATAKE_SENSING_START": "2021-06-04T11:06:21.000Z",
        "DATATAKE_1_SPACECRAFT_NAME": "Sentinel-2B",
        "GENERATION_TIME": "2023-01-01T00:00:00.000Z",
        "BOA_QUANTIFICATION_VALUE": "10000",
        "SPECIAL_VALUE_NODATA": "0",
        "SPECIAL_VALUE_SATURATED": "65535",
    }
    assert {name: tags[name] for name in told} == told
    clouds = 100 * np.isin(spec.images["SCL_20m"], (8, 9, 10)).mean()
    assert float(tags["CLOUD_COVERAGE_ASSESSMENT"]) == pytest.approx(clouds, abs=1e-4)
    to_metres = pyproj.Transformer.from_crs(4326, EPSG, always_xy=True)
    ring = shapely.transform(shapely.from_wkt(tags["FOOTPRINT"]), to_metres.transform, interleaved=False)
    np.testing.assert_allclose(ring.bounds, (ULX, ULY - 20 * 192, ULX + 20 * 160, ULY), atol=0.01)


def test_gdal_reads_the_pixels_where_they_lie(tmp_path: Path) -> None:
    spec = spec_of("05.10")
    folder = write_safe(spec, tmp_path)
    for key, counts in spec.images.items():
        with rasterio.open(folder / f"{spec.image_path(key)}.jp2") as file:
            np.testing.assert_array_equal(file.read(1), counts)
            assert file.crs.to_epsg() == EPSG
            assert file.transform == rasterio.Affine(20, 0, ULX, 0, -20, ULY)


def test_what_the_kit_knows_is_what_the_reader_knows(tmp_path: Path) -> None:
    """Two tables, on purpose: they can differ, and this says where."""
    text = (write_safe(spec_of("05.10"), tmp_path) / "MTD_MSIL2A.xml").read_text()
    for number, band in enumerate(BAND_IDS):
        assert f'bandId="{number}" physicalBand="B{band[1:].lstrip("0")}"' in text
    major, minor = OFFSET_SINCE
    for baseline, has_offset in ((f"{major - 1:02d}.99", False), (f"{major:02d}.{minor:02d}", True)):
        text = (write_safe(spec_of(baseline), tmp_path) / "MTD_MSIL2A.xml").read_text()
        assert ("BOA_ADD_OFFSET" in text) is has_offset


def test_the_grid_of_the_demo_is_one_that_make_grid_makes(tmp_path: Path) -> None:
    archive = write_sentinel2_archive(tmp_path, side=120)
    frame = pd.read_csv(archive.grid)
    bounds = frame[["xmin", "ymin"]].min().tolist() + frame[["xmax", "ymax"]].max().tolist()
    assert shapely.box(*bounds).contains(shapely.box(*archive.bbox))
    made = grid_cells(make_grid(0.05, tuple(round(v, 2) for v in bounds)))
    ours = read_cells(archive.grid)
    assert [c.id for c in ours] == [c.id for c in made]
    assert [c.alias for c in ours] == [c.alias for c in made]
    np.testing.assert_allclose([c.bounds for c in ours], [c.bounds for c in made], atol=1e-9)
