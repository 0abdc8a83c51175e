"""The convection stratum: tiles on cloud systems that others found and tracked."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import GeosProjection
from cube.strata.base import Candidate, Problem, SampleRequest
from cube.strata.systems import SLOTS, SystemTable, read_systems, seen_from
from stratacube.errors import SourceError, UnavailableError, UsageError

__all__ = ["ConvectionSampler"]


class ConvectionSampler:
    """Proposes cloud systems in seeded random order, each with the same chance.

    A candidate lies at the system's anchor, a pixel inside it. Of the systems' records, those count whose
    time is in the period, whose anchor is in the box given, in the box of a satellite that has scans (the
    nearer of two) and within the view zenith limit; ``probability`` is ``num_tiles`` over their number, at
    most 1. ``platform`` is that of the scan nearest in time in that satellite's slot. ``details`` has
    ``system_pixels``, the pixel count by time over the system's life.

    Parameters
    ----------
    request : SampleRequest
        What is wanted.
    masks : str
        Glob of the mask files.
    records : {"middle", "all"}
        One record a system, at the middle time step of its life, or one a system and time step.
    box : tuple of float, optional
        West, south, east, north in degrees; west may exceed east, across the antimeridian.

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
        records: Literal["middle", "all"] = "middle",
        box: tuple[float, float, float, float] | None = None,
    ) -> None:
        if records not in ("middle", "all"):
            raise UsageError(f'Records are "middle" (one a system) or "all" (one a time step), not "{records}".')
        if box and not -90 <= box[1] < box[3] <= 90:
            raise UsageError(f"The box {box} is not west, south, east, north in degrees: south must be below north.")
        self.request = request
        self.records = records
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
        index, slots = self._eligible()
        chance = 1.0
        if self.request.num_tiles is not None:
            chance = min(1.0, self.request.num_tiles / len(index))
        longitude, latitude = self.table.places(index)
        longitude = (longitude + 180.0) % 360.0 - 180.0
        times = self.table.steps.time[index]
        for i in np.random.default_rng(self.request.seed).permutation(len(index)).tolist():
            time: datetime = times[i].item()
            yield Candidate(
                time=time,
                latitude=float(latitude[i]),
                longitude=float(longitude[i]),
                stratum=self.stratum,
                weight=1.0,
                probability=chance,
                platform=self._nearest_platform(str(slots[i]), time),
                system_id=int(self.table.steps.system_id[index[i]]),
                details={"system_pixels": self.table.pixels_by_time(int(index[i]))},
            )

    def write_tables(self, directory: Path) -> list[Path]:
        """Write the metadata and lifetimes of all systems in the masks, as SatVision-Pix4D does."""
        return [
            self.table.write_metadata_csv(directory, self.records),
            self.table.write_lifetimes_csv(directory),
        ]

    def _eligible(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.str_]]:
        """Find the records that satisfy the limits, and the slot that sees each."""
        request = self.request
        index = self.table.records(self.records)
        time = self.table.steps.time[index]
        keep = np.ones(len(index), bool)
        if request.start is not None:
            keep &= time >= np.datetime64(request.start)
        if request.end is not None:
            keep &= time <= np.datetime64(request.end)
        index = self._some(index[keep], f"in the period {request.start} to {request.end}")
        if self.box:
            west, south, east, north = self.box
            longitude, latitude = self.table.places(index)
            width = 360.0 if east - west >= 360.0 else (east - west) % 360.0
            keep = ((longitude - west) % 360.0 <= width) & (latitude >= south) & (latitude <= north)
            index = self._some(index[keep], f"in the box {self.box}")
        longitude, latitude = self.table.places(index)
        slots = seen_from(longitude, latitude, sorted(self._scans))
        platforms = ", ".join(sorted({scan.platform for scan in request.scans}))
        keep = slots != ""
        index, slots = self._some(index[keep], f"in sight of {platforms}"), slots[keep]
        if request.max_view_zenith is not None:
            keep = self._view_zenith(index, slots) <= request.max_view_zenith
            limit = f"within the view zenith limit of {request.max_view_zenith:g} degrees of {platforms}"
            index, slots = self._some(index[keep], limit), slots[keep]
        return index, slots

    def _some(self, index: npt.NDArray[np.int64], where: str) -> npt.NDArray[np.int64]:
        if len(index):
            return index
        times = self.table.steps.time
        span = f"from {times.min()} to {times.max()}" if len(times) else "at no time"
        raise UsageError(
            f"None of the {len(self.table.first)} cloud systems, present {span}, is {where}: "
            "widen that limit or give other masks."
        )

    def _view_zenith(self, index: npt.NDArray[np.int64], slots: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
        longitude, latitude = self.table.places(index)
        zenith = np.full(len(index), np.inf)
        for slot, projection in self._projections.items():
            here = slots == slot
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
            try:
                projection = self.request.grid_of(scan).projection
            except UnavailableError:
                raise  # no fact about the scan
            except SourceError as error:
                self.problems.append(Problem(scan.id, str(error), replaced=True))
                continue
            here = projection.longitude_of_projection_origin
            slot = min(SLOTS, key=lambda name: abs((here - SLOTS[name].subpoint + 180.0) % 360.0 - 180.0))
            found[scan.platform] = (slot, projection)
        if not found:
            raise UsageError("No scan can be read, so nothing tells which satellite sees a system: check the archive.")
        return found
