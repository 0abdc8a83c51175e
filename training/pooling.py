"""Features pooled over the cells of an image, from strips that may come from several processes, in any order.

Each strip leaves the sums of its rows of patches over the columns of each cell. Sums over rows are taken when all are
there, from top to bottom: who has made which strip, and when, changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stratacube.files import remove, whole_file
from training.features import Strip

__all__ = ["Floats", "Scratch", "pooled", "row_sums"]

Floats = npt.NDArray[np.float64]


def row_sums(strip: Strip, across: int) -> Floats:
    """Sum up a strip over the columns of each cell.

    Parameters
    ----------
    strip
        Some rows of patches.
    across
        Columns of patches of a cell.

    Returns
    -------
    ndarray
        (rows, cells across, groups, width + 1): weighted features of all frames, and their weights.
    """
    weight = strip.weight.double().numpy()
    weighted = (strip.features.nan_to_num() * strip.weight[..., None]).double().numpy()
    together = np.concatenate([weighted, weight[..., None]], axis=-1).sum(0)  # (groups, rows, columns, width + 1)
    starts = np.arange(0, together.shape[2], across)
    return np.moveaxis(np.add.reduceat(together, starts, axis=2), 0, 2)


def pooled(rows: Sequence[Floats], down: int, counts: Floats) -> tuple[npt.NDArray[np.float32], ...]:
    """Pool the strips of an image.

    Parameters
    ----------
    rows
        What `row_sums` gave, from top to bottom.
    down
        Rows of patches of a cell.
    counts
        (cells down, cells across): patches of each cell, of all frames and groups.

    Returns
    -------
    features, share
        (cells down, cells across, groups, width), NaN where nothing is valid; share of valid pixels of each cell.
    """
    together = np.concatenate(rows)
    sums = np.add.reduceat(together, np.arange(0, len(together), down), axis=0)
    weights = sums[..., -1]
    with np.errstate(invalid="ignore"):
        means = sums[..., :-1] / np.where(weights == 0, np.nan, weights)[..., None]
    return means.astype(np.float32), (weights.sum(-1) / counts).astype(np.float32)


class Scratch:
    """Sums of the strips of images that are under way, a file each; a strip is done when its file is there.

    Parameters
    ----------
    folder
        Where; made when it is first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sample: int, strip: int) -> Path:
        """File of a strip."""
        return self.folder / f"{sample}_{strip}.npy"

    def done(self, sample: int, strips: int) -> set[int]:
        """Strips of an image that are there, of so many."""
        return (
            {strip for strip in range(strips) if self.path(sample, strip).exists()} if self.folder.exists() else set()
        )

    def write(self, sample: int, strip: int, sums: Floats) -> None:
        """Keep the sums of a strip, whose tokens are written."""
        with whole_file(self.path(sample, strip)) as part, part.open("wb") as file:
            np.save(file, sums)

    def take(self, sample: int, strips: int) -> list[Floats]:
        """Read the sums of all strips of an image."""
        return [np.load(self.path(sample, strip)) for strip in range(strips)]

    def drop(self, sample: int, strips: int) -> None:
        """Remove what an image has left."""
        for strip in sorted(self.done(sample, strips)):
            remove(self.path(sample, strip))
