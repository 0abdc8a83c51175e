"""Opening a tile store as decoded, lazy xarray."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from catalog.geostationary.bands import BANDS
from cube.geostationary.calibrate import PHYSICAL_ATTRIBUTES, Physical, calibrate
from cube.geostationary.numbers import COEFFICIENTS
from stratacube.errors import UsageError

__all__ = ["open_tiles"]


def open_tiles(source: Any, physical: Literal["counts"] | Physical = "radiance", chunks: Any = "auto") -> xr.Dataset:
    """Open a tile store as decoded, lazy xarray.

    Parameters
    ----------
    source
        Path or URL of ``tiles.zarr``, of the folder of a build, or a STAC item or collection of one.
    physical
        ``radiance`` (units of the files), ``reflectance`` (1; not divided by the cosine of the solar zenith angle),
        ``brightness_temperature`` (K), or ``counts`` as stored. Bands without the wanted quantity are left out.
    chunks
        Passed to Dask: one tile a chunk by default; None reads everything at once, without Dask.

    Returns
    -------
    Dataset
        Bands ``C01`` .. ``C16`` as float32 (tile, time, y, x), NaN where not valid, with times, angles and places.

    Raises
    ------
    UsageError
        If there is no tile store at ``source``, or no band has the wanted quantity.
    """
    if physical != "counts" and physical not in PHYSICAL_ATTRIBUTES:
        raise UsageError(f"{physical!r} is not one of counts, {', '.join(PHYSICAL_ATTRIBUTES)}")
    path = _store_path(source)
    try:
        raw = xr.open_zarr(path, mask_and_scale=False, chunks=None, consolidated=True)
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise UsageError(f"{path} is not a tile store ({error}); give the tiles.zarr of a build") from error
    bands = [n for n in raw.data_vars if str(n)[0] == "C" and str(n)[1:].isdigit()]
    rest = xr.decode_cf(raw.drop_vars(bands))
    images = raw[bands] if chunks is None else raw[bands].chunk({"tile": 1} if chunks == "auto" else chunks)
    masks = raw[[n for n in raw.data_vars if str(n).startswith("valid")]]
    masks = masks if chunks is None else masks.chunk({"tile": 1} if chunks == "auto" else chunks)
    data = rest.drop_vars(list(masks.data_vars)).assign(masks.data_vars)
    data = data.set_coords([n for n in ("latitude", "longitude", "scan_start", "scan_mid") if n in data])
    for name in bands:
        if physical == "counts":
            data[name] = images[name]
            continue
        band = BANDS[int(str(name)[1:])]
        if not PHYSICAL_ATTRIBUTES[physical].defined_for(band):
            continue
        data[name] = _decode(images[name], masks, data, band.channel, physical)
    if not any(n in data for n in bands):
        raise UsageError(f"{path} holds {', '.join(map(str, bands))}, none of which has {physical}")
    return data


def _decode(image: xr.DataArray, masks: xr.Dataset, data: xr.Dataset, channel: int, physical: Physical) -> xr.DataArray:
    """Physical values of one band, NaN where its bit of the mask is not set."""
    at = {"band": int(np.flatnonzero(data["band"].values == channel)[0])}
    numbers = [data[name].isel(at, drop=True) for name in ("packing_scale", "packing_offset", *COEFFICIENTS)]

    def decode(counts: Any, mask: Any, scale: Any, offset: Any, *coefficients: Any) -> Any:
        radiance = counts.astype("f4") * scale.astype("f4") + offset.astype("f4")
        values = calibrate(radiance, physical, **dict(zip(COEFFICIENTS, coefficients, strict=True)))
        return np.where(mask & np.uint16(1 << (channel - 1)), values, np.float32("nan"))

    mask = masks[image.attrs["ancillary_variables"]]
    values: xr.DataArray = xr.apply_ufunc(
        decode, image, mask, *numbers, dask="parallelized", output_dtypes=[np.float32], keep_attrs=False
    )
    values.attrs = PHYSICAL_ATTRIBUTES[physical].attributes(BANDS[channel])
    return values


def _store_path(source: Any) -> str:
    """Path of the Zarr store of a path, a STAC item or a STAC collection."""
    if hasattr(source, "assets"):
        assets = source.assets
        if "tiles" not in assets:
            raise UsageError(f"STAC object {source.id!r} has assets {sorted(assets)}, but no 'tiles'")
        return str(assets["tiles"].get_absolute_href() or assets["tiles"].href)
    text = str(source)
    if not text.rstrip("/").endswith(".zarr") and (Path(text) / "tiles.zarr").exists():
        return str(Path(text) / "tiles.zarr")
    return text
