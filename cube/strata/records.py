"""Records of systems on disk, by system then time: a year of them, some 15 million, fills a gigabyte.

They come file by file in any order. They are dealt to a fixed number of heaps by their system's number, each heap is
sorted in memory by itself, and all end in one file, of which the life of one system is one read. What stays in memory
is a few numbers a system.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cube.strata.labels import Ints, SystemSteps

__all__ = ["RecordFile", "RecordHeaps"]

HEAPS = 64
_HELD = 2**22
"""Bytes of records that wait in memory before they are dealt."""
_DTYPE = np.dtype(list(SystemSteps.kinds().items()))


class _Scratch:
    """A folder that goes with the last that holds this."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="stratacube-systems-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class RecordHeaps:
    """Takes records, and gives them back sorted."""

    def __init__(self) -> None:
        self._folder = _Scratch()
        self._waiting: list[npt.NDArray[np.void]] = []
        self._bytes = 0

    def add(self, steps: SystemSteps) -> None:
        """Take records."""
        if not len(steps):
            return
        rows = np.empty(len(steps), _DTYPE)
        for name in SystemSteps.kinds():
            rows[name] = getattr(steps, name)
        self._waiting.append(rows)
        self._bytes += rows.nbytes
        if self._bytes > _HELD:
            self._deal()

    def _deal(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting)
        heap = rows["system_id"] % HEAPS
        order = np.argsort(heap, kind="stable")
        edges = np.searchsorted(heap[order], np.arange(HEAPS + 1))
        for number in range(HEAPS):
            mine = order[edges[number] : edges[number + 1]]
            if len(mine):
                with self._heap(number).open("ab") as out:
                    rows[mine].tofile(out)
        self._waiting, self._bytes = [], 0

    def _heap(self, number: int) -> Path:
        return self._folder.path / f"heap-{number:02d}"

    def sorted(self) -> RecordFile:
        """All that was taken, by system then time; a system's record of a time that came twice once."""
        self._deal()
        path = self._folder.path / "records"
        ids, firsts, counts, before = [], [], [], 0
        with path.open("wb") as out:
            for number in range(HEAPS):
                heap = self._heap(number)
                if not heap.exists():
                    continue
                rows = np.fromfile(heap, _DTYPE)
                heap.unlink()
                rows = rows[np.lexsort((rows["time"], rows["system_id"]))]
                again = (rows["system_id"][1:] == rows["system_id"][:-1]) & (rows["time"][1:] == rows["time"][:-1])
                rows = rows[np.append(True, ~again)]
                rows.tofile(out)
                found, first, count = np.unique(rows["system_id"], return_index=True, return_counts=True)
                ids.append(found)
                firsts.append(first + before)
                counts.append(count)
                before += len(rows)
        joined = [np.concatenate([np.zeros(0, "i8"), *parts]).astype("i8") for parts in (ids, firsts, counts)]
        order = np.argsort(joined[0])
        return RecordFile(self._folder, path, *(column[order] for column in joined))


class RecordFile:
    """Records of systems, in a file that goes when this object does.

    Parameters
    ----------
    folder
        What holds it.
    path
        The file.
    system_id, first, count
        By system, ascending: its number, its first record and how many it has.
    """

    def __init__(self, folder: _Scratch, path: Path, system_id: Ints, first: Ints, count: Ints) -> None:
        self._folder, self._path = folder, path
        self.system_id, self.first, self.count = system_id, first, count

    def __len__(self) -> int:
        return int(self.count.sum())

    def life(self, system: int) -> SystemSteps:
        """Records of one system, by its place among the systems."""
        return self._read(int(self.first[system]), int(self.count[system]))

    def blocks(self, most: int = 1 << 16) -> Iterator[tuple[Ints, SystemSteps]]:
        """Yield the records of whole systems, some at a time, with the places of the systems that each is of."""
        order = np.argsort(self.first)
        ends = np.cumsum(self.count[order])
        begin, done = 0, 0
        while begin < len(order):
            stop = max(begin + 1, int(np.searchsorted(ends, done + most, side="right")))
            chosen = order[begin:stop]
            number = int(self.count[chosen].sum())
            yield np.repeat(chosen, self.count[chosen]), self._read(done, number)
            begin, done = stop, done + number

    def _read(self, first: int, number: int) -> SystemSteps:
        rows = np.fromfile(self._path, _DTYPE, number, offset=first * _DTYPE.itemsize)
        return SystemSteps(*(np.ascontiguousarray(rows[name]) for name in SystemSteps.kinds()))
