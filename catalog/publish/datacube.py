"""What a Zarr store holds, read from its metadata and told in the terms of the datacube extension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from stratacube.errors import SourceError

__all__ = ["StoreInfo", "StoreVariable", "describe_store"]

DATA_TYPES = {
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
}
"""Data types that STAC has a name for."""


@dataclass(frozen=True)
class StoreVariable:
    """One array of a store."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    attributes: Mapping[str, Any]

    @property
    def data_type(self) -> str:
        """STAC's name of the data type."""
        return self.dtype if self.dtype in DATA_TYPES else "other"

    @property
    def nodata(self) -> int | None:
        """The count that stands for no data; None where there is none."""
        fill = self.attributes.get("_FillValue")
        return fill if isinstance(fill, int) else None

    def to_cube(self, variable_type: str) -> dict[str, Any]:
        """Return the variable object of the datacube extension."""
        cube: dict[str, Any] = {"dimensions": list(self.dims), "variable_type": variable_type}
        description = self.attributes.get("long_name") or self.attributes.get("standard_name")
        if description:
            cube["description"] = str(description)
        if self.attributes.get("units"):
            cube["unit"] = str(self.attributes["units"])
        if self.nodata is not None:
            cube["nodata"] = self.nodata
        cube["data_type"] = self.data_type
        return cube


@dataclass(frozen=True)
class StoreInfo:
    """The metadata of a store that a catalogue repeats."""

    zarr_format: int
    consolidated: bool
    variables: Mapping[str, StoreVariable]

    @property
    def asset_fields(self) -> dict[str, Any]:
        """Fields of the zarr extension."""
        return {
            "zarr:node_type": "group",
            "zarr:zarr_format": self.zarr_format,
            "zarr:consolidated": self.consolidated,
        }

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each dimension."""
        return {dim: size for v in self.variables.values() for dim, size in zip(v.dims, v.shape, strict=True)}


def describe_store(path: Path) -> StoreInfo:
    """Read the metadata of a Zarr group; no array is read.

    Raises
    ------
    SourceError
        If there is no group at ``path``.
    """
    try:
        group = zarr.open_group(path, mode="r")
    except FileNotFoundError as error:
        raise SourceError(f"{path} holds no Zarr group; build it before it is published") from error
    variables = {}
    for name, array in sorted(group.arrays()):
        dims = getattr(array.metadata, "dimension_names", None) or ()
        variables[name] = StoreVariable(
            name, tuple(str(d) for d in dims), tuple(array.shape), str(array.dtype), dict(array.attrs)
        )
    metadata = group.metadata
    return StoreInfo(metadata.zarr_format, metadata.consolidated_metadata is not None, variables)
