"""What one file tells of whether it is fit to be used: from its index alone, and from a few of its chunks decoded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import SourceFile
from cube.geostationary.dialect import dialect_of, imager_of
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import FixedGrid, Window
from cube.geostationary.inflate import is_large
from cube.geostationary.read import ReadCount, stream_images
from cube.geostationary.screen_rows import ROW_FAULTS, Look, look_at
from cube.geostationary.screen_tiles import fault_in
from cube.instrument import REFLECTANCE
from cube.sun import solar_angles

Pixels = npt.NDArray[Any]

__all__ = ["FileRecord", "chunks_on_earth", "lattice", "looked_at", "record_of"]

CHUNKS = 24
"""Chunks decoded of a file, of the 32 that may be: one in each row of chunks of a full disk of 2 km."""
SUSPECTS = 8
"""Those of them that may hold one value only, by their size."""
_FEW = 16
"""Chunks of which all columns are looked at; of more, the western half, which tells as much of rows in half the
time."""
_BATCH = 8
"""Chunks that are looked at together: more of them leave the processor's cache, fewer are mostly calls of numpy."""
_CONSTANT = 250
"""A chunk of one value is this many times smaller, and more: deflate makes it about 1,000 times smaller, and the
darkest night in the real files 220 times."""
_OVERHEAD = 64
"""Bytes that deflate adds to any chunk, and more."""


_QUARTERS, _NOTHING = 4.0, 65535
"""A mean is kept in quarters of a count, of 14 bits at most; this stands for none."""


@dataclass(frozen=True)
class FileRecord:
    """What was found of one file."""

    href: str
    size: int
    tag: str
    scan: str
    platform: str
    sector: str
    channel: int
    start: np.datetime64
    seconds: float
    """From its start to its end, by its name."""
    error: str = ""
    """Why it does not open, if so."""
    place: str = ""
    """What tells the pixels of its image: files of one place may be compared."""
    seen_from: str = ""
    """The satellite's view, as the file has it."""
    corner: tuple[float, float] = (0.0, 0.0)
    """Scan angles of the image's north-western corner, in microradians: x, y."""
    stored_bytes: int = 0
    """Of its counts, deflated."""
    earth_chunks: int = 0
    """Chunks of counts that lie wholly on the Earth."""
    constant_chunks: int = 0
    """Those of them that hold one value only, by their size."""
    unwritten_chunks: int = 0
    """Those of them that the file does not hold: fill, all of it."""
    earth_share: float = float("nan")
    """Share of the image's pixels that see the Earth."""
    told_valid: float = float("nan")
    """Share of good and usable pixels by the file's own count."""
    level: int = 1
    """2 where pixels were decoded too."""
    chunks: int = 0
    """Chunks decoded."""
    small: str = ""
    """What is wrong with one of them, where all are looked at, too small to be told of the whole file."""
    rows: int = 0
    """Rows of pixels looked at, in one chunk each."""
    row_shares: dict[str, float] = field(default_factory=dict)
    """Share of rows with each of :data:`ROW_FAULTS`."""
    valid: float = float("nan")
    """Share of pixels on the Earth with a count, and flags that are good by the build."""
    flags: tuple[float, ...] = ()
    """Share of pixels by flag, from 0 to 4, and of other flags."""
    stripes: float = float("nan")
    """How far the mean of a row lies from those of the rows beside it, by the scatter of the pixels."""
    middle: tuple[float, ...] = ()
    """Median of each chunk decoded, in counts."""
    spread: float = float("nan")
    """Standard deviation of all pixels, in counts."""
    empty: float = float("nan")
    """Share of the pixels of chunks on the Earth without a count."""
    seams: int = 0
    """Places where a row has nothing to do with the next, of all chunks."""
    scene: bytes = field(default=b"", repr=False)
    """Mean counts of parts of each chunk decoded, in quarters of a count; see :meth:`parts`."""
    dark: float = float("nan")
    """Count of no radiance."""
    sun: tuple[float, ...] = ()
    """Of a band of reflected sunlight, the cosine of the Sun's zenith angle at each chunk decoded."""
    cost: float = 0.0
    """Seconds that this took beyond the index."""

    @property
    def pixels(self) -> str:
        """What tells the pixels of its image and where it is looked at, whatever its band."""
        return " ".join(self.place.split()[:-2])

    def parts(self) -> npt.NDArray[np.float64]:
        """Mean counts of parts of each chunk decoded (chunk, part); NaN where pixels have none."""
        stored = np.frombuffer(self.scene, "<u2").reshape(self.chunks, -1)
        return np.where(stored == _NOTHING, np.nan, stored / _QUARTERS)

    @classmethod
    def damaged(cls, source: SourceFile, scan: str, error: str) -> FileRecord:
        """Return what there is to say of a file that cannot be used at all."""
        return replace(_begun(source, scan), error=error)


