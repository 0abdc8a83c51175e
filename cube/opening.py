"""Opening stores with few requests: on object storage each takes as long as reading a megabyte.

What describes a store and all its small arrays is asked for at once, in two rounds, and kept; else xarray and zarr read
it key by key, most of them several times, each after a request for its size.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
import numpy as np
import xarray as xr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from catalog.locate import quick_options

__all__ = ["IN_FLOAT32", "open_store"]

IN_FLOAT32 = "packing_in_float32"
"""Attribute of what float32 values were packed into, each operation rounded: else xarray unpacks in float64."""

_SMALL = 1 << 20
"""Bytes of an array, decoded, up to which it is read with its description."""
_LOCAL = ("file", "local")


class _Held(WrapperStore[Store]):
    """A store of which some keys are known; None for what was never written."""

    def __init__(self, store: Store, held: Mapping[str, bytes | None]) -> None:
        super().__init__(store)
        self._held = held

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, {})  # workers read images, which are not among what is known

    def _with_store(self, store: Store) -> _Held:
        return type(self)(store, self._held)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Read a key."""
        if key not in self._held or byte_range is not None:
            return await self._store.get(key, prototype, byte_range)
        value = self._held[key]
        return None if value is None else prototype.buffer.from_bytes(value)


def open_store(url: str, options: Mapping[str, Any] | None = None, **how: Any) -> xr.Dataset:
    """Open a Zarr store lazily, without Dask unless ``chunks`` says otherwise.

    Parameters
    ----------
    url
        Path or URL of the store.
    options
        For fsspec.
    **how
        Of :func:`xarray.open_zarr`.
    """
    how = {"chunks": None, **how}
    given = quick_options(url, options)
    files, root = fsspec.core.url_to_fs(url, **given)
    if files.protocol in _LOCAL or {*files.protocol} & {*_LOCAL}:
        return _opened(url.removeprefix("file://"), how)
    held = _read(files, root)
    if not held:
        return _opened(url, {**how, "storage_options": given or None})
    store = FsspecStore.from_url(url, storage_options=given, read_only=True)
    return _opened(_Held(store, held), {**how, "zarr_format": 3, "consolidated": True})


def _opened(store: Any, how: Mapping[str, Any]) -> xr.Dataset:
    opened: xr.Dataset = xr.open_zarr(store, **how)
    if not how.get("mask_and_scale", True) or not any(IN_FLOAT32 in v.attrs for v in opened.variables.values()):
        return opened
    raw = xr.open_zarr(store, **{**how, "decode_cf": False})
    for variable in raw.variables.values():
        if IN_FLOAT32 in variable.attrs:  # which type the numbers have decides in which xarray unpacks
            for name in ("scale_factor", "add_offset"):
                variable.attrs[name] = np.float32(variable.attrs[name])
    return xr.decode_cf(raw, **{name: how[name] for name in ("decode_coords", "decode_times") if name in how})


def _read(files: Any, root: str) -> dict[str, bytes | None]:
    """Description and small arrays of a store; nothing of one that does not describe all its arrays in one place."""
    try:
        described = files.cat_file(f"{root}/zarr.json")
    except FileNotFoundError:
        return {}
    known = (json.loads(described).get("consolidated_metadata") or {}).get("metadata")
    if not known:
        return {}
    keys = [key for name, array in known.items() for key in _keys(name, array)]
    found = files.cat([f"{root}/{key}" for key in keys], on_error="return") if keys else {}
    told = {path.removeprefix(f"{root}/"): _or_absent(value) for path, value in found.items()}
    return {"zarr.json": described, **{key: told.get(key) for key in keys}}


def _or_absent(found: bytes | Exception) -> bytes | None:
    """What a key holds; None of one that was never written. That it cannot be read now says nothing of the kind."""
    if isinstance(found, FileNotFoundError):
        return None
    if isinstance(found, Exception):
        raise found
    return found


def _keys(name: str, array: Mapping[str, Any]) -> Iterator[str]:
    """Keys of the chunks of an array that is small."""
    if array.get("node_type") != "array":
        return
    grid, shape = array["chunk_grid"], array["shape"]
    encoding = array["chunk_key_encoding"]
    try:
        size = math.prod(shape) * np.dtype(array["data_type"]).itemsize
    except TypeError:  # of text, or a type of somebody's own
        return
    sharded = any(codec["name"] == "sharding_indexed" for codec in array["codecs"])  # images are, however small
    if size > _SMALL or sharded or grid["name"] != "regular" or encoding["name"] != "default":
        return
    separator = encoding.get("configuration", {}).get("separator", "/")
    counts = [-(-n // chunk) for n, chunk in zip(shape, grid["configuration"]["chunk_shape"], strict=True)]
    for index in itertools.product(*map(range, counts)):
        yield f"{name}/{separator.join(['c', *map(str, index)])}"
