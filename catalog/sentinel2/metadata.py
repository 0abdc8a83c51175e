"""Product and granule metadata of Sentinel-2 L2A: what the numbers of a product mean.

Source: Sentinel-2 Products Specification Document, level-2A product and tile metadata
(``MTD_MSIL2A.xml``, ``MTD_TL.xml``).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from catalog.sentinel2.names import parse_product_name
from stratacube.errors import SourceError
from stratacube.times import parse_time

__all__ = [
    "BAND_IDS",
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

REPROCESSED = "99.99"
"""Baseline number of processings outside ESA's: it tells nothing, the metadata alone decides."""


@dataclass(frozen=True, kw_only=True)
class ProductMetadata:
    """``MTD_MSIL2A.xml``: reflectance = (DN + offset of the band) / quantification."""

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
    quantification: int
    nodata: int
    saturated: int
    cloud_cover: float | None
    footprint: tuple[tuple[float, float], ...]
    """Ring of (longitude, latitude)."""
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
    root = _root(document, name, "Level-2A_User_Product")
    uri = _text(root, "PRODUCT_URI", name).removesuffix(".SAFE")
    baseline = _text(root, "PROCESSING_BASELINE", name)
    named = parse_product_name(uri)
    if named.baseline != baseline:
        raise SourceError(
            f"{name}: the product is named {uri} but its PROCESSING_BASELINE is {baseline}; fetch it again"
        )
    granule = root.find(".//Granule")
    strip = re.search(r"_S(\d{8}T\d{6})", granule.get("datastripIdentifier", "")) if granule is not None else None
    special = {
        (s.findtext("SPECIAL_VALUE_TEXT") or "").strip(): int(s.findtext("SPECIAL_VALUE_INDEX") or 0)
        for s in root.iter("Special_Values")
    }
    orbit = root.findtext(".//SENSING_ORBIT_NUMBER")
    cloud = root.findtext(".//Cloud_Coverage_Assessment")
    return ProductMetadata(
        id=uri,
        baseline=baseline,
        processing_time=parse_time(_text(root, "GENERATION_TIME", name)),
        datatake_start=parse_time(_text(root, "DATATAKE_SENSING_START", name)),
        datastrip_start=datetime.strptime(strip[1], "%Y%m%dT%H%M%S") if strip else None,
        platform=named.platform,
        relative_orbit=int(orbit) if orbit else None,
        offsets=_offsets(root),
        quantification=_quantification(root, name),
        nodata=special.get("NODATA", 0),
        saturated=special.get("SATURATED", 65535),
        cloud_cover=float(cloud) if cloud else None,
        footprint=_footprint(root),
        images=tuple((i.text or "").strip() for i in root.iter("IMAGE_FILE")),
    )


def _quantification(root: ET.Element, name: str) -> int:
    value = float(_text(root, "BOA_QUANTIFICATION_VALUE", name))
    if value <= 0 or value != int(value):
        raise SourceError(f"{name}: BOA_QUANTIFICATION_VALUE is {value}, not a positive whole number")
    return int(value)


def _offsets(root: ET.Element) -> dict[str, int] | None:
    """Offsets by band; the document's own list of bands, where it has one, says which id is which band."""
    ids = {str(i): band for i, band in enumerate(BAND_IDS)}
    for band in root.iter("Spectral_Information"):
        physical = band.get("physicalBand", "")
        ids[band.get("bandId", "")] = f"B{int(physical[1:]):02d}" if physical[1:].isdigit() else physical
    found = list(root.iter("BOA_ADD_OFFSET"))
    return {ids[o.get("band_id", "")]: int(float(o.text or 0)) for o in found} if found else None


def _footprint(root: ET.Element) -> tuple[tuple[float, float], ...]:
    numbers = [float(n) for n in (root.findtext(".//EXT_POS_LIST") or "").split()]
    return tuple(zip(numbers[1::2], numbers[::2], strict=True))


def parse_granule(document: bytes, name: str = "MTD_TL.xml") -> GranuleMetadata:
    """Parse granule metadata.

    Raises
    ------
    SourceError
        If it is not XML, is another document, or has no grid.
    """
    root = _root(document, name, "Level-2A_Tile_ID")
    tile = re.search(r"_T(\d{2}[A-Z]{3})_", _text(root, "TILE_ID", name))
    strip = re.search(r"_S(\d{8}T\d{6})", root.findtext(".//DATASTRIP_ID") or "")
    sizes = {int(s.get("resolution", 0)): s for s in root.iter("Size")}
    grids = {}
    for place in root.iter("Geoposition"):
        pixel = int(place.get("resolution", 0))
        ulx, uly, dx, dy = (float(_text(place, n, name)) for n in ("ULX", "ULY", "XDIM", "YDIM"))
        rows, cols = (int(_text(sizes[pixel], n, name)) for n in ("NROWS", "NCOLS"))
        grids[pixel] = Resolution(rows, cols, (dx, 0.0, ulx, 0.0, dy, uly))
    if tile is None or not grids:
        raise SourceError(f"{name}: no tile id or no Tile_Geocoding in the granule metadata")
    zenith = root.findtext(".//Mean_Sun_Angle/ZENITH_ANGLE")
    return GranuleMetadata(
        tile=tile[1],
        datastrip_start=datetime.strptime(strip[1], "%Y%m%dT%H%M%S") if strip else None,
        sensing_time=parse_time(_text(root, "SENSING_TIME", name)),
        proj_code=_text(root, "HORIZONTAL_CS_CODE", name),
        grids=grids,
        sun_elevation=90.0 - float(zenith) if zenith and zenith.strip().lower() != "nan" else None,
    )


def _root(document: bytes, name: str, wanted: str) -> ET.Element:
    if b"<!ENTITY" in document:
        raise SourceError(f"{name}: the XML declares entities, which no Sentinel-2 metadata does")
    try:
        root = ET.fromstring(document)
    except ET.ParseError as error:
        raise SourceError(f"{name} is not XML ({error})") from error
    found = root.tag.rpartition("}")[2]
    if found != wanted:
        raise SourceError(f"{name} holds a {found} document where {wanted} is needed")
    return root


def _text(element: ET.Element, tag: str, name: str) -> str:
    text = element.findtext(f".//{tag}")
    if not text or not text.strip():
        raise SourceError(f"{name}: there is no {tag}")
    return text.strip()
