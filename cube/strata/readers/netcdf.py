"""What masks in NetCDF-4 share: variables, names of dimensions, and labelled pixels step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cube.geostationary.hdf5 import text, variable_or_none, variables
from cube.geostationary.inflate import inflate
from stratacube.errors import UsageError

__all__ = ["Sparse", "by_step", "dim_names", "refuse_unbound", "unpacked", "variable"]

NOT_A_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
LARGEST_LABEL = 2.0**53  # float64 holds every integer up to here; larger ones are fill values
_LONGEST, _LARGEST, _STRIP = 2**16, 2**28, 2**24
"""Values along a side, in a chunk, and read at once of a file without chunks: what a damaged one says has no bound."""


@dataclass(frozen=True)
class Sparse:
    """The labelled pixels of one step."""

    labels: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    """Row by row in the mask, ascending."""
    beside: npt.NDArray[np.float64] | None = None
    """Values of another variable there."""

    @classmethod
    def joined(cls, parts: list[Sparse]) -> Sparse:
        """Join parts of one step."""
        beside = [p.beside for p in parts if p.beside is not None]
        labels, position = (
            np.concatenate(column) for column in ([p.labels for p in parts], [p.position for p in parts])
        )
        told = np.concatenate(beside) if beside else None
        order = np.argsort(position, kind="stable")  # parts may lie side by side
        return cls(labels[order], position[order], None if told is None else told[order])

    def where(self, keep: npt.NDArray[np.bool_]) -> Sparse:
        """Return some of the pixels."""
        return Sparse(self.labels[keep], self.position[keep], None if self.beside is None else self.beside[keep])


def variable(source: h5py.File, *names: str) -> h5py.Dataset | None:
    """Return the first variable that there is; None where there is none, or only a dimension of that name.

    Raises
    ------
    ValueError
        If it is in another file.
    """
    for name in names:
        found = variable_or_none(source, name)
        if isinstance(found, h5py.Dataset) and not (
            "NAME" in found.attrs and bytes(found.attrs["NAME"]).startswith(NOT_A_VARIABLE)
        ):
            return found
    return None


def dim_names(source: h5py.File, dataset: h5py.Dataset) -> list[str]:
    """Names of a variable's dimensions from the attached scales, else its labels; "" where there is neither.

    Scales tell what they are attached to in plain records. The variable's own list is of another kind, over which HDF5
    ends the process, or never comes back, where it is damaged.
    """
    names = [""] * dataset.ndim
    for scale in variables(source).values():
        listed = scale.attrs.get("REFERENCE_LIST")
        if listed is None or not getattr(listed.dtype, "names", None):
            continue
        for reference, axis, *_ in np.ravel(listed).tolist():
            if isinstance(reference, h5py.Reference) and source[reference] == dataset:
                names[axis] = str(scale.name).rsplit("/", 1)[-1]
    return names if any(names) else [text(label) for label in dataset.attrs.get("DIMENSION_LABELS", names)]


def refuse_unbound(labels: h5py.Dataset, path: str) -> None:
    """Refuse a variable that would take memory without bound.

    Raises
    ------
    UsageError
        If it is too long, or its chunks too large.
    """
    size = math.prod(labels.chunks or (1,))
    if max(labels.shape) > _LONGEST or size > _LARGEST:
        raise UsageError(
            f"{path}: {labels.name.strip('/')} of {labels.shape} in chunks of {size} values is not read, {_LONGEST} "
            f"along a side and {_LARGEST} in a chunk are the most: cut the mask into smaller ones."
        )


def by_step(labels: h5py.Dataset, days: int, beside: h5py.Dataset | None = None) -> Iterator[tuple[int, int, Sparse]]:
    """Yield day, step and labelled pixels of each time step.

    Each chunk is read once, and of it only the labelled pixels stay in memory. A file without chunks is read strip by
    strip.

    Parameters
    ----------
    labels
        Numbers of systems, (day, step, row, column) or (step, row, column).
    days
        Days that are read; 1 where there is no such dimension.
    beside
        Another variable of the same shape, whose values are given with the labels.
    """
    lead = labels.ndim - 3
    steps, rows, width = labels.shape[-3:]
    depth = labels.chunks or (1,) * (lead + 1) + (min(rows, max(1, _STRIP // width)), width)
    # Asked for first: ``get`` takes an attribute whose checksum is wrong for one that is not there.
    fill = labels.attrs["_FillValue"] if "_FillValue" in labels.attrs else None  # noqa: SIM401
    long, (deep, tall, wide) = (depth[0] if lead else 1), depth[-3:]
    for day, step in product(range(0, days, long), range(0, steps, deep)):
        shape = (min(long, days - day), min(deep, steps - step))
        found: list[list[Sparse]] = [[] for _ in range(shape[0] * shape[1])]
        for top, left in product(range(0, rows, tall), range(0, width, wide)):
            start = (*((day,) * lead), step, top, left)
            block = (*((shape[0],) * lead), shape[1], min(tall, rows - top), min(wide, width - left))
            place, values = _labelled(labels, start, block)
            real = values <= LARGEST_LABEL
            if fill is not None:
                real &= values != np.ravel(fill)[0]
            place, values = place[real], values[real].astype(np.int64)
            other = None if beside is None else unpacked(_read(beside, start, block).ravel()[place], beside)
            layer, within = np.divmod(place, block[-2] * block[-1])
            row, col = np.divmod(within, block[-1])
            position = (row + top) * width + col + left
            edges = np.searchsorted(layer, np.arange(len(found) + 1))
            for i, (low, high) in enumerate(pairwise(edges.tolist())):
                told = None if other is None else other[low:high]
                found[i].append(Sparse(values[low:high], position[low:high], told))
        for i, parts in enumerate(found):
            yield day + i // shape[1], step + i % shape[1], Sparse.joined(parts)


def _read(dataset: h5py.Dataset, start: tuple[int, ...], block: tuple[int, ...]) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = dataset[tuple(slice(a, a + n) for a, n in zip(start, block, strict=True))]
    return values


def _labelled(
    labels: h5py.Dataset, start: tuple[int, ...], block: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Flat positions, ascending, in a block of which values are positive, and the values."""
    planes = _planes(labels, start)
    if planes is None:
        flat = _read(labels, start, block).ravel()
        place = np.flatnonzero(flat > 0)
        return place, flat[place]
    # A float of 1 or more has 0x3F or more in its most significant byte, a negative one 0x80 or more; most of a mask is
    # neither, and is never put together.
    place = np.flatnonzero((planes[-1] >= 0x3F) & (planes[-1] < 0x80))
    values = np.ascontiguousarray(planes[:, place].T).view(labels.dtype.newbyteorder("<")).ravel()
    if block != labels.chunks:  # what of a chunk lies beyond the mask
        index = np.unravel_index(place, labels.chunks)
        inside = np.logical_and.reduce([i < n for i, n in zip(index, block, strict=True)])
        place = np.ravel_multi_index(tuple(i[inside] for i in index), block)
        values = values[inside]
    keep = values > 0
    return place[keep], values[keep]


