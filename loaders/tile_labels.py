"""What strata say of tiles, as labels of a batch: numbers a tile, and profiles that cross it, as many as there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor

from loaders.augment import Placement
from loaders.store import TileStore
from stratacube.errors import SourceError
from stratacube.guard import guarded

__all__ = ["StoredLabel", "is_stored", "names_by_number", "names_of", "stored_label"]


def names_of(labels: str | Sequence[str]) -> tuple[str, ...]:
    """Names of labels; one may be given as it is."""
    return (labels,) if isinstance(labels, str) else tuple(labels)


def is_stored(store: TileStore, name: str) -> bool:
    """Whether a label is several numbers a tile, which the store holds apart from its table."""
    return _table_of(store, name) is not None or _ragged_of(store, name) is not None


def names_by_number(store: TileStore, name: str) -> dict[int, str]:
    """What the numbers of a label are called; of several numbers a tile, what each is, by its place."""
    if _table_of(store, name) is not None:
        return dict(enumerate(store.classes.get(name, {}).values()))
    ragged = _ragged_of(store, name)
    return store.classes.get(name if ragged is None else ragged[1], {})


class StoredLabel:
    """Several numbers a tile.

    Parameters
    ----------
    values
        (tiles, ...), or of profiles (profiles, ...), those of a tile one after another.
    fill
        Of places behind a tile's last profile.
    span
        Of profiles: by tile, the first and how many.
    pixel
        Of profiles: (profiles, 2) row and column in the tile, and (profiles,) whether each is an observation.
    """

    def __init__(
        self,
        values: Tensor,
        fill: Any = 0,
        span: tuple[Tensor, Tensor] | None = None,
        pixel: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.values, self.fill, self.span, self.pixel = values, fill, span, pixel

    def of(self, name: str, samples: Tensor, places: Sequence[Placement], size: tuple[int, int]) -> dict[str, Tensor]:
        """Labels of a batch.

        Parameters
        ----------
        name
            What the label is called.
        samples
            Tiles, by their place among the chosen ones.
        places
            How each was cut and turned.
        size
            Rows and columns of a sample before it is turned.

        Returns
        -------
        dict
            The values by ``name``, (B, ...); of profiles (B, P, ...), padded. Of a group of profiles also
            ``NAME_pixel``, (B, P, 2) int32 row and column in the sample, and ``NAME_mask``, (B, P) bool: an observation
            whose pixel is in the sample.
        """
        if self.span is None:
            return {name: self.values[samples]}
        start, count = (part[samples] for part in self.span)
        most = max(1, int(self.span[1].max()))
        order = torch.arange(most)
        there = order < count[:, None]
        index = torch.where(there, start[:, None] + order, 0)
        values = self.values[index]
        values[~there] = self.fill
        found = {name: values}
        if self.pixel is not None:
            pixel, inside = _turned(self.pixel[0][index], places, size)
            found[f"{name}_pixel"] = pixel
            found[f"{name}_mask"] = there & inside & self.pixel[1][index]
        return found

    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        return [self.values, *(self.span or ()), *(self.pixel or ())]


def stored_label(store: TileStore, name: str, tiles: npt.NDArray[np.int64]) -> tuple[StoredLabel, list[str]]:
    """Read a label of the chosen tiles into memory.

    Returns
    -------
    label, classes
        And the names of its numbers, where it is an enumeration; else none.

    Raises
    ------
    SourceError
        If it cannot be read, or its profiles do not lie one after another.
    """
    with guarded(f"labels {name!r} of {store.url} cannot be read", "run the command of the build again to mend it"):
        held = _table_of(store, name)
        if held is not None:
            return StoredLabel(torch.from_numpy(held.isel(tile=tiles).values)), _names(
                store.small.variables, name, held
            )
        ragged = _ragged_of(store, name)
        if ragged is None:
            raise SourceError(f"there is no label {name!r}")
        group, variable = ragged
        start, count = (
            store.small[f"{group}_profile_{part}"].values[tiles].astype("i8") for part in ("start", "count")
        )
        total = store.ragged.sizes["profile"]
        if (start < 0).any() or (count < 0).any() or (start + count > total).any():
            raise SourceError(f"its tiles have profiles up to {int((start + count).max())}, and there are {total}")
        values = store.ragged[variable].variable
        pixel = None
        if name == group:
            rows, cols = (store.ragged[f"{group}_{axis}"].values for axis in ("row", "col"))
            valid = torch.from_numpy(store.ragged[f"{group}_valid"].values != 0)
            pixel = torch.from_numpy(np.stack([rows, cols], -1).astype("i4")), valid
        fill = values.attrs.get(
            "_FillValue", np.nan if values.dtype.kind == "f" else -1 if values.dtype.kind == "i" else 0
        )
        span = torch.from_numpy(start), torch.from_numpy(count)
        return StoredLabel(torch.from_numpy(values.values), fill, span, pixel), _names(
            store.ragged.variables, name, values
        )


def _table_of(store: TileStore, name: str) -> xr.Variable | None:
    """Numbers a tile by their own name, or those that ``NAME`` is the dimension of."""
    for key in (name, f"{name}_fraction"):
        if key in store.small and store.small[key].ndim > 1 and store.small[key].dims[0] == "tile":
            variable: xr.Variable = store.small[key].variable
            if key == name or variable.dims[1] == name:
                return variable
    return None


def _ragged_of(store: TileStore, name: str) -> tuple[str, str] | None:
    """Group of profiles, and the variable, that a name stands for: its classes, or one of the others."""
    for variable in map(str, store.small.variables):
        group = variable.removesuffix("_profile_count")
        if group != variable and (name == group or (name.startswith(f"{group}_") and name in store.ragged)):
            return group, f"{group}_class" if name == group else name
    return None


def _names(variables: Any, name: str, variable: xr.Variable) -> list[str]:
    """Names of classes: of the variable, or of the dimension that is called as the label."""
    told = variables[name].attrs if name in variables else variable.attrs
    return str(told.get("flag_meanings", "")).split()


def _turned(pixel: Tensor, places: Sequence[Placement], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column in samples that are cut and turned, and whether they lie inside; as ``loaders.augment.orient``."""
    found = torch.empty_like(pixel)
    inside = torch.empty(pixel.shape[:2], dtype=torch.bool)
    for i, place in enumerate(places):
        rows, cols = size
        row, col = pixel[i, :, 0].long() - place.row, pixel[i, :, 1].long() - place.col
        for _ in range(place.orientation % 4):
            row, col, rows, cols = cols - 1 - col, row, cols, rows
        if place.orientation >= 4:
            col = cols - 1 - col
        inside[i] = (row >= 0) & (row < rows) & (col >= 0) & (col < cols)
        found[i] = torch.stack([row, col], -1).clamp(-(2**31), 2**31 - 1).to(found.dtype)
    return found, inside
