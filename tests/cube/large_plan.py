"""A planned build of very many tiles, made in seconds and without pixels: what the driver's memory is measured with.

``python -m tests.cube.large_plan FOLDER`` writes it; :func:`cut_nothing` stands in for what cuts tiles.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cube.build import main
from cube.config import AbiConfig
from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import TileLayout
from cube.geostationary.plan_table import ROW_GROUP
from cube.geostationary.tiles import ShardResult, ShardTask
from cube.testing.abi.file import write_file
from cube.testing.abi.geometry import view_zenith
from cube.testing.abi.spec import FileSpec, sector_grid

__all__ = ["cut_nothing", "plan_of", "write_large_plan"]

PLATFORM, SECTOR, SEED = "goes16", "F", 42
START, CADENCE = datetime(2020, 7, 1), timedelta(minutes=10)
STEPS, STEP = 7, timedelta(minutes=20)
BEFORE = STEPS // 2
"""Steps before the event: with every scan there, the window with the event in its middle is the best one."""
MOST_ZENITH = 70.0
COPIED = (
    "score",
    "window_start",
    "window_scores",
    "weight",
    "class",
    "seed",
    "details",
    "split",
    "stratum",
    "platform",
    "sector",
    "seed",
    "system_id",
    "missing",
    "projection",
)
"""Columns that are the same for every tile of a random build from a whole archive."""


def write_large_plan(folder: Path, tiles: int = 100_000, scans: int = 2_000) -> list[str]:
    """Write an archive, and the build in it as a run with ``--plan-only`` leaves it.

    The archive has full-disk scans of 16 channels every 10 minutes. Its files are whole, with every header, but none of
    their chunks was ever written; those of later scans are links to those of the first. The plan itself is drawn here
    in whole columns: the planner draws tile by tile, which takes minutes, and holds each as objects. A small plan that
    it makes of the same archive gives the schema, and what is the same for every tile.

    Parameters
    ----------
    folder
        A new folder; ``archive`` and ``build`` are made in it.
    tiles, scans
        How many. Of scans at least 15: the planner wants one with a whole window around it.

    Returns
    -------
    list of str
        Arguments of ``python -m cube.build`` that go on with the build.
    """
    archive, build = folder / "archive", folder / "build"
    _write_archive(archive, scans)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        small = AbiFolder(Path(scratch) / "small")
        if main([*_arguments(archive, small.root, 20), "--plan-only"]):
            raise RuntimeError("the small plan was not made")
        arguments = _arguments(archive, build, tiles)
        config = AbiConfig.load(None, _values(archive, build, tiles))
        there = AbiFolder(build)
        with there.opened(config.described(), config.digest(), overwrite=False):
            for path in (small.sources, small.completeness, small.index):  # the same whatever number is asked for
                path.rename(there.root / path.name)
        layout = TileLayout.of(config)
        plan = plan_of(pq.read_table(small.plan), layout, *_places(layout, tiles, scans))
        pq.write_table(plan, there.plan, row_group_size=ROW_GROUP)
    return arguments


def cut_nothing(task: ShardTask) -> ShardResult:
    """Make nothing of a task, and say that all went well."""
    return ShardResult(valid_shares=[1.0] * len(task.tiles))


def _values(archive: Path, build: Path, tiles: int) -> dict[str, Any]:
    return {
        "output_dir": str(build),
        "local_data_dir": str(archive),
        "satellite": PLATFORM,
        "domain": SECTOR,
        "num_tiles": str(tiles),
        "seed": str(SEED),
        "screen": "off",  # of files whose pixels were never written none is fit
    }


def _arguments(archive: Path, build: Path, tiles: int) -> list[str]:
    flags = (("--" + key.replace("_", "-"), value) for key, value in _values(archive, build, tiles).items())
    return ["abi", *(word for flag in flags for word in flag)]


def _write_archive(root: Path, scans: int) -> None:
    """One scan of files whose pixels were never written, and links to them under the names of all others."""
    first = [FileSpec.nominal(PLATFORM, SECTOR, c, START, sector_grid(PLATFORM, SECTOR), mode=6) for c in range(1, 17)]
    for spec in first:
        write_file(root / spec.key, spec, ())
        with h5py.File(root / spec.key, "r+") as h5:  # what tells its time, which under other names would be wrong
            for name in ("time_coverage_start", "time_coverage_end", "dataset_name"):
                del h5.attrs[name]
            del h5["t"], h5["time_bounds"]
    for number in range(1, scans):
        links = [root / replace(spec, start=START + number * CADENCE).key for spec in first]
        links[0].parent.mkdir(parents=True, exist_ok=True)
        for link, spec in zip(links, first, strict=True):
            link.symlink_to(root / spec.key)


def plan_of(
    small: pa.Table, layout: TileLayout, scan: npt.NDArray[np.int64], row: npt.NDArray[np.int64],
    col: npt.NDArray[np.int64],
) -> pa.Table:  # fmt: skip
    """Plan of tiles whose windows have all their scans, with the columns, types and metadata of a small one.

    Parameters
    ----------
    small
        Plan that the planner made of the same archive.
    layout
        Of its tiles.
    scan, row, col
        Of each tile: the scan of its event, counted from 0, and its north-western pixel in the grid of the layout.
    """
    tiles = len(scan)
    grid = sector_grid(PLATFORM, SECTOR).rescaled(layout.pixel / 56e-6)
    middle = (layout.tile_size - 1) / 2
    longitude, latitude = grid.lonlat(row + middle, col + middle)
    window = (scan[:, None] + np.arange(-BEFORE, STEPS - BEFORE) * (STEP // CADENCE)).ravel()
    times = [START + number * CADENCE for number in range(window.max() + 1)]
    starts = np.array(times, "M8[us]")
    stamps = [f"{PLATFORM}_{SECTOR}_{time:%Y%m%dT%H%M%S}" for time in times]
    ids = pa.array([f"{PLATFORM}_ABI-L1b-Rad{SECTOR}_s{time:%Y%j%H%M%S}0" for time in times])
    like = small["window_start"].to_pylist().index(STEPS - BEFORE)  # one whose event is in its middle
    columns: dict[str, Any] = {
        "tile": np.arange(tiles),
        "tile_id": [f"{stamps[s]}_r{r:05d}_c{c:05d}" for s, r, c in zip(scan, row, col, strict=True)],
        "event_time": starts[scan],
        "event_scan": ids.take(pa.array(scan)),
        "latitude": latitude,
        "longitude": longitude,
        "view_zenith": view_zenith(grid.lon_0, longitude, latitude),
        "x_left": grid.left + col * grid.dx,
        "y_top": grid.top + row * grid.dy,
        "row": row,
        "col": col,
        "event_row": row + layout.tile_size // 2,
        "event_col": col + layout.tile_size // 2,
        "probability": np.full(tiles, min(1.0, small["probability"][like].as_py() * tiles / small.num_rows)),
        "requested_times": _lists(pa.array(starts[window])),
        "scan_ids": _lists(ids.take(pa.array(window))),
        "scan_starts": _lists(pa.array(starts[window])),
        "shard": np.arange(tiles) // layout.tiles_per_shard,
        "rank": np.arange(tiles),
        **{name: pa.repeat(small[name][like], tiles) for name in COPIED},
    }
    told = small.schema.metadata
    attrs = {**json.loads(told[b"PANDAS_ATTRS"]), "asked": tiles}  # else more would be asked for than it has
    schema = small.schema.with_metadata({**told, b"PANDAS_ATTRS": json.dumps(attrs).encode()})
    return pa.table([pa.array(columns[field.name]).cast(field.type) for field in schema], schema=schema)


def _lists(values: pa.Array) -> pa.ListArray:
    """One list of all steps a row."""
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, STEPS, dtype="i4")), values)


def _places(layout: TileLayout, tiles: int, scans: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Scan, row and column of distinct tiles at random within the view zenith, in the planner's order.

    Half of the square around the disk lies within it, so that twice as many draws and a few more are mostly enough.
    """
    rng, reach = np.random.default_rng(SEED), BEFORE * (STEP // CADENCE)
    grid = sector_grid(PLATFORM, SECTOR).rescaled(layout.pixel / 56e-6)
    found = np.empty((0, 3), "i8")
    while len(found) < tiles:
        scan = rng.integers(reach, scans - reach, 2 * tiles)
        row, col = rng.integers(0, (grid.height - layout.tile_size) // layout.align, (2, 2 * tiles)) * layout.align
        middle = (layout.tile_size - 1) / 2
        zenith = view_zenith(grid.lon_0, *grid.lonlat(row + middle, col + middle))
        seen = zenith <= MOST_ZENITH  # NaN, off the Earth, is not
        found = np.unique(np.concatenate([found, np.stack([scan, row, col], 1)[seen]]), axis=0)
    chosen = np.sort(rng.choice(len(found), tiles, replace=False))
    return tuple(found[chosen].T)


def _command(arguments: Sequence[str]) -> None:
    sys.stdout.write(" ".join(write_large_plan(Path(arguments[0]).absolute())) + "\n")


if __name__ == "__main__":
    _command(sys.argv[1:])
