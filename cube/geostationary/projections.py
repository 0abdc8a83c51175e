"""From where each tile of a store is seen: grid mappings, and a number a tile that says which of them is its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cube.geostationary.grid import GeosProjection
from stratacube.errors import SourceError

__all__ = ["VARIABLE", "TileViews", "Views", "distinct", "parse_projection", "read_views"]

VARIABLE = "projection"
"""Of a store with several: by tile, the number of its grid mapping; the names are its flag meanings."""


class Views:
    """The distinct projections of a plan's tiles.

    Parameters
    ----------
    projections
        In the order in which the plan numbers them.
    mapping
        Name of the grid mapping; where there are several, they are numbered.
    """

    def __init__(self, projections: Sequence[GeosProjection], mapping: str) -> None:
        self.projections, self.mapping = projections, mapping

    @property
    def names(self) -> list[str]:
        """Names of the grid mappings."""
        return [self.mapping + ("" if len(self.projections) == 1 else f"_{i}") for i in range(len(self.projections))]

    def variable(self, numbers: npt.ArrayLike) -> dict[str, Any]:
        """Dimensions, values and attributes of :data:`VARIABLE` by its name; nothing where all tiles share one."""
        if len(self.projections) < 2:
            return {}
        attributes = {
            "long_name": "grid mapping of the tile",
            "flag_values": list(range(len(self.projections))),
            "flag_meanings": " ".join(self.names),
        }
        return {VARIABLE: (("tile",), np.asarray(numbers, "i2"), attributes)}

    def mappings(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and attributes of the grid mappings."""
        for name, view in zip(self.names, self.projections, strict=True):
            yield name, {**view.cf_attributes(), "crs_wkt": view.crs.to_wkt()}


def distinct(projections: Iterable[GeosProjection]) -> list[GeosProjection]:
    """Return each projection once, in order of longitude."""
    return sorted(set(projections), key=lambda view: (view.longitude_of_projection_origin, astuple(view)))


class TileViews(Mapping[int, GeosProjection]):
    """Projection of each tile of a store, by its number; holds two bytes a tile.

    Parameters
    ----------
    projections
        The distinct ones.
    indices
        Of each tile, which of them is its own.
    """

    def __init__(self, projections: list[GeosProjection], indices: npt.NDArray[np.int16]) -> None:
        self.projections, self.indices = projections, indices

    def __getitem__(self, tile: int) -> GeosProjection:
        if not 0 <= tile < len(self.indices):
            raise KeyError(tile)
        return self.projections[int(self.indices[tile])]

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.indices)))

    def __len__(self) -> int:
        return len(self.indices)


def read_views(store: xr.Dataset) -> TileViews:
    """Read from where each tile of a store is seen.

    Parameters
    ----------
    store
        Opened, decoded or not.

    Raises
    ------
    SourceError
        If it has several grid mappings and does not say which tile has which, as before there was a number a tile.
    """
    named = sorted(str(n) for n in store.variables if "grid_mapping_name" in store[n].attrs)
    if VARIABLE in store:
        named = store[VARIABLE].attrs["flag_meanings"].split()
        indices = store[VARIABLE].values
    elif len(named) == 1:
        indices = np.zeros(store.sizes["tile"], "i2")
    else:
        raise SourceError(
            f"the store has {len(named)} grid mappings and does not say which tile has which; build it again"
        )
    return TileViews([parse_projection(store[n].attrs) for n in named], indices)


def parse_projection(attributes: Mapping[str, Any]) -> GeosProjection:
    """Projection that the attributes of a grid mapping tell."""
    return GeosProjection(
        float(attributes["perspective_point_height"]),
        float(attributes["semi_major_axis"]),
        float(attributes["semi_minor_axis"]),
        float(attributes["longitude_of_projection_origin"]),
        str(attributes["sweep_angle_axis"]),
    )
