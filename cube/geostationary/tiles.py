"""Cutting tiles: one task makes one shard of every band, reading each source chunk once.

Tiles are cut by inverting the map tile -> source chunks: for each file the union of the chunks that any tile of the
shard needs is read and decoded once, then scattered into the tiles.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import SourceFile
from cube.geostationary.counting import BandCounts, count_band, write_counts
from cube.geostationary.grid import Window
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.layout import Frame, TileLayout, TileSpec
from cube.geostationary.numbers import numbers_of, stored_factor, write_numbers
from cube.geostationary.read import ReadCount, stream_images
from cube.geostationary.resample import average, repeat
from cube.geostationary.screen_file import FileRecord
from cube.geostationary.screen_rules import told_unfit
from cube.geostationary.screen_tiles import fault_in
from cube.job.ledger import Problem
from cube.job.store import write_region
from stratacube.errors import SourceError
from stratacube.retry import call_again

__all__ = ["ShardResult", "ShardTask", "build_shard", "shard_key"]

T = TypeVar("T")

_S3_TRIES, _S3_PAUSE = 3, 1.0
"""Attempts at a file on S3, and seconds before the second: the client below has tried each request by itself."""
_STRIP = 128
"""Native rows brought to the grid at once: a multiple of every block of pixels that is averaged."""


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    shard: int
    first: int
    """Index of its first tile in the store."""
    tiles: tuple[TileSpec, ...]
    frames: tuple[Frame, ...]
    requested: tuple[tuple[np.datetime64, ...], ...]
    """By tile, the times asked for."""
    layout: TileLayout
    fills: Mapping[int, int]
    """Fill value of each channel in the store."""
    good_flags: tuple[int, ...]
    """DQF values whose pixels are valid."""
    store: Path
    numbers: Path
    """Where to put what the headers tell."""
    cache: Path | None = None
    endpoint_url: str | None = None
    min_valid: float = 0.0
    """Share of valid pixels below which a tile is a problem."""
    labels: tuple[str, ...] = ()
    """By tile, what its pixels are counted under; not counted if empty."""
    counts: Path | None = None
    """Where to put how often each count occurs."""
    screened: bool = False
    """Whether files are looked at once more, in the pixels that tiles are cut from."""

    @property
    def key(self) -> str:
        """Name in the ledger."""
        return shard_key(self.shard)


def shard_key(shard: int) -> str:
    """Name of a shard in the ledger."""
    return f"shard-{shard:06d}"


@dataclass
class ShardResult:
    """What was dropped from a shard, and what making it cost."""

    problems: list[Problem] = field(default_factory=list)
    read: ReadCount = field(default_factory=ReadCount)
    shift: float = 0.0
    """Largest distance between a file's pixel lattice and a tile's, in native pixels."""
    valid_shares: list[float] = field(default_factory=list)
    """By tile, of the pixels of all bands and steps."""
    empty: list[str] = field(default_factory=list)
    """Arrays of nothing but fill, of which Zarr writes no shard."""
    unfit: list[FileRecord] = field(default_factory=list)
    """Files that were found not fit to be used in the very pixels of these tiles."""
    seconds: float = 0.0


def build_shard(task: ShardTask) -> ShardResult:
    """Cut the tiles of one shard, band by band, and write every array's shard whole.

    A file that cannot be read drops only its own band and time step: those pixels are not valid, and the result says
    why.
    """
    started = time.perf_counter()
    result = ShardResult()
    count = len(task.tiles)
    headers: dict[str, FileIndex] = {}
    valid_pixels, stored_pixels = np.zeros(count, "i8"), 0
    occurring: dict[int, BandCounts] = {}
    for name, channels in task.layout.mask_groups().items():
        size = task.layout.band_size(channels[0])
        mask = np.zeros((count, task.layout.steps, size, size), task.layout.instrument.mask_dtype)
        for channel in channels:
            counts = np.full(mask.shape, task.fills[channel], "u2")
            headers |= _cut_band(task, channel, counts, mask, result)
            _write(task, task.layout.band(channel).name, counts, task.fills[channel], result)
            bit = task.layout.mask_bit(channel)
            valid = np.count_nonzero(mask & bit, axis=(2, 3))
            valid_pixels += valid.sum(axis=1)
            stored_pixels += mask[0].size
            if task.counts is not None:
                occurring[channel] = count_band(counts, mask, int(bit), valid)
        _write(task, name, mask, 0, result)
    numbers = numbers_of(task.layout, task.tiles, task.requested, task.frames, headers)
    write_numbers(task.numbers, task.first, numbers)
    if task.counts is not None:
        write_counts(task.counts, task.layout, task.labels, occurring, numbers)
    result.valid_shares = (valid_pixels / stored_pixels).tolist()
    result.problems += _too_few_valid(task, result.valid_shares)
    result.seconds = time.perf_counter() - started
    return result


def _too_few_valid(task: ShardTask, shares: Sequence[float]) -> Iterator[Problem]:
    for tile, share in zip(task.tiles, shares, strict=True):
        if share < task.min_valid:
            yield Problem("product", _told_few(share, task.min_valid), tile.tile_id)


def _told_few(share: float, least: float) -> str:
    """Say two shares with as many digits as tell them apart."""
    digits = next((n for n in range(1, 9) if f"{share:.{n}%}" != f"{least:.{n}%}"), 9)
    return (
        f"{share:.{digits}%} of its pixels are valid, fewer than the {least:.{digits}%} of `min_valid`; no other "
        "takes its place, for pixels are read once the plan is made: ask for more with `num_tiles`, or build with a "
        "lower `min_valid`"
    )


def _write(task: ShardTask, name: str, values: npt.NDArray[Any], fill: int, result: ShardResult) -> None:
    write_region(task.store, name, task.first, values)
    if (values == fill).all():
        result.empty.append(name)


def _cut_band(
    task: ShardTask, channel: int, counts: npt.NDArray[np.uint16], mask: npt.NDArray[Any], result: ShardResult
) -> dict[str, FileIndex]:
    """Fill one band of all tiles and its bit of their masks; return the headers that could be read, by address."""
    headers = {}
    by_file: dict[SourceFile, list[Frame]] = defaultdict(list)
    for frame in task.frames:
        if channel in frame.lost:
            result.problems.append(_problem(task, frame, channel, *frame.lost[channel]))
        elif channel in frame.files:
            by_file[frame.files[channel]].append(frame)
    for source, frames in by_file.items():
        placed: Sequence[tuple[Frame, Any]] = [(frame, None) for frame in frames]
        try:
            index = _try_again(source, partial(index_file, source, task.cache, task.endpoint_url))
            headers[source.href] = index.without_chunks()
            placed = _place(task, index, channel, frames, result)
            fault = _try_again(source, partial(_cut_file, task, index, channel, placed, counts, mask, result))
            reason = told_unfit(source.href, f"of the pixels that a tile is cut from, {fault}") if fault else ""
            if reason:
                result.unfit.append(FileRecord.damaged(index.source, frames[0].scan_id, reason))
        except SourceError as error:
            reason = str(error)
        if reason:
            for frame, _ in placed:
                counts[frame.tile, frame.step] = task.fills[channel]
                mask[frame.tile, frame.step] &= ~task.layout.mask_bit(channel)
                result.problems.append(_problem(task, frame, channel, source, reason))
    return headers


def _try_again(source: SourceFile, read: Callable[[], T]) -> T:
    """Read again what may pass: an object store now and then fails a request, a disk does not."""
    tries = _S3_TRIES if source.href.startswith("s3://") else 1
    return call_again(read, tries=tries, pause=_S3_PAUSE, again=SourceError, name=f"reading {source.href}")


def _problem(task: ShardTask, frame: Frame, channel: int, source: SourceFile, reason: str) -> Problem:
    return Problem("source", reason, task.tiles[frame.tile].tile_id, frame.scan_id, str(channel), source.href)


def _place(
    task: ShardTask, index: FileIndex, channel: int, frames: list[Frame], result: ShardResult
) -> list[tuple[Frame, Window]]:
    """Windows of the frames in the file; a frame the file does not cover is a problem of its own."""
    placed = []
    for frame in frames:
        try:
            window, shift = task.layout.source_window(task.tiles[frame.tile], index.grid, channel)
        except SourceError as error:
            result.problems.append(_problem(task, frame, channel, index.source, str(error)))
            continue
        result.shift = max(result.shift, shift)
        placed.append((frame, window))
    return placed


def _cut_file(
    task: ShardTask,
    index: FileIndex,
    channel: int,
    placed: Sequence[tuple[Frame, Window]],
    counts: npt.NDArray[np.uint16],
    mask: npt.NDArray[Any],
    result: ShardResult,
) -> str | None:
    """Read the union of the windows' chunks once, bringing strips of tiles to the store's grid as they are whole.

    Returns why the file is not fit to be used, where that is seen in these pixels.
    """
    strips = sorted(_strips(placed), key=lambda strip: strip[1].row + strip[1].height)
    windows, read = [window for _, window, _ in strips], ReadCount()
    images = stream_images(index, windows, read, task.endpoint_url)
    usable = np.isin(np.arange(256), task.good_flags)
    bit = task.layout.mask_bit(channel)
    for (frame, window, whole), (pixels, quality) in zip(strips, images, strict=True):
        if task.screened and (fault := fault_in(index, window, pixels, quality)):
            return fault
        good = np.take(usable, quality)
        good &= pixels != index.rad.fill
        stored, valid = to_grid(task.layout, index, channel, pixels, good, task.fills[channel])
        first = (window.row - whole.row) * counts.shape[2] // whole.height
        place = frame.tile, frame.step, slice(first, first + len(stored))
        counts[place] = stored
        mask[place] |= valid * bit
    result.read.add(read)
    return None


def _strips(placed: Sequence[tuple[Frame, Window]]) -> Iterator[tuple[Frame, Window, Window]]:
    """Cut windows into strips of rows, so that a read holds few pixels however many tiles lie side by side.

    Yields the frame, the strip and the window it is of.
    """
    for frame, whole in placed:
        for top in range(0, whole.height, _STRIP):
            rows = min(_STRIP, whole.height - top)
            yield frame, Window(whole.row + top, whole.col, rows, whole.width), whole


def to_grid(
    layout: TileLayout,
    index: FileIndex,
    channel: int,
    raw: npt.NDArray[np.uint16],
    good: npt.NDArray[np.bool_],
    fill: int,
) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """Native counts and their validity on the grid of the store."""
    ratio = layout.band_pixel(channel) / index.grid.dx
    if layout.takes_one(channel):
        step = round(ratio)
        raw, good, ratio = raw[::step, ::step], good[::step, ::step], 1.0
    if ratio > 1.5:
        return average(raw, good, round(ratio), stored_factor(layout, index, channel))
    if index.rad.fill != fill:
        raw = np.where(raw == index.rad.fill, np.uint16(fill), raw)
    if ratio < 0.75:
        return repeat(raw, round(1 / ratio)), repeat(good, round(1 / ratio))
    return raw, good
