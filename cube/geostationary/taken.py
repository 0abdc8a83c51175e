"""The tiles that a planner takes, packed: as objects a million of them fill ten gigabytes."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from catalog.geostationary.scans import Scan
from catalog.leaks import Extents
from cube.geostationary.grid import FixedGrid
from cube.geostationary.layout import TileLayout
from cube.geostationary.outline import footprint_ring
from cube.geostationary.plan_table import ROW_GROUP, PlanRows
from cube.geostationary.projections import distinct
from cube.strata.select import Placed
from cube.strata.streams import category_of
from cube.strata.windows import Frame

__all__ = ["Spot", "Taken"]

T = TypeVar("T")
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spot:
    """What the planner knows of a placed tile."""

    scan: Scan
    grid: FixedGrid
    row: int
    col: int
    frames: tuple[Frame, ...]
    start: int
    scores: tuple[float, ...]
    """By start of a window; as many for each tile of a build."""
    pixel: tuple[int, int]
    """Row and column of the pixel that holds the event: the tile lies about it as nearly as its corner may."""

    @property
    def scans(self) -> tuple[Scan, ...]:
        """The scans that its frames are cut from."""
        return tuple(f.scan for f in self.frames if f.scan is not None)

    @property
    def corner(self) -> tuple[float, float]:
        """Scan angles of its north-western corner, radians: x, y."""
        return self.grid.left + self.col * self.grid.dx, self.grid.top + self.row * self.grid.dy

    @property
    def content(self) -> bytes:
        """What tells the pixels and times of a tile: no two tiles of a store may share it."""
        # To a nanoradian: a thousandth of a pixel's fraction, and far above what adding up origins leaves behind.
        corner = [round(angle * 1e9) for angle in self.corner]
        # A digest, for that of every tile is held while tiles are drawn: all it stands for takes four times as much.
        return hashlib.blake2b(repr((corner, [s.id for s in self.scans])).encode(), digest_size=16).digest()


class Taken:
    """Placed tiles in the order in which they were taken, a number of each of their facts in a column of its own.

    What many tiles share (scans, grids, windows) is kept once.
    """

    def __init__(self) -> None:
        self._facts: dict[str, array[Any]] = {name: array(kind) for name, kind in _FACTS.items()}
        self._scores, self._details = array("d"), _Texts()
        self._scans, self._grids = _Distinct[Scan](), _Distinct[FixedGrid]()
        self._windows, self._systems = _Distinct[_Window](), _Distinct[tuple[int | None, Any]]()
        self._words = _Distinct[str]()

    def append(self, placed: Placed[Spot]) -> None:
        """Take one more."""
        spot, candidate = placed.payload, placed.candidate
        x, y = spot.corner
        window = tuple((f.time, f.scan.id if f.scan else "") for f in spot.frames)
        system = candidate.system_id, candidate.details.get("event_id")
        facts = {
            "scan": self._scans.number(spot.scan.id, spot.scan),
            "grid": self._grids.number(spot.grid, spot.grid),
            "window": self._windows.number(window, _Window.of(spot.frames)),
            "system": self._systems.number(system, system),
            "stratum": self._words.number(candidate.stratum, candidate.stratum),
            "class": self._words.number(category_of(candidate), category_of(candidate)),
            "row": spot.row,
            "col": spot.col,
            "event_row": spot.pixel[0],
            "event_col": spot.pixel[1],
            "start": spot.start,
            "latitude": placed.latitude,
            "longitude": placed.longitude,
            "view_zenith": placed.view_zenith,
            "probability": candidate.probability,
            "weight": candidate.weight,
            "x_left": x,
            "y_top": y,
        }
        for name, fact in facts.items():
            self._facts[name].append(fact)
        self._scores.extend(spot.scores)
        told = {k: v for k, v in candidate.details.items() if isinstance(v, str | int | float)}
        self._details.append(json.dumps(told))

    def __len__(self) -> int:
        return len(self._details)

    @property
    def scans(self) -> list[Scan]:
        """Those that tiles are cut from, and those of their events; each once."""
        framed = {scan.id: scan for window in self._windows.values for scan in window.scans if scan is not None}
        return [*({scan.id: scan for scan in self._scans.values} | framed).values()]

    @property
    def framed(self) -> set[str]:
        """Ids of those that tiles are cut from."""
        return {scan.id for window in self._windows.values for scan in window.scans if scan is not None}

    def extents(self, side: float) -> Iterator[Extents]:
        """Yield what the tiles cover, in the order in which they were taken, some thousand at a time.

        Parameters
        ----------
        side
            Of a tile, in radians.
        """
        lasting = [window.lasting for window in self._windows.values]
        systems = [system or event for system, event in self._systems.values]
        for at in range(0, len(self), ROW_GROUP):
            facts = self._columns(slice(at, at + ROW_GROUP))
            corners = zip(facts["grid"].tolist(), facts["x_left"].tolist(), facts["y_top"].tolist(), strict=True)
            rings = [footprint_ring(self._grids.values[g].projection, x, y, side) for g, x, y in corners]
            first, last = zip(*(lasting[n] for n in facts["window"].tolist()), strict=True)
            of = [systems[n] for n in facts["system"].tolist()]
            yield Extents.of(rings, np.array(first, "M8[us]"), np.array(last, "M8[us]"), of)

    def rows(
        self,
        channels: Sequence[int],
        seeds: Mapping[str, int],
        layout: TileLayout,
        splits: npt.NDArray[np.str_] | None = None,
    ) -> PlanRows:
        """Rows of a plan: one a tile, in order of time, so that tiles of one scan share a shard.

        Parameters
        ----------
        channels
            Of the build.
        seeds
            By stratum; of others the first.
        layout
            Of the store.
        splits
            In the order in which the tiles were taken; None for no such column.
        """
        views = distinct(grid.projection for grid in self._grids.values)
        order = self._in_time()

        def block(at: int) -> pd.DataFrame:
            numbers = order[at : at + ROW_GROUP]
            facts = self._columns(numbers)
            windows = {n: self._windows.values[n].told(channels, layout) for n in set(facts["window"].tolist())}
            grids = [self._grids.values[n].projection for n in facts["grid"].tolist()]
            told = {
                "tile": np.arange(at, at + len(numbers)),
                **self._placed(facts, seeds),
                **self._of_window(numbers, facts, windows),
            }
            told["projection"] = [views.index(view) for view in grids]
            frame = pd.DataFrame({name: told[name] for name in _COLUMNS})
            if splits is not None:
                frame["split"] = splits[numbers].astype(object)
            return frame.assign(shard=frame["tile"] // layout.tiles_per_shard)

        return PlanRows(len(self), views, lambda: map(block, range(0, len(self), ROW_GROUP)))

    def _placed(self, facts: Mapping[str, npt.NDArray[Any]], seeds: Mapping[str, int]) -> dict[str, Any]:
        """Columns that tell where and when tiles lie, and why."""
        scans, systems, words = self._scans.values, self._systems.values, self._words.values
        of_scan = [scans[n] for n in facts["scan"].tolist()]
        system = [systems[n][0] for n in facts["system"].tolist()]
        strata = [words[n] for n in facts["stratum"].tolist()]
        places = zip(of_scan, facts["row"].tolist(), facts["col"].tolist(), system, strict=True)
        return {
            **facts,
            "tile_id": [_name(*place) for place in places],
            "stratum": strata,
            "platform": [scan.platform for scan in of_scan],
            "sector": [scan.sector for scan in of_scan],
            "event_time": np.array([scan.start for scan in of_scan], "M8[us]"),
            "event_scan": [scan.id for scan in of_scan],
            "class": [words[n] for n in facts["class"].tolist()],
            "seed": [seeds.get(name, next(iter(seeds.values()))) for name in strata],
            "system_id": pd.array(system, "Int64"),
        }

    def _of_window(
        self, numbers: Ints, facts: Mapping[str, npt.NDArray[Any]], windows: Mapping[int, Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Columns that tell of the steps of tiles, and what else is known of them."""
        scores = np.frombuffer(self._scores, "f8").reshape(len(self), -1)[numbers]
        framed = [windows[n] for n in facts["window"].tolist()]
        return {
            "score": scores[np.arange(len(numbers)), facts["start"]],
            "rank": numbers,
            **{name: [told[name] for told in framed] for name in ("requested_times", "scan_ids", "scan_starts")},
            "missing": [told["missing"] for told in framed],
            "details": [self._details[n] for n in numbers.tolist()],
            "window_start": facts["start"],
            "window_scores": [*scores],
        }

    def _columns(self, numbers: Ints | slice) -> dict[str, npt.NDArray[Any]]:
        """Facts of some tiles."""
        found = {name: np.frombuffer(fact, fact.typecode)[numbers] for name, fact in self._facts.items()}
        return {name: fact if fact.dtype.kind == "f" else fact.astype("i8") for name, fact in found.items()}

    def _in_time(self) -> Ints:
        """Numbers of the tiles by the start and id of their scans, and by row and column."""
        scans = self._scans.values
        ranks = np.empty(len(scans), "i8")
        ranks[sorted(range(len(scans)), key=lambda n: (scans[n].start, scans[n].id))] = np.arange(len(scans))
        col, row, scan = (np.frombuffer(self._facts[name], "i4") for name in ("col", "row", "scan"))
        order: Ints = np.lexsort((col, row, ranks[scan]))
        return order


