"""Whole inner chunks, from storage straight into the caller's arrays.

A tile is one inner chunk of a shard. Its bytes are found by the shard's index (read once, kept), all chunks of a batch
are asked for together, and each is decompressed once into its place: no intermediate arrays, and on an object store
no waiting in turn. Arrays laid out otherwise are read by zarr.

Source: Zarr v3 specification, codec ``sharding_indexed`` version 1.0.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from loaders.near import NodeCache
from stratacube.errors import SourceError

__all__ = ["ChunkReader", "ReadTime", "Target"]

_ABSENT = 2**64 - 1
_CHECKSUM = 4
Decompress = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Target:
    """Where a tile of an array is wanted."""

    name: str
    tile: int
    out: npt.NDArray[Any]
    window: tuple[slice, ...] | None = None
    """Part of the tile; None for all of it."""


@dataclass
class ReadTime:
    """Where time went, in seconds, and how much was read."""

    fetch: float = 0.0
    decode: float = 0.0
    stored_bytes: int = 0
    decoded_bytes: int = 0


@dataclass
class TileArray:
    """How the tiles of one array lie in storage."""

    path: str
    array: zarr.Array[Any]
    decompress: Decompress | None
    """None where zarr reads."""
    per_shard: int
    """Tiles of a shard; 0 where each chunk is an object of its own."""
    indexes: dict[int, npt.NDArray[np.uint64] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str, array: zarr.Array[Any]) -> TileArray:
        """Look up how an array is stored."""
        codecs: Sequence[Any] = array.metadata.codecs  # type: ignore[union-attr]
        whole = array.chunks == (1, *array.shape[1:])
        if array.shards is None:
            return cls(path, array, _decompressor(codecs) if whole else None, 0)
        shard = codecs[0]
        plain_index = (
            isinstance(shard, ShardingCodec)
            and len(codecs) == 1
            and _setting(shard, "index_location") == "end"
            and [type(c) for c in shard.index_codecs] == [BytesCodec, Crc32cCodec]
        )
        whole = whole and array.shards[1:] == array.shape[1:] and plain_index
        return cls(path, array, _decompressor(shard.codecs) if whole else None, array.shards[0])

    def object_of(self, tile: int) -> str:
        """Path of the object that holds a tile."""
        number = tile // max(1, self.per_shard)
        key = self.array.metadata.encode_chunk_key((number,) + (0,) * (self.array.ndim - 1))
        return f"{self.path}/{key}"

    @property
    def index_size(self) -> int:
        """Bytes of a shard's index."""
        return 16 * self.per_shard + _CHECKSUM


