"""Looking before building: harmonised, masked, Dask-backed views of scenes, and the composites of a build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import dask.array
import numpy as np
import odc.geo.xr  # noqa: F401  (registers .odc)
import pyproj
import pystac
import rioxarray
import xarray as xr
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from catalog.locate import COMPOSITES, Document, document_of, locate
from catalog.sentinel2.given import given_products
from catalog.sentinel2.items import Product
from catalog.sentinel2.tiles import tile_grid
from cube.mosaic import open_cells
from cube.opening import open_store
from cube.sentinel2.acquisitions import Acquisition, group_acquisitions
from cube.sentinel2.rasters import gdal_reason
from cube.sentinel2.resample import Method
from cube.sentinel2.source import Harmonisation, harmonisation
from cube.sentinel2.time_axis import NAMES
from cube.sentinel2.view import view
from cube.sentinel2.vocabulary import BAND_RESOLUTIONS, MASK_CLASSES, band_name, refuse_unknown_band
from stratacube.addresses import plain_url
from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded

__all__ = ["open_composites", "open_sentinel2"]

Backend = Literal["exact", "odc-stac", "stackstac"]
_CHUNK = 2048
"""Side of a Dask chunk over the files of cells, pixels."""


def open_sentinel2(
    items: Any,
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
    backend: Backend = "exact",
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open scenes lazily on one grid, one time step a datatake.

    The offset of each product is added, and its mask applied, before anything is merged. Pixels are those that a build
    takes its composites from, to the bit where the grid lies on its lattice, whatever the chunks: masked before they
    are resampled, at positions that are off by a thousandth of a pixel of 20 m. The other backends resample by GDAL, at
    positions that may be off by an eighth of a source pixel and depend on the chunks, and lay the mask over resampled
    pixels: with another resampling than ``nearest``, masked pixels weigh on their neighbours.

    Parameters
    ----------
    items
        One of these or a list of them: products, STAC items, item collections, collections or catalogs of CDSE, Earth
        Search or Planetary Computer (path, URL, content or object of pystac), a saved search (JSON or GeoParquet), a
        SAFE folder or a folder of them.
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
        Which files to read, where a product has them; of one that keeps each band once, those it has.
    mask_classes
        Scene classes to mask.
    resampling
        Kernel for the bands; classes are always ``nearest``.
    chunks
        Side of a Dask chunk in pixels.
    backend
        ``exact``, or ``odc-stac`` or ``stackstac``, which take overviews of remote GeoTIFFs for coarse grids.
    storage_options
        For fsspec, where STAC documents lie on S3 or in the web.

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
    products = given_products(items, storage_options)
    bands = [band_name(b) for b in bands]
    refuse_unknown_band(bands)
    keys = [(b, f"{b}_{bands_res if bands_res in BAND_RESOLUTIONS[b] else min(BAND_RESOLUTIONS[b])}m") for b in bands]
    grid = geobox if geobox is not None else _geobox(products[0], bbox, crs, resolution or float(bands_res))
    datatakes: dict[str, list[xr.Dataset]] = {}
    times: dict[str, Any] = {}
    for acquisition in sorted(group_acquisitions(products), key=lambda a: (a.datatake_start, a.rank)):
        parts = _parts(acquisition, dict(acquisition.keys(keys)), grid, resampling, mask_classes, chunks, backend)
        datatakes.setdefault(acquisition.datatake, []).extend(parts)
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


def _parts(
    acquisition: Acquisition,
    keys: Mapping[str, str],
    grid: GeoBox,
    resampling: Method,
    masked: Sequence[int],
    chunks: int,
    backend: Backend,
) -> list[xr.Dataset]:
    """What is valid of a tile, best first."""
    rules = [harmonisation(product, keys) for product in acquisition.products]
    for product in acquisition.products:
        lacking = [key for key in keys.values() if key not in product.assets]
        if lacking:
            raise SourceError(f"{product.id} has no {lacking[0]}; leave the product or the band out")
    if backend == "exact":
        return [_placed(view(acquisition.products, keys, grid, resampling, masked, chunks), grid)]
    read = {"odc-stac": _by_odc, "stackstac": _by_stackstac}[backend]
    raw = [read(product, keys, grid, resampling, chunks) for product in acquisition.products]
    return [_clear(data, rule, list(keys), masked) for data, rule in zip(raw, rules, strict=True)]


def _geobox(product: Product, bbox: Sequence[float] | None, crs: str | None, resolution: float) -> GeoBox:
    if bbox is None:
        raise UsageError("no area is given; give bbox or geobox")
    codes = (asset.proj_code for asset in product.assets.values() if asset.proj_code is not None)
    target = crs or next(codes, tile_grid(product.tile)[0])
    west, south, east, north = bbox
    turned = east + 360 if west > east else east
    box = pyproj.Transformer.from_crs("EPSG:4326", target, always_xy=True).transform_bounds(west, south, turned, north)
    return GeoBox.from_bbox(box, crs=target, resolution=resolution)


def _placed(data: xr.Dataset, grid: GeoBox) -> xr.Dataset:
    """Give pixels their coordinates."""
    y, x = (np.asarray(grid.coords[d].values) for d in grid.dimensions)
    placed: xr.Dataset = data.assign_coords(y=y, x=x).odc.assign_crs(str(grid.crs))
    return placed


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
    return _placed(xr.Dataset(layers), grid)


def open_composites(source: Any, *, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open composites lazily, as reflectance.

    Parameters
    ----------
    source
        A build's folder, its ``composites.zarr``, or its STAC catalog or collection (all cells on one lattice: the
        store, or without one the files of the cells), or the STAC item of a cell (that cell, from its GeoTIFFs where
        it has some). A path, a URL, the content of a STAC document, or an object of pystac.
    storage_options
        For fsspec, such as ``{"anon": True}``, where the store or the document lies on S3 or in the web. GeoTIFFs are
        read by GDAL, which has its own (``AWS_NO_SIGN_REQUEST``).

    Returns
    -------
    xarray.Dataset
        One variable a band and ``count``, dimensions (y, x), with CRS and Dask chunks.

    Raises
    ------
    UsageError
        If there is no such thing there.
    SourceError
        If it cannot be read.
    """
    document = document_of(source, storage_options)
    if document is not None and document.body.get("type") == "Feature":
        own = document.body.get("assets", {}).get("composite")
        if _images(document):
            return _cell(document)
        if own is not None:
            return _store(document.absolute(own["href"]), storage_options)
    return _store(locate(source, COMPOSITES, storage_options), storage_options)


