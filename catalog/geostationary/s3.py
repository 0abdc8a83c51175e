"""NOAA's public buckets on S3: the one place where connections are configured and their errors translated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from stratacube.addresses import checked_address, plain_url
from stratacube.errors import SourceError, StratacubeError

if TYPE_CHECKING:
    import s3fs

__all__ = ["faults", "s3_filesystem", "split_url", "translate_s3_errors"]

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 15.0
RETRIES = 1
CONNECTIONS = 32
_BODY_TRIES = 2

# The client and its libraries are imported when they are first needed: local archives do without, and they take a fifth
# of a second and of the memory that a build holds before it begins.


def faults() -> tuple[type[Exception], ...]:
    """What s3fs raises when S3 cannot be read; ``ValueError`` for an endpoint that is not a URL."""
    import aiohttp  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    return OSError, BotoCoreError, aiohttp.ClientError, ValueError


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


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key of an ``s3://`` address."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


@contextmanager
def translate_s3_errors(bucket: str, endpoint_url: str | None = None) -> Iterator[None]:
    """Turn whatever S3 raises in the block into one :class:`~stratacube.errors.SourceError` with a remedy.

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
        remedy = (
            "check `s3_endpoint`" if endpoint_url else "check the network, give `s3_endpoint`"
        ) + " or read a local copy with `local_data_dir`"
        raise SourceError(f"{where} {_what(error)}; {remedy}") from error


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
