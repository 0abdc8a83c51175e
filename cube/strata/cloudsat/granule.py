"""CloudSat's granules: one orbit of 2B-CLDCLASS or 2B-CLDCLASS-LIDAR, and of ECMWF-AUX beside it.

Formats: CloudSat Data Processing Center, product documents of 2B-CLDCLASS, 2B-CLDCLASS-LIDAR and ECMWF-AUX, P1_R05. A
profile of which any bit of ``Data_quality`` is set is not valid, whatever its layers say: in the night half of orbits
since 2011, when the radar was switched off, there are none, which would read as clear sky.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cube.strata.cloudsat.bins import BIN_CENTRES
from cube.strata.hdf4 import Hdf4, opened

__all__ = ["AUX_NUMBERS", "AUX_PROFILES", "Granule", "GranuleName", "parse_name", "read_aux", "read_granule"]

PRODUCTS = ("2B-CLDCLASS", "2B-CLDCLASS-LIDAR")
AUX = "ECMWF-AUX"
_NAME = re.compile(r"(\d{13})_(\d{5})_CS_([A-Z0-9-]+)_GRANULE_\w+\.hdf")
_LONGEST = timedelta(minutes=100)
"""An orbit takes 99."""
_LAYERS = 10
_SETS = ("CloudLayerBase", "CloudLayerTop", "CloudLayerType")
_COLUMNS = ("Latitude", "Longitude", "Profile_time", "UTC_start", "Data_quality", "CloudLayer", "Cloudlayer")

AUX_PROFILES = ("pressure", "temperature", "specific_humidity")
AUX_NUMBERS = ("temperature_2m", "skin_temperature", "surface_pressure", "u10_velocity", "v10_velocity")
"""What is taken of ECMWF-AUX, by profile and height, and by profile."""
_LEAST_AUX = -900.0
"""Numbers of ECMWF-AUX that are missing are -999 or -9999; none that is there is as small."""


class GranuleName(NamedTuple):
    """What the name of a granule tells."""

    start: datetime
    """Naive UTC."""
    orbit: int
    product: str

    @property
    def end(self) -> datetime:
        """No profile is later."""
        return self.start + _LONGEST


def parse_name(name: str) -> GranuleName | None:
    """Read ``2019002175851_67551_CS_2B-CLDCLASS_GRANULE_P1_R05_E08_F03.hdf``; None for any other name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        start = datetime.strptime(found[1], "%Y%j%H%M%S")
    except ValueError:
        return None
    return GranuleName(start, int(found[2]), found[3])


@dataclass(frozen=True)
class Granule:
    """The profiles of one orbit, in the order in which they were seen; ``n`` of them."""

    name: str
    orbit: int
    time: npt.NDArray[np.datetime64]
    """(n,) microseconds, naive UTC."""
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    """(n,) degrees; NaN where not in range."""
    quality: npt.NDArray[np.uint8]
    """(n,) the bits of ``Data_quality``."""
    valid: npt.NDArray[np.bool_]
    """(n,) whether there is an observation: quality 0, a place, and a number of layers."""
    layer_count: npt.NDArray[np.int8]
    """(n,) cloud layers; -9 where not valid."""
    layer_base: npt.NDArray[np.float32]
    layer_top: npt.NDArray[np.float32]
    """(n, 10) km above mean sea level; NaN where there is no layer."""
    layer_type: npt.NDArray[np.int8]
    """(n, 10) 1 to 8, see :data:`cube.strata.cloudsat.bins.CLASSES`; -9 where there is no layer."""

    def __len__(self) -> int:
        return len(self.time)

    @property
    def top(self) -> npt.NDArray[np.float64]:
        """(n,) km, of each profile's highest layer; 0 where there is none."""
        tops = np.where(np.isnan(self.layer_top), 0.0, self.layer_top)
        highest: npt.NDArray[np.float64] = tops.max(axis=1, initial=0.0).astype("f8")
        return highest


def read_granule(path: Path) -> Granule:
    """Read a granule of 2B-CLDCLASS or 2B-CLDCLASS-LIDAR.

    Raises
    ------
    UsageError
        If pyhdf is not installed.
    SourceError
        If the file cannot be read, or its content is not what its name says.
    """
    with opened(path, "a CloudSat granule", sets=_SETS, columns=_COLUMNS) as file:
        name = parse_name(path.name)
        if name is None or name.product not in PRODUCTS:
            raise ValueError(f"its name is not YYYYDDDHHMMSS_ORBIT_CS_PRODUCT_GRANULE_*.hdf of {' or '.join(PRODUCTS)}")
        latitude, longitude = (_placed(file.column(n), most) for n, most in (("Latitude", 90), ("Longitude", 180)))
        n = len(latitude)
        time = _times(file, name, n)
        quality = file.column("Data_quality").astype("u1")
        count = file.column("CloudLayer", "Cloudlayer").astype("i4")
        base, top, kind = (file.array(f"CloudLayer{part}") for part in ("Base", "Top", "Type"))
        for what, values, shape in (
            ("Longitude", longitude, (n,)),
            ("Data_quality", quality, (n,)),
            ("CloudLayer", count, (n,)),
            *((f"CloudLayer{part}", a, (n, _LAYERS)) for part, a in (("Base", base), ("Top", top), ("Type", kind))),
        ):
            if values.shape != shape:
                raise ValueError(f"{what} is {values.shape} where there are {n} profiles")
        valid = (quality == 0) & np.isfinite(latitude) & np.isfinite(longitude) & (count >= 0) & (count <= _LAYERS)
        layer = valid[:, None] & (np.arange(_LAYERS) < count[:, None]) & (top > base) & (kind >= 1) & (kind <= 8)
    return Granule(
        path.name,
        name.orbit,
        time,
        latitude,
        longitude,
        quality,
        valid,
        np.where(valid, count, -9).astype("i1"),
        np.where(layer, base, np.nan).astype("f4"),
        np.where(layer, top, np.nan).astype("f4"),
        np.where(layer, kind, -9).astype("i1"),
    )


