"""CloudSat's granules, land cover in HDF4 and GeoTIFF, and ABI's cloud products."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
from affine import Affine

from cube.geostationary.cloud_products import read_fields
from cube.geostationary.grid import FixedGrid, GeosProjection
from cube.strata.cloudsat.granule import read_aux, read_granule
from cube.strata.landcover.raster import open_landcover
from cube.strata.merra2.files import Merra2
from cube.testing import write_cloudsat_granule, write_mcd12c1
from tests.fuzz.containers import damaged_hdf5
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes, damaged_head

__all__ = ["PARSERS"]

_START = datetime(2020, 7, 1, 16)
_PROFILES = 200
_BYTES = (damaged_bytes, damaged_head)


def _granules(folder: Path) -> list[Path]:
    products = "2B-CLDCLASS", "2B-CLDCLASS-LIDAR"
    return [write_cloudsat_granule(folder, _START, product=p, profiles=_PROFILES, before_equator=9) for p in products]


def _granule(_: Path, path: Path) -> Any:
    found = read_granule(path)
    return len(found), int(found.valid.sum())


def _auxiliary(folder: Path) -> list[Path]:
    return [write_cloudsat_granule(folder, _START, product="ECMWF-AUX", profiles=_PROFILES, before_equator=9)]


def _aux(_: Path, path: Path) -> Any:
    return {name: values.shape for name, values in read_aux(path, _PROFILES).items()}


def _weather(folder: Path) -> list[Path]:
    path = folder / "MERRA2_400.inst3_3d_asm_Np.20200701.nc4"
    with h5py.File(path, "w") as out:
        out["lat"], out["lon"], out["lev"] = np.arange(-10, 10, 0.5), np.arange(-80, -60, 0.625), np.array([850.0, 500])
        out["time"] = np.array([0, 180], "i4")
        out["time"].attrs["units"] = np.bytes_(
            "minutes since 2020-07-01 00:00:00"
        )  # of fixed length, as NASA writes it
        values = np.arange(2 * 2 * 40 * 32, dtype="f4").reshape(2, 2, 40, 32)
        out.create_dataset("T", data=values, chunks=(1, 2, 40, 32), compression="gzip", shuffle=True, fletcher32=True)
        out["T"].attrs["_FillValue"] = np.float32(1e15)
    return [path]


def _patch(_: Path, path: Path) -> Any:
    files = Merra2(str(path), ["T"])
    values = files.read("T", np.datetime64("2020-07-01T02:50", "us"), slice(3, 9), np.arange(5, 12))
    return files.levels.tolist(), float(np.nansum(values))


def _rasters(folder: Path) -> list[Path]:
    classes = np.arange(18 * 36, dtype="u1").reshape(18, 36) % 17
    tif = folder / "MCD12C1.tif"
    options = {"height": 18, "width": 36, "count": 1, "dtype": "uint8", "nodata": 255, "crs": "EPSG:4326"}
    with rasterio.open(tif, "w", driver="GTiff", transform=Affine(10, 0, -180, 0, -10, 90), **options) as out:
        out.write(classes, 1)
    return [write_mcd12c1(folder / "MCD12C1.hdf", classes), tif]


def _raster(_: Path, path: Path) -> Any:
    cover = open_landcover(str(path))
    return cover.codes(np.linspace(-180, 180, 50), np.linspace(-90, 90, 50)).tolist()


_GRID = FixedGrid(GeosProjection(35786023.0, 6378137.0, 6356752.31414, -75.0), 0.01, 0.01, 56e-6, -56e-6, 40, 40)


def _products(folder: Path) -> list[Path]:
    path = folder / "OR_ABI-L2-ACHAM1-M6_G16_s20201831600000_e20201831600000_c20201831600000.nc"
    with h5py.File(path, "w") as out:
        out["HT"] = np.full((20, 20), 3000, "u2")
        out["HT"].attrs["_FillValue"] = np.uint16(65535)
        out["DQF"] = np.zeros((20, 20), "u1")
        out["x"], out["y"] = (axis[::2] for axis in (_GRID.x, _GRID.y))
        out["goes_imager_projection"] = np.int32(0)
        out["goes_imager_projection"].attrs["longitude_of_projection_origin"] = [-75.0]
    return [path]


def _product(_: Path, path: Path) -> Any:
    return float(np.nanmean(read_fields(path, "HT", [_GRID])[0]))


PARSERS = (
    Parser("cloudsat", _granules, _granule, _BYTES, share=0.1),
    Parser("merra2", _weather, _patch, (damaged_hdf5, *_BYTES), share=0.1),
    Parser("cloudsat-aux", _auxiliary, _aux, _BYTES, share=0.1),
    Parser("landcover", _rasters, _raster, _BYTES, share=0.1),
    Parser("cloud-products", _products, _product, (damaged_hdf5, *_BYTES)),
)
