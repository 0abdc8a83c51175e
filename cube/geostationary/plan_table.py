"""The plan as a table, one row a tile: written once, read in blocks, for a hundred thousand tiles fill a gigabyte."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet

from cube.geostationary.grid import GeosProjection
from cube.geostationary.projections import distinct
from cube.job.folder import RULES
from cube.job.ledger import Problem
from cube.strata.streams import Tally
from stratacube.choices import many
from stratacube.errors import SourceError
from stratacube.guard import guarded
from stratacube.inside import why_not_a_name
from stratacube.parquet import iter_frames, write_frames

__all__ = ["BLOCK", "ROW_GROUP", "Plan", "PlanRows", "PlanTable", "write_plan"]

BLOCK = 1024
"""Tiles read at once, and of one chunk of a store's small variables."""

ROW_GROUP = 4 * BLOCK
"""Tiles that lie together in the file: what has to be held of it while a block is read."""

_TEXT, _WHOLE, _NUMBER, _TIME = "text", "whole numbers", "numbers", "times"
_COLUMNS = {
    **dict.fromkeys(("tile_id", "stratum", "platform", "sector", "event_scan"), _TEXT),
    **dict.fromkeys(("tile", "row", "col", "window_start", "shard"), _WHOLE),
    **dict.fromkeys(("latitude", "longitude", "view_zenith", "x_left", "y_top", "probability"), _NUMBER),
    "event_time": _TIME,
    "requested_times": f"lists of {_TIME}",
    "scan_ids": f"lists of {_TEXT}",
}
"""What the columns hold that every plan has, and a build reads."""
_KINDS: dict[str, tuple[Callable[[pyarrow.DataType], bool], ...]] = {
    _TEXT: (pyarrow.types.is_string, pyarrow.types.is_large_string),
    _WHOLE: (pyarrow.types.is_integer,),
    _NUMBER: (pyarrow.types.is_floating,),
    _TIME: (pyarrow.types.is_timestamp,),
}


