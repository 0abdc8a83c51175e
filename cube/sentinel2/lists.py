"""The predecessor's lists of cells and errors: its columns first, as its code has them, ours behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cube.job.ledger import Problem
from cube.job.outcome import write_errors
from cube.sentinel2.plan import Plan
from stratacube.files import write_text

__all__ = ["write_phase1_errors", "write_phase2_errors", "write_selected"]

_PHASE1 = {"href": "scene", "reason": "error", "input": "product"}
_PHASE2 = {"product": "cell", "part": "band", "reason": "error", "input": "period"}


def write_selected(path: Path, plan: Plan, splits: Mapping[str, str]) -> None:
    """Write the cells of a build, one row each, as they are in the grid, and their pixels of the lattice.

    ``row`` and ``col`` are the grid's own, empty where it has none; ``split`` is there where ``splits`` has cells'.
    """
    cells = {p.cell.id: p for p in plan.cells}.values()
    far = float("inf")
    ordered = sorted(cells, key=lambda p: [far if n is None else n for n in (p.cell.row, p.cell.col)])
    rows = [
        {
            "tile_id_rc": p.cell.id,
            "tile_id_geo": p.cell.alias,
            **dict(zip(("xmin", "ymin", "xmax", "ymax"), p.cell.bounds, strict=True)),
            "row": p.cell.row,
            "col": p.cell.col,
            "crs": p.cell.crs,
            "lattice_row": p.window.row,
            "lattice_col": p.window.col,
            "height": p.window.height,
            "width": p.window.width,
            **({"split": splits[p.cell.id]} if splits else {}),
        }
        for p in ordered
    ]
    table = pd.DataFrame(rows).astype({"row": "Int64", "col": "Int64"})
    write_text(path, table.to_csv(index=False))


def write_phase1_errors(path: Path, problems: Sequence[Problem]) -> None:
    """Write the scenes that failed, one row each, whatever cells they reach; or remove the list where none did."""
    found = (Problem("", p.reason, input=p.input, href=p.href or p.input) for p in problems if p.kind == "source")
    write_errors(path, list(dict.fromkeys(found)), _PHASE1)


def write_phase2_errors(path: Path, problems: Sequence[Problem], plan: Plan, bands: Sequence[str]) -> None:
    """Write the cells that could not be made, one row a band; or remove the list where all were."""
    write_errors(path, list(_failed(problems, plan, bands)), _PHASE2)


def _failed(problems: Sequence[Problem], plan: Plan, bands: Sequence[str]) -> Iterator[Problem]:
    planned = {p.name: p for p in plan.cells}
    for problem in problems:
        one = planned.get(problem.product)
        if problem.kind == "product" and one is not None:
            period = "" if one.period is None else one.period.period
            for band in bands:  # a cell is made with all of its bands, or not at all
                yield replace(problem, product=one.cell.id, part=band, input=period)
