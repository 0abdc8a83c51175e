"""What the ABI benchmarks measure on: one full-disk scan of full size, and one tile of it."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import Scan, find_scans
from cube.geostationary.grid import Window
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.layout import TileLayout, TileSpec
from tests.benchmarks.table import MIB

__all__ = ["CHANNELS", "START", "Stretch", "prepare", "scan_of", "window_of"]

START = datetime(2020, 7, 1, 16, 0, 0, 300_000)
CHANNELS = tuple(range(1, 17))
PLACE = 3600, 4200
"""North-west pixel (row, column of the 1 km disk) of the single tile: cloudy land and sea on the Earth's disk."""
Stretch = Generator[None, None, Any]


def prepare(scratch: Path) -> None:
    """Write the scan and its references, once."""
    from cube.geostationary.references import write_references
    from cube.testing import write_abi_full_disk

    if not (scratch / "index").exists():
        shutil.rmtree(scratch, ignore_errors=True)
        write_abi_full_disk(scratch / "archive", start=START)
        files = scan_of(scratch).files.values()
        write_references([index_file(f, scratch / "index") for f in files], scratch / "references")
    warm(scratch)


def warm(scratch: Path) -> None:
    """Bring the files into the page cache: what is measured is the work, not the disk."""
    for file in scan_of(scratch).files.values():
        with open(file.href, "rb", buffering=0) as raw:
            while raw.read(16 * MIB):
                pass


def scan_of(scratch: Path) -> Scan:
    archive = LocalArchive(scratch / "archive")
    (scan,) = find_scans(archive, platform="goes16", sector="F", start=START - timedelta(1), end=START + timedelta(1))
    return scan


def window_of(index: FileIndex) -> Window:
    layout = TileLayout("1km", 512, 1, CHANNELS)
    left, top = index.grid.left, index.grid.top
    tile = TileSpec("", left + PLACE[1] * 28e-6, top - PLACE[0] * 28e-6, index.grid.projection)
    return layout.source_window(tile, index.grid, index.source.channel)[0]
