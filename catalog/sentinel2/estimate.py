"""What fetching would cost, before a byte is moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog.sentinel2.items import Product
from catalog.sentinel2.places import is_remote, lies_there, place, total_bytes, wanted_keys

__all__ = ["CONNECTIONS", "DownloadEstimate", "estimate_download"]

CONNECTIONS = 3
"""CDSE allows an account 4: one is left for the user."""

BYTES_A_SECOND = 20e6
"""What CDSE gives one connection."""


@dataclass(frozen=True)
class DownloadEstimate:
    """What fetching would cost."""

    files: int
    bytes: int
    unknown: int
    """Files whose size no catalogue tells; they are not in ``bytes``."""
    present: int
    """Files that are on disk already, by name and size."""

    def seconds(self, connections: int = CONNECTIONS) -> float:
        """Duration at the rate that CDSE allows."""
        return self.bytes / (connections * BYTES_A_SECOND)


def estimate_download(products: Iterable[Product], bands: Sequence[str], root: Path | None = None) -> DownloadEstimate:
    """Say what fetching some bands of products into a folder would cost; nothing is asked of anyone.

    Parameters
    ----------
    products
        The products.
    bands
        Asset keys of bands, such as ``B02_20m``.
    root
        Folder of the products; None if there is none yet.
    """
    files = size = unknown = present = 0
    for product in products:
        keys = [k for k in wanted_keys(product, bands) if k in product.assets and is_remote(product.assets[k].href)]
        here = [
            k
            for k in keys
            if root is not None and lies_there(root / place(product, k, product.assets[k]), product.assets[k])
        ]
        missing = [k for k in keys if k not in here]
        known, blind = total_bytes(product.assets, missing)
        files, size = files + len(missing), size + known
        unknown, present = unknown + blind, present + len(here)
    return DownloadEstimate(files, size, unknown, present)
