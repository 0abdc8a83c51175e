"""The ABI main job against what one would write without it, on one full-disk scan of full size (16 files, 890 MB)."""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections import defaultdict
from collections.abc import Generator, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from catalog.abi.archives import LocalArchive
from catalog.abi.scans import Scan, find_scans
from cube.abi.grid import GeosProjection
from cube.abi.index import FileIndex, index_file
from cube.abi.layout import TileLayout, TileSpec
from tests.benchmarks.table import CHECKOUT, MIB, Row, compare, measure, race

START = datetime(2020, 7, 1, 16, 0, 0, 300_000)
CHANNELS = tuple(range(1, 17))
PLACE = 3600, 4200
"""North-west pixel (row, column of the 1 km disk) of the single tile: cloudy land and sea on the Earth's disk."""
DAY = 144
"""Scans of a day, every ten minutes."""
REAL = CHECKOUT.parent / "shared" / "data" / "abi"
Stretch = Generator[None, None, Any]


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Every comparison; ``quick`` means fewer tiles and one round."""
    rounds = 1 if quick else 3
    _prepare(scratch)
    return [
        *_one_tile(scratch, rounds),
        *_shard(scratch, 8 if quick else 64, rounds),
        *_indexing(scratch, rounds),
        *_day(scratch, 12 if quick else DAY, rounds),
        *_memory(scratch, quick),
        *_inflate(scratch, rounds),
    ]


def _prepare(scratch: Path) -> None:
    """Write the scan and its references, once."""
    from cube.abi.references import write_references
    from cube.abi.synthetic import write_full_disk_scan

    if not (scratch / "index").exists():
        shutil.rmtree(scratch, ignore_errors=True)
        write_full_disk_scan(scratch / "archive", start=START)
        files = _scan(scratch).files.values()
        write_references([index_file(f, scratch / "index") for f in files], scratch / "references")
    _warm(scratch)


def _warm(scratch: Path) -> None:
    """Bring the files into the page cache: what is measured is the work, not the disk."""
    for file in _scan(scratch).files.values():
        with open(file.href, "rb", buffering=0) as raw:
            while raw.read(16 * MIB):
                pass


def _scan(scratch: Path) -> Scan:
    archive = LocalArchive(scratch / "archive")
    (scan,) = find_scans(archive, platform="goes16", sector="F", start=START - timedelta(1), end=START + timedelta(1))
    return scan


# One tile ------------------------------------------------------------------------------------------------------------


def _one_tile(scratch: Path, rounds: int) -> list[Row]:
    section = "One time step of 16 bands, one tile of 512 x 512 pixels of 1 km"
    found = race(
        {
            "referenced": (tile_from_chunks, {"scratch": scratch, "referenced": True}),
            "indexed": (tile_from_chunks, {"scratch": scratch, "referenced": False}),
            "cube": (tile_from_cube, {"scratch": scratch}),
            "window": (tile_by_h5py, {"scratch": scratch}),
            "xarray": (tile_by_xarray, {"scratch": scratch}),
            "satpy": (tile_by_satpy, {"scratch": scratch}),
        },
        rounds,
    )
    found |= race(
        {
            "whole": (tile_from_whole, {"scratch": scratch, "keep": False}),
            "kept": (tile_from_whole, {"scratch": scratch, "keep": True}),
        },
        min(2, rounds),
    )
    same = {found[k].result for k in ("referenced", "indexed", "window", "whole", "kept")}
    if len(same) != 1:
        raise AssertionError(f"the ways to read one tile disagree: {same}")
    seconds = {k: m.seconds for k, m in found.items()}
    whole = "reading the 16 disks whole with h5py (Rad and DQF)"

    def row(what: str, ours: str, theirs: str, target: str | None = None) -> Row:
        note = f"CPU: {1e3 * found[ours].cpu:,.0f} ms against {1e3 * found[theirs].cpu:,.0f} ms"
        return compare(section, what, 1e3 * seconds[ours], 1e3 * seconds[theirs], "ms", target=target, note=note)

    def peak(theirs: str, what: str, target: str | None, note: str) -> Row:
        figures = found["referenced"].peak, found[theirs].peak
        return compare(section, what, *figures, "MiB", target=target, note=note)

    working = found["referenced"].peak - found["referenced"].idle
    least = found["kept"].peak - found["kept"].idle
    return [
        row("references at hand, against " + whole, "referenced", "whole", "ratio >= 100"),
        row("indexing included, against " + whole, "indexed", "whole", "ratio >= 20"),
        row("references at hand, against h5py reading the window", "referenced", "window"),
        row("indexing included, against h5py reading the window", "indexed", "window"),
        row("open_abi and radiance of the tile, against xarray with h5netcdf and isel", "cube", "xarray"),
        row("open_abi and radiance of the tile, against satpy: Scene, load, crop", "cube", "satpy"),
        peak("kept", "peak of the process, against 16 whole disks held", "ratio >= 20", "with imports on both sides"),
        peak("whole", "peak of the process, against one whole disk at a time", None, "most of ours is imports"),
        compare(section, "the same above what imports take, 16 disks held", working, least, "MiB"),
    ]


def _windows(index: FileIndex) -> Any:
    layout = TileLayout("1km", 512, 1, CHANNELS)
    left, top = _disk_corner(index)
    tile = TileSpec("", left + PLACE[1] * 28e-6, top - PLACE[0] * 28e-6, index.grid.projection)
    return layout.source_window(tile, index.grid, index.source.channel)[0]


def _disk_corner(index: FileIndex) -> tuple[float, float]:
    return index.grid.left, index.grid.top


def tile_from_chunks(scratch: str, referenced: bool) -> Stretch:
    from cube.abi.read import read_windows

    scan, check = _scan(Path(scratch)), 0
    yield
    for file in scan.files.values():
        index = index_file(file, Path(scratch) / "index" if referenced else None)
        window = _windows(index)
        counts, flags = (
            np.empty((2, window.height, window.width), "u2"),
            np.empty((1, window.height, window.width), "u1"),
        )
        read_windows(index, "rad", [window], [counts[0]])
        read_windows(index, "dqf", [window], [flags[0]])
        check = zlib.crc32(flags[0], zlib.crc32(counts[0], check))
    return check


def tile_from_whole(scratch: str, keep: bool) -> Stretch:
    import h5py

    files, check, kept = _files_and_windows(scratch), 0, []
    yield
    for href, (rows, cols) in files:
        with h5py.File(href) as h5:
            disks = h5["Rad"][()], h5["DQF"][()]
        for disk in disks:
            check = zlib.crc32(np.ascontiguousarray(disk[rows, cols]), check)
        if keep:
            kept.append(disks)
        del disks
    return check


def tile_by_h5py(scratch: str) -> Stretch:
    import h5py

    files, check = _files_and_windows(scratch), 0
    yield
    for href, (rows, cols) in files:
        with h5py.File(href) as h5:
            check = zlib.crc32(h5["DQF"][rows, cols], zlib.crc32(h5["Rad"][rows, cols], check))
    return check


def tile_by_xarray(scratch: str) -> Stretch:
    import h5netcdf  # noqa: F401
    import xarray as xr

    files, means = _files_and_windows(scratch), []
    with xr.open_dataset(files[0][0], engine="h5netcdf") as warm_up:
        warm_up["Rad"][:2, :2].load()
    yield
    for href, (rows, cols) in files:
        with xr.open_dataset(href, engine="h5netcdf") as data:
            means.append(float(data[["Rad", "DQF"]].isel(y=rows, x=cols).load()["Rad"].mean()))
    return means


def tile_by_satpy(scratch: str) -> Stretch:
    from satpy import Scene

    index = index_file(_scan(Path(scratch)).files[1], Path(scratch) / "index")
    window, hrefs = _windows(index), [f.href for f in _scan(Path(scratch)).files.values()]
    grid, height = index.grid.window(window), index.grid.projection.perspective_point_height
    left, top = grid.left * height, grid.top * height
    box = left, top - 512 * 28e-6 * height, left + 512 * 28e-6 * height, top
    names = [f"C{c:02d}" for c in CHANNELS]
    yield
    scene = Scene(reader="abi_l1b", filenames=hrefs)
    scene.load(names, calibration="radiance")
    cropped = scene.crop(xy_bbox=box).compute()
    return [float(cropped[name].mean()) for name in names]


def tile_from_cube(scratch: str) -> Stretch:
    import dask.array  # noqa: F401  (xarray would import it on first use)

    from cube.abi.open import open_abi

    index = index_file(_scan(Path(scratch)).files[1], Path(scratch) / "index")
    area = index.grid.window(_windows(index))
    x, y = slice(area.left, area.left + 512 * 28e-6), slice(area.top, area.top - 512 * 28e-6)
    yield
    tree = open_abi(Path(scratch) / "references", chunks=None)
    return [float(tree[group]["radiance"].sel(x=x, y=y).load().mean()) for group in tree.children]


def _files_and_windows(scratch: str) -> list[tuple[str, tuple[slice, slice]]]:
    """Each file with rows and columns of the tile."""
    found = []
    for file in _scan(Path(scratch)).files.values():
        w = _windows(index_file(file, Path(scratch) / "index"))
        found.append((file.href, (slice(w.row, w.row + w.height), slice(w.col, w.col + w.width))))
    return found


# Shards --------------------------------------------------------------------------------------------------------------


def _shard(scratch: Path, tiles: int, rounds: int) -> list[Row]:
    section = f"{tiles} tiles of one scan cut, one process"
    out = []
    for grid in ("1km", "native"):
        arguments = {"scratch": scratch, "tiles": tiles, "grid": grid}
        ours = measure(shard_built, **arguments)  # its arrays are what the bare loop writes
        found = race(
            {
                "ours": (shard_built, arguments),
                "zlib": (shard_by_bare_loop, {**arguments, "inflate": "zlib"}),
                "isal": (shard_by_bare_loop, {**arguments, "inflate": "isal"}),
            },
            rounds,
        )
        seconds, result = {k: m.seconds for k, m in found.items()}, ours.result
        spent = min(ours.cpu, found["ours"].cpu)
        for inflate, target in (("zlib", "ours <= 1.5 theirs"), ("isal", None)):
            out.append(
                compare(
                    section,
                    f"{grid} grid, against a bare loop that reads, inflates ({inflate}) and writes the same",
                    min(seconds["ours"], ours.seconds),
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
    rng, (left, top), found = np.random.default_rng(7), _disk_corner(index), []
    while len(found) < count:
        row, col = (int(v) * 2 for v in rng.integers(0, (10848 - 512) // 2, 2))
        if np.hypot(row + 256 - 5424, col + 256 - 5424) < 4700:
            found.append(TileSpec(f"t{len(found)}", left + col * 28e-6, top - row * 28e-6, index.grid.projection))
    return found


def _scans(scratch: Path, steps: int) -> list[Scan]:
    """Scans twenty minutes apart: the same files under other names."""
    scan, scans = _scan(scratch), []
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
    from cube.abi.tiles import Frame, ShardTask
    from cube.abi.tilestore import create_tile_store, fills_of

    layout, scans = TileLayout(grid, 512, steps, CHANNELS), _scans(scratch, steps)
    headers = {f.href: index_file(f, scratch / "index").without_chunks() for s in scans for f in s.files.values()}
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
            "scan_starts": [[s.start for s in scans]] * tiles,
            "scan_ids": [[s.id for s in scans]] * tiles,
        }
    )
    views: dict[int, GeosProjection] = {i: p.projection for i, p in enumerate(places)}
    store = scratch / f"{name}.zarr"
    shutil.rmtree(store, ignore_errors=True)
    create_tile_store(store, layout, table, {s.id: s for s in scans}, headers, views, {})
    for shard, first in enumerate(range(0, tiles, layout.tiles_per_shard)):
        part = places[first : first + layout.tiles_per_shard]
        yield ShardTask(
            shard=shard,
            first=first,
            tiles=tuple(part),
            frames=tuple(Frame(i, t, s.id, s.files) for i in range(len(part)) for t, s in enumerate(scans)),
            layout=layout,
            fills=fills_of(layout, headers),
            good_flags=(0, 1),
            store=store,
            cache=scratch / "index",
        )


def shard_built(scratch: str, tiles: int, grid: str, steps: int = 1) -> Stretch:
    """Build a store; count the chunks that are decoded, and those that the tiles touch."""
    import cube.abi.read as reading
    from cube.abi.tiles import build_shard

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
    names = [n for n in built.array_keys() if n[0] == "C" or n.startswith("valid")]
    values = {name: np.asarray(built[name][:]) for name in names}
    yield
    for href, places in ordered.items():
        descriptor = os.open(href, os.O_RDONLY)
        for offset, size in places:
            decompress(os.pread(descriptor, size, offset))
        os.close(descriptor)
    for name, array in values.items():
        zarr.open_array(tasks[0].store / name, mode="r+")[:] = array
    return sum(map(len, ordered.values()))


# Indexing ------------------------------------------------------------------------------------------------------------


def _indexing(scratch: Path, rounds: int) -> list[Row]:
    found = race(
        {
            "ours": (indexed_by_us, {"scratch": scratch, "cached": False}),
            "cached": (indexed_by_us, {"scratch": scratch, "cached": True}),
            "kerchunk": (indexed_by_kerchunk, {"scratch": scratch}),
        },
        rounds,
    )
    per_file = {k: 1e3 * m.seconds / len(CHANNELS) for k, m in found.items()}
    section, target = "Indexing, per file on one core (mean of 16 files)", "ratio >= 1"
    theirs = per_file["kerchunk"]
    return [
        compare(
            section, "index_file, against kerchunk's SingleHdf5ToZarr", per_file["ours"], theirs, "ms", target=target
        ),
        compare(
            section, "the same with the index written to the cache", per_file["cached"], theirs, "ms", target=target
        ),
        compare(section, "peak of the process", found["cached"].peak, found["kerchunk"].peak, "MiB"),
    ]


def indexed_by_us(scratch: str, cached: bool) -> Stretch:
    files, cache = _scan(Path(scratch)).files.values(), Path(scratch) / "index-new"
    shutil.rmtree(cache, ignore_errors=True)
    yield
    return sum(index_file(file, cache if cached else None).rad.offsets.size for file in files)


def indexed_by_kerchunk(scratch: str) -> Stretch:
    from kerchunk.hdf import SingleHdf5ToZarr

    hrefs = [file.href for file in _scan(Path(scratch)).files.values()]
    yield
    return sum(len(SingleHdf5ToZarr(href).translate()["refs"]) for href in hrefs)


# A day of references ---------------------------------------------------------------------------------------------------


def _day(scratch: Path, scans: int, rounds: int) -> list[Row]:
    section = f"A day's cube: {scans} scans x 16 bands, references only"
    written = measure(day_written, scratch=scratch, scans=scans)
    opened = min((measure(day_opened, scratch=scratch, scans=scans) for _ in range(rounds)), key=lambda m: m.seconds)
    tile = measure(day_tile_read, scratch=scratch)
    size = written.result["bytes"] / written.result["references"]
    return [
        compare(section, "open_abi", opened.seconds, None, "s", target="ours < 1"),
        compare(section, "peak of the process that opens it", opened.peak, None, "MiB"),
        compare(section, "one tile of one scan of it read, 16 bands", 1e3 * tile.seconds, None, "ms"),
        compare(section, "written by write_references", written.seconds, None, "s"),
        compare(
            section, "on disk", size, None, "bytes a reference", note=f"{written.result['references']:,} references"
        ),
    ]


def day_written(scratch: str, scans: int) -> Stretch:
    from cube.abi.references import write_references

    first = [index_file(f, Path(scratch) / "index") for f in _scan(Path(scratch)).files.values()]
    rng, midnight = np.random.default_rng(3), START.replace(hour=0, minute=0)
    indexes = [index for i in range(scans) for index in _shifted(first, midnight + i * timedelta(minutes=10), rng)]
    root = Path(scratch) / "day"
    shutil.rmtree(root, ignore_errors=True)
    yield
    write_references(indexes, root)
    references = sum(int((t.sizes > 0).sum()) for i in indexes for t in (i.rad, i.dqf))
    return {"bytes": sum(p.stat().st_size for p in root.rglob("*") if p.is_file()), "references": references}


def _shifted(indexes: list[FileIndex], start: datetime, rng: np.random.Generator) -> Iterator[FileIndex]:
    """Fabricate the indexes of a scan at another time, with chunk sizes of its own."""
    for index in indexes:
        source, shift = index.source, start - START
        if not shift:  # the scan whose files are there
            yield index
            continue
        stamp = f"_s{start:%Y%j%H%M%S}{start.microsecond // 100_000}_e"
        href = re.sub(r"_s\d+_e", stamp, source.href)
        source = replace(source, href=href, start=start, end=source.end + shift, created=source.created + shift)
        tables = {}
        for name, table in (("rad", index.rad), ("dqf", index.dqf)):
            sizes = (table.sizes * rng.uniform(0.9, 1.1, table.sizes.shape)).astype("i8")
            offsets = np.where(sizes > 0, np.cumsum(sizes).reshape(sizes.shape) - sizes + 2**14, 0)
            tables[name] = replace(table, sizes=sizes, offsets=offsets)
        yield replace(index, source=source, mid_time=index.mid_time + np.timedelta64(shift), **tables)


def day_opened(scratch: str, scans: int) -> Stretch:
    import dask.array  # noqa: F401  (xarray would import it on first use)

    from cube.abi.open import open_abi

    yield
    tree = open_abi(Path(scratch) / "day")
    sizes = [tree[name].sizes["time"] for name in tree.children]
    if sizes != [scans] * 3:
        raise AssertionError(f"{sizes} scans where {scans} are expected")


def day_tile_read(scratch: str) -> Stretch:
    from cube.abi.open import open_abi

    index = index_file(_scan(Path(scratch)).files[1], Path(scratch) / "index")
    area = index.grid.window(_windows(index))
    x, y = slice(area.left, area.left + 512 * 28e-6), slice(area.top, area.top - 512 * 28e-6)
    tree = open_abi(Path(scratch) / "day", chunks=None)
    # The one scan whose files are there, not only their references.
    there = {name: tree[name]["radiance"].sel(time=START, method="nearest") for name in tree.children}
    yield
    return [float(array.sel(x=x, y=y).load().mean()) for array in there.values()]


# Memory --------------------------------------------------------------------------------------------------------------


def _memory(scratch: Path, quick: bool) -> list[Row]:
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


# Inflate -------------------------------------------------------------------------------------------------------------


def _inflate(scratch: Path, rounds: int) -> list[Row]:
    section, out = "Inflating chunks", []
    folders = {"synthetic full disk": scratch / "archive"} | (
        {"real mesoscale and CONUS files": REAL} if REAL.is_dir() else {}
    )
    for title, folder in folders.items():
        runners = {k: (inflated, {"folder": folder, "inflate": k}) for k in ("zlib", "isal")}
        found = race(runners, rounds)
        speed = {k: m.result["bytes"] / MIB / m.seconds for k, m in found.items()}
        note = f"deflated to {found['isal'].result['share']:.0%}"
        out.append(
            compare(
                section,
                f"isal against zlib, {title}",
                speed["isal"],
                speed["zlib"],
                "MiB/s",
                higher_is_better=True,
                note=note,
            )
        )
    return out


def inflated(folder: str, inflate: str, limit: int = 32 * MIB) -> Stretch:
    """Inflate chunks of all files of a folder, up to ``limit`` deflated bytes."""
    from isal import isal_zlib

    decompress = {"zlib": zlib.decompress, "isal": isal_zlib.decompress}[inflate]
    files = sorted(LocalArchive(Path(folder)).files(None, None, None, None), key=lambda f: f.href)
    chunks: list[bytes] = []
    for file in files:
        for table in ((index := index_file(file)).rad, index.dqf):
            picked = np.flatnonzero(table.sizes.ravel())[:: max(1, table.sizes.size // 200)]
            with open(file.href, "rb") as raw:
                for offset, size in zip(table.offsets.ravel()[picked], table.sizes.ravel()[picked], strict=True):
                    raw.seek(int(offset))
                    chunks.append(raw.read(int(size)))
    np.random.default_rng(0).shuffle(chunks)  # type: ignore[arg-type]
    kept = [c for c, total in zip(chunks, np.cumsum([len(c) for c in chunks]), strict=True) if total <= limit]
    yield
    size = sum(len(decompress(chunk)) for chunk in kept)
    return {"bytes": size, "share": sum(map(len, kept)) / size}
