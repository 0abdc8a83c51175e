"""Segmentation masks of tobac with the table of tracked features beside them.

A mask holds numbers of features, one time each; the table says which ``cell`` a ``feature`` belongs to, and a cell is a
system. -1 is a feature that was not tracked. Source: tobac's documentation of its output; Heikenfeld et al. 2019,
doi:10.5194/gmd-12-4551-2019.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from cube.strata.masks import UNDATED, Image, MaskFile, MaskKind, Survey
from cube.strata.readers.gridded import Systems, images_gridded, survey_gridded
from cube.strata.readers.netcdf import variable
from stratacube.errors import UsageError
from stratacube.guard import guarded
from stratacube.parquet import read_frame

__all__ = ["TOBAC"]

TABLES = ("*rack*.parquet", "*rack*.csv", "*rack*.nc")


def _start(name: str) -> datetime | None:
    return UNDATED if re.search(r"segmentation.*\.nc4?$", name, re.IGNORECASE) else None


NUMBERS = ("segmentation_mask", "segmentation")


def _survey(file: MaskFile) -> Survey:
    systems = _systems(file)
    with h5py.File(file.path, "r") as source:
        return survey_gridded(file, source, NUMBERS, systems=systems)


def _images(file: MaskFile, wanted: Collection[datetime]) -> Iterator[Image]:
    systems = _systems(file)
    with h5py.File(file.path, "r") as source:
        yield from images_gridded(file, source, NUMBERS, wanted, systems=systems)


def _systems(file: MaskFile) -> Systems:
    """From features to cells."""
    feature, cell = _cells(file)

    def systems(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if not len(feature):
            return np.zeros_like(labels)
        place = np.minimum(np.searchsorted(feature, labels), len(feature) - 1)
        return np.where(feature[place] == labels, cell[place], 0)

    return systems


def _cells(file: MaskFile) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Features, ascending, and the cell of each, 0 for none; where there is a cell 0, all are one more."""
    folder = Path(file.path).parent
    table = next((path for form in TABLES for path in sorted(folder.glob(form)) if path.is_file()), None)
    if table is None:
        raise UsageError(
            f"{file.path} numbers features, and no table of tracks (Track.parquet, .csv or .nc with the columns "
            f"feature and cell) lies in {folder}: put it there; pandas.DataFrame.to_parquet writes one that is HDF5."
        )
    frame = _read(table)
    if not {"feature", "cell"} <= set(frame.columns):
        raise UsageError(f"{table} has the columns {', '.join(map(str, frame.columns))}, expected feature and cell.")
    feature = pd.to_numeric(frame["feature"]).to_numpy("i8")
    cell = pd.to_numeric(frame["cell"]).fillna(-1).to_numpy("i8")
    order = np.argsort(feature)
    return feature[order], np.maximum(cell[order] + (cell == 0).any(), 0)


def _read(table: Path) -> pd.DataFrame:
    if table.suffix == ".parquet":
        return read_frame(table)
    if table.suffix == ".csv":
        return pd.read_csv(table)
    with guarded(f"{table} cannot be read", "write it again"), h5py.File(table, "r") as source:
        found = {name: variable(source, name) for name in ("feature", "cell")}
        return pd.DataFrame({name: np.ravel(v[()]) for name, v in found.items() if v is not None})


TOBAC = MaskKind("segmentation.nc", _start, _survey, images=_images)