@dataclass(frozen=True)
class PlanRows:
    """Rows of a plan, made block by block when they are asked for."""

    number: int
    """How many there are."""
    projections: Sequence[GeosProjection]
    """The satellites' views that tiles are laid in, by their numbers in ``projection``."""
    blocks: Callable[[], Iterator[pd.DataFrame]]
    """Begins them anew: :data:`ROW_GROUP` rows each, and the rest."""

    @classmethod
    def of(cls, frame: pd.DataFrame, projections: Sequence[GeosProjection]) -> PlanRows:
        """Those of a table that is there as a whole."""
        starts = range(0, len(frame), ROW_GROUP)
        return cls(len(frame), projections, lambda: (frame.iloc[at : at + ROW_GROUP] for at in starts))

    def mapped(self, change: Callable[[pd.DataFrame], pd.DataFrame]) -> PlanRows:
        """The same rows, each block of them changed."""
        return replace(self, blocks=lambda: map(change, self.blocks()))

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Put them together; ``attrs["projections"]`` are the views."""
        parts = [block if columns is None else block[[*columns]] for block in self.blocks()]
        frame = pd.concat(parts, ignore_index=True)
        frame.attrs = self.attrs
        return frame

    @property
    def attrs(self) -> dict[str, Any]:
        """What travels with the rows."""
        return {"projections": [asdict(view) for view in self.projections]}


@dataclass
class Plan:
    """The tiles of a build, when they have just been chosen."""

    rows: PlanRows
    refused: Counter[str]
    """Candidates left out, by reason."""
    problems: list[Problem]
    """Inputs that could not be used."""
    time_means: str
    """What the times of events mean: see :attr:`cube.strata.plug.Stratum.time_means`; or ``mixed``."""
    tallies: list[Tally]
    """What was asked of each stratum and class, found and refused."""
    asked: int | None
    """How many tiles were asked for; None for all there are."""
    per_shard: int
    """Tiles of a shard of the store."""
    grown: tuple[int, ...] = ()
    """Tiles that it had, each time before it grew."""

    @property
    def tiles(self) -> pd.DataFrame:
        """All rows at once."""
        return self.rows.frame()


def write_plan(plan: Plan, path: Path) -> None:
    """Write ``plan.parquet``; what was refused travels in its metadata."""
    attrs = plan.rows.attrs | {
        "rules": RULES,
        "refused": json.dumps(plan.refused),
        "problems": json.dumps([asdict(p) for p in plan.problems]),
        "time_means": plan.time_means,
        "asked": plan.asked,
        "per_shard": plan.per_shard,
        "grown": list(plan.grown),
        "tallies": json.dumps([{**vars(t), "refused": dict(t.refused), "refused_at": []} for t in plan.tallies]),
    }
    write_frames(path, plan.rows.blocks(), attrs)


class PlanTable:
    """A written plan.

    Parameters
    ----------
    path
        ``plan.parquet``.
    projection_of
        By the scan of its event, the satellite's view a tile is laid in; for plans that do not tell it yet.

    Raises
    ------
    SourceError
        If it cannot be read.
    """

    def __init__(self, path: Path, projection_of: Callable[[str], GeosProjection] | None = None) -> None:
        self.path, self.projection_of = path, projection_of
        with self._guarded():
            with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
                self.tiles = int(file.metadata.num_rows)
                _refuse_other_columns(file.schema_arrow)
                self._tells = "projection" in file.schema_arrow.names
                attrs = json.loads((file.schema_arrow.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
            self.refused: Counter[str] = Counter(json.loads(attrs["refused"]))
            self.rules = int(attrs.get("rules", 1))
            """Version of the rules it was drawn by; 1 in 0.1.0."""
            told = json.loads(attrs["problems"])
            self.problems = [Problem(**p) if isinstance(p, dict) else Problem("source", p) for p in told]
            self._projections = [GeosProjection(**p) for p in attrs["projections"]] if self._tells else []
            self.time_means: str | None = attrs.get("time_means")
            """What the times of events mean; None in plans of before, which matched them with starts of scans."""
            self.asked: int | None = attrs.get("asked")
            """How many tiles were asked for; None for all there are, and in plans of before."""
            self._per_shard: int | None = attrs.get("per_shard")
            self.grown: tuple[int, ...] = tuple(attrs.get("grown", ()))
            """Tiles that it had, each time before it grew."""
            self.tallies = [
                Tally(**(t | {"refused": Counter(t["refused"])})) for t in json.loads(attrs.get("tallies", "[]"))
            ]

    def blocks(
        self, columns: Sequence[str] | None = None, rows: int = BLOCK, shards: Sequence[int] | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows in blocks, at least those of some shards where such are named.

        Raises
        ------
        SourceError
            If a block cannot be read, or a tile has a name that files cannot have.
        """
        for block in self._read(columns, rows, None if shards is None else ("shard", min(shards), max(shards))):
            for name in block.get("tile_id", ()):
                if why_not_a_name(str(name)):
                    raise SourceError(
                        f"{self.path} has a tile {str(name)!r}, which {why_not_a_name(str(name))}; "
                        "it is not a plan of ours: remove it to have it made again"
                    )
            if columns is None and not self._tells and self.projection_of is not None:
                block["projection"] = [self.projections.index(self.projection_of(s)) for s in block["event_scan"]]
            yield block

    def _guarded(self) -> AbstractContextManager[None]:
        return guarded(f"{self.path} is not the plan of a build", "remove it to have it made again")

    def _read(
        self, columns: Sequence[str] | None, rows: int, within: tuple[str, int, int] | None
    ) -> Iterator[pd.DataFrame]:
        if within is None and 0 < self.tiles <= min(rows, BLOCK):
            yield self._whole.filter([*self._whole] if columns is None else columns).copy()
        else:
            yield from self._read_blocks(columns, rows, within)

    @cached_property
    def _whole(self) -> pd.DataFrame:
        """All of a short plan, which a run goes through a score of times."""
        return pd.concat(self._read_blocks(None, self.tiles, None))

    def _read_blocks(
        self, columns: Sequence[str] | None, rows: int, within: tuple[str, int, int] | None
    ) -> Iterator[pd.DataFrame]:
        place: int | None = None
        with self._guarded():
            for block in iter_frames(self.path, rows, columns, within):
                place = block.index.start if place is None else place
                needed = block[[name for name in _COLUMNS if name in block]]
                if needed.isna().any(axis=None):
                    raise ValueError(f"a tile has no {needed.columns[needed.isna().any()][0]}")
                if "tile" in block and block["tile"].tolist() != [*range(place, place + len(block))]:
                    raise ValueError("its tiles are not numbered one after the other")
                place += len(block)
                yield block

    @cached_property
    def projections(self) -> list[GeosProjection]:
        """The satellites' views that tiles are laid in, by the numbers in ``projection``."""
        if self._tells or self.projection_of is None:
            return self._projections
        blocks = self.blocks(["event_scan"])
        return distinct(self.projection_of(scan) for block in blocks for scan in set(block["event_scan"]))

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return all rows."""
        frame = pd.concat(self.blocks(columns), ignore_index=True)
        frame.attrs = {}
        return frame

    @cached_property
    def per_shard(self) -> int:
        """Tiles of a shard of the store; plans of before tell it by their first shard alone."""
        if self._per_shard is not None:
            return self._per_shard
        return sum(int((block["shard"] == 0).sum()) for block in self.blocks(["shard"], shards=[0]))

    def cut_by_growth(self) -> dict[int, int]:
        """Shards that were made with fewer tiles than they are to have now, by how many that is."""
        of = self.per_shard
        return {n // of: min(of, self.tiles - n // of * of) for n in self.grown if n % of}

    def shards(self, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yield the number and the rows of each shard, or of some. Tiles of a shard follow one another."""
        rest: pd.DataFrame | None = None
        wanted = None if numbers is None else set(numbers)
        for block in self.blocks(shards=numbers) if wanted is None or wanted else ():
            mine = block if wanted is None else block[block["shard"].isin(wanted)]
            rows = mine if rest is None else pd.concat([rest, mine])
            last = block["shard"].iloc[-1]
            for shard, group in rows[rows["shard"] != last].groupby("shard"):
                yield int(shard), group
            rest = rows[rows["shard"] == last]
        if rest is not None and len(rest):
            yield int(rest["shard"].iloc[0]), rest

    @cached_property
    def shard_numbers(self) -> list[int]:
        """Numbers of all shards."""
        found: set[int] = set()
        for block in self.blocks(["shard"], 64 * BLOCK):
            found.update(block["shard"].tolist())
        return sorted(found)

    def shortage(self, wanted: int | None, remedy: str = "") -> str | None:
        """Say that fewer tiles were planned than asked for, if so, and what to change."""
        missing = (wanted or 0) - self.tiles
        if missing <= 0:
            return None
        refused = ", ".join(f"{reason} ({n})" for reason, n in self.refused.most_common(3)) or "none was left"
        of = [f"{t.name} {t.asked - t.found} of {t.asked}" for t in self.tallies if t.found < t.asked]
        which = f" ({', '.join(of)})" if len(self.tallies) > 1 and of else ""
        return f"{missing} of {wanted} tiles found no place{which}; candidates were left out for: {refused}{remedy}"

    @property
    def words(self) -> str:
        """How much it is."""
        return f"{many(self.tiles, 'tile')} in {many(len(self.shard_numbers), 'shard')}"

    @cached_property
    def framed(self) -> list[str]:
        """Ids of the scans that tiles are cut from, sorted."""
        found: set[str] = set()
        for block in self.blocks(["scan_ids"]):
            for names in block["scan_ids"]:
                found.update(names)
        return sorted(found - {""})

    def framed_of(self, shards: Sequence[int]) -> list[str]:
        """Ids of the scans that the tiles of some shards are cut from, sorted."""
        found, wanted = set[str](), set(shards)
        for block in self.blocks(["shard", "scan_ids"], shards=shards) if wanted else ():
            for names in block.loc[block["shard"].isin(wanted), "scan_ids"]:
                found.update(names)
        return sorted(found - {""})

    @cached_property
    def named(self) -> list[str]:
        """Ids of those scans and of the events', sorted."""
        found = set(self.framed)
        for block in self.blocks(["event_scan"]):
            found.update(block["event_scan"])
        return sorted(found)


def _refuse_other_columns(schema: pyarrow.Schema) -> None:
    """Refuse a table without a column of a plan's, or where it holds something else."""
    for name, wanted in _COLUMNS.items():
        kind = schema.field(name).type if name in schema.names else pyarrow.null()
        is_list = pyarrow.types.is_list(kind)
        tests = _KINDS[wanted.removeprefix("lists of ")]
        if is_list != wanted.startswith("lists of ") or not any(t(kind.value_type if is_list else kind) for t in tests):
            raise ValueError(f"its column {name} holds {kind if name in schema.names else 'nothing'}, not {wanted}")
