"""Whether an ABI file is what its name says: its band, satellite, scene, times and place."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.naming import lineage_of
from catalog.geostationary.scans import SourceFile
from cube.geostationary.grid import GeosProjection
from cube.geostationary.hdf5 import (
    as_number,
    attribute_or_none,
    dataset,
    first_value,
    moment,
    text,
    text_or_none,
    variable_or_none,
)
from cube.geostationary.plausible import refuse_other, refuse_other_time
from stratacube.times import parse_time

if TYPE_CHECKING:
    import h5py

__all__ = ["refuse_other_content", "refuse_other_place", "refuse_other_times"]

_SCENES = {"F": ("FULL DISK",), "C": ("CONUS", "PACUS"), "M": ("MESOSCALE",)}
"""What ``scene_id`` says of a sector."""
_SLOTS, _IN_SLOT = {"GOES-EAST": -75.0, "GOES-WEST": -137.0}, 1.0
"""Longitudes of slots in operation, and how far a satellite's may be: its station is kept to half a degree."""
_EPOCHS = ("seconds since 2000-01-01 12:00:00", "seconds since 2000-01-01 12:00:00.0")
_ENDS = ("start", "end")


def refuse_other_content(h5: h5py.File, source: SourceFile) -> None:
    """Refuse a file that is not what its name says; what a rewritten one has lost says nothing.

    Raises
    ------
    ValueError
        If it is another.
    """
    band = int(first_value(dataset(h5, "band_id")))
    if band != source.channel:
        raise ValueError(f"band_id is {band} but the name says C{source.channel:02d}")
    platform, scene, was, *times = (
        None if value is None else text(value)
        for value in (
            attribute_or_none(h5, name)
            for name in ("platform_ID", "scene_id", "dataset_name", "time_coverage_start", "time_coverage_end")
        )
    )
    refuse_other([("platform_ID", platform, f"G{source.platform.removeprefix('goes')}")])
    if scene is not None and scene.strip().upper() not in _SCENES[source.sector[0]]:
        raise ValueError(f"its scene_id is {scene} but its name says {source.sector}")
    for name, told, named in zip(
        ("time_coverage_start", "time_coverage_end"), times, (source.start, source.end), strict=True
    ):
        if told is not None:
            refuse_other_time(name, parse_time(told), named, named)
    first = None if was is None else ABI_NAMES.parse(was)
    if first is not None and (first.sector, first.start) != (source.sector, source.start):
        raise ValueError(f"its dataset_name is {was}, which is of another scan than its name tells")
    if first is not None and lineage_of(first.product) not in ("", lineage_of(source.product)):
        raise ValueError(f"its dataset_name is {was}, which is reprocessed as its name does not tell")


def refuse_other_place(h5: h5py.File, projection: GeosProjection) -> None:
    """Refuse a file that looks from elsewhere than its orbital slot is.

    Raises
    ------
    ValueError
        If it does.
    """
    slot = text_or_none(h5, "orbital_slot")
    longitude = _SLOTS.get("" if slot is None else slot.strip().upper())  # what is tested or stored drifts
    told = projection.longitude_of_projection_origin
    if longitude is not None and abs(told - longitude) > _IN_SLOT:
        raise ValueError(f"its orbital_slot is {slot}, at {longitude:g} degrees east, but it looks from {told:g}")


def refuse_other_times(h5: h5py.File, source: SourceFile, undefined: Collection[float]) -> None:
    """Refuse a file whose ``t`` is told in other units, or whose ``time_bounds`` are not when its name says.

    Parameters
    ----------
    h5
        The file.
    source
        What its name tells.
    undefined
        What stands for no time.

    Raises
    ------
    ValueError
        If it is such a file.
    """
    mid, ends = variable_or_none(h5, "t"), variable_or_none(h5, "time_bounds")
    units = None if mid is None else text_or_none(mid, "units")
    if units is not None and units.strip().replace("T", " ") not in _EPOCHS:
        raise ValueError(f"its t is in {units!r} where {_EPOCHS[0]!r} is expected")
    if ends is None or source.start == source.end:  # a placeholder, of which the screening tells
        return
    if ends.size != len(_ENDS):
        raise ValueError(f"its time_bounds hold {ends.size} values where {len(_ENDS)} are expected")
    for what, told, named in zip(_ENDS, np.ravel(ends[()]), (source.start, source.end), strict=True):
        if as_number(told, "time_bounds") not in undefined:
            refuse_other_time(f"time_bounds' {what}", moment(float(told)), named, named)
