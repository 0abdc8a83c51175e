"""The CloudSat stratum: tiles about every so many profiles of the tracks that cross the sector."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid
from cube.strata.base import Candidate, Problem, SampleRequest, place_tile, refuse_too_large
from cube.strata.cloudsat.collocate import Parallax, Selection, Track, Transect, locate, reaches, transect
from cube.strata.cloudsat.find import aux_of, find_granules
from cube.strata.cloudsat.granule import Granule, read_granule
from cube.strata.merra2.files import Merra2
from stratacube.errors import SourceError, UnavailableError, UsageError

__all__ = ["CloudsatSampler"]

_READ_AT_ONCE = 32
"""Granules, of some megabytes."""


@dataclass(frozen=True)
class _Wish:
    """Which chips are wanted."""

    stride: int
    profiles: int
    selection: Selection
    parallax: Parallax
    valid: float
    cloud: bool


class CloudsatSampler:
    """Proposes a tile about every ``profile_stride``-th profile that can have one, in seeded random order.

    A candidate lies at its profile's place and time. ``details`` has ``granule`` (the file's name), ``orbit``,
    ``profile`` (its number in the granule, from 0), ``profiles`` and ``valid_profiles`` of the transect, and
    ``cloudy_share``, of the valid ones. ``probability`` is ``num_tiles`` over their number, at most 1.

    Parameters
    ----------
    request : SampleRequest
        What is wanted.
    cloudsat_root, cloudsat_aux_root, merra2_root : str
        Folders or globs of granules, and of MERRA-2's files.
    merra2_variables : sequence of str
        Variables of those.
    orbit, profile_stride, profiles_per_chip, profile_selection, parallax : Any
        See :class:`cube.strata.cloudsat.plug.CloudsatOptions`.
    min_cloudsat_valid_fraction, require_cloud : Any
        See there.

    Raises
    ------
    UsageError
        No granule, or none that can be read.
    """

    stratum = "cloudsat"

    def __init__(
        self,
        request: SampleRequest,
        *,
        cloudsat_root: str,
        cloudsat_aux_root: str | None = None,
        merra2_root: str | None = None,
        merra2_variables: Sequence[str] = (),
        orbit: int | None = None,
        profile_stride: int = 45,
        profiles_per_chip: int = 91,
        profile_selection: Selection = "fixed",
        parallax: Parallax = "surface",
        min_cloudsat_valid_fraction: float = 1.0,
        require_cloud: bool = False,
    ) -> None:
        self.request, self.problems = request, list[Problem]()
        self.wish = _Wish(
            profile_stride,
            profiles_per_chip,
            profile_selection,
            parallax,
            min_cloudsat_valid_fraction,
            require_cloud,
        )
        first, last = (s.start for s in (request.scans[0], request.scans[-1])) if request.scans else (None, None)
        start = max((t for t in (first, request.start) if t), default=None)
        end = min((t for t in (last, request.end) if t), default=None)
        self.granules = find_granules(cloudsat_root, start, end, orbit)
        if cloudsat_aux_root is not None:
            aux_of(cloudsat_aux_root)
        if merra2_root is not None:
            Merra2(merra2_root, merra2_variables)  # what cannot be read is told before a plan is made
        self.refused: Counter[str] = Counter()
        self._starts = [scan.start for scan in request.scans]
        self._found: list[Candidate] | None = None
        self._table: list[dict[str, Any]] = []

    def candidates(self) -> Iterator[Candidate]:
        """Yield one candidate a chip, each once.

        Raises
        ------
        UsageError
            No chip can be placed, with what stands in the way; raised at the first ``next``.
        """
        if self._found is None:
            self._found = self._collocate()
        order = np.random.default_rng(self.request.seed).permutation(len(self._found))
        yield from (self._found[i] for i in order.tolist())

    def write_tables(self, directory: Path) -> list[Path]:
        """Write the granules: profiles, those that are observations, and tiles that they could have."""
        path = directory / "cloudsat_granules.csv"
        columns = ["granule", "orbit", "start", "profiles", "valid", "centres", "tiles"]
        pd.DataFrame(self._table, columns=columns).to_csv(path, index=False)
        return [path]

    def _collocate(self) -> list[Candidate]:
        found: list[Candidate] = []
        unreadable = 0
        for path, granule in self._read():
            if isinstance(granule, SourceError):
                self.problems.append(Problem(str(path), str(granule)))
                unreadable += 1
                continue
            before, centres = len(found), self._centres(granule)
            for grid, scan, profiles in self._by_grid(granule, centres):
                found += self._placed(granule, grid, scan, profiles)
            self._table.append(
                {
                    "granule": granule.name,
                    "orbit": granule.orbit,
                    "start": granule.time[0],
                    "profiles": len(granule),
                    "valid": int(granule.valid.sum()),
                    "centres": len(centres),
                    "tiles": len(found) - before,
                }
            )
        if unreadable == len(self.granules):
            raise UsageError(f"none of {unreadable} granules can be read; the first: {self.problems[0].message}")
        if not found:
            told = ", ".join(f"{reason} ({n})" for reason, n in self.refused.most_common()) or "none lies in the period"
            raise UsageError(f"no tile can be placed about the profiles of {len(self.granules)} granules: {told}")
        chance = 1.0 if self.request.num_tiles is None else min(1.0, self.request.num_tiles / len(found))
        return [_with_probability(candidate, chance) for candidate in found]

    def _read(self) -> Iterator[tuple[Path, Granule | SourceError]]:
        """Read the granules in order, some at a time, on the workers there are."""
        executor, left = self.request.executor, iter(self.granules)
        while paths := list(itertools.islice(left, _READ_AT_ONCE)):
            read = map(_granule_or_why, paths) if executor is None else executor.map(_granule_or_why, paths)
            yield from zip(paths, read, strict=True)

    def _centres(self, granule: Granule) -> list[int]:
        """Profiles about which tiles may lie: every so many, in the period."""
        half = self.wish.profiles // 2 if self.wish.selection == "fixed" else 0
        profiles = np.arange(half, len(granule) - half, self.wish.stride)
        times = granule.time[profiles].astype("M8[us]").astype(object)
        chosen: list[int] = profiles[np.array([self.request.in_period(time) for time in times], bool)].tolist()
        return chosen

    def _by_grid(self, granule: Granule, profiles: Sequence[int]) -> Iterator[tuple[FixedGrid, Scan, list[int]]]:
        """Profiles by the grid of the scan nearest in time, and one scan of it."""
        groups: dict[FixedGrid, tuple[Scan, list[int]]] = {}
        nearest: dict[int, list[int]] = defaultdict(list)
        for profile in profiles:
            nearest[self._nearest(granule.time[profile].astype(datetime))].append(profile)
        for which, some in nearest.items():
            scan = self.request.scans[which]
            grid = self.request.readable_grid(scan, self.problems)
            if grid is None:
                self.refused["scan cannot be read"] += len(some)
                continue
            if grid not in groups:
                size, align, margin = self.request.tile_size, self.request.align, self.request.margin
                refuse_too_large(grid.shape, size, align=align, margin=margin, sector=scan.sector)
            groups.setdefault(grid, (scan, []))[1].extend(some)
        for grid, (scan, some) in groups.items():
            yield grid, scan, some

    def _nearest(self, time: datetime) -> int:
        after = bisect_left(self._starts, time)
        around = [i for i in (after - 1, after) if 0 <= i < len(self._starts)]
        return min(around, key=lambda i: abs(self._starts[i] - time))

    def _placed(self, granule: Granule, grid: FixedGrid, scan: Scan, profiles: Sequence[int]) -> Iterator[Candidate]:
        track = locate(granule, grid, self.wish.parallax)
        seen = track.seen
        size, align = self.request.tile_size, self.request.align
        for profile in profiles:
            if not seen[profile]:
                self.refused["not in sight of the satellite"] += 1
                continue
            place = float(granule.longitude[profile]), float(granule.latitude[profile])
            window = place_tile(grid, *place, size, align=align, margin=self.request.margin)
            if window is None:
                self.refused["tile not inside the sector and its margin"] += 1
                continue
            within = Track(track.row - window.row, track.col - window.col)
            found = transect(within, profile, size, self.wish.selection, self.wish.profiles)
            reason = self._why_not(granule, within, found)
            if reason:
                self.refused[reason] += 1
                continue
            yield self._candidate(granule, scan, profile, found)

    def _why_not(self, granule: Granule, track: Track, found: Transect) -> str | None:
        valid = granule.valid[found.first : found.end]
        if self.wish.selection == "chip" and not reaches(track, found, self.request.tile_size):
            return "profiles do not cross the tile from top to bottom"
        if not len(valid) or valid.mean() < self.wish.valid:
            return "fewer observations than `min_cloudsat_valid_fraction`"
        if self.wish.cloud and not (granule.layer_count[found.first : found.end] > 0).any():
            return "no cloud"
        return None

    def _candidate(self, granule: Granule, scan: Scan, profile: int, found: Transect) -> Candidate:
        valid = granule.valid[found.first : found.end]
        cloudy = granule.layer_count[found.first : found.end] > 0
        return Candidate(
            time=granule.time[profile].astype(datetime),
            latitude=float(granule.latitude[profile]),
            longitude=float(granule.longitude[profile]),
            stratum=self.stratum,
            weight=1.0,
            probability=1.0,
            platform=scan.platform,
            details={
                "granule": granule.name,
                "orbit": granule.orbit,
                "profile": profile,
                "profiles": found.end - found.first,
                "valid_profiles": int(valid.sum()),
                "cloudy_share": float(cloudy[valid].mean()) if valid.any() else 0.0,
            },
        )


def _granule_or_why(path: Path) -> Granule | SourceError:
    try:
        return read_granule(path)
    except UnavailableError:
        raise  # no fact about the granule
    except SourceError as error:
        return error


def _with_probability(candidate: Candidate, chance: float) -> Candidate:
    return candidate if chance == 1.0 else Candidate(**{**vars(candidate), "probability": chance})
