"""The convection stratum: tiles on cloud systems that others found and tracked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import GeosProjection
from cube.strata.base import Candidate, Problem, SampleRequest
from cube.strata.labels import SystemSteps
from cube.strata.stages import STAGES, SystemFilter, stage_of
from cube.strata.systems import SLOTS, seen_from
from cube.strata.table import Records, SystemTable, read_systems
from stratacube.errors import UsageError

__all__ = ["Chosen", "ConvectionSampler", "balanced"]


@dataclass(frozen=True)
class Chosen:
    """Records that may become candidates, by system then time."""

    steps: SystemSteps
    system: npt.NDArray[np.int64]
    """Place of each one's system in the table."""
    stage: npt.NDArray[np.int64]
    """Place of its stage among :data:`STAGES`."""
    slot: npt.NDArray[np.str_]
    """What sees it."""
    chance: npt.NDArray[np.float64]
    """With which it was drawn among the records of its system."""

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Chosen:
        """Return those of an index or a mask."""
        return Chosen(
            self.steps.take(index), self.system[index], self.stage[index], self.slot[index], self.chance[index]
        )


def balanced(chosen: Chosen, draw: np.random.Generator) -> Chosen:
    """One record a system: a stage that it has, each with the same chance, and one of the stage's records."""
    groups, group, records = np.unique(
        chosen.system * len(STAGES) + chosen.stage, return_inverse=True, return_counts=True
    )
    _, first, stages = np.unique(groups // len(STAGES), return_index=True, return_counts=True)
    picked = first + draw.integers(0, stages)
    begins = np.searchsorted(group, np.arange(len(groups)))  # records lie by system, then stage
    index = begins[picked] + draw.integers(0, records[picked])
    return replace(chosen.take(index), chance=1.0 / (stages * records[picked]))


class ConvectionSampler:
    """Proposes cloud systems in seeded random order, each with the same chance.

    A candidate lies at the system's anchor, a pixel inside it. Of the systems' records, those count whose
    time is in the period, whose anchor is in the box given, in the box of a satellite that has scans (the
    nearer of two) and within the view zenith limit; ``probability`` is ``num_tiles`` over their number, at
    most 1. ``platform`` is that of the scan nearest in time in that satellite's slot. ``details`` has
    ``system_pixels``, the pixel count by time at the masks' own steps within the request's reach of the event, 0 where
    the system is not there; not of tables that tell one time a system.

    Parameters
    ----------
    request : SampleRequest
        What is wanted.
    masks : str
        Glob of the mask files.
    records : {"middle", "all", "balanced"}
        One record a system, at the middle time step of its life; one a system and time step; or one a system, at a
        stage of its life that is drawn uniformly from those it has in the limits, at one of the stage's steps.
    limits : mapping, optional
        Of area, lifetime, stage and coldest top: what a :class:`cube.strata.stages.SystemFilter` has.
    box : tuple of float, optional
        West, south, east, north in degrees; west may exceed east, across the antimeridian.
    **_ : Any
        Options of the labels.

    Raises
    ------
    UsageError
        No usable mask, unknown ``records``, or a box upside down.
    """

    stratum = "convection"

    def __init__(
        self,
        request: SampleRequest,
        *,
        masks: str,
        records: Records = "middle",
        limits: Mapping[str, Any] | None = None,
        box: tuple[float, float, float, float] | None = None,
        **_: Any,
    ) -> None:
        if records not in get_args(Records):
            raise UsageError(
                f'Records are "middle" (one a system), "all" (one a time step) or "balanced" (one a system, at any '
                f'stage of life), not "{records}".'
            )
        if box and not -90 <= box[1] < box[3] <= 90:
            raise UsageError(f"The box {box} is not west, south, east, north in degrees: south must be below north.")
        self.request = request
        self.records = records
        self.wanted = SystemFilter(**(limits or {}))
        self.box = box
        self.table: SystemTable
        self.problems: list[Problem]
        self.table, self.problems = read_systems(masks, request.executor)

    def candidates(self) -> Iterator[Candidate]:
        """Yield one candidate a record, each once.

        Raises
        ------
        UsageError
            No record satisfies the limits; raised at the first ``next``.
        """
        chosen = self._eligible()
        draw = np.random.default_rng(self.request.seed)
        if self.records == "balanced":
            chosen = balanced(chosen, draw)
        chance = 1.0
        if self.request.num_tiles is not None:
            chance = min(1.0, self.request.num_tiles / len(chosen.steps))
        steps = chosen.steps
        longitude = (steps.longitude + 180.0) % 360.0 - 180.0
        for i in draw.permutation(len(steps)).tolist():
            time: datetime = steps.time[i].item()
            yield Candidate(
                time=time,
                latitude=float(steps.latitude[i]),
                longitude=float(longitude[i]),
                stratum=self.stratum,
                weight=1.0,
                probability=chance * float(chosen.chance[i]),
                platform=self._nearest_platform(str(chosen.slot[i]), time),
                system_id=int(steps.system_id[i]),
                details=self._details(int(chosen.system[i]), time),
            )

    def _details(self, system: int, time: datetime) -> dict[str, Any]:
        if not self.table.tells_presence:
            return {}
        return {"system_pixels": self.table.pixels_by_time(system, time, self.request.reach)}

    def write_tables(self, directory: Path) -> list[Path]:
        """Write the metadata and lifetimes of all systems in the masks, as SatVision-Pix4D does."""
        return [
            self.table.write_metadata_csv(directory, self.records),
            self.table.write_lifetimes_csv(directory),
        ]

    def told_by_masks(self) -> Chosen:
        """Find the records that satisfy the limits that no scan is needed for.

        Raises
        ------
        UsageError
            If none does.
        """
        request = self.request
        steps, system, age = self.table.records(self.records, self.wanted)
        chosen = Chosen(steps, system, stage_of(age), np.full(len(steps), "", "<U4"), np.ones(len(steps)))
        if self.wanted:
            self.some(chosen, f"of {self._asked}")
        keep = np.ones(len(steps), bool)
        if request.start is not None:
            keep &= steps.time >= np.datetime64(request.start)
        if request.end is not None:
            keep &= steps.time <= np.datetime64(request.end)
        chosen = self.some(chosen.take(keep), f"in the period {request.start} to {request.end}")
        if self.box:
            west, south, east, north = self.box
            longitude, latitude = chosen.steps.longitude, chosen.steps.latitude
            width = 360.0 if east - west >= 360.0 else (east - west) % 360.0
            keep = ((longitude - west) % 360.0 <= width) & (latitude >= south) & (latitude <= north)
            chosen = self.some(chosen.take(keep), f"in the box {self.box}")
        return chosen

    def _eligible(self) -> Chosen:
        """Find the records that satisfy the limits, and the slot that sees each."""
        request, chosen = self.request, self.told_by_masks()
        slots = seen_from(chosen.steps.longitude, chosen.steps.latitude, sorted(self._scans))
        platforms = ", ".join(sorted({scan.platform for scan in request.scans}))
        chosen = self.some(replace(chosen, slot=slots).take(slots != ""), f"in sight of {platforms}")
        if request.max_view_zenith is not None:
            keep = self._view_zenith(chosen) <= request.max_view_zenith
            limit = f"within the view zenith limit of {request.max_view_zenith:g} degrees of {platforms}"
            chosen = self.some(chosen.take(keep), limit)
        return chosen

    @property
    def _asked(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self.wanted).items() if value not in (None, (), []))

    def some(self, chosen: Chosen, where: str) -> Chosen:
        """Return records, if there are any; else say that none is where they were sought.

        Raises
        ------
        UsageError
            If there are none.
        """
        if len(chosen.steps):
            return chosen
        table = self.table
        span = f"from {table.start.min()} to {table.end.max()}" if len(table) else "at no time"
        raise UsageError(
            f"None of the {len(table)} cloud systems, present {span}, is {where}: widen that limit or give other masks."
        )

    def _view_zenith(self, chosen: Chosen) -> npt.NDArray[np.float64]:
        longitude, latitude = chosen.steps.longitude, chosen.steps.latitude
        zenith = np.full(len(longitude), np.inf)
        for slot, projection in self._projections.items():
            here = chosen.slot == slot
            zenith[here] = np.nan_to_num(projection.view_angles(longitude[here], latitude[here])[0], nan=np.inf)
        return zenith

    def _nearest_platform(self, slot: str, time: datetime) -> str:
        scans, starts = self._scans[slot]
        after = bisect_left(starts, time)
        around = [i for i in (after - 1, after) if 0 <= i < len(starts)]
        return scans[min(around, key=lambda i: abs(starts[i] - time))].platform

    @cached_property
    def _scans(self) -> dict[str, tuple[list[Scan], list[datetime]]]:
        """Scans and their starts by slot, each platform in the slot nearest to where it stands."""
        by_slot: dict[str, list[Scan]] = {}
        for scan in self.request.scans:
            if scan.platform in self._platforms:
                by_slot.setdefault(self._platforms[scan.platform][0], []).append(scan)
        return {slot: (scans, [scan.start for scan in scans]) for slot, scans in by_slot.items()}

    @cached_property
    def _projections(self) -> dict[str, GeosProjection]:
        return dict(self._platforms.values())

    @cached_property
    def _platforms(self) -> dict[str, tuple[str, GeosProjection]]:
        """Slot and projection by platform, from its first scan that can be read."""
        found: dict[str, tuple[str, GeosProjection]] = {}
        for scan in self.request.scans:
            if scan.platform in found:
                continue
            grid = self.request.readable_grid(scan, self.problems)
            if grid is None:
                continue
            projection = grid.projection
            here = projection.longitude_of_projection_origin
            slot = min(SLOTS, key=lambda name: abs((here - SLOTS[name].subpoint + 180.0) % 360.0 - 180.0))
            found[scan.platform] = (slot, projection)
        if not found:
            raise UsageError("No scan can be read, so nothing tells which satellite sees a system: check the archive.")
        return found
