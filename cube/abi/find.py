"""Finding the scans of a build: local files, S3, or local first and S3 for what is missing."""

from __future__ import annotations

from datetime import datetime

from catalog.abi.archives import Archive, FirstOf, LocalArchive, S3Archive
from catalog.abi.scans import Scan, find_scans
from catalog.errors import UsageError
from cube.config import AbiConfig

__all__ = ["archive_of", "find"]

_BEGINNING, _END = datetime(2016, 1, 1), datetime(2100, 1, 1)
"""Before the first ABI scan, and after any: the period of a local archive that is taken whole."""


def archive_of(config: AbiConfig) -> Archive:
    """Where a build looks for files."""
    if config.local_data_dir is None:
        return S3Archive(endpoint_url=config.s3_endpoint)
    if config.download:
        config.local_data_dir.mkdir(parents=True, exist_ok=True)
        return FirstOf(LocalArchive(config.local_data_dir), S3Archive(endpoint_url=config.s3_endpoint))
    return LocalArchive(config.local_data_dir)


def find(config: AbiConfig) -> list[Scan]:
    """List the scans of the period, sorted by start.

    Raises
    ------
    UsageError
        If there are none, or the period is open where it must not be.
    SourceError
        If the archive cannot be listed.
    """
    online = config.local_data_dir is None or config.download
    if online and (config.start_dt is None or config.end_dt is None):
        raise UsageError("listing S3 needs a period; pass --start-dt and --end-dt")
    scans = find_scans(
        archive_of(config),
        platform=config.satellite,
        sector=config.sector,
        channels=config.channels,
        start=config.start_dt or _BEGINNING,
        end=config.end_dt or _END,
    )
    if not scans:
        where = config.local_data_dir or config.s3_endpoint or "S3"
        period = f"from {config.start_dt or 'the beginning'} to {config.end_dt or 'the end'}"
        channels = ", ".join(f"C{c:02d}" for c in config.channels)
        raise UsageError(
            f"no {config.satellite} {config.sector} scan with {channels} in {where} {period}; "
            "check --satellite, --domain, --start-dt and --end-dt"
        )
    return scans
