"""A year of full disks as references, by the public writer: ``python -m tests.benchmarks.year_of_references FOLDER``.

The scan of 2020-07-01 16:00 is written in full size and indexed; of all others of the year the index is drawn from it,
with sizes of chunks by seed. References are about 44 MB a day, 16 GB a year. FOLDER is removed afterwards, in whole.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np

from catalog.geostationary.scans import SourceFile
from cube.geostationary.index import FileIndex, index_file
from cube.geostationary.references import IndexLater, write_references
from tests.benchmarks.abi_scan import START, Stretch, prepare, scan_of, window_of
from tests.benchmarks.table import Row, compare, markdown, measure

_STEP = timedelta(minutes=10)
_A_DAY = 144


def drawn(index: FileIndex, start: datetime) -> FileIndex:
    """Index of another scan: chunks of other sizes, one behind the other."""
    source, shift = index.source, start - START
    if not shift:  # the scan whose files are there
        return index
    rng = np.random.default_rng([source.channel, int(start.timestamp())])
    tables = {}
    for name, table in (("rad", index.rad), ("dqf", index.dqf)):
        sizes = (table.sizes * rng.uniform(0.9, 1.1, table.sizes.shape)).astype("i8")
        offsets = np.where(sizes > 0, np.cumsum(sizes).reshape(sizes.shape) - sizes + 2**14, 0)
        tables[name] = replace(table, sizes=sizes, offsets=offsets)
    return replace(index, source=_source(index, start), mid_time=index.mid_time + np.timedelta64(shift), **tables)


def _source(index: FileIndex, start: datetime) -> SourceFile:
    source, shift = index.source, start - START
    stamp = f"_s{start:%Y%j%H%M%S}{start.microsecond // 100_000}_e"
    return replace(
        source,
        href=re.sub(r"_s\d+_e", stamp, source.href) if shift else source.href,
        start=source.start + shift,
        end=source.end + shift,
        created=source.created + shift,
    )


def _later(index: FileIndex, start: datetime) -> IndexLater:
    return IndexLater(_source(index, start), partial(drawn, index, start))


def _scan_indexes(scratch: Path) -> list[FileIndex]:
    return [index_file(f, scratch / "index") for f in scan_of(scratch).files.values()]


def write(scratch: Path, days: int) -> float:
    """Write some days around the scan that is there, month by month; return the seconds it took."""
    first = _scan_indexes(scratch)
    begin = START - timedelta(days=days // 2)
    starts = [begin + i * _STEP for i in range(days * _A_DAY)]
    began = time.perf_counter()
    months = sorted({f"{start:%Y-%m}" for start in starts})
    for month in months:
        files = (_later(index, s) for s in starts if f"{s:%Y-%m}" == month for index in first)
        write_references(files, scratch / "year")
        sys.stderr.write(f"{month}: {time.perf_counter() - began:.0f} s\n")
    return time.perf_counter() - began


def opened(scratch: str, scans: int) -> Stretch:
    """Open all of it."""
    import dask.array  # noqa: F401  (xarray would import it on first use)
    import xarray.backends.plugins

    from cube.geostationary.dialect import imager_of
    from cube.geostationary.open import open_abi

    imager_of("goes16")
    xarray.backends.plugins.list_engines()
    yield
    tree = open_abi(Path(scratch) / "year")
    sizes = [tree[name].sizes["time"] for name in tree.children]
    if sizes != [scans] * 3:
        raise AssertionError(f"{sizes} scans where {scans} are expected")


def tile_read(scratch: str, chunks: str | None) -> Stretch:
    """Read a tile of 512 pixels of 1 km of the scan that is there, of all 16 bands."""
    import distributed  # noqa: F401  (Dask would import it on first use)

    from cube.geostationary.open import open_abi

    index = index_file(scan_of(Path(scratch)).files[1], Path(scratch) / "index")
    area = index.grid.window(window_of(index))
    height = index.grid.projection.perspective_point_height
    x = slice(area.left * height, (area.left + 512 * 28e-6) * height)
    y = slice(area.top * height, (area.top - 512 * 28e-6) * height)
    tree = open_abi(Path(scratch) / "year", chunks=chunks)
    yield
    there = {name: tree[name]["radiance"].sel(time=START, method="nearest") for name in tree.children}
    return [float(array.sel(x=x, y=y).load().mean()) for array in there.values()]


def appended(scratch: str, days: int) -> Stretch:
    """Append the day that follows."""
    first = _scan_indexes(Path(scratch))
    begin = START - timedelta(days=days // 2) + timedelta(days=days)
    indexes = [drawn(index, begin + i * _STEP) for i in range(_A_DAY) for index in first]
    yield
    if not write_references(indexes, Path(scratch) / "year"):
        raise AssertionError("nothing was appended")


def plainly_opened(scratch: str) -> Stretch:
    """Open the whole of band 13 by kerchunk's engine, and read a chunk of the scan that is there."""
    import json

    import dask.array  # noqa: F401
    import kerchunk.xarray_backend  # noqa: F401
    import xarray as xr

    root = Path(scratch) / "year"
    assets = json.loads((root / "collection.json").read_text())["assets"]
    (asset,) = (a for a in assets.values() if a["bands"][0]["name"] == "C13")
    yield
    data = xr.open_dataset(str(root / asset["href"]), **asset["xarray:open_kwargs"])
    image = data["Rad"].sel(time=np.datetime64(START), method="nearest")
    return float(image[2712:2938, 2712:2938].mean())


