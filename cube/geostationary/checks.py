"""What ``doctor`` tries for geostationary imagers: inflating, HDF4, and NOAA's public buckets."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from datetime import datetime

from catalog.geostationary.abi import ABI_NAMES
from catalog.geostationary.names import bucket, prefix
from catalog.geostationary.s3 import s3_filesystem, translate_s3_errors
from catalog.geostationary.scans import SourceFile
from stratacube.checks import Check, Checks, OfflineError, tried
from stratacube.errors import SourceError, StratacubeError, UnavailableError
from stratacube.files import human_bytes
from stratacube.guard import guarded

__all__ = ["CHECKS"]

_PLATFORM, _SECTOR, _HOUR = "goes16", "M1", datetime(2020, 7, 1, 16)
_BEGIN = "OR_ABI-L1b-RadM1-M6C13_G16_s202018316"
"""Of the names of one band of one sector, of the smallest files there are: some 300 kB."""
_BLOCK = 2**16
_TIMEOUT = 10.0


def _here() -> Iterator[Check]:
    yield tried("inflating", _inflate, "pip install --force-reinstall isal")
    yield tried("HDF4", _hdf4, "for CloudSat's granules: pip install 'stratacube[hdf4]'", otherwise="lacks")


def _inflate() -> str:
    import isal  # noqa: PLC0415  (what only asks for help waits for none of it)
    from isal import isal_zlib  # noqa: PLC0415

    data = bytes(range(256)) * 64
    if isal_zlib.decompress(zlib.compress(data)) != data:
        raise RuntimeError("isal gives other bytes than zlib")
    return f"isal {isal.__version__}"


def _hdf4() -> str:
    from importlib.metadata import version  # noqa: PLC0415

    import pyhdf.SD  # noqa: F401, PLC0415

    return f"pyhdf {version('pyhdf')}"


def _live(services: Mapping[str, str]) -> Iterator[Check]:
    endpoint = services.get("noaa") or None
    name = bucket(_PLATFORM)
    try:
        found = _listed(name, endpoint)
    except UnavailableError as error:
        if _unreached(error):
            raise OfflineError(f"s3://{name} at {endpoint or 'AWS'} cannot be reached") from error
        yield Check("listing", "broken", str(error))
        return
    except StratacubeError as error:
        yield Check("listing", "broken", str(error))
        return
    if found is None:
        told = f"s3://{name} holds no {_BEGIN}.. of {_HOUR:%Y-%m-%d %H} h, though it did"
        yield Check("listing", "broken", told, "take a newer version of stratacube, or report it")
        return
    yield Check("listing", "works", f"s3://{name} is listed without credentials")
    yield tried("header", lambda: _header(found, endpoint), "take a newer version of stratacube, or report it")


def _listed(name: str, endpoint: str | None) -> SourceFile | None:
    """The first file of the hour that names tell."""
    with translate_s3_errors(name, endpoint):
        s3 = s3_filesystem(endpoint, connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT)
        place = f"{prefix(_SECTOR, _HOUR, '')}/{_BEGIN}"
        page = s3.call_s3("list_objects_v2", Bucket=name, Prefix=place, MaxKeys=1)
    for thing in page.get("Contents", ()):
        fields = ABI_NAMES.parse_path(thing["Key"])
        if fields is not None:
            return SourceFile(f"s3://{name}/{thing['Key']}", thing["Size"], thing.get("ETag", "").strip('"'), *fields)
    return None


def _header(file: SourceFile, endpoint: str | None) -> str:
    """Read a header by ranges of bytes, held against all that is known of such files."""
    import h5py  # noqa: PLC0415

    from cube.geostationary.dialect import dialect_of  # noqa: PLC0415

    s3 = s3_filesystem(endpoint, connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT)
    with translate_s3_errors(file.href, endpoint):
        remote = s3.open(file.href, block_size=_BLOCK, cache_type="blockcache")
    with remote, guarded(f"{file.href} is not a readable ABI L1b file"), h5py.File(remote, "r") as h5:
        index = dialect_of(file.platform).read(h5, file)
        received = min(remote.cache.cache_info().misses * _BLOCK, file.size)
    if not index.rad.sizes.sum():
        raise SourceError(f"{file.href} has a header, but no pixels")
    return f"{human_bytes(received)} of {file.size} bytes, {index.rad.shape[0]} x {index.rad.shape[1]} pixels"


def _unreached(error: BaseException) -> bool:
    """Whether no connection came about, by what the client raised."""
    from botocore.exceptions import ConnectionError as NotConnected  # noqa: PLC0415
    from botocore.exceptions import HTTPClientError  # noqa: PLC0415

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NotConnected | HTTPClientError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


CHECKS = Checks("GOES", _here, _live, ("noaa",))
"""Its address is that of a server that answers as S3 does, in place of AWS."""
