"""What the headers of a shard's files tell of its tiles: written down by its task, gathered into the store's arrays.

A store is opened by reading these arrays whole, so that they are to lie in few chunks, of many shards each; a task
writes what no other writes, so that it cannot write a part of such a chunk. Hence a file of its own for each task, and
one gathering when all are made.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from cube.geostationary.index import FileIndex
from cube.geostationary.layout import Frame, TileLayout, TileSpec
from cube.geostationary.pixel_time import seconds_after_start
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.resample import count_factor
from cube.job.store import LedgeredStore
from cube.sun import solar_angles
from stratacube.errors import SourceError
from stratacube.files import remove, write_bytes
from stratacube.guard import guarded

__all__ = ["NO_TIME", "gather", "gathered_names", "numbers_of", "read_numbers", "stored_factor", "write_numbers"]

NO_TIME = np.iinfo("i8").min
Numbers = dict[str, npt.NDArray[Any]]
_FIRST = "first"
"""In a shard's file: its first tile."""


def numbers_of(
    layout: TileLayout,
    tiles: Sequence[TileSpec],
    requested: Sequence[Sequence[np.datetime64]],
    frames: Iterable[Frame],
    headers: Mapping[str, FileIndex],
) -> Numbers:
    """Work out the numbers of a shard's tiles.

    Parameters
    ----------
    layout
        Of the store.
    tiles
        Of the shard.
    requested
        By tile, the times asked for.
    frames
        The scans they are cut from.
    headers
        By address, the indexes of the files that could be read.

    Returns
    -------
    dict
        By the name of the array: packings and coefficients (tile, time, band), times (tile, time; microseconds since
        1970), angles and places at the centres of blocks in degrees (tile, (time,) y, x). NaN or :data:`NO_TIME` where
        nothing is known. The Sun is where it stands when a block is seen; in a store without ``observation_time``, at
        the scan's start; where there is no scan, at the time asked for.
    """
    shape = len(tiles), layout.steps, len(layout.channels)
    found: Numbers = {
        "packing_scale": np.full(shape, np.nan),
        "packing_offset": np.full(shape, np.nan),
        **{name: np.full(shape, np.nan, "f4") for name in layout.instrument.coefficients},
        "scan_start": np.full(shape[:2], NO_TIME),
        "scan_mid": np.full(shape[:2], NO_TIME),
    }
    seen: dict[tuple[int, int], FileIndex] = {}
    for frame in frames:
        of_frame = [headers[file.href] for file in frame.files.values() if file.href in headers]
        place = frame.tile, frame.step
        for header in of_frame:
            channel = header.source.channel
            at = *place, layout.channels.index(channel)
            found["packing_scale"][at] = header.scale / stored_factor(layout, header, channel)
            found["packing_offset"][at] = header.offset
            for name in layout.instrument.coefficients:
                found[name][at] = header.coefficients[name]
        begun = [_microseconds(h.begin_time) for h in of_frame if not np.isnat(h.begin_time)]
        # The files tell it better than their names, which may give it to a minute only.
        found["scan_start"][place] = min(begun, default=_microseconds(np.datetime64(frame.start)))
        found["scan_mid"][place] = max((_microseconds(h.mid_time) for h in of_frame), default=NO_TIME)
        if of_frame and layout.observed:
            seen[place] = of_frame[0]
    if layout.observed:
        found["observation_time"] = _observed(layout, tiles, found["scan_start"], seen)
    return found | _coarse(
        layout, tiles, np.asarray(requested, "M8[us]").reshape(shape[:2]), found["scan_start"].view("M8[us]"), seen
    )


def _observed(
    layout: TileLayout,
    tiles: Sequence[TileSpec],
    started: npt.NDArray[np.int64],
    seen: Mapping[tuple[int, int], FileIndex],
) -> npt.NDArray[np.int64]:
    """Mean of the times at which a tile's pixels were seen, of each frame; along a row they grow evenly."""
    found = np.full_like(started, NO_TIME)
    rows = (np.arange(layout.tile_size) + 0.5) * layout.pixel
    for place, header in seen.items():
        tile = tiles[place[0]]
        seconds = seconds_after_start(header, tile.x_left + layout.side / 2, tile.y_top - rows)
        found[place] = started[place] + round(float(seconds.mean()) * 1e6)
    return found


def gathered_names(layout: TileLayout) -> list[str]:
    """Names of the arrays that hold these numbers."""
    return [*numbers_of(layout, (), (), (), {})]


def _rows(store: Path, arrays: Mapping[str, Any], start: int, stop: int, *, there: bool) -> Numbers:
    """Rows of the arrays: as they are, or empty where all of them are put in anew."""
    if there:
        return {n: np.full((stop - start, *a.shape[1:]), a.fill_value, a.dtype) for n, a in arrays.items()}
    again = "remove it and run the same command again"
    rows = {}
    for name, array in arrays.items():
        with guarded(f"{store / name} cannot be read", again):
            rows[name] = np.asarray(array[start:stop])
    return rows


