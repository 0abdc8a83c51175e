"""How programs that draw show a band of a tile store, as STAC's extension ``render`` tells it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalog.publish.datacube import StoreInfo
from catalog.publish.model import BandInfo
from stratacube.guard import guarded

__all__ = ["tile_renders"]

_STATISTICS = "statistics.json"
_DARKEST, _BRIGHTEST = "2", "98"
"""Percentiles of what is shown black and white, as viewers stretch an image whose range they do not know."""
_EMISSIVE = 3.5
"""Micrometres from which clouds, being cold, give less than what lies under them, and are shown bright all the same."""


def tile_renders(output: Path, bands: Sequence[BandInfo], store: StoreInfo) -> dict[str, Any]:
    """Return the renders of a build, by band; none of one whose statistics were not taken.

    Parameters
    ----------
    output
        Folder of the build.
    bands
        Its bands.
    store
        What its store holds. Of a band that no one packing decodes, plain readers see counts: it has no render.

    Raises
    ------
    SourceError
        If the statistics of the build cannot be read.
    """
    path = output / _STATISTICS
    if not path.exists():
        return {}
    with guarded(f"{path} cannot be read", "run the same command again"):
        told = json.loads(path.read_bytes())["splits"]["all"]
        ranges = {name: [told[name]["percentiles"][p] for p in (_DARKEST, _BRIGHTEST)] for name in told}
    return {
        band.name: {
            "title": f"{band.title}, {band.units}",
            "assets": ["tiles"],
            "variable": band.name,  # of the store, as titiler-xarray asks for it
            "rescale": [ranges[band.name]],
            "nodata": "nan",
            "colormap_name": "gray_r" if band.center_wavelength > _EMISSIVE else "gray",
            "resampling": "nearest",
        }
        for band in bands
        if band.name in ranges and ranges[band.name][0] < ranges[band.name][1]
        if "scale_factor" in store.variables[band.name].attributes
    }
