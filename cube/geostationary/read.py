"""Pixels from byte ranges: each chunk that any window needs is read once and decoded once, then scattered."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from catalog.geostationary.s3 import read_ranges
from catalog.geostationary.scans import SourceFile
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.grid import Window
from cube.geostationary.inflate import decode_chunk, decode_strips, is_large
from stratacube.errors import SourceError, UnavailableError
from stratacube.guard import guarded

__all__ = ["ReadCount", "byte_ranges", "decode_chunk", "plan_reads", "read_windows", "stream_images", "stream_windows"]

# Reading a small gap costs less than another seek (local) or another request (S3).
_LOCAL_GAP, _S3_GAP = 2**14, 2**18
# Spans in flight at once bound the memory of a read, whatever the number of windows.
_SPAN_LIMIT, _BATCH_LIMIT = 2**23, 2**25
_PIECE = 2**22
"""Bytes of a large chunk that are read at once."""

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
        One array per window, of its shape and the dataset's dtype; filled in place.
    endpoint_url
        S3 endpoint, for files on S3.

    Raises
    ------
    SourceError
        If bytes are missing or a chunk does not decode.
    """
    table: ChunkTable = getattr(index, variable)
    wanted, count = _chunks_of_windows(table, windows), ReadCount()
    for (r, c), users in wanted.items():
        if table.sizes[r, c] == 0:
            nothing = _Block(
                r * table.chunks[0], c * table.chunks[1], np.full(table.chunks, table.fill, _native(table))
            )
            for i in users:
                nothing.copy_to(windows[i], out[i])
    for chunk, block in _decoded(index, variable, wanted, windows, count, endpoint_url):
        own = block.picked(table)
        for i in wanted[chunk]:
            own.copy_to(windows[i], out[i])
    return count


def stream_windows(
    index: FileIndex,
    variable: Literal["rad", "dqf"],
    windows: Sequence[Window],
    count: ReadCount,
    endpoint_url: str | None = None,
) -> Iterator[Pixels]:
    """Yield windows in the order given, each as soon as it and those before it are whole.

    A file's chunks lie row by row: of windows sorted by their last row, only those that the rows at hand touch
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
    yield from map(table.pick, _stream(index, variable, windows, count, endpoint_url))


def stream_images(
    index: FileIndex, windows: Sequence[Window], count: ReadCount, endpoint_url: str | None = None
) -> Iterator[tuple[Pixels, Pixels]]:
    """Yield counts and quality flags of windows, as :func:`stream_windows` yields one of them.

    Where both are bits of one dataset, it is read once.
    """
    values = _stream(index, "rad", windows, count, endpoint_url)
    if index.is_one_dataset:
        yield from ((index.rad.pick(v), index.dqf.pick(v)) for v in values)
    else:
        yield from zip(values, _stream(index, "dqf", windows, count, endpoint_url), strict=True)


def _stream(
    index: FileIndex,
    variable: Literal["rad", "dqf"],
    windows: Sequence[Window],
    count: ReadCount,
    endpoint_url: str | None,
) -> Iterator[Pixels]:
    """Windows of one dataset, with all bits that its values have."""
    table: ChunkTable = getattr(index, variable)
    touched = _chunks_of_windows(table, windows)
    wanted = {chunk: users for chunk, users in touched.items() if table.sizes[chunk]}
    holes: dict[int, int] = defaultdict(int)
    for (r, c), users in touched.items():
        if (r, c) not in wanted:
            hole = _Block(r * table.chunks[0], c * table.chunks[1], np.broadcast_to(np.uint8(0), table.chunks))
            for i in users:
                r0, r1, c0, c1 = hole.rows_and_cols(windows[i])
                holes[i] += (r1 - r0) * (c1 - c0)
    missing = [w.height * w.width - holes[i] for i, w in enumerate(windows)]
    begun: dict[int, Pixels] = {}

    def begin(i: int) -> Pixels:
        pixels = np.empty((windows[i].height, windows[i].width), _native(table))
        if holes[i]:
            pixels[...] = table.fill
        return pixels

    turn = 0
    for chunk, block in _decoded(index, variable, wanted, windows, count, endpoint_url):
        for i in wanted[chunk]:
            if i not in begun and block.touches(windows[i]):
                begun[i] = begin(i)
            if i in begun:
                missing[i] -= block.copy_to(windows[i], begun[i])
        while turn < len(windows) and not missing[turn]:
            yield begun.pop(turn) if turn in begun else begin(turn)
            turn += 1
    for i in range(turn, len(windows)):
        yield begin(i)


@dataclass(frozen=True)
class _Block:
    """Decoded pixels, and where in the image their first is: a chunk, or some rows of one."""

    row: int
    col: int
    pixels: Pixels

    def picked(self, table: ChunkTable) -> _Block:
        return _Block(self.row, self.col, table.pick(self.pixels))

    def rows_and_cols(self, w: Window) -> tuple[int, int, int, int]:
        """First and last (exclusive) row and column of what it shares with a window."""
        height, width = self.pixels.shape
        rows = max(self.row, w.row), min(self.row + height, w.row + w.height)
        return *rows, max(self.col, w.col), min(self.col + width, w.col + w.width)

    def touches(self, w: Window) -> bool:
        """Whether it has rows of a window of its chunk's."""
        return self.row < w.row + w.height and w.row < self.row + len(self.pixels)

    def copy_to(self, w: Window, out: Pixels) -> int:
        """Copy what it shares with a window into that window's pixels; return how many that are."""
        r0, r1, c0, c1 = self.rows_and_cols(w)
        if r0 >= r1 or c0 >= c1:
            return 0
        shared = self.pixels[r0 - self.row : r1 - self.row, c0 - self.col : c1 - self.col]
        out[r0 - w.row : r1 - w.row, c0 - w.col : c1 - w.col] = shared
        return (r1 - r0) * (c1 - c0)


