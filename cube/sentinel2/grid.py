"""Grid cells: made, read from the predecessor's CSV or a GeoJSON, named, and selected across the antimeridian."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import shapely
from shapely.geometry import mapping

from catalog.publish.footprints import Box, enclosing_box
from cube.sentinel2.limits import refuse_ids, refuse_large, refuse_no_degrees, refuse_too_many
from cube.sentinel2.polygon import joined, polygon_of
from stratacube.errors import StratacubeError, UsageError
from stratacube.files import whole_file, write_text
from stratacube.guard import named, reason_of

__all__ = [
    "PANARCTIC",
    "Cell",
    "box_around",
    "cell_from_id",
    "footprint",
    "grid_cells",
    "make_grid",
    "read_cells",
    "write_grid",
]

COLUMNS = ["tile_id_rc", "tile_id_geo", "xmin", "ymin", "xmax", "ymax", "row", "col"]
"""Columns of the predecessor's grid file; a grid in another CRS than EPSG:4326 has ``crs`` too."""

PANARCTIC = (-180.0, 60.0, 180.0, 90.0)
_EDGE = 8
_RC = re.compile(r"Q(?P<size>\d{3})_R(?P<row>\d{3,})_C(?P<col>\d{4,})")
_GEO = re.compile(r"Q(?P<size>\d{3})_(?P<ew>[EW])(?P<x>\d{1,3}_\d{2})_(?P<ns>[NS])(?P<y>\d{1,2}_\d{2})")


@dataclass(frozen=True)
class Cell:
    """One cell: bounds in the grid's CRS, and its outline where it is not a rectangle."""

    id: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    crs: str = "EPSG:4326"
    alias: str = ""
    """The cell's other name: ``tile_id_geo`` where the id is ``tile_id_rc``."""
    outline: str = ""
    """GeoJSON geometry in the grid's CRS, as text; empty for a rectangle."""
    row: int | None = None
    """Row and column of the grid, where it has some."""
    col: int | None = None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Bounds as xmin, ymin, xmax, ymax."""
        return self.xmin, self.ymin, self.xmax, self.ymax


def make_grid(
    cell_size: float = 0.25,
    bounds: tuple[float, float, float, float] = PANARCTIC,
    crs: str = "EPSG:4326",
    corner: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Make a regular grid; row 0 is the northernmost, column 0 the westernmost.

    Parameters
    ----------
    cell_size
        Side of a cell in units of the CRS.
    bounds
        xmin, ymin, xmax, ymax in units of the CRS; a whole number of cells each way.
    crs
        Any CRS that pyproj knows.
    corner
        x and y of the north-western corner that rows and columns are counted from, a whole number of cells from the
        bounds'; by default that of the bounds.

    Returns
    -------
    pandas.DataFrame
        The predecessor's columns; ``crs`` besides when it is not EPSG:4326. Ids tell the cell's size, the CRS unless
        it is EPSG:4326, and for row-column ids the grid's corner unless it is the predecessor's.

    Raises
    ------
    UsageError
        If the bounds are not a whole number of cells, or hold more than a grid may have, or the CRS is unknown.
    """
    xmin, ymin, xmax, ymax = (float(b) for b in bounds)
    name = _crs_name(crs)
    if not 0 < cell_size < np.inf:
        raise UsageError(f"`cell_size` is {cell_size}; give a positive number")
    across, down = (xmax - xmin) / cell_size, (ymax - ymin) / cell_size
    refuse_too_many(down, across, cell_size)
    rows, cols = round(down), round(across)
    if rows < 1 or cols < 1 or abs(across - cols) > 1e-6 or abs(down - rows) > 1e-6:
        raise UsageError(
            f"bounds {xmin} {ymin} {xmax} {ymax} are {across:.4f} x {down:.4f} cells of {cell_size}; "
            "choose bounds that are a whole number of cells"
        )
    row, col = (a.ravel() for a in np.mgrid[:rows, :cols])
    left, top = (xmin, ymax) if corner is None else corner
    row, col = row + round((top - ymax) / cell_size), col + round((xmin - left) / cell_size)
    frame = pd.DataFrame(
        {
            "xmin": left + col * cell_size,
            "ymin": top - (row + 1) * cell_size,
            "xmax": left + (col + 1) * cell_size,
            "ymax": top - row * cell_size,
            "row": row,
            "col": col,
        }
    )
    prefix = ("" if name == "EPSG:4326" else re.sub(r"\W", "", name) + "_") + _size_name(cell_size, name)
    origin = "" if name == "EPSG:4326" and (left, top) == (-180.0, 90.0) else f"O{_place(left, top, name)}_"
    frame["tile_id_rc"] = [f"{prefix}_{origin}R{r:03d}_C{c:04d}" for r, c in zip(row, col, strict=True)]
    frame["tile_id_geo"] = [f"{prefix}_{_place(x, y, name)}" for x, y in zip(frame["xmin"], frame["ymin"], strict=True)]
    frame = frame[COLUMNS]
    return frame if name == "EPSG:4326" else frame.assign(crs=name)


