"""What catalogs hold, in memory as far as pages need it for every item; the rest is read when an item is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape

from stratacube.errors import SourceError, UsageError
from stratacube.guard import guarded

__all__ = ["Asked", "Record", "Shelf"]

_REMEDY = "give the catalog.json of a build, or build it again"
_MIDNIGHT = "T00:00:00"
_DEEPEST = 8
"""Catalogs below one another; more are a ring of links."""


@dataclass(frozen=True)
class Record:
    """One item."""

    key: int
    id: str
    catalog: str
    """Title of the catalog that it is of."""
    rings: tuple[npt.NDArray[np.float64], ...]
    """Longitude and latitude of each part of its footprint."""
    start: str
    """RFC 3339, UTC; empty where the item tells no time."""
    stratum: str
    split: str
    cell: str
    file: Path
    """Of the item, or of the table that it is a row of."""
    row: int | None = None
    share: float | None = None
    """Of its pixels that are valid, where the item tells."""
    end: str = ""
    """As ``start``; the same where the item tells one moment."""

    @property
    def days(self) -> tuple[str, str]:
        """First and last day, ``2020-07-01``; a period that ends at midnight ends the day before."""
        if self.end <= self.start or self.end[10:19] != _MIDNIGHT:
            return self.start[:10], max(self.start, self.end)[:10]
        return self.start[:10], str(np.datetime64(self.end[:10]) - 1)


@dataclass(frozen=True)
class Asked:
    """Which items to show; what is empty asks for nothing."""

    catalog: str = ""
    stratum: str = ""
    split: str = ""
    since: str = ""
    """First day, ``2020-07-01``."""
    until: str = ""
    """Last day."""
    name: str = ""
    """Part of the item's name or cell."""

    def wants(self, record: Record) -> bool:
        """Whether a record is asked for."""
        first, last = record.days
        return (
            self.catalog in ("", record.catalog)
            and self.stratum in ("", record.stratum)
            and self.split in ("", record.split)
            and (not self.since or last >= self.since)
            and (not self.until or (bool(first) and first <= self.until))
            and self.name.lower() in f"{record.id} {record.cell}".lower()
        )


