"""What a build would read, write and take: the dry run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from catalog.geostationary.items import load_items
from catalog.geostationary.scans import Scan
from cube.config import AbiConfig
from cube.geostationary.find import find
from cube.geostationary.folder import AbiFolder
from cube.geostationary.headers import Headers
from cube.geostationary.layout import TileLayout
from cube.geostationary.plan import make_plan
from cube.geostationary.plan_table import PlanTable
from cube.job.engine import Workers
from cube.job.source import Manner
from stratacube.choices import many
from stratacube.errors import SourceError
from stratacube.files import human_bytes

__all__ = ["estimate", "planned_tiles"]

_BASE_MEMORY = 200e6
"""An idle worker: the interpreter and its libraries."""


def estimate(config: AbiConfig, folder: AbiFolder, layout: TileLayout, manner: Manner) -> Iterator[tuple[str, str]]:
    """Say what a build would read and write; nothing is written, and only listings and a few headers are read."""
    headers = Headers(None, config.s3_endpoint, config.retries)
    tiles, scans = planned_tiles(config, folder, headers, manner.workers)
    named = {name for names in tiles["scan_ids"] for name in names if name} | set(tiles["event_scan"])
    used = {scan.id: scan for scan in scans if scan.id in named}
    files = [f for scan in used.values() for f in scan.files.values()]
    read, moved = _expected_reads(layout, tiles, used, headers), 0
    if config.download:
        moved = sum(f.size for f in files if f.href.startswith("s3://"))
    stored = sum(2 * layout.band_size(c) ** 2 for c in config.channels)
    stored += sum(2 * layout.band_size(c[0]) ** 2 for c in layout.mask_groups().values())
    stored *= config.steps * len(tiles)
    memory = _BASE_MEMORY + 6 * max(2 * layout.tiles_per_shard * layout.band_size(c) ** 2 for c in config.channels)
    seconds = _expected_seconds(read, stored, len(files)) / manner.workers
    yield (
        "tiles",
        f"{len(tiles)} of {config.tile_size} px, {many(config.steps, 'step')}, {many(len(config.channels), 'band')}",
    )
    read_from = f"{many(len(files), 'file')} ({human_bytes(sum(f.size for f in files))}) of {many(len(used), 'scan')}"
    yield "read", f"{human_bytes(read)} of {read_from}"
    yield "download", human_bytes(moved)
    yield "write", f"{human_bytes(stored)} before compression, in {many(tiles['shard'].nunique(), 'shard')} a band"
    yield "memory", f"about {human_bytes(memory)} a worker, {manner.workers} workers"
    yield "duration", f"about {seconds:.0f} s once files are at hand"


def planned_tiles(
    config: AbiConfig, folder: AbiFolder, headers: Headers, workers: int
) -> tuple[pd.DataFrame, Sequence[Scan]]:
    """Return the tiles of a build, from its folder where they are planned, else as they would be; and all scans.

    Parameters
    ----------
    config, folder
        Of the build.
    headers
        Of its scans.
    workers
        How many processes may plan.

    Returns
    -------
    tiles : pandas.DataFrame
        One row a tile; ``attrs["projections"]`` are the views they are laid in.
    scans : sequence of Scan
        All that was found.
    """
    known = folder.holds(config.digest()) and not config.overwrite
    scans = load_items(folder.sources, config.dialect.names) if known and folder.sources.exists() else find(config)
    if known and folder.plan.exists():
        table = PlanTable(folder.plan)
        tiles = table.frame()
        tiles.attrs = {"projections": [asdict(p) for p in table.projections]}
        return tiles, scans
    with Workers(workers) as pool:
        return make_plan(config, scans, headers, None, pool).tiles, scans


def _expected_reads(layout: TileLayout, tiles: pd.DataFrame, used: Mapping[str, Scan], headers: Headers) -> float:
    """Bytes of the chunks under the tiles: a file's size times the share of its area that its tiles cover."""
    total = 0.0
    for name, count in tiles["scan_ids"].explode().value_counts().items():
        if not name:
            continue
        try:
            header = headers.of(used[name])
        except SourceError:
            continue  # a scan of unreadable files costs nothing to read; the build will say so
        grid = header.grid
        chunk = header.rad.chunks[1] * grid.dx  # tiles touch chunks they do not fill: half a chunk on every side
        share = min(1.0, count * (layout.side + chunk) ** 2 / (grid.width * grid.dx * grid.height * -grid.dy))
        total += share * sum(f.size for f in used[name].files.values())
    return total


def _expected_seconds(read: float, stored: float, files: int) -> float:
    """Rough duration on one core: decoding, compressing and indexing rates of an ordinary machine."""
    return read / 60e6 + stored / 250e6 + files * 0.02
