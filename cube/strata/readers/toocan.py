"""TOOCAN's public files of mesoscale convective systems: ``ToocanCloudMask_YYYYMMDD_HHMM.nc``, one a slot.

``DCS_number`` (time, latitude, longitude), or (time, y, x) with 2-D latitudes and longitudes or a satellite's own
projection; a positive number is a system, the same over files, -998 is none. ``time`` is the start of the scan.
Source: Fiolleau and Roca 2013, doi:10.1109/TGRS.2012.2227762; the data set is described by Fiolleau and Roca 2024,
doi:10.5194/essd-16-4021-2024.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

import h5py

from cube.strata.masks import Image, MaskFile, MaskKind, Survey
from cube.strata.readers.gridded import dated_name, images_gridded, survey_gridded

__all__ = ["TOOCAN"]


def _survey(file: MaskFile) -> Survey:
    with h5py.File(file.path, "r") as source:
        return survey_gridded(file, source, ["DCS_number"])


def _images(file: MaskFile, wanted: Collection[datetime]) -> Iterator[Image]:
    with h5py.File(file.path, "r") as source:
        yield from images_gridded(file, source, ["DCS_number"], wanted)


TOOCAN = MaskKind(
    "ToocanCloudMask_YYYYMMDD_HHMM.nc",
    dated_name(r"toocan.*?_(\d{8})[_-]?(\d{4})(?!\d).*\.nc4?$"),
    _survey,
    ends=lambda start: start + timedelta(minutes=1),
    images=_images,
)
