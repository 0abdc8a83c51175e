"""Images of archives, opened as what they may be: GDAL would take any file for what its first bytes say it is.

A band called ``B02.jp2`` may be a few lines of XML, which GDAL's other drivers follow to any file of this machine and
to any server, and hand out what they find as pixels.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import rasterio
from rasterio.errors import RasterioError

__all__ = ["open_image"]

_JPEG2000, _TIFF = "JP2OpenJPEG", "GTiff"


def open_image(place: str) -> Any:
    """Open a JPEG2000 or a TIFF for reading, whatever it is called.

    Parameters
    ----------
    place
        Path or URL.

    Returns
    -------
    rasterio.io.DatasetReader
        To be closed.

    Raises
    ------
    rasterio.errors.RasterioError
        If it is neither; the reason is that of the kind that its name says it is.
    """
    tiff = PurePosixPath(place.partition("?")[0]).suffix.lower() in (".tif", ".tiff")
    first, second = (_TIFF, _JPEG2000) if tiff else (_JPEG2000, _TIFF)
    try:
        return rasterio.open(place, driver=first)
    except RasterioError as error:
        try:
            return rasterio.open(place, driver=second)
        except RasterioError:
            raise error from error.__cause__
