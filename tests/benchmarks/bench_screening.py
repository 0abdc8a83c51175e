"""The look at each file of a full disk of full size, beyond its index, beside reading the file whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from catalog.geostationary.archives import LocalArchive
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.screen_file import record_of
from tests.benchmarks.abi_scan import Stretch, prepare
from tests.benchmarks.table import Row, compare, race


def rows(scratch: Path, quick: bool) -> list[Row]:
    """One comparison; ``quick`` means fewer turns."""
    prepare(scratch)
    turns = 2 if quick else 7
    found = race(
        {"look": (looked_at, {"scratch": scratch, "turns": turns}), "whole": (read_whole, {"scratch": scratch})},
        1 if quick else 3,
    )
    milliseconds, slowest = found["look"].result
    return [
        compare(
            "Screening",
            "the look at a file of a full disk, beyond its index; and reading it whole with h5py (Rad and DQF), CPU",
            milliseconds,
            found["whole"].result,
            "ms",
            target="ours <= 12",
            note=f"mean of 16 bands, each the median of {turns} turns; the slowest band {slowest:.1f} ms",
        )
    ]


def looked_at(scratch: str, turns: int) -> Stretch:
    """CPU time of the look, of the mean band and of the slowest, ms."""
    indexes = _indexes(Path(scratch))
    _milliseconds(indexes, lambda index: record_of(index, "scan"))  # imports, and tables that are kept
    yield
    spent = [_milliseconds(indexes, lambda index: record_of(index, "scan")) for _ in range(turns)]
    medians = np.median(spent, axis=0)
    return float(medians.mean()), float(medians.max())


def read_whole(scratch: str) -> Stretch:
    """CPU time of reading all of a file, of the mean band, ms."""
    indexes = _indexes(Path(scratch))
    yield
    return float(np.mean(_milliseconds(indexes, _whole)))


def _whole(index: FileIndex) -> None:
    with h5py.File(index.source.href) as file:
        for name in ("Rad", "DQF"):
            file[name][()]


def _indexes(scratch: Path) -> list[FileIndex]:
    return [index_file(source) for source in LocalArchive(scratch / "archive").files("goes16", "F", None, None)]


def _milliseconds(indexes: Sequence[FileIndex], work: Callable[[FileIndex], object]) -> list[float]:
    spent = []
    for index in indexes:
        begun = time.process_time()
        work(index)
        spent.append(1e3 * (time.process_time() - begun))
    return spent
