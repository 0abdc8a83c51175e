"""Images of products in EOPF's Zarr form, read in parts of their chunks."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, BytesCodec, ZstdCodec

from catalog.sentinel2.download import AbsentError
from catalog.sentinel2.eopf_arrays import read_array
from catalog.sentinel2.eopf_tree import known_tree, open_reader
from catalog.sentinel2.metadata import OFFSET, QUANTIFICATION
from cube.sentinel2.lattice import Window
from cube.sentinel2.resample import SourceGrid
from stratacube.addresses import plain_url
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = ["ZarrRaster", "some_of_blosc"]

_STRIP = 512
"""Rows of a large chunk that are decoded together: a chunk of a whole tile is 60 MB, and each band has one."""

_LARGE = 1 << 21
"""Pixels of a chunk above which it is decoded in strips, where its codec can."""

_NATIVE_20M = "b05"
"""A band that every product has at 20 m: it tells whether a chunk of classes is empty or lost."""

_REMEDY = "copy the product again, or leave it out"

_MOST = np.iinfo("u2").max

_HEADER = struct.Struct("<BBBBIII")
_COPIED = 0x02
"""Flag of a Blosc buffer that holds its bytes as they are."""


class ZarrRaster:
    """One array; as :class:`cube.sentinel2.rasters.Raster`.

    Parameters
    ----------
    place
        Folder of the array, or its address in a product that lies elsewhere.

    Raises
    ------
    SourceError
        If it is no image of a product.
    """

    by_area = True

    def __init__(self, place: Path | str) -> None:
        self._stored_at = _Folder(place) if isinstance(place, Path) else _Elsewhere(place)
        self.told, facts = self._stored_at.told, self._stored_at.facts
        self.is_float = facts.is_float
        self.grid = SourceGrid(facts.proj_code, facts.transform, *facts.shape)
        with guarded(f"{self.told} is not a Zarr array that can be read", _REMEDY):
            self._array: Any = self._stored_at.array()
            if self._array.shape != facts.shape:
                raise ValueError(f"it has shape {self._array.shape}")
            self.chunk = int(self._array.chunks[0]), int(self._array.chunks[1])
        self.dtype = "u2" if self.is_float else str(self._array.dtype)
        self._some, order = _partial_decoder(self._array.metadata)
        self._stored = self._array.dtype.newbyteorder(order)
        in_strips = self.chunk[0] * self.chunk[1] > _LARGE and self._some is some_of_blosc
        self.block = (min(_STRIP, self.chunk[0]) if in_strips else self.chunk[0]), self.chunk[1]

    def decode(self, area: Window) -> npt.NDArray[Any]:
        """Return the counts of a window; floats are packed as counts are."""
        with guarded(f"{self.told} cannot be decoded", _REMEDY):
            values = self._in_parts(area)
        if not self.is_float:
            return values
        counts = np.rint(values * np.float32(QUANTIFICATION)) - OFFSET
        # What is above all counts becomes the greatest, which is saturated in every product.
        return np.where(np.isfinite(counts), np.clip(counts, 0, _MOST), 0).astype("u2")

    def close(self) -> None:
        """Nothing is kept open."""

    def _in_parts(self, area: Window) -> npt.NDArray[Any]:
        (rows, cols) = self.chunk
        out = np.empty((area.height, area.width), self._array.dtype)
        for i in range(area.row // rows, (area.end_row - 1) // rows + 1):
            for j in range(area.col // cols, (area.end_col - 1) // cols + 1):
                part = Window(i * rows, j * cols, rows, cols).intersect(area)
                out[part.within(area)] = self._part((i, j), part)
        return out

    def _part(self, index: tuple[int, int], part: Window) -> npt.NDArray[Any]:
        """Pixels of one chunk. A chunk that is not there would be read as no data, and may have been lost."""
        key = self._array.metadata.encode_chunk_key(index)
        with self._stored_at.chunk(key) as opened:
            if opened is None and not self._stored_at.is_empty(key):
                raise SourceError(f"chunk {key} is missing; copy the product again, or leave it out")
            if self._some is None or opened is None:
                whole = Window(0, 0, *self._array.shape)
                return np.asarray(self._stored_at.array(key)[part.within(whole)])
            chunk = Window(index[0] * self.chunk[0], index[1] * self.chunk[1], *self.chunk)
            down, across = part.within(chunk)
            width = self.chunk[1] * self._array.dtype.itemsize
            found = self._some(opened, down.start * width, down.stop * width)
        return np.frombuffer(found, self._stored).reshape(-1, self.chunk[1])[:, across]


class _Folder:
    """An array on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.told = path, str(path)
        self.facts = read_array(path)

    def array(self, key: str = "") -> Any:
        """Return the array, of which at least a chunk can be read."""
        return zarr.open_array(self.path, mode="r")

    @contextmanager
    def chunk(self, key: str) -> Iterator[BinaryIO | None]:
        """Open a chunk; None where there is none."""
        if not (self.path / key).is_file():
            yield None
            return
        with (self.path / key).open("rb") as opened:
            yield opened

    def is_empty(self, key: str) -> bool:
        """Whether a chunk of classes holds nothing: then the product's bands have none there either."""
        if self.path.name != "scl":
            return False  # what is asked of a band is valid by its classes
        pixel = self.path.parent.name
        band = self.path.parents[4] / "measurements" / "reflectance" / pixel / _NATIVE_20M
        return band.is_dir() and not (band / key).is_file()


