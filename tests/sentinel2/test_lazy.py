"""Lazy views of scenes and of composites."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from catalog.sentinel2.convert import item_from_product
from catalog.sentinel2.safe import read_safe
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.lazy import open_composites, open_sentinel2
from cube.sentinel2.run import run_sentinel2
from stratacube.errors import SourceError, UsageError
from tests.sentinel2.scenery import EPSG, SIDE, ULX, ULY, Scene, expected_stack, small_archive

pytestmark = [
    # of the libraries underneath: odc-geo uses what shapely retires, rasterio what affine retires
    pytest.mark.filterwarnings("ignore:.*shapely.ops.transform.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:stackstac"),
    # rasterio silences its own warning while it warps, which in several threads at once sometimes fails
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Scene]]:
    root = tmp_path_factory.mktemp("safe")
    scenes = small_archive(root)
    return sorted(root.glob("*.SAFE")), scenes


def _geobox(width: int = SIDE + 160, height: int = SIDE) -> GeoBox:
    from affine import Affine

    return GeoBox((height, width), Affine(20, 0, ULX, 0, -20, ULY), f"EPSG:{EPSG}")


@pytest.mark.parametrize("backend", ["exact", "odc-stac", "stackstac"])
def test_scenes_are_harmonised_masked_and_one_a_datatake(archive: tuple[list[Path], list[Scene]], backend: str) -> None:
    data = open_sentinel2(archive[0], ["B02", "B03"], geobox=_geobox(), backend=backend, chunks=128)  # type: ignore[arg-type]
    assert data["B02"].chunks is not None
    assert data.sizes == {"time": 5, "y": SIDE, "x": SIDE + 160}
    assert data.odc.geobox == _geobox()
    for band in ("B02", "B03"):
        found = data[band].compute().values
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected_stack(archive[1], band, SIDE + 160) * 1e-4, atol=1e-6)


def test_box_in_degrees_across_its_own_crs(archive: tuple[list[Path], list[Scene]]) -> None:
    to_degrees = pyproj.Transformer.from_crs(EPSG, 4326, always_xy=True)
    west, south = to_degrees.transform(ULX + 400, ULY - 1600)
    east, north = to_degrees.transform(ULX + 1600, ULY - 400)
    data = open_sentinel2(archive[0][:2], ["B02"], bbox=[west, south, east, north])
    assert data.rio.crs.to_epsg() == EPSG
    assert 55 < data.sizes["x"] < 70
    degrees = open_sentinel2(
        archive[0][:2], ["B02"], bbox=[west, south, east, north], crs="EPSG:4326", resolution=0.0005
    )
    assert degrees.odc.crs.epsg == 4326


def test_items_open_like_their_folders(archive: tuple[list[Path], list[Scene]]) -> None:
    paths = archive[0][:3]
    items = [item_from_product(read_safe(p)) for p in paths]
    box = _geobox(40, 40)
    folders = open_sentinel2(paths, ["B02"], geobox=box).compute()
    assert open_sentinel2(items, ["B02"], geobox=box).compute().equals(folders)
    assert open_sentinel2([pystac.Item.from_dict(i) for i in items], ["B02"], geobox=box).compute().equals(folders)


def test_wrong_use_is_one_sentence(archive: tuple[list[Path], list[Scene]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no items"):
        open_sentinel2([], ["B02"])
    with pytest.raises(UsageError, match="'B10' is unknown"):
        open_sentinel2(archive[0], ["B10"], geobox=_geobox())
    with pytest.raises(UsageError, match="no area"):
        open_sentinel2(archive[0], ["B02"])
    with pytest.raises(UsageError, match=r"no composites\.zarr"):
        open_composites(tmp_path)


def test_composites_open_from_store_folder_and_item(archive: tuple[list[Path], list[Scene]], tmp_path: Path) -> None:
    write_grid(make_grid(2000, (ULX, ULY - 4000, ULX + 4000, ULY), f"EPSG:{EPSG}"), tmp_path / "grid.csv")
    values = {
        "work_dir": tmp_path / "w",
        "safe_dir": archive[0][0].parent,
        "grid_csv": tmp_path / "grid.csv",
        "start": "2021-06-01",
        "end": "2021-06-30",
        "bands": ["B02"],
        "products": ["cog", "zarr"],
        "workers": 1,
    }
    assert run_sentinel2(Sentinel2Config.load(None, values)).code == 0
    whole = open_composites(tmp_path / "w")
    assert whole["B02"].chunks is not None
    assert whole["B02"].dtype == np.float32
    assert whole.rio.crs.to_epsg() == EPSG
    for path in sorted((tmp_path / "w" / "items").glob("*.json")):
        cell = open_composites(path)
        part = whole.sel(x=cell.x, y=cell.y)
        np.testing.assert_allclose(cell["B02"].values, part["B02"].values, rtol=1e-6)
        np.testing.assert_array_equal(cell["count"].values, part["count"].values)
        item = json.loads(path.read_text())
        item["links"].append({"rel": "self", "href": str(path)})
        assert open_composites(item).equals(cell)
    for name in ("composites.zarr", "catalog.json", "collection.json"):
        assert open_composites(tmp_path / "w" / name).equals(whole)
    assert open_composites(pystac.Catalog.from_file(str(tmp_path / "w" / "catalog.json"))).equals(whole)
    one = sorted((tmp_path / "w" / "items").glob("*.json"))[0]
    assert open_composites(pystac.Item.from_file(str(one))).equals(open_composites(one))
    url = tmp_path.as_uri()
    assert open_composites(f"{url}/w").equals(whole)
    assert open_composites(f"{url}/w/catalog.json").equals(whole)
    assert open_composites(f"{url}/w/items/{one.name}").equals(open_composites(one))
    with pytest.raises(UsageError, match="cannot be read as a STAC document"):
        open_composites(f"{url}/w/items/nowhere.json")
    tile = next((tmp_path / "w" / "composites" / one.stem.upper()).glob("*_B02_*"))
    profile = {"height": 900, "width": 900, "count": 1, "dtype": "float32", "crs": f"EPSG:{EPSG}"}
    with rasterio.open(tile, "w", driver="GTiff", transform=Affine(20, 0, ULX, 0, -20, ULY), **profile) as file:
        file.write(np.zeros((900, 900), "f4"), 1)  # more than GDAL fetches at once
    # rasterio opens files without letting other threads run, so the server, which allows no ranges, is a process
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            address = re.search(r"http://[\d.:]+", str(server.stdout and server.stdout.readline()))
            assert address
            with pytest.raises(SourceError, match=r"B02_median_clip\.tif cannot be read .*byte ranges"):
                open_composites(f"{address[0]}/w/items/{one.name}")
        finally:
            server.kill()
    tile.unlink()
    with pytest.raises(SourceError, match=r"B02_median_clip\.tif cannot be read .*run the build again"):
        open_composites(one)
