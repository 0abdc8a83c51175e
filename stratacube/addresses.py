"""Addresses in the web: what is odd about one, and how one is shown without the secrets it may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from stratacube.errors import UsageError

_Value = TypeVar("_Value")

__all__ = ["checked_address", "options_without_secrets", "plain_url", "why_odd"]

_AUTHORITY = re.compile(r"[^:/?#]*://([^/?#]*)")

_SECRETS = re.compile(
    r"(?:^|_)(?:key|secret|token|password|passwd|pwd|credential|connection_string|sas)", re.IGNORECASE
)
_NO_SECRETS = ("anon", "browser", "cache", "cloud", "google_default")
"""What gcsfs takes for ``token`` beside one."""


def why_odd(url: str) -> str | None:
    """Say why an address is not taken, or None.

    What is refused here is what two parsers may read as two hosts (backslashes, blanks, a user before an ``@``), what
    breaks lines of a protocol or a log (control characters), and what holds a password.
    """
    if "\\" in url:
        return "has a backslash"
    if not url.isprintable() or " " in url:  # of blanks the space alone is printable
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

    Of an address that is odd (see :func:`why_odd`) all before its last ``@`` is left out. A path stays as it is.
    """
    text = re.split(r"[?#]", url, maxsplit=1)[0] if "://" in url else url
    if "://" in url and why_odd(text) is not None:
        text = re.sub(r"//.*@", "//", text, flags=re.DOTALL)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


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


def options_without_secrets(options: Mapping[str, _Value], name: str) -> Mapping[str, _Value]:
    """Return options for fsspec that a configuration may hold, which is copied into runs and published models.

    Raises
    ------
    UsageError
        If one is a key, a token or a password, or an address that holds one.
    """
    for key, value in options.items():
        if isinstance(value, str) and "://" in value:
            checked_address(value, f"{name}.{key}")
        elif isinstance(value, str) and _SECRETS.search(key) and value not in _NO_SECRETS:
            raise UsageError(
                f"`{name}` holds {key!r}, and a configuration is copied into what is published; leave it to the "
                "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile"
            )
    return options
