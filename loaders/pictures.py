"""Labels of each pixel: variables of a tile store that are cropped and turned as its bands are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loaders.augment import Placement, orient
from loaders.chunks import ChunkReader, Target
from stratacube.errors import SourceError, UsageError

if TYPE_CHECKING:
    from loaders.store import TileStore

__all__ = ["Picture", "is_picture"]


def is_picture(dims: Sequence[Any]) -> bool:
    """Whether a variable of these dimensions has a number for each pixel of each tile."""
    return len(dims) == 4 and dims[0] == "tile" and tuple(dims[2:]) == ("y", "x")


@dataclass(frozen=True)
class Picture:
    """One such variable."""

    name: str
    shape: tuple[int, int, int]
    """Steps, rows and columns of a tile."""
    dtype: np.dtype[Any]
    own_steps: bool
    """Whether its steps are the tile's."""

    @classmethod
    def of(cls, store: TileStore, name: str, bands: tuple[int, int, int]) -> Picture:
        """Look one up.

        Parameters
        ----------
        store
            The store.
        name
            Of the variable.
        bands
            Steps, rows and columns of the bands that it goes with.

        Raises
        ------
        UsageError
            If the store has none of the name, or of pixels of another size.
        """
        taken = {*(b.name for b in store.bands), *(b.mask for b in store.bands)}
        known = {n: told for n, told in store.shapes.items() if is_picture(told[0]) and n not in taken}
        if name not in known:
            raise UsageError(f"{store.url} has no {name!r} for each pixel; it has {', '.join(known) or 'none'}")
        dims, (_, steps, rows, cols), dtype = known[name]
        if (rows, cols) != bands[1:]:
            raise UsageError(
                f"{name} of {store.url} has {rows} x {cols} pixels a tile and the bands have {bands[1]} x {bands[2]}; "
                "choose bands of its size"
            )
        return cls(name, (steps, rows, cols), dtype, dims[1] == "time")

    def read(
        self, reader: ChunkReader, tiles: Sequence[int], places: Sequence[Placement], seen: tuple[int, int, int]
    ) -> tuple[npt.NDArray[Any], list[tuple[int, SourceError]]]:
        """Read it for a batch.

        Parameters
        ----------
        reader
            Of the store.
        tiles, places
            By sample, the tile and the part of it.
        seen
            Steps, rows and columns of a sample before it is turned.

        Returns
        -------
        ndarray
            (samples, steps, rows, columns); 0 where it could not be read.
        list
            Which samples could not be read, and why.
        """
        steps = seen[0] if self.own_steps else self.shape[0]
        rows, cols = seen[1:]
        stack = np.zeros((len(tiles), steps, rows, cols), self.dtype)
        targets, turned = [], []
        for sample, (tile, place) in enumerate(zip(tiles, places, strict=True)):
            first = place.step if self.own_steps else 0
            window = (
                slice(first, first + steps),
                slice(place.row, place.row + rows),
                slice(place.col, place.col + cols),
            )
            targets.append(Target(self.name, tile, stack[sample], window))
            turned.append(place.orientation)
        errors = [(n, error) for n, error in enumerate(reader.read(targets)) if error is not None]
        for sample, _ in errors:
            stack[sample] = 0
        oriented = [orient(image, turn) for image, turn in zip(stack, turned, strict=True)]
        return np.ascontiguousarray(np.stack(oriented)), errors