def record_of(
    index: FileIndex, scan: str, good: Sequence[int] = (0, 1), *, full: bool = False, endpoint_url: str | None = None
) -> FileRecord:
    """Look at one file.

    Parameters
    ----------
    index
        Of the file.
    scan
        Identifier of its scan.
    good
        Flags whose pixels are valid.
    full
        Look at all chunks, not at a few.
    endpoint_url
        S3 endpoint, for files on S3.

    Raises
    ------
    SourceError
        If chunks cannot be read or decoded.
    """
    begun = time.perf_counter()
    source, table = index.source, index.rad
    earth = chunks_on_earth(index.grid, table.chunks, table.shape)
    constant = _constant(table, earth)
    record = replace(
        _begun(source, scan),
        place=_place(index),
        seen_from=" ".join(str(v) for v in asdict(index.grid.projection).values()),
        corner=(index.grid.left * 1e6, index.grid.top * 1e6),
        stored_bytes=int(table.sizes.sum()),
        earth_chunks=int(earth.sum()),
        constant_chunks=int(constant.sum()),
        unwritten_chunks=int((earth & (table.sizes == 0)).sum()),
        earth_share=_earth_share(index.grid),
        told_valid=index.valid_fraction,
        dark=-index.offset / index.scale,
    )
    windows = _windows(table, earth, constant, full)
    if windows:
        record = replace(record, level=2, **_of_pixels(index, windows, good, full, endpoint_url))
    return replace(record, cost=time.perf_counter() - begun)


def looked_at(index: FileIndex, *, full: bool = False) -> list[Window]:
    """Pixels of a file that :func:`record_of` decodes."""
    earth = chunks_on_earth(index.grid, index.rad.chunks, index.rad.shape)
    return _windows(index.rad, earth, _constant(index.rad, earth), full)


