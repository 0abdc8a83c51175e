"""Recipes for ABI's bands.

Sources: the green of true colour is that of satpy's ``SimulatedGreen`` (465, 465 and 70 of 1,000 parts of blue, red and
veggie), its stretch CIRA's; infrared as the NWS shows it; NASA's and NOAA's quick guides to the Simple Water Vapor RGB;
EUMETSAT's day microphysics. No atmosphere is taken off. At 3.9 um the reflected part is that of Kleespies (1995), The
retrieval of marine stratiform cloud properties from multiple observations in the 3.9-um window, J. Appl. Meteor. 34,
1512-1524: what band 13's temperature radiates is taken off; the Sun is a black body of 5,772 K, which is some per cent
brighter there than the measured one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from cube.geostationary.place import projection_of
from cube.sun import solar_angles
from stratacube.errors import UsageError

__all__ = ["recipes_for"]

_REFLECTANCE, _TEMPERATURE = "reflectance", "brightness_temperature"
_UNITS = {_REFLECTANCE: "1", _TEMPERATURE: "K"}
_FIRST_THERMAL = 7
_TIMES = ("observation_time", "scan_start", "time")
"""Coordinates that tell when the pixels of an image were seen, the best first."""
_GREEN = (0.465, 0.465, 0.07)
_CIRA = 0.0223
_DAY = math.cos(math.radians(88.0))
"""Least cosine of the solar zenith angle that a reflectance is divided by, as in satpy."""
_ONE_SCAN: Any = np.timedelta64(5, "s")
_SUN = 5772.0
"""Effective temperature of the Sun in K (IAU 2015, resolution B3)."""
_SOLID_ANGLE = 6.794e-5
"""Of the Sun as seen from the Earth at its mean distance, in sr."""


def recipes_for(data: Any) -> Mapping[str, Callable[..., xr.DataArray]]:
    """Recipes by name, for data that hold bands of ABI; none for anything else."""
    if not any(name.startswith("C") and name[1:].isdigit() for name in _names(data)):
        return {}
    return {
        "true_color": _true_color,
        "infrared": _infrared,
        "water_vapor": _water_vapor,
        "natural_color": _natural_color,
        "day_microphysics": _day_microphysics,
    }


def _names(data: Any) -> set[str]:
    """Names of the bands of a tree, a group or tiles."""
    if isinstance(data, xr.DataTree):
        return {name for node in data.leaves for name in _names(node.to_dataset())}
    if not isinstance(data, xr.Dataset):
        return set()
    return {*map(str, data["band"].values)} if _is_stack(data) else {*map(str, data.data_vars)}


def _is_stack(data: xr.Dataset) -> bool:
    return "band" in data.dims and {_REFLECTANCE, _TEMPERATURE} & {*map(str, data.data_vars)} != set()


def _true_color(data: Any, *, sun: bool = False) -> xr.DataArray:
    blue, red, veggie = _bands(data, ("C01", "C02", "C03"), sun)
    green = sum(share * band for share, band in zip(_GREEN, (blue, red, veggie), strict=True))
    return _mixed([_cira(band) for band in (red, green, blue)], "true colour")


def _natural_color(data: Any, *, sun: bool = False) -> xr.DataArray:
    bands = _bands(data, ("C05", "C03", "C02"), sun)
    return _mixed([_stretched(band, 0.0, 1.2, 1.8) for band in bands], "natural colour")


def _infrared(data: Any) -> xr.DataArray:
    """Cold is bright; of two slopes, which meet at 242 K."""
    (warmth,) = _bands(data, ("C13",))
    bend = 176 / 255
    cold = 1 - (1 - bend) * (warmth - 163) / (242 - 163)
    grey = cold.where(warmth < 242, bend * (330 - warmth) / (330 - 242)).clip(0, 1).astype("f4")
    return _described(grey.rename("picture"), "infrared, cold is bright")


def _water_vapor(data: Any) -> xr.DataArray:
    limits = ((279.0, 202.3, 10.0), (242.7, 214.7, 5.5), (261.0, 245.1, 5.5))
    bands = _bands(data, ("C13", "C08", "C10"))
    return _mixed([_stretched(band, *limit) for band, limit in zip(bands, limits, strict=True)], "water vapour")


def _day_microphysics(data: Any) -> xr.DataArray:
    veggie, short, window = _bands(data, ("C03", "C07", "C13"))
    height = _sun_height(veggie)
    with_sun = (veggie / height.clip(_DAY)).where(height > 0)
    reflected = _reflected(data, short, window, height)
    layers = [(with_sun, 0.0, 1.0, 1.0), (reflected, 0.0, 0.6, 2.5), (window, 203.0, 323.0, 1.0)]
    return _mixed([_stretched(*layer) for layer in layers], "day microphysics")


def _reflected(data: Any, short: xr.DataArray, window: xr.DataArray, height: xr.DataArray) -> xr.DataArray:
    """Share of the Sun's radiance at 3.9 um that is reflected."""
    law = _planck(data, short)
    own, seen = law(window), law(short)
    sun = law(xr.DataArray(_SUN)) * _SOLID_ANGLE / math.pi * height.clip(_DAY)
    return ((seen - own) / (sun - own)).clip(0).where(height > 0)