def _size_name(size: float, crs: str) -> str:
    """Hundredths of a degree in three digits as the predecessor has them, else the number itself."""
    hundredths = size * 100
    if crs == "EPSG:4326" and abs(hundredths - round(hundredths)) < 1e-9:
        return f"Q{round(hundredths):03d}"
    return "Q" + f"{size:.10g}".replace(".", "p")


def _place(x: float, y: float, crs: str) -> str:
    """Name the south-western corner, e.g. ``W149_75_N68_50``."""
    if pyproj.CRS(crs).is_geographic:
        digits = max(2, _decimals(x), _decimals(y))
        east, north = (f"{abs(v):.{digits}f}".replace(".", "_") for v in (x, y))
        # three digits of longitude and two of latitude before the point
        east, north = east.zfill(digits + 4), north.zfill(digits + 3)
    else:
        east, north = (f"{abs(v):.10g}".replace(".", "_") for v in (x, y))
    return f"{'W' if x < 0 else 'E'}{east}_{'S' if y < 0 else 'N'}{north}"


def _decimals(value: float) -> int:
    return len(f"{value:.9f}".rstrip("0").partition(".")[2])


def _crs_name(crs: str) -> str:
    try:
        found = pyproj.CRS.from_user_input(crs)
    except (pyproj.exceptions.CRSError, TypeError, ValueError) as error:
        raise UsageError(f"CRS {crs!r} is unknown; give an EPSG code such as EPSG:3413") from error
    authority = found.to_authority(min_confidence=100)
    return ":".join(authority) if authority else crs


def write_grid(frame: pd.DataFrame, path: Path) -> None:
    """Write a grid file: CSV, or GeoJSON by its name (outlines in longitude and latitude)."""
    try:
        if path.suffix.lower() in (".geojson", ".json"):
            write_text(path, json.dumps(_collection(grid_cells(frame))))
        else:
            with whole_file(path) as part:
                frame.to_csv(part, index=False)
    except StratacubeError:
        raise
    except OSError as error:
        raise UsageError(f"grid file {path} cannot be written ({error.strerror})") from error


def _collection(cells: Sequence[Cell]) -> dict[str, Any]:
    features = [
        {
            "type": "Feature",
            "id": cell.id,
            "properties": {"tile_id_rc": cell.id, "tile_id_geo": cell.alias},
            "geometry": mapping(area),
        }
        for cell, area in zip(cells, footprint(cells), strict=True)
    ]
    return {"type": "FeatureCollection", "features": features}


def grid_cells(frame: pd.DataFrame) -> list[Cell]:
    """Return the cells of a grid's rows; a row's id is its first column, ``tile_id_rc``."""
    crs = frame["crs"] if "crs" in frame else ["EPSG:4326"] * len(frame)
    columns = (frame[c] for c in ("tile_id_rc", "xmin", "ymin", "xmax", "ymax"))
    places = (_whole_numbers(frame, c) for c in ("row", "col"))
    return [
        Cell(str(i), float(a), float(b), float(c), float(d), str(s), str(alias), "", row, col)
        for i, a, b, c, d, s, alias, row, col in zip(*columns, crs, frame["tile_id_geo"], *places, strict=True)
    ]


