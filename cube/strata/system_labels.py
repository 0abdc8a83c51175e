"""Cloud systems under the pixels of tiles: their numbers and stages of life, in a tile's steps and after its last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cube.job.store import ArraySpec
from cube.registry import MASKS
from cube.strata.labelling import PlannedTiles
from cube.strata.labels import Floats, Ints
from cube.strata.masks import Image, MaskFile
from cube.strata.stages import STAGES, stage_of
from cube.strata.table import SystemTable, read_systems
from stratacube.errors import SourceError, UsageError

__all__ = ["SystemLabels"]

AHEAD = "_ahead"
"""What names of variables end in that hold what comes after the last step."""
NOTHING, UNKNOWN = 0, 255
"""Stages: of pixels without a system, and where no mask tells anything."""
_WITHIN = timedelta(minutes=10)
"""How far a mask's step may be from a tile's: half a step of SatVision-Pix4D's masks. Farther off, nothing is known."""


class _Tile(NamedTuple):
    """A tile, and when the masks' own steps are that it is labelled by; None where there is none."""

    row: Any
    times: dict[str, list[datetime | None]]
    """By what names of variables end in."""

    @property
    def first(self) -> datetime:
        return min((t for times in self.times.values() for t in times if t), default=datetime.max)


class SystemLabels:
    """Numbers of systems, and their stages of life, under each pixel of tiles.

    Parameters
    ----------
    tiles : PlannedTiles
        Of the store.
    masks : str
        Glob of the files of systems.
    system_labels : bool
        Whether the tiles' own steps are labelled.
    forecast_steps : int
        Steps after a tile's last that are labelled.
    forecast_step_minutes : int, optional
        Minutes between those; the masks' own step if not given.
    **_ : Any
        Options that say how systems are drawn.
    """

    def __init__(
        self,
        tiles: PlannedTiles,
        *,
        masks: str,
        system_labels: bool = False,
        forecast_steps: int = 0,
        forecast_step_minutes: int | None = None,
        **_: Any,
    ) -> None:
        self.tiles, self.masks, self.own, self.ahead = tiles, masks, system_labels, forecast_steps
        self.table: SystemTable | None = None
        self.minutes: list[float] = []
        if system_labels or forecast_steps:
            self.table, _problems = read_systems(masks)
            step = forecast_step_minutes or self.table.step_minutes
            self.minutes = [step * (i + 1) for i in range(forecast_steps)]

    def arrays(self) -> Mapping[str, ArraySpec]:
        """Describe the variables; none where none was asked for."""
        specs: dict[str, ArraySpec] = {}
        if self.own:
            specs |= self._specs("", "time", len(next(self._planned()).times[""]))
        if self.ahead:
            specs |= self._specs(AHEAD, "ahead", self.ahead)
            told = {"long_name": "minutes after a tile's last step", "units": "min"}
            specs["ahead_minutes"] = ArraySpec(("ahead",), (self.ahead,), "<f4", (self.ahead,), attributes=told)
        return specs

    def _specs(self, end: str, dimension: str, steps: int) -> dict[str, ArraySpec]:
        size = self.tiles.size
        shape, dims = (self.tiles.tiles, steps, size, size), ("tile", dimension, "y", "x")
        number = {"long_name": "number of the cloud system, 0 for none, -1 where no mask tells it"}
        stage = {
            "long_name": "quarter of its system's life",
            "flag_values": [NOTHING, *range(1, len(STAGES) + 1), UNKNOWN],
            "flag_meanings": " ".join(["none", *STAGES, "unknown"]),
        }
        chunk = (1, *shape[1:])
        return {
            f"system_number{end}": ArraySpec(dims, shape, "<i8", chunk, fill_value=-1, attributes=number),
            f"life_stage{end}": ArraySpec(dims, shape, "|u1", chunk, fill_value=UNKNOWN, attributes=stage),
        }

    def values(self) -> Iterator[tuple[str, int, npt.NDArray[Any]]]:
        """Label tile by tile in the order of their times, so that each file is read once."""
        if self.table is None:
            return
        if self.ahead:
            yield "ahead_minutes", 0, np.array(self.minutes, "f4")
        planned = sorted(self._planned(), key=lambda tile: (tile.first, tile.row.tile))
        shown = _Shown(self.table, {t for tile in planned for times in tile.times.values() for t in times if t})
        pixels = np.arange(self.tiles.size, dtype="f8")
        for tile in planned:
            shown.forget_before(tile.first)
            longitude, latitude = self.tiles.grid(tile.row).lonlat(pixels[:, None], pixels[None, :])
            for end, times in tile.times.items():
                numbers = np.full((1, len(times), *longitude.shape), -1, "i8")
                stages = np.full(numbers.shape, UNKNOWN, "u1")
                for step, time in enumerate(times):
                    if time is not None:
                        numbers[0, step] = shown.at(time).numbers(longitude, latitude)
                        stages[0, step] = self._stages(numbers[0, step], time)
                yield f"system_number{end}", tile.row.tile, numbers
                yield f"life_stage{end}", tile.row.tile, stages

    def _planned(self) -> Iterator[_Tile]:
        for block in self.tiles.blocks():
            for row in block[["tile", "x_left", "y_top", "projection", "requested_times"]].itertuples():
                wanted: list[datetime] = np.asarray(list(row.requested_times), "M8[us]").tolist()
                times = {"": [self._own_step(time) for time in wanted]} if self.own else {}
                if self.ahead:
                    later = [wanted[-1] + timedelta(minutes=minutes) for minutes in self.minutes]
                    times[AHEAD] = [self._own_step(time) for time in later]
                yield _Tile(row, times)

    def _own_step(self, time: datetime) -> datetime | None:
        """The masks' step that tells of a time."""
        table = self.table
        if table is None or not len(table.times):
            return None
        after = int(np.searchsorted(table.times, np.datetime64(time, "s")))
        near: list[datetime] = table.times[max(0, after - 1) : after + 1].tolist()
        best = min(near, key=lambda own: abs(own - time))
        return best if abs(best - time) <= _WITHIN else None

    def _stages(self, numbers: Ints, time: datetime) -> npt.NDArray[np.uint8]:
        """Stage of life of the system under each pixel."""
        table = self.table
        if table is None:
            raise AssertionError("there is nothing to label by")
        found, place = np.unique(numbers, return_inverse=True)
        known = np.searchsorted(table.file.system_id, found).clip(0, max(0, len(table) - 1))
        stages = np.full(len(found), UNKNOWN, "u1")
        stages[found == 0] = NOTHING
        there = found > 0
        if there.any():
            age: Floats = table.age_at(known[there], np.datetime64(time, "s"))
            stages[there] = 1 + stage_of(age)
        return np.asarray(stages[place].reshape(numbers.shape))


class _Shown:
    """What the files show at the times that are wanted, read file by file as they come."""

    def __init__(self, table: SystemTable, wanted: set[datetime]) -> None:
        self._table, self._wanted = table, wanted
        self._images: dict[datetime, Image] = {}

    def forget_before(self, time: datetime) -> None:
        """Let go of what no later tile wants."""
        self._images = {at: image for at, image in self._images.items() if at >= time}

    def at(self, time: datetime) -> Image:
        """What is shown at one of the files' own steps.

        Raises
        ------
        UsageError
            If files of this kind show no more than places.
        SourceError
            If the file does not show any more what it did.
        """
        if time not in self._images:
            file: MaskFile = self._table.file_at(time)
            images = getattr(MASKS.load(file.kind), "images", None)
            if images is None:
                raise UsageError(f"{file.path} tells where systems are, not of which pixels; leave the labels out")
            with MASKS.blamed(file.kind):
                self._images |= {image.time: image for image in images(file, self._wanted)}
        if time not in self._images:
            raise SourceError(f"{self._table.file_at(time).path} has no step at {time} any more; restore it")
        return self._images[time]
