"""What a grid, a file of cells and an area may ask for, said before memory is taken for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from stratacube.errors import UsageError
from stratacube.files import human_bytes
from stratacube.inside import LONGEST_NAME, why_not_a_name

__all__ = ["MOST_CELLS", "refuse_ids", "refuse_large", "refuse_no_degrees", "refuse_other_file", "refuse_too_many"]

MOST_CELLS = 5_000_000
"""Of a grid: each takes some 400 bytes of memory, and 100 of a file."""

_MOST_BYTES = 2_000_000_000
"""Of a file of cells or areas, which is read at once."""

_FARTHEST = {"longitude": 540, "latitude": 90}
"""Degrees; an area across the antimeridian goes on beyond 180."""


def refuse_too_many(down: float, across: float, cell_size: float) -> None:
    """Refuse a grid of more cells than a grid may have.

    Raises
    ------
    UsageError
        If it has.
    """
    if not np.isfinite([across, down]).all() or (min(across, down) > 0 and across * down > MOST_CELLS):
        raise UsageError(
            f"{down:.6g} x {across:.6g} cells of {cell_size} are more than the {MOST_CELLS} that a grid may have; "
            "choose a larger `cell_size` or smaller `bounds`"
        )


def refuse_large(path: Path, what: str) -> None:
    """Refuse a file that is too large to be read at once; whether there is one is for who reads it.

    Raises
    ------
    UsageError
        If it is.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size > _MOST_BYTES:
        raise UsageError(
            f"{what} has {human_bytes(size)}, and {human_bytes(_MOST_BYTES)} are the most; cut it into several builds"
        )


def refuse_no_degrees(outline: Any, what: str) -> None:
    """Refuse an area that is not in degrees: laid in another CRS, it is cut into pieces of a twentieth of one.

    Raises
    ------
    UsageError
        If a corner lies outside of the globe.
    """
    for (name, most), values in zip(_FARTHEST.items(), shapely.get_coordinates(outline).T, strict=True):
        wrong = values[~(np.abs(values) <= most)]
        if len(wrong):
            raise UsageError(
                f"{what} has {name} {wrong[0]:g}, and GeoJSON has degrees, {most} at most; "
                "bring it to longitude and latitude"
            )


def refuse_other_file(path: Path) -> None:
    """Refuse a name for a grid that is not one, or under which something else lies.

    Raises
    ------
    UsageError
        If the suffix is not that of a grid, the folder is not there, or the file is not a grid.
    """
    if path.suffix.lower() not in (".csv", ".geojson"):
        raise UsageError(f"`output` is {path.name}, and a grid is a .csv or a .geojson; give such a name")
    if not path.parent.is_dir():
        raise UsageError(f"folder {path.parent} of `output` is not there; make it, or give another")
    if path.exists() and not _is_grid(path):
        raise UsageError(f"{path} is there and is not a grid; give another `output`, or remove it")


def _is_grid(path: Path) -> bool:
    """Whether a file begins as ours do: the head tells, for a grid may be large."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    if path.suffix.lower() == ".csv":
        return head.startswith(b"tile_id_rc,")
    return b'"FeatureCollection"' in head and b'"tile_id_rc"' in head


def refuse_ids(ids: Iterable[str], path: Path) -> None:
    """Refuse ids of cells that files and folders cannot be called by.

    Raises
    ------
    UsageError
        If there is one.
    """
    for name in ids:
        if not re.fullmatch(r"[\w.-]+", name) or why_not_a_name(name):
            shown = name if len(name) <= LONGEST_NAME else f"{name[:40]}.."
            raise UsageError(
                f"grid file {path} has a cell {shown!r}; ids become names of files and folders: use letters, digits, "
                f"_ . and -, at most {LONGEST_NAME}, and neither . nor .. alone"
            )
