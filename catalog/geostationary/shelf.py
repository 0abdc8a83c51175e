"""Scans by their id, read from a saved collection when they are asked for: a year of them fills gigabytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.item_table import AGAIN, ItemTable, is_table
from catalog.geostationary.items import load_items, open_table, scan_of
from catalog.geostationary.naming import Naming
from catalog.geostationary.scans import Scan
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = ["ScanShelf"]

_ID = re.compile(rb'"id":"([^"]+)"')
_KEPT = 256
"""Scans held at once. Tiles come in order of time, so that those around one moment are asked for again and again: these
are two hours of a mesoscale sector seen every 30 s."""


class ScanShelf:
    """The scans of a file that :func:`~catalog.geostationary.items.save_items` wrote.

    Only the place of each in the file is held. A collection that another program laid out otherwise is held whole.

    Parameters
    ----------
    path
        The file, of either kind.
    localised
        What is done to each scan that is taken.
    naming
        Names of the imager.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """

    def __init__(
        self, path: Path, localised: Callable[[Scan], Scan] = lambda scan: scan, naming: Naming = ABI_NAMES
    ) -> None:
        self.path = path
        self.naming = naming
        self._localised = localised
        self._items: ItemTable | _Lines = open_table(path) if is_table(path) else _Lines(path)
        self._held: dict[str, Scan] = {}
        first = next(iter(self._items.places), None)
        if first is None or self._taken(first).id != first:
            self._items.places.clear()
            self._held = {scan.id: scan for scan in load_items(path, naming)}
        self._get = lru_cache(_KEPT)(self._read)

    def _taken(self, name: str) -> Scan:
        return scan_of(self.path, self._items.item(self._items.places[name]), self.naming)

    def _read(self, name: str) -> Scan:
        return self._localised(self._held[name] if name in self._held else self._taken(name))

    def __getitem__(self, name: str) -> Scan:
        """Return a scan.

        Raises
        ------
        SourceError
            If there is none of this name, or its item describes none.
        """
        if name not in self:
            raise SourceError(f"scan {name} is not in {self.path}, which is not the list that the plan was made from")
        return self._get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._items.places or name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._items.places or self._held)

    def __len__(self) -> int:
        return len(self._items.places or self._held)

    def scans(self) -> Iterator[Scan]:
        """Yield all, in the order of the file, without keeping them."""
        return (self._read(name) for name in self)


class _Lines:
    """Items of an ItemCollection with one a line, by their place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, tuple[int, int]] = {}
        """By id: byte at which the line begins, and its length."""
        with guarded(f"{path} cannot be read", AGAIN), path.open("rb") as file:
            place = len(file.readline())
            for line in file:
                found = _ID.search(line)
                if found is not None:
                    self.places[found[1].decode()] = place, len(line)
                place += len(line)

    def item(self, place: tuple[int, int]) -> Any:
        """Read an item."""
        at, size = place
        with guarded(f"{self.path} is not JSON", AGAIN):
            with self.path.open("rb") as file:
                file.seek(at)
                line = file.read(size)
            return json.loads(line.rstrip().removesuffix(b","))
