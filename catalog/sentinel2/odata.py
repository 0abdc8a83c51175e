"""CDSE's older catalogue (OData), for when its STAC API fails, and the manifest that lists a product's files.

An answer has at most 1,000 products and no order of its own, and past the ten-thousandth the next ones silently stop
coming: so the period is cut in slices, each ordered and small enough to be read to its end.

Source: https://documentation.dataspace.copernicus.eu/APIs/OData.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import requests

from catalog.sentinel2.checksums import read_checksum
from catalog.sentinel2.convert import Access, number_of
from catalog.sentinel2.items import Asset, Product
from catalog.sentinel2.names import asset_key, parse_datastrip, parse_product_name
from catalog.sentinel2.outlines import footprint_bbox
from catalog.sentinel2.query import BBox, Query
from catalog.sentinel2.rate import Pace
from catalog.sentinel2.select import Dropped
from catalog.sentinel2.web import PacedAdapter, explain, http_session
from stratacube.errors import SourceError
from stratacube.guard import guarded
from stratacube.plain_xml import read_xml
from stratacube.times import format_time, parse_time

__all__ = ["CDSE_ODATA", "CDSE_ZIPPER", "expand_manifest", "manifest_digests", "product_from_odata", "search_odata"]

CDSE_ODATA = "https://catalogue.dataspace.copernicus.eu/odata/v1/Products"
CDSE_ZIPPER = "https://zipper.dataspace.copernicus.eu/odata/v1"

_TOP = 1000
_LAST = 10_000
"""Products of one question that can be reached."""

_SLICE = timedelta(days=31)
_SHORTEST = timedelta(minutes=1)
_REMEDY = "give a saved search as `items`"
_MANIFEST = "manifest.safe"


def search_odata(
    query: Query,
    url: str = CDSE_ODATA,
    *,
    access: Access = "https",
    zipper: str = CDSE_ZIPPER,
    pace: Pace | None = None,
    timeout: float = 120.0,
    tries: int = 5,
    pause: float = 1.0,
    page_size: int = _TOP,
    last: int = _LAST,
) -> tuple[list[Product], list[Dropped]]:
    """Search the OData catalogue.

    Parameters
    ----------
    query
        What is wanted.
    url
        Address of the catalogue's products.
    access
        Which address the manifests get: ``https`` from ``zipper``, else ``s3``.
    zipper
        Where files are downloaded.
    pace, timeout, tries, pause
        As of :func:`catalog.sentinel2.search.search_stac`.
    page_size, last
        Products an answer, and products of one question that can be reached.

    Returns
    -------
    products : list of Product
        Each once, by time and id. Their only asset is the manifest (see :func:`expand_manifest`).
    refused : list of Dropped
        Those that cannot be understood.

    Raises
    ------
    SourceError
        If the catalogue is out of reach, refuses or is too slow; one sentence.
    """
    catalogue = _Catalogue(url, pace or Pace(4.0), timeout, tries, pause, page_size, last)
    found: dict[str, Product] = {}
    refused: dict[str, Dropped] = {}
    boxes: list[BBox | None] = [*query.boxes()] or [None]
    for box in boxes:
        for begin, end in (part for period in query.intervals() for part in _slices(*period)):
            for entry in catalogue.products(query, box, begin, end):
                try:
                    product = product_from_odata(entry, access, zipper)
                    found.setdefault(product.id, product)
                except SourceError as error:
                    name = _name(entry) or "a product without a name"
                    refused[name] = Dropped(name, str(error), fault=True)
    return sorted(found.values(), key=lambda p: (p.datatake_start, p.id)), list(refused.values())


def _slices(begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while begin < end:
        until = min(begin + _SLICE, end)
        yield begin, until
        begin = until


class _Catalogue:
    """Questions to one OData service."""

    def __init__(
        self, url: str, pace: Pace, timeout: float, tries: int, pause: float, page_size: int, last: int
    ) -> None:
        self.url, self.timeout, self.page_size, self.last = url, timeout, page_size, last
        self._session = http_session(PacedAdapter(pace, tries=tries, pause=pause))

    def products(self, query: Query, box: BBox | None, begin: datetime, end: datetime) -> Iterator[dict[str, Any]]:
        """Products of a slice; one that has too many is halved."""
        found: list[dict[str, Any]] = []
        text = _filter(query, box, begin, end)
        while True:
            page = self._page(text, len(found))
            found += page
            if len(page) < self.page_size:
                yield from found
                return
            if len(found) + self.page_size > self.last:
                break
        if end - begin <= _SHORTEST:
            raise SourceError(
                f"{self.url} has more than {self.last} products from {begin} to {end}; ask for a smaller area"
            )
        middle = begin + (end - begin) / 2
        yield from self.products(query, box, begin, middle)
        yield from self.products(query, box, middle, end)

    def _page(self, text: str, skip: int) -> list[dict[str, Any]]:
        parameters = {
            "$filter": text,
            "$expand": "Attributes",
            "$orderby": "ContentDate/Start asc,Name asc",
            "$top": str(self.page_size),
            "$skip": str(skip),
        }
        try:
            response = self._session.get(self.url, params=parameters, timeout=self.timeout)
        except requests.RequestException as error:
            raise explain(self.url, error, None, "", _REMEDY) from None
        if response.status_code != requests.codes.ok:
            raise explain(self.url, None, response.status_code, response.text, _REMEDY)
        try:
            return list(response.json()["value"])
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{self.url} answered what is not a list of products ({type(error).__name__}); {_REMEDY}"
            ) from error


def _filter(query: Query, box: BBox | None, begin: datetime, end: datetime) -> str:
    terms = [
        "Collection/Name eq 'SENTINEL-2'",
        "Attributes/OData.CSC.StringAttribute/any(a:a/Name eq 'productType' "
        "and a/OData.CSC.StringAttribute/Value eq 'S2MSI2A')",
        f"ContentDate/Start ge {format_time(begin, 'milliseconds')}",
        f"ContentDate/Start lt {format_time(end, 'milliseconds')}",
    ]
    if box is not None:
        west, south, east, north = box
        corners = ((west, south), (east, south), (east, north), (west, north), (west, south))
        ring = ",".join(f"{x:.7f} {y:.7f}" for x, y in corners)
        terms.append(f"OData.CSC.Intersects(area=geography'SRID=4326;POLYGON(({ring}))')")
    if query.max_cloud_cover is not None:
        terms.append(
            "Attributes/OData.CSC.DoubleAttribute/any(a:a/Name eq 'cloudCover' "
            f"and a/OData.CSC.DoubleAttribute/Value le {query.max_cloud_cover:.2f})"
        )
    return " and ".join(terms)


def product_from_odata(entry: Mapping[str, Any], access: Access = "https", zipper: str = CDSE_ZIPPER) -> Product:
    """Read one product of an answer.

    Raises
    ------
    SourceError
        If it is not a level 2A product.
    """
    with guarded(f"product {_name(entry) or 'without a name'} of the OData catalogue cannot be understood"):
        return _product(entry, access, zipper)


def _name(entry: Any) -> str:
    name = entry.get("Name") if isinstance(entry, Mapping) else None
    return name.removesuffix("/").removesuffix(".SAFE") if isinstance(name, str) else ""


def _product(entry: Mapping[str, Any], access: Access, zipper: str) -> Product:
    name = parse_product_name(entry["Name"])
    told = {a["Name"].lower(): a["Value"] for a in entry.get("Attributes", ())}
    folder = entry["Name"].removesuffix("/")
    if access == "https":
        href = f"{zipper}/Products({entry['Id']})/Nodes({folder})/Nodes({_MANIFEST})/$value"
    else:
        href = f"s3:/{entry['S3Path']}/{_MANIFEST}"
    footprint = _footprint(entry)
    processed, cloud = told.get("processingdate"), told.get("cloudcover")
    return Product(
        id=folder.removesuffix(".SAFE"),
        tile=name.tile,
        platform=name.platform,
        datatake_start=_time(entry["ContentDate"]["Start"], name.sensing),
        datastrip_start=parse_datastrip(told.get("datastripidentifier") or told.get("datastripid") or ""),
        baseline=name.baseline,
        processing_time=parse_time(processed) if processed else name.discriminator,
        relative_orbit=name.relative_orbit,
        cloud_cover=number_of(cloud),
        bbox=footprint_bbox(footprint, name.tile),
        geometry=footprint,
        assets={"safe_manifest": Asset(href=href)},
    )


def _time(text: str, named: datetime) -> datetime:
    """Start with milliseconds where it agrees with the name to the second."""
    time = parse_time(text)
    return time if time.replace(microsecond=0) == named else named


def _footprint(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """GeoJSON as it came, or of ``geography'SRID=4326;POLYGON ((..))'``; None for none, for it decides nothing."""
    if isinstance(entry.get("GeoFootprint"), dict):
        return dict(entry["GeoFootprint"])
    import shapely  # noqa: PLC0415  (only answers without GeoFootprint need it)

    with suppress(TypeError, AttributeError, shapely.errors.ShapelyError):
        return dict(shapely.geometry.mapping(shapely.from_wkt(entry["Footprint"].partition(";")[2].rstrip("'"))))
    return None


def expand_manifest(product: Product, document: bytes) -> Product:
    """Add the files that a manifest lists, with their sizes and MD5 digests.

    Parameters
    ----------
    product
        With ``safe_manifest`` among its assets: the files' addresses follow from its address.
    document
        ``manifest.safe``.

    Raises
    ------
    SourceError
        If the document is not a manifest.
    """
    manifest = product.assets["safe_manifest"]
    assets: dict[str, Asset] = dict(product.assets)
    for path, size, digest in _streams(document, f"{product.id}: manifest.safe"):
        key = _manifest_key(path)
        if key is not None:
            assets[key] = Asset(href=_sibling(manifest.href, path), size=size, checksum=digest)
    if "granule_metadata" not in assets:
        raise SourceError(f"{product.id}: manifest.safe lists no MTD_TL.xml; the product may be incomplete")
    return replace(product, assets=assets)


def manifest_digests(document: bytes, name: str) -> dict[str, str]:
    """Digests of a product's files, by path below it: those of the kinds that :mod:`~.checksums` knows.

    Parameters
    ----------
    document
        ``manifest.safe``.
    name
        What to call it.

    Raises
    ------
    SourceError
        If the document is not a manifest.
    """
    return {path: digest for path, _, digest in _streams(document, name) if path and digest is not None}


def _streams(document: bytes, name: str) -> Iterator[tuple[str, int | None, str | None]]:
    """Path, size and digest of each file that a manifest lists."""
    with guarded(f"{name} is not XML that can be read", "fetch it again"):
        root = read_xml(document)
    for stream in root.iter("byteStream"):
        location, size = stream.find("fileLocation"), stream.get("size", "")
        path = (location.get("href", "") if location is not None else "").removeprefix("./")
        known = [c for c in stream.iter("checksum") if c.get("checksumName") in ("MD5", "SHA3-256")]
        digests = (read_checksum((c.text or "").strip()) for c in known)
        yield path, int(size) if size.isascii() and size.isdigit() else None, next((d for d in digests if d), None)


def _manifest_key(path: str) -> str | None:
    folders = path.split("/")
    if folders[-1].lower() == "mtd_msil2a.xml" and len(folders) == 1:
        return "product_metadata"
    if folders[0] != "GRANULE":
        return None
    if folders[-1] == "MTD_TL.xml":
        return "granule_metadata"
    return asset_key(path) if "IMG_DATA" in folders else None


def _sibling(manifest: str, path: str) -> str:
    """Address of a file beside the manifest."""
    node = f"/Nodes({_MANIFEST})/$value"
    if manifest.endswith(node):
        return manifest.removesuffix(node) + "".join(f"/Nodes({part})" for part in path.split("/")) + "/$value"
    return manifest.rpartition("/")[0] + "/" + path
