"""Scans by their id, read from a saved collection when they are asked for: a year of them fills gigabytes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.items import load_items, scan_from_item
from catalog.geostationary.naming import Naming
from catalog.geostationary.scans import Scan
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = ["ScanShelf"]

_ID = re.compile(rb'"id":"([^"]+)"')
_AGAIN = "remove it to list the archive again"
_KEPT = 256
"""Scans held at once. Tiles come in order of time, so that those around one moment are asked for again and again: these
are two hours of a mesoscale sector seen every 30 s."""


class ScanShelf:
    """The scans of a file that :func:`~catalog.geostationary.items.save_items` wrote, one item a line.

    Only the place of each in the file is held. A collection that another program laid out otherwise is held whole.

    Parameters
    ----------
    path
        The file.
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
        self._places: dict[str, tuple[int, int]] = {}
        self._held: dict[str, Scan] = {}
        self._index()
        self._get = lru_cache(_KEPT)(self._read)

    def _index(self) -> None:
        with guarded(f"{self.path} cannot be read", _AGAIN), self.path.open("rb") as file:
            place = len(file.readline())
            for line in file:
                found = _ID.search(line)
                if found is not None:
                    self._places[found[1].decode()] = place, len(line)
                place += len(line)
        if not self._places or not all(name == self._read(name).id for name in list(self._places)[:1]):
            self._places = {}
            self._held = {scan.id: scan for scan in load_items(self.path, self.naming)}

    def _read(self, name: str) -> Scan:
        if name in self._held:
            return self._localised(self._held[name])
        place, size = self._places[name]
        with guarded(f"{self.path} is not JSON", _AGAIN):
            with self.path.open("rb") as file:
                file.seek(place)
                line = file.read(size)
            item = json.loads(line.rstrip().removesuffix(b","))
        return self._localised(scan_from_item(item, self.naming))

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
        return name in self._places or name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._places or self._held)

    def __len__(self) -> int:
        return len(self._places or self._held)

    def scans(self) -> Iterator[Scan]:
        """Yield all, in the order of the file, without keeping them."""
        return (self._read(name) for name in self)
