"""The cloud-feature stratum: places drawn as at random, looked at, and taken by class in the shares asked for."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalog.geostationary.scans import Scan
from cube.geostationary.cloud_products import Products, find_products
from cube.geostationary.dialect import imager_of
from cube.geostationary.grid import FixedGrid, Window
from cube.strata.base import Candidate, Problem, SampleRequest
from cube.strata.clouds.definitions import SCHEMES, class_of, temperature_features, type_features
from cube.strata.clouds.infrared import under, window_bands
from cube.strata.random import Places, allowed_places
from cube.strata.shares import shares_among
from cube.strata.turns import turns
from stratacube.errors import SourceError, UnavailableError, UsageError

__all__ = ["CloudsSampler"]

_PRODUCT_PIXEL = 56e-6
"""Radians: products are looked up on pixels of 2 km."""


class CloudsSampler:
    """Looks at some places of one scan after the other, and yields those of each class in turn.

    A look is a scan drawn uniformly and ``cloud_places`` places in it, uniform in scan angle, with random numbers of
    its own from the seed and its rank; only what lies under those places is read. ``details`` has ``class_name`` and
    the features of the tile (:mod:`cube.strata.clouds.definitions`), ``scan_id``, ``row`` and ``col``. ``probability``
    is the class's share of ``num_tiles``, over its share of the places looked at so far and over all places of all
    scans: an estimate that gets better by the tile.

    Parameters
    ----------
    request : SampleRequest
        ``num_tiles`` must be given.
    cloud_products : str, optional
        Folder or glob of cloud products; without it the scans' own infrared bands are read.
    clouds_by : str, optional
        One of :data:`cube.strata.clouds.definitions.SCHEMES`.
    cloud_classes : sequence of str
        ``class`` or ``class=share``.
    cloud_places, cloud_looks : int
        See :class:`cube.strata.clouds.plug.CloudsOptions`.

    Raises
    ------
    UsageError
        No ``num_tiles``, a class that does not exist, or no products.
    """

    stratum = "clouds"

    def __init__(
        self,
        request: SampleRequest,
        *,
        cloud_products: str | None = None,
        clouds_by: str | None = None,
        cloud_classes: Sequence[str] = (),
        cloud_places: int = 8,
        cloud_looks: int = 40,
    ) -> None:
        if request.num_tiles is None:
            raise UsageError("the clouds stratum has no natural number of tiles; give `num_tiles`")
        self.request, self.places_a_look, self.looks = request, cloud_places, cloud_looks
        self.products: Products | None = None if cloud_products is None else find_products(cloud_products)
        self.scheme = clouds_by or ("level" if self.products is None else "type")
        known = {name: name for name in SCHEMES[self.scheme]}
        self.shares = shares_among(cloud_classes, known, "cloud_classes", f"by {self.scheme} there are")
        self._asked = bool(cloud_classes)
        self.quotas: dict[str, float] = {}
        self.class_shares: dict[str, float] = {}
        self.problems: list[Problem] = []
        self._places: dict[FixedGrid, Places] = {}
        self._seen: list[tuple[list[tuple[str, Candidate]], int, int]] = []

    def candidates(self) -> Iterator[Candidate]:
        """Yield candidates until every class is given up.

        Raises
        ------
        UsageError
            No scan, or a class that was asked for and is not found; raised at a ``next``.
        """
        request = self.request
        scans = [scan for scan in request.scans if request.in_period(scan.start)]
        if self.products is not None and scans:
            of_time = len(scans)
            scans = [scan for scan in scans if self.products.has_types(scan)]
            if not scans:
                raise UsageError(
                    f"`cloud_products` is {self.products.root}: none of {of_time} scans has both ACHA and COD there; "
                    "give products of the same times"
                )
        if not scans:
            raise UsageError(f"No scan starts in the period {request.start} to {request.end}: widen the period.")
        self._found, self._last, self._looked = Counter[str](), dict.fromkeys(self.shares, 0), 0
        self._waiting: dict[str, deque[Candidate]] = {name: deque() for name in self.shares}
        self._rank = 0
        shares = {name: share for name, share in self.shares.items() if self._search(name, scans)}
        absent = [name for name in self.shares if name not in shares]
        if absent and (self._asked or not shares):
            raise UsageError(self._why_absent(absent))
        self.quotas = self.class_shares = dict(shares)
        for name in turns(shares):
            if self._search(name, scans):
                yield self._chanced(self._waiting[name].popleft(), name, shares)
            else:
                del shares[name]

    def _search(self, name: str, scans: Sequence[Scan]) -> bool:
        """Look on until a place of a class waits; whether one does before too many looks were in vain."""
        while not self._waiting[name] and self._rank - self._last[name] < self.looks:
            some, number, places = self._look(self._rank, scans)
            self._rank, self._looked = self._rank + 1, self._looked + number
            for kind, candidate in some:
                self._found[kind] += 1
                self._last[kind] = self._rank
                if kind in self._waiting:
                    self._waiting[kind].append(self._weighed(candidate, places))
        return bool(self._waiting[name])

    def write_tables(self, directory: Path) -> list[Path]:
        """Write nothing: what was seen stays with the tiles."""
        return []

    def _why_absent(self, absent: Sequence[str]) -> str:
        if self.problems and not self._looked:
            return f"no scan could be looked at; the first, {self.problems[0].source}: {self.problems[0].message}"
        told = f"class {absent[0]} of `cloud_classes` is not" if self._asked else "no class is"
        return (
            f"{told} met at any of {self._looked} places of {self._rank} looks; "
            f"{'leave it out, ' if self._asked else ''}widen the period, or raise `cloud_looks`"
        )

    def _look(self, rank: int, scans: Sequence[Scan]) -> tuple[list[tuple[str, Candidate]], int, int]:
        """Places of one look and their classes, how many were looked at, and places of all scans; each look once."""
        while len(self._seen) <= rank:
            self._seen.append(self._look_anew(len(self._seen), scans))
        return self._seen[rank]

    def _look_anew(self, rank: int, scans: Sequence[Scan]) -> tuple[list[tuple[str, Candidate]], int, int]:
        rng = np.random.default_rng([self.request.seed, rank])
        scan = scans[int(rng.integers(len(scans)))]
        try:
            places = self._places_of(scan)
            if not places.count:
                raise UsageError(places.why_empty)
            drawn = sorted({places.draw(rng) for _ in range(self.places_a_look)})
            origins = [places.origin(index) for index in drawn]
            features = self._features(scan, places.grid, origins)
        except UnavailableError:
            raise  # no fact about the scan
        except SourceError as error:
            problem = Problem(scan.id, str(error), replaced=True)
            if problem not in self.problems:
                self.problems.append(problem)
            return [], 0, 0
        some = []
        for i in rng.permutation(len(origins)).tolist():
            kind = class_of(self.scheme, features[i])
            if kind is not None:
                some.append((kind, self._candidate(scan, places.grid, origins[i], kind, features[i])))
        return some, len(origins), places.count * len(scans)

    def _features(self, scan: Scan, grid: FixedGrid, origins: Sequence[tuple[int, int]]) -> list[dict[str, float]]:
        size = self.request.tile_size
        tiles = [grid.window(Window(row, col, size, size)) for row, col in origins]
        if self.products is not None:
            coarse = [tile.rescaled(_PRODUCT_PIXEL / tile.dx) for tile in tiles]
            return [type_features(types) for types in self.products.types(scan, coarse)]
        pixel = tiles[0].dx * tiles[0].projection.perspective_point_height / 1000.0
        seen = under(scan, tiles, self.request.endpoint_url)
        if self.scheme == "phase" and seen[0].difference is None:
            bands = window_bands(imager_of(scan.platform))
            names = " and ".join(bands[name].name for name in ("ice", "surface") if name in bands)
            raise UsageError(
                f"`clouds_by=phase` compares {names}, and scan {scan.id} lacks one: name both in `channels`"
            )
        return [temperature_features(one.window, one.difference, pixel * size / one.window.shape[0]) for one in seen]

    def _candidate(
        self, scan: Scan, grid: FixedGrid, origin: tuple[int, int], kind: str, features: dict[str, float]
    ) -> Candidate:
        half = (self.request.tile_size - 1) / 2
        longitude, latitude = grid.lonlat(origin[0] + half, origin[1] + half)
        told: dict[str, Any] = {name: round(value, 4) for name, value in features.items() if np.isfinite(value)}
        return Candidate(
            time=scan.start,
            latitude=float(latitude),
            longitude=float(longitude),
            stratum=self.stratum,
            weight=1.0,
            probability=1.0,
            platform=scan.platform,
            details={"class_name": kind, **told, "scan_id": scan.id, "row": origin[0], "col": origin[1]},
        )

    def _weighed(self, candidate: Candidate, places: int) -> Candidate:
        """Give a candidate the chance of one draw."""
        return Candidate(**{**vars(candidate), "probability": 1.0 / places})

    def _chanced(self, candidate: Candidate, name: str, shares: dict[str, float]) -> Candidate:
        share = self._found[name] / self._looked
        wanted = (self.request.num_tiles or 0) * shares[name] / sum(shares.values())
        return Candidate(**{**vars(candidate), "probability": min(1.0, wanted * candidate.probability / share)})

    def _places_of(self, scan: Scan) -> Places:
        request, grid = self.request, self.request.grid_of(scan)
        if grid not in self._places:
            self._places[grid] = allowed_places(
                grid,
                request.tile_size,
                align=request.align,
                margin=request.margin,
                max_view_zenith=request.max_view_zenith,
                sector=scan.sector,
            )
        return self._places[grid]