def _whole_numbers(frame: pd.DataFrame, column: str) -> list[int | None]:
    """A column that is only handed on; None where it holds no whole number, or is not there."""
    if column not in frame:
        return [None] * len(frame)
    numbers = pd.to_numeric(frame[column], errors="coerce").to_numpy("f8")
    return [int(n) if abs(n) < 2**53 and n == int(n) else None for n in np.where(np.isfinite(numbers), numbers, 0.5)]


def read_cells(path: Path, crs: str | None = None) -> list[Cell]:
    """Read a grid CSV or a GeoJSON of polygons.

    Parameters
    ----------
    path
        ``.csv`` with the predecessor's columns, ``.geojson`` or ``.json``.
    crs
        CRS to bring a GeoJSON's outlines into (default EPSG:4326). A CSV names its own, which this may only repeat.

    Raises
    ------
    UsageError
        If the file cannot be read, lacks a column or names a cell twice.
    """
    refuse_large(path, f"grid file {path}")
    try:
        if path.suffix.lower() in (".geojson", ".json"):
            cells = _geojson_cells(json.loads(path.read_text()), path, _crs_name(crs or "EPSG:4326"))
        else:
            cells = _csv_cells(path)
            other = next((c.crs for c in cells if crs is not None and c.crs != _crs_name(crs)), None)
            if other is not None:
                raise UsageError(f"`crs` is {crs} but grid file {path} has cells in {other}; leave `crs` out")
    except OSError as error:
        raise UsageError(f"grid file {path} cannot be read ({error.strerror})") from error
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"grid file {path} cannot be understood ({reason_of(error)})") from error
    ids = pd.Series([c.id for c in cells])
    if ids.duplicated().any():
        raise UsageError(
            f"grid file {path} names cell {ids[ids.duplicated()].iloc[0]} twice; give each cell its own id"
        )
    refuse_ids(ids, path)
    return cells


def _csv_cells(path: Path) -> list[Cell]:
    frame = pd.read_csv(path, float_precision="round_trip")
    missing = [c for c in ("tile_id_rc", "tile_id_geo", "xmin", "ymin", "xmax", "ymax") if c not in frame]
    if missing:
        raise UsageError(f"grid file {path} has no column {missing[0]}; a grid has {','.join(COLUMNS)} (see make-grid)")
    if frame.empty:
        raise UsageError(f"grid file {path} holds no cell, only a header; make one with make-grid")
    numbers = frame[["xmin", "ymin", "xmax", "ymax"]].apply(pd.to_numeric, errors="coerce")
    wrong = (
        ~np.isfinite(numbers).all(axis=1) | (numbers["xmin"] >= numbers["xmax"]) | (numbers["ymin"] >= numbers["ymax"])
    )
    if wrong.any():
        raise UsageError(f"grid file {path}, line {int(np.flatnonzero(wrong)[0]) + 2}: bounds are not a rectangle")
    for crs in frame["crs"].unique() if "crs" in frame else ():
        with named(f"grid file {path}"):
            _crs_name(crs)  # which refuses what is none
    return grid_cells(frame)


def _geojson_cells(document: Any, path: Path, crs: str) -> list[Cell]:
    features = document.get("features", [document]) if isinstance(document, dict) else []
    project = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    cells = []
    for number, feature in enumerate(features):
        try:
            outline, told = polygon_of(feature), dict(feature.get("properties") or {})
        except Exception as error:
            raise UsageError(f"grid file {path}: feature {number} is not a cell ({reason_of(error)})") from error
        if outline.geom_type not in ("Polygon", "MultiPolygon") or outline.is_empty:
            raise UsageError(f"grid file {path}: feature {number} is a {outline.geom_type}; cells are polygons")
        outline = joined(outline)
        if outline.bounds[2] - outline.bounds[0] > 180:
            raise UsageError(
                f"grid file {path}: feature {number} is wider than 180 degrees; "
                "cut it in two at the antimeridian if it lies across"
            )
        refuse_no_degrees(outline, f"grid file {path}: feature {number}")
        if crs != "EPSG:4326":
            outline = shapely.transform(outline.segmentize(0.05), lambda p: np.column_stack(project(p[:, 0], p[:, 1])))
        name = feature.get("id") or told.get("tile_id_rc") or told.get("id") or told.get("name") or f"cell_{number:04d}"
        rectangle = outline.equals(shapely.box(*outline.bounds))
        text = "" if rectangle else json.dumps(mapping(outline))
        xmin, ymin, xmax, ymax = outline.bounds
        alias = str(told.get("tile_id_geo", ""))
        cells.append(Cell(str(name), xmin, ymin, xmax, ymax, crs, alias, text))
    if not cells:
        raise UsageError(f"grid file {path} holds no feature")
    return cells


