"""Finding the scans of a build: local files, S3, or local first and S3 for what is missing."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from catalog.geostationary.archives import Archive, FirstOf, LocalArchive, S3Archive
from catalog.geostationary.naming import lineage_of
from catalog.geostationary.scans import Scan, find_scans
from cube.config import AbiConfig
from cube.geostationary.pixel_time import LONGEST_SCAN
from cube.plug import imported_of_plug
from cube.registry import STRATA
from stratacube.errors import UsageError
from stratacube.settings import refuse_empty
from stratacube.times import shifted

__all__ = ["archive_of", "find", "in_period", "period_of"]

_log = logging.getLogger(__name__)

_BEGINNING, _END = datetime(2016, 1, 1), datetime(2100, 1, 1)
"""Before the first ABI scan, and after any: the period of a local archive that is taken whole."""


def archive_of(config: AbiConfig) -> Archive:
    """Where a build looks for files."""
    lineage = lineage_of(config.product)
    online = S3Archive(endpoint_url=config.s3_endpoint, lineage=lineage)
    if config.local_data_dir is None:
        return online
    if config.download:
        if config.dry_run and not config.local_data_dir.exists():
            return online
        config.local_data_dir.mkdir(parents=True, exist_ok=True)
        return FirstOf(LocalArchive(config.local_data_dir, lineage=lineage), online)
    return LocalArchive(config.local_data_dir, config.dialect.names, lineage)


def period_of(config: AbiConfig) -> tuple[datetime | None, datetime | None]:
    """First time and end (exclusive) of the scans asked for: where none is given, those of the stratum's inputs.

    Raises
    ------
    UsageError
        If the inputs of the stratum tell none.
    """
    start, end = config.start_dt, config.end_dt
    if start is not None and end is not None:
        return start, end
    spans = []
    for part in config.parts:
        if part.stratum.period:
            with STRATA.blamed(part.name):
                spans.append(imported_of_plug(part.stratum.period)(part.options))
    if not spans:
        return start, end
    start, end = start or min(first for first, _ in spans), end or max(last for _, last in spans)
    refuse_empty(start, end, ("start_dt", "end_dt"))
    return start, end


def in_period(period: tuple[datetime | None, datetime | None], scan: Scan) -> bool:
    """Whether a scan starts in a period, and not just in reach of its time windows."""
    return (period[0] or _BEGINNING) <= scan.start < (period[1] or _END)


def find(config: AbiConfig) -> list[Scan]:
    """List the scans of the period and those that time windows around its events may reach, sorted by start.

    Raises
    ------
    UsageError
        If there are none, or the period is open where it must not be.
    SourceError
        If the archive cannot be listed.
    """
    online = config.local_data_dir is None or config.download
    asked = period_of(config)
    if online and None in asked:
        raise UsageError("listing S3 needs a period; give `start_dt` and `end_dt`")
    reach = timedelta(minutes=config.tolerance_minutes + max(map(abs, config.minutes_about)))
    if any(
        part.stratum.time_means == "observation" for part in config.parts
    ):  # what a scan sees last, it sees long after its start
        reach += LONGEST_SCAN
    archive = archive_of(config)
    found = {
        satellite: find_scans(
            archive,
            platform=satellite,
            sector=config.sector,
            channels=config.channels,
            start=shifted(asked[0] or _BEGINNING, -reach),
            end=shifted(asked[1] or _END, reach),
            naming=config.dialect.names,
        )
        for satellite in config.satellites
    }
    scans = sorted((s for some in found.values() for s in some), key=lambda s: (s.start, s.id))
    for satellite, some in found.items():
        if not some and scans:
            _log.warning("no scan of %s in the period: all tiles are of the other satellites", satellite)
    if not any(in_period(asked, scan) for scan in scans):
        where = config.local_data_dir or config.s3_endpoint or "S3"
        period = f"from {asked[0] or 'the beginning'} to {asked[1] or 'the end'}"
        channels = ", ".join(config.dialect.names.bands[c].name for c in config.channels)
        raise UsageError(
            f"no {config.satellite} {config.sector} scan with {channels} in {where} {period}; "
            "check `satellite`, `domain`, `start_dt` and `end_dt`"
        )
    return scans