_FACTS = {
    **dict.fromkeys(("scan", "grid", "window", "system", "stratum", "class"), "i"),
    **dict.fromkeys(("row", "col", "event_row", "event_col", "start"), "i"),
    **dict.fromkeys(("latitude", "longitude", "view_zenith", "probability", "weight", "x_left", "y_top"), "d"),
}
"""Of a tile; whole numbers of the first line count distinct values."""


_COLUMNS = (
    *("tile", "tile_id", "stratum", "platform", "sector", "event_time", "event_scan"),
    *("latitude", "longitude", "view_zenith", "projection", "x_left", "y_top", "row", "col", "event_row", "event_col"),
    *("probability", "score", "weight", "class", "rank", "seed", "system_id"),
    *("requested_times", "scan_ids", "scan_starts", "missing", "details", "window_start", "window_scores"),
)
"""Of a plan, in this order; ``split``, if there is one, and ``shard`` follow."""


class _Window(NamedTuple):
    """Steps of a tile: times asked for, and the scans that are nearest to them."""

    times: tuple[datetime, ...]
    scans: tuple[Scan | None, ...]

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> _Window:
        return cls(tuple(f.time for f in frames), tuple(f.scan for f in frames))

    @property
    def lasting(self) -> tuple[datetime, datetime]:
        """When its first and last frames were seen, or are asked for where there is no scan."""
        seen = [scan.start if scan else time for time, scan in zip(*self, strict=True)]
        return min(seen), max(seen)

    def told(self, channels: Sequence[int], layout: TileLayout) -> dict[str, Any]:
        """What a plan tells of it."""
        starts = [np.datetime64(s.start, "us") if s else np.datetime64("NaT", "us") for s in self.scans]
        return {
            "requested_times": np.array([np.datetime64(time, "us") for time in self.times]),
            "scan_ids": [scan.id if scan else "" for scan in self.scans],
            "scan_starts": np.array(starts),
            "missing": [
                f"{layout.band(channel).name}@{step}"
                for step, scan in enumerate(self.scans)
                for channel in channels
                if scan is None or channel not in scan.files
            ],
        }


class _Distinct(Generic[T]):
    """Values that many tiles share, each once, and numbered."""

    def __init__(self) -> None:
        self.values: list[T] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable, value: T) -> int:
        """Number of what a key tells; the value is kept if it is the first of it."""
        number = self._numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class _Texts:
    """Texts one after the other, of which each as an object of its own would take half as much again."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self._bytes += text.encode()
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()


def _name(scan: Scan, row: int, col: int, system: int | None) -> str:
    """Name of a tile."""
    name = f"{scan.platform}_{scan.sector}_{scan.start:%Y%m%dT%H%M%S}_r{row:05d}_c{col:05d}"
    return name if system is None else f"{name}_s{system}"
