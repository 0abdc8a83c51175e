"""ABI's level 2 cloud products on the fixed grid: top height (ACHA), phase (ACTP), mask (ACM), optical depth (COD).

GOES-R Product Definition and Users' Guide, volume 5. What is not of good quality is not known, but for clear pixels,
which the mask tells.
"""

from __future__ import annotations

import glob
import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from catalog.geostationary.scans import Scan
from cube.geostationary.grid import FixedGrid
from cube.strata.clouds.definitions import cloud_type
from stratacube.errors import UsageError
from stratacube.guard import guarded

__all__ = ["Products", "find_products", "read_fields"]

_NAME = re.compile(r"OR_ABI-L2-(ACHA|ACTP|ACM|COD)(F|C|M[12])-M\d_G(\d\d)_s(\d{13})\d_e\d+_c(\d+)\.nc")
_VARIABLES = {"ACHA": "HT", "ACTP": "Phase", "ACM": "BCM", "COD": "COD"}
_NEEDED = ("ACHA", "COD")
_MOST_PIXELS = 21_696
"""Along a side: those of 0.5 km of a full disk, finer than any product."""
_WITHIN = timedelta(minutes=5)
"""A product is of the scan that starts within some seconds of it."""


class _File(NamedTuple):
    start: datetime
    created: str
    path: Path


class Products:
    """Cloud products by satellite, sector and time.

    Parameters
    ----------
    files : dict
        By product, platform and sector, in order of time.
    root : str
        Where they were found.
    """

    def __init__(self, files: dict[tuple[str, str, str], list[_File]], root: str) -> None:
        self.files, self.root = files, root

    def of_scan(self, scan: Scan) -> dict[str, Path]:
        """Products of a scan, by name."""
        found = {}
        for product in _VARIABLES:
            files = self.files.get((product, scan.platform, scan.sector), [])
            at = bisect_left(files, scan.start, key=lambda file: file.start)
            near = min(files[max(at - 1, 0) : at + 1], key=lambda f: abs(f.start - scan.start), default=None)
            if near is not None and abs(near.start - scan.start) <= _WITHIN:
                found[product] = near.path
        return found

    def has_types(self, scan: Scan) -> bool:
        """Whether the types of clouds in a scan can be told."""
        return set(_NEEDED) <= self.of_scan(scan).keys()

    def types(self, scan: Scan, tiles: Sequence[FixedGrid]) -> list[npt.NDArray[np.int8]]:
        """ISCCP's type of cloud by pixel of 2 km under tiles, -1 where not known.

        Parameters
        ----------
        scan : Scan
            Whose products these are.
        tiles : sequence of FixedGrid
            Pixels of 2 km; those of coarser products that their centres lie in are taken.

        Raises
        ------
        SourceError
            If a product cannot be read.
        """
        fields = {name: read_fields(path, _VARIABLES[name], tiles) for name, path in self.of_scan(scan).items()}
        mask = fields.get("ACM", fields.get("ACTP", [np.full(tile.shape, np.nan) for tile in tiles]))
        return [
            cloud_type(height, depth, clear == 0)
            for height, depth, clear in zip(fields["ACHA"], fields["COD"], mask, strict=True)
        ]


def find_products(root: str) -> Products:
    """Find cloud products in a folder, at any depth, or by a glob; of re-issued ones the latest.

    Raises
    ------
    UsageError
        If there is none that types of clouds can be told by.
    """
    paths = Path(root).rglob("*.nc") if Path(root).is_dir() else map(Path, glob.glob(root, recursive=True))
    named = {path: _NAME.fullmatch(path.name) for path in paths}
    files: dict[tuple[str, str, str], dict[datetime, _File]] = {}
    for path, found in named.items():
        if found is None:
            continue
        product, sector, number, start, created = found.groups()
        file = _File(datetime.strptime(start, "%Y%j%H%M%S"), created, path)
        same = files.setdefault((product, f"goes{number}", sector), {})
        if file.start not in same or same[file.start].created < created:
            same[file.start] = file
    there = {product for product, *_ in files}
    if not set(_NEEDED) <= there:
        raise UsageError(
            f"`cloud_products` is {root}: it has {', '.join(sorted(there)) or 'no product of clouds'}, but types "
            f"of clouds need {' and '.join(_NEEDED)} (files such as OR_ABI-L2-ACHAF-*.nc); give both, or leave it out"
        )
    return Products({key: sorted(same.values()) for key, same in files.items()}, root)


def read_fields(path: Path, variable: str, tiles: Sequence[FixedGrid]) -> list[npt.NDArray[np.float64]]:
    """Read a product at the centres of the pixels of tiles, the rows and columns of each alone.

    Parameters
    ----------
    path : Path
        The file.
    variable : str
        Its name.
    tiles : sequence of FixedGrid
        Where.

    Returns
    -------
    list of ndarray of float64
        By tile; NaN where it is fill or not of good quality, or outside of the file.

    Raises
    ------
    SourceError
        If the file cannot be read, or sees the Earth from elsewhere.
    """
    wrong = f"{path} cannot be read as a cloud product"
    with guarded(wrong, "fetch it again, or leave it out"), h5py.File(path) as file:
        x, y = (_axis(file, name) for name in ("x", "y"))
        origin = float(np.ravel(file["goes_imager_projection"].attrs["longitude_of_projection_origin"])[0])
        for tile in tiles:
            wanted = tile.projection.longitude_of_projection_origin
            if abs(origin - wanted) > 1e-3:
                raise ValueError(f"it sees the Earth from {origin:g} degrees east, the scan from {wanted:g}")
        return [_field(file, variable, x, y, tile) for tile in tiles]


def _axis(file: Any, name: str) -> npt.NDArray[np.float64]:
    length = file[name].size
    if not 2 <= length <= _MOST_PIXELS:
        raise ValueError(f"its {name} has {length} values where 2 to {_MOST_PIXELS} are expected")
    return _unpacked(file[name], file[name][:])


def _field(
    file: Any, variable: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], tile: FixedGrid
) -> npt.NDArray[np.float64]:
    col, row = _places(x, tile.x), _places(y, tile.y)
    field = np.full(tile.shape, np.nan)
    rows, cols = ((i >= 0) & (i < len(axis)) for i, axis in ((row, y), (col, x)))
    if not (rows.any() and cols.any()):
        return field
    part = slice(row[rows].min(), row[rows].max() + 1), slice(col[cols].min(), col[cols].max() + 1)
    values = _unpacked(file[variable], file[variable][part])
    values[file["DQF"][part] != 0] = np.nan
    field[np.ix_(rows, cols)] = values[np.ix_(row[rows] - part[0].start, col[cols] - part[1].start)]
    return field


def _places(axis: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    step = (axis[-1] - axis[0]) / (len(axis) - 1)
    places: npt.NDArray[np.int64] = np.floor((wanted - axis[0]) / step + 0.5).astype("i8")
    return places


def _unpacked(dataset: Any, raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    attributes = dataset.attrs
    fill = np.ravel(attributes["_FillValue"])[0] if "_FillValue" in attributes else None
    missing = np.zeros(raw.shape, bool) if fill is None else raw == fill
    if np.ravel(attributes.get("_Unsigned", [b"false"]))[0] in (b"true", "true") and raw.dtype.kind == "i":
        raw = raw.view(raw.dtype.str.replace("i", "u"))
    scale, offset = (
        float(np.ravel(attributes.get(n, [d]))[0]) for n, d in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    return np.where(missing, np.nan, raw * scale + offset)
