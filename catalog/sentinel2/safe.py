"""A SAFE folder on disk as a product."""

from __future__ import annotations

import re
from pathlib import Path

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.metadata import GranuleMetadata, read_granule, read_product
from stratacube.errors import SourceError

__all__ = ["read_safe"]

_IMAGE = re.compile(r"_(?P<key>(?:B\d[\dA]|SCL|AOT|WVP|TCI)_(?P<pixel>\d{2})m)\.jp2$")


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
        If the metadata is missing or cannot be understood.
    """
    documents = [p for p in sorted(folder.iterdir()) if p.name.lower() == "mtd_msil2a.xml"]
    granules = sorted(folder.glob("GRANULE/*/MTD_TL.xml"))
    if not documents or len(granules) != 1:
        raise SourceError(
            f"{folder} has {len(documents)} MTD_MSIL2A.xml and {len(granules)} GRANULE/*/MTD_TL.xml, "
            "one of each is needed"
        )
    product, granule = read_product(documents[0]), read_granule(granules[0])
    assets = {
        "product_metadata": Asset(href=str(documents[0]), size=documents[0].stat().st_size),
        "granule_metadata": Asset(href=str(granules[0]), size=granules[0].stat().st_size),
    }
    for image in sorted(granules[0].parent.glob("IMG_DATA/**/*.jp2")):
        found = _IMAGE.search(image.name)
        if found is not None:
            assets[found["key"]] = _raster(image, granule, int(found["pixel"]))
    ring = product.footprint
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
        bbox=_bbox(ring) if ring else (-180.0, -90.0, 180.0, 90.0),
        geometry={"type": "Polygon", "coordinates": [[list(p) for p in ring]]} if ring else None,
        assets=assets,
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


def _bbox(ring: tuple[tuple[float, float], ...]) -> tuple[float, float, float, float]:
    """Bounds of a ring; a tile is far narrower than half the globe, so a wider one crosses the antimeridian."""
    lon, lat = [p[0] for p in ring], [p[1] for p in ring]
    if max(lon) - min(lon) > 180:
        east, west = max(x for x in lon if x < 0), min(x for x in lon if x >= 0)
        return west, min(lat), east, max(lat)
    return min(lon), min(lat), max(lon), max(lat)
