"""Bringing images of EOPF's Zarr form: each a folder of chunks, described in the metadata of its product.

The metadata of an image comes last into its folder: where it is, its chunks are. Chunks that hold nothing are in no
product; which ones these are is kept beside them, so that they are asked for once, and one that is lost here is
brought again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from catalog.sentinel2.download import AbsentError, local_faults
from catalog.sentinel2.eopf_arrays import is_array
from catalog.sentinel2.eopf_tree import Tree
from catalog.sentinel2.items import Asset
from catalog.sentinel2.places import tree_of
from stratacube.addresses import plain_url
from stratacube.errors import SourceError
from stratacube.files import write_json, write_text
from stratacube.guard import guarded

__all__ = ["at", "bring_array", "chunk_keys", "is_whole"]

_ABSENT = ".absent.json"
"""Chunks that the product does not have, in the folder of an image."""
_CLASSES = "scl"
_NATIVE_20M = "b05"
"""A band that every product has at 20 m: it tells whether a chunk of classes is empty or lost."""
_MOST_CHUNKS = 1 << 16


@dataclass(frozen=True)
class _Here:
    """Folder of an image."""

    path: Path

    def absent(self) -> set[str]:
        with suppress(OSError, ValueError, TypeError):
            return set(json.loads((self.path / _ABSENT).read_text()))
        return set()

    def lacks(self, documents: Mapping[str, Any]) -> list[str]:
        known = self.absent()
        return [k for k in chunk_keys(documents) if k not in known and not (self.path / k).is_file()]


def chunk_keys(documents: Mapping[str, Any]) -> Iterator[str]:
    """Yield the places of an array's chunks in its folder.

    Parameters
    ----------
    documents
        ``zarr.json``, or ``.zarray``, by its name.

    Raises
    ------
    SourceError
        If that is no description of an array.
    """
    with guarded("the metadata of an array cannot be read", "leave the product out"):
        rows, cols, name = _chunks(documents)
        if not 0 < rows * cols <= _MOST_CHUNKS:
            raise SourceError(f"the metadata of an array tells of {rows} x {cols} chunks; leave the product out")
    return (name(i, j) for i in range(rows) for j in range(cols))


def _chunks(documents: Mapping[str, Any]) -> tuple[int, int, Callable[[int, int], str]]:
    """How many chunks there are along both sides, and what each is called (specifications of Zarr v2 and v3)."""
    if "zarr.json" in documents:
        told = documents["zarr.json"]
        side, named = told["chunk_grid"]["configuration"]["chunk_shape"], told.get("chunk_key_encoding") or {}
        prefix = "" if named.get("name") == "v2" else "c"
        mark = (named.get("configuration") or {}).get("separator") or ("/" if prefix else ".")
    else:
        told = documents[".zarray"]
        side, prefix, mark = told["chunks"], "", told.get("dimension_separator") or "."
    rows, cols = (-(-int(whole) // int(part)) for whole, part in zip(told["shape"], side, strict=True))
    if mark not in ("/", "."):
        raise ValueError(f"chunks are named with {mark!r}")
    return rows, cols, lambda i, j: mark.join([*([prefix] if prefix else []), str(i), str(j)])


def is_whole(path: Path) -> bool:
    """Whether an image that was brought here has all of its chunks."""
    if not is_array(path):
        return False
    with suppress(SourceError, OSError, ValueError):
        names = (n for n in ("zarr.json", ".zarray") if (path / n).is_file())
        return not _Here(path).lacks({name: json.loads((path / name).read_bytes()) for name in names})
    return False


def bring_array(asset: Asset, path: Path, known: Callable[[str], Tree], fetch: Callable[[Asset, Path], None]) -> Asset:
    """Bring what lacks of an image.

    Parameters
    ----------
    asset
        Where it lies: an address within a product.
    path
        Folder in which it is to lie.
    known
        Returns the product of an address.
    fetch
        Brings a file to its place.

    Returns
    -------
    Asset
        With the folder.

    Raises
    ------
    StratacubeError
        If the product has no such image, or a chunk cannot be had.
    """
    found = tree_of(asset.href)
    assert found is not None
    address, inside = found
    documents = known(address).metadata(inside)
    if not documents:
        raise SourceError(f"{plain_url(address)} has no {inside}; search again, it may have been replaced")
    here, absent = _Here(path), _Here(path).absent()
    home, band = path.parents[inside.count("/")], f"measurements/reflectance/{path.parent.name}/{_NATIVE_20M}"
    for key in here.lacks(documents):
        if not _brought(f"{asset.href}/{key}", path / key, fetch):
            absent.add(key)
            if path.name == _CLASSES:  # whether its band has nothing there either tells a chunk that was lost
                _brought(f"{address}/{band}/{key}", home / band / key, fetch)
    with local_faults(path):
        path.mkdir(parents=True, exist_ok=True)
        if path.name == _CLASSES:
            (home / band).mkdir(parents=True, exist_ok=True)
        write_json(path / _ABSENT, sorted(absent))
        for name, document in sorted(documents.items(), key=lambda pair: pair[0] != ".zattrs"):
            write_text(path / name, json.dumps(document))
    return at(asset, path)


def at(asset: Asset, path: Path) -> Asset:
    """Return an image with the folder in which it lies."""
    return replace(asset, href=str(path.absolute()), size=None, checksum=None)


def _brought(href: str, path: Path, fetch: Callable[[Asset, Path], None]) -> bool:
    """Bring a chunk; False where there is none."""
    try:
        fetch(Asset(href=href), path)
    except AbsentError:
        return False
    return True
