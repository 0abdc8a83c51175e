"""Chips that are Zarr stores: what tells xarray how to read one, kept, and written once more."""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import UnstableSpecificationWarning, ZarrUserWarning

from stratacube.guard import guarded

__all__ = ["told_of_tile", "write_tile"]


_NOTHING: dict[str, Any] = {"version": 3, "consolidated": False, "attributes": {}, "arrays": {}}


def told_of_tile(path: Path) -> str:
    """What a Zarr store tells beside the values of its arrays, as JSON.

    Parameters
    ----------
    path
        The store, of version 2 or 3.

    Returns
    -------
    str
        Its version, whether its metadata are consolidated, its attributes, and of each array the attributes, chunks,
        fill value (a number as bytes in base64, for it may be NaN) and names of dimensions; of version 2 those are an
        attribute.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    with guarded(f"{path} is not a chip that can be read", "fetch or write it again, or leave it out"):
        group = zarr.open_group(path, mode="r")
        arrays = {
            name: {
                "attributes": array.attrs.asdict(),
                "chunks": list(array.chunks),
                "fill": _as_told(array.fill_value, array.dtype),
                "dimensions": getattr(array.metadata, "dimension_names", None),
            }
            for name, array in group.arrays()
        }
        return json.dumps(
            {
                "version": group.metadata.zarr_format,
                "consolidated": group.metadata.consolidated_metadata is not None,
                "attributes": group.attrs.asdict(),
                "arrays": arrays,
            }
        )


def write_tile(path: Path, members: Mapping[str, npt.NDArray[Any]], told: str) -> None:
    """Write a Zarr store of arrays and of what :func:`told_of_tile` told.

    Parameters
    ----------
    path
        Of the store.
    members
        The arrays by name.
    told
        Of the store that they were in; "" where that is not known, for stores of chips that were made without it.
    """
    known: dict[str, Any] = json.loads(told) if told else _NOTHING
    version = known["version"]
    with warnings.catch_warnings():
        # zarr warns of what version 3 has yet to adopt; the store that was taken in had it.
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        warnings.simplefilter("ignore", ZarrUserWarning)
        group = zarr.create_group(path, zarr_format=version, attributes=known["attributes"])
        for name, values in members.items():
            group.create_array(name, data=values, **_how(known["arrays"].get(name), values.dtype))
        if known["consolidated"]:
            zarr.consolidate_metadata(path, zarr_format=version)


def _how(told: Mapping[str, Any] | None, dtype: np.dtype[Any]) -> dict[str, Any]:
    if told is None:
        return {}
    return {
        "attributes": told["attributes"],
        "chunks": tuple(told["chunks"]),
        "fill_value": _fill_of(told["fill"], dtype),
        "dimension_names": told["dimensions"],
    }


def _fill_of(told: str | None, dtype: np.dtype[Any]) -> Any:
    if told is None or dtype.kind == "T":
        return told
    return np.frombuffer(base64.b64decode(told), dtype)[0]


def _as_told(fill: Any, dtype: np.dtype[Any]) -> str | None:
    if fill is None or dtype.kind == "T":
        return None if fill is None else str(fill)
    return base64.b64encode(np.array([fill], dtype).tobytes()).decode()
