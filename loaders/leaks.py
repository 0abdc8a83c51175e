"""``python -m loaders.leaks ONE OTHER``: what two stores share in space and time; of one store, what its splits share.

Stores are tiles, composites or any other cubes, in any pair. Of a cube each window is a sample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stratacube.choices import many
from stratacube.command import Answer, Parser, add_common, run
from stratacube.errors import UsageError

if TYPE_CHECKING:
    from catalog.leaks import Extents, Leak
    from catalog.splits import SplitRule

__all__ = ["Samples", "leaks_of_stores", "main", "samples_of"]

_TOLD = 20
"""Leaks that are printed."""


@dataclass(frozen=True)
class Samples:
    """The samples of a store."""

    extents: Extents
    """What each covers."""
    names: Sequence[str]
    """What each is called: its tile, or its corner."""
    splits: npt.NDArray[np.str_]
    """The split of each; empty where the store tells none."""

    def of(self, split: str | None) -> npt.NDArray[np.int64]:
        """Numbers of those of a split; of all for None.

        Raises
        ------
        UsageError
            If there is no such split.
        """
        if split is None:
            return np.arange(len(self.names))
        if split not in self.splits:
            known = ", ".join(sorted({*self.splits.tolist()} - {""})) or "none"
            raise UsageError(f"no sample is of the split {split!r}; there are {known}")
        return np.flatnonzero(self.splits == split)


def samples_of(
    store: Any,
    window: int = 256,
    rule: SplitRule | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Samples:
    """Tell what the samples of a store cover.

    Parameters
    ----------
    store
        Path, URL or STAC object of tiles, of composites, or of a Zarr store with a variable a band.
    window
        Pixels along a side of the samples of a cube, each of one time; at its edges they overlap.
    rule
        By which the samples are split; None for the splits that a build tells.
    storage_options
        For fsspec.

    Raises
    ------
    UsageError
        If there is no store, or a cube does not say where it lies.
    SourceError
        If it cannot be read, or does not say where its tiles lie.
    """
    from loaders.cell_splits import cell_splits  # noqa: PLC0415  (--help does not wait for torch)
    from loaders.counting import open_any  # noqa: PLC0415
    from loaders.cubes import CubeDataset, images_of  # noqa: PLC0415
    from loaders.extents import tile_extents  # noqa: PLC0415
    from loaders.store import TileStore  # noqa: PLC0415
    from loaders.windows import window_extents  # noqa: PLC0415

    opened = open_any(store, dict(storage_options or {}))
    if isinstance(opened, TileStore):
        extents, table = tile_extents(opened), opened.table
        names = [str(name) for name in table["tile_id"]] if "tile_id" in table else [*map(str, range(len(opened)))]
        told = table["split"].astype(str).to_numpy() if "split" in table else np.full(len(names), "")
    else:
        image = [str(d) for d in images_of(opened, None)[1][0].dims if d != "band"][-2:]
        windows = CubeDataset(opened, {d: min(window, opened.sizes[d]) for d in image}, edges=True)
        extents, (first, _) = window_extents(opened, windows), windows.reach()
        names = [" ".join(f"{d} {n}" for d, n in zip(windows.dims, corner, strict=True)) for corner in first.tolist()]
        of_cells = cell_splits(store, windows, storage_options) if rule is None else None
        told = np.full(len(names), "") if of_cells is None else of_cells
    return Samples(extents, names, np.asarray(told, str) if rule is None else rule.assign(extents))


def leaks_of_stores(
    one: Samples,
    other: Samples | None = None,
    *,
    gap_km: float = 0.0,
    gap_hours: float = 0.0,
    splits: tuple[str | None, str | None] = (None, None),
) -> list[Leak]:
    """Find samples nearer than a gap in space and time, or of one system, on both sides.

    Parameters
    ----------
    one, other
        The samples; without the second those of all splits of the first against one another.
    gap_km, gap_hours
        Nearer than both leaks; of 0 what overlaps.
    splits
        Of each side the split that is looked at; None for all.

    Returns
    -------
    list of Leak
        By the numbers in both sets.

    Raises
    ------
    UsageError
        If a split is not there, or the only set tells none.
    """
    from catalog.leaks import find_leaks, leaks_between  # noqa: PLC0415

    if other is None:
        if not {*one.splits.tolist()} - {"", "gap"}:
            raise UsageError("the store tells no splits; give a second store, or the rule of `split_km` and the others")
        found = leaks_between(one.extents, one.splits, gap_km, gap_hours)
        return [leak for pairs in found.values() for leak in pairs]
    here, there = one.of(splits[0]), other.of(splits[1])
    leaks = find_leaks(one.extents.take(here), other.extents.take(there), gap_km, gap_hours)
    return [leak._replace(one=int(here[leak.one]), other=int(there[leak.other])) for leak in leaks]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 1 if anything leaks."""
    parser = Parser("python -m loaders.leaks", description=__doc__)
    parser.add_argument(
        "stores", nargs="+", metavar="STORE", help="one store or two: builds, Zarr stores; paths or URLs"
    )
    parser.add_argument("--gap-km", type=float, default=0.0, help="samples nearer than this in space,")
    parser.add_argument("--gap-hours", type=float, default=0.0, help="and than this in time, leak (0: what overlaps)")
    parser.add_argument(
        "--splits", nargs=2, metavar=("ONE", "OTHER"), help="of two stores, such as train val (default: all)"
    )
    parser.add_argument(
        "--window", type=int, default=256, help="pixels along a side of a cube's samples (default: 256)"
    )
    parser.add_argument("--split-km", type=float, help="split cubes by blocks of the Earth of so many kilometres")
    parser.add_argument("--split-hours", type=float, help="and of time, of so many hours")
    parser.add_argument("--anonymous", action="store_true", help="read object storage without credentials")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    if len(options.stores) > 2:
        raise UsageError(f"{len(options.stores)} stores are given; give one, or two")
    how = {"anon": True} if options.anonymous else None
    sides = [samples_of(store, options.window, _rule(options), how) for store in options.stores]
    splits = tuple(options.splits or (None, None))
    gap = {"gap_km": options.gap_km, "gap_hours": options.gap_hours}
    leaks = leaks_of_stores(sides[0], sides[1] if len(sides) > 1 else None, splits=splits, **gap)
    lines = [_told(leak, sides[0], sides[-1]) for leak in leaks[:_TOLD]]
    lines.append(f"{many(len(leaks), 'pair')} of {' and '.join(str(len(side.names)) for side in sides)} samples leak")
    return Answer(1 if leaks else 0, lines, [leak._asdict() for leak in leaks])


def _rule(options: argparse.Namespace) -> SplitRule | None:
    if options.split_km is None and options.split_hours is None:
        return None
    from catalog.splits import SplitRule  # noqa: PLC0415

    return SplitRule(options.split_km, options.split_hours, options.gap_km, options.gap_hours)


def _told(leak: Leak, one: Samples, other: Samples) -> str:
    system = f", both of system {leak.system}" if leak.system else ""
    sides = (f"{s.names[n]} {s.splits[n]}".rstrip() for s, n in ((one, leak.one), (other, leak.other)))
    return f"{' and '.join(sides)}: {leak.km:.1f} km and {leak.hours:.1f} hours apart{system}"


if __name__ == "__main__":
    sys.exit(main())
