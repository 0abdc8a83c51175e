"""How the loaders compare: bare zarr, the zarrs pipeline, xbatcher, workers, object storage.

Run by ``python -m tests.benchmarks loaders``. Each row reads the same bytes in two ways; real samples are taken where
they are, else waves with noise stand in. Codecs were compared here too, and plain Zstandard chosen for the store. That
was a mistake: the steps of these tiles are crops of one scan that overlap, and the tiles of a store are one, rolled,
so that a codec that looks far back finds everything again. ``bench_codecs.py`` compares codecs, on disjoint crops.
"""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import s3fs
import torch
import xarray as xr
import xbatcher
import zarr

from cube.job.codec import codecs_of
from loaders.cubes import cube_loader
from loaders.loader import Loader
from loaders.measuring import Row, measure, rate, sample_bytes, time_zarr
from loaders.tiles import TileDataset
from tests.benchmarks import table

CHANNELS = (1, 3, 5, 7, 8, 10, 13, 14)
CODEC = "lz4hc"
"""What builds store tiles with."""
cpu = time.process_time
"""Compares what one process does on a machine that others use too."""
Counts = Callable[[int, int, int], npt.NDArray[np.uint16]]


def real_counts(data: Path) -> Counts:
    """Crops of a real scan on the 1 km grid, another place for each step; they overlap."""
    scan = data / "abi/noaa-goes17/ABI-L1b-RadM/2019/300/20"
    images = {}
    for channel in CHANNELS:
        (path,) = scan.glob(f"*M6C{channel:02d}_*.nc")
        with h5py.File(path) as file:
            raw = file["Rad"][:].view("u2")
        images[channel] = raw.repeat(1000 // len(raw), 0).repeat(1000 // len(raw), 1)

    def counts(channel: int, steps: int, size: int) -> npt.NDArray[np.uint16]:
        rng = np.random.default_rng(channel)
        corners = rng.integers(0, 1000 - size, (steps, 2))
        return np.stack([images[channel][y : y + size, x : x + size] for y, x in corners])

    return counts


def smooth_counts(channel: int, steps: int, size: int) -> npt.NDArray[np.uint16]:
    """A stand-in where the samples are not: waves and a little noise."""
    rng = np.random.default_rng(channel)
    y, x = np.mgrid[:size, :size] / size * 9
    frames = [1000 + 400 * np.sin(x + 0.1 * t) * np.cos(y) + rng.normal(0, 4, (size, size)) for t in range(steps)]
    return np.stack(frames).astype("u2")


def write_store(path: Path, counts: Counts, *, tiles: int, steps: int, size: int) -> None:
    """Write a store of the layout that builds have."""
    shutil.rmtree(path, ignore_errors=True)
    group = zarr.open_group(path, mode="w", attributes={"grid": "1km"})
    shape, band = (tiles, steps, size, size), (tiles, steps, len(CHANNELS))
    per_shard = max(1, 2**25 // (steps * size * size * 2))
    everywhere = np.uint16(sum(1 << (c - 1) for c in CHANNELS))
    for name in [f"C{c:02d}" for c in CHANNELS] + ["valid"]:
        array = group.create_array(
            name,
            shape=shape,
            dtype="<u2",
            chunks=(1, *shape[1:]),
            shards=(min(per_shard, tiles), *shape[1:]),
            fill_value=0,
            compressors=codecs_of(CODEC, mask=name == "valid"),
            dimension_names=("tile", "time", "y", "x"),
            attributes={"ancillary_variables": "valid"},
        )
        for i in range(0, tiles, per_shard):
            n = min(per_shard, tiles - i)
            one = np.full(shape[1:], everywhere) if name == "valid" else counts(int(name[1:]), steps, size)
            array[i : i + n] = np.stack([np.roll(one, 7 * (i + k), -1) for k in range(n)])
    time_units = {"units": "microseconds since 1970-01-01"}
    small: dict[str, Any] = {
        "band": (("band",), np.array(CHANNELS, "i1"), {}),
        "packing_scale": (("tile", "time", "band"), np.full(band, 0.1), {}),
        "packing_offset": (("tile", "time", "band"), np.full(band, -1.0), {}),
        "requested_time": (("tile", "time"), np.zeros(band[:2], "i8"), time_units),
    }
    for name, (dims, values, attrs) in small.items():
        group.create_array(name, data=values, dimension_names=dims, attributes=attrs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(path)


def reading(store: Path, seconds: float) -> list[Row]:
    """Compare this package with zarr, the zarrs pipeline, and xbatcher tuned to one tile a batch."""
    dataset = TileDataset(store)
    rows = measure(dataset, 2, (1, 2), seconds)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        rows.append(time_zarr(dataset, seconds, "zarr slices, zarrs pipeline"))
    names = [b.name for b in dataset.bands] + ["valid"]
    raw = xr.open_zarr(store, mask_and_scale=False, chunks=None)[names]
    sizes = dict(raw.sizes) | {"tile": 1}
    batches = xbatcher.BatchGenerator(raw, input_dims=sizes, preload_batch=False)
    order = itertools.cycle(range(len(batches)))

    def step() -> int:
        batch = batches[next(order)]
        torch.from_numpy(np.stack([batch[n].values for n in names]))
        return 1

    rows.append(rate("xbatcher on tiles, one tile a batch", sample_bytes(dataset), step, seconds))
    return rows


def cubes(store: Path, seconds: float) -> list[Row]:
    """Windows of a lazily opened cube: xbatcher alone, and cube_loader, both to float32; by CPU time."""
    raw = xr.open_zarr(store, mask_and_scale=False, chunks=None)[[f"C{c:02d}" for c in CHANNELS]]
    steps, size = raw.sizes["time"], raw.sizes["y"]
    window = {"time": steps, "y": size // 2, "x": size // 2}
    bytes_ = len(CHANNELS) * steps * (size // 2) ** 2 * 2
    batches = xbatcher.BatchGenerator(raw, input_dims={"tile": 1, **window}, preload_batch=False)
    order = itertools.cycle(range(len(batches)))

    def theirs() -> int:
        batch = batches[next(order)]
        torch.from_numpy(np.stack([batch[n].values for n in batch.data_vars]).astype("f4"))
        return 1

    loader = cube_loader(raw, window, 2, shuffle=False, device=None)
    ours = itertools.chain.from_iterable(itertools.repeat(loader))
    return [
        rate("xbatcher on a cube, window by window", bytes_, theirs, seconds, clock=cpu),
        rate("cube_loader, one process", bytes_, lambda: len(next(ours)), seconds, clock=cpu),
    ]


@contextmanager
def s3(latency: float) -> Iterator[dict[str, Any]]:
    """A server in a process of its own, and the options to reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("slow_s3.py")
    server = subprocess.Popen([sys.executable, str(script), str(port), str(latency)], stderr=subprocess.DEVNULL)
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": f"http://127.0.0.1:{port}"}}
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield options
    finally:
        server.terminate()
        server.wait()


def object_storage(store: Path, seconds: float) -> list[table.Row]:
    """Two workers on S3 of 20 ms latency, beside local files, the same server without latency, and fetching alone.

    The server works on the CPUs that decode too. So there is a row at the pace of a model as well: reading must keep
    up with one that takes twice as long for a batch as reading it from local files.
    """
    latency, name = 0.02, "S3 of 20 ms latency"
    dataset = TileDataset(store)
    local = _with_workers(dataset, seconds)
    pause = 2 * 2 * sample_bytes(dataset) / 1e6 / local
    paced = _with_workers(dataset, seconds, pause)
    found = {}
    for late in (0.0, latency):
        with s3(late) as options:
            files = s3fs.S3FileSystem(**options, skip_instance_cache=True)
            files.mkdir("bench")
            files.put(str(store), "bench/tiles.zarr", recursive=True)
            remote = TileDataset("s3://bench/tiles.zarr", storage_options=options)
            found[late] = _with_workers(remote, seconds)
            if late:
                alone, kept_up = _fetching(remote, seconds), _with_workers(remote, seconds, pause)
    far, near = found[latency], found[0.0]
    pace = f"with a model that takes {pause * 1000:.0f} ms a batch"
    pairs = [
        (f"{name}, against the same without latency", far, near, "ratio >= 0.8", "prefetch hides the latency"),
        (f"{name}, against local files, {pace}", kept_up, paced, "ratio >= 0.8", ""),
        (f"{name}, against local files", far, local, "ratio >= 0.8", f"the server alone gives {alone:,.0f} MB/s here"),
        (f"{name}, against fetching the same bytes without decoding", far, alone, None, ""),
    ]
    return [
        table.Row("", what, ours, theirs, "MB/s", ours / theirs, target, note)
        for what, ours, theirs, target, note in pairs
    ]


def _with_workers(dataset: TileDataset, seconds: float, pause: float = 0.0) -> float:
    """MB/s of two workers that read batches of two for a model that takes ``pause`` seconds a batch."""
    loader = Loader(dataset, 2, workers=2, prefetch=4, device=None)
    batches: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(loader))
    for _ in range(16):
        next(batches)

    def step() -> int:
        read = len(next(batches))
        time.sleep(pause)
        return read

    return rate("", sample_bytes(dataset), step, seconds).megabytes


def _fetching(dataset: TileDataset, seconds: float) -> float:
    """MB/s, as if decoded, of the bare requests that two workers make."""
    reader = dataset.reader
    arrays = [reader.array(name) for name in (*(b.name for b in dataset.bands), dataset.bands[0].mask)]
    ranges = [reader._locate([(array, int(tile)) for array in arrays]) for tile in dataset.tiles]
    turn = itertools.cycle(ranges)

    def fetch(_: int) -> int:
        return len(reader._cat([*next(turn), *next(turn)])) // len(arrays)

    with ThreadPoolExecutor(2) as pool:
        return rate("", sample_bytes(dataset), lambda: sum(pool.map(fetch, range(4))), seconds).megabytes


def rows(scratch: Path, quick: bool) -> list[table.Row]:
    """Measure everything."""
    data = table.CHECKOUT.parent / "shared" / "data"
    counts = real_counts(data) if data.is_dir() else smooth_counts
    seconds = 0.2 if quick else 3.0
    store = scratch / "bench.zarr"
    write_store(store, counts, tiles=8 if quick else 32, steps=7, size=256)
    read = {row.what: row for row in reading(store, seconds)}
    bare, one = read["zarr slices, one after another"], read["one process"]
    tiles = [
        _row("one process", one, bare, "ratio >= 0.9", "against zarr, one slice a band"),
        _row("two processes", read["2 processes"], read["1 processes"], "ratio >= 1.8", "against one worker process"),
        _row("two threads", read["2 threads"], read["1 threads"], None, "against one worker thread"),
        _row("one process", one, read["zarr slices, zarrs pipeline"], None, "against zarr with the zarrs pipeline"),
        _row("one process", one, read["xbatcher on tiles, one tile a batch"], "ratio >= 1.5", "against xbatcher"),
    ]
    theirs, ours = cubes(store, seconds)
    windows = [_row("windows of a cube", ours, theirs, "ratio >= 1", "against xbatcher; by CPU time")]
    large = scratch / "large.zarr"  # of the size that models take: a chunk is about 1 MB as stored
    write_store(large, counts, tiles=8 if quick else 18, steps=7, size=256 if quick else 512)
    remote = object_storage(large, seconds)
    sections = {
        "Loaders: tiles": tiles,
        "Loaders: cubes": windows,
        "Loaders: object storage, two workers, tiles of 7 x 512 x 512, batches of two": remote,
    }
    return [replace(row, section=title) for title, part in sections.items() for row in part]


def _row(what: str, ours: Row, theirs: Row, target: str | None, note: str) -> table.Row:
    ratio = ours.megabytes / theirs.megabytes
    return table.Row("", what, ours.megabytes, theirs.megabytes, "MB/s", ratio, target, note)
