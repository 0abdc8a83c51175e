"""What publishing took, as the report tells it."""

from __future__ import annotations

import time

from cube.job.ledger import Entry
from cube.job.run import Run

__all__ = ["PublishingTimes"]

_KEY = "publishing"


class PublishingTimes:
    """Seconds of the drawings and of the catalogue; a report that was lost comes back with those it had.

    Parameters
    ----------
    run
        Whose ledger remembers them.
    began, drawn
        When publishing began, and when all was drawn, by `time.monotonic`.
    """

    def __init__(self, run: Run, began: float, drawn: float) -> None:
        self.run, self.began, self.drawn = run, began, drawn
        self._known = run.ledger.entries.get(_KEY)

    def record_so_far(self) -> dict[str, float]:
        """Put what was taken until now into the ledger, and return it by step; as it was where nothing has changed."""
        if self._known is not None and not self.run.changed:
            return dict(self._known.figures)
        seconds = {"previews": self.drawn - self.began, "catalog": time.monotonic() - self.drawn}
        self.run.ledger.record(Entry(_KEY, "done", figures=seconds))
        return seconds
