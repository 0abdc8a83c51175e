"""``python -m loaders.bench STORE``: how fast this machine reads a store, where the time goes, what settings to use."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
import zarr

from loaders.augment import View
from loaders.batch import Decoder, PackedBatch
from loaders.loader import Loader, WorkerKind
from loaders.tiles import TileDataset
from stratacube.errors import StratacubeError, UsageError

__all__ = ["Row", "advise", "as_table", "main", "measure", "rate", "time_zarr"]

_ENOUGH = 0.95
"""The fewest workers with this share of the best rate are advised."""


@dataclass(frozen=True)
class Row:
    """One thing measured."""

    what: str
    samples: float
    """Per second."""
    megabytes: float
    """Decoded, 10^6 per second."""
    note: str = ""


def rate(
    what: str,
    sample_bytes: int,
    step: Callable[[], int],
    seconds: float,
    note: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Measure how many samples a second a step gives, which returns how many it read; its first call does not count."""
    step()
    started, samples = clock(), 0
    while clock() - started < seconds or not samples:
        samples += step()
    elapsed = clock() - started
    return Row(what, samples / elapsed, samples / elapsed * sample_bytes / 1e6, note)


def time_zarr(
    dataset: TileDataset,
    seconds: float,
    what: str = "zarr slices, one after another",
    clock: Callable[[], float] = time.perf_counter,
) -> Row:
    """Measure what zarr itself takes to read the same chunks, one slice a band."""
    options = dataset.reader.storage_options or None
    group = zarr.open_group(dataset.url, mode="r", storage_options=options)
    names = [*(b.name for b in dataset.bands), dataset.bands[0].mask]
    arrays: list[Any] = [group[name] for name in names]
    turn = itertools.cycle(range(len(dataset)))

    def step() -> int:
        tile = int(dataset.tiles[next(turn)])
        for array in arrays:
            array[tile]
        return 1

    return rate(what, sample_bytes(dataset), step, seconds, clock=clock)


def sample_bytes(dataset: TileDataset) -> int:
    """Decoded bytes that reading one sample takes: whole inner chunks of every band and of the mask."""
    steps, rows, cols = dataset.bands[0].shape
    return steps * rows * cols * 2 * (len(dataset.bands) + 1)


def measure(dataset: TileDataset, batch_size: int, workers: Sequence[int], seconds: float) -> list[Row]:
    """Measure zarr, this package in one process, and with numbers of workers; batches as stored."""
    size = sample_bytes(dataset)
    rows = [time_zarr(dataset, seconds)]
    before = dataset.reader.time.fetch, dataset.reader.time.decode
    turn = itertools.cycle(range(len(dataset)))
    rows.append(
        rate("one process", size, lambda: len(dataset.__getitems__([next(turn) for _ in range(batch_size)])), seconds)
    )
    fetch, decode = dataset.reader.time.fetch - before[0], dataset.reader.time.decode - before[1]
    rows[-1] = replace(rows[-1], note=f"{fetch / max(fetch + decode, 1e-9):.0%} of it fetching")
    for count, kind in itertools.product([n for n in workers if n], get_args(WorkerKind)):
        loader = Loader(dataset, batch_size, workers=count, workers_are=kind, device=None)
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        for _ in range(4 * count):  # those that were prefetched while the workers started
            next(batches)
        rows.append(rate(f"{count} {kind}", size, lambda b=batches: len(next(b)), seconds))  # type: ignore[misc]
    return rows


def time_decoding(dataset: TileDataset, batch_size: int, device: str, seconds: float) -> Row:
    """Measure moving and decoding one batch on the device that trains."""
    packed: PackedBatch = dataset.__getitems__([i % len(dataset) for i in range(batch_size)])
    try:
        packed.to(device)
    except (RuntimeError, AssertionError) as error:  # torch says by an assertion that it was built without CUDA
        raise UsageError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    decoder = Decoder()

    def step() -> int:
        decoded = decoder(packed.to(device))
        if decoded.pixels.is_cuda:
            torch.cuda.synchronize()
        return batch_size

    return rate(
        f"decoding on {device}", sample_bytes(dataset), step, seconds, "beside the reading, where that is a GPU"
    )


def advise(rows: Sequence[Row], dataset: TileDataset, batch_size: int, prefetch: int = 2) -> str:
    """Say which number of workers to use, and what memory that takes."""
    found = {(0, "processes"): rows[1].samples}
    for row in rows[2:]:
        count, kind = row.what.split()
        found[int(count), kind] = row.samples
    best = max(found.values())
    workers, kind = min(k for k, samples in found.items() if samples >= _ENOUGH * best)
    memory = max(1, workers * prefetch) * batch_size * sample_bytes(dataset)
    how = f"workers={workers}, workers_are={kind!r}, prefetch={prefetch}"
    return f"use {how}: {found[workers, kind]:.1f} samples/s; {memory / 1e6:.0f} MB of batches wait in memory"


def as_table(rows: Sequence[Row]) -> str:
    """Lay out rows as text, each with its ratio to the first."""
    lines = [f"{'':44} {'samples/s':>10} {'MB/s':>8} {'ratio':>6}"]
    for row in rows:
        ratio = row.samples / rows[0].samples
        lines.append(f"{row.what:44} {row.samples:10.2f} {row.megabytes:8.0f} {ratio:6.2f}  {row.note}".rstrip())
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser("python -m loaders.bench", description=__doc__)
    parser.add_argument("store", metavar="STORE", help="tiles.zarr, or the folder of a build; path or URL")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--bands", nargs="+", help="such as C01 C13 (default: all)")
    parser.add_argument("--crop", type=int, help="pixels along a side (default: whole tiles)")
    parser.add_argument("--steps", type=int, help="consecutive time steps (default: all)")
    parser.add_argument("--workers", type=int, nargs="*", help="numbers to try (default: 1, 2, 4 .. to the CPUs)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement (default: %(default)s)")
    parser.add_argument("--anonymous", action="store_true", help="read object storage without credentials")
    args = parser.parse_args(argv)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = args.workers if args.workers is not None else [2**i for i in range(cpus.bit_length())]
    try:
        if args.batch_size < 1 or args.seconds <= 0:
            raise UsageError(f"--batch-size {args.batch_size} and --seconds {args.seconds} must be greater than 0")
        options = {"anon": True} if args.anonymous else None
        if min(workers, default=0) < 0:
            raise UsageError(f"--workers {min(workers)} must be 0 (this process alone) or more")
        view = View(args.steps, args.crop)
        dataset = TileDataset(args.store, bands=args.bands, view=view, storage_options=options)
        rows = measure(dataset, args.batch_size, workers, args.seconds)
        decoding = time_decoding(dataset, args.batch_size, args.device, args.seconds)
        advice = advise(rows, dataset, args.batch_size)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except StratacubeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    steps, height, width = dataset.bands[0].shape
    sys.stdout.write(
        f"{dataset.url}: {len(dataset)} tiles of {len(dataset.bands)} bands x {steps} x {height} x {width}, "
        f"{sample_bytes(dataset) / 1e6:.1f} MB each; {cpus} CPUs\n"
        "(what was read before may come from the memory of the operating system: use a store larger than it)\n"
        f"{as_table([*rows, decoding])}\n{advice}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
