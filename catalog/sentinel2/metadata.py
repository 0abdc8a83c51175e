"""Product and granule metadata of Sentinel-2 L2A: what the numbers of a product mean.

What the documents say is checked against what every product has: a scale of 10000, an offset of 0 or -1000, the grid
that is the tile's own. Baselines before 02.06 name many elements otherwise (``PRODUCT_URI_2A``).

Source: Sentinel-2 Products Specification Document, level-2A product and tile metadata
(``MTD_MSIL2A.xml``, ``MTD_TL.xml``), issues 14.2 (the older names) and later.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from catalog.sentinel2.names import parse_product_name
from catalog.sentinel2.tiles import check_grid
from stratacube.errors import SourceError
from stratacube.guard import guarded
from stratacube.plain_xml import read_xml
from stratacube.times import parse_time

__all__ = [
    "BAND_IDS",
    "OFFSET",
    "OFFSET_SINCE",
    "QUANTIFICATION",
    "REPROCESSED",
    "GranuleMetadata",
    "ProductMetadata",
    "Resolution",
    "parse_granule",
    "parse_product",
    "parse_product_name",
    "read_granule",
    "read_product",
]

BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Bands in the order of the metadata's ``band_id`` 0 .. 12."""

OFFSET_SINCE = (4, 0)
"""First processing baseline whose reflectances carry an offset (BOA_ADD_OFFSET)."""

OFFSET = -1000
"""What BOA_ADD_OFFSET is since then, of every band."""

QUANTIFICATION = 10000
"""BOA_QUANTIFICATION_VALUE in every baseline."""

REPROCESSED = "99.99"
"""Baseline number of processings outside ESA's: it tells nothing, the metadata alone decides."""

_REMEDY = "fetch it again, or leave the product out"


@dataclass(frozen=True, kw_only=True)
class ProductMetadata:
    """``MTD_MSIL2A.xml``: reflectance = (DN + offset of the band) / 10000."""

    id: str
    """Product name without ``.SAFE``."""
    baseline: str
    processing_time: datetime
    datatake_start: datetime
    datastrip_start: datetime | None
    platform: str
    relative_orbit: int | None
    offsets: Mapping[str, int] | None
    """``BOA_ADD_OFFSET`` by band; None where the document has none."""
    cloud_cover: float | None
    footprint: tuple[tuple[float, float], ...]
    """Ring of (longitude, latitude); empty where the document has none that can be read."""
    images: tuple[str, ...]
    """Paths of the images below the product, without an extension."""

    def offset(self, band: str) -> int:
        """Return the offset of a band, checked against the processing baseline.

        Raises
        ------
        SourceError
            If the document and the baseline disagree: which of them is right cannot be known.
        """
        found = 0 if self.offsets is None else self.offsets.get(band)
        if found is None:
            raise SourceError(f"{self.id}: the product metadata has BOA_ADD_OFFSET for other bands but not for {band}")
        if self.baseline == REPROCESSED:
            return found
        expected = tuple(int(p) for p in self.baseline.split(".")) >= OFFSET_SINCE
        if expected != (found != 0):
            wanted = "an offset from baseline 04.00 on" if expected else "no offset before baseline 04.00"
            told = "none" if self.offsets is None else str(found)
            raise SourceError(
                f"{self.id}: BOA_ADD_OFFSET of {band} is {told} but processing baseline {self.baseline} "
                f"means {wanted}; "
                "fetch the product again or leave it out"
            )
        return found


@dataclass(frozen=True)
class Resolution:
    """Grid of a tile at one resolution."""

    rows: int
    cols: int
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class GranuleMetadata:
    """``MTD_TL.xml``: grid and sun of a tile."""

    tile: str
    datastrip_start: datetime | None
    sensing_time: datetime
    proj_code: str
    grids: Mapping[int, Resolution]
    """By pixel size in metres: 10, 20, 60."""
    sun_elevation: float | None


def read_product(path: Path) -> ProductMetadata:
    """Read a product metadata file."""
    return parse_product(_bytes(path), str(path))


def read_granule(path: Path) -> GranuleMetadata:
    """Read a granule metadata file."""
    return parse_granule(_bytes(path), str(path))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror})") from error


