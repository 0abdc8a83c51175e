"""Reading headers of HDF5 files, which all imagers' dialects do alike."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d

from cube.geostationary.file_index import ChunkTable

__all__ = [
    "as_number",
    "attribute",
    "attribute_or_none",
    "chunk_table",
    "dataset",
    "first_value",
    "moment",
    "number",
    "text",
    "text_or_none",
    "variable_or_none",
    "variables",
    "whole_microradians",
]

_J2000, _LATEST = np.datetime64("2000-01-01T12:00:00", "ns"), 8e9
_FILTER_NAMES = {1: "deflate", 2: "shuffle"}
_LINKS = 16
"""Links that are followed to one variable: some that a file holds lead round and round."""


def attribute(thing: Any, name: str) -> Any:
    """Return an attribute's only, or first, value.

    Raises
    ------
    ValueError
        If there is none.
    """
    value = attribute_or_none(thing, name)
    if value is None:
        raise ValueError(f"{thing.name.strip('/') or 'it'} lacks the attribute {name}")
    return value


def attribute_or_none(thing: Any, name: str) -> Any:
    """Return an attribute's only, or first, value; None where there truly is none.

    ``attrs.get(name, default)`` takes an attribute whose checksum is wrong for one that is not there.
    """
    return np.ravel(thing.attrs[name])[0] if h5a.exists(thing.id, name.encode()) else None


def variable_or_none(h5: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a variable; None where there truly is none, as :func:`attribute_or_none` does.

    HDF5 follows what a file says of other files of the machine, and gives their bytes as pixels; nothing is opened here
    before it is known to lie in the file itself.

    Raises
    ------
    ValueError
        If it, or a group on the way to it, is in another file.
    """
    found, left, followed = h5, [part for part in name.split("/") if part], 0
    while left:
        part = left.pop(0)
        if not isinstance(found, h5py.Group) or not found.id.links.exists(part.encode()):
            return None
        link = found.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"its {name} is a link to {link.path} of another file, {link.filename}")
        if isinstance(link, h5py.SoftLink):
            followed += 1
            if followed > _LINKS:
                raise ValueError(f"its {name} is a link that leads to no end")
            found = h5 if link.path.startswith("/") else found
            left = [part for part in link.path.split("/") if part not in ("", ".")] + left
        else:
            found = found[part]
    if isinstance(found, h5py.Dataset):
        _refuse_other_files(found, name)
    return found


def _refuse_other_files(variable: h5py.Dataset, name: str) -> None:
    told = variable.id.get_create_plist()
    if told.get_layout() == h5d.VIRTUAL:
        places = {told.get_virtual_filename(i) for i in range(told.get_virtual_count())}
        raise ValueError(f"its {name} is put together of other variables, in {', '.join(sorted(places)) or 'no file'}")
    if told.get_external_count():
        raise ValueError(f"its {name} has its values in another file, {told.get_external(0)[0].decode()}")


def variables(h5: h5py.File) -> dict[str, h5py.Dataset]:
    """Return all variables beside groups, by name.

    Raises
    ------
    ValueError
        If one of them is in another file.
    """
    found = {name: variable_or_none(h5, name) for name in h5}
    return {name: value for name, value in found.items() if isinstance(value, h5py.Dataset)}


def first_value(variable: h5py.Dataset) -> Any:
    """Return a variable's only, or first, value; no more of it is read, however many it says that it holds.

    Raises
    ------
    ValueError
        If it holds none.
    """
    if not variable.size:
        raise ValueError(f"{variable.name.strip('/')} holds no value")
    return variable[(0,) * variable.ndim]


def number(thing: Any, name: str) -> float:
    """Return an attribute as a number; see :func:`as_number`."""
    return as_number(attribute(thing, name), f"{thing.name.strip('/')} {name}".strip())


def as_number(value: Any, name: str) -> float:
    """Return a value as a number; a text of digits is none, though Python would read it.

    Raises
    ------
    ValueError
        If it is none.
    """
    if np.asarray(value).dtype.kind not in "iuf":
        raise ValueError(f"its {name} is the text {text(value)[:40]!r} where a number is expected")
    return float(value)


def dataset(h5: h5py.File, name: str) -> h5py.Dataset:
    """Return a variable.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = variable_or_none(h5, name)
    if found is None:
        raise ValueError(f"it lacks the variable {name}")
    return found


def moment(seconds: float) -> np.datetime64:
    """Time of seconds since noon of 1 January 2000, ns, UTC.

    Raises
    ------
    ValueError
        If nanoseconds in 64 bits cannot tell it.
    """
    if not abs(seconds) < _LATEST:
        raise ValueError(f"{seconds:g} seconds since noon of 2000-01-01 are no time")
    return _J2000 + np.timedelta64(round(seconds * 1e9), "ns")


def text(value: Any) -> str:
    """Return a value as text."""
    return (
        value.decode()
        if isinstance(value, bytes)
        else str(np.ravel(value)[0] if isinstance(value, np.ndarray) else value)
    )


def text_or_none(thing: Any, name: str) -> str | None:
    """Return an attribute as text; None where there truly is none."""
    value = attribute_or_none(thing, name)
    return None if value is None else text(value)


def whole_microradians(value: float, pixel: float) -> float:
    """Undo rounding: fixed grids are laid out in microradians. Further than 0.002 pixel off, keep it."""
    exact = round(float(value) * 1e6, 0) / 1e6
    return exact if abs(exact - value) < 0.002 * abs(pixel) else float(value)


def chunk_table(dataset: h5py.Dataset, files: str, dtype: str, fill: int) -> ChunkTable:
    """Say where the chunks of an image lie and how they are encoded.

    Parameters
    ----------
    dataset
        Two-dimensional and chunked.
    files
        What the files are called.
    dtype
        NumPy's name of what its bytes decode to.
    fill
        What stands for no pixel.

    Raises
    ------
    ValueError
        If it is encoded in a way that is not read.
    """
    plist = dataset.id.get_create_plist()
    filters = []
    for i in range(plist.get_nfilters()):
        code, _, _, name = plist.get_filter(i)
        if code not in _FILTER_NAMES:
            raise ValueError(f"{dataset.name} uses the HDF5 filter {name!r}, which {files} files never had")
        filters.append(_FILTER_NAMES[code])
    rows, cols = (-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    offsets, sizes = np.zeros((2, rows, cols), "i8")
    height, width = dataset.chunks

    def record(info: Any) -> None:
        if info.filter_mask:
            raise ValueError(f"{dataset.name} has chunks that skip a filter (mask {info.filter_mask})")
        at = info.chunk_offset[0] // height, info.chunk_offset[1] // width
        offsets[at], sizes[at] = info.byte_offset, info.size

    dataset.id.chunk_iter(record)
    table = ChunkTable(dataset.shape, dataset.chunks, dtype, tuple(filters), fill, offsets, sizes)
    table.refuse_impossible()
    _refuse_overlap(table, dataset.name)
    return table


def _refuse_overlap(table: ChunkTable, name: str) -> None:
    """Two chunks of one place: the address of one is damaged, and it would be read as the other."""
    written = table.sizes > 0
    starts, sizes = table.offsets[written], table.sizes[written]
    order = np.argsort(starts)
    if (starts[order][1:] < (starts + sizes)[order][:-1]).any():
        raise ValueError(f"chunks of {name.strip('/')} overlap")
