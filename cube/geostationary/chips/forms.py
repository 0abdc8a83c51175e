"""The files that chips come in: what they hold, without reading it, and all of it.

- ``tiles``: a Zarr store a tile (v2 or v3) with one array (time, band, y, x), ``Rad`` or
  ``__xarray_dataarray_variable__``;
- ``convection``: an npz with ``chip`` (time, band, y, x);
- ``cloudsat``: an npz with ``ABI/chip`` (time, y, x, band);
- ``frame``: an npz with ``chip`` (y, x, band), and ``data``, a pickled dict of arrays, numbers and text, which become
  ``data/`` and their name.

Nothing else is unpickled: an npz with other objects in it is refused.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import zarr

from cube.geostationary.chips.old_chips import plain_dict
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = ["FORMS", "PIXELS", "TEXT", "Member", "read_members", "told_members"]

PIXELS = {
    "tiles": ("Rad", "__xarray_dataarray_variable__"),
    "frame": ("chip",),
    "convection": ("chip",),
    "cloudsat": ("ABI/chip",),
}
"""What the pixels of each form are called."""
FORMS = tuple(PIXELS)
TEXT = "UST"
"""Kinds of arrays of text; those of Zarr may be of any length, T."""
_LAST = {"cloudsat", "frame"}
"""Forms whose bands come last."""
_DIMS = {"frame": 3}
"""Dimensions of the pixels, where they are not four."""
_PICKLED = "data"
"""Member of a ``frame`` that is a pickled dict."""
_MOST = 2**31
"""Bytes of an array that is taken into memory: eight times the largest chip."""
_REMEDY = "fetch or write it again, or leave it out"


@dataclass(frozen=True)
class Member:
    """One array of a chip's file."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def is_text(self) -> bool:
        """Whether it holds text."""
        return np.dtype(self.dtype).kind in TEXT


def told_members(path: Path) -> tuple[str, dict[str, Member]]:
    """Form of a file and what it holds, by its headers.

    Raises
    ------
    SourceError
        If it cannot be read, is of no form, or holds objects.
    """
    with guarded(f"{path} is not a chip that can be read", _REMEDY):
        found = _of_zarr(path) if path.is_dir() else _of_npz(path)
    for name, member in found.items():
        dtype = np.dtype(member.dtype)
        if dtype.hasobject and not member.is_text:
            raise SourceError(
                f"{path} holds objects in {name}, which are not read: they may run code; write it again as arrays"
            )
        if dtype.itemsize * int(np.prod(member.shape, dtype="i8")) > _MOST:
            raise SourceError(f"{path}: {name} of {member.shape} is larger than a chip can be; {_REMEDY}")
    form = next((form for form, names in PIXELS.items() if _is_of(path, form, found) and set(names) & found.keys()), "")
    pixels = found[pixels_of(form, found)] if form else None
    if pixels is None or len(pixels.shape) != _DIMS.get(form, 4) or np.dtype(pixels.dtype).kind not in "fiu":
        held = ", ".join(f"{name} {member.shape}" for name, member in found.items()) or "nothing"
        raise SourceError(f"{path} has no chip of four dimensions (chip, ABI/chip or Rad), only {held}; leave it out")
    return form, found


def _is_of(path: Path, form: str, members: Mapping[str, Member]) -> bool:
    pickled = any(name.startswith(f"{_PICKLED}/") for name in members)
    return path.is_dir() == (form == "tiles") and pickled == (form == "frame")


def pixels_of(form: str, members: Mapping[str, Any]) -> str:
    """Name of the pixels among a chip's arrays."""
    return next(name for name in PIXELS[form] if name in members)


def read_members(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of a chip's file.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    with guarded(f"{path} is not a chip that can be read", _REMEDY):
        if path.is_dir():
            group = zarr.open_group(path, mode="r")
            return {name: np.asarray(array[...]) for name, array in group.arrays()}
        with np.load(path, allow_pickle=False) as held:
            members = {name: held[name] for name in held.files if name != _PICKLED}
            if _PICKLED in held.files:
                members |= _told_apart(path) or {_PICKLED: held[_PICKLED]}
            return members


def image_of(form: str, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pixels as (time, band, y, x)."""
    pixels = pixels[None] if form == "frame" else pixels
    return np.moveaxis(pixels, -1, 1) if form in _LAST else pixels


def pixels_from(form: str, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pixels in the order of a form, of (time, band, y, x)."""
    pixels = np.ascontiguousarray(np.moveaxis(image, 1, -1)) if form in _LAST else image
    return pixels[0] if form == "frame" else pixels


def image_shape(form: str, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Steps, bands, rows and columns of pixels."""
    shape = (1, *shape) if form == "frame" else shape
    steps, bands, rows, cols = (shape[0], shape[3], shape[1], shape[2]) if form in _LAST else shape
    return steps, bands, rows, cols


def _of_zarr(path: Path) -> dict[str, Member]:
    group = zarr.open_group(path, mode="r")
    return {name: Member(tuple(array.shape), told_type(array.dtype)) for name, array in group.arrays()}


def _of_npz(path: Path) -> dict[str, Member]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                shape, dtype = _header(stream)
            found[entry.filename.removesuffix(".npy")] = Member(shape, dtype.str)
    if found.get(_PICKLED) == Member((), "|O"):
        del found[_PICKLED]
        found |= {name: Member(v.shape, told_type(v.dtype)) for name, v in _told_apart(path).items()}
    return found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array whose file begins here."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype


def _told_apart(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The values of a pickled dict, each as a member; none where there is no such dict."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{_PICKLED}.npy")
        if entry.file_size > _MOST:
            raise ValueError(f"{_PICKLED} is of {entry.file_size} bytes, larger than a chip can be")
        with archive.open(entry) as stream:
            shape, dtype = _header(stream)
            if shape or not dtype.hasobject:
                return {}
            return {f"{_PICKLED}/{name}": value for name, value in plain_dict(stream).items()}


def told_type(dtype: np.dtype[Any]) -> str:
    """What numpy makes the type of."""
    return "T" if dtype.kind == "T" else dtype.str


def as_text(values: npt.NDArray[Any]) -> str:
    """An array of text, as JSON."""
    return json.dumps(
        [
            told_type(values.dtype),
            np.char.decode(values, "latin-1").tolist() if values.dtype.kind == "S" else values.tolist(),
        ]
    )


def from_text(told: str) -> npt.NDArray[Any]:
    """The array that :func:`as_text` wrote."""
    dtype, values = json.loads(told)
    array = np.array(values)
    return np.char.encode(array, "latin-1").astype(dtype) if "S" in dtype else array.astype(dtype)
