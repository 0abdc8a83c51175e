"""What a Sentinel-2 L2A product is, wherever it was found: the contract between finding, fetching and building."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["Asset", "Product"]


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file of a product."""

    href: str
    """Path on disk, or address (``s3://``, ``https://``)."""
    size: int | None = None
    """Bytes."""
    checksum: str | None = None
    """Hexadecimal digest, 32 characters for MD5 or 64 for SHA3-256, without a multihash prefix."""
    proj_code: str | None = None
    """CRS of a raster, e.g. ``EPSG:32633``."""
    shape: tuple[int, int] | None = None
    """Rows and columns of a raster."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """Pixel to CRS in affine order: a, b, c, d, e, f."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product: a tile of a datatake (or of one of its datastrips) in one processing. Times are naive UTC."""

    id: str
    """Product name without ``.SAFE``."""
    tile: str
    """MGRS tile without a leading T, e.g. ``33TWL``."""
    platform: str
    """``sentinel-2a``, ``sentinel-2b`` or ``sentinel-2c``."""
    datatake_start: datetime
    datastrip_start: datetime | None = None
    baseline: str
    """Processing baseline, e.g. ``05.10``; ``99.99`` for CloudFerro's own processing."""
    processing_time: datetime
    relative_orbit: int | None = None
    cloud_cover: float | None = None
    """Per cent."""
    sun_elevation: float | None = None
    """Degrees."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees; west > east across the antimeridian."""
    geometry: Mapping[str, Any] | None = None
    """GeoJSON footprint."""
    offset_applied: bool = False
    """Whether the archive has already added the offset (Earth Search's ``earthsearch:boa_offset_applied``)."""
    assets: Mapping[str, Asset] = field(default_factory=dict)
    """By CDSE's keys: ``B02_20m``, ``SCL_20m``, ``product_metadata``, ``granule_metadata`` .."""