def _constant(table: ChunkTable, earth: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of some chunks hold one value only, by their size."""
    return earth & (table.sizes <= np.prod(table.chunks) * np.dtype(table.dtype).itemsize / _CONSTANT + _OVERHEAD)


def _windows(
    table: ChunkTable, earth: npt.NDArray[np.bool_], constant: npt.NDArray[np.bool_], full: bool
) -> list[Window]:
    chosen = [*map(tuple, np.argwhere(earth).tolist())] if full else lattice(earth, constant)
    if is_large(table) and not full:
        return []
    (height, width), (rows, cols) = table.chunks, table.shape
    across = width if full or len(chosen) <= _FEW else width // 2
    return [
        Window(r * height, c * width, min(height, rows - r * height), min(across, cols - c * width)) for r, c in chosen
    ]


def _begun(source: SourceFile, scan: str) -> FileRecord:
    """What the name tells."""
    return FileRecord(
        source.href,
        source.size,
        source.tag,
        scan,
        source.platform,
        source.sector,
        source.channel,
        np.datetime64(source.start, "us"),
        (source.end - source.start).total_seconds(),
    )


@lru_cache(maxsize=64)  # the files of a build look at few places
def chunks_on_earth(grid: FixedGrid, chunks: tuple[int, int], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which chunks of an image see the Earth with all of their pixels: of the chunk grid's shape."""
    (height, width), (rows, cols) = chunks, shape
    edges = [
        np.minimum(np.arange(0, n + side, side), n)[: -(-n // side) + 1] for n, side in ((rows, height), (cols, width))
    ]
    y, x = grid.top + edges[0] * grid.dy, grid.left + edges[1] * grid.dx
    lon, _ = grid.projection.to_lonlat(x[None, :], y[:, None])
    seen = np.isfinite(lon)
    earth: npt.NDArray[np.bool_] = seen[:-1, :-1] & seen[1:, :-1] & seen[:-1, 1:] & seen[1:, 1:]
    earth.flags.writeable = False
    return earth


@lru_cache(maxsize=64)
def _earth_share(grid: FixedGrid) -> float:
    """Share of an image's pixels that see the Earth, by 32 x 32 of them."""
    at = (np.arange(32) + 0.5) / 32
    y, x = grid.top + at * grid.height * grid.dy, grid.left + at * grid.width * grid.dx
    lon, _ = grid.projection.to_lonlat(x[None, :], y[:, None])
    return float(np.isfinite(lon).mean())


def lattice(earth: npt.NDArray[np.bool_], constant: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Chunks to look at: spread over the rows of chunks that are on the Earth, and some that may hold one value.

    The same of all files of one place, but for the latter.
    """
    chosen = _spread(earth.tobytes(), earth.shape[1])
    suspects = constant.copy()
    for chunk in chosen:
        suspects[chunk] = False
    others = np.argwhere(suspects)
    return [*chosen, *map(tuple, others[:: max(1, len(others) // SUSPECTS)][:SUSPECTS].tolist())] if chosen else []


@lru_cache(maxsize=64)
def _spread(earth: bytes, across: int) -> tuple[tuple[int, int], ...]:
    """Chunks spread over the rows of chunks that are on the Earth: of a boolean each, so many in a row."""
    seen = np.frombuffer(earth, bool).reshape(-1, across)
    rows = np.flatnonzero(seen.any(axis=1))
    if len(rows) == 0:
        return ()
    each = max(1, CHUNKS // len(rows))
    step = -(-len(rows) // CHUNKS)
    chosen = []
    for turn, row in enumerate(rows[::step]):
        cols = np.flatnonzero(seen[row])
        # The golden ratio spreads the columns of successive rows evenly, whatever their number.
        first = (turn * 0.618034) % 1.0
        at = ((first + np.arange(min(each, len(cols))) / min(each, len(cols))) % 1.0 * len(cols)).astype(int)
        chosen += [(int(row), int(cols[i])) for i in sorted(set(at))]
    return tuple(chosen)


def _place(index: FileIndex) -> str:
    grid = index.grid
    seen_from = f"{grid.projection.longitude_of_projection_origin:.3f}"  # scan angles of another satellite's place
    pixels = f"{grid.x0:.6f} {grid.y0:.6f} {grid.dx:.7f} {grid.height} {grid.width}"
    return f"{seen_from} {pixels} {index.scale:.6g} {index.offset:.6g}"


def _of_pixels(
    index: FileIndex, windows: Sequence[Window], good: Sequence[int], full: bool, endpoint_url: str | None
) -> dict[str, Any]:
    source, table, names = index.source, index.rad, dialect_of(index.source.platform).flags
    top, no_value = imager_of(source.platform).band(source.channel).fill, _flag(names, "no_value")
    usable = np.isin(np.arange(256), list(good))
    looks: list[Look] = []
    small, batch = "", list[tuple[Pixels, Pixels]]()
    for window, (counts, flags) in zip(windows, stream_images(index, windows, ReadCount(), endpoint_url), strict=True):
        if batch and (len(batch) == _BATCH or counts.shape[1] != batch[0][0].shape[1]):
            looks += look_at(batch, table.fill, top, usable, no_value)
            batch.clear()
        batch.append((counts, flags.astype("u1", copy=False)))
        if full:
            small = small or fault_in(index, window, counts, flags) or ""
    looks += look_at(batch, table.fill, top, usable, no_value)
    seen, between, pixels = (sum(getattr(look, name) for look in looks) for name in ("rows", "between", "pixels"))
    faults = np.sum([look.faults for look in looks], axis=0) / seen
    spread = float(np.sqrt(np.mean([look.variance for look in looks])))
    return {
        "chunks": len(windows),
        "small": small,
        "rows": seen,
        "row_shares": dict(zip(ROW_FAULTS, faults.tolist(), strict=True)),
        "valid": sum(look.valid for look in looks) / pixels,
        "flags": tuple((np.sum([look.flags for look in looks], axis=0) / pixels).tolist()),
        "stripes": sum(look.uneven for look in looks) / between / spread if between and spread else 0.0,
        "middle": tuple(look.middle for look in looks),
        "spread": spread,
        "empty": sum(look.empty for look in looks) / pixels,
        "seams": sum(look.seams for look in looks),
        "scene": _kept(np.stack([look.blocks for look in looks])),
        "sun": _sun(index, windows),
    }


def _kept(means: npt.NDArray[Any]) -> bytes:
    return np.where(np.isnan(means), _NOTHING, np.rint(means * _QUARTERS)).astype("<u2").tobytes()


def _sun(index: FileIndex, windows: Sequence[Window]) -> tuple[float, ...]:
    """Cosine of the Sun's zenith angle at the middles of windows, at the start; nothing of bands that emit."""
    imager = imager_of(index.source.platform)
    if imager.standard(REFLECTANCE, imager.band(index.source.channel).name) is None:
        return ()
    rows, cols = (
        np.array([at + side / 2 for at, side in sides])
        for sides in ([(w.row, w.height) for w in windows], [(w.col, w.width) for w in windows])
    )
    zenith, _ = solar_angles(np.datetime64(index.source.start, "us"), *index.grid.lonlat(rows, cols))
    return tuple(np.cos(np.radians(zenith)).tolist())


def _flag(names: Sequence[str], name: str) -> int | None:
    return names.index(name) if name in names else None