def parse_product(document: bytes, name: str = "MTD_MSIL2A.xml") -> ProductMetadata:
    """Parse product metadata.

    Raises
    ------
    SourceError
        If it is not XML, is another document, or lacks what harmonisation needs.
    """
    with guarded(f"{name} is not product metadata that can be understood", _REMEDY):
        return _product(_root(document, name, "Level-2A_User_Product"), name)


def _product(root: ET.Element, name: str) -> ProductMetadata:
    uri = _text(root, "PRODUCT_URI", name).removesuffix(".SAFE")
    baseline = _text(root, "PROCESSING_BASELINE", name)
    try:
        named = parse_product_name(uri)
    except SourceError as error:
        raise SourceError(f"{name}: PRODUCT_URI {error}") from error
    if named.baseline != baseline:
        raise SourceError(f"{name}: the product is named {uri} but its PROCESSING_BASELINE is {baseline}; {_REMEDY}")
    granule = _first(root, "Granule", "Granules")
    strip = re.search(r"_S(\d{8}T\d{6})", granule.get("datastripIdentifier", "")) if granule is not None else None
    scale = _number(root, "BOA_QUANTIFICATION_VALUE", name)
    if scale != QUANTIFICATION:
        raise SourceError(
            f"{name}: BOA_QUANTIFICATION_VALUE is {scale:g} where every processing has {QUANTIFICATION}; {_REMEDY}"
        )
    return ProductMetadata(
        id=uri,
        baseline=baseline,
        processing_time=parse_time(_text(root, "GENERATION_TIME", name)),
        datatake_start=parse_time(_text(root, "DATATAKE_SENSING_START", name)),
        datastrip_start=datetime.strptime(strip[1], "%Y%m%dT%H%M%S") if strip else None,
        platform=named.platform,
        relative_orbit=_whole(root, "SENSING_ORBIT_NUMBER", name) if _there(root, "SENSING_ORBIT_NUMBER") else None,
        offsets=_offsets(root, name),
        cloud_cover=_cloud_cover(root, name),
        footprint=_footprint(root),
        images=tuple((i.text or "").strip() for tag in _tags("IMAGE_FILE") for i in root.iter(tag)),
    )


def _cloud_cover(root: ET.Element, name: str) -> float | None:
    if not _there(root, "Cloud_Coverage_Assessment"):
        return None
    found = _number(root, "Cloud_Coverage_Assessment", name)
    if not -0.01 <= found <= 100.01:
        raise SourceError(f"{name}: Cloud_Coverage_Assessment is {found:g}, not per cent; {_REMEDY}")
    return found


def _offsets(root: ET.Element, name: str) -> dict[str, int] | None:
    """Offsets by band; the document's own list of bands, where it has one, says which id is which band."""
    ids = {str(i): band for i, band in enumerate(BAND_IDS)}
    for band in root.iter("Spectral_Information"):
        physical = band.get("physicalBand", "")
        ids[band.get("bandId", "")] = f"B{int(physical[1:]):02d}" if physical[1:].isdigit() else physical
    found: dict[str, int] = {}
    for offset in root.iter("BOA_ADD_OFFSET"):
        number, value = offset.get("band_id", ""), (offset.text or "").strip()
        if ids.get(number) not in BAND_IDS or ids[number] in found:
            raise SourceError(f"{name}: BOA_ADD_OFFSET has a band_id {number!r} that is unknown or twice; {_REMEDY}")
        if float(value) not in (0, OFFSET):
            raise SourceError(
                f"{name}: BOA_ADD_OFFSET of {ids[number]} is {value} where processings have 0 or {OFFSET}; {_REMEDY}"
            )
        found[ids[number]] = int(float(value))
    return found or None


def _footprint(root: ET.Element) -> tuple[tuple[float, float], ...]:
    """Ring of the footprint; it only narrows a search, and comes in several shapes: what is none is left out."""
    try:
        numbers = [float(n) for n in (root.findtext(".//EXT_POS_LIST") or "").split()]
        ring = tuple(zip(numbers[1::2], numbers[::2], strict=True))
    except ValueError:
        return ()
    usual = len(ring) >= 4 and all(abs(lon) <= 180 and abs(lat) <= 90 for lon, lat in ring)
    return ring if usual else ()


