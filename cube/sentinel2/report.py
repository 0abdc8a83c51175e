"""What the report of a build of composites tells; see :mod:`cube.job.report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from cube.job.report import Report
from cube.sentinel2.composite import CellResult
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.drawing import Drawn
from cube.sentinel2.plan import Plan
from stratacube.page import Block, Code, Shown, Table

__all__ = ["composite_report"]

MOST_ROWS = 20
"""Of the table of cells; indices/cells holds all."""

OPENING = """\
import stratacube

composites = stratacube.open_composites("{place}")
print(composites["{band}"])
"""


def composite_report(
    config: Sentinel2Config,
    plan: Plan,
    results: Mapping[str, CellResult],
    splits: Mapping[str, str],
    drawn: Drawn | None = None,
) -> Report:
    """Tell of a build.

    Parameters
    ----------
    config
        What was asked.
    plan
        The cells wanted.
    results
        What each finished cell holds.
    splits
        Of each, where the build has some.
    drawn
        What ``report.html`` shows.
    """
    what = "composites" if config.periods else "cells"
    period = f"{config.start:%Y-%m-%d %H:%M} to {config.end:%Y-%m-%d %H:%M} UTC"
    lattice, drawn = plan.lattice, drawn or Drawn()
    acquisitions = plan.acquisitions.values()
    products = sum(len(a.products) for a in acquisitions)
    shares = [(r.valid_share, max(r.pixels, 1)) for r in results.values()]
    valid = sum(share * pixels for share, pixels in shares) / max(1, sum(pixels for _, pixels in shares))
    return Report(
        title=f"Sentinel-2 L2A {config.reducer} composites",
        summary=f"**{len(results)} of {len(plan.cells)} planned {what} were made.**",
        asked=[
            ("Period", period),
            *((("Periods", _periods(config)),) if config.periods else ()),
            ("Bands", " ".join(config.bands)),
            ("Reducer", config.reducer),
            *([("Layers besides", " ".join(config.also))] if config.also else []),
            ("Masked scene classes", " ".join(map(str, config.mask_classes))),
            ("Pixel", f"{lattice.dx:g} x {lattice.dy:g} in units of {lattice.crs}"),
            ("Resampling", config.resampling),
            *([("Preset", config.preset)] if config.preset else []),
            *([("Values below 0", "set to 0")] if config.negatives == "zero" else []),
            *([("Pixels counted from", "each cell's corner")] if config.origin == "cell" else []),
            ("Products", " ".join(config.products) + (", a store a cell" if config.cell_stores else "")),
            *config.split_rows,
        ],
        made=[*drawn.made(), *_cells(results), *_splits(results, splits, what)],
        sources=[
            f"Products: {products}, of {len(plan.acquisitions)} acquisitions in "
            f"{len({a.datatake for a in acquisitions})} datatakes. File by file: indices/scene_files.csv."
        ],
        left_out=["Products that were found and not used, and why: indices/left_out.csv."],
        opening=[Code(OPENING.format(place=_place(plan, results), band=config.bands[0]))],
        kicker="Composites · Sentinel-2",
        facts=[
            ("Cells made", f"{len(results):,}", f"of {len(plan.cells):,} planned"),
            *([("Valid pixels", f"{valid:.1%}", f"emptiest cell {min(shares)[0]:.1%}")] if shares else []),
            ("Bands", str(len(config.bands)), f"{config.reducer} of the period"),
            ("Products", f"{products:,}", f"of {len(plan.acquisitions):,} acquisitions"),
        ],
        timed=[Shown(drawn.run, drawn.run.alt + ".")] if drawn.run else [],
    )


def _place(plan: Plan, results: Mapping[str, CellResult]) -> str:
    """What to open: the whole build, or a cell, where each has pixels of its own."""
    return f"items/{min(results).lower()}.json" if plan.own_corners and results else "."


def _periods(config: Sentinel2Config) -> str:
    told = [f"{p.period} ({p.start:%Y-%m-%d} to {p.end:%Y-%m-%d})" for p in config.periods or ()]
    return ", ".join(told[:MOST_ROWS]) + (f" and {len(told) - MOST_ROWS} more" if len(told) > MOST_ROWS else "")


def _splits(results: Mapping[str, CellResult], splits: Mapping[str, str], what: str) -> list[Block]:
    counts = Counter(splits[name] for name in results if name in splits)
    return [Table(["Split", what.capitalize()], sorted(counts.items()))] if counts else []


def _cells(results: Mapping[str, CellResult]) -> list[Block]:
    if not results:
        return ["Nothing."]
    rows = [
        (name, f"{100 * r.valid_share:.1f}", f"{r.observations['mean']:.1f}", len(r.datatakes))
        for name, r in sorted(results.items(), key=lambda item: (item[1].valid_share, item[0]))
    ]
    table = Table(["Cell", "Valid, %", "Observations", "Datatakes"], rows[:MOST_ROWS])
    rest = len(rows) - MOST_ROWS
    return [table, f"{rest} more, which hold more, are in indices/cells."] if rest > 0 else [table]
