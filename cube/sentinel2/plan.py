"""What a build will make: cells as windows of one lattice, and the acquisitions that reach each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
import shapely
from shapely.geometry import shape

from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.names import parse_product_name
from catalog.sentinel2.tiles import SIDE, tile_grid
from cube.job.folder import RULES
from cube.sentinel2.acquisitions import Acquisition, group_acquisitions
from cube.sentinel2.cell_selection import select_cells
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.grid import Cell, cell_from_id, footprint, read_cells
from cube.sentinel2.lattice import Lattice, Window
from cube.sentinel2.limits import refuse_large, refuse_no_degrees
from cube.sentinel2.periods import Period
from cube.sentinel2.polygon import polygon_of
from stratacube.choices import many
from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded, reason_of
from stratacube.parquet import read_frame, write_frame

__all__ = [
    "Plan",
    "PlannedCell",
    "cells_gaining",
    "cells_of_tile",
    "choose_cells",
    "make_plan",
    "plan_frame",
    "plan_words",
    "read_geometry",
    "refuse_other_cells",
    "write_plan",
]

_CELL = 0.25
_PLACES = ["cell", "row", "col", "height", "width", "outline"]
"""Columns of a plan that tell which pixels a build makes."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell, its pixels, and the acquisitions that reach it, in order of time; of one period, where there are some."""

    cell: Cell
    window: Window
    acquisitions: tuple[str, ...]
    period: Period | None = None
    step: int | None = None
    """Which of the periods that is, from 0."""

    @property
    def name(self) -> str:
        """Name of its composite, unlike all others."""
        return self.cell.id if self.period is None else f"{self.cell.id}_{self.period.period}"


@dataclass(frozen=True)
class Plan:
    """What a build will make."""

    lattice: Lattice
    cells: tuple[PlannedCell, ...]
    acquisitions: Mapping[str, Acquisition]
    own_corners: bool = False
    """Whether the pixels of each cell are counted from its own north-western corner."""

    def lattice_of(self, cell: Cell) -> Lattice:
        """Return the lattice of which a cell's window is one."""
        return _lattice_of(self.lattice, cell, own_corners=self.own_corners)


def _lattice_of(lattice: Lattice, cell: Cell, *, own_corners: bool) -> Lattice:
    return replace(lattice, x0=cell.xmin, y0=cell.ymax) if own_corners else lattice


def choose_cells(config: Sentinel2Config) -> list[Cell]:
    """Return the cells of a build, from its grid file or, without one, of the predecessor's grid.

    Raises
    ------
    UsageError
        If the grid cannot be read or nothing of it is selected.
    """
    polygon = None if config.polygon is None else read_geometry(config.polygon)
    ids = config.cells
    if config.crs is not None and config.grid_csv is None:
        raise UsageError(
            f"`crs` is {config.crs}, but without `grid_csv` cells are of the grid in EPSG:4326; give a grid"
        )
    if config.grid_csv is not None:
        cells = read_cells(config.grid_csv, config.crs)
    elif ids is not None:
        cells = list(dict.fromkeys(cell_from_id(i) for i in ids))
        ids = None
    else:
        cells = _default_cells(*(config.bbox if config.bbox is not None else shape(polygon).bounds))
    crs = {c.crs for c in cells}
    if len(crs) > 1:
        raise UsageError(
            f"the grid has cells in {', '.join(sorted(crs))}; one build has one lattice, so give them one CRS"
        )
    return select_cells(cells, bbox=config.bbox, polygon=polygon, ids=ids)


def _default_cells(west: float, south: float, east: float, north: float) -> list[Cell]:
    """Cells of the predecessor's grid, carried on to the south pole, near a box; west > east crosses 180 degrees."""
    across, down = round(360 / _CELL), round(180 / _CELL)
    first = math.floor((west + 180) / _CELL) - 1
    last = math.ceil(((east + 360 if west > east else east) + 180) / _CELL) + 1
    cols = sorted({c % across for c in range(first, min(last, first + across))})
    rows = range(max(0, math.floor((90 - north) / _CELL) - 1), min(down, math.ceil((90 - south) / _CELL) + 1))
    return [cell_from_id(f"Q{round(100 * _CELL):03d}_R{row:03d}_C{col:04d}") for row in rows for col in cols]


