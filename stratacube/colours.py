"""Colours on a terminal, and none in a log: whether a stream has them, and text in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

__all__ = ["in_colour", "painted"]

_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}


def in_colour(stream: TextIO, environment: Mapping[str, str] | None = None) -> bool:
    """Whether what is written to a stream may have colours: a terminal that knows them, and a user who wants them.

    Parameters
    ----------
    stream
        Where it is written.
    environment
        Instead of the process's own; ``NO_COLOR`` with any value, and ``TERM=dumb``, say no.

    References
    ----------
    https://no-color.org
    """
    values = os.environ if environment is None else environment
    return not values.get("NO_COLOR") and values.get("TERM") != "dumb" and stream.isatty()


def painted(text: str, colour: str, stream: TextIO) -> str:
    """Text in a colour (red, green, yellow, cyan, bold), where the stream that it is for has them."""
    return f"\033[{_CODES[colour]}m{text}\033[0m" if text and in_colour(stream) else text
