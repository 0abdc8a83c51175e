"""Opens what was published as others do, with libraries of others alone: ``python plain_clients.py ROOT CLIENT...``.

Prints one JSON text a client: what it read of band B04 of composites, or of channel 13 of tiles.
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings
from typing import Any

warnings.simplefilter("ignore")

import fsspec  # noqa: E402
import numpy as np  # noqa: E402
import pystac  # noqa: E402
import xarray as xr  # noqa: E402
from pystac.stac_io import DefaultStacIO, StacIO  # noqa: E402


class FsspecIO(DefaultStacIO):
    """How pystac reads from S3: by fsspec."""

    def read_text_from_href(self, href: str, *args: Any, **kwargs: Any) -> str:
        """Read a document."""
        with fsspec.open(href, "r") as file:
            return str(file.read())


StacIO.set_default(FsspecIO)


def items(root: str) -> list[pystac.Item]:
    """Items of the composites, with absolute addresses."""
    found = pystac.Catalog.from_file(f"{root}/composites/catalog.json").get_items(recursive=True)
    return [item.make_asset_hrefs_absolute() for item in found]


def told(values: Any) -> dict[str, Any]:
    """What is compared of an array."""
    known = np.asarray(values, "f8")
    return {"shape": known.shape, "sum": float(np.nansum(known)), "valid": int(np.isfinite(known).sum())}


def by_pystac(root: str) -> Any:
    """Walk the catalogs; open the stores they name by xarray."""
    item = items(root)[0]
    store = xr.open_zarr(item.assets["composites"].href)
    catalog = pystac.Catalog.from_file(f"{root}/tiles/catalog.json")
    (collection,) = catalog.get_children()
    tiles = xr.open_zarr(collection.assets["store"].get_absolute_href())
    tile = next(iter(collection.get_items()))
    own = tile.assets["tiles"]
    same = xr.open_zarr(own.get_absolute_href())["C13"].isel(tile=own.extra_fields["stratacube:tile_index"])
    assert same.identical(tiles["C13"].isel(tile=tile.properties["stratacube:tile_index"]))
    schemes = [link.get_absolute_href() for i in catalog.get_items(recursive=True) for link in i.links]
    return {"B04": told(store["B04"]), "C13": told(tiles["C13"]), "links": schemes}


def by_odc(root: str) -> Any:
    """Mosaic the GeoTIFFs."""
    import odc.stac

    loaded = odc.stac.load(items(root), bands=["B04"])["B04"]
    return told(loaded.where(loaded != loaded.attrs.get("nodata", -9999)).isel(time=0) * 1e-4)


def by_stackstac(root: str) -> Any:
    """Stack the GeoTIFFs, mosaic them."""
    import stackstac

    found = items(root)
    code = int(found[0].properties["proj:code"].removeprefix("EPSG:"))
    boxes = np.array([i.properties["proj:bbox"] for i in found])
    bounds = (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
    stack = stackstac.stack(found, assets=["B04"], epsg=code, resolution=20, bounds=bounds, rescale=False)
    return told(stackstac.mosaic(stack.where(stack != -9999), dim="time").isel(band=0) * 1e-4)


def by_rio_tiler(root: str) -> Any:
    """Read one cell by its item."""
    from rio_tiler.io import STACReader

    with STACReader(None, item=items(root)[0]) as reader:
        image = reader.preview(assets=["B04"], max_size=None)
    return told(np.where(image.mask == 0, np.nan, image.data[0]) * 1e-4)


def by_rio_tiler_of_tiles(root: str) -> Any:
    """Draw a tile as the collection's render says, where its item says that it lies."""
    import rioxarray  # noqa: F401  (gives .rio)
    from rio_tiler.colormap import cmap
    from rio_tiler.io import XarrayReader

    (collection,) = pystac.Catalog.from_file(f"{root}/tiles/catalog.json").get_children()
    render, item = collection.extra_fields["renders"]["C13"], next(iter(collection.get_items()))
    (asset,) = (item.assets[name] for name in render["assets"])
    store = xr.open_zarr(asset.get_absolute_href())[render["variable"]]
    tile = store.isel(tile=asset.extra_fields["stratacube:tile_index"], time=0)
    tile = tile.rename(dict(zip(tile.dims, ("y", "x"), strict=True)))
    a, _, left, _, e, top = item.properties["proj:transform"]
    (rows, columns), (height, width) = tile.shape, item.properties["proj:shape"]
    tile = tile.assign_coords(
        x=left + a * width / columns * (np.arange(columns) + 0.5), y=top + e * height / rows * (np.arange(rows) + 0.5)
    )
    tile = tile.rio.write_crs(collection.to_dict()["item_assets"]["tiles"]["proj:wkt2"])
    with XarrayReader(tile) as reader:
        image, bounds = reader.preview(max_size=None), reader.get_geographic_bounds("EPSG:4326")
    image.rescale(render["rescale"])
    drawn = image.apply_colormap(cmap.get(render["colormap_name"]))
    return {
        "grey": np.asarray(drawn.data[0]).tolist(),
        "mask": (np.asarray(drawn.mask) > 0).tolist(),
        "bounds": bounds,
        "bbox": item.bbox,
        "tile": asset.extra_fields["stratacube:tile_index"],
        "rescale": render["rescale"][0],
    }


def by_titiler(root: str) -> Any:
    """Read the lattice by the store's own georeference."""
    from titiler.xarray.io import Reader, fs_open_dataset

    store = f"{root}/composites/composites.zarr"
    with Reader(store, variable="B04", opener=fs_open_dataset) as reader:
        assert reader.crs.to_epsg() == 32606
        return told(reader.input.values)


def by_rustac(root: str) -> Any:
    """Read collection, items and table."""
    import rustac

    async def read() -> Any:
        table = await rustac.read(f"{root}/composites/items.parquet")
        tiles = await rustac.read(f"{root}/tiles/tiles/items.parquet")
        collection = await rustac.read(f"{root}/composites/collection.json")
        return {"cells": len(table["features"]), "tiles": len(tiles["features"]), "id": collection["id"]}

    return asyncio.run(read())


def by_duckdb(root: str) -> Any:
    """Ask the tables, without any extension."""
    import duckdb

    counted = [
        duckdb.sql(f"select count(*), min(bbox.xmin), max(bbox.ymax) from read_parquet('{root}/{table}')").fetchall()[0]
        for table in ("composites/items.parquet", "tiles/tiles/items.parquet")
    ]
    (share,) = duckdb.sql(
        f"""select min("stratacube:valid_share") from read_parquet('{root}/composites/items.parquet')"""
    ).fetchall()[0]
    return {"counted": counted, "share": share}


def main(root: str, *clients: str) -> None:
    """Open by some clients."""
    for client in clients:
        result = globals()[f"by_{client}"](root)
        print(json.dumps({client: result}))  # noqa: T201
    ours = {name.partition(".")[0] for name in sys.modules} & {"stratacube", "catalog", "cube", "loaders"}
    assert not ours, ours


if __name__ == "__main__":
    main(*sys.argv[1:])
