"""What a build of tiles would read, by file and byte: headers are read for it, no pixel is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from catalog.geostationary.scans import SourceFile
from cube.config import AbiConfig, default_workers
from cube.geostationary.estimate import planned_tiles
from cube.geostationary.file_index import FileIndex
from cube.geostationary.folder import AbiFolder
from cube.geostationary.grid import GeosProjection, Window
from cube.geostationary.headers import Headers
from cube.geostationary.index import index_file
from cube.geostationary.index_cache import cache_name
from cube.geostationary.layout import TileLayout, TileSpec
from cube.geostationary.predecessor import with_predecessors_defaults
from cube.geostationary.read import byte_ranges
from cube.geostationary.screen_file import looked_at
from cube.reads import FileRead, Part
from stratacube.errors import SourceError, UsageError
from stratacube.progress import iterate

__all__ = ["explain"]

Users = dict[int, list[TileSpec]]
"""By shard, the tiles that are cut from a file."""


def explain(config: AbiConfig) -> Iterator[FileRead]:
    """Say which files and bytes of them a build would read; nothing is written.

    The plan is that of the folder, or what would be planned if no scan were found unfit: screening, which reads
    pixels, may put other scans in the place of some.

    Parameters
    ----------
    config
        Of the build.

    Yields
    ------
    FileRead
        In order of time and channel. Ranges of chunks are exact; headers are read besides, once a file.

    Raises
    ------
    UsageError
        If it reads no scans.
    SourceError
        If the archive cannot be listed.
    """
    config = with_predecessors_defaults(config)
    if not config.archive:
        raise UsageError("with `no_archive` no scan is read; leave it out to see what a build would read")
    folder, layout = AbiFolder(config.output_dir), TileLayout.of(config)
    headers = Headers(None, config.s3_endpoint, config.retries)
    tiles, scans = planned_tiles(config, folder, headers, config.workers or default_workers())
    views = [GeosProjection(**view) for view in tiles.attrs["projections"]]
    files = {scan.id: scan.files for scan in scans}
    used: dict[SourceFile, Users] = defaultdict(lambda: defaultdict(list))
    for row in tiles.itertuples():
        tile = TileSpec(row.tile_id, row.x_left, row.y_top, views[row.projection])
        for name in filter(None, row.scan_ids):
            for channel in config.channels:
                if channel in files[name]:
                    used[files[name][channel]][row.shard].append(tile)
    for file in iterate(sorted(used, key=lambda f: (f.start, f.channel)), "reading headers"):
        yield _read_of(config, folder, layout, file, used[file])


def _read_of(config: AbiConfig, folder: AbiFolder, layout: TileLayout, file: SourceFile, users: Users) -> FileRead:
    parts = list[Part]()
    if config.download and file.href.startswith("s3://"):
        parts.append(Part("download", file.size))
    cache = folder.index if (folder.index / cache_name(file)).exists() else None
    try:
        index = index_file(file, cache, config.s3_endpoint)
        if config.screen != "off":
            looked = _part("screening", index, [looked_at(index, full=config.screen == "full")])
            parts += [looked] if looked.ranges else []  # no range means all of the file, and here it is none
        windows = [[layout.source_window(t, index.grid, file.channel)[0] for t in some] for some in users.values()]
        parts.append(_part("tiles", index, windows, f"{sum(map(len, windows))} windows of tiles"))
    except SourceError as error:
        return FileRead(file.href, file.size, parts, str(error))
    return FileRead(file.href, file.size, parts)


def _part(what: str, index: FileIndex, tasks: Sequence[Sequence[Window]], note: str = "") -> Part:
    """Ranges that tasks read, each on its own."""
    variables: Any = ("rad",) if index.is_one_dataset else ("rad", "dqf")
    ranges = [r for windows in tasks for name in variables for r in byte_ranges(index, name, windows)]
    return Part(what, sum(stop - start for start, stop in ranges), tuple(ranges), note)