def cell_from_id(name: str) -> Cell:
    """Return the cell of the predecessor's grid that an id names, by row and column or by its corner.

    Raises
    ------
    UsageError
        If it is not such an id.
    """
    if found := _RC.fullmatch(name):
        size = int(found["size"]) / 100
        x, y = -180.0 + int(found["col"]) * size, 90.0 - (int(found["row"]) + 1) * size
    elif found := _GEO.fullmatch(name):
        size = int(found["size"]) / 100
        x = float(found["x"].replace("_", ".")) * (1 if found["ew"] == "E" else -1)
        y = float(found["y"].replace("_", ".")) * (1 if found["ns"] == "N" else -1)
    else:
        raise UsageError(
            f"cell id {name!r} is not of the form Q025_R083_C0119 or Q025_W149_75_N68_50; give its grid as `grid_csv`"
        )
    row, col = round((90.0 - y) / size) - 1, round((x + 180.0) / size)
    alias = f"{_size_name(size, 'EPSG:4326')}_{_place(x, y, 'EPSG:4326')}"
    left, top = -180.0 + col * size, 90.0 - row * size
    right, bottom = -180.0 + (col + 1) * size, 90.0 - (row + 1) * size
    if not (left >= -180 and right <= 180 and bottom >= -90 and top <= 90):
        raise UsageError(f"cell id {name!r} lies outside of the globe")
    return Cell(
        f"{_size_name(size, 'EPSG:4326')}_R{row:03d}_C{col:04d}",
        left,
        bottom,
        right,
        top,
        alias=alias,
        row=row,
        col=col,
    )


def footprint(cells: Sequence[Cell]) -> npt.NDArray[np.object_]:
    """Return polygons in longitude and latitude; one across the antimeridian goes on beyond 180 degrees."""
    areas = np.empty(len(cells), object)
    for crs in sorted({c.crs for c in cells}):
        which = [i for i, c in enumerate(cells) if c.crs == crs]
        bounds = np.array([cells[i].bounds for i in which])
        if crs == "EPSG:4326":
            areas[which] = shapely.box(*bounds.T)
            continue
        step = np.linspace(0, 1, _EDGE + 1)[:-1]
        one, zero = np.ones(_EDGE), np.zeros(_EDGE)
        u, v = np.concatenate([step, one, 1 - step, zero]), np.concatenate([zero, step, one, 1 - step])
        x = bounds[:, :1] + u * (bounds[:, 2:3] - bounds[:, :1])
        y = bounds[:, 1:2] + v * (bounds[:, 3:4] - bounds[:, 1:2])
        lon, lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
        lon = lon[:, :1] + (lon - lon[:, :1] + 180) % 360 - 180
        areas[which] = shapely.polygons(np.stack([lon, lat], axis=-1))
    return areas


def box_around(areas: Iterable[shapely.Geometry]) -> Box:
    """Return the smallest box around areas in longitude and latitude, as :func:`footprint` gives them.

    Longitudes lie within 180 degrees; west is greater than east where the box goes across the antimeridian.
    """
    return enclosing_box(_turned(area.bounds) for area in areas)


def _turned(bounds: Box) -> Box:
    west, south, east, north = bounds
    west, east = ((x + 180) % 360 - 180 for x in (west, east))
    return west, south, 180.0 if east == -180 else east, north
