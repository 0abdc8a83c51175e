"""PyFLEXTRKR's pixel files of tracks: ``mcstrack_YYYYMMDD_HHMM.nc`` and its like, one a time.

``cloudtracknumber`` (time, lat, lon), of cells ``tracknumber``; latitudes and longitudes are 2-D, ``base_time`` counts
seconds since 1970, ``tb`` is the brightness temperature that they were found in. Source: the user's guide of
PyFLEXTRKR; Feng et al. 2023, doi:10.5194/gmd-16-2753-2023.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

import h5py

from cube.strata.masks import Image, MaskFile, MaskKind, Survey
from cube.strata.readers.gridded import dated_name, images_gridded, survey_gridded
from cube.strata.readers.netcdf import variable

__all__ = ["FLEXTRKR"]


NUMBERS = ("cloudtracknumber", "tracknumber")


def _survey(file: MaskFile) -> Survey:
    with h5py.File(file.path, "r") as source:
        return survey_gridded(file, source, NUMBERS, temperature="tb", times=_times(source))


def _images(file: MaskFile, wanted: Collection[datetime]) -> Iterator[Image]:
    with h5py.File(file.path, "r") as source:
        yield from images_gridded(file, source, NUMBERS, wanted, times=_times(source))


def _times(source: h5py.File) -> str:
    base = variable(source, "base_time")
    return "base_time" if base is not None and "units" in base.attrs else "time"


FLEXTRKR = MaskKind(
    "mcstrack_YYYYMMDD_HHMM.nc",
    dated_name(r"(?:mcs|cloud|cell|feature|ar)tracks?_(\d{8})[_.]?(\d{4})(?:\d\d)?(?!\d).*\.nc4?$"),
    _survey,
    ends=lambda start: start + timedelta(minutes=1),
    images=_images,
)
