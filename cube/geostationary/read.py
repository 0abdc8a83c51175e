"""Pixels from byte ranges: each chunk that any window needs is read once and decoded once, then scattered."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from catalog.geostationary.s3 import s3_filesystem, translate_s3_errors
from cube.geostationary.grid import Window
from cube.geostationary.index import ChunkTable, FileIndex
from stratacube.errors import SourceError

__all__ = ["ReadCount", "decode_chunk", "plan_reads", "read_windows", "stream_windows"]

# Reading a small gap costs less than another seek (local) or another request (S3).
_LOCAL_GAP, _S3_GAP = 2**14, 2**18
# Spans in flight at once bound the memory of a read, whatever the number of windows.
_SPAN_LIMIT, _BATCH_LIMIT = 2**23, 2**25

Pixels = npt.NDArray[Any]


@dataclass
class ReadCount:
    """What a read cost, counted and not assumed."""

    chunks: int = 0
    """Chunks decoded."""
    requests: int = 0
    """Byte ranges read."""
    bytes: int = 0

    def add(self, other: ReadCount) -> None:
        """Add another count to this one."""
        self.chunks += other.chunks
        self.requests += other.requests
        self.bytes += other.bytes


@dataclass(frozen=True)
class Span:
    """One byte range and the chunks in it, as (chunk row, chunk column)."""

    start: int
    stop: int
    chunks: tuple[tuple[int, int], ...]


def read_windows(
    index: FileIndex,
    variable: Literal["rad", "dqf"],
    windows: Sequence[Window],
    out: Sequence[Pixels],
    endpoint_url: str | None = None,
) -> ReadCount:
    """Read windows of one variable of one file.

    Parameters
    ----------
    index
        References of the file.
    variable
        ``rad`` for counts, ``dqf`` for quality flags.
    windows
        Pixel windows inside the image; they may overlap.
    out
        One array per window, of its shape and the stored dtype; filled in place.
    endpoint_url
        S3 endpoint, for files on S3.

    Raises
    ------
    SourceError
        If bytes are missing or a chunk does not decode.
    """
    table: ChunkTable = getattr(index, variable)
    wanted, count = _chunks_of_windows(table, windows), ReadCount()
    for chunk in wanted:
        if table.sizes[chunk] == 0:
            _scatter(table, chunk, np.full(table.chunks, table.fill, _native(table)), wanted[chunk], windows, out)
    for chunk, pixels in _decoded(index, variable, list(wanted), count, endpoint_url):
        _scatter(table, chunk, pixels, wanted[chunk], windows, out)
    return count


def stream_windows(
    index: FileIndex,
    variable: Literal["rad", "dqf"],
    windows: Sequence[Window],
    count: ReadCount,
    endpoint_url: str | None = None,
) -> Iterator[Pixels]:
    """Yield windows in the order given, each as soon as it and those before it are whole.

    A file's chunks lie row by row: of windows sorted by their last row, only those that the chunks at hand touch
    are held in memory.

    Parameters
    ----------
    index, variable, windows, endpoint_url
        As for :func:`read_windows`.
    count
        What the read costs is added to it.

    Raises
    ------
    SourceError
        If bytes are missing or a chunk does not decode.
    """
    table: ChunkTable = getattr(index, variable)
    touched = _chunks_of_windows(table, windows)
    wanted = {chunk: users for chunk, users in touched.items() if table.sizes[chunk]}
    holed = {i for chunk, users in touched.items() if chunk not in wanted for i in users}
    missing = Counter(i for users in wanted.values() for i in users)
    begun: dict[int, Pixels] = {}

    def begin(i: int) -> Pixels:
        pixels = np.empty((windows[i].height, windows[i].width), _native(table))
        if i in holed:
            pixels[...] = table.fill
        return pixels

    turn = 0
    for chunk, pixels in _decoded(index, variable, list(wanted), count, endpoint_url):
        users = wanted[chunk]
        begun.update((i, begin(i)) for i in users if i not in begun)
        _scatter(table, chunk, pixels, users, windows, begun)
        missing.subtract(users)
        while turn < len(windows) and not missing[turn]:
            yield begun.pop(turn) if turn in begun else begin(turn)
            turn += 1
    for i in range(turn, len(windows)):
        yield begin(i)


def _decoded(
    index: FileIndex,
    variable: Literal["rad", "dqf"],
    chunks: Sequence[tuple[int, int]],
    count: ReadCount,
    endpoint_url: str | None,
) -> Iterator[tuple[tuple[int, int], Pixels]]:
    """Read and decode chunks in file order, each once; never-written ones are left out."""
    table: ChunkTable = getattr(index, variable)
    spans = plan_reads(table, chunks, _S3_GAP if index.source.href.startswith("s3://") else _LOCAL_GAP)
    for span, data in _read_spans(index.source.href, spans, endpoint_url):
        count.add(ReadCount(len(span.chunks), 1, len(data)))
        if len(data) < span.stop - span.start:
            raise SourceError(
                f"{index.source.href} ends at byte {span.start + len(data)} but its {variable} chunks reach to "
                f"byte {span.stop} (truncated file); fetch it again"
            )
        view = memoryview(data)
        for chunk in span.chunks:
            begin = int(table.offsets[chunk]) - span.start
            try:
                pixels = decode_chunk(table, view[begin : begin + int(table.sizes[chunk])])
            except (ValueError, isal_zlib.error) as error:  # type: ignore[misc]  # not zlib.error; its stub has no class
                raise SourceError(
                    f"{index.source.href}: {variable} chunk {list(chunk)} does not decode ({error}); "
                    "fetch the file again"
                ) from error
            yield chunk, pixels


def plan_reads(table: ChunkTable, chunks: Sequence[tuple[int, int]], gap: int) -> list[Span]:
    """Coalesce chunks into byte ranges, in file order; never-written chunks are left out."""
    spans: list[Span] = []
    for chunk in sorted((c for c in chunks if table.sizes[c]), key=lambda c: int(table.offsets[c])):
        start = int(table.offsets[chunk])
        stop = start + int(table.sizes[chunk])
        last = spans[-1] if spans else None
        if last and start - last.stop <= gap and stop - last.start <= _SPAN_LIMIT:
            spans[-1] = Span(last.start, max(stop, last.stop), (*last.chunks, chunk))
        else:
            spans.append(Span(start, stop, (chunk,)))
    return spans


def decode_chunk(table: ChunkTable, data: bytes | memoryview) -> Pixels:
    """Undo a chunk's filters. Returns an array of the chunk shape; raises ValueError if it has another size."""
    dtype = np.dtype(table.dtype)
    expected = table.chunks[0] * table.chunks[1] * dtype.itemsize
    raw: bytes | memoryview | Pixels = data
    for name in reversed(table.filters):
        if name == "deflate":
            raw = isal_zlib.decompress(raw, bufsize=expected)
        elif dtype.itemsize > 1:  # shuffle: bytes of equal significance lie together
            planes = np.frombuffer(raw, "u1").reshape(dtype.itemsize, -1)
            raw = np.ascontiguousarray(planes.T).ravel()
    pixels = np.frombuffer(raw, dtype)
    if pixels.nbytes != expected:
        raise ValueError(f"{pixels.nbytes} bytes where {expected} are expected")
    return pixels.reshape(table.chunks).astype(_native(table), copy=False)


