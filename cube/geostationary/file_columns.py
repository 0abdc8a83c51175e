"""What a virtual cube must know of its files to be laid out, in columns: a year has 841,000 of them.

All else of a file, its name and where its chunks lie, is looked up when its pixels are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from cube.geostationary.dialect import imager_of
from cube.geostationary.file_index import FileIndex
from cube.geostationary.reference_stac import firsts_of
from cube.geostationary.reference_view import Reference, View, digest_of_file
from stratacube.errors import UsageError

__all__ = ["FileColumns", "columns_of", "read_columns"]


@dataclass(frozen=True)
class FileColumns:
    """Files of a virtual cube, a column for each thing that is known of them."""

    eras: Sequence[FileIndex]
    """A header of each platform, sector, band and encoding: for what is the same in all of them."""
    era: npt.NDArray[np.int32]
    """Which of them a file is of."""
    start: npt.NDArray[np.datetime64]
    mid: npt.NDArray[np.datetime64]
    numbers: dict[str, npt.NDArray[np.float32]]
    """``scale_factor``, ``add_offset`` and the coefficients of the imager."""
    digest: npt.NDArray[np.int64]
    """Tells a file and its encoding from any other."""
    identity: npt.NDArray[np.int64]
    """What ``load`` takes."""
    load: Callable[[int], Reference]

    def __len__(self) -> int:
        return len(self.era)

    def met(self) -> list[int]:
        """Eras that there are files of, as they come."""
        found: list[int] = self.era[np.sort(np.unique(self.era, return_index=True)[1])].tolist()
        return found


@dataclass(frozen=True)
class _Listed:
    """Files that are in memory."""

    references: Sequence[Reference]

    def __call__(self, number: int) -> Reference:
        return self.references[number]


def columns_of(references: Sequence[Reference]) -> FileColumns:
    """Columns of files that are in memory.

    Raises
    ------
    UsageError
        If they are of several instruments.
    """
    headers = [r.header for r in references]
    found: dict[Any, int] = {}
    eras: list[FileIndex] = []
    era = np.empty(len(headers), "i4")
    for i, header in enumerate(headers):
        source = header.source
        key = source.platform, source.sector, header.signature
        if key not in found:
            found[key] = len(eras)
            eras.append(header)
        era[i] = found[key]
    names = _coefficients({header.source.platform for header in eras})
    return FileColumns(
        eras,
        era,
        np.array([h.start for h in headers], "M8[ns]"),
        np.array([h.mid_time for h in headers], "M8[ns]"),
        {
            "scale_factor": np.array([h.scale for h in headers], "f4"),
            "add_offset": np.array([h.offset for h in headers], "f4"),
            **{name: np.array([h.coefficients[name] for h in headers], "f4") for name in names},
        },
        np.array([digest_of_file(h) for h in headers], "i8"),
        np.arange(len(headers)),
        _Listed(references),
    )


@dataclass(frozen=True)
class _Stored:
    """Files of tables: a number tells the table and, in its lower half, the row."""

    tables: Sequence[tuple[View, str]]

    def __call__(self, number: int) -> Reference:
        view, month = self.tables[number >> 32]
        return view.reference(month, number & 0xFFFFFFFF)


def read_columns(
    views: Sequence[View],
    wants: Callable[[str, int], bool],
    spans: Sequence[tuple[str | None, datetime | None, datetime | None]],
) -> FileColumns | None:
    """Read the columns of a store; of a file nothing is read but these.

    Parameters
    ----------
    views
        Satellites and sectors.
    wants
        Whether a band is wanted, by platform and channel.
    spans
        Platforms (all where None) with the period of each: start inclusive, end exclusive.

    Returns
    -------
    FileColumns or None
        None where no file is wanted.

    Raises
    ------
    UsageError
        If files of several instruments are wanted.
    SourceError
        If a table cannot be read.
    """
    eras: list[FileIndex] = []
    parts: list[dict[str, npt.NDArray[Any]]] = []
    tables: list[tuple[View, str]] = []
    platforms: set[str] = set()
    for view in views:
        platform = view.folder.name.partition("-")[0]
        periods = [span for span in spans if span[0] in (None, platform)]
        leaves = [name for name, leaf in view.leaves.items() if wants(platform, leaf.channel)]
        if not periods or not leaves:
            continue
        own = imager_of(platform).coefficients
        numbers = np.full(len(view.leaves), -1, "i4")
        for name, reference in firsts_of(view, leaves).items():
            numbers[list(view.leaves).index(name)] = len(eras)
            eras.append(reference.header)
        for month in sorted(view.months):
            if not any(_meets(month, start, end) for _, start, end in periods):
                continue
            part = _month_columns(view, month, own)
            part["era"] = numbers[part.pop("leaf")]
            named = part.pop("named")
            kept = np.zeros(len(named), bool)
            for _, start, end in periods:
                kept |= (named >= np.datetime64(start or datetime.min)) & (named < np.datetime64(end or datetime.max))
            rows = np.flatnonzero(kept & (part["era"] >= 0))
            tables.append((view, month))
            part["identity"] = np.arange(len(named)) + ((len(tables) - 1) << 32)
            if rows.size:
                platforms.add(platform)
                parts.append({name: values[rows] for name, values in part.items()})
    if not parts:
        return None
    coefficients = _coefficients(platforms)
    whole = {name: np.concatenate([part.pop(name) for part in parts]) for name in [*parts[0]]}
    return FileColumns(
        eras,
        whole["era"],
        whole["start"],
        whole["mid"],
        {
            "scale_factor": whole["scale"],
            "add_offset": whole["offset"],
            **{name: whole[name] for name in coefficients},
        },
        whole["digest"],
        whole["identity"],
        _Stored(tables),
    )


def _coefficients(platforms: Collection[str]) -> Sequence[str]:
    """Names of the coefficients of the one imager that some satellites carry."""
    imagers = {imager_of(platform).title: platform for platform in sorted(platforms)}
    if len(imagers) > 1:
        told = ", ".join(f"{title} ({platform})" for title, platform in sorted(imagers.items()))
        raise UsageError(f"the source holds files of {len(imagers)} instruments, {told}; choose one with platform=")
    return imager_of(next(iter(platforms))).coefficients


def _meets(month: str, start: datetime | None, end: datetime | None) -> bool:
    """Whether a period has some of a month."""
    return not (start and month < f"{start:%Y-%m}") and not (end and month > f"{end:%Y-%m}")


def _month_columns(view: View, month: str, coefficients: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Columns of a table, with the start that names tell beside the one that files tell better."""
    found = view.columns(month, ["leaf", "start", "mid_time", "begin_time", "scale", "offset", "digest", *coefficients])
    found["named"] = found.pop("start").astype("M8[us]")
    begun = found.pop("begin_time").astype("M8[ns]")
    found["start"] = np.where(np.isnat(begun), found["named"].astype("M8[ns]"), begun)
    found["mid"] = found.pop("mid_time").astype("M8[ns]")
    for name in ("scale", "offset", *coefficients):  # as the arrays are that they come to stand in
        found[name] = found[name].astype("f4")
    return found
