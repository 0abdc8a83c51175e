"""What a build would read, write and take: the dry run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyproj

from catalog.sentinel2.estimate import estimate_download
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import footprint
from cube.sentinel2.plan import Plan, PlannedCell
from cube.sentinel2.scenes import PIECE
from stratacube.choices import many
from stratacube.files import human_bytes

__all__ = ["estimate", "scratch_bytes"]

_BASE_MEMORY = 250e6
"""An idle worker: the interpreter, GDAL and the libraries."""

_DECODE_RATE = 5e6
"""Pixels of JPEG2000 that a core decodes in a second."""

_AROUND = 1.3
"""Pixels decoded for one that is used: what kernels and slanted cells reach, and the rest of code-blocks."""

_CLEAR_SHARE = 0.6
"""Share of a scene that is expected to be valid: the rest of its blocks is not decoded."""


def scratch_bytes(cell: PlannedCell, bands: int) -> float:
    """Return the room that a cell's scenes take in tmp, at most."""
    return 4.0 * bands * cell.window.height * cell.window.width * len(cell.acquisitions)


def estimate(config: Sentinel2Config, plan: Plan, workers: int) -> Iterator[tuple[str, str]]:
    """Say what a build would read and write; nothing is written and no pixel is read."""
    keys = [key for _, key in config.asset_keys()]
    products = [p for a in plan.acquisitions.values() for p in a.products]
    files = [p.assets[k] for p in products for k in (*keys, "SCL_20m") if k in p.assets]
    cost = estimate_download(products, keys, config.work_dir / "imagery_raw")
    sizes = [int(key.rpartition("_")[2][:-1]) for key in keys]
    pixels = _AROUND * (_CLEAR_SHARE * _source_pixels(plan, sizes) + _source_pixels(plan, [20]))  # bands and classes
    cells = [c.window.height * c.window.width for c in plan.cells]
    width = 2 if config.values == "int16" else 4
    stored = sum(cells) * (width * len(keys) + 2) * len(config.products)
    scratch = sum(scratch_bytes(c, len(keys)) for c in plan.cells)
    votes = sum(c.window.height * c.window.width * len(c.acquisitions) for c in plan.cells) * len(keys)
    threads = min(len(keys), max(1, workers // max(1, len(cells))))
    memory = _BASE_MEMORY + 250e6 + (8 + 8 * threads) * max(cells, default=0) + 4 * len(keys) * PIECE * PIECE
    seconds = (pixels / _DECODE_RATE + votes / 20e6 + sum(cells) * len(keys) / 10e6) / workers
    empty = sum(not c.acquisitions for c in plan.cells)
    hours = cost.seconds(config.connections) / 3600
    yield "cells", f"{len(plan.cells)}, {empty} of them reached by no product"
    yield "products", f"{len(products)} of {len(plan.acquisitions)} acquisitions"
    yield "read", f"{many(len(files), 'file')}, {human_bytes(sum(f.size or 0 for f in files))}"
    yield "download", f"{many(cost.files, 'file')}, {human_bytes(cost.bytes)}, about {hours:.2f} h"
    yield "write", f"{human_bytes(stored)} before compression"
    yield "tmp", human_bytes(min(scratch, config.tmp_gb * 1e9))
    yield "memory", f"about {human_bytes(memory)} a worker, {workers} workers"
    yield "duration", f"about {seconds / 3600:.2f} h once files are at hand"


def _source_pixels(plan: Plan, sizes: Sequence[int]) -> float:
    """Pixels of the scenes under all cells, of bands with pixels of so many metres."""
    geod = pyproj.Geod(ellps="WGS84")
    areas = [abs(geod.geometry_area_perimeter(a)[0]) for a in footprint([c.cell for c in plan.cells])]
    seen = sum(area * len(c.acquisitions) for area, c in zip(areas, plan.cells, strict=True))
    return seen * sum(size**-2 for size in sizes)
