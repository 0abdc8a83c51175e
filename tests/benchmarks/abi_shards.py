"""Shards of tiles: their time against a bare loop over the same chunks, and the memory of a worker."""

from __future__ import annotations

import os
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catalog.geostationary.scans import Scan
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.layout import Frame, TileLayout, TileSpec
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.projections import Views
from cube.geostationary.template import create_tile_store, fills_of
from stratacube.parquet import write_frame
from tests.benchmarks.abi_scan import CHANNELS, Stretch, scan_of
from tests.benchmarks.table import Row, compare, measure, race

__all__ = ["memory_rows", "shard_rows"]


def shard_rows(scratch: Path, tiles: int, rounds: int) -> list[Row]:
    section = f"{tiles} tiles of one scan cut, one process"
    out = []
    for grid in ("1km", "native"):
        arguments = {"scratch": scratch, "tiles": tiles, "grid": grid}
        measure(shard_built, **arguments)  # what the bare loop writes; not counted
        found = race(
            {
                "ours": (shard_built, arguments),
                "zlib": (shard_by_bare_loop, {**arguments, "inflate": "zlib"}),
                "isal": (shard_by_bare_loop, {**arguments, "inflate": "isal"}),
            },
            rounds,
        )
        seconds, result = {k: m.seconds for k, m in found.items()}, found["ours"].result
        spent = found["ours"].cpu
        for inflate, target in (("zlib", "ours <= 1.5 theirs"), ("isal", None)):
            out.append(
                compare(
                    section,
                    f"{grid} grid, against a bare loop that reads, inflates ({inflate}) and writes the same",
                    seconds["ours"],
                    seconds[inflate],
                    "s",
                    target=target,
                    note=f"CPU: {spent:.1f} s against {found[inflate].cpu:.1f} s",
                )
            )
        out.append(
            compare(
                section,
                f"{grid} grid: chunks decoded, against the union of what the tiles touch",
                result["decoded"],
                result["union"],
                "chunks",
                target="ours <= 1 theirs",
                note="calls of the decoder; the union is counted pixel window by pixel window",
            )
        )
    return out