def _planes(labels: h5py.Dataset, start: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """Bytes of a chunk of floats, (significance, value), where they lie so; None where HDF5 is to read it.

    netCDF-4 shuffles what it deflates. Undone here, by a faster library, the bytes need not be put in order: for a mask
    that takes half as long.
    """
    if labels.chunks is None or labels.dtype.kind != "f" or labels.dtype.byteorder == ">":
        return None
    listed = labels.id.get_create_plist()
    filters = [listed.get_filter(i)[0] for i in range(listed.get_nfilters())]
    if filters != [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]:
        return None
    info = labels.id.get_chunk_info_by_coord(start)
    if info.byte_offset is None or info.filter_mask:
        return None
    _, data = labels.id.read_direct_chunk(start)
    expected = math.prod(labels.chunks) * labels.dtype.itemsize
    return np.frombuffer(inflate(data, expected), "u1").reshape(labels.dtype.itemsize, -1)


def unpacked(values: npt.NDArray[Any], of: h5py.Dataset) -> npt.NDArray[np.float64]:
    """Values as they are meant: fill is NaN, packed ones are scaled."""
    number = {
        name: float(np.ravel(of.attrs[name])[0])
        for name in ("_FillValue", "missing_value", "scale_factor", "add_offset")
        if name in of.attrs
    }
    told = values.astype("f8")
    for name in ("_FillValue", "missing_value"):
        if name in number:
            told[told == number[name]] = np.nan
    return told * number.get("scale_factor", 1.0) + number.get("add_offset", 0.0)