def _microseconds(time: np.datetime64) -> int:
    return int(time.astype("M8[us]").astype("i8"))


def stored_factor(layout: TileLayout, index: FileIndex, channel: int) -> int:
    """Stored counts per source count of a band on the store's grid."""
    ratio = 1 if layout.takes_one(channel) else max(1, round(layout.band_pixel(channel) / index.grid.dx))
    return count_factor(ratio, index.rad.fill - 1)


def _coarse(
    layout: TileLayout,
    tiles: Sequence[TileSpec],
    requested: npt.NDArray[np.datetime64],
    started: npt.NDArray[np.datetime64],
    seen: Mapping[tuple[int, int], FileIndex],
) -> Numbers:
    """Angles and places at the centres of blocks; ``seen`` has a file of each frame whose blocks' times are known."""
    n, step = layout.coarse_size, layout.coarse_step * layout.pixel
    centres = (np.arange(n) + 0.5) * step
    place, frames = (len(tiles), n, n), (len(tiles), layout.steps, n, n)
    values: Numbers = {
        "longitude_coarse": np.empty(place, "f4"),
        "latitude_coarse": np.empty(place, "f4"),
        "view_zenith": np.empty(place, "f4"),
        "view_azimuth": np.empty(place, "f4"),
        "solar_zenith": np.empty(frames, "f4"),
        "solar_azimuth": np.empty(frames, "f4"),
    }
    times = np.where(np.isnat(started), requested, started)
    for i, tile in enumerate(tiles):
        view = tile.projection
        x, y = tile.x_left + centres[None, :], tile.y_top - centres[:, None]
        lon, lat = view.to_lonlat(x, y)
        when = np.broadcast_to(times[i][:, None, None], frames[1:]).copy()
        for step in range(layout.steps):
            if (i, step) in seen:
                when[step] += (seconds_after_start(seen[i, step], x, y) * 1e6).astype("m8[us]")
        angles = *view.view_angles(lon, lat), *solar_angles(when, lon[None], lat[None])
        for array, found in zip(values.values(), (lon, lat, *angles), strict=True):
            array[i] = found
    return values


def write_numbers(path: Path, first: int, numbers: Numbers) -> None:
    """Write the numbers of a shard's tiles, the first of which is number ``first`` of the store."""
    packed = io.BytesIO()
    contents: dict[str, Any] = {_FIRST: np.array(first), **numbers}
    np.savez_compressed(packed, **contents)
    write_bytes(path, packed.getbuffer())


def read_numbers(path: Path) -> tuple[int, Numbers]:
    """Read what :func:`write_numbers` wrote.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            numbers = dict(stored)
        return int(numbers.pop(_FIRST)), numbers
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{path} does not hold the numbers of a shard ({' '.join(str(error).split())[:120]}); "
            "run the same command again, which makes that shard anew"
        ) from error


def gather(
    store: Path, plan: PlanTable, layout: TileLayout, file_of: Callable[[int], Path]
) -> dict[int, tuple[float, float]]:
    """Put the numbers of all shards into the arrays of a store, block by block of tiles.

    Parameters
    ----------
    store
        Whose arrays there are. What they hold of a shard without a file stands: earlier versions wrote it first.
    plan
        Which tiles are whose.
    layout
        Of the store.
    file_of
        By shard, where its numbers are.

    Returns
    -------
    dict
        By channel, the packing (scale, offset) that serves all tiles; channels with several are left out.
    """
    names = gathered_names(layout)
    arrays = {name: zarr.open_array(LedgeredStore(store), path=name, mode="r+", zarr_format=3) for name in names}
    pairs: dict[int, set[tuple[float, float]]] = {c: set() for c in layout.channels}
    for block in plan.blocks(["tile", "shard"]):
        start, stop = int(block["tile"].iloc[0]), int(block["tile"].iloc[-1]) + 1
        files = {int(shard): file_of(int(shard)) for shard in block["shard"].unique()}
        values = _rows(store, arrays, start, stop, there=all(path.exists() for path in files.values()))
        for shard, rows in block.groupby("shard"):
            if not (path := files[int(shard)]).exists():
                continue
            try:
                first, numbers = read_numbers(path)
            except SourceError:
                remove(path)
                raise
            tiles = rows["tile"].to_numpy()
            for name in names:
                values[name][tiles - start] = numbers[name][tiles - first]
        for name, array in arrays.items():
            array[start:stop] = values[name]
        for b, channel in enumerate(layout.channels):
            both = np.stack([values[n][..., b].ravel() for n in ("packing_scale", "packing_offset")])
            distinct = np.unique(both[:, ~np.isnan(both[0])], axis=1)
            pairs[channel].update((float(scale), float(offset)) for scale, offset in distinct.T)
    return {channel: next(iter(found)) for channel, found in pairs.items() if len(found) == 1}
