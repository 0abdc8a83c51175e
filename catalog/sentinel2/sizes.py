"""Which file of a band is read where a product does not list the pixel size wanted.

A SAFE product has most bands at several sizes. Earth Search and Planetary Computer keep each band once, at its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from catalog.sentinel2.items import Product

__all__ = ["held_key", "held_keys"]

_BAND = re.compile(r"(?P<band>B\d[\dA])_\d{2}m")


def held_key(product: Product, key: str) -> str:
    """Return the key of the file that holds a band.

    Parameters
    ----------
    product
        As it was found, with all its files listed.
    key
        The file wanted, such as ``B02_20m``.

    Returns
    -------
    str
        ``key``, unless the product keeps every band at one size only and this one at another: then that one, such as
        ``B02_10m``. A product of several sizes that lacks a file is not whole, and gets ``key``.
    """
    if key in product.assets:
        return key
    held: dict[str, str] = {}
    for other in product.assets:
        found = _BAND.fullmatch(other)
        if found is not None and held.setdefault(found["band"], other) != other:
            return key
    return held.get(key.rpartition("_")[0], key)


def held_keys(product: Product, keys: Iterable[str]) -> list[str]:
    """Return the keys of the files that hold some bands, as :func:`held_key`."""
    return [held_key(product, key) for key in keys]
