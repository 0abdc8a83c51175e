"""Virtual cubes as a STAC collection: an asset for each band and encoding era, with the words that open it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy.typing as npt
import pyproj

from catalog.publish import vocabulary as voc
from catalog.publish.footprints import enclosing_box, footprint
from catalog.publish.model import BandInfo, Observatory
from stratacube.times import format_time

__all__ = ["VirtualArray", "references_collection"]


@dataclass(frozen=True)
class VirtualArray:
    """One band and era of a virtual cube."""

    key: str
    """Of the asset."""
    href: str
    """Relative to the collection."""
    band: BandInfo
    platform: str
    sector: str
    observatory: Observatory
    start: datetime
    """When the first scan starts."""
    end: datetime
    """When the last scan starts."""
    shape: tuple[int, int]
    """Rows and columns."""
    y: tuple[float, float]
    """Scan angles of the first and last row, in radians."""
    x: tuple[float, float]
    """Of the first and last column."""
    counts: str
    """Variable of the counts."""
    attributes: Mapping[str, Any]
    """Of that variable."""
    data_type: str
    outline: npt.NDArray[Any]
    """Longitude and latitude of the sector's outline."""
    crs: pyproj.CRS
    remote: str
    """Protocol of the source files' addresses, such as ``s3``."""

    @property
    def opened_by(self) -> dict[str, Any]:
        """Keywords of ``xarray.open_dataset``."""
        anonymous = {"remote_options": {"anon": True}} if self.remote == "s3" else {}
        return {
            "engine": "kerchunk",
            "storage_options": {"remote_protocol": self.remote, **anonymous},
            # Without this kerchunk's engine makes a Dask chunk of each reference, of a year more than Dask can bear.
            "open_dataset_options": {"chunks": None},
        }


def references_collection(arrays: Sequence[VirtualArray]) -> dict[str, Any]:
    """Describe a virtual cube.

    Parameters
    ----------
    arrays
        All of it.

    Returns
    -------
    dict
        A STAC collection without items, to lie at the top of the cube's folder.
    """
    start, end = min(a.start for a in arrays), max(a.end for a in arrays)
    # Eras and bands of a sector lie in one place.
    boxes = {footprint(a.outline)[1] for a in {(a.platform, a.sector): a for a in arrays}.values()}
    observatories = list({id(a.observatory): a.observatory for a in arrays}.values())
    views = sorted({f"{a.observatory.platform_name(a.platform)} {a.sector}" for a in arrays})
    title = f"Virtual cube of {', '.join(views)}"
    return {
        "type": "Collection",
        "stac_version": voc.STAC_VERSION,
        "stac_extensions": sorted([voc.DATACUBE, voc.EO, voc.PROJECTION, voc.RASTER, voc.XARRAY]),
        "id": "-".join(["references", *sorted({f"{a.platform}-{a.sector}".lower() for a in arrays})]),
        "title": title,
        "description": (
            f"{title}: kerchunk references to the chunks of the source files, which are read where they lie. "
            "Each asset is one band in one encoding; open it with xarray by its `xarray:open_kwargs`."
        ),
        "keywords": ["kerchunk", *sorted({o.mission for o in observatories})],
        "license": "other",
        "providers": [dict(o.provider) for o in observatories],
        "extent": {
            "spatial": {"bbox": [list(enclosing_box(boxes))]},
            "temporal": {"interval": [[format_time(start), format_time(end)]]},
        },
        "summaries": {
            "mission": sorted({o.mission for o in observatories}),
            "platform": sorted({a.observatory.platform_name(a.platform) for a in arrays}),
            "instruments": sorted({name for o in observatories for name in o.instruments}),
        },
        "links": [
            {"rel": "root", "href": "./collection.json", "type": voc.JSON_TYPE},
            *_unique(dict(o.license_link) for o in observatories),
        ],
        "assets": {a.key: _asset(a) for a in arrays},
    }


def _unique(links: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({link["href"]: link for link in links}.values())


def _asset(array: VirtualArray) -> dict[str, Any]:
    band: dict[str, Any] = {"name": array.band.name, "eo:center_wavelength": array.band.center_wavelength}
    if array.band.common_name:
        band["eo:common_name"] = array.band.common_name
    scale, offset = (array.attributes.get(name) for name in ("scale_factor", "add_offset"))
    if scale is not None and offset is not None:
        band |= {"raster:scale": scale, "raster:offset": offset}
    unit = array.attributes.get("units")
    return {
        "href": array.href,
        "type": voc.PARQUET_TYPE,
        "title": f"{array.observatory.platform_name(array.platform)} {array.sector} {array.band.name} as references",
        "roles": ["references", "data"],
        "start_datetime": format_time(array.start),
        "end_datetime": format_time(array.end),
        "xarray:open_kwargs": array.opened_by,
        "proj:code": None,
        "proj:wkt2": array.crs.to_wkt(),
        "proj:shape": [*array.shape],
        "data_type": array.data_type,
        **({"unit": unit} if unit else {}),
        "bands": [band],
        "cube:dimensions": {
            "time": {"type": "temporal", "extent": [format_time(array.start), format_time(array.end)]},
            "y": {"type": "spatial", "axis": "y", "extent": sorted(array.y), "description": "scan angle, radians"},
            "x": {"type": "spatial", "axis": "x", "extent": sorted(array.x), "description": "scan angle, radians"},
        },
        "cube:variables": {array.counts: {"dimensions": ["time", "y", "x"], "variable_type": "data"}},
    }