def _decoded(
    index: FileIndex,
    variable: Literal["rad", "dqf"],
    wanted: Mapping[tuple[int, int], Sequence[int]],
    windows: Sequence[Window],
    count: ReadCount,
    endpoint_url: str | None,
) -> Iterator[tuple[tuple[int, int], _Block]]:
    """Read and decode chunks in file order, each once; never-written ones are left out."""
    table: ChunkTable = getattr(index, variable)
    if is_large(table):
        for chunk in sorted((c for c in wanted if table.sizes[c]), key=lambda c: int(table.offsets[c])):
            last = max(windows[i].row + windows[i].height for i in wanted[chunk])
            yield from ((chunk, block) for block in _strips(index, variable, chunk, last, count, endpoint_url))
        return
    spans = _spans(index, table, wanted)
    for span, data in _read_spans(index.source, spans, endpoint_url):
        count.add(ReadCount(len(span.chunks), 1, len(data)))
        _refuse_short(index, variable, span, data)
        view = memoryview(data)
        for chunk in span.chunks:
            begin = int(table.offsets[chunk]) - span.start
            with _decoding(index, variable, chunk):
                pixels = decode_chunk(table, view[begin : begin + int(table.sizes[chunk])])
            yield chunk, _Block(chunk[0] * table.chunks[0], chunk[1] * table.chunks[1], pixels)


def byte_ranges(index: FileIndex, variable: Literal["rad", "dqf"], windows: Sequence[Window]) -> list[tuple[int, int]]:
    """Say which byte ranges of a file :func:`read_windows` would read; nothing is read.

    Parameters
    ----------
    index, variable, windows
        As for :func:`read_windows`.

    Returns
    -------
    list of (int, int)
        First byte of each, and the byte after its last. Of a chunk that is too large to be held whole, the ranges it is
        read by, of which the last are left out where no window needs its last rows.
    """
    table: ChunkTable = getattr(index, variable)
    wanted = _chunks_of_windows(table, windows)
    spans = _spans(index, table, wanted)
    if is_large(table):
        spans = [piece for chunk in wanted if table.sizes[chunk] for piece in _pieces(table, chunk)]
    return [(span.start, span.stop) for span in spans]


def _spans(index: FileIndex, table: ChunkTable, wanted: Iterable[tuple[int, int]]) -> list[Span]:
    return plan_reads(table, list(wanted), _S3_GAP if index.source.href.startswith("s3://") else _LOCAL_GAP)


def _pieces(table: ChunkTable, chunk: tuple[int, int]) -> list[Span]:
    """Ranges by which a large chunk is read."""
    start = int(table.offsets[chunk])
    stop = start + int(table.sizes[chunk])
    return [Span(at, min(at + _PIECE, stop), ()) for at in range(start, stop, _PIECE)]


def _strips(
    index: FileIndex,
    variable: Literal["rad", "dqf"],
    chunk: tuple[int, int],
    last: int,
    count: ReadCount,
    endpoint_url: str | None,
) -> Iterator[_Block]:
    """Read and decode a large chunk piece by piece, until a row of the image."""
    table: ChunkTable = getattr(index, variable)
    top, left = chunk[0] * table.chunks[0], chunk[1] * table.chunks[1]
    spans = _pieces(table, chunk)
    count.add(ReadCount(1, 0, 0))

    def pieces() -> Iterator[bytes]:
        for span, data in _read_spans(index.source, spans, endpoint_url):
            count.add(ReadCount(0, 1, len(data)))
            _refuse_short(index, variable, span, data)
            yield data

    with _decoding(index, variable, chunk):
        for row, pixels in decode_strips(table, pieces()):
            yield _Block(top + row, left, pixels)
            if top + row + len(pixels) >= last and last < top + table.chunks[0]:
                return


def _refuse_short(index: FileIndex, variable: str, span: Span, data: bytes) -> None:
    if len(data) < span.stop - span.start:
        raise SourceError(
            f"{index.source.href} ends at byte {span.start + len(data)} but its {variable} chunks reach to "
            f"byte {span.stop} (truncated file); fetch it again"
        )


def _decoding(index: FileIndex, variable: str, chunk: tuple[int, int]) -> AbstractContextManager[None]:
    """Say in which chunk it is that decoding fails."""
    return guarded(f"{index.source.href}: {variable} chunk {list(chunk)} does not decode", "fetch the file again")


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


def _read_spans(source: SourceFile, spans: Sequence[Span], endpoint_url: str | None) -> Iterator[tuple[Span, bytes]]:
    href = source.href
    if not href.startswith("s3://"):
        try:
            descriptor = os.open(href, os.O_RDONLY)
        except OSError as error:
            raise UnavailableError(
                f"{href} cannot be read ({error.strerror}); was it moved since it was listed?"
            ) from error
        except ValueError as error:  # of a name that no file can have
            raise SourceError(f"{href} cannot be read ({error}); list the archive again") from error
        try:
            for span in spans:
                with guarded(f"{href} cannot be read"):
                    data = os.pread(descriptor, span.stop - span.start, span.start)
                yield span, data
        finally:
            os.close(descriptor)
        return
    for batch in _batches(spans):
        blocks = read_ranges(href, [(span.start, span.stop) for span in batch], source.tag, endpoint_url)
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
