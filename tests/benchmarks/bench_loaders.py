"""How the loaders compare: bare zarr, the zarrs pipeline, xbatcher, workers, object storage.

Run by ``python -m tests.benchmarks loaders``. Each row reads the same bytes in two ways. Tiles are of real scans where
the samples are, at native pixels, as builds store them: a tile's steps are disjoint crops, so that no chunk holds
anything twice (chunks are compressed each by itself, and may well come again). One process is compared by CPU time,
which tells what it does on a machine that others use too. For object storage, where the codec matters little, crops of
one scan that overlap make larger tiles.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import psutil
import s3fs
import torch
import xarray as xr
import xbatcher
import zarr

from cube.job.codec import codecs_of
from loaders.cubes import cube_loader
from loaders.loader import Loader, WorkerKind
from loaders.measuring import Row, rate, sample_bytes, time_zarr
from loaders.order import Order
from loaders.tiles import TileDataset
from tests.benchmarks import table
from tests.benchmarks.real_crops import Crops, real_crops

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


def native_tiles(data: Path) -> Crops:
    """Tiles of 7 disjoint crops of two real scans, 15 bands at their own pixels."""
    both = [c for c in real_crops(data, steps=7, size=240, most=2) if c.scan in ("M1, day", "M1, night")]
    shared = sorted(set(both[0].bands) & set(both[1].bands))
    bands = {channel: np.concatenate([c.bands[channel] for c in both]) for channel in shared}
    return Crops("both", bands, {k: np.concatenate([c.valid[k] for c in both]) for k in both[0].valid})


def write_native(path: Path, crops: Crops, tiles: int) -> None:
    """Write a store of the layout that builds have, the tiles again and again."""
    shutil.rmtree(path, ignore_errors=True)
    finest = max(mask.shape[-1] for mask in crops.valid.values())
    group = zarr.open_group(path, mode="w", attributes={"grid": "1km", "store": "native", "tile_size": finest})
    flags = {
        "flag_masks": [1 << (channel - 1) for channel in crops.bands],
        "flag_meanings": " ".join(f"C{channel:02d}" for channel in crops.bands),
    }

    def write(name: str, values: npt.NDArray[np.uint16], attributes: dict[str, Any]) -> None:
        repeat = finest // values.shape[-1]
        suffix = "_2km" if repeat > 1 else ""
        array = group.create_array(
            name,
            shape=(tiles, *values.shape[1:]),
            dtype="<u2",
            chunks=(1, *values.shape[1:]),
            shards=(tiles, *values.shape[1:]),
            fill_value=0,
            compressors=codecs_of(CODEC, mask=name.startswith("valid")),
            dimension_names=("tile", "time", f"y{suffix}", f"x{suffix}"),
            attributes={**attributes, "repeat": repeat},
        )
        array[:] = values[np.arange(tiles) % len(values)]

    for channel, values in crops.bands.items():
        mask = "valid" if values.shape[-1] == finest else "valid_2km"
        write(f"C{channel:02d}", values, {"ancillary_variables": mask})
    for pixel, values in crops.valid.items():
        write("valid" if pixel == "1km" else "valid_2km", values, flags)
    _write_small(group, tiles, 7, tuple(crops.bands))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(path)


def _write_small(group: zarr.Group, tiles: int, steps: int, channels: Sequence[int]) -> None:
    band = (tiles, steps, len(channels))
    time_units = {"units": "microseconds since 1970-01-01"}
    small: dict[str, Any] = {
        "band": (("band",), np.array(channels, "i1"), {}),
        "packing_scale": (("tile", "time", "band"), np.full(band, 0.1), {}),
        "packing_offset": (("tile", "time", "band"), np.full(band, -1.0), {}),
        "requested_time": (("tile", "time"), np.zeros(band[:2], "i8"), time_units),
    }
    for name, (dims, values, attrs) in small.items():
        group.create_array(name, data=values, dimension_names=dims, attributes=attrs)


def write_store(path: Path, counts: Counts, *, tiles: int, steps: int, size: int) -> None:
    """Write a store of the layout that builds have."""
    shutil.rmtree(path, ignore_errors=True)
    group = zarr.open_group(path, mode="w", attributes={"grid": "1km"})
    shape = (tiles, steps, size, size)
    flags = {"flag_masks": [1 << (c - 1) for c in CHANNELS], "flag_meanings": " ".join(f"C{c:02d}" for c in CHANNELS)}
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
            attributes=flags if name == "valid" else {"ancillary_variables": "valid"},
        )
        for i in range(0, tiles, per_shard):
            n = min(per_shard, tiles - i)
            one = np.full(shape[1:], everywhere) if name == "valid" else counts(int(name[1:]), steps, size)
            array[i : i + n] = np.stack([np.roll(one, 7 * (i + k), -1) for k in range(n)])
    _write_small(group, tiles, steps, CHANNELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(path)


def reading(store: Path, seconds: float) -> dict[str, Row]:
    """Compare this package with zarr, the zarrs pipeline, and xbatcher tuned to one tile a batch; by CPU time."""
    dataset = TileDataset(store)
    turn = itertools.cycle(range(len(dataset)))
    names = [*(b.name for b in dataset.bands), *dataset.masks]
    raw = xr.open_zarr(store, mask_and_scale=False, chunks=None)[names]
    sizes = dict(raw.sizes) | {"tile": 1}
    batches = xbatcher.BatchGenerator(raw, input_dims=sizes, preload_batch=False)
    order = itertools.cycle(range(len(batches)))

    def theirs() -> int:
        batch = batches[next(order)]
        for name in names:
            torch.from_numpy(batch[name].values)
        return 1

    def ours() -> int:
        return len(dataset.__getitems__([next(turn) for _ in range(2)]))

    found: dict[str, Row] = {}
    for _ in range(3):  # in turn, and the best: what is beside comes and goes
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            rows = [time_zarr(dataset, seconds / 3, "zarrs", clock=cpu)]
        rows.append(time_zarr(dataset, seconds / 3, "zarr", clock=cpu))
        rows.append(rate("xbatcher", sample_bytes(dataset), theirs, seconds / 3, clock=cpu))
        rows.append(rate("ours", sample_bytes(dataset), ours, seconds / 3, clock=cpu))
        for row in rows:
            best = found.get(row.what)
            found[row.what] = row if best is None or row.megabytes > best.megabytes else best
    return found


def workers(store: Path, seconds: float, kind: WorkerKind) -> tuple[float, float]:
    """MB/s of two workers, and of one that is held to one core with what takes its batches; the best of some rounds."""
    dataset = TileDataset(store)
    every = os.sched_getaffinity(0)
    best = {1: 0.0, 2: 0.0}
    for _ in range(4):
        for count in (1, 2):
            os.sched_setaffinity(0, every if count > 1 else {min(every)})
            try:
                best[count] = max(best[count], _with_workers(dataset, seconds / 2, count=count, kind=kind))
            finally:
                os.sched_setaffinity(0, every)
    return best[2], best[1]


def cpu_of_workers(store: Path, batches: int) -> tuple[float, float]:
    """CPU milliseconds a sample of all processes, with two workers, and with one that is held to one core."""
    dataset = TileDataset(store)
    every = os.sched_getaffinity(0)
    best = {1: float("inf"), 2: float("inf")}
    for _ in range(3):
        for count in (1, 2):
            os.sched_setaffinity(0, every if count > 1 else {min(every)})
            try:
                loader = Loader(dataset, 2, workers=count, prefetch=4, device=None)
                stream = itertools.chain.from_iterable(itertools.repeat(loader))
                taken = [len(next(stream)) for _ in range(16)]
                before = _cpu_of_tree()
                taken = [len(next(stream)) for _ in range(batches)]
                best[count] = min(best[count], (_cpu_of_tree() - before) / sum(taken) * 1000)
            finally:
                os.sched_setaffinity(0, every)
    return best[2], best[1]


def _cpu_of_tree() -> float:
    """CPU seconds so far of this process and its living children."""
    own = psutil.Process()
    times = [p.cpu_times() for p in (own, *own.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def laid_out() -> float:
    """CPU seconds to lay out an epoch of a mixture of a million samples."""
    order = Order((600_000, 300_000, 100_000), shares=(1, 2, 1), weights=(None, np.arange(1.0, 300_001), None))
    started = cpu()
    assert len(order.epoch(3).samples) == 1_000_000
    return cpu() - started


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


def _with_workers(
    dataset: TileDataset, seconds: float, pause: float = 0.0, count: int = 2, kind: WorkerKind = "processes"
) -> float:
    """MB/s of workers that read batches of two for a model that takes ``pause`` seconds a batch."""
    loader = Loader(dataset, 2, workers=count, prefetch=4, device=None, workers_are=kind)
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
    data = Path(os.environ.get("STRATACUBE_DATA") or table.CHECKOUT.parent / "shared" / "data")
    counts = real_counts(data) if data.is_dir() else smooth_counts
    seconds = 0.2 if quick else 3.0
    store, native = scratch / "bench.zarr", scratch / "native.zarr"
    write_store(store, counts, tiles=8 if quick else 32, steps=7, size=256)
    if data.is_dir():
        write_native(native, native_tiles(data), 8 if quick else 16)
    else:
        native = store
    read = reading(native, seconds)
    one = read["ours"]
    tiles = [
        _row("one process", one, read["zarr"], "ratio >= 2.5", "against bare zarr, one slice a band; by CPU time"),
        _row("one process", one, read["xbatcher"], "ratio >= 2.5", "against xbatcher; by CPU time"),
        _row("one process", one, read["zarrs"], None, "against zarr with the zarrs pipeline; by CPU time"),
    ]
    kinds: tuple[tuple[WorkerKind, str | None], ...] = (("processes", "ratio >= 1.8"), ("threads", None))
    for kind, target in kinds:
        two, alone = workers(native, seconds, kind)
        note = "against one held to one core; the best of four rounds"
        tiles.append(table.Row("", f"two worker {kind}", two, alone, "MB/s", two / alone, target, note))
    two, alone = cpu_of_workers(native, 16 if quick else 128)
    note = "CPU time of a sample, against one held to one core; 0.9 leaves 1.8 times the rate on two free cores"
    tiles.append(table.Row("", "two worker processes", two, alone, "ms", alone / two, "ratio >= 0.9", note))
    what = "an epoch of a mixture of a million samples laid out"
    tiles.append(table.Row("", what, min(laid_out() for _ in range(3)), None, "s", None, "ours < 1", "CPU time a rank"))
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
