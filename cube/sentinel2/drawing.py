"""What the report of a build of composites shows: cells by their valid share, previews, a mosaic, the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from PIL import Image

from cube.job.ledger import Entry
from cube.job.pictures import evenly, small, throughput
from cube.sentinel2.composite import CellResult
from cube.sentinel2.grid import footprint
from cube.sentinel2.lattice import Window
from cube.sentinel2.plan import Plan, PlannedCell
from stratacube.page import Block, Gallery, Picture, Place, Scale, Shown, coloured, footprint_map, image_picture

__all__ = ["Drawn", "draw", "mosaic", "observations"]

_MOST_SMALL = 24
_SIDE = 960
"""Longest side of a mosaic, pixels."""
_MOST_CELLS = 1000
"""Of a mosaic; of more, each would be a speck, and reading them would take longer than making them."""
_MOST_COUNTED = 200
"""Of a map of observations, for which a GeoTIFF of each is opened."""


@dataclass(frozen=True)
class Drawn:
    """Pictures by what they show; each may be absent."""

    footprints: Picture | None = None
    mosaic: Picture | None = None
    observations: Picture | None = None
    run: Picture | None = None
    previews: Sequence[tuple[Picture, str]] = field(default_factory=tuple)

    def made(self) -> list[Block]:
        """What was made, for the report."""
        blocks: list[Block] = []
        if self.footprints is not None:
            blocks.append(Shown(self.footprints, "The cells, of several periods the last, by valid share."))
        if self.mosaic is not None:
            blocks.append(
                Shown(self.mosaic, "The same cells side by side, in true colour; what is not known is blank.")
            )
        if self.observations is not None:
            blocks.append(Shown(self.observations, "How many observations are behind each pixel."))
        return [*blocks, *([Gallery(self.previews)] if self.previews else [])]

    def save(self, folder: Path) -> None:
        """Write the drawings as files, for the catalogue names them."""
        folder.mkdir(exist_ok=True)
        for name in ("footprints", "mosaic", "observations", "run"):
            picture = getattr(self, name)
            if picture is not None:
                picture.save(folder / f"{name}{picture.suffix}")


def draw(
    plan: Plan,
    results: Mapping[str, CellResult],
    previews: Mapping[str, Path],
    counts: Mapping[str, Path],
    entries: Mapping[str, Entry],
) -> Drawn:
    """Draw what there is.

    Parameters
    ----------
    plan
        The cells.
    results
        What those made hold.
    previews
        By cell, its picture.
    counts
        By cell, the file of the observations behind its pixels.
    entries
        Of the ledger.
    """
    made = [p for p in plan.cells if p.name in results]
    if not made:
        return Drawn()
    last = max(p.step or 0 for p in made)
    made = [p for p in made if (p.step or 0) == last]  # of several periods the last: one would hide the other
    outlines = footprint([p.cell for p in made])
    places = [_place(results[p.name], outline) for p, outline in zip(made, outlines, strict=True)]
    shown = evenly(sorted(previews), _MOST_SMALL)
    of = "" if made[0].period is None else f" in {made[0].period.period}"
    return Drawn(
        footprint_map(places, alt=f"Map of {len(made)} cells{of} by their share of valid pixels", what="valid pixels"),
        None if plan.own_corners else mosaic(made, previews),
        None if plan.own_corners else observations(made, counts),
        throughput((e for key, e in entries.items() if key.startswith("cell ")), "Cells"),
        [(small(previews[c], f"Cell {c}"), f"{c}\n{results[c].valid_share:.0%} valid") for c in shown],
    )


def _place(result: CellResult, outline: Any) -> Place:
    ring = np.asarray(shapely.get_coordinates(outline))
    return Place(ring, f"{result.cell}\nvalid {result.valid_share:.1%}", value=result.valid_share)


def mosaic(cells: Sequence[PlannedCell], previews: Mapping[str, Path]) -> Picture | None:
    """Lay the previews of cells side by side, each where it is on the lattice.

    Parameters
    ----------
    cells
        The cells and their windows.
    previews
        By cell, its picture; cells without one stay empty.
    """
    there = [p for p in cells if p.name in previews]
    if not 1 < len(there) <= _MOST_CELLS:
        return None
    sheet = _Sheet.of([p.window for p in there])
    image = Image.new("RGBA", (sheet.width, sheet.height))
    for planned in there:
        left, top, right, bottom = sheet.box(planned.window)
        with Image.open(previews[planned.name]) as picture:
            fitted = picture.convert("RGBA").resize((right - left, bottom - top), Image.Resampling.BOX)
        image.alpha_composite(fitted, (left, top))  # windows of cells that are no rectangles overlap
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    alt = f"Mosaic of {len(there)} cells in true colour"
    return Picture(alt, *image.size, image=buffer.getvalue(), media_type="image/png")


def observations(cells: Sequence[PlannedCell], counts: Mapping[str, Path]) -> Picture | None:
    """Draw how many observations are behind each pixel of cells, each where it is on the lattice.

    Parameters
    ----------
    cells
        The cells and their windows.
    counts
        By cell, the file that tells; cells without one stay empty.
    """
    there = [p for p in cells if p.name in counts]
    if not 0 < len(there) <= _MOST_COUNTED:
        return None
    sheet = _Sheet.of([p.window for p in there])
    image = np.full((sheet.height, sheet.width), np.nan, "f4")
    for planned in there:
        left, top, right, bottom = sheet.box(planned.window)
        with rasterio.open(counts[planned.name], driver="GTiff") as file:
            found = file.read(1, out_shape=(bottom - top, right - left)).astype("f4")
        found[found == 0] = np.nan
        under = image[top:bottom, left:right]
        np.fmax(under, found, out=under)
    most = float(np.nanmax(image)) if np.isfinite(image).any() else 1.0
    scale = Scale(0.0, most, "observations")
    alt = f"Observations behind each pixel of {len(there)} cells, {most:g} at most"
    return image_picture([coloured(image, scale)], alt=alt, scale=scale)


@dataclass(frozen=True)
class _Sheet:
    """A picture of several windows of the lattice, each where it lies."""

    left: int
    top: int
    shrink: float
    """Pixels of the lattice a pixel of the picture."""
    width: int
    height: int

    @classmethod
    def of(cls, windows: Sequence[Window]) -> _Sheet:
        top, left = min(w.row for w in windows), min(w.col for w in windows)
        height = max(w.row + w.height for w in windows) - top
        width = max(w.col + w.width for w in windows) - left
        shrink = max(1.0, max(height, width) / _SIDE)
        return cls(left, top, shrink, math.ceil(width / shrink), math.ceil(height / shrink))

    def box(self, window: Window) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a window, at least a pixel wide and high."""
        left, top = (int((n - o) / self.shrink) for n, o in ((window.col, self.left), (window.row, self.top)))
        right = math.ceil((window.col - self.left + window.width) / self.shrink)
        bottom = math.ceil((window.row - self.top + window.height) / self.shrink)
        return left, top, right, bottom
