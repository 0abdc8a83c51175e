"""Many items in little memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

__all__ = ["PackedItems"]


class PackedItems(Sequence[dict[str, Any]]):
    """Items kept as compressed JSON, each unpacked when it is asked for.

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
        text = json.dumps(item, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        self._packed.append(zlib.compress(text.encode(), 1))

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
        return dict(json.loads(zlib.decompress(self._packed[place])))
