"""The files of a product, packed: 38 are 40 kB as objects and a tenth of it so, and a build may hold 10^4 products."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from catalog.sentinel2.items import Asset

__all__ = ["PackedAssets"]


class PackedAssets(Mapping[str, Asset]):
    """Files by key, unpacked when they are asked for.

    Parameters
    ----------
    assets
        By key.
    """

    __slots__ = ("_packed",)

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        rows = [(key, a.href, a.size, a.checksum, a.proj_code, a.shape, a.transform) for key, a in assets.items()]
        self._packed = zlib.compress(json.dumps(rows).encode(), level=1)  # of 38 addresses and grids, nearly the same

    def __getitem__(self, key: str) -> Asset:
        return _unpacked(self._packed)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(_unpacked(self._packed))

    def __len__(self) -> int:
        return len(_unpacked(self._packed))

    def __repr__(self) -> str:
        return repr(_unpacked(self._packed))


@lru_cache(maxsize=16)
def _unpacked(packed: bytes) -> Mapping[str, Asset]:
    """Files of a product. A few are kept: whoever asks for one file of a product will ask for the next."""
    return {key: _asset(*fields) for key, *fields in json.loads(zlib.decompress(packed))}


def _asset(href: str, size: int | None, checksum: str | None, proj_code: str | None, shape: Any, grid: Any) -> Asset:
    return Asset(
        href=href,
        size=size,
        checksum=checksum,
        proj_code=proj_code,
        shape=None if shape is None else tuple(shape),
        transform=None if grid is None else tuple(grid),
    )
