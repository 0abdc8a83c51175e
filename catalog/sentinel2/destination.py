r"""Where a request goes, and whether a secret may go along: one decision for tokens, passwords and signatures.

It is made on the prepared request, after everything that rewrites an address, and so for each redirect anew. The text
of an address is never asked: ``https://thief\@zipper.dataspace.copernicus.eu/`` is CDSE's for one parser, the thief's
for another, and what counts is which host the library connects to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from stratacube.addresses import plain_url, why_odd
from stratacube.errors import SourceError

__all__ = ["Destination", "asks_cdse", "destination", "is_cdse", "is_trusted", "may_have_secrets", "prepare", "send"]

_CDSE = "dataspace.copernicus.eu"
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Destination:
    """What a connection is made to."""

    scheme: str
    host: str
    port: int


def prepare(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> requests.PreparedRequest:
    """Prepare a request: GET, or POST where there are ``data``.

    Raises
    ------
    SourceError
        If the address is odd.
    """
    reason = why_odd(url)
    if reason is None:
        try:
            return session.prepare_request(
                requests.Request("GET" if data is None else "POST", url, headers=headers, data=data)
            )
        except requests.RequestException:
            reason = "is not one of the web"
    raise SourceError(f"{plain_url(url)} is not an address to ask ({reason}); search again, or give another source")


def send(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
    """Send a prepared request through the proxies of the environment; redirects are not followed."""
    told = session.merge_environment_settings(request.url, {}, options.pop("stream", None), None, None)
    return session.send(request, allow_redirects=False, **told, **options)


def destination(request: requests.PreparedRequest) -> Destination:
    """Host that a prepared request connects to.

    requests parses the prepared address once more with the standard library, urllib3 with its own parser.

    Raises
    ------
    SourceError
        If the two do not agree.
    """
    url = request.url or ""
    try:
        one, other = urlsplit(url), parse_url(url)
        scheme, host, port = one.scheme.lower(), (one.hostname or "").lower(), one.port or _PORTS.get(one.scheme, 0)
        seen = other.scheme, (other.host or "").strip("[]").lower(), other.port or _PORTS.get(other.scheme or "", 0)
    except (ValueError, LocationParseError):
        scheme, host, port, seen = "", "", 0, None
    if not host or not port or seen != (scheme, host, port):
        raise SourceError(f"{plain_url(url)} may be read as two hosts; it is not asked")
    return Destination(scheme, host, port)


def is_cdse(there: Destination) -> bool:
    """Whether a host is one of CDSE, over HTTPS: where its tokens may be sent."""
    return there.scheme == "https" and there.port == 443 and (there.host == _CDSE or there.host.endswith(f".{_CDSE}"))


def is_trusted(hosts: Collection[str], there: Destination) -> bool:
    """Whether a host is one of CDSE, or one of those that a user named as ``HOST`` or ``HOST:PORT``."""
    named = f"{there.host}:{there.port}"
    return is_cdse(there) or named in hosts or (there.port == _PORTS["https"] and there.host in hosts)


def asks_cdse(url: str) -> bool:
    """Whether an address is that of a service of CDSE; an odd one is not."""
    try:
        return is_cdse(destination(prepare(requests.Session(), url)))
    except SourceError:
        return False


def may_have_secrets(request: requests.PreparedRequest, trusted: Callable[[Destination], bool]) -> bool:
    """Whether a secret may be put into a prepared request.

    Parameters
    ----------
    request
        As it will be sent.
    trusted
        Whether a host may have the secret.

    Notes
    -----
    Without TLS a secret is sent to this machine alone, and then not by way of a proxy.
    """
    there = destination(request)
    return trusted(there) and (there.scheme == "https" or _stays_here(there, request.url or ""))


def _stays_here(there: Destination, url: str) -> bool:
    try:
        here = there.host == "localhost" or ipaddress.ip_address(there.host).is_loopback
    except ValueError:
        here = False
    return here and select_proxy(url, get_environ_proxies(url, None)) is None