class ChunkReader:
    """Reads tiles of the arrays of one store; cheap to pickle, opened where it is used, safe for several threads.

    Parameters
    ----------
    url
        The store: a path or a URL that fsspec knows.
    storage_options
        For fsspec.
    cache
        Of this node, which whole shards are read through.
    """

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None, cache: NodeCache | None = None) -> None:
        self.url = url
        self.storage_options = storage_options or {}
        self.cache = cache
        self.time = ReadTime()
        self._open()

    def _open(self) -> None:
        self._filesystem, self._root = fsspec.core.url_to_fs(self.url, **self.storage_options)
        self._arrays: dict[str, TileArray] = {}
        self._group: zarr.Group | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "storage_options": self.storage_options, "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def cached(self, folder: str | os.PathLike[str] | None, gigabytes: float) -> ChunkReader:
        """Read through a folder of this node (:class:`loaders.near.NodeCache`); this reader itself for no folder."""
        return self if folder is None else ChunkReader(self.url, self.storage_options, NodeCache(folder, gigabytes))

    def array(self, name: str) -> TileArray:
        """Look up an array of the store."""
        with self._lock:
            if name not in self._arrays:
                if self._group is None:
                    options = self.storage_options or None
                    self._group = zarr.open_group(self.url, mode="r", storage_options=options)
                self._arrays[name] = TileArray.of(f"{self._root}/{name}", self._group[name])  # type: ignore[arg-type]
            return self._arrays[name]

    def read(self, targets: Sequence[Target]) -> list[SourceError | None]:
        """Fill every target; tiles never written hold the array's fill value.

        Returns
        -------
        list
            For each target None, or why it could not be read: a checksum, a size or a compressed stream is wrong, or
            storage failed.
        """
        started = _now()
        arrays = [self.array(t.name) for t in targets]
        errors: list[SourceError | None] = [None] * len(targets)
        fast = [i for i, a in enumerate(arrays) if a.decompress is not None]
        ranges, wanted = [], []
        for i, where in zip(fast, self._locate([(arrays[i], targets[i].tile) for i in fast]), strict=True):
            if isinstance(where, SourceError):
                errors[i] = where
            elif where is None:
                targets[i].out[...] = arrays[i].array.fill_value
            else:
                ranges.append(where)
                wanted.append(i)
        blobs = self._cat(ranges)
        fetched = _now()
        self.time.fetch += fetched - started
        for i, blob in zip(wanted, blobs, strict=True):
            errors[i] = self._place(arrays[i], targets[i], blob)
        for i in set(range(len(targets))) - set(fast):
            errors[i] = _read_by_zarr(arrays[i], targets[i])
        self.time.decode += _now() - fetched
        self.time.decoded_bytes += sum(t.out.nbytes for t in targets)
        return errors

    def _locate(self, tiles: Sequence[tuple[TileArray, int]]) -> list[Any]:
        """Find the (path, start, end) of tiles; None where nothing is stored; an error where the index is bad."""
        missing: dict[tuple[str, int], TileArray] = {}
        for array, tile in tiles:
            if array.per_shard and tile // array.per_shard not in array.indexes:
                missing[array.path, tile // array.per_shard] = array
        requests = [(a.object_of(s * a.per_shard), -a.index_size, None) for (_, s), a in missing.items()]
        bad: dict[tuple[str, int], SourceError] = {}
        for ((path, shard), array), blob in zip(missing.items(), self._cat(requests), strict=True):
            try:
                array.indexes[shard] = _parse_index(blob, array)
            except (OSError, ValueError) as error:
                bad[path, shard] = SourceError(f"index of {array.object_of(shard * array.per_shard)}: {error}")
        return [self._range(array, tile, bad) for array, tile in tiles]

    @staticmethod
    def _range(array: TileArray, tile: int, bad: dict[tuple[str, int], SourceError]) -> Any:
        if not array.per_shard:
            return array.object_of(tile), None, None
        shard, place = divmod(tile, array.per_shard)
        if (array.path, shard) in bad:
            return bad[array.path, shard]
        index = array.indexes[shard]
        if index is None or index[place, 0] == _ABSENT:
            return None
        start, size = int(index[place, 0]), int(index[place, 1])
        return array.object_of(tile), start, start + size

    def _cat(self, ranges: Sequence[tuple[str, int | None, int | None]]) -> list[Any]:
        """Byte ranges, all at once where storage is remote; an exception in the place of what failed."""
        if not ranges:
            return []
        blobs: list[Any]
        if self.cache is not None:
            blobs = self.cache.cat_ranges(self._filesystem, ranges)
        else:
            paths, starts, ends = (list(column) for column in zip(*ranges, strict=True))
            blobs = self._filesystem.cat_ranges(paths, starts, ends, on_error="return")
        self.time.stored_bytes += sum(len(b) for b in blobs if isinstance(b, bytes))
        return blobs

    @staticmethod
    def _place(array: TileArray, target: Target, blob: Any) -> SourceError | None:
        if isinstance(blob, FileNotFoundError) and not array.per_shard:
            target.out[...] = array.array.fill_value
            return None
        try:
            if isinstance(blob, Exception):
                raise blob
            assert array.decompress is not None
            shape, dtype = array.array.shape[1:], array.array.dtype
            if target.window is None and target.out.flags.c_contiguous and target.out.dtype == dtype:
                array.decompress(blob, target.out)
            else:
                tile = np.empty(shape, dtype)
                array.decompress(blob, tile)
                target.out[...] = tile[target.window or ...]
        except (OSError, RuntimeError, ValueError) as error:
            return SourceError(f"{array.object_of(target.tile)} is damaged ({error})")
        return None


def _read_by_zarr(array: TileArray, target: Target) -> SourceError | None:
    try:
        target.out[...] = array.array[(target.tile, *(target.window or ()))]  # type: ignore[index]
    except (OSError, RuntimeError, ValueError) as error:
        return SourceError(f"{array.object_of(target.tile)} is damaged ({error})")
    return None


def _parse_index(blob: Any, array: TileArray) -> npt.NDArray[np.uint64] | None:
    if isinstance(blob, FileNotFoundError):
        return None
    if isinstance(blob, Exception):
        raise ValueError(str(blob))
    if len(blob) != array.index_size:
        raise ValueError(f"{len(blob)} bytes where {array.index_size} are due")
    _check_sum(blob)
    return np.frombuffer(blob, "<u8", 2 * array.per_shard).reshape(-1, 2)


def _check_sum(blob: bytes) -> None:
    stored, found = int.from_bytes(blob[-_CHECKSUM:], "little"), google_crc32c.value(blob[:-_CHECKSUM])
    if stored != found:
        raise ValueError(f"checksum {found:08x} where {stored:08x} is stored")


def _setting(codec: Any, name: str) -> Any:
    """Return a codec's setting as the specification writes it: attributes are text or enums as zarr's version goes."""
    return codec.to_dict().get("configuration", {}).get(name)


def _decompressor(codecs: Sequence[Any]) -> Decompress | None:
    """How to undo a chain of codecs into an array; None for chains left to zarr."""
    if not codecs or not isinstance(codecs[0], BytesCodec) or _setting(codecs[0], "endian") == "big":
        return None
    rest = list(codecs[1:])
    checked = bool(rest) and isinstance(rest[-1], Crc32cCodec)
    if checked:
        rest.pop()
    kinds = [type(c) for c in rest]
    if kinds not in ([], [BloscCodec], [ZstdCodec]):
        return None
    undo = {BloscCodec: _unblosc, ZstdCodec: _unzstd}[kinds[0]] if kinds else _copy

    def decompress(blob: bytes, out: npt.NDArray[Any]) -> None:
        if checked:
            _check_sum(blob)
            blob = blob[:-_CHECKSUM]
        undo(blob, out)

    return decompress


def _unblosc(blob: bytes, out: npt.NDArray[Any]) -> None:
    if len(blob) < 16 or int.from_bytes(blob[4:8], "little") != out.nbytes:
        raise ValueError(f"not a Blosc stream of {out.nbytes} bytes")
    numcodecs.blosc.decompress(blob, out)


def _unzstd(blob: bytes, out: npt.NDArray[Any]) -> None:
    numcodecs.zstd.decompress(blob, out)


def _copy(blob: bytes, out: npt.NDArray[Any]) -> None:
    out.reshape(-1).view("u1")[:] = np.frombuffer(blob, "u1")


def _now() -> float:
    return time.perf_counter()
