"""Which products count: filters, and one processing of each tile, datatake and datastrip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from catalog.errors import SourceError, UsageError
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.safe import read_safe
from cube.sentinel2.config import Sentinel2Config

__all__ = ["LeftOut", "deduplicate", "load_products", "read_folder", "save_products", "wanted"]


@dataclass(frozen=True)
class LeftOut:
    """A product that is not used."""

    id: str
    reason: str


def read_folder(folder: Path) -> tuple[list[Product], list[LeftOut]]:
    """Read all SAFE products below a folder; one whose metadata cannot be read is left out.

    Raises
    ------
    UsageError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; name the folder of SAFE products with --safe-dir")
    products, left_out = [], []
    for safe in sorted(folder.rglob("*.SAFE")):
        try:
            products.append(read_safe(safe))
        except SourceError as error:
            left_out.append(LeftOut(safe.name.removesuffix(".SAFE"), str(error)))
    return products, left_out


def wanted(products: Iterable[Product], config: Sentinel2Config) -> tuple[list[Product], list[LeftOut]]:
    """Keep the products that pass the filters of a build and, of several processings, the newest."""
    kept, left_out = [], []
    for product in products:
        reason = _against(product, config)
        if reason:
            left_out.append(LeftOut(product.id, reason))
        else:
            kept.append(product)
    single, doubles = deduplicate(kept)
    return single, left_out + doubles


def _against(product: Product, config: Sentinel2Config) -> str:
    start = product.datatake_start
    if not config.start <= start < config.end:
        return f"sensed {start:%Y-%m-%d %H:%M:%S}, outside of the period"
    if config.months is not None and start.month not in config.months:
        return f"sensed in month {start.month}"
    cloud, sun = product.cloud_cover, product.sun_elevation
    if config.max_cloud_cover is not None and cloud is not None and cloud > config.max_cloud_cover:
        return f"cloud cover {cloud:.1f} % is above {config.max_cloud_cover:g} %"
    if config.min_sun_elevation is not None and sun is not None and sun < config.min_sun_elevation:
        return f"sun elevation {sun:.1f} is below {config.min_sun_elevation:g} degrees"
    for told, allowed, name in (
        (product.relative_orbit, config.orbits, "orbit"),
        (product.platform, config.platforms, "platform"),
        (product.baseline, config.baselines, "baseline"),
    ):
        if allowed is not None and told not in allowed:
            return f"{name} {told} is not asked for"
    return ""


def deduplicate(products: Sequence[Product]) -> tuple[list[Product], list[LeftOut]]:
    """Keep, of each tile, datatake and datastrip, the highest baseline and of that the latest processing.

    Halves of a tile come from two datastrips and are both kept.
    """
    best: dict[tuple[Any, ...], Product] = {}
    for product in products:
        key = _identity(product)
        if key not in best or _age(product) > _age(best[key]):
            best[key] = product
    kept = [p for p in products if best[_identity(p)] is p]
    doubles = [
        LeftOut(p.id, f"the same tile and datastrip as {best[_identity(p)].id}, which is processed later")
        for p in products
        if best[_identity(p)] is not p
    ]
    return kept, doubles


def _identity(product: Product) -> tuple[Any, ...]:
    strip = product.datastrip_start.replace(microsecond=0) if product.datastrip_start else None
    return product.tile, product.platform, product.datatake_start.replace(microsecond=0), strip


def _age(product: Product) -> tuple[float, datetime, str]:
    return float(product.baseline), product.processing_time, product.id


def save_products(path: Path, products: Sequence[Product]) -> None:
    """Write products whole, so that a run can be replayed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps([asdict(p) for p in products], default=str, indent=1))
    part.replace(path)


def load_products(path: Path) -> list[Product]:
    """Read what :func:`save_products` wrote.

    Raises
    ------
    SourceError
        If it cannot be understood.
    """
    try:
        return [_product(fields) for fields in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} cannot be read ({error}); remove it to search again") from error


def _product(fields: dict[str, Any]) -> Product:
    times = {
        name: datetime.fromisoformat(fields[name]) if fields[name] else None
        for name in ("datatake_start", "datastrip_start", "processing_time")
    }
    assets = {
        key: Asset(**{**a, "shape": _tuple(a["shape"]), "transform": _tuple(a["transform"])})
        for key, a in fields["assets"].items()
    }
    return Product(**{**fields, **times, "bbox": tuple(fields["bbox"]), "assets": assets})


def _tuple(value: Sequence[Any] | None) -> Any:
    return None if value is None else tuple(value)
