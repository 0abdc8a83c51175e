"""``python -m loaders.bench STORE``: how fast this machine reads a store, where the time goes, what settings to use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

from stratacube.command import Answer, Parser, add_common, run
from stratacube.errors import UsageError
from stratacube.flags import Words

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser("python -m loaders.bench", description=__doc__)
    parser.add_argument("store", metavar="STORE", help="tiles.zarr, or the folder of a build; path or URL")
    parser.add_argument("--batch-size", type=int, default=4, help="samples (default: %(default)s)")
    parser.add_argument("--bands", nargs="+", action=Words, help="such as C01 C13 (default: all)")
    parser.add_argument("--crop", type=int, help="pixels along a side (default: whole tiles)")
    parser.add_argument("--steps", type=int, help="consecutive time steps (default: all)")
    parser.add_argument("--workers", type=int, nargs="*", help="numbers to try (default: 1, 2, 4 .. to the CPUs)")
    parser.add_argument("--device", help="where batches are decoded (default: cuda where there is one, else cpu)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement (default: %(default)s)")
    parser.add_argument("--anonymous", action="store_true", help="read object storage without credentials")
    add_common(parser, answers=True)
    parser.set_defaults(run=_run)
    return run(parser, arguments)


def _run(options: argparse.Namespace) -> Answer:
    import torch  # noqa: PLC0415  (--help does not wait for it)

    from loaders.augment import View  # noqa: PLC0415
    from loaders.measuring import advise, as_table, measure, sample_bytes, time_decoding  # noqa: PLC0415
    from loaders.tiles import TileDataset  # noqa: PLC0415

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = options.workers if options.workers is not None else [2**i for i in range(cpus.bit_length())]
    if options.batch_size < 1 or not options.seconds > 0:
        raise UsageError(f"`batch_size={options.batch_size}` and `seconds={options.seconds}` must be greater than 0")
    if min(workers, default=0) < 0:
        raise UsageError(f"`workers={min(workers)}`: give 0 (this process alone) or more")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    view = View(options.steps, options.crop)
    store = {"anon": True} if options.anonymous else None
    dataset = TileDataset(options.store, bands=options.bands, view=view, storage_options=store)
    rows = measure(dataset, options.batch_size, workers, options.seconds)
    decoding = time_decoding(dataset, options.batch_size, device, options.seconds)
    advice = advise(rows, dataset, options.batch_size)
    steps, height, width = dataset.bands[0].shape
    size = f"{len(dataset.bands)} bands x {steps} x {height} x {width}, {sample_bytes(dataset) / 1e6:.1f} MB each"
    lines = (
        f"{dataset.url}: {len(dataset)} tiles of {size}; {cpus} CPUs",
        "(what was read before may come from the memory of the operating system: use a store larger than it)",
        as_table([*rows, decoding]),
        advice,
    )
    return Answer(0, lines, {"rows": [asdict(row) for row in (*rows, decoding)], "advice": advice})


if __name__ == "__main__":
    sys.exit(main())
