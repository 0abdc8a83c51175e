"""The file that a log is kept in."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["LogFile"]


class LogFile(logging.FileHandler):
    """A log that is kept as far as there is room: of a full disk the run tells in its own sentence.

    Parameters
    ----------
    path
        The file, which is begun with the first word.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or let it be."""
        with suppress(OSError):  # of a file that cannot be opened
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell of what is wrong with a line, but not that there is no room for it."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Write what is left, where there is room."""
        with suppress(OSError):
            super().close()
