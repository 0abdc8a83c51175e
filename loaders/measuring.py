"""How fast this machine reads a store, where the time goes, what settings to use."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
import zarr

from loaders.batch import Decoder, PackedBatch
from loaders.device import device_of
from loaders.loader import Loader, WorkerKind
from loaders.tiles import TileDataset

__all__ = ["Row", "advise", "as_table", "measure", "rate", "sample_bytes", "time_decoding", "time_zarr"]

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
    names = [*(b.name for b in dataset.bands), *dataset.masks]
    arrays: list[Any] = [group[name] for name in names]
    turn = itertools.cycle(range(len(dataset)))

    def step() -> int:
        tile = int(dataset.tiles[next(turn)])
        for array in arrays:
            array[tile]
        return 1

    return rate(what, sample_bytes(dataset), step, seconds, clock=clock)


def sample_bytes(dataset: TileDataset) -> int:
    """Decoded bytes that reading one sample takes: whole inner chunks of every band and of the masks."""
    masks = {band.mask: math.prod(band.stored) * np.dtype(band.mask_dtype).itemsize for band in dataset.bands}
    return sum(2 * math.prod(band.stored) for band in dataset.bands) + sum(masks.values())


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
    decoder, where = Decoder(), device_of(device)

    def step() -> int:
        decoded = decoder(packed.to(where))
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
