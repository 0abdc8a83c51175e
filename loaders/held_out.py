"""What is learned from and what is judged on share no pixel at one time, however their paths are spelt: of tiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.leaks import Extents, find_leaks
from loaders.extents import tile_extents
from loaders.tiles import TileDataset
from stratacube.errors import SourceError, UsageError

__all__ = ["refuse_leaks", "tell_leaks"]

_log = logging.getLogger(__name__)

Times = npt.NDArray[np.datetime64]


def refuse_leaks(
    train: Sequence[TileDataset], held_out: Sequence[TileDataset], remedy: str, *, strict: bool = True
) -> None:
    """Refuse tiles that overlap in space and time, or are of one tracked system, on both sides.

    Parameters
    ----------
    train, held_out
        What is learned from and judged on.
    remedy
        What to set instead, in the words of who asks.
    strict
        Refuse; else warn, as where a run of an earlier version goes on or is judged again.

    Raises
    ------
    UsageError
        If some do.
    """
    sides = [_near(side, other) for side, other in ((train, held_out), (held_out, train))]
    numbered = [[(d.url, int(tile)) for d, tiles in side for tile in tiles] for side in sides]
    if not all(numbered):
        return
    try:
        one, two = (Extents.join([tile_extents(d.store, tiles) for d, tiles in side if len(tiles)]) for side in sides)
        pairs = [(leak.one, leak.other) for leak in find_leaks(one, two, 0.0, 0.0)]
    except SourceError:  # a store that does not say where its tiles lie: they may lie anywhere
        pairs = _at_one_time(*sides)
    if pairs:
        (here, learned), (there, judged) = (numbered[side][pairs[0][side]] for side in (0, 1))
        tell_leaks(
            f"{len({a for a, _ in pairs})} tiles learned from share pixels and times, or a system, with"
            f" {len({b for _, b in pairs})} judged on, such as tile {learned} of {here} with tile {judged} of"
            f" {there}; {remedy}",
            strict=strict,
        )


def tell_leaks(sentence: str, *, strict: bool) -> None:
    """Refuse, or warn."""
    if strict:
        raise UsageError(sentence)
    _log.warning("%s", sentence)


def _near(side: Sequence[TileDataset], others: Sequence[TileDataset]) -> list[tuple[TileDataset, Any]]:
    """Of each source the tiles whose times, or system, the other side touches: so few that places are found soon."""
    starts, ends = (np.concatenate(parts) for parts in zip(*map(_times, others), strict=True))
    order = np.argsort(starts)
    starts, latest = starts[order], np.maximum.accumulate(ends[order])
    systems = {name for other in others for name in _systems(other) if name}
    found = []
    for dataset in side:
        start, end = _times(dataset)
        before = np.searchsorted(starts, end, side="right")
        touched = (before > 0) & (latest[np.maximum(before, 1) - 1] >= start)
        of_system = np.array([name in systems for name in _systems(dataset)], dtype=bool)
        found.append((dataset, dataset.tiles[touched | of_system]))
    return found


def _times(dataset: TileDataset) -> tuple[Times, Times]:
    times = dataset.store.times()[dataset.tiles]
    return times.min(axis=1), times.max(axis=1)


def _systems(dataset: TileDataset) -> list[str]:
    table = dataset.store.table
    if "system_id" not in table:
        return [""] * len(dataset)
    return [
        "" if str(name) in ("", "0", "-1", "nan", "None", "<NA>") else str(name)
        for name in table["system_id"].to_numpy()[dataset.tiles]
    ]


def _at_one_time(
    one: Sequence[tuple[TileDataset, Any]], other: Sequence[tuple[TileDataset, Any]]
) -> list[tuple[int, int]]:
    spans = []
    for side in (one, other):
        times = [d.store.times()[tiles] for d, tiles in side]
        spans.append([(t.min(), t.max()) for part in times for t in part])
    return [(i, j) for i, (a, b) in enumerate(spans[0]) for j, (c, d) in enumerate(spans[1]) if a <= d and c <= b]
