"""Opening a tile store as decoded, lazy xarray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from catalog.locate import TILES, locate
from cube.decode import apply_law, to_radiance
from cube.geostationary.projections import VARIABLE, read_views
from cube.geostationary.view import on_grid
from cube.instrument import ATTRIBUTE, COUNTS, Band, Instrument, Quantity, instrument_of
from cube.masks import mask_bit
from cube.opening import open_store
from stratacube.choices import nearest
from stratacube.errors import UsageError
from stratacube.guard import guarded, named

__all__ = ["open_tiles"]

_PLACES = ("latitude", "longitude", "scan_start", "scan_mid", "observation_time")
"""Coordinates, where a store has them."""
_PACKING = ("packing_scale", "packing_offset")


def open_tiles(
    source: Any,
    physical: str = "radiance",
    chunks: Any = "auto",
    *,
    repeat: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a tile store as decoded, lazy xarray.

    Parameters
    ----------
    source
        Path or URL of ``tiles.zarr``, of the folder of a build or of a STAC document, the content of such a document,
        or an item, collection or catalog of pystac.
    physical
        ``radiance`` (units of the files), ``reflectance`` (1; not divided by the cosine of the solar zenith angle),
        ``brightness_temperature`` (K), ``mixed`` (of each band the first that is not its radiance), or ``counts`` as
        stored: the words that loaders know too. Bands without the wanted quantity are left out.
    chunks
        Passed to Dask: one tile a chunk by default; None reads everything at once, without Dask.
    repeat
        Whether bands of 2 km, which most stores of a 1 km grid hold once, are repeated onto it; else every band has
        the pixels and dimensions that it is stored with.
    storage_options
        For fsspec, such as ``{"anon": True}``, where the store lies on S3 or in the web.

    Returns
    -------
    Dataset
        Bands by name, such as ``C01``, as float32 (tile, time, y, x), NaN where not valid, with times, angles and
        places. Each tile has the projection it lies in: ``projection`` names its grid mapping, and
        ``projection_longitude`` (degrees east) and ``projection_height`` (m) tell from where it is seen.

    Raises
    ------
    UsageError
        If there is no tile store at ``source``, or no band has the wanted quantity.
    """
    path = locate(source, TILES, storage_options)
    wrong = f"{path} is not a tile store that can be read"
    with guarded(wrong, "give the tiles.zarr of a build, or run its command again to mend it"), named(path):
        try:
            raw = open_store(path, storage_options, mask_and_scale=False)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise UsageError(f"{path} is not a tile store ({error}); give the tiles.zarr of a build") from error
        return _decoded(raw, path, physical, chunks, repeat=repeat)


def _decoded(raw: xr.Dataset, path: str, physical: str, chunks: Any, *, repeat: bool) -> xr.Dataset:
    facts = instrument_of(raw.attrs)
    if physical not in facts.words:
        hint = nearest(str(physical), facts.words)
        raise UsageError(f"`physical` is {physical!r}, which is not one of {', '.join(facts.words)}{hint}")
    bands = [band for band in facts.bands if band.name in raw]
    names = [band.name for band in bands]
    rest = xr.decode_cf(raw.drop_vars(names))
    images, masks = raw[names], raw[sorted({raw[n].attrs["ancillary_variables"] for n in names})]
    if chunks is not None:
        images, masks = (d.chunk({"tile": 1} if chunks == "auto" else chunks) for d in (images, masks))
    data = rest.drop_vars(list(masks.data_vars)).assign(masks.data_vars)
    data = data.set_coords([n for n in _PLACES if n in data])
    wanted = [facts.quantity(physical, n) for n in names if physical != COUNTS]
    numbers = {n for q in wanted if q is not None for n in (*_PACKING, *q.coefficients)}
    for name in (*_PLACES, *sorted(numbers)):
        if name in data.variables:  # else each band reads them again
            data[name].load()
    if ATTRIBUTE in raw.attrs:  # older stores of several projections do not say which tile has which
        data = _with_views(data)
    for band in bands:
        quantity = facts.quantity(physical, band.name)
        if physical == COUNTS:
            data[band.name] = images[band.name]
        elif quantity is not None:
            data[band.name] = _decode(images[band.name], masks, data, facts, band, quantity)
    if not any(n in data for n in names):
        raise UsageError(f"{path} holds {', '.join(names)}, none of which has {physical}")
    data.attrs = {"title": f"{facts.title} tiles, {physical}", **{k: v for k, v in data.attrs.items() if k != "title"}}
    data.encoding["source"] = path
    return on_grid(data, raw) if repeat else data


def _decode(
    image: xr.DataArray, masks: xr.Dataset, data: xr.Dataset, facts: Instrument, band: Band, quantity: Quantity
) -> xr.DataArray:
    """Physical values of one band, NaN where its bit of the mask is not set."""
    at = {"band": int(np.flatnonzero(data["band"].values == band.number)[0])}
    numbers = [data[n].isel(at, drop=True) for n in (*_PACKING, *quantity.coefficients)]
    mask = masks[image.attrs["ancillary_variables"]]
    bit = mask_bit(mask, band.name)

    def decode(counts: Any, mask: Any, scale: Any, offset: Any, *coefficients: Any) -> Any:
        named = dict(zip(quantity.coefficients, coefficients, strict=True))
        values = apply_law(quantity.law, to_radiance(counts, scale, offset), named)
        return np.where(mask & bit, values, np.float32("nan"))

    values: xr.DataArray = xr.apply_ufunc(
        decode, image, mask, *numbers, dask="parallelized", output_dtypes=[np.float32], keep_attrs=False
    )
    values.attrs = {
        "standard_name": quantity.standard_name,
        "units": quantity.units,
        "long_name": f"{facts.title} {band.name} ({band.title})",
        "wavelength_um": band.wavelength_um,
        **{name: image.attrs[name] for name in ("grid_mapping",) if name in image.attrs},
    }
    return values


def _with_views(data: xr.Dataset) -> xr.Dataset:
    """Add from where each tile is seen."""
    views = read_views(data)
    for name, attribute, units in (
        ("projection_longitude", "longitude_of_projection_origin", "degrees_east"),
        ("projection_height", "perspective_point_height", "m"),
    ):
        values = np.array([getattr(view, attribute) for view in views.projections])[views.indices]
        data.coords[name] = ("tile", values, {"long_name": attribute.replace("_", " "), "units": units})
    return data.set_coords([VARIABLE]) if VARIABLE in data else data
