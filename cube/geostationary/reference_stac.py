"""What STAC says of a virtual cube: ``collection.json`` beside it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from catalog.publish.model import BandInfo
from catalog.publish.references import VirtualArray, references_collection
from cube.geostationary.dialect import dialect_of, imager_of
from cube.geostationary.file_index import FileIndex
from cube.geostationary.outline import footprint_ring
from cube.geostationary.reference_leaf import AGAIN
from cube.geostationary.reference_view import Reference, View
from stratacube.errors import SourceError
from stratacube.files import write_json

__all__ = ["COLLECTION", "describe_references", "firsts_of", "read_derived", "virtual_arrays"]

COLLECTION = "collection.json"


def describe_references(root: Path, views: Sequence[View]) -> None:
    """Write the collection of a store, where it is not there as it should be: a killed run did not come to it."""
    arrays = [*virtual_arrays(views)]
    path = root / COLLECTION
    if arrays:
        told = references_collection(arrays)
        if read_derived(path) != told:
            write_json(path, told)


def read_derived(path: Path) -> Any:
    """What a file tells that is written anew where it is not as it should be; None where it cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_bytes())
    return None


def virtual_arrays(views: Sequence[View]) -> Iterator[VirtualArray]:
    """Each band and era of a store, in words of catalogues."""
    for view in views:
        for name, reference in firsts_of(view, view.leaves).items():
            header, leaf = reference.header, view.leaves[name]
            source, grid, dialect = header.source, header.grid, dialect_of(header.source.platform)
            yield VirtualArray(
                key=f"{view.folder.name}-{name}",
                href=f"./{view.folder.name}/{leaf.folder}",
                band=_band(header),
                platform=source.platform,
                sector=source.sector,
                observatory=dialect.names.observatory(),
                start=source.start,
                end=datetime.fromisoformat(leaf.last),
                shape=grid.shape,
                y=(float(grid.y[0]), float(grid.y[-1])),
                x=(float(grid.x[0]), float(grid.x[-1])),
                counts=dialect.counts,
                attributes=dialect.attributes(header)[dialect.counts],
                data_type=np.dtype(header.rad.dtype).name,
                outline=footprint_ring(
                    grid.projection, grid.left, grid.top, grid.width * grid.dx, -grid.height * grid.dy
                ),
                crs=grid.projection.crs,
                remote=urlsplit(source.href).scheme or "file",
            )


def _band(header: FileIndex) -> BandInfo:
    imager = imager_of(header.source.platform)
    band, named = imager.band(header.source.channel), imager.dialect.names.bands[header.source.channel]
    return BandInfo(
        name=band.name,
        title=band.title,
        center_wavelength=named.wavelength,
        units=header.units,
        resolution=header.grid.dx * header.grid.projection.perspective_point_height,
        common_name=named.common_name,
    )


def firsts_of(view: View, leaves: Collection[str]) -> dict[str, Reference]:
    """First file of each of some leaves."""
    found: dict[str, Reference] = {}
    for month in sorted(view.months):
        wanted = {name for name in view.months[month].first if name in leaves and name not in found}
        if wanted:
            columns = view.columns(month, ["leaf", "position"])
            rows = np.flatnonzero(columns["position"] == 0)
            names = [*view.leaves]
            for row in rows.tolist():
                name = names[columns["leaf"][row]]
                if name in wanted:
                    found[name] = view.reference(month, row)
    for name in leaves:
        if name not in found:
            raise SourceError(f"{view.folder} lists no file of {name}; {AGAIN}")
    return {name: found[name] for name in leaves}