def _placed(values: npt.NDArray[Any], most: float) -> npt.NDArray[np.float64]:
    return np.where(np.abs(values) <= most, values, np.nan).astype("f8")


def _times(file: Hdf4, name: GranuleName, profiles: int) -> npt.NDArray[np.datetime64]:
    """When each profile was seen: seconds after the first one, which is told as seconds of the day of its name."""
    start, after = float(file.column("UTC_start")[0]), file.column("Profile_time").astype("f8")
    midnight = datetime(name.start.year, name.start.month, name.start.day)
    told = midnight + timedelta(seconds=start) if 0 <= start < 86_401 else None
    if told is None or abs(told - name.start) > timedelta(minutes=2):
        raise ValueError(f"its first profile is at {start:g} s of the day, its name says {name.start:%H:%M:%S}")
    if after.shape != (profiles,) or not (np.diff(after) >= 0).all() or not 0 <= after[-1] <= _LONGEST.total_seconds():
        raise ValueError(f"its profile times do not run from 0 to 99 minutes ({after.shape} of {profiles} profiles)")
    times: npt.NDArray[np.datetime64] = np.datetime64(told, "us") + np.round(after * 1e6).astype("m8[us]")
    return times


def read_aux(path: Path, profiles: int) -> dict[str, npt.NDArray[np.float32]]:
    """Read what the model of ECMWF said along an orbit.

    Parameters
    ----------
    path : Path
        A granule of ECMWF-AUX.
    profiles : int
        Profiles of the granule it goes with.

    Returns
    -------
    dict
        :data:`AUX_PROFILES` as (profiles, 40), between the levels of the file by height (the logarithm of pressure),
        and :data:`AUX_NUMBERS` and ``dem_elevation`` (m) as (profiles,); NaN where missing. Pa, K, kg kg-1, m s-1.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    sets = [name.capitalize() for name in AUX_PROFILES]
    columns = [_AUX_NAMES.get(name, name.capitalize()) for name in (*AUX_NUMBERS, "dem_elevation")]
    with opened(path, "a granule of ECMWF-AUX", sets=sets, columns=["EC_height", *columns]) as file:
        height = file.column("EC_height").astype("f8") / 1000.0
        found = {}
        for name in AUX_PROFILES:
            values = file.array(name.capitalize())
            if values.shape != (profiles, len(height)):
                raise ValueError(f"{name} is {values.shape} where there are {profiles} profiles x {len(height)} levels")
            found[name] = _at_bins(height, values, logarithmic=name == "pressure")
        for name in (*AUX_NUMBERS, "dem_elevation"):
            values = file.column(_AUX_NAMES.get(name, name.capitalize()))
            if values.shape != (profiles,):
                raise ValueError(f"{name} is {values.shape} where there are {profiles} profiles")
            found[name] = np.where(values > _LEAST_AUX, values, np.nan).astype("f4")
    return found


_AUX_NAMES: Mapping[str, str] = {
    "u10_velocity": "U10_velocity",
    "v10_velocity": "V10_velocity",
    "dem_elevation": "DEM_elevation",
}


def _at_bins(
    height: npt.NDArray[np.float64], values: npt.NDArray[Any], *, logarithmic: bool
) -> npt.NDArray[np.float32]:
    """Between levels, at the centres of the bins; NaN outside of them and beside a missing one."""
    order = np.argsort(height)
    height, values = height[order], values[:, order].astype("f8")
    values = np.where(values > _LEAST_AUX, values, np.nan)
    if logarithmic:
        values = np.log(np.where(values > 0, values, np.nan))
    above = np.clip(np.searchsorted(height, BIN_CENTRES), 1, len(height) - 1)
    part = (BIN_CENTRES - height[above - 1]) / (height[above] - height[above - 1])
    found = values[:, above - 1] * (1 - part) + values[:, above] * part
    found[:, (part < 0) | (part > 1)] = np.nan
    return (np.exp(found) if logarithmic else found).astype("f4")
