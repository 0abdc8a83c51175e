"""Many items in little memory."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

__all__ = ["PackedItems", "item_text"]


class PackedItems(Sequence[dict[str, Any]]):
    """Items kept as compressed JSON, each unpacked when it is asked for.

    What is not an object is kept as it is, for :func:`~catalog.sentinel2.convert.product_from_item` to refuse.
    An item of CDSE has 43 assets: 190 kB as Python objects, 7 kB packed. A season of the Arctic has 10^5 items.

    Parameters
    ----------
    items
        Taken one by one.
    """

    def __init__(self, items: Iterable[Mapping[str, Any]] = ()) -> None:
        self._packed: list[bytes] = []
        for item in items:
            self.append(item)

    def append(self, item: Mapping[str, Any]) -> None:
        """Add an item at the end."""
        self._packed.append(zlib.compress(item_text(item).encode(), 1))

    def ordered(self, places: Iterable[int]) -> PackedItems:
        """Return some of the items, by their places, in another order."""
        chosen = PackedItems()
        chosen._packed = [self._packed[place] for place in places]
        return chosen

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, place: slice) -> PackedItems: ...

    def __getitem__(self, place: int | slice) -> dict[str, Any] | PackedItems:
        if isinstance(place, slice):
            return self.ordered(range(len(self))[place])
        item: dict[str, Any] = json.loads(zlib.decompress(self._packed[place]))
        return item


def item_text(item: Any) -> str:
    """JSON of an item in one line; what JSON has no word for (NaN) becomes text, so that reading it is refused."""
    try:
        text = json.dumps(item, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:  # also for halves of characters
        text = json.dumps(_worded(item), separators=(",", ":"), allow_nan=False)
    return text


def _worded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _worded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_worded(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
