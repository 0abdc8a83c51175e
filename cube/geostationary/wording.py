"""What the attributes of a store's arrays say to those who know nothing of it but Zarr and CF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cube.decode import LAWS, MEANINGS
from cube.geostationary.layout import TileLayout
from cube.instrument import Instrument

__all__ = ["grid_mapping", "told_of_number", "told_of_pixels", "told_of_quantities"]

_PACKING = {"packing_scale": "radiance of one stored count", "packing_offset": "radiance of stored count 0"}


def grid_mapping(names: Sequence[str]) -> dict[str, str]:
    """Attribute of arrays of pixels: in a store of several projections each tile has its own, and none is right."""
    return {"grid_mapping": names[0]} if len(names) == 1 else {}


def told_of_pixels(layout: TileLayout, channel: int) -> dict[str, str]:
    """Attribute that says how the pixels of a band, or of its mask, come onto the grid; none where they are on it."""
    times = layout.repeat(channel)
    if times == 1:
        return {}
    words = f"`repeat` is {times}: a stored pixel is {times} x {times} pixels of the {layout.grid} grid"
    return {"comment": f"{words}; repeat each {times} times along its last two dimensions to have it there"}


def told_of_number(name: str) -> dict[str, str]:
    """Attributes of a number of each tile, time step and band that decodes counts."""
    if name in _PACKING:
        return {"long_name": _PACKING[name], "comment": f"radiance = {LAWS['identity'].formula}; NaN without a file"}
    words = "of the file that the pixels are from; `quantities` of each band has the formula; NaN where it takes none"
    return {"long_name": MEANINGS.get(name, name), "comment": words}


def told_of_quantities(facts: Instrument, band: str) -> dict[str, dict[str, Any]]:
    """Attribute of a band: what its counts become, by which formula, of which other arrays."""
    return {
        q.name: {
            "long_name": q.label,
            "units": q.units,
            "law": q.law,
            "formula": LAWS[q.law].formula,
            "coefficients": list(q.coefficients),
        }
        for q in facts.quantities
        if band in q.bands
    }
