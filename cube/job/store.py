"""Zarr v3 stores: arrays in shards, written whole by one worker; metadata written once, first, by the driver."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from cube.job.codec import codecs_of
from stratacube.errors import SourceError, UsageError
from stratacube.files import check_guards, remove, write_bytes

__all__ = ["ArraySpec", "LedgeredStore", "consolidate", "create_store", "enlarge_store", "write_region"]


class LedgeredStore(LocalStore):
    """A local store whose chunks are written like all else: whole or not at all, fenced, recorded.

    Zarr's own store renames too, but asks no claim before it does and tells nobody what it wrote.
    """

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        self._check_writable()
        write_bytes(self.root / key, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key that is not there; a store has one writer, so that looking first is enough."""
        if not (self.root / key).exists():
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a key; newer versions of zarr call this instead."""
        self._check_writable()
        write_bytes(self.root / key, value.as_buffer_like())

    async def delete(self, key: str) -> None:
        """Remove a key."""
        check_guards(self.root / key)
        await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all below a prefix."""
        check_guards(self.root / prefix)
        await super().delete_dir(prefix)


class _Unread(LedgeredStore):
    """A store whose shards are written whole: what lies there, half of it lost with the power perhaps, is not read."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read a description; there are no shards."""
        return None if "c" in key.split("/") else await super().get(key, prototype, byte_range)


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    fill_value: Any = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)


def create_store(path: Path, arrays: Mapping[str, ArraySpec], attributes: Mapping[str, Any], codec: str) -> None:
    """Write the metadata of a store, keeping the data of arrays that are already there as specified.

    Parameters
    ----------
    path
        The store, new or left by an interrupted run.
    arrays
        By name.
    attributes
        Of the store.
    codec
        One of :data:`cube.job.codec.CODECS`, for all arrays.

    Raises
    ------
    UsageError
        If an array is there with another shape, dtype or chunking, or the folder cannot be written.
    """
    try:
        store = LedgeredStore(path)
        _forget_broken(path, arrays)
        group = zarr.open_group(store, mode="a", zarr_format=3, attributes=dict(attributes))
        group.attrs.put(dict(attributes))
        for name, spec in arrays.items():
            kept = (path / name / "c").exists()
            if name in group and kept:
                _check_same(path, name, group[name], spec)
                group[name].attrs.put(dict(spec.attributes))
            else:
                _create_array(group, name, spec, codec, overwrite=not kept)  # again, if nothing was written to it yet
        consolidate(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SourceError(f"no space is left for {path}; make room and run the same command again") from error
        raise UsageError(f"{path} cannot be written ({error.strerror or error}); choose another folder") from error


def enlarge_store(store: Path, images: Iterable[str], length: int) -> bool:
    """Make room for more along the first axis: take away what says how much a store holds, and what is written anew.

    Its shards of pixels stay; the metadata, written once more, says what they are part of.

    Parameters
    ----------
    store
        The store.
    images
        Names of its arrays of pixels.
    length
        Of their first axis: tiles, or periods.

    Returns
    -------
    bool
        Whether it held fewer.
    """
    images = set(images)
    described = [path for name in sorted(images) if (path := store / name / "zarr.json").exists()]
    if not any(zarr.open_array(path.parent, mode="r", zarr_format=3).shape[0] < length for path in described):
        return False
    for folder in sorted(path for path in store.iterdir() if path.is_dir() and path.name not in images):
        remove(folder)
    for path in (store / "zarr.json", *described):  # last, for by these it is known that there is more to do
        remove(path)
    return True


def consolidate(path: Path) -> None:
    """Put the metadata of all arrays of a store into its root, as they are now."""
    with warnings.catch_warnings():
        # zarr warns that version 3 has yet to adopt consolidated metadata; readers that do not know it ignore it.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(LedgeredStore(path), zarr_format=3)


def _forget_broken(path: Path, names: Iterable[str]) -> None:
    """Remove metadata that is not metadata any more; it is written anew, and the chunks beside it are kept."""
    for folder in (path, *(path / name for name in names)):
        described = folder / "zarr.json"
        try:
            whole = isinstance(json.loads(described.read_bytes()).get("node_type"), str)
        except FileNotFoundError:
            continue
        except (ValueError, AttributeError):
            whole = False
        if not whole:
            remove(described)


def _create_array(group: zarr.Group, name: str, spec: ArraySpec, codec: str, *, overwrite: bool) -> None:
    group.create_array(
        name,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks,
        shards=spec.shards,
        compressors=codecs_of(codec, mask="flag_masks" in spec.attributes),
        fill_value=spec.fill_value,
        dimension_names=spec.dims,
        attributes=dict(spec.attributes),
        overwrite=overwrite,
    )


def _check_same(path: Path, name: str, array: Any, spec: ArraySpec) -> None:
    there = tuple(array.shape), str(array.dtype), tuple(array.chunks), array.shards and tuple(array.shards)
    wanted = spec.shape, str(np.dtype(spec.dtype)), spec.chunks, spec.shards
    if there != wanted or not np.array_equal(array.fill_value, spec.fill_value, equal_nan=spec.dtype[1] == "f"):
        raise UsageError(
            f"{path}/{name} is there as {there} filled with {array.fill_value}, but this build needs {wanted} filled "
            f"with {spec.fill_value} (shape, dtype, chunk, shard); choose another folder or pass `overwrite`"
        )


def write_region(path: Path, name: str, start: int, values: npt.NDArray[Any]) -> None:
    """Write rows ``start:start + len(values)`` of an array; they must be all rows of every shard that they touch."""
    array = zarr.open_array(_Unread(path), path=name, mode="r+", zarr_format=3)
    array[start : start + len(values)] = values


def pad_names(names: Sequence[str]) -> str:
    """CF flag meanings: names in one blank-separated string."""
    return " ".join(name.replace(" ", "_") for name in names)
