"""Files as a fault in the ground system, on a disk or on the way would leave them: written, with pixels of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from catalog.geostationary.archives import LocalArchive
from catalog.geostationary.scans import SourceFile
from cube.testing import write_abi_file

__all__ = ["FEW", "KINDS", "SHAPE", "TURNED", "Images", "few_spoilt", "images_of", "intact", "source_of", "spoiled"]

SHAPE = (500, 500)
"""Of the images, in chunks of 250 x 250."""
FILL, TOP = 4095, 4094
"""Of channel 13."""
Pixels = npt.NDArray[Any]
Images = tuple[Pixels, Pixels]


def source_of(path: Path) -> SourceFile:
    """One file, as its archive lists it."""
    sector = "C" if "RadC" in path.name else "M1"
    (found,) = [f for f in LocalArchive(path.parent).files("goes16", sector, None, None) if f.href == str(path)]
    return found


def images_of(path: Path) -> Images:
    """Counts and flags by h5py."""
    with h5py.File(path) as h5:
        return h5["Rad"][:].view("u2"), h5["DQF"][:]


def intact(folder: Path, seed: int, minutes: float = 0.0, channel: int = 13, **options: Any) -> Path:
    """A file of the synthetic sky."""
    start = datetime(2020, 7, 1, 16) + timedelta(minutes=minutes)
    place: dict[str, Any] = {
        "sector": "C",
        "shape": SHAPE,
        "corner": (-0.030016, 0.090048),
        "start": start,
        "noise": 1.0,
    }
    return write_abi_file(folder, channel=channel, seed=seed, **place | options)


@dataclass(frozen=True)
class _Band:
    """Rows of an image: 5 % of them or more."""

    first: int
    stop: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> _Band:
        height = int(SHAPE[0] * rng.uniform(0.05, 0.5))
        first = int(rng.integers(SHAPE[0] - height))
        return cls(first, first + height)

    @property
    def rows(self) -> slice:
        return slice(self.first, self.stop)


def _all_fill(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    counts[:], flags[:] = FILL, rng.choice([3, -1])


def _band_of_fill(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    rows = _Band.drawn(rng).rows
    counts[rows], flags[rows] = FILL, 3


def _stuck_rows(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    rows = _Band.drawn(rng).rows
    counts[rows] = counts[rows.start]


def _doubled_rows(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    band = _Band.drawn(rng)
    for row in range(band.first + 1, band.stop, 2):
        counts[row] = counts[row - 1]


def _striped(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    every, off = int(rng.integers(2, 9)), rng.uniform(0.5, 2.0) * counts[counts < FILL].std()
    counts[::every] = np.clip(counts[::every] + off, 0, TOP).astype("u2")


def _saturated(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    rows = _Band.drawn(rng).rows
    counts[rows], flags[rows] = TOP, rng.choice([0, 2])


def _noise(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    rows = _Band.drawn(rng).rows
    counts[rows] = rng.integers(0, TOP, counts[rows].shape)


def _denied_counts(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    flags[_Band.drawn(rng).rows] = 3


def _good_fill(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    rows = _Band.drawn(rng).rows
    counts[rows, :: int(rng.integers(2, 8))] = FILL


def _moved_rows(rng: np.random.Generator, counts: Pixels, flags: Pixels) -> None:
    rows, by = _Band.drawn(rng).rows, int(SHAPE[1] * rng.uniform(0.1, 0.9))
    for image in (counts, flags):
        image[rows] = np.roll(image[rows], by, axis=1)


KINDS: dict[str, Callable[[np.random.Generator, Pixels, Pixels], None]] = {
    "all fill": _all_fill,
    "a band of fill": _band_of_fill,
    "stuck rows": _stuck_rows,
    "doubled rows": _doubled_rows,
    "striped": _striped,
    "saturated": _saturated,
    "noise": _noise,
    "counts that flags deny": _denied_counts,
    "fill that flags call good": _good_fill,
    "moved rows": _moved_rows,
}
"""What spoils images in place, by what one file alone tells."""


def _rolled(rng: np.random.Generator, image: Pixels) -> Pixels:
    return np.roll(image, int(SHAPE[0] * rng.uniform(0.1, 0.9)), axis=0)


TURNED: dict[str, Callable[[np.random.Generator, Pixels], Pixels]] = {
    "rolled": _rolled,
    "upside down": lambda _, image: image[::-1],
    "mirrored": lambda _, image: image[:, ::-1],
}
"""What becomes of whole images, as only others tell."""


def spoiled(folder: Path, whole: Images, kind: str, seed: int, minutes: float = 0.0) -> Path:
    """Write a file whose pixels are spoiled in one way."""
    counts, flags = whole[0].copy(), whole[1].copy()
    KINDS[kind](np.random.default_rng([seed, sorted(KINDS).index(kind)]), counts, flags)
    return intact(folder, seed, minutes, counts=counts, dqf=flags)


FEW = 8
"""Rows of 500 in which small faults lie: 1.6 %."""


def _few_rows(kind: str, rng: np.random.Generator, counts: Pixels, flags: Pixels, rows: slice) -> None:
    some = counts[rows]
    if kind == "stuck rows":
        some[:] = some[0]
    elif kind == "doubled rows":
        some[1::2] = some[::2]
    elif kind == "striped":
        off = rng.uniform(0.5, 2.0) * counts[counts < FILL].std() * rng.choice([-1, 1])
        some[::2] = np.clip(some[::2] + off, 0, TOP).astype("u2")
    elif kind == "saturated":
        some[:], flags[rows] = TOP, rng.choice([0, 2])
    elif kind == "noise":
        some[:] = rng.integers(0, TOP, some.shape)
    elif kind == "counts that flags deny":
        flags[rows] = 3
    elif kind == "fill that flags call good":
        some[:, :: int(rng.integers(2, 8))] = FILL
    elif kind == "moved rows":
        for image in (counts, flags):
            image[rows] = np.roll(image[rows], image.shape[1] // 2, axis=1)
    else:
        some[:], flags[rows] = FILL, 3


def few_spoilt(whole: Images, kind: str, seed: int, rows: slice, cols: slice = slice(None)) -> Images:
    """Pixels of which a few rows are spoilt in one way; ``a band of fill`` is a chunk of it where columns are few."""
    counts, flags = whole[0].copy(), whole[1].copy()
    _few_rows(kind, np.random.default_rng([seed, 7]), counts[:, cols], flags[:, cols], rows)
    return counts, flags
