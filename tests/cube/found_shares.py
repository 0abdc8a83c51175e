"""How many of the bad scans that a seed makes are found: whole files, and few rows of the pixels that a tile uses.

``SEEDS=1000:1100 python -m pytest -s -m long tests/cube/test_found_shares.py`` prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cube.geostationary.grid import Window
from cube.geostationary.index import index_file
from cube.geostationary.screen_file import FileRecord, record_of
from cube.geostationary.screen_rules import judge, neighbours
from cube.geostationary.screen_tiles import fault_in
from cube.geostationary.screening import ScreenTask
from tests.cube.bad_scans import FEW, KINDS, SHAPE, TURNED, Images, few_spoilt, images_of, intact, source_of, spoiled

__all__ = ["LARGE", "SMALL", "Trial"]

LARGE = {
    "all fill": ("all fill",),
    "a band of fill": ("a band of fill",),
    "placeholder times": ("placeholder times",),
    "rows repeated": ("stuck rows", "doubled rows"),
    "striped": ("striped",),
    "shifted": ("moved rows", "rolled"),
    "saturated": ("saturated",),
    "noise": ("noise",),
    "DQF against Rad": ("counts that flags deny", "fill that flags call good"),
    "another band's content": ("another band",),
    "another time's": ("another time",),
    "truncated": ("truncated",),
    "turned round": ("upside down", "mirrored"),
}
"""What spoils 5 % of the rows or more, in the ways that seeds take in turn."""
SMALL = {
    name: tuple(way for way in ways if way in KINDS)
    for name, ways in LARGE.items()
    if name != "all fill" and set(ways) & set(KINDS)
}
"""What may spoil a few rows."""
_CHANNEL, _OTHER, _TOP = 13, 8, 4094


@dataclass(frozen=True)
class Trial:
    """The scans of a seed: three of two bands, ten minutes apart, the second of which is spoilt."""

    folder: Path
    seed: int
    images: Images
    records: dict[tuple[int, int], FileRecord]

    @classmethod
    def of(cls, folder: Path, seed: int) -> Trial:
        """Write the intact files."""
        paths = {
            (c, m): intact(folder / f"{c}-{m}", seed, m, channel=c) for c in (_CHANNEL, _OTHER) for m in (0, 10, 20)
        }
        records = {key: record_of(index_file(source_of(path)), path.name) for key, path in paths.items()}
        return cls(folder, seed, images_of(paths[_CHANNEL, 10]), records)

    def false_alarms(self) -> int:
        """Files that are taken for bad as they are."""
        return sum(self._is_found(record, minute) for (_, minute), record in self.records.items())

    def finds(self, kind: str) -> bool:
        """Whether the scan is found that is spoilt in one of the ways of a kind."""
        way = LARGE[kind][self.seed % len(LARGE[kind])]
        path = self._spoilt(way, self.folder / way)
        task = ScreenTask(source_of(path), path.name, (0, 1), False, self.folder / "index")
        return self._is_found(task.look(), 10)

    def finds_few(self, kind: str) -> bool:
        """Whether a few rows are found in the pixels of a tile of 64 to 256, wherever in it they lie."""
        way = SMALL[kind][self.seed % len(SMALL[kind])]
        rng = np.random.default_rng([self.seed, sorted(KINDS).index(way)])
        side = int(rng.choice([64, 128, 256]))
        top, left = (int(rng.integers(0, SHAPE[0] - side)) for _ in range(2))
        first = int(rng.integers(top + 5, top + min(side, 128) - FEW - 5))
        chunk = slice(0, 250) if left + side // 2 < 250 else slice(250, 500)
        cols = chunk if way == "a band of fill" else slice(None)
        counts, flags = few_spoilt(self.images, way, self.seed, slice(first, first + FEW), cols)
        part = np.s_[top : top + min(side, 128), left : left + side]
        index = index_file(source_of(next((self.folder / f"{_CHANNEL}-10").rglob("*.nc"))))
        return fault_in(index, Window(top, left, min(side, 128), side), counts[part], flags[part]) is not None

    def _is_found(self, record: FileRecord, minute: int) -> bool:
        near = [m for m in (0, 10, 20) if m != minute]
        channel, other = record.channel, _OTHER if record.channel == _CHANNEL else _CHANNEL
        others = neighbours(record, [self.records[channel, m] for m in near])
        foreign = [[self.records[other, m]] for m in near] if len(others) == len(near) else []
        return judge(record, others, foreign).word == "unfit"

    def _spoilt(self, way: str, folder: Path) -> Path:
        rng = np.random.default_rng([self.seed, *way.encode()])
        if way in KINDS:
            return spoiled(folder, self.images, way, self.seed, 10)
        counts, flags = self.images
        if way in TURNED:
            counts, flags = (np.ascontiguousarray(TURNED[way](rng, image)) for image in self.images)
        elif way == "another band":
            counts, flags = images_of(next((self.folder / f"{_OTHER}-10").rglob("*.nc")))
        elif way == "another time":
            hours = float(rng.integers(3, 48))
            counts, flags = images_of(intact(folder / "then", self.seed, 10 - 60 * hours, channel=_CHANNEL))
        path = intact(folder, self.seed, 10, channel=_CHANNEL, counts=counts, dqf=flags)
        return {"placeholder times": _placeholder, "truncated": _truncated}.get(way, lambda p, _: p)(path, rng)


def _placeholder(path: Path, _: np.random.Generator) -> Path:
    """A file whose name and times tell one moment for start and end."""
    start, end = (path.name.split(f"_{mark}")[1][:14] for mark in "se")
    named = path.rename(path.with_name(path.name.replace(f"_e{end}", f"_e{start}")))
    with h5py.File(named, "r+") as h5:
        h5.attrs["time_coverage_end"] = h5.attrs["time_coverage_start"]
        h5["t"][()] = h5["time_bounds"][0]
        h5["time_bounds"][1] = h5["time_bounds"][0]
    return named


def _truncated(path: Path, rng: np.random.Generator) -> Path:
    """A file that was cut somewhere."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng.uniform(0.02, 0.99))])
    return path


def trials(folder: Path, seeds: Iterable[int]) -> Iterator[Trial]:
    """The trials of some seeds, one after the other."""
    for seed in seeds:
        yield Trial.of(folder / str(seed), seed)
