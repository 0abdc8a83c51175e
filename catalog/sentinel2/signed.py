"""Signatures of addresses: kept in no file of ours, and asked for once more where a saved search is replayed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from catalog.sentinel2.packed import PackedItems
from stratacube.addresses import plain_url

__all__ = ["signed_again", "unsigned", "was_signed"]

_MARK = "stratacube:unsigned"
"""Of an item: its addresses have lost what came after their paths."""


def unsigned(item: Any) -> Any:
    """Return an item whose addresses have no user, query or fragment; it says so where an asset's had one."""
    if not isinstance(item, Mapping):
        return item
    plain = {key: _mapped(value, {}) for key, value in item.items()}
    return plain if plain.get("assets") == item.get("assets") else plain | {_MARK: True}


def was_signed(items: Iterable[Any]) -> bool:
    """Whether addresses of any of some items have lost their signatures."""
    return any(isinstance(item, Mapping) and item.get(_MARK) is True for item in items)


def signed_again(items: Sequence[Any], fresh: Iterable[Any]) -> PackedItems:
    """Give addresses the signatures that they have in other items; those that are not there stay without."""
    known = {plain_url(href): href for item in fresh for href in _addresses(item) if plain_url(href) != href}
    return PackedItems(
        _mapped(item, known) if isinstance(item, Mapping) and item.get(_MARK) is True else item for item in items
    )


def _mapped(value: Any, known: Mapping[str, str]) -> Any:
    """Value in which each address is as it is known, else without signature."""
    if isinstance(value, Mapping):
        return {
            key: known.get(plain_url(inner), plain_url(inner))
            if key == "href" and isinstance(inner, str) and "://" in inner
            else _mapped(inner, known)
            for key, inner in value.items()
        }
    return [_mapped(inner, known) for inner in value] if isinstance(value, list) else value


def _addresses(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "href" and isinstance(inner, str) and "://" in inner:
                yield inner
            else:
                yield from _addresses(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _addresses(inner)
