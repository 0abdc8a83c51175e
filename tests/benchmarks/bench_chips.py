"""Samples a second for the example of ``docs/examples/unet3d.py``, against the loader of chips it takes the place of.

Theirs are files as SatVision-Pix4D's CloudSat cutter writes them, one npz a chip with (time, y, x, band) in float32,
read as its users do: one a batch, laid out as a network takes it, scaled by the least and the largest value. The same
pixels, profiles and bands lie in a store as builds write it.
"""

from __future__ import annotations

import itertools
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from loaders.measuring import rate
from loaders.tiles import tile_loader
from tests.benchmarks import table
from tests.benchmarks.bench_loaders import CHANNELS, real_counts, smooth_counts, write_store

STEPS, PROFILES, BINS = 7, 91, 40
REPEATED = 16
"""How often each sample comes in an epoch, so that few of them make a long one."""


class Chips(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One file a sample."""

    def __init__(self, folder: str) -> None:
        self.files = sorted(Path(folder).glob("*.npz")) * REPEATED

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with np.load(self.files[index]) as held:
            chip, classes = held["ABI/chip"], held["CloudSat/class"]
        low, high = -1.0, 410.0
        return torch.from_numpy(
            np.ascontiguousarray((np.moveaxis(chip, -1, 0) - low) / (high - low))
        ), torch.from_numpy(classes)


def write_labels(path: Path, tiles: int, size: int) -> None:
    """Add profiles from top to bottom of each tile."""
    group, rng = zarr.open_group(path, mode="r+", use_consolidated=False), np.random.default_rng(1)
    flags = {"flag_masks": [1 << (c - 1) for c in CHANNELS], "flag_meanings": " ".join(f"C{c:02d}" for c in CHANNELS)}
    group["valid"].attrs.update(flags)
    total = tiles * PROFILES
    rows = np.tile(np.linspace(0, size - 1, PROFILES).astype("i4"), tiles)
    classes = rng.integers(0, 9, (total, BINS)).astype("i1")
    names = {"flag_values": [-1, *range(9)], "flag_meanings": "missing clear ci as ac st sc cu ns dc"}
    written: dict[str, tuple[tuple[str, ...], Any, dict[str, Any]]] = {
        "cloudsat_profile_count": (("tile",), np.full(tiles, PROFILES, "i4"), {}),
        "cloudsat_profile_start": (("tile",), np.arange(tiles, dtype="i8") * PROFILES, {}),
        "cloudsat_class": (("profile", "cloudsat_height"), classes, names),
        "cloudsat_valid": (("profile",), np.ones(total, "i1"), {}),
        "cloudsat_row": (("profile",), rows, {}),
        "cloudsat_col": (("profile",), rows // 2, {}),
    }
    for name, (dims, values, attributes) in written.items():
        group.create_array(name, data=values, dimension_names=dims, attributes=attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        zarr.consolidate_metadata(path)


def write_chips(store: Path, folder: Path) -> None:
    """Write the tiles of a store as chips."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, batch in enumerate(tile_loader(store, 1, labels="cloudsat", shuffle=False)):
        chip = np.ascontiguousarray(batch.pixels[0].permute(0, 2, 3, 1).numpy())
        held = {"ABI/chip": chip, "CloudSat/class": batch.labels["cloudsat"][0].numpy()}
        np.savez_compressed(folder / f"chip_{number:04d}.npz", **held)


def _rate(batches: Any, seconds: float, clock: Callable[[], float]) -> float:
    stream: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(batches))

    def step() -> int:
        read = next(stream)
        return len(read[0] if isinstance(read, list) else read)

    return rate("", 1, step, seconds, clock=clock).samples


def rows(scratch: Path, quick: bool) -> list[table.Row]:
    """Compare on one thread, by CPU time, which others on the machine do not change, and by the clock."""
    data = table.CHECKOUT.parent / "shared" / "data"
    counts = real_counts(data) if data.is_dir() else smooth_counts
    tiles, size, seconds = (2, 128, 0.2) if quick else (6, 512, 8.0)
    store, folder = scratch / "cloudsat.zarr", scratch / "chips"
    write_store(store, counts, tiles=tiles, steps=STEPS, size=size)
    write_labels(store, tiles, size)
    write_chips(store, folder)
    chosen, threads = [*range(tiles)] * REPEATED, torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for one another are counted as work
    found = []
    for told, clock, target, device in (
        ("to float32, by CPU time", time.process_time, "ratio >= 1", "cpu"),
        ("to float32, by the clock", time.perf_counter, None, "cpu"),
        ("as stored, for a device that decodes, by CPU time", time.process_time, None, None),
    ):
        ours = tile_loader(store, 1, labels="cloudsat", workers=0, where=chosen, device=device)
        theirs = DataLoader(Chips(str(folder)), 1, shuffle=True)
        rates = [_rate(loader, seconds, clock) for loader in (ours, theirs)]
        found.append(
            table.compare(
                "Samples with CloudSat labels: a store against npz chips, one process, one sample a batch",
                told,
                *rates,
                "/s",
                higher_is_better=True,
                target=None if quick else target,
                note=f"{STEPS} x {size}^2 of {len(CHANNELS)} bands with {PROFILES} profiles",
            )
        )
    torch.set_num_threads(threads)
    return found
