"""Times as they are within: naive, and UTC. Here they come from text, and become it again.

A time with an offset is converted; one without is taken for UTC already, for that is what archives write.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np

__all__ = ["format_time", "naive_utc", "parse_time", "shifted", "to_microseconds"]


def naive_utc(time: datetime) -> datetime:
    """Return a time as naive UTC; a naive one is taken to be so already."""
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def shifted(time: datetime, by: timedelta) -> datetime:
    """Return a time earlier or later, but none that is out of the calendar's reach: the first or last there is."""
    try:
        return time + by
    except OverflowError:
        return datetime.min if by < timedelta() else datetime.max


def parse_time(text: str) -> datetime:
    """Read a time in ISO 8601 as naive UTC; blanks around it do not matter.

    Raises
    ------
    ValueError
        If it is not a time.
    """
    return naive_utc(datetime.fromisoformat(text.strip()))


def format_time(time: datetime, fraction: Literal["auto", "milliseconds", "shortest"] = "auto") -> str:
    """Write a naive UTC time in RFC 3339.

    Parameters
    ----------
    time
        Naive UTC.
    fraction
        Digits of the fraction of a second: six where there is one (``auto``), always three, or as few as tell it.

    Returns
    -------
    str
        Such as ``2020-01-31T12:00:00Z``.
    """
    if fraction != "shortest":
        return f"{time.isoformat(timespec=fraction)}Z"
    text = time.isoformat()
    return f"{text.rstrip('0') if time.microsecond else text}Z"


def to_microseconds(time: datetime | np.datetime64) -> int:
    """Microseconds since 1970-01-01 of a naive UTC time, as the stores' ``time`` variables have them."""
    return int(np.asarray(time, "M8[us]").astype(np.int64))
