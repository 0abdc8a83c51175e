"""A SAFE folder on disk as a product."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.metadata import GranuleMetadata, ProductMetadata, read_granule, read_product
from catalog.sentinel2.names import parse_product_name
from catalog.sentinel2.outlines import footprint_bbox
from catalog.sentinel2.tiles import size_remark
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = ["read_safe"]

_IMAGE = re.compile(r"_(?P<key>(?:B\d[\dA]|SCL|AOT|WVP|TCI)_(?P<pixel>\d{2})m)\.(?i:jp2)$")
_NAMED = re.compile(r"(?:L2A_)?T(\d{2}[A-Z]{3})_(\d{8}T\d{6})_")
"""Tile and time of an image's name."""
_DATATAKE = timedelta(hours=1)
"""Longer than any datatake."""


def read_safe(folder: Path) -> Product:
    """Describe the product in a SAFE folder.

    Parameters
    ----------
    folder
        ``..SAFE``, with ``MTD_MSIL2A.xml`` and ``GRANULE/<granule>``.

    Returns
    -------
    Product
        Its assets are the files that are there; fewer bands than the metadata lists is no error.

    Raises
    ------
    SourceError
        If the metadata is missing, cannot be understood or contradicts itself.
    """
    with guarded(f"{folder} is not a SAFE folder that can be read", "fetch the product again, or leave it out"):
        return _read(folder)


def _read(folder: Path) -> Product:
    documents = [p for p in sorted(folder.iterdir()) if p.name.lower() == "mtd_msil2a.xml"]
    granules = sorted(folder.glob("GRANULE/*/MTD_TL.xml"))
    if not documents or len(granules) != 1:
        raise SourceError(
            f"{folder} has {len(documents)} MTD_MSIL2A.xml and {len(granules)} GRANULE/*/MTD_TL.xml, "
            "one of each is needed"
        )
    product, granule = read_product(documents[0]), read_granule(granules[0])
    _agree(folder, product, granule)
    assets = {
        "product_metadata": Asset(href=str(documents[0]), size=documents[0].stat().st_size),
        "granule_metadata": Asset(href=str(granules[0]), size=granules[0].stat().st_size),
    }
    for image in sorted(granules[0].parent.glob("IMG_DATA/**/*.[jJ][pP]2")):
        found = _IMAGE.search(image.name)
        if found is not None:
            _refuse_foreign(image, product)
            assets[found["key"]] = _raster(image, granule, int(found["pixel"]))
    ring = product.footprint
    _refuse_elsewhere(granule, assets)
    outline = {"type": "Polygon", "coordinates": [[list(p) for p in ring]]} if ring else None
    return Product(
        id=product.id,
        tile=granule.tile,
        platform=product.platform,
        datatake_start=product.datatake_start,
        datastrip_start=product.datastrip_start or granule.datastrip_start,
        baseline=product.baseline,
        processing_time=product.processing_time,
        relative_orbit=product.relative_orbit,
        cloud_cover=product.cloud_cover,
        sun_elevation=granule.sun_elevation,
        bbox=footprint_bbox(outline, granule.tile),
        geometry=outline,
        assets=assets,
    )


def _agree(folder: Path, product: ProductMetadata, granule: GranuleMetadata) -> None:
    """Refuse a product that is not the one its folder, its name or its parts tell of."""
    named = parse_product_name(product.id)
    if named.tile != granule.tile:
        raise SourceError(f"{product.id} is of tile {named.tile} but its MTD_TL.xml of {granule.tile}; fetch it again")
    called = folder.name.removesuffix(".SAFE")
    if _is_product_name(called) and called != product.id:
        raise SourceError(f"{folder} holds the product {product.id}; give it its name, or fetch what it is named after")
    begun = product.datatake_start.replace(microsecond=0)
    if begun != named.sensing:
        raise SourceError(
            f"{product.id} begins at {named.sensing} by its name but at {begun} by its MTD_MSIL2A.xml; fetch it again"
        )
    if not timedelta(0) <= granule.sensing_time - begun <= _DATATAKE:
        raise SourceError(
            f"{product.id} begins at {begun}, but by its MTD_TL.xml the tile was seen at {granule.sensing_time}; "
            "fetch it again"
        )
    strips = product.datastrip_start, granule.datastrip_start
    if None not in strips and strips[0] != strips[1]:
        raise SourceError(
            f"{product.id} is of the datastrip of {strips[0]}, but its MTD_TL.xml of that of {strips[1]}; "
            "fetch it again"
        )


def _refuse_foreign(image: Path, product: ProductMetadata) -> None:
    """Refuse an image that is named after another tile or time than its product."""
    found, named = _NAMED.match(image.name), parse_product_name(product.id)
    if found is not None and found.groups() != (named.tile, named.sensing.strftime("%Y%m%dT%H%M%S")):
        raise SourceError(f"{image} is of another tile or time than {product.id}; fetch the product again")


def _is_product_name(name: str) -> bool:
    try:
        parse_product_name(name)
    except SourceError:
        return False
    return True


def _refuse_elsewhere(granule: GranuleMetadata, assets: Mapping[str, Asset]) -> None:
    """Refuse a grid of a part of a tile, which the tile's name does not tell, if the images are elsewhere.

    Who plans by it would not read them, and not find out.
    """
    asset = next((a for a in assets.values() if a.shape is not None and a.transform is not None), None)
    if asset is None or not size_remark(asset.shape, asset.transform):
        return
    import rasterio  # noqa: PLC0415  (whole tiles need it not)

    from stratacube.images import open_image  # noqa: PLC0415

    try:
        with open_image(asset.href) as image:
            there = str(image.crs), image.transform.c, image.transform.f
    except (rasterio.errors.RasterioError, OSError):  # the build tells who is broken, and drops it
        return
    said = granule.proj_code, *(asset.transform or ())[2::3]
    if there != said:
        raise SourceError(
            f"by its MTD_TL.xml tile {granule.tile} lies at {said[1]:.10g} {said[2]:.10g} in {said[0]}, but "
            f"{asset.href} at {there[1]:.10g} {there[2]:.10g} in {there[0]}; fetch the product again or leave it out"
        )


def _raster(path: Path, granule: GranuleMetadata, pixel: int) -> Asset:
    grid = granule.grids.get(pixel)
    return Asset(
        href=str(path),
        size=path.stat().st_size,
        proj_code=granule.proj_code,
        shape=(grid.rows, grid.cols) if grid else None,
        transform=grid.transform if grid else None,
    )
