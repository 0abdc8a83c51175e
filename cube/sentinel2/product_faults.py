"""Whether what a build of composites wrote is whole: every product decodes, and holds the pixels that were counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import zarr

from cube.job.ledger import Ledger
from cube.sentinel2.cell_store import cell_store_file
from cube.sentinel2.composite import CellResult, cell_file
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.lattice import Window
from cube.sentinel2.layers import layers_of
from cube.sentinel2.products import is_known
from stratacube.parquet import read_frame
from stratacube.progress import iterate

__all__ = ["faults_of"]

_REMEDY = "remove it and run the same command again"

Known = Callable[[], npt.NDArray[np.bool_]]
"""Reads where an array holds a value over the pixels of a cell."""


def faults_of(places: Sentinel2Folder, config: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
    """Every product of every cell that was made is there, decodes, and holds the pixels that were counted."""
    names = (*config["bands"], "count", *_layers(config))
    plan = read_frame(places.plan)
    stored: dict[str, Any] = {}
    has_stores = "zarr" in config["products"]
    by_cell = has_stores and config.get("zarr_stores") == "cell"
    if has_stores and not by_cell:
        described = [n for n in names if (places.store / n / "zarr.json").exists()]
        stored = {n: zarr.open_array(places.store / n, mode="r") for n in described}
        yield from (f"{places.store / n} is missing; {_REMEDY}" for n in names if n not in stored)
    origin = int(plan["row"].min()), int(plan["col"].min())
    for row in iterate(list(plan.itertuples()), "decoding"):
        entry = ledger.entries.get(f"cell {row.cell}")
        if entry is None or entry.status not in ("done", "partial"):
            continue
        try:
            result = CellResult.load(places.result(row.cell))
        except (OSError, ValueError, TypeError) as error:
            yield f"{places.result(row.cell)} cannot be read ({error}); {_REMEDY}"
            continue
        window = Window(row.row - origin[0], row.col - origin[1], row.height, row.width)
        if "cog" in config["products"]:
            for name in names:
                cell = places.composites / getattr(row, "tile_id_rc", row.cell)
                path = cell / cell_file(row.cell, name, config["reducer"])
                fault = _fault(result, name, window, partial(_in_geotiff, path))
                yield from () if fault is None else (f"{path} {fault}; {_REMEDY}",)
        if by_cell:
            own = places.composites / getattr(row, "tile_id_rc", row.cell) / cell_store_file(row.cell)
            for name in names:
                fault = _fault(result, name, window, partial(_in_own_store, own / name))
                yield from () if fault is None else (f"{own / name} {fault}; {_REMEDY}",)
        for name, array in stored.items():
            fault = _fault(result, name, window, partial(_in_store, array, window, getattr(row, "step", None)))
            yield from () if fault is None else (f"{places.store / name} {fault} in cell {row.cell}; {_REMEDY}",)


def _layers(config: Mapping[str, Any]) -> list[str]:
    """Names of what was made of each pixel besides bands and count."""
    if not config.get("also"):
        return []
    return [*layers_of(config["also"], sorted(config.get("months") or range(1, 13)))]


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
    with rasterio.open(path, driver="GTiff") as file:
        return is_known(file.read(1), file.nodata)


def _in_store(array: Any, window: Window, step: int | None) -> npt.NDArray[np.bool_]:
    there = slice(window.row, window.end_row), slice(window.col, window.end_col)
    return is_known(np.asarray(array[there if step is None else (step, *there)]), array.fill_value)


def _in_own_store(path: Path) -> npt.NDArray[np.bool_]:
    array = zarr.open_array(path, mode="r")
    return _in_store(array, Window(0, 0, *array.shape), None)
