"""What a build would read, write and take: the dry run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyproj

from catalog.sentinel2.estimate import estimate_download
from catalog.sentinel2.items import Asset
from catalog.sentinel2.places import is_remote, local_path
from catalog.sentinel2.sizes import held_keys
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import footprint
from cube.sentinel2.grid_presets import preset_command
from cube.sentinel2.layers import layers_of
from cube.sentinel2.plan import Plan, PlannedCell
from cube.sentinel2.reduce import parse_reducer
from cube.sentinel2.scenes import PIECE
from stratacube.choices import many
from stratacube.files import bytes_on_disk, human_bytes

__all__ = ["estimate", "scratch_bytes"]

_BASE_MEMORY = 250e6
"""An idle worker: the interpreter, GDAL and the libraries."""

_WORKING_MEMORY = 130e6
"""What decoding, weights of squares, a strip of observations and files in the making take besides."""

_DECODE_RATE = 8e6
"""Pixels of JPEG2000 that a core decodes in a second, of code-blocks of 64 as ESA's files have them."""

_VOTE_RATE, _WRITE_RATE = 45e6, 6e6
"""Observations that a core resamples and reduces in a second, and pixels that it writes, draws and describes."""

_START = 3.0
"""Seconds until the first scene is read, and for what a build writes once."""

_AROUND = 1.3
"""Pixels decoded for one that is used: what kernels and slanted cells reach, and the rest of code-blocks."""

_CLEAR_SHARE = 0.6
"""Share of a scene that is expected to be valid: the rest of its blocks is not decoded."""


def scratch_bytes(cell: PlannedCell, bands: int) -> float:
    """Return the room that a cell's scenes take in tmp, at most."""
    return 4.0 * bands * cell.window.height * cell.window.width * len(cell.acquisitions)


def estimate(config: Sentinel2Config, plan: Plan, archive: Path, workers: int) -> Iterator[tuple[str, str]]:
    """Say what a build would read and write; nothing is written and no pixel is read.

    Parameters
    ----------
    config
        What to make.
    plan
        The cells, and what reaches each.
    archive
        Folder that files are fetched into.
    workers
        Processes.
    """
    keys = [key for _, key in config.asset_keys()]
    products = [p for a in plan.acquisitions.values() for p in a.products]
    files = [p.assets[k] for p in products for k in (*held_keys(p, keys), "SCL_20m") if k in p.assets]
    cost = estimate_download(products, keys, archive)
    sizes = [int(key.rpartition("_")[2][:-1]) for key in (held_keys(products[0], keys) if products else keys)]
    cells = [c.window.height * c.window.width for c in plan.cells]
    width = 2 if config.values == "int16" else 4
    layers = sum(np.dtype(k.dtype).itemsize for k in layers_of(config.also, config.months_seen()).values())
    stored = sum(cells) * (width * len(keys) + 2 + layers) * len(config.products)
    scratch = sum(scratch_bytes(c, len(keys)) for c in plan.cells)
    threads = min(len(keys), max(1, workers // max(1, len(cells))))
    together = 4 * len(keys) + layers if config.also or parse_reducer(config.reducer).joint else 0
    held = (8 + 8 * threads + together) * max(cells, default=0)  # of the largest cell
    memory = _BASE_MEMORY + _WORKING_MEMORY + held + 4 * len(keys) * PIECE * PIECE
    seconds = _START + _work(plan, sizes) / workers
    empty = sum(not c.acquisitions for c in plan.cells)
    hours = cost.seconds(config.connections) / 3600
    yield "cells", f"{len(plan.cells)}, {empty} of them reached by no product"
    if pyproj.CRS(plan.lattice.crs).is_geographic:
        told = preset_command(footprint([c.cell for c in plan.cells]))
        yield from [("grid", told)] if told is not None else []
    yield "products", f"{len(products)} of {len(plan.acquisitions)} acquisitions"
    yield "read", f"{many(len(files), 'file')}, {human_bytes(sum(map(_size, files)))}"
    yield "download", f"{many(cost.files, 'file')}, {human_bytes(cost.bytes)}, about {hours:.2f} h"
    yield "write", f"{human_bytes(stored)} before compression"
    yield "tmp", human_bytes(min(scratch, config.tmp_gb * 1e9))
    yield "memory", f"about {human_bytes(memory)} a worker, {workers} workers"
    yield "duration", f"about {_duration(seconds)} once files are at hand"


def _work(plan: Plan, sizes: Sequence[int]) -> float:
    """Seconds of a core, of bands with pixels of so many metres."""
    decoded = _AROUND * (_CLEAR_SHARE * _source_pixels(plan, sizes) + _source_pixels(plan, [20]))  # bands and classes
    cells = [c.window.height * c.window.width for c in plan.cells]
    votes = sum(n * len(c.acquisitions) for n, c in zip(cells, plan.cells, strict=True))
    return decoded / _DECODE_RATE + len(sizes) * (votes / _VOTE_RATE + sum(cells) / _WRITE_RATE)


def _duration(seconds: float) -> str:
    """Hours; what is less than a tenth of one in seconds."""
    return f"{seconds / 3600:.2f} h" if seconds > 360 else f"{seconds:.0f} s"


def _size(asset: Asset) -> int:
    """Bytes of a file; no list tells them of an array of Zarr, whose chunks lie in a folder."""
    if asset.size is not None or is_remote(asset.href):
        return asset.size or 0
    try:
        return bytes_on_disk(local_path(asset.href))
    except OSError:  # the build says which file is not there
        return 0


def _source_pixels(plan: Plan, sizes: Sequence[int]) -> float:
    """Pixels of the scenes under all cells, of bands with pixels of so many metres."""
    geod = pyproj.Geod(ellps="WGS84")
    areas = [abs(geod.geometry_area_perimeter(a)[0]) for a in footprint([c.cell for c in plan.cells])]
    seen = sum(area * len(c.acquisitions) for area, c in zip(areas, plan.cells, strict=True))
    return seen * sum(size**-2 for size in sizes)
