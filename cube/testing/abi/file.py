"""Writing one file in the layout of NOAA's ABI L1b: HDF5 as the netCDF-4 library makes it.

The layout itself, variable by variable, is ``layout.yaml``. Chunks are deflated here by zlib at level 1,
as in the real files, and handed to HDF5 ready made, so that a full disk streams through in stripes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import yaml
from h5py import h5a, h5d, h5ds, h5p, h5s, h5t

from cube.testing.abi.header import FLAGS, PixelStatistics, header_values
from cube.testing.abi.spec import FileSpec
from stratacube.files import whole_file

__all__ = ["Stripe", "write_file"]

Stripe = tuple[npt.NDArray[np.uint16], npt.NDArray[np.int8]]
"""Counts and DQF of whole rows of pixels."""
_DEFAULT_FILL = {
    "i1": -127,
    "i2": -32767,
    "i4": -2147483647,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}
"""netCDF's, where a variable has no ``_FillValue``."""


def write_file(path: Path, spec: FileSpec, stripes: Iterable[Stripe]) -> None:
    """Write one L1b file.

    Parameters
    ----------
    path : Path
        Of the file; its folder is made. The file appears under its name when it is whole.
    spec : FileSpec
        What the file is.
    stripes : iterable of (counts, dqf)
        Pixels from north to south in whole rows; every stripe but the last is a multiple of the chunk height.
    """
    # Bounds that give the superblock and chunk index of the real files (netCDF-4 on HDF5 1.8).
    with whole_file(path) as part, h5py.File(part, "w", libver=("v108", "v108"), track_order=True) as file:
        layout = _layout()
        variables = {name: _create(file, name, entry, spec) for name, entry in layout["variables"].items()}
        statistics = _write_pixels(variables["Rad"], variables["DQF"], spec, stripes)
        values = header_values(spec, statistics)
        for name, text in layout["global"].items():
            _put_attribute(file.id, name, _resolve(text, values))
        _mark_dimensions(layout, variables)
        for name, entry in layout["variables"].items():
            if entry:
                _fill_variable(name, entry, variables, values, spec)


@cache
def _layout() -> dict[str, Any]:
    text = files("cube.testing.abi").joinpath("layout.yaml").read_text("utf-8")
    layout: dict[str, Any] = yaml.safe_load(text)
    return layout


def _create(file: h5py.File, name: str, entry: dict[str, Any], spec: FileSpec) -> h5d.DatasetID:
    """Create a dataset with the storage the real file has."""
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_attr_creation_order(h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED)
    properties.set_obj_track_times(False)  # the same call writes the same bytes
    if not entry:  # a dimension without a variable of its name
        space = h5s.create_simple((_layout()["dimensions"][name]["size"],))
        properties.set_fill_value(np.zeros((), ">f4"))
        return h5d.create(file.id, name.encode(), h5t.IEEE_F32BE, space, properties)
    dtype = np.dtype(entry["dtype"])
    fill: Any = entry["attributes"].get("_FillValue", [None, _DEFAULT_FILL[entry["dtype"]]])
    properties.set_fill_value(np.array(_signed(spec.fill) if name == "Rad" else fill[1], dtype))
    shape = tuple(_dimension_size(d, spec) for d in entry.get("dims", ()))
    if len(shape) == 2:
        properties.set_chunk(spec.chunks)
        if spec.shuffle:
            properties.set_shuffle()
        properties.set_deflate(1)
    space = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
    return h5d.create(file.id, name.encode(), h5t.py_create(dtype, logical=True), space, properties)


def _dimension_size(name: str, spec: FileSpec) -> int:
    if name in ("y", "x"):
        return spec.grid.height if name == "y" else spec.grid.width
    size: int = _layout()["dimensions"][name]["size"]
    return size


def _signed(value: int) -> int:
    return int(np.array(value, "u2").view("i2"))


def _write_pixels(rad: h5d.DatasetID, dqf: h5d.DatasetID, spec: FileSpec, stripes: Iterable[Stripe]) -> PixelStatistics:
    """Deflate and write the chunks, and gather what the header says about them."""
    statistics, flat = PixelStatistics.empty(), _FlatChunks(spec.shuffle)
    (tall, wide), row = spec.chunks, 0
    for counts, flags in stripes:
        for top in range(0, counts.shape[0], tall):
            for left in range(0, spec.grid.width, wide):
                part = np.s_[top : top + tall, left : left + wide]
                statistics.add(counts[part], flags[part])
                rad.write_direct_chunk((row + top, left), flat.encode(_padded(counts[part], spec.chunks, spec.fill)))
                dqf.write_direct_chunk((row + top, left), flat.encode(_padded(flags[part], spec.chunks, -1)))
        row += counts.shape[0]
    return statistics