def read_geometry(path: Path) -> dict[str, Any]:
    """Return the area of a GeoJSON file: a geometry, a feature, or all features together.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    refuse_large(path, f"`polygon` {path}")
    try:
        document = json.loads(path.read_text())
        features = document.get("features", [document])
        merged = shapely.union_all([polygon_of(f) for f in features])
    except OSError as error:
        raise UsageError(f"`polygon` {path} cannot be read ({error.strerror})") from error
    except Exception as error:
        raise UsageError(f"`polygon` {path} is not GeoJSON ({reason_of(error)})") from error
    refuse_no_degrees(merged, f"`polygon` {path}")
    if merged.is_empty or not merged.area:
        raise UsageError(f"`polygon` {path} holds no area")
    return dict(shapely.geometry.mapping(merged))


def make_plan(config: Sentinel2Config, cells: Sequence[Cell], products: Sequence[Product]) -> Plan:
    """Lay the cells on the lattice and find the acquisitions that reach each.

    Raises
    ------
    UsageError
        If a cell holds no pixel.
    """
    crs = pyproj.CRS(cells[0].crs)
    lattice = config.lattice(cells[0].crs, metres=not crs.is_geographic)
    own = config.origin == "cell"
    windows = [_lattice_of(lattice, c, own_corners=own).window(*c.bounds) for c in cells]
    acquisitions = group_acquisitions(products)
    key = config.asset_keys()[0][1]
    tree = shapely.STRtree(footprint(cells))
    reached: list[list[str]] = [[] for _ in cells]
    known: dict[tuple[Any, ...], list[int]] = {}
    for acquisition in acquisitions:
        grid = _raster(acquisition, key)
        if grid not in known:
            known[grid] = _reached(tree, *grid).tolist()
        for index in known[grid]:
            reached[index].append(acquisition.key)
    planned = [PlannedCell(*c) for c in zip(cells, windows, map(tuple, reached), strict=True)]
    if config.periods is not None:
        starts = {a.key: a.datatake_start for a in acquisitions}
        planned = [p for one in planned for p in _of_each(config.periods, one, starts)]
    used = {k for p in planned for k in p.acquisitions}
    # One period after the other: what was seen in one is then in tmp for all cells at once.
    order = sorted(planned, key=lambda p: (p.step or 0, p.window.row, p.window.col, p.cell.id))
    return Plan(lattice, tuple(order), {a.key: a for a in acquisitions if a.key in used}, own)


def _of_each(periods: Sequence[Period], planned: PlannedCell, starts: Mapping[str, datetime]) -> Iterator[PlannedCell]:
    """A cell in each period, with the acquisitions of that."""
    for step, period in enumerate(periods):
        seen = tuple(key for key in planned.acquisitions if period.holds(starts[key]))
        yield replace(planned, acquisitions=seen, period=period, step=step)


def _raster(acquisition: Acquisition, key: str) -> tuple[str, tuple[int, int], tuple[float, ...]]:
    """Grid of an acquisition's tile: any of its rasters tells where the tile lies."""
    for product in acquisition.products:
        for asset in (product.assets.get(key), *product.assets.values()):
            if asset is not None and _located(asset):
                return str(asset.proj_code), asset.shape or (0, 0), asset.transform or ()
    raise SourceError(f"{acquisition.products[0].id} has no asset with proj:code, proj:shape and proj:transform")


def _located(asset: Asset) -> bool:
    return asset.proj_code is not None and asset.shape is not None and asset.transform is not None


def _reached(
    tree: shapely.STRtree, crs: str, size: tuple[int, int], transform: Sequence[float]
) -> npt.NDArray[np.intp]:
    """Which areas of a tree, in longitude and latitude, share ground with a raster: their numbers, in order."""
    a, _, left, _, e, top = transform
    tile = shapely.box(left, top + e * size[0], left + a * size[1], top)
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    ring = np.array(tile.segmentize(abs(a) * size[1] / 16).exterior.coords)
    lon, lat = to_degrees.transform(*ring.T)
    lon = lon[0] + (lon - lon[0] + 180) % 360 - 180
    turns = np.array([-360, 0, 360])
    boxes = shapely.box(lon.min() + turns - 0.05, lat.min() - 0.05, lon.max() + turns + 0.05, lat.max() + 0.05)
    near = np.unique(tree.query(boxes, predicate="intersects")[1])
    if not len(near):
        return near
    # The box in degrees is too wide far from the equator: only what meets the tile on its own map counts.
    to_tile = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    mapped = shapely.transform(
        shapely.segmentize(tree.geometries[near], 0.02),
        lambda p: np.column_stack(to_tile.transform(p[:, 0], p[:, 1])),
    )
    reached: npt.NDArray[np.intp] = near[shapely.intersects(tile, mapped) & ~shapely.touches(tile, mapped)]
    return reached


