"""Addresses in the web: what is odd about one, and how one is shown without the secrets it may hold."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from stratacube.errors import UsageError

__all__ = ["checked_address", "plain_url", "why_odd"]

_AUTHORITY = re.compile(r"[^:/?#]*://([^/?#]*)")


def why_odd(url: str) -> str | None:
    """Say why an address is not taken, or None.

    What is refused here is what two parsers may read as two hosts (backslashes, blanks, a user before an ``@``), what
    breaks lines of a protocol or a log (control characters), and what holds a password.
    """
    if "\\" in url:
        return "has a backslash"
    if any(c.isspace() or not c.isprintable() for c in url):
        return "has a blank or a control character"
    authority = _AUTHORITY.match(url)
    if authority is None:
        return "has no scheme and host"
    if "@" in authority[1]:
        return "has a user or password before the host"
    parts = _parts(url)
    if parts is None:
        return "has a host or port that is not one"
    return None if parts.hostname else "has no host"


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.hostname, parts.port  # they are parsed when asked for
    except ValueError:
        return None
    return parts


def plain_url(url: str) -> str:
    """Address without user, query and fragment, which may hold passwords and signatures; fit for one line of a log.

    Of an address that is odd (see :func:`why_odd`) all before its last ``@`` is left out.
    """
    text = re.split(r"[?#]", url, maxsplit=1)[0]
    if why_odd(text) is not None:
        text = re.sub(r"//.*@", "//", text, flags=re.DOTALL)
    return "".join(c if c.isprintable() else "?" for c in text)


def checked_address(url: str, name: str) -> str:
    """Return an address that a user gave for a parameter.

    Raises
    ------
    UsageError
        If it is odd: above all, if it holds a password, which would be copied into configurations and messages.
    """
    reason = why_odd(url)
    if reason is None:
        return url
    raise UsageError(f"`{name}` is {plain_url(url)} and {reason}; give an address such as https://host/path")
