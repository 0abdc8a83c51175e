"""NOAA's public buckets on S3: the one place where connections are configured and their errors translated."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stratacube.addresses import checked_address, plain_url
from stratacube.errors import StratacubeError, UnavailableError

if TYPE_CHECKING:
    import s3fs

__all__ = [
    "client_faults",
    "faults",
    "read_ranges",
    "refuse_changed",
    "s3_filesystem",
    "split_url",
    "translate_s3_errors",
]

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 15.0
RETRIES = 1
CONNECTIONS = 32
_BODY_TRIES = 2
_CHANGED = "has changed since it was listed"
_LIST_AGAIN = "list the archive again: open it anew, or build anew with `overwrite`"

# The client and its libraries are imported when they are first needed: local archives do without, and they take a fifth
# of a second and of the memory that a build holds before it begins.


def faults() -> tuple[type[Exception], ...]:
    """What s3fs raises when S3 cannot be read; ``ValueError`` for an endpoint that is not a URL."""
    return OSError, *client_faults(), ValueError


def client_faults() -> tuple[type[Exception], ...]:
    """What only the client of S3 raises, whoever reads through it."""
    import aiohttp  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    return BotoCoreError, aiohttp.ClientError


def s3_filesystem(
    endpoint_url: str | None = None,
    *,
    connect_timeout: float = CONNECT_TIMEOUT,
    read_timeout: float = READ_TIMEOUT,
    retries: int = RETRIES,
    connections: int = CONNECTIONS,
) -> s3fs.S3FileSystem:
    """Return the file system of the public buckets, one per process and set of options; safe to share by threads.

    Parameters
    ----------
    endpoint_url
        A server that answers as S3 does; None for AWS, where the buckets lie in us-east-1.
    connect_timeout, read_timeout
        Seconds to wait for a connection, and for the next bytes of an answer.
    retries
        Tries again, with growing waits, after a refused connection, a timeout or a server's error.
    connections
        Connections kept open at once.

    Raises
    ------
    UsageError
        If the endpoint is not an address, or holds a password.

    Notes
    -----
    Nothing is signed: no key of the environment goes to the endpoint, whoever it is. Wrap what uses it in
    :func:`translate_s3_errors`: botocore's own exceptions are not ``OSError``.
    """
    if endpoint_url:
        checked_address(endpoint_url, "s3_endpoint")
    return _filesystem(os.getpid(), endpoint_url or None, connect_timeout, read_timeout, retries, connections)


@lru_cache(maxsize=8)
def _filesystem(
    _process: int,  # a forked child must not use its parent's connections
    endpoint_url: str | None,
    connect_timeout: float,
    read_timeout: float,
    retries: int,
    connections: int,
) -> s3fs.S3FileSystem:
    import s3fs  # noqa: PLC0415

    config: dict[str, Any] = {
        "connect_timeout": connect_timeout,
        "read_timeout": read_timeout,
        "retries": {"mode": "standard", "total_max_attempts": retries + 1},
        "max_pool_connections": connections,
    }
    if endpoint_url is None:
        client = {"region_name": "us-east-1"}
    else:
        client = {}
        config["s3"] = {"addressing_style": "path"}  # a server of one's own rarely has a host name per bucket
    filesystem = s3fs.S3FileSystem(
        anon=True,
        endpoint_url=endpoint_url,
        config_kwargs=config,
        client_kwargs=client,
        max_concurrency=connections,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    # s3fs repeats what botocore has already repeated; what only s3fs can repeat is an answer cut in its middle.
    filesystem.retries = _BODY_TRIES if retries else 1
    return filesystem


def read_ranges(href: str, ranges: Sequence[tuple[int, int]], tag: str, endpoint_url: str | None = None) -> list[bytes]:
    """Read byte ranges of one object at once, on the condition that it is the one that was listed.

    Parameters
    ----------
    href
        ``s3://BUCKET/KEY``.
    ranges
        First byte, and the byte after the last.
    tag
        Its ETag in the listing; empty for no condition, where a server gave none.
    endpoint_url
        As given to :func:`s3_filesystem`.

    Returns
    -------
    list of bytes
        In order; shorter where the object ends.

    Raises
    ------
    UnavailableError
        If it cannot be read, or has changed.
    """
    from fsspec.asyn import sync  # noqa: PLC0415

    s3 = s3_filesystem(endpoint_url)
    with translate_s3_errors(href, endpoint_url):
        blocks: list[bytes] = sync(s3.loop, _gathered, s3, href, ranges, {"IfMatch": f'"{tag}"'} if tag else {})
    return blocks


async def _gathered(
    s3: s3fs.S3FileSystem, href: str, ranges: Sequence[tuple[int, int]], condition: Mapping[str, str]
) -> list[bytes]:
    import aiohttp  # noqa: PLC0415

    bucket, key = split_url(href)

    async def read(start: int, stop: int, tries: int = _BODY_TRIES) -> bytes:
        answer = await s3._call_s3(  # the one of its calls that takes a condition and can be waited for
            "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **condition
        )
        try:
            data: bytes = await answer["Body"].read()
        except (OSError, aiohttp.ClientError):
            if tries == 1:
                raise
            return await read(start, stop, tries - 1)
        finally:
            answer["Body"].close()
        return data

    # All are waited for: one left behind would hold its connection.
    found = await asyncio.gather(*(read(*r) for r in ranges), return_exceptions=True)
    for block in found:
        if isinstance(block, BaseException):
            raise block
    return [block for block in found if isinstance(block, bytes)]


def refuse_changed(href: str, tag: str, found: str | None) -> None:
    """Refuse an object whose ETag is not the one that was listed; one that is not told is not compared.

    Raises
    ------
    UnavailableError
        If they differ.
    """
    if tag and found and found.strip('"') != tag:
        raise UnavailableError(f"{href} {_CHANGED} (ETag {found.strip(chr(34))} where {tag} was listed); {_LIST_AGAIN}")


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` address."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


@contextmanager
def translate_s3_errors(bucket: str, endpoint_url: str | None = None) -> Iterator[None]:
    """Turn whatever S3 raises in the block into one :class:`~stratacube.errors.UnavailableError` with a remedy.

    Parameters
    ----------
    bucket
        What is being read: a bucket, or an address in it.
    endpoint_url
        As given to :func:`s3_filesystem`.
    """
    try:
        yield
    except StratacubeError:
        raise
    except faults() as error:
        where = f"s3://{bucket.removeprefix('s3://')} at {plain_url(endpoint_url) if endpoint_url else 'AWS'}"
        if _is_changed(error):
            raise UnavailableError(f"{where} {_CHANGED}; {_LIST_AGAIN}") from error
        remedy = (
            "check `s3_endpoint`" if endpoint_url else "check the network, give `s3_endpoint`"
        ) + " or read a local copy with `local_data_dir`"
        raise UnavailableError(f"{where} {_what(error)}; {remedy}") from error


def _is_changed(error: BaseException) -> bool:
    """Whether the condition of a read did not hold: s3fs words status 412 as one of these two."""
    return "FileExpired" in type(error).__name__ or (
        isinstance(error, OSError) and error.errno == errno.EINVAL and "pre-condition" in str(error)
    )


def _what(error: BaseException) -> str:
    from botocore.exceptions import BotoCoreError, ConnectTimeoutError, ReadTimeoutError  # noqa: PLC0415

    detail = " ".join(str(error).split())[:160]
    if isinstance(error, PermissionError):
        return f"refused access without credentials ({detail})"
    if isinstance(error, FileNotFoundError):
        return f"does not exist ({detail})"
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError | TimeoutError):
        return "did not answer in time"
    if isinstance(error, BotoCoreError):
        return f"cannot be reached ({detail})"
    return f"could not be read ({detail or type(error).__name__})"
