"""Indexing against kerchunk, and a day of references."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from cube.geostationary.index import FileIndex, index_file
from tests.benchmarks.abi_scan import CHANNELS, START, Stretch, scan_of, window_of
from tests.benchmarks.table import Row, compare, measure, race

__all__ = ["day_rows", "indexing_rows"]


def indexing_rows(scratch: Path, rounds: int) -> list[Row]:
    found = race(
        {
            "ours": (indexed_by_us, {"scratch": scratch, "cached": False}),
            "cached": (indexed_by_us, {"scratch": scratch, "cached": True}),
            "kerchunk": (indexed_by_kerchunk, {"scratch": scratch}),
        },
        rounds,
    )
    per_file = {k: 1e3 * m.seconds / len(CHANNELS) for k, m in found.items()}
    section = "Indexing, per file on one core (mean of 16 files)"

    def row(what: str, ours: str) -> Row:
        note = f"CPU of all files: {found[ours].cpu:.2f} s against {found['kerchunk'].cpu:.2f} s"
        return compare(section, what, per_file[ours], per_file["kerchunk"], "ms", target="ratio >= 1", note=note)

    return [
        row("index_file, against kerchunk's SingleHdf5ToZarr", "ours"),
        row("the same with the index written to the cache", "cached"),
        compare(section, "peak of the process", found["cached"].peak, found["kerchunk"].peak, "MiB"),
    ]


def indexed_by_us(scratch: str, cached: bool) -> Stretch:
    files, cache = scan_of(Path(scratch)).files.values(), Path(scratch) / "index-new"
    shutil.rmtree(cache, ignore_errors=True)
    yield
    return sum(index_file(file, cache if cached else None).rad.offsets.size for file in files)


def indexed_by_kerchunk(scratch: str) -> Stretch:
    from kerchunk.hdf import SingleHdf5ToZarr

    hrefs = [file.href for file in scan_of(Path(scratch)).files.values()]
    yield
    return sum(len(SingleHdf5ToZarr(href).translate()["refs"]) for href in hrefs)


def day_rows(scratch: Path, scans: int, rounds: int) -> list[Row]:
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
    from cube.geostationary.references import write_references

    first = [index_file(f, Path(scratch) / "index") for f in scan_of(Path(scratch)).files.values()]
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

    from cube.geostationary.open import open_abi

    yield
    tree = open_abi(Path(scratch) / "day")
    sizes = [tree[name].sizes["time"] for name in tree.children]
    if sizes != [scans] * 3:
        raise AssertionError(f"{sizes} scans where {scans} are expected")


def day_tile_read(scratch: str) -> Stretch:
    from cube.geostationary.open import open_abi

    index = index_file(scan_of(Path(scratch)).files[1], Path(scratch) / "index")
    area = index.grid.window(window_of(index))
    x, y = slice(area.left, area.left + 512 * 28e-6), slice(area.top, area.top - 512 * 28e-6)
    tree = open_abi(Path(scratch) / "day", chunks=None)
    # The one scan whose files are there, not only their references.
    there = {name: tree[name]["radiance"].sel(time=START, method="nearest") for name in tree.children}
    yield
    return [float(array.sel(x=x, y=y).load().mean()) for array in there.values()]
