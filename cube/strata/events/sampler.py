"""The stratum of events: tiles where and when a table says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cube.strata.base import Candidate, SampleRequest
from cube.strata.events.table import read_events
from stratacube.errors import UsageError

__all__ = ["EventSampler", "inclusion"]

_ROUNDS = 200


class EventSampler:
    """Proposes the events of a table one after the other, the heavier the sooner.

    An event's chance of coming next is its weight over those of all events left. ``probability`` is that of being
    among ``num_tiles``, by Rosén's approximation, which is exact where all weigh alike. ``details`` has
    ``event_id`` and, where the table has classes, ``class_name``.

    Parameters
    ----------
    request : SampleRequest
        What is wanted; no ``num_tiles`` for all events.
    table : str
        Path of the table; see :func:`cube.strata.events.table.read_events`.

    Raises
    ------
    UsageError
        No event in the table.
    """

    stratum = "events"

    def __init__(self, request: SampleRequest, *, table: str) -> None:
        self.request, self.path = request, Path(table)
        self.events, self.problems = read_events(self.path)
        self.class_shares: dict[str, float] = {}

    def candidates(self) -> Iterator[Candidate]:
        """Yield the events of the period, each once.

        Raises
        ------
        UsageError
            None lies in the period; raised at the first ``next``.
        """
        events = [event for event in self.events if self.request.in_period(event.time)]
        if not events:
            times = [event.time for event in self.events]
            raise UsageError(
                f"None of the {len(times)} events of {self.path}, from {min(times)} to {max(times)}, is in the period "
                f"{self.request.start} to {self.request.end}: widen it or give other events."
            )
        weights = np.array([event.weight for event in events])
        shares: Counter[str] = Counter()
        for event in events:
            shares[event.category] += event.weight  # type: ignore[assignment]
        self.class_shares = dict(shares)
        chances = inclusion(weights, self.request.num_tiles)
        # Times of first arrival at rates that are the weights: their order is that of draws one after the other.
        arrivals = np.random.default_rng(self.request.seed).exponential(size=len(events)) / weights
        for i in np.argsort(arrivals, kind="stable").tolist():
            event = events[i]
            yield Candidate(
                event.time,
                event.latitude,
                event.longitude,
                self.stratum,
                event.weight,
                float(chances[i]),
                system_id=int(event.name) if event.name.isdigit() and len(event.name) < 19 else None,
                details={"event_id": event.name} | ({"class_name": event.category} if event.category else {}),
            )

    def write_tables(self, directory: Path) -> list[Path]:
        """Write nothing: the table is there."""
        return []


def inclusion(weights: npt.NDArray[np.float64], number: int | None) -> npt.NDArray[np.float64]:
    """Chance of each of being among the first so many draws without replacement.

    Parameters
    ----------
    weights : ndarray
        What the chance of a draw is proportional to.
    number : int or None
        Of draws; None for all.

    Returns
    -------
    ndarray
        ``1 - exp(-weight * t)`` with the ``t`` that makes them sum to ``number``.

    References
    ----------
    B. Rosén, Asymptotic theory for successive sampling with varying probabilities without replacement, I, Annals of
    Mathematical Statistics 43, 373-397 (1972).
    """
    if number is None or number >= len(weights):
        return np.ones(len(weights))
    low, high = 0.0, 1.0 / weights.mean()
    while -np.expm1(-weights * high).sum() < number:
        high *= 2
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if -np.expm1(-weights * middle).sum() < number:
            low = middle
        else:
            high = middle
    chances: npt.NDArray[np.float64] = -np.expm1(-weights * high)
    return chances
