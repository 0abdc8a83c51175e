"""Undoing the filters of chunks: a small chunk at once, a large one strip by strip as its bytes come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from cube.geostationary.file_index import ChunkTable

__all__ = ["decode_chunk", "decode_strips", "inflate", "is_large"]

WHOLE_BYTES = 2**24
"""Decoded bytes of the largest chunk that is decoded at once."""
STRIP_BYTES = 2**21
"""Decoded bytes of a strip, about."""

Pixels = npt.NDArray[Any]


def is_large(table: ChunkTable) -> bool:
    """Whether a chunk should not be held whole; one that was shuffled has to be."""
    return _bytes(table) > WHOLE_BYTES and table.filters in ((), ("deflate",))


def _bytes(table: ChunkTable) -> int:
    return table.chunks[0] * table.chunks[1] * np.dtype(table.dtype).itemsize


def decode_chunk(table: ChunkTable, data: bytes | memoryview) -> Pixels:
    """Undo a chunk's filters.

    Parameters
    ----------
    table
        Of the chunk's dataset.
    data
        The chunk's bytes. However many they stand for, not many more than expected are ever held.

    Returns
    -------
    ndarray
        Of the chunk shape.

    Raises
    ------
    ValueError
        If the chunk decodes to fewer or more bytes than it should.
    """
    dtype, expected = np.dtype(table.dtype), _bytes(table)
    raw: bytes | memoryview | Pixels = data
    for name in reversed(table.filters):
        if name == "deflate":
            raw = inflate(raw, expected)
        elif name != "shuffle":
            raise ValueError(f"the filter {name} is not known")
        elif dtype.itemsize > 1:  # shuffle: bytes of equal significance lie together
            planes = np.frombuffer(raw, "u1").reshape(dtype.itemsize, -1)
            raw = np.ascontiguousarray(planes.T).ravel()
    pixels = np.frombuffer(raw, dtype)
    if pixels.nbytes != expected:
        raise ValueError(f"{pixels.nbytes} bytes where {expected} are expected")
    return pixels.reshape(table.chunks).astype(dtype.newbyteorder("="), copy=False)


def inflate(data: Any, expected: int) -> bytes:
    """Inflate at most one byte more than is expected: a few bytes may stand for a thousand times as many.

    Raises
    ------
    ValueError
        If there are more, or fewer.
    """
    inflater = isal_zlib.decompressobj()
    raw: bytes = inflater.decompress(data, expected + 1)
    if len(raw) > expected:
        raise ValueError(f"more than the {expected} bytes that are expected")
    if not inflater.eof:
        raise ValueError(f"it breaks off after {len(raw)} bytes where {expected} are expected")
    return raw


def decode_strips(table: ChunkTable, pieces: Iterable[bytes]) -> Iterator[tuple[int, Pixels]]:
    """Decode a large chunk strip by strip; who has enough stops taking.

    Parameters
    ----------
    table
        Of the chunk's dataset; see :func:`is_large`.
    pieces
        The chunk's bytes in order, in pieces of any size.

    Yields
    ------
    row, pixels
        First row within the chunk, and whole rows of it.

    Raises
    ------
    ValueError
        If the chunk decodes to fewer or more bytes than it should.
    """
    dtype = np.dtype(table.dtype)
    row_bytes = table.chunks[1] * dtype.itemsize
    strip_bytes = max(1, STRIP_BYTES // row_bytes) * row_bytes
    expected, begun, row = _bytes(table), bytearray(), 0
    for data in _inflated(table, pieces, strip_bytes):
        begun += data
        if row * row_bytes + len(begun) > expected:
            raise ValueError(f"more than the {expected} bytes that are expected")
        while len(begun) >= strip_bytes or (begun and row * row_bytes + len(begun) == expected):
            taken = bytes(begun[:strip_bytes])
            del begun[:strip_bytes]
            pixels = np.frombuffer(taken, dtype).reshape(-1, table.chunks[1])
            yield row, pixels.astype(dtype.newbyteorder("="), copy=False)
            row += len(pixels)
    if row < table.chunks[0]:
        raise ValueError(f"{row * row_bytes + len(begun)} bytes where {expected} are expected")


def _inflated(table: ChunkTable, pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Decoded bytes, at most ``limit`` at once, for the same reason."""
    if not table.filters:
        yield from pieces
        return
    inflater = isal_zlib.decompressobj()
    for piece in pieces:
        data = inflater.decompress(piece, limit)
        while data:
            yield data
            data = inflater.decompress(inflater.unconsumed_tail, limit)
