"""What is particular to looking at a Sentinel-2 build: see :mod:`cube.inspect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import zarr

from catalog.parquet import read_frame
from cube.engine import iterate
from cube.folder import BuildFolder
from cube.inspect import Kind
from cube.ledger import Ledger
from cube.sentinel2.composite import CellResult, cell_file
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.lattice import Window

__all__ = ["SENTINEL2"]

Known = Callable[[], npt.NDArray[np.bool_]]
"""Reads where an array holds a value over the pixels of a cell."""


def _title(config: Mapping[str, Any]) -> str:
    return f"Sentinel-2 {config['reducer']} composites, {' '.join(config['bands'])}"


def _tasks(folder: BuildFolder, ledger: Ledger) -> tuple[str, list[str]]:
    cells = [f"cell {name}" for name in read_frame(folder.plan, ["cell"])["cell"]]
    failed = [k for k, e in ledger.entries.items() if k.startswith("shard ") and e.status != "done"]
    return f"{len(cells)} cells", cells + failed


def _faults(folder: BuildFolder, config: dict[str, Any], ledger: Ledger) -> Iterator[str]:
    """Every product of every cell that was made is there, decodes, and holds the pixels that were counted."""
    places = Sentinel2Folder(folder.root)
    names = (*config["bands"], "count")
    plan = read_frame(places.plan)
    remedy = f"remove its line from {places.ledger.name} and build again"
    stored: dict[str, Any] = {}
    if "zarr" in config["products"]:
        stored = {n: zarr.open_array(places.store / n, mode="r") for n in names if (places.store / n).exists()}
        yield from (f"{places.store / n} is missing; build again" for n in names if n not in stored)
    origin = int(plan["row"].min()), int(plan["col"].min())
    for row in iterate(list(plan.itertuples()), "verifying"):
        entry = ledger.entries.get(f"cell {row.cell}")
        if entry is None or entry.status == "failed":
            continue
        try:
            result = CellResult.load(places.result(row.cell))
        except (OSError, ValueError, TypeError) as error:
            yield f"{places.result(row.cell)} cannot be read ({error}); {remedy}"
            continue
        window = Window(row.row - origin[0], row.col - origin[1], row.height, row.width)
        if "cog" in config["products"]:
            for name in names:
                path = places.composites / row.cell / cell_file(row.cell, name, config["reducer"])
                fault = _fault(result, name, window, partial(_in_geotiff, path))
                yield from () if fault is None else (f"{path} {fault}; {remedy}",)
        for name, array in stored.items():
            fault = _fault(result, name, window, partial(_in_store, array, window))
            yield from () if fault is None else (f"{places.store / name} {fault} in cell {row.cell}; {remedy}",)


def _fault(result: CellResult, name: str, window: Window, known: Known) -> str | None:
    """Say what is wrong with one array over one cell, None if nothing is."""
    try:
        there = known()
    except Exception as error:  # noqa: BLE001  (a codec may raise anything when bytes are wrong)
        return f"does not decode ({type(error).__name__}: {str(error)[:120]})"
    if there.shape != (window.height, window.width):
        return f"has {there.shape} pixels where the plan has {(window.height, window.width)}"
    share = result.valid_share if name == "count" else result.statistics[name]["valid_percent"] / 100
    wanted = round(share * result.pixels)
    return f"holds {there.sum()} values where {wanted} were made" if there.sum() < wanted else None


def _in_geotiff(path: Path) -> npt.NDArray[np.bool_]:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1) != file.nodata)


def _in_store(array: Any, window: Window) -> npt.NDArray[np.bool_]:
    values = np.asarray(array[window.row : window.end_row, window.col : window.end_col])
    return np.asarray(~np.isnan(values) if np.isnan(array.fill_value) else values != array.fill_value)


SENTINEL2 = Kind(_title, _tasks, _faults)