@dataclass
class Shelf:
    """The items of some catalogs, and the folders below which their files lie."""

    records: list[Record] = field(default_factory=list)
    roots: dict[str, Path] = field(default_factory=dict)
    """Folder of each catalog, by title."""
    named: dict[str, Path] = field(default_factory=dict)
    """The same as it was given, which is how a user speaks of it."""

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Shelf:
        """Read catalogs.

        Parameters
        ----------
        paths
            Folders of builds, or their ``catalog.json``.

        Raises
        ------
        UsageError
            If there is no catalog.
        SourceError
            If one cannot be read.
        """
        shelf = cls()
        for path in paths:
            file = path / "catalog.json" if path.is_dir() else path
            if not file.is_file():
                raise UsageError(f"{file} does not exist; {_REMEDY}")
            shelf._add(file.resolve(), file.parent)
        return shelf

    def _add(self, file: Path, named: Path) -> None:
        content = _read(file)
        title = str(content.get("title") or content.get("id") or file.parent.name)
        while title in self.roots:
            title += f" ({file.parent.name})"
        self.roots[title], self.named[title] = file.parent, named
        self._walk(file, content, title, 0)

    def _walk(self, file: Path, content: Mapping[str, Any], title: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise SourceError(f"{file} lies {depth} catalogs deep: their links go in a ring; {_REMEDY}")
        links = [link for link in content.get("links", ()) if isinstance(link, dict)]
        items = [_local(file, link) for link in links if link.get("rel") == "item"]
        for path in items:
            self._take(_read(path), title, path)
        below = [_local(file, link) for link in links if link.get("rel") == "child"]
        for path in below:
            self._walk(path, _read(path), title, depth + 1)
        index = content.get("assets", {}).get("index")
        if not items and not below and index is not None:
            self._take_table(_local(file, index), title)

    def _take(self, item: Mapping[str, Any], title: str, path: Path, row: int | None = None) -> None:
        with guarded(f"{path} is not a STAC item", _REMEDY):
            properties, geometry = item["properties"], item["geometry"]
            placed = shape(geometry) if geometry is not None else shapely.Point()
            share = properties.get("stratacube:valid_share")
            moment = str(properties.get("datetime") or "")
            start, end = (str(properties.get(name) or moment) for name in ("start_datetime", "end_datetime"))
            for day in filter(None, (start[:10], end[:10])):
                np.datetime64(day)  # which pages count by
            self.records.append(
                Record(
                    len(self.records),
                    str(item["id"]),
                    title,
                    tuple(_rings(placed)),
                    start,
                    str(properties.get("stratacube:stratum") or ""),
                    str(properties.get("stratacube:split") or ""),
                    str(properties.get("stratacube:cell") or ""),
                    path,
                    row,
                    None if share is None else float(share),
                    end,
                )
            )

    def _take_table(self, path: Path, title: str) -> None:
        """Take the rows of a stac-geoparquet table, of which there are no files."""
        for row, item in enumerate(_rows(path)):
            self._take(item, title, path, row)

    def item(self, record: Record) -> dict[str, Any]:
        """Read the whole item."""
        if record.row is None:
            return _read(record.file)
        (item,) = _rows(record.file, record.row)
        return item

    def file(self, record: Record, href: str) -> Path | None:
        """Where an item's file lies; None if it is elsewhere than below the item's catalog."""
        if urlparse(href).scheme:
            return None
        path = (record.file.parent / href).resolve()
        return path if path.is_relative_to(self.roots[record.catalog]) else None

    def within(self, record: Record, path: Path) -> Path:
        """A file of a record's catalog as seen from the catalog's folder."""
        return path.relative_to(self.roots[record.catalog])

    def asked(self, asked: Asked) -> list[Record]:
        """Records that are asked for, in order of time."""
        return sorted(filter(asked.wants, self.records), key=lambda record: (record.start, record.id))


def _read(path: Path) -> dict[str, Any]:
    with guarded(f"{path} is not a STAC file", _REMEDY):
        content: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(content, dict) or not isinstance(content.get("links", []), list):
            raise ValueError("it is not an object with links")
        return content


def _local(file: Path, link: Mapping[str, Any]) -> Path:
    """File that a link leads to.

    Raises
    ------
    SourceError
        If it leads elsewhere.
    """
    href = str(link.get("href", ""))
    if not href or urlparse(href).scheme:
        raise SourceError(f"{file} links to {href or 'nothing'}; only catalogs on disk with relative links are browsed")
    return (file.parent / href).resolve()


def _rows(path: Path, row: int | None = None) -> Iterator[dict[str, Any]]:
    """Items of a stac-geoparquet table, or the one of a row: to make an item of a row takes long."""
    import pyarrow.parquet  # noqa: PLC0415  (few catalogs are tables)
    from stac_geoparquet.arrow import stac_table_to_items  # noqa: PLC0415

    with guarded(f"{path} is not a table of STAC items", _REMEDY), pyarrow.parquet.ParquetFile(path) as file:
        first = 0
        for batch in file.iter_batches():
            wanted = range(first, first + len(batch)) if row is None else [row]
            if wanted[0] in range(first, first + len(batch)):
                rows = batch.slice(wanted[0] - first, len(wanted))
                yield from stac_table_to_items(pyarrow.Table.from_batches([rows]))
            first += len(batch)


def _rings(placed: Any) -> Iterator[npt.NDArray[np.float64]]:
    for part in shapely.get_parts(placed):
        if not part.is_empty:
            outline = part.exterior if part.geom_type == "Polygon" else part
            yield np.asarray(shapely.get_coordinates(outline))