def _places(index: FileIndex, count: int) -> list[TileSpec]:
    """Tiles at random on the disk; some overlap."""
    rng, (left, top), found = np.random.default_rng(7), (index.grid.left, index.grid.top), []
    while len(found) < count:
        row, col = (int(v) * 2 for v in rng.integers(0, (10848 - 512) // 2, 2))
        if np.hypot(row + 256 - 5424, col + 256 - 5424) < 4700:
            found.append(TileSpec(f"t{len(found)}", left + col * 28e-6, top - row * 28e-6, index.grid.projection))
    return found


def _scans(scratch: Path, steps: int) -> list[Scan]:
    """Scans twenty minutes apart: the same files under other names."""
    scan, scans = scan_of(scratch), []
    for step in range(steps):
        folder = scratch / "links" / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        start, files = scan.start + step * timedelta(minutes=20), {}
        for channel, file in scan.files.items():
            link = folder / f"C{channel:02d}.nc"
            if not link.is_symlink():
                link.symlink_to(file.href)
            files[channel] = replace(file, href=str(link), start=start)
        scans.append(replace(scan, start=start, files=files))
    return scans


def _tasks(scratch: Path, name: str, tiles: int, grid: Any, steps: int) -> Iterator[Any]:
    """Make a tile store, and yield the tasks that fill it."""
    from cube.geostationary.tiles import ShardTask

    layout, scans = TileLayout(grid, 512, steps, CHANNELS, store="native"), _scans(scratch, steps)
    for file in (f for s in scans for f in s.files.values()):
        index_file(file, scratch / "index")
    places = _places(index_file(scans[0].files[1], scratch / "index"), tiles)
    table = pd.DataFrame(
        {
            "tile": range(tiles),
            "tile_id": [p.tile_id for p in places],
            "platform": "goes16",
            "stratum": "random",
            "latitude": 0.0,
            "longitude": -75.0,
            "x_left": [p.x_left for p in places],
            "y_top": [p.y_top for p in places],
            "row": 0,
            "col": 0,
            "requested_times": [[s.start for s in scans]] * tiles,
            "projection": 0,
        }
    )
    table.attrs = {"refused": "{}", "problems": "[]", "projections": [asdict(places[0].projection)]}
    store, numbers = scratch / f"{name}.zarr", scratch / "numbers"
    shutil.rmtree(store, ignore_errors=True)
    write_frame(scratch / f"{name}.parquet", table)
    plan = PlanTable(scratch / f"{name}.parquet")
    create_tile_store(store, layout, plan, Views(plan.projections, "goes_imager_projection"), {}, "lz4hc")
    for shard, first in enumerate(range(0, tiles, layout.tiles_per_shard)):
        part = places[first : first + layout.tiles_per_shard]
        yield ShardTask(
            shard=shard,
            first=first,
            tiles=tuple(part),
            frames=tuple(Frame(i, t, s.id, s.start, s.files) for i in range(len(part)) for t, s in enumerate(scans)),
            requested=((tuple(np.datetime64(s.start, "us") for s in scans),) * len(part)),
            layout=layout,
            fills=fills_of(layout, store),
            good_flags=(0, 1),
            store=store,
            numbers=numbers / f"shard-{shard:06d}.npz",
            cache=scratch / "index",
        )


def shard_built(scratch: str, tiles: int, grid: str, steps: int = 1) -> Stretch:
    """Build a store; count the chunks that are decoded, and those that the tiles touch."""
    import cube.geostationary.read as reading
    from cube.geostationary.tiles import build_shard

    tasks = list(_tasks(Path(scratch), f"ours-{grid}-{tiles}-{steps}", tiles, grid, steps))
    decoded = 0
    decode_chunk = reading.decode_chunk

    def counting(table: Any, data: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return decode_chunk(table, data)

    reading.decode_chunk = counting
    yield
    results = [build_shard(task) for task in tasks]
    yield
    if any(r.problems for r in results):
        raise AssertionError(results[0].problems[0])
    union = sum(len(chunks) for task in tasks for _, chunks in _touched(task))
    return {"decoded": decoded, "told": sum(r.read.chunks for r in results), "union": union}


def _touched(task: Any) -> Iterator[tuple[str, set[tuple[int, int]]]]:
    """Each file of a task with (offset, size) of all chunks under its tiles."""
    for scan in {f.scan_id: f.files for f in task.frames}.values():
        for channel, file in scan.items():
            index, chunks = index_file(file, task.cache), set()
            for tile in task.tiles:
                w = task.layout.source_window(tile, index.grid, channel)[0]
                for table in (index.rad, index.dqf):
                    rows = range(w.row // table.chunks[0], (w.row + w.height - 1) // table.chunks[0] + 1)
                    cols = range(w.col // table.chunks[1], (w.col + w.width - 1) // table.chunks[1] + 1)
                    chunks |= {(int(table.offsets[r, c]), int(table.sizes[r, c])) for r in rows for c in cols}
            yield file.href, {(offset, size) for offset, size in chunks if size}


def shard_by_bare_loop(scratch: str, tiles: int, grid: str, inflate: str) -> Stretch:
    """Read and inflate the union of the chunks, each once; write what the build wrote, with zarr."""
    import zarr
    from isal import isal_zlib

    decompress = {"zlib": zlib.decompress, "isal": isal_zlib.decompress}[inflate]
    tasks = list(_tasks(Path(scratch), f"theirs-{grid}-{tiles}", tiles, grid, 1))
    files: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for href, chunks in (pair for task in tasks for pair in _touched(task)):
        files[href] |= chunks
    ordered = {href: sorted(chunks) for href, chunks in files.items()}
    built = zarr.open_group(Path(scratch) / f"ours-{grid}-{tiles}-1.zarr", mode="r")
    names = [n for n in built.array_keys() if n[:2] in ("C0", "C1") or n.startswith("valid")]
    values = {name: np.asarray(built[name]) for name in names}
    yield
    for href, places in ordered.items():
        descriptor = os.open(href, os.O_RDONLY)
        for offset, size in places:
            decompress(os.pread(descriptor, size, offset))
        os.close(descriptor)
    for name, array in values.items():
        zarr.open_array(tasks[0].store / name, mode="r+")[:] = array
    return sum(map(len, ordered.values()))


def memory_rows(scratch: Path, quick: bool) -> list[Row]:
    section = "Peak memory of a worker"
    out = []
    for grid in ("1km", "native"):
        for tiles, steps in ((8, 1), (8, 2)) if quick else ((64, 1), (256, 1), (9, 7), (18, 7)):
            found = measure(shard_built, scratch=scratch, tiles=tiles, grid=grid, steps=steps)
            out.append(
                compare(
                    section,
                    f"{grid} grid, {tiles} tiles x {steps} steps",
                    found.peak,
                    None,
                    "MiB",
                    target="ours < 500",
                    note=f"{found.idle:.0f} MiB before the first shard; {found.seconds:.0f} s",
                )
            )
    return out
