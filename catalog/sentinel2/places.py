"""Where a product's files lie on disk: SAFE folders as ESA lays them out, whatever API listed the product."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.metadata import read_granule
from catalog.sentinel2.sizes import held_keys
from stratacube.addresses import why_odd
from stratacube.errors import SourceError
from stratacube.inside import is_inside, why_not_a_name

__all__ = [
    "is_remote",
    "lies_there",
    "local_candidates",
    "local_path",
    "place",
    "total_bytes",
    "tree_of",
    "wanted_keys",
    "with_grids",
]

_NODE = re.compile(r"/Nodes\(([^()]*)\)")
_RASTER = re.compile(r".*_(?P<pixel>[126]0)m")


def wanted_keys(product: Product, bands: Sequence[str]) -> list[str]:
    """Asset keys to bring for some bands: these, the scene classification and the metadata that there is.

    Parameters
    ----------
    product
        The product.
    bands
        Asset keys of bands, such as ``B02_20m``; of one kept at another size alone, that file is brought.
    """
    classes = "SCL_60m" if "SCL_20m" not in product.assets and "SCL_60m" in product.assets else "SCL_20m"
    metadata = [k for k in ("product_metadata", "granule_metadata") if k in product.assets]
    return list(dict.fromkeys([*metadata, classes, *held_keys(product, bands)]))


def is_remote(href: str) -> bool:
    """Whether an address is not of this machine."""
    return "://" in href and not href.startswith("file://")


def tree_of(href: str) -> tuple[str, str] | None:
    """Take apart an address within a product that lies elsewhere.

    Returns
    -------
    tuple of str or None
        Address of the product, and the place in it, empty for the product itself; None of what lies in no such product.
    """
    if not is_remote(href) or urlsplit(href).query:
        return None
    product, mark, inside = f"{href.rstrip('/')}/".partition(".zarr/")
    return (f"{product}.zarr", inside.rstrip("/")) if mark else None


def local_path(href: str) -> Path:
    """Path of an address of this machine."""
    return Path(unquote(urlsplit(href).path)) if href.startswith("file://") else Path(href)


def place(product: Product, key: str, asset: Asset) -> PurePosixPath:
    """Where a file goes below the folder of products: ``<id>.SAFE/..`` as in the product.

    Images of EOPF's Zarr form go to ``<id>.zarr/..``, files of products that are kept in no such folder (Earth Search)
    to ``<id>/<key>.<suffix>``.

    Raises
    ------
    SourceError
        If the address or the product's name would lead elsewhere.
    """
    if is_remote(asset.href) and why_odd(asset.href) is not None:
        raise SourceError(f"{product.id}: the address of {key} {why_odd(asset.href)}; search again")
    nodes = _NODE.findall(asset.href)
    parts = [unquote(n) for n in nodes] if nodes else unquote(urlsplit(asset.href).path).split("/")
    safe = [i for i, part in enumerate(parts) if part.endswith(".SAFE")]
    zarr = [i for i, part in enumerate(parts[:-1]) if part.endswith(".zarr")]
    if safe:
        inner = [product.id + ".SAFE", *parts[safe[-1] + 1 :]]
    elif zarr:
        inner = [product.id + ".zarr", *parts[zarr[-1] + 1 :]]
    else:
        inner = [product.id, key + PurePosixPath(parts[-1]).suffix]
    if len(inner) < 2 or any(why_not_a_name(p) for p in inner):
        raise SourceError(f"{product.id}: the address of {key} is not a path inside of a product; search again")
    return PurePosixPath(*inner)


def lies_there(path: Path, asset: Asset) -> bool:
    """Whether there is a file of the size listed."""
    return path.is_file() and asset.size in (None, path.stat().st_size)


def local_candidates(product: Product, key: str, asset: Asset, roots: Sequence[Path]) -> list[Path]:
    """Paths at which a file may lie: in a folder of SAFE products, or in a mirror of the bucket (``/eodata``)."""
    found = [root / place(product, key, asset) for root in roots]
    if asset.href.startswith("s3://"):
        bucket, _, name = asset.href.removeprefix("s3://").partition("/")
        found += [root / tail for root in roots for tail in (name, f"{bucket}/{name}") if is_inside(tail)]
    return found


def with_grids(product: Product) -> Product:
    """Fill in the grids of rasters from the granule metadata on disk, where a catalogue has not told them."""
    granule = product.assets.get("granule_metadata")
    bare = [k for k, a in product.assets.items() if a.transform is None and _RASTER.fullmatch(k)]
    if not bare or granule is None or is_remote(granule.href):
        return product
    metadata = read_granule(local_path(granule.href))
    assets: dict[str, Asset] = dict(product.assets)
    for key in bare:
        match = _RASTER.fullmatch(key)
        grid = metadata.grids.get(int(match["pixel"])) if match else None
        if grid is not None:
            assets[key] = replace(
                assets[key], proj_code=metadata.proj_code, shape=(grid.rows, grid.cols), transform=grid.transform
            )
    sun = metadata.sun_elevation if product.sun_elevation is None else product.sun_elevation
    return replace(product, assets=assets, sun_elevation=sun)


def total_bytes(assets: Mapping[str, Asset], keys: Sequence[str]) -> tuple[int, int]:
    """Bytes of some files together, and how many of them have no size."""
    sizes = [assets[k].size for k in keys if k in assets]
    return sum(s for s in sizes if s is not None), sum(s is None for s in sizes)