def _native(table: ChunkTable) -> np.dtype[Any]:
    return np.dtype(table.dtype).newbyteorder("=")


def _chunks_of_windows(table: ChunkTable, windows: Sequence[Window]) -> dict[tuple[int, int], list[int]]:
    """Invert windows -> chunks into chunk -> windows."""
    users: dict[tuple[int, int], list[int]] = defaultdict(list)
    (height, width), (rows, cols) = table.chunks, table.shape
    for i, w in enumerate(windows):
        if w.row < 0 or w.col < 0 or w.row + w.height > rows or w.col + w.width > cols:
            raise ValueError(f"window {w} lies outside an image of {rows} x {cols} pixels")
        for r in range(w.row // height, -(-(w.row + w.height) // height)):
            for c in range(w.col // width, -(-(w.col + w.width) // width)):
                users[r, c].append(i)
    return users


def _scatter(
    table: ChunkTable,
    chunk: tuple[int, int],
    pixels: Pixels,
    users: Sequence[int],
    windows: Sequence[Window],
    out: Sequence[Pixels] | Mapping[int, Pixels],
) -> None:
    """Copy a decoded chunk into every window that overlaps it."""
    top, left = chunk[0] * table.chunks[0], chunk[1] * table.chunks[1]
    for i in users:
        w = windows[i]
        r0, r1 = max(top, w.row), min(top + table.chunks[0], w.row + w.height)
        c0, c1 = max(left, w.col), min(left + table.chunks[1], w.col + w.width)
        out[i][r0 - w.row : r1 - w.row, c0 - w.col : c1 - w.col] = pixels[r0 - top : r1 - top, c0 - left : c1 - left]


def _read_spans(href: str, spans: Sequence[Span], endpoint_url: str | None) -> Iterator[tuple[Span, bytes]]:
    if not href.startswith("s3://"):
        try:
            descriptor = os.open(href, os.O_RDONLY)
        except OSError as error:
            raise SourceError(f"{href} cannot be read ({error.strerror}); was it moved since it was listed?") from error
        try:
            for span in spans:
                yield span, os.pread(descriptor, span.stop - span.start, span.start)
        finally:
            os.close(descriptor)
        return
    for batch in _batches(spans):
        with translate_s3_errors(href, endpoint_url):
            blocks = s3_filesystem(endpoint_url).cat_ranges(
                [href] * len(batch), [s.start for s in batch], [s.stop for s in batch], on_error="raise"
            )
        yield from zip(batch, blocks, strict=True)


def _batches(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Spans fetched concurrently, at most ``_BATCH_LIMIT`` bytes at once."""
    batch: list[Span] = []
    for span in spans:
        if batch and sum(s.stop - s.start for s in [*batch, span]) > _BATCH_LIMIT:
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch
