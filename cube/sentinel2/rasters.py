"""One image of a product, opened: where its pixels lie, and any area of it decoded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from catalog.sentinel2.items import Asset
from catalog.sentinel2.places import is_remote, local_path, tree_of
from cube.sentinel2.jpeg2000 import can_decode_areas, decode_area
from cube.sentinel2.lattice import Window
from cube.sentinel2.resample import SourceGrid
from stratacube.addresses import plain_url
from stratacube.errors import SourceError
from stratacube.images import open_image

__all__ = ["Raster", "gdal_reason", "open_raster"]

_LEAST_SIDE = 64
"""Blocks thinner than this (rows of a plain TIFF) are read several at a time."""


class Raster(Protocol):
    """What a reader of blocks needs of an image."""

    grid: SourceGrid
    dtype: str
    block: tuple[int, int]
    """Rows and columns that are decoded together."""
    by_area: bool
    """Whether a part of a block can be decoded for less than the block."""

    def decode(self, area: Window) -> npt.NDArray[Any]:
        """Return the pixels of a window within the image."""

    def close(self) -> None:
        """Close the file."""


def open_raster(asset: Asset, *, remote: bool = False) -> Raster:
    """Open an image.

    Parameters
    ----------
    asset
        A file on disk.
    remote
        Whether it may also lie elsewhere, and be read by ranges.

    Raises
    ------
    SourceError
        If the file is absent, of another size than listed, or no raster.
    """
    if remote and tree_of(asset.href) is not None:
        from cube.sentinel2.eopf import ZarrRaster  # noqa: PLC0415  (as below)

        return ZarrRaster(asset.href)
    if remote and is_remote(asset.href):
        return _GdalRaster(asset.href, plain_url(asset.href))
    path = local_path(asset.href)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror})") from error
    if path.is_dir():
        from cube.sentinel2.eopf import ZarrRaster  # noqa: PLC0415  (zarr; most archives have none)

        return ZarrRaster(path)
    if asset.size is not None and size != asset.size:
        raise SourceError(f"{path} has {size} bytes but {asset.size} are listed; remove it and run again to fetch it")
    return _GdalRaster(str(path), str(path))


class _GdalRaster:
    """An image that GDAL reads; of lossless JPEG2000, OpenJPEG decodes the areas."""

    def __init__(self, place: str, told: str) -> None:
        self.place = place
        try:
            with warnings.catch_warnings():
                # an image without a place is refused below, in our words
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._file = open_image(place)
        except (RasterioError, OSError) as error:
            reason = gdal_reason(error).replace(place, told)
            raise SourceError(f"{told} cannot be opened ({reason})") from error
        transform, crs = self._file.transform, self._file.crs
        if self._file.count != 1 or crs is None or transform.b or transform.d:
            raise SourceError(f"{told} is not a georeferenced image of one band")
        code = ":".join(crs.to_authority() or ("", "")) if crs.to_authority() else crs.to_wkt()
        self.grid = SourceGrid(code, tuple(transform)[:6], self._file.height, self._file.width)
        self.dtype = self._file.dtypes[0]
        rows, cols = self._file.block_shapes[0]
        self.block = rows * -(-_LEAST_SIDE // rows), cols * -(-_LEAST_SIDE // cols)
        plain = self._file.driver == "JP2OpenJPEG" and self._file.colorinterp[0] != ColorInterp.palette
        self.by_area = plain and "://" not in place and can_decode_areas(Path(place))

    def decode(self, area: Window) -> npt.NDArray[Any]:
        if self.by_area:
            return decode_area(Path(self.place), area, self.dtype)
        pixels: npt.NDArray[Any] = self._file.read(1, window=RasterWindow(area.col, area.row, area.width, area.height))
        return pixels

    def close(self) -> None:
        self._file.close()


def gdal_reason(error: BaseException) -> str:
    """Return GDAL's own words; rasterio keeps them as the cause."""
    return " ".join(str(error.__cause__ or error).split())[:200]