class _Elsewhere:
    """An array in a product that lies elsewhere, read through fsspec with what the environment holds."""

    def __init__(self, href: str) -> None:
        self.href, self.told = href, plain_url(href)
        self.tree, self.inside = known_tree(href)
        self.documents = self.tree.metadata(self.inside)
        self.facts = self.tree.facts(self.inside)
        self.kept: dict[str, bytes | None] = {}

    def array(self, key: str = "") -> Any:
        """Return the array, of which at least a chunk can be read."""
        held = {name: json.dumps(document).encode() for name, document in self.documents.items()}
        held |= {key: content} if (content := self.kept.get(key)) is not None else {}
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        store = zarr.storage.MemoryStore({name: buffer.from_bytes(content) for name, content in held.items()})
        return zarr.open_array(store, mode="r")

    @contextmanager
    def chunk(self, key: str) -> Iterator[BinaryIO | None]:
        """Fetch a chunk; None where there is none."""
        self.kept = {key: _content(f"{self.href}/{key}")}
        content = self.kept[key]
        yield None if content is None else io.BytesIO(content)

    def is_empty(self, key: str) -> bool:
        """As of a folder."""
        home, _, name = self.inside.rpartition("/")
        if name != "scl":
            return False
        band = f"measurements/reflectance/{home.rpartition('/')[2]}/{_NATIVE_20M}"
        return bool(self.tree.metadata(band)) and _content(f"{self.tree.address}/{band}/{key}") is None


def _content(href: str) -> bytes | None:
    try:
        return open_reader({})(href)
    except AbsentError:
        return None


_Decoder = Callable[[BinaryIO, int, int], bytes]


def _partial_decoder(metadata: Any) -> tuple[_Decoder | None, Literal["<", ">"]]:
    """What decodes some rows of a chunk, where chunks are compressed rows and nothing else, and the order of bytes.

    Zarr decodes chunks whole, for each array and chunk waits for a thread of its own, and of a Blosc buffer that is cut
    it reads what lies behind in memory.
    """
    known: dict[type, _Decoder]
    if metadata.zarr_format == 2:
        known = {Blosc: some_of_blosc, Zstd: _some_of_zstd}
        plain = not metadata.filters and metadata.order == "C"
        return known.get(type(metadata.compressor)) if plain else None, "<"  # others are refused before
    if len(metadata.codecs) != 2 or not isinstance(metadata.codecs[0], BytesCodec):
        return None, "<"
    order = metadata.codecs[0].endian
    known = {BloscCodec: some_of_blosc, ZstdCodec: _some_of_zstd}
    return known.get(type(metadata.codecs[1])), ">" if order is not None and order.value == "big" else "<"


def _some_of_zstd(file: BinaryIO, start: int, stop: int) -> bytes:
    """Read and decode a part of a Zstandard frame: up to its end, and nothing of what follows."""
    found = bytearray(stop)
    with pa.CompressedInputStream(pa.BufferReader(file.read()), "zstd") as stream:
        held = stream.readinto(found)
    if held != stop:
        raise ValueError(f"the chunk holds {held} bytes where {stop} are wanted")
    return bytes(memoryview(found)[start:])


def some_of_blosc(file: BinaryIO, start: int, stop: int) -> bytes:
    """Read and decode a part of a Blosc buffer: only the blocks that hold it.

    A buffer of Blosc 1 has a header, the place of each block, and blocks that are compressed and shuffled each alone
    (https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst), so some of them make a buffer of their own.

    Parameters
    ----------
    file
        Holds the buffer and nothing else.
    start, stop
        Bytes wanted of what it holds.

    Raises
    ------
    ValueError
        If it is no such thing, or holds less.
    """
    there = file.seek(0, io.SEEK_END)
    version, inner, flags, size, total, block, length = _HEADER.unpack(_bytes_at(file, 0, _HEADER.size))
    if length != there or not 0 <= start <= stop <= total or not block:
        raise ValueError(f"the chunk has {there} bytes for {total}")
    if flags & _COPIED:
        return _bytes_at(file, _HEADER.size + start, stop - start)
    count = -(-total // block)
    places = struct.unpack(f"<{count}i", _bytes_at(file, _HEADER.size, 4 * count))
    first, last = start // block, max(start // block + 1, -(-stop // block))
    first = min(first, max(0, count - 2)) if last == count else first  # a buffer holds at least one whole block
    ends = dict(pairwise([*sorted(places), length]))
    if not all(_HEADER.size < place < ends[place] for place in places):
        raise ValueError("the chunk is damaged")
    parts, moved, at = [], [], _HEADER.size + 4 * (last - first)
    for place in places[first:last]:
        parts.append(_bytes_at(file, place, ends[place] - place))
        moved.append(at)
        at += len(parts[-1])
    held = min(last * block, total) - first * block
    header = _HEADER.pack(version, inner, flags, size, held, block, at)
    decoded: bytes = Blosc().decode(b"".join((header, struct.pack(f"<{len(moved)}i", *moved), *parts)))
    return decoded[start - first * block : stop - first * block]


def _bytes_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    found = file.read(count)
    if len(found) != count:
        raise ValueError(f"the chunk ends at byte {place + len(found)}")
    return found
