"""What a build would read, write and take: the dry run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from catalog.abi.items import load_items
from catalog.abi.scans import Scan
from cube.abi.find import find
from cube.abi.layout import TileLayout
from cube.abi.plan import Headers, Plan, make_plan, read_plan, used_scans
from cube.config import AbiConfig, default_workers
from cube.engine import Workers
from cube.folder import BuildFolder
from stratacube.errors import SourceError

__all__ = ["forecast"]

_BASE_MEMORY = 200e6
"""An idle worker: the interpreter and its libraries."""


def forecast(config: AbiConfig) -> int:
    """Say what a build would read and write; nothing is written, and only listings and a few headers are read."""
    folder = BuildFolder(config.output_dir)
    known = folder.holds(config.digest()) and not config.overwrite
    scans = load_items(folder.sources) if known and folder.sources.exists() else find(config)
    headers = Headers(None, config.s3_endpoint)
    number = config.workers or default_workers()
    if known and folder.plan.exists():
        plan = read_plan(folder.plan)
    else:
        with Workers(number, config.engine) as workers:
            plan = make_plan(config, scans, headers, None, workers)
    layout = TileLayout.of(config)
    used = used_scans(plan, scans)
    files = [f for scan in used.values() for f in scan.files.values()]
    read, moved = _expected_reads(layout, plan, used, headers), 0
    if config.download:
        moved = sum(f.size for f in files if f.href.startswith("s3://"))
    stored = sum(2 * layout.band_size(c) ** 2 for c in config.channels)
    stored += sum(2 * layout.band_size(c[0]) ** 2 for c in layout.mask_groups().values())
    stored *= config.steps * len(plan.tiles)
    memory = _BASE_MEMORY + 6 * max(2 * layout.tiles_per_shard * layout.band_size(c) ** 2 for c in config.channels)
    lines = [
        f"tiles      {len(plan.tiles)} of {config.tile_size} px, {config.steps} steps, {len(config.channels)} bands",
        f"read       {_bytes(read)} of {len(files)} files ({_bytes(sum(f.size for f in files))}) of {len(used)} scans",
        f"download   {_bytes(moved)}",
        f"write      {_bytes(stored)} before compression, in {plan.tiles['shard'].nunique()} shards a band",
        f"memory     about {_bytes(memory)} a worker, {number} workers",
        f"duration   about {_expected_seconds(read, stored, len(files)) / number:.0f} s once files are at hand",
        f"disk free  {_bytes(_free(config.output_dir))} at {config.output_dir}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _expected_reads(layout: TileLayout, plan: Plan, used: Mapping[str, Scan], headers: Headers) -> float:
    """Bytes of the chunks under the tiles: a file's size times the share of its area that its tiles cover."""
    total = 0.0
    tiles = plan.tiles["scan_ids"].explode().value_counts()
    for name, count in tiles.items():
        if not name:
            continue
        try:
            grid = headers.of(used[name]).grid
        except SourceError:
            continue  # a scan of unreadable files costs nothing to read; the build will say so
        chunk = 226 * 56e-6  # tiles touch chunks they do not fill: half a chunk on every side
        share = min(1.0, count * (layout.side + chunk) ** 2 / (grid.width * grid.dx * grid.height * -grid.dy))
        total += share * sum(f.size for f in used[name].files.values())
    return total


def _expected_seconds(read: float, stored: float, files: int) -> float:
    """Rough duration on one core: decoding, compressing and indexing rates of an ordinary machine."""
    return read / 60e6 + stored / 250e6 + files * 0.02


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