def _planck(data: Any, band: xr.DataArray) -> Callable[[xr.DataArray], xr.DataArray]:
    """Radiance of a temperature in band 7, by the coefficients of its own files."""
    source = next(d for d in _datasets(data) if "planck_fk1" in d and "C07" in map(str, _labels(d)))
    numbers = [
        source[n].isel(band=[*_labels(source)].index("C07"), drop=True).reset_coords(drop=True)
        for n in ("planck_fk1", "planck_fk2", "planck_bc1", "planck_bc2")
    ]
    first, second, shift, slope = (n.where(n > -900) for n in numbers)
    return lambda warmth: first / (np.exp(second / (shift + slope * warmth)) - 1)


def _datasets(data: Any) -> list[xr.Dataset]:
    return [node.to_dataset() for node in data.leaves] if isinstance(data, xr.DataTree) else [data]


def _labels(data: xr.Dataset) -> list[str]:
    """Names along the dimension of bands; stores number them."""
    return [f"C{b:02d}" if isinstance(b, int) else str(b) for b in data["band"].values.tolist()]


def _bands(data: Any, names: Sequence[str], sun: bool = False) -> list[xr.DataArray]:
    """Bands as reflectances or temperatures, on the pixels of the coarsest of them."""
    found = [_band(data, name) for name in names]
    coarsest = min(found, key=lambda band: band.sizes[band.dims[-1]])
    found = [_coarser(band, coarsest) for band in found]
    if not sun:
        return found
    height = _sun_height(coarsest)
    return [(band / height.clip(_DAY)).where(height > 0) for band in found]


def _band(data: Any, name: str) -> xr.DataArray:
    quantity = _TEMPERATURE if int(name[1:]) >= _FIRST_THERMAL else _REFLECTANCE
    for group in _datasets(data):
        if _is_stack(group):
            if quantity in group and name in group["band"].values:
                return group[quantity].sel(band=name, drop=True)
        elif name in group:
            band = group[name]
            if band.attrs.get("units") != _UNITS[quantity]:
                raise UsageError(
                    f"the picture needs {name} as {quantity}, and it is in {band.attrs.get('units')}; "
                    "open the tiles with physical='mixed'"
                )
            return band
    raise UsageError(f"the picture needs {name}, and there are {', '.join(sorted(_names(data))) or 'no bands'}")


def _coarser(band: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Mean of the valid pixels of blocks, as many as lie in one of another band."""
    rows, columns = map(str, band.dims[-2:])
    if "time" in band.indexes and "time" in like.indexes:  # channels of one scan start some tenths of a second apart
        band = band.reindex(time=like["time"], method="nearest", tolerance=_ONE_SCAN)
    times = band.sizes[columns] // like.sizes[like.dims[-1]]
    if times > 1:
        band = band.coarsen({rows: times, columns: times}).mean()
    renamed = {old: str(new) for old, new in zip((rows, columns), like.dims[-2:], strict=True) if old != new}
    kept = [c for c in band.coords if {rows, columns} & {*map(str, band[c].dims)}]
    plain = band.drop_vars(kept).rename(renamed) if times > 1 or renamed else band
    placed = {str(c): like.coords[c] for c in like.coords if {*like.dims[-2:]} & {*like[c].dims}}
    return plain.assign_coords(placed)


def _sun_height(band: xr.DataArray) -> xr.DataArray:
    """Cosine of the solar zenith angle of every pixel, lazily where the band is lazy."""
    view = projection_of(band)
    metres = view.perspective_point_height
    times = next((band.coords[n] for n in _TIMES if n in band.coords and "y" not in band.coords[n].dims), None)
    if times is None or times.dtype.kind != "M":
        raise UsageError("the picture needs times of the pixels; give a group of open_abi, or one_tile of open_tiles")

    def height(time: Any, y: Any, x: Any) -> npt.NDArray[np.float32]:
        lon, lat = view.to_lonlat(np.asarray(x) / metres, np.asarray(y) / metres)
        return np.cos(np.radians(solar_angles(np.asarray(time, "M8[ns]"), lon, lat)[0])).astype("f4")

    axes = [xr.DataArray(band[axis].values, dims=axis) for axis in ("y", "x")]
    if band.chunks is not None:
        sides = dict(zip(band.dims, band.chunks, strict=True))
        axes = [axis.chunk({axis.dims[0]: sides[axis.dims[0]]}) for axis in axes]
        times = times.chunk(dict.fromkeys(times.dims, 1))
    found: xr.DataArray = xr.apply_ufunc(
        height, times.reset_coords(drop=True), *axes, dask="parallelized", output_dtypes=["f4"]
    )
    return found


def _cira(band: Any) -> xr.DataArray:
    """CIRA's logarithmic stretch of a reflectance."""
    root = math.log10(_CIRA)
    stretched: xr.DataArray = (np.log10(band.clip(np.finfo(float).eps)) - root) / ((1 - root) * 0.75)
    return stretched.clip(0, 1)


def _stretched(band: xr.DataArray, low: float, high: float, gamma: float = 1.0) -> xr.DataArray:
    return ((band - low) / (high - low)).clip(0, 1) ** (1 / gamma)


def _mixed(bands: Sequence[xr.DataArray], title: str) -> xr.DataArray:
    mixed = xr.concat(bands, xr.Variable("rgb", [*"rgb"]), coords="minimal", compat="override").astype("f4")
    mixed = mixed.where(mixed.notnull().all("rgb")).transpose(..., "rgb").rename("picture")
    return _described(mixed, title)


def _described(picture: xr.DataArray, title: str) -> xr.DataArray:
    mapping = [str(n) for n, c in picture.coords.items() if "grid_mapping_name" in c.attrs]
    picture.attrs = {"long_name": title, "units": "1", **({"grid_mapping": mapping[0]} if mapping else {})}
    return picture
