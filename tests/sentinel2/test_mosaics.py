"""A build as one image a band: VRTs and the tile index, as rasterio and Debian's GDAL open them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio
from pyproj import Transformer

from cube.build import main
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.lattice import Lattice
from cube.sentinel2.run import run_sentinel2
from cube.sentinel2.vrt import INDEX, MOSAICS, write_mosaics
from tests.sentinel2.scenery import EPSG, FIRST, ULX, ULY, make_scene

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two triangles that share a square of pixels, and a square apart from them, in degrees; moved when it was made."""
    root = tmp_path_factory.mktemp("mosaics")
    make_scene(1, FIRST).write(root / "safe")
    to_degrees = Transformer.from_crs(EPSG, 4326, always_xy=True)
    shapes = {
        "west": ((200, 200), (200, 2000), (2000, 2000)),
        "east": ((2000, 2000), (2000, 200), (200, 200)),
        "apart": ((3000, 3000), (3000, 4000), (4000, 4000), (4000, 3000)),
    }
    features = []
    for name, ring in shapes.items():
        points = [to_degrees.transform(ULX + x, ULY - y) for x, y in ring]
        area = {"type": "Polygon", "coordinates": [[*points, points[0]]]}
        features.append({"type": "Feature", "id": name, "properties": {}, "geometry": area})
    (root / "cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    values = {
        "work_dir": root / "made", "safe_dir": root / "safe", "grid_csv": root / "cells.geojson", "workers": 1,
        "start": "2021-06-01", "end": "2021-06-02", "bands": ["B02", "B03"], "products": ["cog", "zarr"],
    }  # fmt: skip
    assert run_sentinel2(Sentinel2Config.load(None, values)).code == 0
    assert main(["verify", str(root / "made")]) == 0
    moved = root / "elsewhere" / "build"
    moved.parent.mkdir()
    (root / "made").rename(moved)
    return moved


def _pasted(build: Path, pattern: str) -> tuple[npt.NDArray[np.generic], rasterio.Affine, float]:
    """All cells of a band laid on one canvas by their own georeference."""
    files = [rasterio.open(p) for p in sorted(build.glob(f"composites/*/{pattern}"))]
    assert len(files) == 3
    left, top = min(f.bounds.left for f in files), max(f.bounds.top for f in files)
    right, bottom = max(f.bounds.right for f in files), min(f.bounds.bottom for f in files)
    step = files[0].transform.a
    canvas = np.full((round((top - bottom) / step), round((right - left) / step)), files[0].nodata, files[0].dtypes[0])
    for file in files:
        row, col = round((top - file.bounds.top) / step), round((file.bounds.left - left) / step)
        part, pixels = canvas[row : row + file.height, col : col + file.width], file.read(1)
        np.copyto(part, pixels, where=pixels != file.nodata)
        file.close()
    return canvas, rasterio.Affine(step, 0, left, 0, -step, top), files[0].nodata


@pytest.mark.parametrize("name", ["B02_median", "B03_median", "count"])
def test_a_vrt_is_all_cells(build: Path, name: str) -> None:
    canvas, transform, nodata = _pasted(build, f"*_{name}*.tif")
    with rasterio.open(build / MOSAICS / f"{name}.vrt") as mosaic:
        np.testing.assert_array_equal(mosaic.read(1), canvas)
        assert mosaic.transform.almost_equals(transform, 1e-12)
        assert mosaic.crs.to_epsg() == 4326
        assert (mosaic.nodata, mosaic.descriptions[0]) == (nodata, name.partition("_")[0])
        assert mosaic.scales == ((1.0,) if name == "count" else (0.0001,))
    assert (canvas != nodata).sum() > 8_000


def test_the_tile_index_is_read_as_an_image_and_as_a_table(build: Path) -> None:
    index = build / MOSAICS / INDEX
    meta, _, boxes, columns = pyogrio.raw.read(index)
    table = dict(zip(meta["fields"], columns, strict=True))
    assert list(table) == ["cell", "location", "B02", "B03", "count"]
    assert sorted(table["cell"]) == ["apart", "east", "west"]
    assert all((index.parent / path).is_file() for name in ("location", "count") for path in table[name])
    assert len(boxes) == 3
    canvas, _, nodata = _pasted(build, "*_B03_median*.tif")
    with rasterio.open(index, LOCATION_FIELD="B03") as mosaic:  # by GDAL's driver GTI
        found = mosaic.read(1)
        assert found.shape == canvas.shape
        known = found != nodata
        np.testing.assert_array_equal(found[known], canvas[known])
        assert known.sum() > 5_000  # of what overlaps, the triangle that comes last


