"""Granules of CloudSat in the form of the real ones: 2B-CLDCLASS, 2B-CLDCLASS-LIDAR and ECMWF-AUX, HDF4 by pyhdf.

The track is that of a circular orbit of CloudSat's inclination and period; layers are computed and depend on the seed
alone. As in operations by daylight only, the descending half has no observations: ``Data_quality`` 91 and no layers.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stratacube.errors import UsageError

__all__ = ["write_cloudsat_granule"]

_PERIOD, _INCLINATION, _STEP = 5933.0, 98.2, 0.16
"""Seconds, degrees, seconds between profiles."""
_DAY = 86_164.1
_NIGHT = 91
_LEVELS = 125
_PRODUCTS = ("2B-CLDCLASS", "2B-CLDCLASS-LIDAR", "ECMWF-AUX")


def write_cloudsat_granule(
    root: str | Path,
    start: datetime,
    *,
    product: str = "2B-CLDCLASS",
    orbit: int = 75_000,
    longitude: float = -75.0,
    profiles: int = 37_081,
    before_equator: float = _PERIOD / 2,
    night: bool = True,
    seed: int = 0,
) -> Path:
    """Write one granule.

    Parameters
    ----------
    root : str or Path
        Folder.
    start : datetime
        Of the first profile, naive UTC, whole seconds.
    product : str
        ``2B-CLDCLASS``, ``2B-CLDCLASS-LIDAR`` or ``ECMWF-AUX``.
    orbit : int
        Its number; granules of one orbit and seed go together.
    longitude : float
        Where the track crosses the equator northward, degrees east.
    profiles : int
        How many; those of a whole orbit by default.
    before_equator : float
        Seconds from the first profile to that crossing.
    night : bool
        Whether the descending half lacks observations.
    seed : int
        Of the clouds.

    Returns
    -------
    Path
        Of the file, named as real ones are.
    """
    if product not in _PRODUCTS:
        raise UsageError(f"product {product!r} is unknown: give {', '.join(_PRODUCTS)}")
    path = Path(root) / f"{start:%Y%j%H%M%S}_{orbit:05d}_CS_{product}_GRANULE_P1_R05_E09_F00.hdf"
    path.parent.mkdir(parents=True, exist_ok=True)
    after = np.arange(profiles) * _STEP
    angle = 2 * np.pi * (after - before_equator) / _PERIOD
    slope = np.radians(_INCLINATION)
    latitude = np.degrees(np.arcsin(np.sin(slope) * np.sin(angle)))
    turned = np.degrees(np.arctan2(np.cos(slope) * np.sin(angle), np.cos(angle)))
    east = longitude + turned - 360.0 * (after - before_equator) / _DAY
    seconds = (start - start.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
    dark = (np.cos(angle) < 0) & night
    columns: dict[str, tuple[str, npt.NDArray[Any]]] = {
        "Profile_time": ("f4", after),
        "UTC_start": ("f4", np.array([seconds])),
        "Latitude": ("f4", latitude),
        "Longitude": ("f4", (east + 180.0) % 360.0 - 180.0),
        "Data_quality": ("u1", np.where(dark, _NIGHT, 0)),
        "DEM_elevation": ("i2", np.full(profiles, -9999)),
    }
    if product == "ECMWF-AUX":
        sets, more = _weather(latitude)
    else:
        sets, more = _clouds(after, dark, seed, lidar=product.endswith("LIDAR"))
    _write(path, sets, columns | more)
    return path


Sets = dict[str, npt.NDArray[Any]]
Columns = dict[str, tuple[str, npt.NDArray[Any]]]


def _clouds(after: npt.NDArray[Any], dark: npt.NDArray[Any], seed: int, *, lidar: bool) -> tuple[Sets, Columns]:
    """Up to three layers, in stretches of some seconds."""
    stretch = (after // 3.2).astype(int)
    rng = np.random.default_rng(seed)
    some = rng.integers(0, 4, stretch.max() + 1)
    bases = np.sort(rng.uniform(0.5, 12.0, (stretch.max() + 1, 3)), axis=1)
    kinds = rng.integers(1, 9, (stretch.max() + 1, 3))
    count = np.where(dark, 0, some[stretch])
    base, top = (np.full((len(after), 10), -99.0, "f4") for _ in range(2))
    kind = np.full((len(after), 10), -9, "i1" if lidar else "i2")
    for layer in range(3):
        there = count > layer
        base[there, layer] = bases[stretch[there], layer]
        above = bases[stretch[there], layer + 1] if layer < 2 else bases[stretch[there], layer] + 4.0
        top[there, layer] = np.minimum(bases[stretch[there], layer] + 1.7, above - 0.1)
        kind[there, layer] = kinds[stretch[there], layer]
    name = "Cloudlayer" if lidar else "CloudLayer"
    return {"CloudLayerBase": base, "CloudLayerTop": top, "CloudLayerType": kind}, {
        name: ("u1" if lidar else "i2", count)
    }


def _weather(latitude: npt.NDArray[Any]) -> tuple[Sets, Columns]:
    """An atmosphere that is colder away from the equator, 6.5 K a kilometre up, and of a scale height of 8 km."""
    height = np.linspace(25_000.0, -4_800.0, _LEVELS)
    ground = 300.0 - 0.4 * np.abs(latitude)
    warm = ground[:, None] - 0.0065 * np.maximum(height, 0.0)
    pressure = np.broadcast_to(101_325.0 * np.exp(-height / 8000.0), warm.shape)
    below = height < 0
    sets = {
        "Pressure": np.where(below, -999.0, pressure).astype("f4"),
        "Temperature": np.where(below, -999.0, warm).astype("f4"),
        "Specific_humidity": np.broadcast_to(
            np.where(below, -999.0, 0.02 * np.exp(-height / 2000.0)), warm.shape
        ).astype("f4"),
    }
    numbers = {
        "Temperature_2m": ground,
        "Skin_temperature": ground + 1.0,
        "Surface_pressure": np.full(len(latitude), 101_325.0),
        "U10_velocity": np.full(len(latitude), -5.0),
        "V10_velocity": np.where(latitude > 0, 1.0, -999.0),
    }
    return sets, {"EC_height": ("f4", height)} | {name: ("f4", values) for name, values in numbers.items()}


def _write(path: Path, sets: Sets, columns: Columns) -> None:
    from pyhdf.HDF import HC, HDF  # noqa: PLC0415  (an extra)
    from pyhdf.SD import SD, SDC  # noqa: PLC0415
    from pyhdf.VS import VS  # noqa: F401, PLC0415

    kinds = {"f4": (SDC.FLOAT32, HC.FLOAT32), "i2": (SDC.INT16, HC.INT16), "u1": (SDC.UINT8, HC.UINT8)}
    kinds["i1"] = (SDC.INT8, HC.INT8)
    file = SD(str(path), SDC.WRITE | SDC.CREATE | SDC.TRUNC)
    for name, values in sets.items():
        data = file.create(name, kinds[values.dtype.str[1:]][0], values.shape)
        data[:] = np.ascontiguousarray(values)
        data.endaccess()
    file.attr("HDFEOSVersion").set(SDC.CHAR, "HDFEOS_V2.5")
    file.end()
    tables = HDF(str(path), HC.WRITE)
    held = tables.vstart()
    for name, (kind, values) in columns.items():
        table = held.create(name, ((name, kinds[kind][1], 1),))
        table.write([[value] for value in values.astype(kind).tolist()])
        table.detach()
    held.end()
    tables.close()
