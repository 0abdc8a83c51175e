"""A virtual cube as an Icechunk repository: the same references, with versions and transactions of Icechunk's."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import zarr

from cube.geostationary.dialect import dialect_of
from cube.geostationary.file_index import ChunkTable, FileIndex
from cube.geostationary.open import time_of
from cube.geostationary.reference_leaf import pixel_coordinates
from cube.geostationary.references import Reference, is_reference_store, read_references, reference_views
from stratacube.errors import UsageError
from stratacube.files import whole_folder
from stratacube.times import to_microseconds

__all__ = ["export_icechunk"]

_SCANS = 144
"""Scans of a band that are put into one transaction: a day of full disks has a million references of a fine band."""


def export_icechunk(
    folder: Path | str,
    target: Path | str,
    bands: Sequence[str | int] | str | int | None = None,
    start: str | datetime | None = None,
    end: str | datetime | None = None,
    *,
    s3_endpoint: str | None = None,
) -> list[str]:
    """Write a virtual cube as an Icechunk repository on a local disk; needs the extra ``icechunk``.

    Parameters
    ----------
    folder
        Of the cube.
    target
        Of the repository; it must not be there.
    bands, start, end
        What of it, as :func:`cube.open_abi` has them; all by default.
    s3_endpoint
        S3 endpoint instead of AWS, of source files on S3.

    Returns
    -------
    list of str
        Groups of the repository, such as ``goes16-F/C13-1f3a5b7c9d0e``: one a band and era, with counts, flags and
        coordinates of (time, y, x). Source files are read where they lie; one that has changed since is refused.

    Raises
    ------
    UsageError
        If the extra is not installed, there is no cube, or nothing of it is wanted, or the target is there.
    """
    try:
        import icechunk  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("Icechunk needs its package; install it with: pip install 'stratacube[icechunk]'") from error
    root, path = Path(folder), Path(target)
    if not is_reference_store(root):
        raise UsageError(f"{root} is not a virtual cube; make one with make_cube, or give the references of a build")
    if path.exists():
        raise UsageError(f"{path} is there already; give another folder")
    groups: dict[str, list[Reference]] = {}
    for reference in read_references(root, channels=_channels(root, bands), start=time_of(start), end=time_of(end)):
        header = reference.header
        view = f"{header.source.platform}-{header.source.sector}"
        band = dialect_of(header.source.platform).names.bands[header.source.channel].name
        groups.setdefault(f"{view}/{band}-{header.signature}", []).append(reference)
    if not groups:
        raise UsageError(f"{root} holds no scan of this; check bands, start and end")
    with whole_folder(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Numcodecs codecs are not in the Zarr version 3 specification")
        repository = _repository(icechunk, part, [r for members in groups.values() for r in members], s3_endpoint)
        for name, members in groups.items():
            members.sort(key=lambda r: r.header.source.start)
            _write_group(icechunk, repository, name, members)
    return sorted(groups)


def _channels(root: Path, bands: Sequence[str | int] | str | int | None) -> list[int] | None:
    """Numbers of some bands of a cube."""
    if bands is None:
        return None
    platforms = {view.folder.name.partition("-")[0] for view in reference_views(root)}
    names = {dialect_of(platform).names.title: dialect_of(platform).names for platform in platforms}
    if len(names) > 1:
        raise UsageError(f"{root} holds bands of {' and '.join(sorted(names))}; export it whole, without `bands`")
    (naming,) = names.values()
    return naming.numbers_among([bands] if isinstance(bands, (str, int)) else bands)


def _containers(references: Sequence[Reference]) -> set[str]:
    """Beginnings of the addresses of source files: their buckets, or the folder that holds all that are local."""
    addresses = [urlsplit(reference.header.source.href) for reference in references]
    found = {f"{address.scheme}://{address.netloc}/" for address in addresses if address.scheme}
    folders = [os.path.dirname(address.path) for address in addresses if not address.scheme]
    return found | ({f"file://{os.path.commonpath(folders)}/"} if folders else set())


def _repository(icechunk: Any, path: Path, references: Sequence[Reference], s3_endpoint: str | None) -> Any:
    config = icechunk.RepositoryConfig.default()
    for prefix in sorted(_containers(references)):
        if prefix.startswith("file://"):
            store = icechunk.local_filesystem_store(prefix.removeprefix("file://"))
        else:
            store = icechunk.s3_store(
                region="us-east-1",
                anonymous=True,
                endpoint_url=s3_endpoint,
                allow_http=s3_endpoint is not None and s3_endpoint.startswith("http://"),
                force_path_style=s3_endpoint is not None,
            )
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)), config)


def _write_group(icechunk: Any, repository: Any, name: str, members: Sequence[Reference]) -> None:
    like = members[0].header
    dialect = dialect_of(like.source.platform)
    tables = {dialect.quality: "dqf", dialect.counts: "rad"}
    if dialect.quality == dialect.counts:
        tables = {dialect.counts: "rad"}
    session = repository.writable_session("main")
    group = zarr.open_group(session.store, mode="a", zarr_format=3).create_group(name)
    for variable, attributes in dialect.attributes(like).items():
        _create(group, variable, getattr(like, tables[variable]), len(members), attributes)
    times = np.array([to_microseconds(m.header.mid_time) for m in members], "i8")
    _small(group, "time", times, ("time",), _TIME)
    for variable, (values, dims, attributes) in pixel_coordinates(like).items():
        _small(group, variable, values, dims, attributes)
    for first in range(0, len(members), _SCANS):
        for position, member in enumerate(members[first : first + _SCANS], first):
            index = member.load()
            for variable, attribute in tables.items():
                session.store.set_virtual_refs(
                    f"/{name}/{variable}", [*_specs(icechunk, index, getattr(index, attribute), position)]
                )
        session.commit(f"{name}: scans {first} to {min(first + _SCANS, len(members)) - 1}")
        session = repository.writable_session("main")


_TIME = {"standard_name": "time", "units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian"}


def _create(group: zarr.Group, name: str, table: ChunkTable, scans: int, attributes: Any) -> None:
    from zarr.codecs import numcodecs  # noqa: PLC0415

    size = np.dtype(table.dtype).itemsize
    codecs = {"shuffle": numcodecs.Shuffle(elementsize=size), "deflate": numcodecs.Zlib(level=1)}
    group.create_array(
        name,
        shape=(scans, *table.shape),
        chunks=(1, *table.chunks),
        dtype=np.dtype(table.dtype),
        fill_value=table.fill,
        filters=None,
        compressors=[codecs[f] for f in table.filters] or None,
        dimension_names=("time", "y", "x"),
        attributes=dict(attributes),
    )


def _small(group: zarr.Group, name: str, values: Any, dims: tuple[str, ...], attributes: Any) -> None:
    array = group.create_array(name, data=values, dimension_names=dims or None)
    array.attrs.update(attributes)


def _specs(icechunk: Any, index: FileIndex, table: ChunkTable, position: int) -> Iterator[Any]:
    """References of one file; a chunk never written has none."""
    href, tag = index.source.href, index.source.tag
    checked: dict[str, Any] = {"etag_checksum": tag}
    if not href.startswith("s3://"):
        href = f"file://{href}"
        # To the second: what changed within it is taken for unchanged.
        checked = {"last_updated_at_checksum": datetime.fromtimestamp(-(-int(tag) // 10**9), UTC)}
    for row, col in np.ndindex(table.sizes.shape):
        length = int(table.sizes[row, col])
        if length:
            yield icechunk.VirtualChunkSpec([position, row, col], href, int(table.offsets[row, col]), length, **checked)
