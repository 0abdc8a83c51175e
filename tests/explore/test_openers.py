"""Whatever stands for a store opens it, by every opener alike."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import s3fs
import xarray as xr

import cube
from loaders.cubes import open_cube
from loaders.store import TileStore
from stratacube.errors import SourceError, UsageError
from tests.explore.conftest import Published

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*shapely.ops.transform.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
]


def forms(folder: str, collection: str, item: str, store: str) -> dict[str, Any]:
    """All that stands for a store on disk."""
    catalog, described, one = f"{folder}/catalog.json", f"{folder}/{collection}", f"{folder}/{item}"
    found = pystac.Item.from_file(one)
    unlinked = pystac.Catalog.from_file(catalog)
    unlinked.make_all_asset_hrefs_absolute()
    in_memory = pystac.Catalog("memory", "of the children of another")
    in_memory.add_children(unlinked.get_children())
    in_memory.set_self_href(None)
    return {
        "path": Path(folder),
        "text": folder,
        "store": f"{folder}/{store}",
        "URL": Path(folder).as_uri(),
        "catalog.json": catalog,
        "collection.json": Path(described),
        "item.json": one,
        "URL of an item": Path(one).as_uri(),
        "Item": found,
        "ItemCollection": pystac.ItemCollection([pystac.Item.from_file(one)]),
        "Collection": pystac.Collection.from_file(described),
        "Catalog": pystac.Catalog.from_file(catalog),
        "Catalog in memory": in_memory,
        "dict": {**json.loads(Path(one).read_text()), "links": [{"rel": "self", "href": one}]},
        "absolute dict": found.make_asset_hrefs_absolute().to_dict(),
    }


def test_tiles_open_from_anything(on_disk: Published) -> None:
    item = next(Path(on_disk.tiles, "tiles", "items").iterdir())
    truth = xr.open_zarr(f"{on_disk.tiles}/tiles.zarr", mask_and_scale=False)["C13"]
    for name, source in forms(on_disk.tiles, "tiles/collection.json", f"tiles/items/{item.name}", "tiles.zarr").items():
        opened = cube.open_tiles(source, "counts", chunks=None)
        assert np.array_equal(opened["C13"].isel(x=slice(None, None, 2), y=slice(None, None, 2)), truth), name
        assert len(TileStore.open(source)) == 6, name
        assert open_cube(source).sizes["tile"] == 6, name


def test_composites_open_from_anything(on_disk: Published) -> None:
    item = next(Path(on_disk.composites, "items").iterdir())
    whole = cube.open_composites(f"{on_disk.composites}/composites.zarr").load()
    for name, source in forms(on_disk.composites, "collection.json", f"items/{item.name}", "composites.zarr").items():
        opened = cube.open_composites(source)
        part = whole if opened.sizes == whole.sizes else whole.sel(x=opened.x, y=opened.y)
        assert ("tem" in name or "dict" in name) is (opened.sizes != whole.sizes) or name == "ItemCollection", name
        np.testing.assert_allclose(opened["B04"], part["B04"], rtol=1e-6, err_msg=name)
        assert {*open_cube(source).data_vars} >= {"B04", "B8A"}, name


def test_references_open_from_anything(on_disk: Published, on_s3: Published) -> None:
    truth = cube.open_abi(f"{on_disk.root}/archive", bands="C13")["2km"]["radiance"].load()
    collection = f"{on_disk.tiles}/tiles/collection.json"
    local = [f"{on_disk.tiles}/references", on_disk.tiles, collection, f"{on_disk.tiles}/catalog.json"]
    for source in (*local, pystac.Collection.from_file(collection), Path(on_disk.tiles)):
        assert cube.open_abi(source, bands="C13")["2km"]["radiance"].equals(truth), source
    for place in ("tiles/references", "tiles", "tiles/catalog.json"):
        remote = f"{on_s3.root}/{place}"
        opened = cube.open_abi(remote, bands="C13", storage_options=on_s3.options)["2km"]["radiance"]
        assert opened.equals(truth), place


@pytest.mark.slow
def test_a_store_on_s3_opens_alike_with_few_requests(on_disk: Published, on_s3: Published) -> None:
    local = cube.open_tiles(on_disk.tiles, "mixed")[["C13", "requested_time"]].load()
    for place in ("tiles", "tiles/tiles.zarr", "tiles/catalog.json"):
        with requests(on_s3) as asked:
            opened = cube.open_tiles(f"{on_s3.root}/{place}", "mixed", storage_options=on_s3.options)
        assert len(asked) <= 40, asked
    xr.testing.assert_identical(opened[["C13", "requested_time"]].load(), local)
    with requests(on_s3) as asked:
        table = TileStore.open(on_s3.tiles, on_s3.options).table
    assert len(asked) <= 45
    assert table.equals(TileStore.open(on_disk.tiles).table)
    whole = cube.open_composites(on_disk.composites).load()
    with requests(on_s3) as asked:
        opened = cube.open_composites(f"{on_s3.composites}/collection.json", storage_options=on_s3.options)
    assert len(asked) <= 10
    xr.testing.assert_identical(opened.load(), whole)


@contextmanager
def requests(published: Published) -> Iterator[list[str]]:
    """Every request that clients of S3 make within the block."""
    asked: list[str] = []
    original = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(f"{method} {kwargs.get('Key')}")
        return await original(self, method, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
        yield asked


def test_what_stands_for_no_store_is_refused_in_one_sentence(on_disk: Published, tmp_path: Path) -> None:
    item = json.loads(next(Path(on_disk.tiles, "tiles", "items").iterdir()).read_text())
    with pytest.raises(UsageError, match=r"relative address \S+tiles.zarr and does not tell where it lies"):
        cube.open_tiles(item)
    with pytest.raises(UsageError, match=r"has the assets .*, and none of a store of composites"):
        cube.open_composites({**item, "links": [{"rel": "self", "href": f"{on_disk.tiles}/tiles/items/x.json"}]})
    with pytest.raises(UsageError, match="what is of type int cannot be opened; give a path"):
        cube.open_tiles(3)
    (tmp_path / "catalog.json").write_text("[]")
    with pytest.raises(UsageError, match=r"catalog\.json is not a STAC document"):
        cube.open_tiles(tmp_path)
    two = {"type": "FeatureCollection", "features": [_item(f"/nowhere/{n}.zarr") for n in "ab"]}
    with pytest.raises(UsageError, match=r"leads to 2 stores, /nowhere/a\.zarr, /nowhere/b\.zarr; give one"):
        cube.open_tiles(two)
    round_about = {"type": "Catalog", "id": "itself", "links": [{"rel": "child", "href": "./catalog.json"}]}
    (tmp_path / "catalog.json").write_text(json.dumps(round_about))
    with pytest.raises(UsageError, match="'itself' has no assets"):
        cube.open_tiles(tmp_path)


def _item(href: str) -> dict[str, Any]:
    return {"type": "Feature", "id": href, "links": [], "assets": {"tiles": {"href": href}}}


def test_a_place_that_cannot_be_reached_is_told_without_its_secrets() -> None:
    with pytest.raises(SourceError, match=r"http://127.0.0.1:9/catalog.json cannot be read") as told:
        cube.open_tiles("http://127.0.0.1:9/catalog.json?signature=hidden")
    assert "hidden" not in str(told.value)
    with pytest.raises(UsageError, match="is not a place that can be read"):
        cube.open_composites("gopher://nowhere/composites")


def test_scenes_open_from_anything(built: Path) -> None:
    folder = built / "safe"
    first = sorted(folder.iterdir())[0]
    box = cube.open_composites(built / "composites").odc.geobox
    truth = cube.open_sentinel2([first], ["B04"], geobox=box).load()
    saved = json.loads((built / "composites" / "indices" / "items.json").read_text())
    (item,) = [i for i in saved["features"] if i["id"] == first.name.removesuffix(".SAFE")]
    described = pystac.Item.from_dict(item)
    parent = pystac.Collection("s2", "scenes", pystac.Extent.from_items([described]))
    parent.add_item(described)  # leads to what has no address
    for name, source in {
        "folder": first,
        "text": str(first),
        "dict": item,
        "feature collection": {"type": "FeatureCollection", "features": [item]},
        "Item": described,
        "ItemCollection": pystac.ItemCollection([described]),
        "list": [item, item],
    }.items():
        assert cube.open_sentinel2(source, ["B04"], geobox=box).load().equals(truth), name
    every = cube.open_sentinel2(folder, ["B04"], geobox=box)
    assert every.sizes["time"] == 3
    for source in (built / "composites" / "indices" / "items.json", str(folder), [*folder.iterdir()]):
        xr.testing.assert_equal(cube.open_sentinel2(source, ["B04"], geobox=box).load(), every.load())
    with pytest.raises(UsageError, match="holds no product of level 2A"):
        cube.open_sentinel2(built / "tiles", ["B04"], geobox=box)
