"""Pictures of what is opened: colour composites by known recipes, lazily."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any

import xarray as xr

from stratacube.choices import nearest
from stratacube.errors import UsageError

__all__ = ["rgb"]

_ROOMS = ("cube.geostationary.rgb", "cube.sentinel2.rgb")
"""Each has the recipes of its instruments, and knows their data."""


def rgb(data: Any, recipe: str = "true_color", **options: Any) -> xr.DataArray:
    """Mix a picture of bands, lazily where they are lazy.

    Parameters
    ----------
    data
        What :func:`cube.open_abi` gives (the tree, or one of its groups), :func:`cube.open_tiles` with
        ``physical="mixed"`` or :func:`cube.one_tile` of it, :func:`cube.open_composites` or
        :func:`cube.open_sentinel2`.
    recipe
        Of ABI ``true_color``, ``infrared``, ``water_vapor``, ``natural_color`` or ``day_microphysics``; of
        Sentinel-2 ``true_color``, ``natural_color``, ``false_color`` or ``ndvi``.
    **options
        Of the recipe: ``sun=True`` divides reflectances by the cosine of the solar zenith angle first (ABI), for
        data on one grid with ``x`` and ``y``.

    Returns
    -------
    DataArray
        float32 from 0 to 1 on the pixels of the coarsest band, with a last dimension ``rgb`` of three where the recipe
        has colours; ``ndvi`` from -1 to 1. NaN where a band is not valid. ``.plot.imshow()`` shows one of (y, x, rgb).

    Raises
    ------
    UsageError
        If there is no such recipe or option, or the data lack a band or the quantity that it needs.
    """
    for room in map(import_module, _ROOMS):
        recipes = room.recipes_for(data)
        if recipes:
            if recipe not in recipes:
                hint = nearest(str(recipe), [*recipes])
                raise UsageError(f"`recipe` is {recipe!r}, which is not one of {', '.join(recipes)}{hint}")
            mix = recipes[recipe]
            known = [n for n, p in signature(mix).parameters.items() if p.kind is p.KEYWORD_ONLY and n != "names"]
            for name in options.keys() - known:
                has = f"it has {', '.join(known)}" if known else "leave it out"
                raise UsageError(f"recipe {recipe!r} has no option `{name}`; {has}")
            mixed: xr.DataArray = mix(data, **options)
            return mixed
    raise UsageError(
        "`data` have no bands that a recipe is known for; give what open_abi, open_tiles(physical='mixed'), "
        "open_composites or open_sentinel2 return"
    )
