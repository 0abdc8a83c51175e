"""Indexes of files kept on disk, by path, size and modification tag."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from catalog.geostationary.scans import SourceFile
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import FixedGrid
from stratacube.errors import SourceError
from stratacube.files import whole_file
from stratacube.guard import guarded

__all__ = ["cache_name", "load_index", "save_index", "with_current_stat"]

CACHE_VERSION = 4
"""Indexes of 3 were made of files whose content nobody had compared with their names and bounds."""


def with_current_stat(source: SourceFile) -> SourceFile:
    """Size and tag of a local file now: it may have been mended or replaced since it was listed."""
    if source.href.startswith("s3://"):
        return source
    try:
        status = os.stat(source.href)
    except OSError:
        return source
    return replace(source, size=status.st_size, tag=str(status.st_mtime_ns))


def cache_name(source: SourceFile) -> str:
    """File name of the cached index of a source: a digest of its path, size and tag."""
    key = json.dumps([CACHE_VERSION, source.href, source.size, source.tag])
    return hashlib.sha256(key.encode()).hexdigest()[:32] + ".npz"


def save_index(index: FileIndex, path: Path) -> None:
    """Write an index whole or not at all; OSError where that cannot be done."""
    header = {
        "grid": asdict(index.grid),
        "rad": _table_header(index.rad),
        "dqf": _table_header(index.dqf),
        "coefficients": dict(index.coefficients),
        "mid_time": int(index.mid_time.astype("i8")),
        "begin_time": int(index.begin_time.astype("M8[ns]").astype("i8")),
        **{k: getattr(index, k) for k in ("scale", "offset", "units", "wavelength", "valid_fraction")},
    }
    # Two workers may index the same file at once; either result serves.
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), "u1"),
            **{
                f"{name}_{k}": getattr(getattr(index, name), k) for name in ("rad", "dqf") for k in ("offsets", "sizes")
            },
        )


def _table_header(table: ChunkTable) -> dict[str, Any]:
    return {k: getattr(table, k) for k in ("shape", "chunks", "dtype", "filters", "fill", "bits", "lowest")}


def load_index(path: Path, source: SourceFile) -> FileIndex | None:
    """Read what :func:`save_index` wrote; None where it is not there or is damaged: it is made again."""
    if not path.exists():
        return None
    try:
        with guarded(f"{path} cannot be read"):
            return _load(path, source)
    except SourceError:
        return None


def _load(path: Path, source: SourceFile) -> FileIndex:
    with path.open("rb") as file, np.load(file) as stored:
        header = json.loads(stored["header"].tobytes())
        rad, dqf = (
            ChunkTable(
                tuple(header[name]["shape"]),
                tuple(header[name]["chunks"]),
                header[name]["dtype"],
                tuple(header[name]["filters"]),
                header[name]["fill"],
                stored[f"{name}_offsets"],
                stored[f"{name}_sizes"],
                header[name]["bits"],
                header[name]["lowest"],
            )
            for name in ("rad", "dqf")
        )
    grid = FixedGrid.read(header["grid"])
    numbers = {k: float(header[k]) for k in ("scale", "offset", "wavelength", "valid_fraction")}
    for table in (rad, dqf):
        table.refuse_impossible()
        if not table.sizes.size or table.shape != grid.shape:
            raise ValueError(f"it has {table.sizes.size} chunks of an image of {table.shape}, the grid {grid.shape}")
    return FileIndex(
        source=source,
        grid=grid,
        coefficients={str(k): float(v) for k, v in header["coefficients"].items()},
        mid_time=np.datetime64(header["mid_time"], "ns"),
        begin_time=np.datetime64(header["begin_time"], "ns"),
        rad=rad,
        dqf=dqf,
        units=str(header["units"]),
        **numbers,
    )
