"""Samples of a scene under each cell: every so many pixels of the lattice, the same for all scenes of a cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cube.sentinel2.lattice import Window

__all__ = ["CellSamples", "read_samples"]

_SIDE = 64
"""Samples along a cell."""

_FILE = "samples.npy"


class CellSamples:
    """Samples of one cell, taken piece by piece.

    Parameters
    ----------
    window
        The cell on the lattice.
    bands
        How many.
    """

    def __init__(self, window: Window, bands: int) -> None:
        self.window = window
        self.step = max(1, -(-max(window.height, window.width) // _SIDE))
        shape = -(-window.height // self.step), -(-window.width // self.step)
        self.values = np.full((bands, *shape), np.nan, "f4")

    def take(self, piece: Window, values: npt.NDArray[np.float32]) -> None:
        """Take what lies on the samples' places of a piece, shape (bands, rows, cols)."""
        row, col = piece.row - self.window.row, piece.col - self.window.col
        first = -row % self.step, -col % self.step
        part = values[:, first[0] :: self.step, first[1] :: self.step]
        top, left = (row + first[0]) // self.step, (col + first[1]) // self.step
        self.values[:, top : top + part.shape[1], left : left + part.shape[2]] = part

    def write(self, folder: Path, cell: str) -> None:
        """Write them beside the pieces of the cell, where there are any."""
        if (folder / cell).is_dir():
            np.save(folder / cell / _FILE, self.values)


def read_samples(folder: Path, cell: str) -> npt.NDArray[np.float32] | None:
    """Return the samples of a cell in the folder of a scene, shape (bands, pixels); None where it was not seen."""
    try:
        found: npt.NDArray[np.float32] = np.load(folder / cell / _FILE)
    except FileNotFoundError:
        return None
    return found.reshape(len(found), -1)
