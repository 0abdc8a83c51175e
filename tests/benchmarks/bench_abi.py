"""The ABI main job against what one would write without it, on one full-disk scan of full size (16 files, 890 MB)."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from catalog.geostationary.archives import LocalArchive
from cube.geostationary.index import index_file
from tests.benchmarks.abi_references import day_rows, indexing_rows
from tests.benchmarks.abi_scan import CHANNELS, Stretch, prepare, scan_of, window_of
from tests.benchmarks.abi_shards import memory_rows, shard_rows
from tests.benchmarks.table import CHECKOUT, MIB, Row, compare, race

DAY = 144
"""Scans of a day, every ten minutes."""
REAL = CHECKOUT.parent / "shared" / "data" / "abi"


def rows(scratch: Path, quick: bool) -> list[Row]:
    """Every comparison; ``quick`` means fewer tiles and one round."""
    rounds = 1 if quick else 3
    prepare(scratch)
    return [
        *_one_tile(scratch, rounds),
        *shard_rows(scratch, 8 if quick else 64, rounds),
        *indexing_rows(scratch, rounds),
        *day_rows(scratch, 12 if quick else DAY, rounds),
        *memory_rows(scratch, quick),
        *_inflate(scratch, rounds),
    ]


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
            "whole": (tile_from_whole, {"scratch": scratch, "keep": False}),
            "kept": (tile_from_whole, {"scratch": scratch, "keep": True}),
        },
        rounds,
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


def tile_from_chunks(scratch: str, referenced: bool) -> Stretch:
    from cube.geostationary.read import read_windows

    scan, check = scan_of(Path(scratch)), 0
    yield
    for file in scan.files.values():
        index = index_file(file, Path(scratch) / "index" if referenced else None)
        window = window_of(index)
        shape = window.height, window.width
        counts, flags = np.empty(shape, "u2"), np.empty(shape, "u1")
        read_windows(index, "rad", [window], [counts])
        read_windows(index, "dqf", [window], [flags])
        check = zlib.crc32(flags.data, zlib.crc32(counts.data, check))
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

    index = index_file(scan_of(Path(scratch)).files[1], Path(scratch) / "index")
    window, hrefs = window_of(index), [f.href for f in scan_of(Path(scratch)).files.values()]
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

    from cube.geostationary.open import open_abi

    index = index_file(scan_of(Path(scratch)).files[1], Path(scratch) / "index")
    area = index.grid.window(window_of(index))
    x, y = slice(area.left, area.left + 512 * 28e-6), slice(area.top, area.top - 512 * 28e-6)
    yield
    tree = open_abi(Path(scratch) / "references", chunks=None)
    return [float(tree[group]["radiance"].sel(x=x, y=y).load().mean()) for group in tree.children]


def _files_and_windows(scratch: str) -> list[tuple[str, tuple[slice, slice]]]:
    """Each file with rows and columns of the tile."""
    found = []
    for file in scan_of(Path(scratch)).files.values():
        w = window_of(index_file(file, Path(scratch) / "index"))
        found.append((file.href, (slice(w.row, w.row + w.height), slice(w.col, w.col + w.width))))
    return found


def _inflate(scratch: Path, rounds: int) -> list[Row]:
    section, out = "Inflating chunks", []
    folders = {"synthetic full disk": scratch / "archive"}
    if REAL.is_dir():
        folders["real mesoscale and CONUS files"] = REAL
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
    np.random.default_rng(0).shuffle(chunks)
    kept = [c for c, total in zip(chunks, np.cumsum([len(c) for c in chunks]), strict=True) if total <= limit]
    yield
    size = sum(len(decompress(chunk)) for chunk in kept)
    return {"bytes": size, "share": sum(map(len, kept)) / size}
