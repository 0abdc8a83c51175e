"""What the report of a build of tiles shows: footprints, quotas, the archive's calendar, thumbnails, the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cube.geostationary.folder import AbiFolder
from cube.job.ledger import Entry
from cube.job.pictures import small, throughput
from cube.preview import sample
from cube.strata.streams import Tally
from stratacube.page import (
    MOST_RINGS,
    Block,
    Crowd,
    Gallery,
    Picture,
    Place,
    Shown,
    at_even_steps,
    bars,
    footprint_map,
)

__all__ = ["Drawn", "draw", "place_of", "quotas"]

_MOST_SMALL = 24

Ring = Callable[[int], npt.NDArray[np.float64]]
"""Longitude and latitude of a tile's outline, by its number."""


@dataclass(frozen=True)
class Drawn:
    """Pictures by what they show; each may be absent."""

    footprints: Picture | None = None
    quotas: Picture | None = None
    run: Picture | None = None
    thumbnails: Sequence[tuple[Picture, str]] = field(default_factory=tuple)

    def made(self) -> list[Block]:
        """What was made, for the report."""
        told = "Where the tiles lie, by stratum and split."
        blocks: list[Block] = [Shown(self.footprints, told)] if self.footprints else []
        return [*blocks, *([Gallery(self.thumbnails)] if self.thumbnails else [])]

    def save(self, folder: Path) -> None:
        """Write the drawings as files, for the catalogue names them."""
        for name in ("footprints", "quotas", "run"):
            picture = getattr(self, name)
            if picture is not None:
                picture.save(folder / f"{name}.svg")


def draw(
    folder: AbiFolder, made: pd.DataFrame, tallies: Sequence[Tally], entries: Mapping[str, Entry], ring: Ring
) -> Drawn:
    """Draw what there is.

    Parameters
    ----------
    folder
        Of the build, with its thumbnails.
    made
        Rows of the plan whose tile was made.
    tallies
        What was asked of each stratum.
    entries
        Of the ledger.
    ring
        Outlines of the tiles.
    """
    if made.empty:
        return Drawn(quotas=quotas(tallies))
    refused = np.array([place[:2] for tally in tallies for place in tally.refused_at]).reshape(-1, 2)
    outlines = len(made) <= MOST_RINGS
    shown = made if outlines else made.iloc[at_even_steps(len(made))]
    places = [place_of(row, ring if outlines else None) for row in shown.itertuples()]
    count = f"{len(made)} tiles of {made['stratum'].nunique()} strata"
    return Drawn(
        footprint_map(
            places,
            alt=f"Map of the footprints of {count}",
            refused=refused,
            crowd=None if outlines else _crowd(made),
        ),
        quotas(tallies),
        throughput((e for key, e in entries.items() if key.startswith("shard-")), "Tiles"),
        [*_thumbnails(folder.previews, made)],
    )


def _crowd(made: pd.DataFrame) -> Crowd:
    groups, splits = (made[name].value_counts() if name in made else {} for name in ("stratum", "split"))
    return Crowd(made[["longitude", "latitude"]].to_numpy(), len(made), dict(groups), dict(splits))


def place_of(row: object, ring: Ring | None) -> Place:
    """Footprint of a row of a plan; its middle where no outline is asked for."""
    told = f"{row.tile_id}\n{row.stratum}\n{pd.Timestamp(row.event_time):%Y-%m-%d %H:%M} UTC"  # type: ignore[attr-defined]
    middle = np.array([[row.longitude, row.latitude]])  # type: ignore[attr-defined]
    outline = middle if ring is None else ring(int(row.tile))  # type: ignore[attr-defined]
    return Place(outline, told, row.stratum, getattr(row, "split", ""))  # type: ignore[attr-defined]


def quotas(tallies: Sequence[Tally]) -> Picture | None:
    """Draw what was asked of each stratum and class, and found."""
    rows = [(t.name, t.found, t.asked, "given up" if t.gave_up and t.found < t.asked else "") for t in tallies]
    if not rows:
        return None
    found, asked = sum(row[1] for row in rows), sum(row[2] for row in rows)
    return bars(rows, alt=f"Tiles found of those asked for, by stratum and class: {found} of {asked}")


def _thumbnails(previews: Path, made: pd.DataFrame) -> Iterable[tuple[Picture, str]]:
    there = made[[(previews / f"{name}.png").exists() for name in made["tile_id"]]]
    for row in sample(there, _MOST_SMALL).itertuples() if len(there) else ():
        when = f"{pd.Timestamp(row.event_time):%Y-%m-%d %H:%M}"
        yield small(previews / f"{row.tile_id}.png", f"Tile {row.tile_id}"), f"{row.stratum}\n{when}"