def cells_of_tile(plan: Plan, product: str) -> list[str]:
    """Return the cells that a product reaches of which only the name is known; ``[""]`` where that tells no tile."""
    try:
        told = parse_product_name(product)
        code, ulx, uly = tile_grid(told.tile)
    except SourceError:
        return [""]
    cells = [p for p in plan.cells if p.period is None or p.period.holds(told.sensing)]
    tree = shapely.STRtree(footprint([p.cell for p in cells]))
    return [cells[i].name for i in _reached(tree, code, (1, 1), (SIDE, 0, ulx, 0, -SIDE, uly))]


def cells_gaining(plan: Plan, products: Iterable[str], path: Path) -> dict[str, list[str]]:
    """Return the cells that some products reach and that were planned without them, and which those are."""
    wanted = set(products)
    try:
        with guarded(f"{path} is not the plan of a build"):
            there = read_frame(path, ["cell", "products"])
            known = {str(cell): set(names) for cell, names in zip(there["cell"], there["products"], strict=True)}
    except SourceError:  # it is damaged, and written once more
        return {p.name: sorted(wanted) for p in plan.cells}
    gained = {
        p.name: sorted(
            wanted.intersection(q.id for a in p.acquisitions for q in plan.acquisitions[a].products)
            - known.get(p.name, set())
        )
        for p in plan.cells
    }
    return {cell: names for cell, names in gained.items() if names}


def plan_frame(plan: Plan) -> pd.DataFrame:
    """Return the plan as a table, one row a cell."""
    rows = [
        {
            "cell": p.name,
            "tile_id_geo": p.cell.alias,
            "crs": p.cell.crs,
            **dict(zip(("xmin", "ymin", "xmax", "ymax"), p.cell.bounds, strict=True)),
            "row": p.window.row,
            "col": p.window.col,
            "height": p.window.height,
            "width": p.window.width,
            "outline": p.cell.outline,
            "acquisitions": list(p.acquisitions),
            "products": [q.id for a in p.acquisitions for q in plan.acquisitions[a].products],
            **({} if p.period is None else {"tile_id_rc": p.cell.id, "period": p.period.period, "step": p.step}),
        }
        for p in plan.cells
    ]
    return pd.DataFrame(rows)


def plan_words(frame: pd.DataFrame) -> str:
    """Say how much a plan is."""
    if "period" not in frame:
        return many(len(frame), "cell")
    return f"{many(frame['tile_id_rc'].nunique(), 'cell')} in {many(frame['period'].nunique(), 'period')}"


def refuse_other_cells(frame: pd.DataFrame, path: Path) -> bool:
    """Refuse to go on with a plan of other cells: what is made of them is not what is asked for.

    Returns
    -------
    bool
        Whether the plan lacks periods that came with a later end.

    Raises
    ------
    UsageError
        If the cells differ.
    """
    columns = [*_PLACES, "step"] if "step" in frame else _PLACES
    try:
        with guarded(f"{path} is not the plan of a build"):
            there = read_frame(path, columns)
    except SourceError:  # it is damaged, and written once more
        return False
    known = frame[frame["step"] <= there["step"].max()] if "step" in frame else frame
    if not there.equals(known[columns]):
        raise UsageError(
            f"{path.parent} was planned with other cells; the grid or polygon file has changed since: "
            "choose another `work_dir` or pass `overwrite`"
        )
    return len(known) < len(frame)


def write_plan(frame: pd.DataFrame, path: Path) -> None:
    """Write the plan."""
    frame.attrs = {"rules": RULES}
    write_frame(path, frame)