def rows(scratch: Path, days: int, rounds: int) -> Iterator[Row]:
    """Write, measure and tell."""
    section = f"{days} days of full disks, references only: {days * _A_DAY} scans x 16 bands"
    seconds = write(scratch, days)
    size = sum(p.stat().st_size for p in (scratch / "year").rglob("*") if p.is_file())
    yield compare(section, "written by write_references", seconds, None, "s", note=f"{size / 1e9:.2f} GB")
    where = {"scratch": scratch}
    found = min((measure(opened, **where, scans=days * _A_DAY) for _ in range(rounds)), key=lambda m: m.seconds)
    cpu = f"CPU {found.cpu:.2f} s"
    yield compare(section, "open_abi", found.seconds, None, "s", target="ours < 1", note=cpu)
    yield compare(section, "peak of that process", found.peak, None, "MiB", target="ours < 477", note="500 MB")
    for chunks in (None, "auto"):
        tile = min((measure(tile_read, **where, chunks=chunks) for _ in range(rounds)), key=lambda m: m.seconds)
        told = f"CPU {tile.cpu:.2f} s, peak {tile.peak:.0f} MiB"
        what = f"one tile of a scan in the middle, 16 bands, chunks={chunks!r}"
        yield compare(section, what, tile.seconds, None, "s", target="ours < 0.5", note=told)
    plain = min((measure(plainly_opened, **where) for _ in range(rounds)), key=lambda m: m.seconds)
    told = f"CPU {plain.cpu:.2f} s, peak {plain.peak:.0f} MiB"
    yield compare(section, "xarray.open_dataset of band 13, and a chunk of it", plain.seconds, None, "s", note=told)
    day = measure(appended, **where, days=days)
    told = f"CPU {day.cpu:.2f} s, peak {day.peak:.0f} MiB"
    yield compare(section, "a day appended, indexes at hand", day.seconds, None, "s", target="ours < 5", note=told)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that is not there yet")
    parser.add_argument("--days", type=int, default=366, help="around 2020-07-01 (default: 366)")
    parser.add_argument("--rounds", type=int, default=3, help="fresh processes, of which the fastest counts")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True)
    try:
        prepare(options.folder / "scan")
        found = []
        for row in rows(options.folder / "scan", options.days, options.rounds):
            found.append(row)
            sys.stderr.write(f"{row.what}: {row.ours:.3g} {row.unit} {row.note}\n")
        sys.stdout.write(markdown(found))
        return int(any(row.met is False for row in found))
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    sys.exit(main())
