"""Earth Search and Planetary Computer, which keep each band once: their items built, and opened in every form."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest

from catalog.sentinel2.convert import item_from_product, product_from_item
from catalog.sentinel2.given import given_products
from catalog.sentinel2.safe import read_safe
from catalog.sentinel2.sizes import held_key
from cube.sentinel2.grid import make_grid, write_grid
from cube.sentinel2.lazy import open_sentinel2
from cube.testing import SafeSpec, write_cog_item, write_safe
from stratacube.errors import SourceError, UsageError
from tests.sentinel2.built import built
from tests.sentinel2.scenery import EPSG, ULX, ULY

pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*shapely.ops.transform.*:DeprecationWarning"),
]

BANDS = ["B02", "B8A"]
SIDE = 120


def _spec(day: int, baseline: str) -> SafeSpec:
    """B02 of 10 m, B8A of 20 m; some clouds."""
    rng = np.random.default_rng(day)
    scl = np.full((SIDE, SIDE), 4, "u1")
    scl[rng.random(scl.shape) < 0.1] = 9
    images = {
        "B02_10m": rng.integers(1200, 4000, (2 * SIDE, 2 * SIDE)).astype("u2"),
        "B8A_20m": rng.integers(1200, 4000, (SIDE, SIDE)).astype("u2"),
        "SCL_20m": scl,
    }
    images["B02_10m"][:10, :10] = 0
    return SafeSpec(
        tile="06WUA", epsg=EPSG, ulx=ULX, uly=ULY, datatake_start=datetime(2021, 6, day, 21, 30, 1),
        processing_time=datetime(2023, 1, day), baseline=baseline, images=images,
    )  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[dict[str, Any]]]]:
    """A folder of SAFE products, and the items of both catalogues of the same pixels."""
    root = tmp_path_factory.mktemp("archives")
    items: dict[str, list[dict[str, Any]]] = {"earth-search": [], "planetary-computer": []}
    for day, baseline in ((1, "02.12"), (6, "05.10"), (11, "05.10")):
        spec = _spec(day, baseline)
        write_safe(spec, root / "safe", block=64)
        for name, found in items.items():
            found.append(write_cog_item(spec, root / name, name))  # type: ignore[arg-type]
    return root, items


def _build(work: Path, **values: Any) -> dict[str, Any]:
    path = work.parent / "grid.csv"
    write_grid(make_grid(1200, (ULX, ULY - 2400, ULX + 2400, ULY), f"EPSG:{EPSG}"), path)
    return built(work, grid_csv=path, start="2021-06-01", end="2021-06-30", bands=BANDS, **values)


@pytest.mark.parametrize("name", ["earth-search", "planetary-computer"])
def test_a_build_reads_the_sizes_that_the_items_have(
    archive: tuple[Path, dict[str, list[dict[str, Any]]]], name: str, tmp_path: Path
) -> None:
    """Asked for 20 m, it takes B02 of 10 m: the composites are those of the SAFE products read so."""
    root, items = archive
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items[name]}))
    told = _build(tmp_path / "safe", safe_dir=root / "safe", bands_res=10, tr=[20, 20])
    found = _build(tmp_path / name, items=tmp_path / "items.json")
    assert len(found) == 4 * 3
    assert found.keys() == told.keys()
    for file, pixels in found.items():
        np.testing.assert_array_equal(pixels, told[file], err_msg=file)
    assert max(np.abs(pixels).max() for file, pixels in found.items() if "B02" in file) > 1000


def test_items_open_in_every_form_a_user_has_them_in(
    archive: tuple[Path, dict[str, list[dict[str, Any]]]], tmp_path: Path
) -> None:
    root, items = archive
    box = [-149.42, 68.47, -149.40, 68.48]
    told = open_sentinel2(root / "safe", BANDS, bbox=box, bands_res=10, resolution=20).compute()
    assert told.sizes["time"] == 3
    assert 0.5 < float(told["B02"].notnull().mean()) < 1
    found = items["earth-search"]
    objects = [pystac.Item.from_dict(i) for i in found]
    collection = {"type": "FeatureCollection", "features": found}
    saved = tmp_path / "saved" / "items.json"
    saved.parent.mkdir()
    saved.write_text(json.dumps(collection))
    one = tmp_path / "one.json"
    objects[0].save_object(include_self_link=False, dest_href=str(one))
    for given in (
        found,
        objects,
        pystac.ItemCollection(objects),
        collection,
        saved,
        str(saved),
        items["planetary-computer"],
    ):
        assert open_sentinel2(given, BANDS, bbox=box).compute().equals(told)  # type: ignore[arg-type]
    first = told.isel(time=[0])
    for given in (found[0], objects[0], one, pystac.Item.from_file(str(one))):
        assert open_sentinel2(given, BANDS, bbox=box).compute().equals(first)
    with pytest.raises(UsageError, match="STAC Collection None has no items"):
        open_sentinel2({"type": "Collection"}, BANDS, bbox=box)
    with pytest.raises(UsageError, match="`items` is a int; give STAC items"):
        given_products(7)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"there is no .*nowhere; give STAC items"):
        given_products(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="has no B11_20m; leave the product or the band out"):
        open_sentinel2(found, ["B11"], bbox=box)


def test_real_items_tell_their_size_and_crs(data_folder: Path) -> None:
    """Fault 24: where there is no file of 20 m, the CRS is that of what the item has."""
    search = json.loads((data_folder / "stac/earth_search/recorded/search_filter_page2.json").read_text())
    item = next(f for f in search["features"] if f["id"] == "S2B_24MVV_20250731_0_L2A")
    view = open_sentinel2(pystac.Item.from_dict(item), ["B02", "B8A"], bbox=[-39.60, -4.80, -39.59, -4.79])
    assert view.rio.crs.to_epsg() == 32724
    assert view.odc.geobox.resolution.x == 20
    (path,) = (data_folder / "stac/planetary_computer").glob("S2B_*.json")
    assert open_sentinel2(path, ["B04"], bbox=[-149.0, 60.5, -148.99, 60.51]).rio.crs.to_epsg() == 32606


def test_a_product_of_several_sizes_that_lacks_a_file_is_not_taken_at_another(
    archive: tuple[Path, dict[str, list[dict[str, Any]]]],
) -> None:
    product = read_safe(next((archive[0] / "safe").iterdir()))
    assert held_key(product, "B02_20m") == "B02_10m"
    assert held_key(product, "B11_20m") == "B11_20m"
    both = {**product.assets, "B03_10m": product.assets["B02_10m"], "B03_20m": product.assets["B8A_20m"]}
    assert held_key(replace(product, assets=both), "B02_20m") == "B02_20m"
    again = product_from_item(item_from_product(product))
    assert {k: held_key(again, k) for k in ("B02_20m", "B8A_20m")} == {"B02_20m": "B02_10m", "B8A_20m": "B8A_20m"}