def test_debians_gdal_opens_them(build: Path) -> None:
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed (gdal-bin)")
    described = json.loads(_said("gdalinfo", "-json", "-checksum", build / MOSAICS / "B02_median.vrt"))
    with rasterio.open(build / MOSAICS / "B02_median.vrt") as mosaic:
        assert described["size"] == [mosaic.width, mosaic.height]
        assert described["bands"][0]["checksum"] == mosaic.checksum(1)
        np.testing.assert_allclose(described["geoTransform"], mosaic.transform.to_gdal())
    assert described["bands"][0]["noDataValue"] == -9999
    assert 'ID["EPSG",4326]' in described["coordinateSystem"]["wkt"]
    path = next(build.glob("composites/apart/*_B02_*.tif"))
    tags = json.loads(
        subprocess.run(["gdalinfo", "-json", str(path)], capture_output=True, text=True, check=True).stdout
    )
    assert tags["bands"][0]["metadata"][""]["STATISTICS_VALID_PERCENT"]
    assert "Feature Count: 3" in _said("ogrinfo", "-so", build / MOSAICS / INDEX, "cells")


def _said(*command: str | Path) -> str:
    told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert told.stderr == ""
    return told.stdout


def test_geotiffs_carry_their_statistics(build: Path) -> None:
    """As GDAL computes them itself from the pixels."""
    for path in build.glob("composites/*/*.tif"):
        with rasterio.open(path) as file:
            tags, pixels = file.tags(1), file.read(1)
        known = pixels[pixels != (0 if path.stem.endswith("count") else -9999)].astype("f8")
        for name, value in (
            ("MINIMUM", known.min()),
            ("MAXIMUM", known.max()),
            ("MEAN", known.mean()),
            ("STDDEV", known.std()),
        ):
            assert float(tags[f"STATISTICS_{name}"]) == pytest.approx(value, rel=1e-9)
        assert float(tags["STATISTICS_VALID_PERCENT"]) == pytest.approx(100 * known.size / pixels.size, abs=0.01)


def test_the_collection_names_the_mosaics(build: Path) -> None:
    assets = json.loads((build / "collection.json").read_text())["assets"]
    assert {n for n in assets if n.startswith("mosaic_")} == {"mosaic_B02", "mosaic_B03", "mosaic_count"}
    assert all((build / asset["href"]).exists() for asset in assets.values())
    assert "mosaics/B02_median.vrt" in (build / "ledger.jsonl").read_text()


def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    from catalog.sentinel2.publish import CellRecord

    lattice = Lattice("EPSG:3413", 20, 20)
    cells = []
    for number in range(2):
        path = f"composites/c{number}/cell_c{number}_B02_median_clip.tif"
        (tmp_path / path).parent.mkdir(parents=True)
        transform = rasterio.Affine(20, 0, 200.0 * number, 0, -20, 0)
        with rasterio.open(
            tmp_path / path, "w", driver="GTiff", width=10, height=10, count=1, dtype="float32", crs="EPSG:3413",
            transform=transform, nodata=-9999,
        ) as file:  # fmt: skip
            file.write(np.full((1, 10, 10), number, "f4"))
        cells.append(
            CellRecord(
                id=f"c{number}",
                alias="",
                ring=np.zeros((4, 2)),
                shape=(10, 10),
                transform=(),
                bounds=(0, 0, 1, 1),
                corner=(0, 10 * number),
                files={"B02": path},
                preview=None,
                statistics={},
                observations={},
                valid_share=1.0,
                sources={},
            )
        )
    assert write_mosaics(tmp_path, lattice, cells) == {"B02": "mosaics/B02_median.vrt"}
    first = {p.name: p.read_bytes() for p in (tmp_path / MOSAICS).iterdir()}
    write_mosaics(tmp_path, lattice, cells)
    assert {p.name: p.read_bytes() for p in (tmp_path / MOSAICS).iterdir()} == first
    with rasterio.open(tmp_path / MOSAICS / "B02_median.vrt") as mosaic:
        assert mosaic.crs.to_epsg() == 3413
        assert mosaic.read(1)[0].tolist() == [0.0] * 10 + [1.0] * 10
    assert write_mosaics(tmp_path, lattice, []) == {}
    assert not (tmp_path / MOSAICS).exists()
