"""The land-cover stratum: tiles of each class of land cover in shares that are asked for."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid
from cube.strata.base import Candidate, Problem, SampleRequest
from cube.strata.landcover.legends import shares_of
from cube.strata.landcover.places import ClassPlaces, classed
from cube.strata.landcover.raster import LandCover, open_landcover
from cube.strata.random import allowed_places
from cube.strata.shares import word
from cube.strata.turns import turns
from stratacube.errors import UsageError

__all__ = ["LandcoverSampler"]

_GRIDS_KEPT = 4
"""A full disk's classes take 150 MB; sectors that move have many grids, and are small."""


class LandcoverSampler:
    """Draws classes in turn by their shares, then a scan uniformly, then a place of the class in it.

    Classes that no tile is of are left out of the balance, unless they were asked for. No place of a scan is drawn
    twice. Each draw has random numbers of its own, from the seed, the class and the draw's rank in it, so that the
    first of many draws are those of few.

    ``details`` has ``class`` (its number), ``class_name``, ``class_share`` (of the tile's pixels), ``scan_id``, ``row``
    and ``col``. ``weight`` is 1. ``probability`` is the class's share of ``num_tiles``, over its places in the scan and
    over the scans that have it, at most 1; of a sector that moves, scans without the class are left out as they are
    found.

    Parameters
    ----------
    request : SampleRequest
        ``num_tiles`` must be given.
    landcover : str
        Glob of rasters.
    landcover_classes : sequence of str
        ``class`` or ``class=share``; all classes alike if empty.
    landcover_min_fraction : float, optional
        Share of its pixels by which a tile is of a class; None: a tile is of the class that most pixels are of.
    landcover_legend : str
        See :func:`cube.strata.landcover.legends.legend_of`.

    Raises
    ------
    UsageError
        No ``num_tiles``, no raster, or a class that it does not have.
    """

    stratum = "landcover"

    def __init__(
        self,
        request: SampleRequest,
        *,
        landcover: str,
        landcover_classes: Sequence[str] = (),
        landcover_min_fraction: float | None = None,
        landcover_legend: Literal["auto", "igbp", "worldcover", "numbers"] = "auto",
    ) -> None:
        if request.num_tiles is None:
            raise UsageError("the landcover stratum has no natural number of tiles; give `num_tiles`")
        self.request, self.least = request, landcover_min_fraction
        self.problems: list[Problem] = []
        self.cover: LandCover = open_landcover(landcover, landcover_legend)
        shares = shares_of(landcover_classes, self.cover.classes, self.cover.names)
        self.shares = {self.cover.classes.index(number): share for number, share in shares.items()}
        self._asked = bool(landcover_classes)
        self.quotas: dict[str, float] = {}
        self.class_shares: dict[str, float] = {}
        self._grids: OrderedDict[FixedGrid, ClassPlaces] = OrderedDict()

    def candidates(self) -> Iterator[Candidate]:
        """Yield candidates until no class has a place left.

        Raises
        ------
        UsageError
            No scan or no place, or none of a class that was asked for; raised at the first ``next``.
        """
        scans = [scan for scan in self.request.scans if self.request.in_period(scan.start)]
        if not scans:
            raise UsageError(
                f"No scan starts in the period {self.request.start} to {self.request.end}: widen the period."
            )
        draws = {code: self._draws(code, scans) for code in self.shares}
        first = {code: next(drawn, None) for code, drawn in draws.items()}
        absent = [self.name(code) for code, found in first.items() if found is None]
        if absent and (self._asked or len(absent) == len(first)):
            raise UsageError(self._why_absent(absent, scans))
        shares = {code: self.shares[code] for code, found in first.items() if found is not None}
        whole, wanted = sum(shares.values()), self.request.num_tiles or 0
        self.quotas = self.class_shares = {self.name(code): share for code, share in shares.items()}
        left = {code: itertools.chain([first[code]], draws[code]) for code in shares}
        for code in turns(shares):
            found = next(left[code], None)
            if found is None:
                del shares[code]
                if not shares:
                    return
                continue
            yield self._candidate(code, *found, wanted * self.shares[code] / whole)

    def write_tables(self, directory: Path) -> list[Path]:
        """Write the classes of the raster, with their names and shares."""
        path = directory / "landcover_classes.csv"
        codes = range(len(self.cover.classes))
        pd.DataFrame(
            {
                "class": self.cover.classes,
                "name": [self.name(code) for code in codes],
                "share": [self.shares.get(code, 0.0) for code in codes],
            }
        ).to_csv(path, index=False)
        return [path]

    def name(self, code: int) -> str:
        """Word for a class."""
        number = self.cover.classes[code]
        return word(self.cover.names[number]) if number in self.cover.names else str(number)

    def _draws(self, code: int, scans: Sequence[Scan]) -> Iterator[tuple[Scan, ClassPlaces, int, int, int]]:
        """Draw places of one class: the scan, its places, row and column, and how many scans there are of the class."""
        drawn: dict[str, set[int]] = {}
        lacking: set[int] = set()
        exhausted: set[int] = set()
        for rank in itertools.count():
            if len(exhausted) == len(scans):
                return
            rng = np.random.default_rng([self.request.seed, self.cover.classes[code] % 2**32, rank])
            which = int(rng.integers(len(scans)))
            if which in exhausted:
                continue
            scan = scans[which]
            found = self._classed(scan)
            taken = drawn.setdefault(scan.id, set())
            number = found.count(code) if found else 0
            if found is None or len(taken) == number:
                exhausted.add(which)
                lacking |= {which} if number == 0 else set()
                continue
            index = int(rng.integers(number))
            while index in taken:
                index = int(rng.integers(number))
            taken.add(index)
            yield scan, found, *found.origin(code, index), len(scans) - len(lacking)

    def _candidate(
        self, code: int, scan: Scan, found: ClassPlaces, row: int, col: int, scans: int, wanted: float
    ) -> Candidate:
        half = (self.request.tile_size - 1) / 2
        longitude, latitude = found.places.grid.lonlat(row + half, col + half)
        return Candidate(
            time=scan.start,
            latitude=float(latitude),
            longitude=float(longitude),
            stratum=self.stratum,
            weight=1.0,
            probability=min(1.0, wanted / found.count(code) / scans),
            platform=scan.platform,
            details={
                "class": int(self.cover.classes[code]),
                "class_name": self.name(code),
                "class_share": found.share(code, row, col),
                "scan_id": scan.id,
                "row": row,
                "col": col,
            },
        )

    def _classed(self, scan: Scan) -> ClassPlaces | None:
        """Places of a scan by class; None, with the problem noted, where it is damaged."""
        grid = self.request.readable_grid(scan, self.problems)
        if grid is None:
            return None
        if grid not in self._grids:
            request = self.request
            places = allowed_places(
                grid,
                request.tile_size,
                align=request.align,
                margin=request.margin,
                max_view_zenith=request.max_view_zenith,
                sector=scan.sector,
            )
            if len(self._grids) == _GRIDS_KEPT:
                self._grids.popitem(last=False)
            self._grids[grid] = classed(self.cover, places, list(self.shares), self.least)
        self._grids.move_to_end(grid)
        return self._grids[grid]

    def _why_absent(self, absent: Sequence[str], scans: Sequence[Scan]) -> str:
        if len(self.problems) == len(scans):
            return f"None of {len(scans)} scans can be read; the first, {scans[0].id}: {self.problems[0].message}"
        how = "the commonest class of no tile" if self.least is None else f"on {self.least:g} of the pixels of no tile"
        remedy = "give `landcover_min_fraction`" if self.least is None else "lower `landcover_min_fraction`"
        told = ", ".join(absent) if self._asked else "each class"
        return (
            f"{told} is {how} of sector {scans[0].sector} within the limits: {remedy}, name other `landcover_classes`, "
            "or choose another sector"
        )