def parse_granule(document: bytes, name: str = "MTD_TL.xml") -> GranuleMetadata:
    """Parse granule metadata.

    Raises
    ------
    SourceError
        If it is not XML, is another document, or has no grid that its tile can have.
    """
    with guarded(f"{name} is not granule metadata that can be understood", _REMEDY):
        return _granule(_root(document, name, "Level-2A_Tile_ID"), name)


def _granule(root: ET.Element, name: str) -> GranuleMetadata:
    tile = re.search(r"_T(\d{2}[A-Z]{3})_", _text(root, "TILE_ID", name))
    grids = dict(_grids(root, name))
    if tile is None or not grids:
        raise SourceError(f"{name}: no tile id or no Tile_Geocoding in the granule metadata")
    code = _text(root, "HORIZONTAL_CS_CODE", name)
    for grid in grids.values():
        check_grid(name, tile[1], code, (grid.rows, grid.cols), grid.transform)
    grounds = {(g.transform[2], g.transform[5], p * g.rows, p * g.cols) for p, g in grids.items()}
    if len(grounds) > 1:
        raise SourceError(f"{name}: the grids of {', '.join(map(str, grids))} m do not cover one ground; {_REMEDY}")
    strips = [e.text or "" for tag in _tags("DATASTRIP_ID") for e in root.iter(tag)]
    strip = re.search(r"_S(\d{8}T\d{6})", strips[0]) if strips else None
    zenith = (root.findtext(".//Mean_Sun_Angle/ZENITH_ANGLE") or "nan").strip()
    return GranuleMetadata(
        tile=tile[1],
        datastrip_start=datetime.strptime(strip[1], "%Y%m%dT%H%M%S") if strip else None,
        sensing_time=parse_time(_text(root, "SENSING_TIME", name)),
        proj_code=code,
        grids=grids,
        sun_elevation=90.0 - float(zenith) if math.isfinite(float(zenith)) else None,
    )


def _grids(root: ET.Element, name: str) -> Iterator[tuple[int, Resolution]]:
    sizes = {s.get("resolution"): s for s in root.iter("Size")}
    for place in root.iter("Geoposition"):
        pixel = place.get("resolution", "")
        if pixel not in sizes:
            raise SourceError(f"{name}: there is no Size of {pixel} m beside its Geoposition; {_REMEDY}")
        ulx, uly, dx, dy = (_number(place, n, name) for n in ("ULX", "ULY", "XDIM", "YDIM"))
        rows, cols = (_whole(sizes[pixel], n, name) for n in ("NROWS", "NCOLS"))
        if dx != int(pixel):
            raise SourceError(f"{name}: pixels of {pixel} m have XDIM {dx:g}; {_REMEDY}")
        yield int(pixel), Resolution(rows, cols, (dx, 0.0, ulx, 0.0, dy, uly))


def _root(document: bytes, name: str, wanted: str) -> ET.Element:
    try:
        root = read_xml(document)
    except ET.ParseError as error:
        raise SourceError(f"{name} is not XML ({error}); {_REMEDY}") from error
    found = root.tag.rpartition("}")[2]
    if found != wanted:
        raise SourceError(f"{name} holds a {found} document where {wanted} is needed")
    return root


def _tags(tag: str) -> tuple[str, str, str]:
    """Names of an element in all issues of the specification."""
    return tag, f"{tag}_2A", f"L2A_{tag}"


def _first(element: ET.Element, *tags: str) -> ET.Element | None:
    found = (element.find(f".//{tag}") for tag in tags)
    return next((e for e in found if e is not None), None)


def _there(element: ET.Element, tag: str) -> bool:
    found = _first(element, *_tags(tag))
    return found is not None and bool((found.text or "").strip())


def _text(element: ET.Element, tag: str, name: str) -> str:
    found = _first(element, *_tags(tag))
    text = "" if found is None else (found.text or "").strip()
    if not text:
        raise SourceError(f"{name}: there is no {tag}")
    return text


def _number(element: ET.Element, tag: str, name: str) -> float:
    text = _text(element, tag, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{name}: {tag} is {text[:40]!r}, not a number; {_REMEDY}")
    return value


def _whole(element: ET.Element, tag: str, name: str) -> int:
    value = _number(element, tag, name)
    if value != int(value):
        raise SourceError(f"{name}: {tag} is {value:g}, not a whole number; {_REMEDY}")
    return int(value)