def _padded(pixels: npt.NDArray[Any], chunk: tuple[int, int], fill: int) -> npt.NDArray[Any]:
    """Pixels of a whole chunk: HDF5 stores those at the edge whole too."""
    if pixels.shape == chunk:
        return np.ascontiguousarray(pixels)
    whole = np.full(chunk, fill, pixels.dtype)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    return whole


class _FlatChunks:
    """The filter pipeline; a chunk of one value only (space, good flags) is deflated once."""

    def __init__(self, shuffle: bool) -> None:
        self._shuffle = shuffle
        self._known: dict[tuple[str, int], bytes] = {}

    def encode(self, chunk: npt.NDArray[Any]) -> bytes:
        first = chunk.flat[0]
        if not (chunk == first).all():
            return self._deflate(chunk)
        key = chunk.dtype.str, int(first)
        if key not in self._known:
            self._known[key] = self._deflate(chunk)
        return self._known[key]

    def _deflate(self, chunk: npt.NDArray[Any]) -> bytes:
        if self._shuffle and chunk.itemsize > 1:
            chunk = np.ascontiguousarray(chunk.view("u1").reshape(-1, chunk.itemsize).T)
        return zlib.compress(chunk.data, 1)


def _resolve(value: Any, values: dict[str, Any]) -> Any:
    """Return what a layout entry stands for: a text, or a typed array."""
    if isinstance(value, list):
        return np.array(value[1:], value[0])
    single = re.fullmatch(r"\{(\w+)\}", value)
    return values[single[1]] if single else value.format_map(values)


def _mark_dimensions(layout: dict[str, Any], variables: dict[str, h5d.DatasetID]) -> None:
    """Make the dimension scales, as netCDF marks them."""
    for name, number in [("y", 0), ("x", 1), *((k, v["id"]) for k, v in layout["dimensions"].items())]:
        label = name
        if name not in ("x", "y"):
            label = f"This is a netCDF dimension but not a netCDF variable.{layout['dimensions'][name]['size']:10d}"
        h5ds.set_scale(variables[name], label.encode())
        _put_attribute(variables[name], "_Netcdf4Dimid", np.int32(number))


def _fill_variable(
    name: str,
    entry: dict[str, Any],
    variables: dict[str, h5d.DatasetID],
    values: dict[str, Any],
    spec: FileSpec,
) -> None:
    """Write a variable's value and attributes, and attach its dimensions."""
    dataset = variables[name]
    for key, value in entry["attributes"].items():
        if key.startswith("percent_") and key.removeprefix("percent_") not in FLAGS[: spec.flag_count]:
            continue
        _put_attribute(dataset, key, _resolve(value, values))
    for axis, dimension in enumerate(entry.get("dims", ())):
        if dimension != name:
            h5ds.attach_scale(dataset, variables[dimension], axis)
    if "dims" in entry and name not in ("x", "y") and entry.get("dimension_id", True):
        ids = {"y": 0, "x": 1} | {k: v["id"] for k, v in _layout()["dimensions"].items()}
        _put_attribute(dataset, "_Netcdf4Dimid", np.int32(ids[entry["dims"][0]]))
    if "value" in entry:
        value = np.broadcast_to(_resolve(entry["value"], values).astype(entry["dtype"]).squeeze(), dataset.shape)
        dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(value).reshape(dataset.shape))


def _put_attribute(location: Any, name: str, value: Any) -> None:
    """Create an attribute: a fixed ASCII text, or numbers with their type."""
    if not isinstance(value, str):
        array = np.asarray(value)
        space = h5s.create_simple(array.shape) if array.shape else h5s.create(h5s.SCALAR)
        h5a.create(location, name.encode(), h5t.py_create(array.dtype, logical=True), space).write(array)
        return
    data = np.array(value.encode("ascii"))
    kind = h5t.C_S1.copy()
    kind.set_size(max(1, data.itemsize))
    kind.set_strpad(h5t.STR_NULLTERM)
    # The memory type is given too: a conversion would cut the last letter to make room for the NUL.
    h5a.create(location, name.encode(), kind, h5s.create(h5s.SCALAR)).write(data, mtype=kind)
