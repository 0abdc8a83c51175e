"""What one datatake saw of one tile: one product, or the halves of a tile cut by two datastrips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from catalog.sentinel2.items import Product
from catalog.sentinel2.select import newest_first
from catalog.sentinel2.sizes import held_key

__all__ = ["Acquisition", "group_acquisitions"]


@dataclass(frozen=True)
class Acquisition:
    """What one datatake saw of one tile."""

    tile: str
    platform: str
    datatake_start: datetime
    products: tuple[Product, ...]
    """Best first: where two are valid, the first counts."""

    @property
    def datatake(self) -> str:
        """Name of the datatake: acquisitions that share it give one vote a pixel."""
        return f"{self.platform.removeprefix('sentinel-')}_{self.datatake_start:%Y%m%dT%H%M%S}"

    @property
    def key(self) -> str:
        """Unique name."""
        return f"{self.datatake}_T{self.tile}"

    @property
    def rank(self) -> tuple[Any, ...]:
        """Order in which overlapping tiles of a datatake count: newest processing first, then by name."""
        first = self.products[0]
        return (*newest_first(first), first.id, self.tile)

    def keys(self, wanted: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return bands and the keys of the files to read them from, as far as the tile has them at other sizes alone.

        To be asked before files are fetched: one that is lost on the way is not listed any more.
        """
        return tuple((band, held_key(self.products[0], key)) for band, key in wanted)


def group_acquisitions(products: Sequence[Product]) -> list[Acquisition]:
    """Group products by tile and datatake, in order of time."""
    groups: dict[tuple[str, str, datetime], list[Product]] = {}
    for product in products:
        start = product.datatake_start.replace(microsecond=0)
        groups.setdefault((product.tile, product.platform, start), []).append(product)
    for group in groups.values():
        group.sort(key=lambda p: (*newest_first(p), p.id))
    found = [Acquisition(*key, tuple(group)) for key, group in groups.items()]
    return sorted(found, key=lambda a: (a.datatake_start, a.key))
