"""What the report of a build of composites tells; see :mod:`cube.job.report`."""

from __future__ import annotations

from collections.abc import Mapping

from cube.job.report import Report, markdown_table
from cube.sentinel2.composite import CellResult
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.plan import Plan

__all__ = ["composite_report"]

MOST_ROWS = 20
"""Of the table of cells; indices/cells holds all."""

OPENING = """\
```python
import stratacube

composites = stratacube.open_composites(".")
print(composites["{band}"])
```
"""


def composite_report(config: Sentinel2Config, plan: Plan, results: Mapping[str, CellResult]) -> Report:
    """Tell of a build.

    Parameters
    ----------
    config
        What was asked.
    plan
        The cells wanted.
    results
        What each finished cell holds.
    """
    period = f"{config.start:%Y-%m-%d %H:%M} to {config.end:%Y-%m-%d %H:%M} UTC"
    lattice = plan.lattice
    acquisitions = plan.acquisitions.values()
    return Report(
        title=f"Sentinel-2 L2A {config.reducer} composites",
        summary=f"**{len(results)} of {len(plan.cells)} planned cells were made.**",
        asked=[
            ("Period", period),
            ("Bands", " ".join(config.bands)),
            ("Reducer", config.reducer),
            ("Masked scene classes", " ".join(map(str, config.mask_classes))),
            ("Pixel", f"{lattice.dx:g} x {lattice.dy:g} in units of {lattice.crs}"),
            ("Resampling", config.resampling),
            ("Products", " ".join(config.products)),
        ],
        made=_cells(results),
        sources=(
            f"Products: {sum(len(a.products) for a in acquisitions)}, of {len(plan.acquisitions)} acquisitions in "
            f"{len({a.datatake for a in acquisitions})} datatakes. File by file: indices/scene_index.csv."
        ),
        left_out="Products that were found and not used, and why: indices/left_out.csv.",
        opening=OPENING.format(band=config.bands[0]),
    )


def _cells(results: Mapping[str, CellResult]) -> str:
    if not results:
        return "Nothing."
    rows = [
        (name, f"{100 * r.valid_share:.1f}", f"{r.observations['mean']:.1f}", len(r.datatakes))
        for name, r in sorted(results.items(), key=lambda item: (item[1].valid_share, item[0]))
    ]
    table = markdown_table(["Cell", "Valid, %", "Observations", "Datatakes"], rows[:MOST_ROWS])
    rest = len(rows) - MOST_ROWS
    return f"{table}\n\n{rest} more, which hold more, are in indices/cells." if rest > 0 else table
