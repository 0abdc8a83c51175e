"""What is learned from and what is judged on share no pixel at one time, however their paths are spelt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from catalog.leaks import find_leaks
from loaders import held_out as tiles_apart
from loaders.cubes import CubeDataset
from loaders.windows import window_extents
from stratacube.errors import UsageError
from training.settings_data import CubeData, CubesData

__all__ = ["refuse_leaks", "refuse_leaks_of_cubes"]

refuse_leaks = partial(
    tiles_apart.refuse_leaks,
    remedy="set `data.split` to blocks that suit the build, or data.where and data.validation_where",
)


def refuse_leaks_of_cubes(
    cubes: CubesData,
    judged: Sequence[CubeData],
    train: Sequence[CubeDataset],
    held_out: Sequence[CubeDataset],
    *,
    strict: bool,
) -> None:
    """Refuse windows of cubes that overlap in space and time on both sides.

    Of cubes that do not say where they lie, one cube on both sides is refused.

    Raises
    ------
    UsageError
        If some do.
    """
    for learned, source in zip(train, cubes.cubes, strict=True):
        for other, target in zip(held_out, judged, strict=True):
            try:
                one, two = (window_extents(w.cube, w) for w in (learned, other))
                pairs = len(find_leaks(one, two, 0.0, 0.0))
            except UsageError:
                pairs = int(_same_place(source.path, target.path))
            if pairs:
                tiles_apart.tell_leaks(
                    f"windows of {source.path} and of {target.path} share pixels and times, and are both learned from"
                    " and judged on; give other cubes, or `data.split`",
                    strict=strict,
                )


def _same_place(one: str, other: str) -> bool:
    """Whether two paths or URLs are of one place, however they are spelt."""

    def whole(path: str) -> str:
        return path.rstrip("/") if "://" in path else os.path.realpath(path)

    return whole(one) == whole(other)
