"""Recipes for reflectances of Sentinel-2's imager.

Sources: colours and index as in ESA's collection of custom scripts; the stretch is that of the previews here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from cube.sentinel2.vocabulary import BAND_RESOLUTIONS
from stratacube.errors import UsageError

__all__ = ["ndvi", "recipes_for"]

_BRIGHT = 0.3
"""Reflectance shown as white, before the square root that opens up the shadows."""
_NEAR_INFRARED = ("B08", "B8A")


def recipes_for(data: Any) -> Mapping[str, Callable[..., xr.DataArray]]:
    """Recipes by name, for a dataset of bands; none for anything else."""
    if not isinstance(data, xr.Dataset) or not {*map(str, data.data_vars)} & {*BAND_RESOLUTIONS}:
        return {}
    return {
        "true_color": partial(_colours, names=(("B04",), ("B03",), ("B02",))),
        "natural_color": partial(_colours, names=(("B11",), _NEAR_INFRARED, ("B04",))),
        "false_color": partial(_colours, names=(_NEAR_INFRARED, ("B04",), ("B03",))),
        "ndvi": ndvi,
    }


def ndvi(data: xr.Dataset) -> xr.DataArray:
    """Normalised difference vegetation index, of B08 (else B8A) and B04; NaN where their sum is not positive."""
    near, red = _band(data, _NEAR_INFRARED), _band(data, ("B04",))
    total = near + red
    index = ((near - red) / total.where(total > 0)).astype("f4").rename("ndvi")
    index.attrs = {"long_name": "normalised difference vegetation index", "units": "1"}
    return index


def _colours(data: xr.Dataset, names: Sequence[Sequence[str]]) -> xr.DataArray:
    bands = [_band(data, choice) for choice in names]
    mixed = xr.concat(bands, xr.Variable("rgb", [*"rgb"]), coords="minimal", compat="override")
    mixed = ((mixed / np.float32(_BRIGHT)).clip(0, 1) ** 0.5).astype("f4")
    mixed = mixed.where(mixed.notnull().all("rgb")).transpose(..., "rgb").rename("picture")
    mixed.attrs = {"long_name": f"{', '.join(str(b.name) for b in bands)} as red, green, blue", "units": "1"}
    return mixed


def _band(data: xr.Dataset, names: Sequence[str]) -> xr.DataArray:
    for name in names:
        if name in data:
            return data[name]
    raise UsageError(f"the picture needs {' or '.join(names)}, and there are {', '.join(map(str, data.data_vars))}")
