"""Looking before building: harmonised, masked, Dask-backed views of scenes, and the composites of a build."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dask.array
import fsspec
import numpy as np
import odc.geo.xr  # noqa: F401  (registers .odc)
import pyproj
import pystac
import rioxarray
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from catalog.sentinel2.convert import product_from_item
from catalog.sentinel2.items import Product
from catalog.sentinel2.safe import read_safe
from cube.sentinel2.acquisitions import group_acquisitions
from cube.sentinel2.blocks import gdal_reason
from cube.sentinel2.resample import Method
from cube.sentinel2.source import Harmonisation, harmonisation
from cube.sentinel2.vocabulary import BAND_RESOLUTIONS, MASK_CLASSES
from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded

__all__ = ["open_composites", "open_sentinel2"]

Backend = Literal["odc-stac", "stackstac"]


def open_sentinel2(
    items: Sequence[Product | pystac.Item | Mapping[str, Any] | str | Path],
    bands: Sequence[str],
    *,
    bbox: Sequence[float] | None = None,
    geobox: GeoBox | None = None,
    crs: str | None = None,
    resolution: float | None = None,
    bands_res: Literal[10, 20, 60] = 20,
    mask_classes: Sequence[int] = MASK_CLASSES,
    resampling: Method = "nearest",
    chunks: int = 2048,
    backend: Backend = "odc-stac",
) -> xr.Dataset:
    """Open scenes lazily on one grid, one time step a datatake.

    The offset of each product is added, and its mask applied, before anything is merged. Here the mask is laid over
    resampled pixels: with another resampling than ``nearest``, masked pixels weigh on their neighbours; a build masks
    first.

    Parameters
    ----------
    items
        Products, STAC items of CDSE or Earth Search, or paths of SAFE folders.
    bands
        Bands, e.g. ``["B04", "B08"]``.
    bbox
        West, south, east, north in degrees.
    geobox
        The grid wanted; else ``bbox`` in ``crs`` at ``resolution``.
    crs
        CRS of the result; default: the first product's.
    resolution
        Pixel size in units of ``crs``; default: ``bands_res`` metres.
    bands_res
        Which files to read, where a band has them.
    mask_classes
        Scene classes to mask.
    resampling
        Kernel for the bands; classes are always ``nearest``.
    chunks
        Side of a Dask chunk in pixels.
    backend
        ``odc-stac``, or ``stackstac`` for the same values by another reader.

    Returns
    -------
    xarray.Dataset
        Reflectance, float32, dimensions (time, y, x), NaN where masked.

    Raises
    ------
    UsageError
        If a band is unknown, no item is given, or no area.
    SourceError
        If a product's metadata cannot be trusted.
    """
    products = [_product(i) for i in items]
    if not products:
        raise UsageError("no items are given; give products or SAFE folders")
    unknown = [b for b in bands if b not in BAND_RESOLUTIONS]
    if unknown:
        raise UsageError(f"band {unknown[0]!r} is unknown; level 2A has {', '.join(BAND_RESOLUTIONS)}")
    keys = {b: f"{b}_{bands_res if bands_res in BAND_RESOLUTIONS[b] else min(BAND_RESOLUTIONS[b])}m" for b in bands}
    grid = geobox if geobox is not None else _geobox(products[0], keys, bbox, crs, resolution or float(bands_res))
    read = {"odc-stac": _by_odc, "stackstac": _by_stackstac}[backend]
    datatakes: dict[str, list[xr.Dataset]] = {}
    times: dict[str, Any] = {}
    for acquisition in sorted(group_acquisitions(products), key=lambda a: (a.datatake_start, a.rank)):
        for product in acquisition.products:
            rules = harmonisation(product, bands)
            raw = read(product, keys, grid, resampling, chunks)
            datatakes.setdefault(acquisition.datatake, []).append(_clear(raw, rules, bands, mask_classes))
            times[acquisition.datatake] = np.datetime64(acquisition.datatake_start, "ns")
    steps = []
    for name, parts in datatakes.items():
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.fillna(part)
        steps.append(merged.expand_dims(time=[times[name]]))
    result = xr.concat(steps, dim="time")
    for band in bands:
        result[band].attrs = {"units": "1", "standard_name": "surface_bidirectional_reflectance", "long_name": band}
    return result


def _product(item: Product | pystac.Item | Mapping[str, Any] | str | Path) -> Product:
    if isinstance(item, Product):
        return item
    if isinstance(item, str | Path):
        return read_safe(Path(item))
    return product_from_item(item.to_dict() if isinstance(item, pystac.Item) else item)


def _geobox(
    product: Product, keys: Mapping[str, str], bbox: Sequence[float] | None, crs: str | None, resolution: float
) -> GeoBox:
    if bbox is None:
        raise UsageError("no area is given; give bbox or geobox")
    asset = product.assets.get(next(iter(keys.values())))
    target = crs or (asset.proj_code if asset is not None else None)
    if target is None:
        raise UsageError(f"{product.id} does not tell its CRS; give crs")
    west, south, east, north = bbox
    turned = east + 360 if west > east else east
    box = pyproj.Transformer.from_crs("EPSG:4326", target, always_xy=True).transform_bounds(west, south, turned, north)
    return GeoBox.from_bbox(box, crs=target, resolution=resolution)


def _clear(raw: xr.Dataset, rules: Harmonisation, bands: Sequence[str], masked: Sequence[int]) -> xr.Dataset:
    """Harmonise one product and lay its mask over it."""
    classes = raw["SCL"]
    valid = ~classes.isin([0, *masked]) & (classes < 12)
    cleared = {}
    for band in bands:
        counts = raw[band]
        known = valid & (counts != 0) & (counts != 65535)
        values = (counts.astype("f4") + np.float32(rules.offsets[band])) * np.float32(1e-4)
        cleared[band] = values.where(known)
    return xr.Dataset(cleared)


def _item(product: Product, keys: Mapping[str, str]) -> pystac.Item:
    """Return the least STAC item that a reader needs."""
    west, south, east, north = product.bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    item = pystac.Item(
        id=product.id,
        geometry=dict(product.geometry) if product.geometry else {"type": "Polygon", "coordinates": [ring]},
        bbox=list(product.bbox),
        datetime=product.datatake_start,
        properties={},
        stac_extensions=["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
    )
    scl = "SCL_20m" if "SCL_20m" in product.assets else "SCL_60m"
    for name, key in {**keys, "SCL": scl}.items():
        if key not in product.assets:
            raise SourceError(f"{product.id} has no {key}; leave the product or the band out")
        asset = product.assets[key]
        where: dict[str, Any] = {"proj:code": asset.proj_code}
        if asset.shape is not None and asset.transform is not None:
            where |= {"proj:shape": list(asset.shape), "proj:transform": list(asset.transform)}
        item.add_asset(name, pystac.Asset(asset.href, media_type="image/jp2", roles=["data"], extra_fields=where))
    return item


def _by_odc(product: Product, keys: Mapping[str, str], grid: GeoBox, resampling: Method, chunks: int) -> xr.Dataset:
    import odc.stac  # noqa: PLC0415  (slow to import, and only one of two readers)

    loaded: xr.Dataset = odc.stac.load(
        [_item(product, keys)],
        bands=[*keys, "SCL"],
        geobox=grid,
        resampling={"*": resampling, "SCL": "nearest"},
        chunks={"x": chunks, "y": chunks},
        stac_cfg={
            "*": {"assets": {"*": {"data_type": "uint16", "nodata": 0}, "SCL": {"data_type": "uint8", "nodata": 0}}}
        },
    )
    return loaded.isel(time=0, drop=True).rename(dict(zip(grid.dimensions, ("y", "x"), strict=True)))


def _by_stackstac(
    product: Product, keys: Mapping[str, str], grid: GeoBox, resampling: Method, chunks: int
) -> xr.Dataset:
    import stackstac  # noqa: PLC0415
    from rasterio.enums import Resampling  # noqa: PLC0415

    item = _item(product, keys).to_dict()
    for asset in item["assets"].values():
        asset["proj:epsg"] = int(asset["proj:code"].rpartition(":")[2])  # it does not read proj:code
    box = grid.boundingbox
    layers = {}
    for name in (*keys, "SCL"):
        stack = stackstac.stack(
            [item],
            assets=[name],
            epsg=pyproj.CRS(str(grid.crs)).to_epsg(),
            bounds=(box.left, box.bottom, box.right, box.top),
            resolution=(abs(grid.resolution.x), abs(grid.resolution.y)),
            snap_bounds=False,
            resampling=Resampling.nearest if name == "SCL" else Resampling[resampling],
            rescale=False,
            dtype=np.dtype("uint16"),
            fill_value=np.uint16(0),
            chunksize=chunks,
        )
        if not stack.sizes["time"]:  # it leaves out an item that does not reach the grid
            stack = xr.DataArray(dask.array.zeros((1, 1, *grid.shape), "u2", chunks=chunks), dims=stack.dims)
        layers[name] = (
            stack.isel(time=0, band=0, drop=True).reset_coords(drop=True).drop_vars(("y", "x"), errors="ignore")
        )
    y, x = (np.asarray(grid.coords[d].values) for d in grid.dimensions)
    placed: xr.Dataset = xr.Dataset(layers).assign_coords(y=y, x=x).odc.assign_crs(str(grid.crs))
    return placed


def open_composites(source: str | Path | Mapping[str, Any] | pystac.STACObject) -> xr.Dataset:
    """Open composites lazily, as reflectance.

    Parameters
    ----------
    source
        A build's folder, its ``composites.zarr``, or its STAC catalog or collection (all cells on one lattice), or the
        STAC item of a cell (that cell, from its GeoTIFFs). A path, a URL, or the content of a STAC document.

    Returns
    -------
    xarray.Dataset
        One variable a band and ``count``, dimensions (y, x), with CRS and Dask chunks.

    Raises
    ------
    UsageError
        If there is no such thing there.
    SourceError
        If a GeoTIFF of the item cannot be read.
    """
    if isinstance(source, pystac.STACObject):
        return _described(source.to_dict(transform_hrefs=False), source.get_self_href() or ".")
    if isinstance(source, Mapping):
        return _described(source, next((k["href"] for k in source.get("links", ()) if k["rel"] == "self"), "."))
    place = str(source)
    if place.endswith(".json"):
        return _described(_document(place), place)
    return _store(place.rstrip("/"))


def _described(document: Mapping[str, Any], place: str) -> xr.Dataset:
    """Open what a STAC document at a place describes."""
    folder = place.rpartition("/")[0] or "."
    if document.get("type") in ("Catalog", "Collection"):
        return _store(folder)
    return _cell(document, folder)


def _document(place: str) -> Any:
    try:
        with fsspec.open(place) as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{place} cannot be read as a STAC document ({error}); give a build's folder") from error


def _store(place: str) -> xr.Dataset:
    files, path = fsspec.core.url_to_fs(place)
    inside = "" if files.exists(f"{path}/zarr.json") else "/composites.zarr"
    if not files.exists(f"{path}{inside}/zarr.json"):
        raise UsageError(
            f"{place} holds no composites.zarr; build with `products=cog zarr`, or give a cell's STAC item"
        )
    with guarded(f"{place}{inside} is not a store of composites that can be read", "run the build again to make it"):
        data = xr.open_zarr(f"{place}{inside}", chunks={}, decode_coords="all")
    # xarray scales float32 by a JSON number in float64; the values are no more precise than they were.
    single: xr.Dataset = data.assign({n: v.astype("f4") for n, v in data.data_vars.items() if v.dtype == np.float64})
    return single


def _cell(item: Mapping[str, Any], folder: str) -> xr.Dataset:
    layers = {}
    for name, asset in item.get("assets", {}).items():
        if not asset.get("type", "").startswith("image/tiff"):
            continue
        href = asset["href"]
        path = href if "://" in href or href.startswith("/") else f"{folder}/{href}"
        try:
            layer: Any = rioxarray.open_rasterio(path, chunks={"x": 512, "y": 512}, mask_and_scale=name != "count")
        except (RasterioError, OSError) as error:
            remedy = "use a server that allows byte ranges" if "://" in path else "run the build again to make it"
            raise SourceError(f"{path} cannot be read ({gdal_reason(error)}); {remedy}") from error
        layers[name] = layer.squeeze("band", drop=True)
    if not layers:
        raise UsageError(f"item {item.get('id')} has no GeoTIFF; open the build's composites.zarr")
    return xr.Dataset(layers)