def _store(place: str, options: Mapping[str, Any] | None) -> xr.Dataset:
    if not place.endswith(".zarr"):
        cells = open_cells(place, options)
        if cells is None:
            raise UsageError(
                f"{place} holds no composites.zarr and no collection.json of cells; give the folder of a build that "
                "has ended, or a cell's STAC item"
            )
        return cells.chunk(y=_CHUNK, x=_CHUNK)
    with guarded(f"{place} is not a store of composites that can be read", "run the build again to make it"):
        data = open_store(place, options, chunks={}, decode_coords="all")
    data.attrs = {"title": "Sentinel-2 composites", **data.attrs}
    data.encoding["source"] = place
    # xarray scales float32 by a JSON number in float64; the values are no more precise than they were.
    single: xr.Dataset = data.assign({n: v.astype("f4") for n, v in data.data_vars.items() if v.dtype == np.float64})
    names = single["time"].attrs.get(NAMES) if "time" in single.coords else None
    return single if names is None else single.assign_coords(period=("time", names))


def _images(item: Document) -> dict[str, str]:
    """Addresses of the GeoTIFFs of an item by its keys."""
    images = {n: a for n, a in item.body.get("assets", {}).items() if str(a.get("type")).startswith("image/tiff")}
    return {name: item.absolute(asset["href"]) for name, asset in images.items()}


def _cell(item: Document) -> xr.Dataset:
    layers, told = {}, {n: (a.get("bands") or [{}])[0] for n, a in item.body["assets"].items()}
    # What is none of the bands is counted (no observation is a number of them), not finite where unknown, or a date.
    bands = {name for name, band in told.items() if "eo:common_name" in band or not band}
    for name, path in _images(item).items():
        try:
            layer: Any = rioxarray.open_rasterio(
                path, chunks={"x": 512, "y": 512}, mask_and_scale=name in bands, driver="GTiff"
            )
        except (RasterioError, OSError) as error:
            remedy = "use a server that allows byte ranges" if "://" in path else "run the build again to make it"
            raise SourceError(f"{plain_url(path)} cannot be read ({gdal_reason(error)}); {remedy}") from error
        layers[name] = layer.squeeze("band", drop=True)
        if " since " in str(told[name].get("unit")):
            layers[name].attrs |= {"units": told[name]["unit"], "_FillValue": told[name]["nodata"]}
            layers[name] = xr.decode_cf(layers[name].to_dataset(name=name), decode_coords=False)[name]
    return xr.Dataset(layers)
