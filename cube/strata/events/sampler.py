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

Floats = npt.NDArray[np.float64]

_ROUNDS = 200
_STEP = 0.05
"""Of the quadrature, in the logarithm of time: its sum is exact to eight digits."""
_EXACT = 2e8
"""Multiplications that the exact chances may take, about a second."""


class EventSampler:
    """Proposes the events of a table one after the other, the heavier the sooner.

    An event's chance of coming next is its weight over those of all events left. ``probability`` is that of being
    among ``num_tiles``: see :func:`inclusion`. ``details`` has
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
                system_id=int(event.name) if event.name.isdecimal() and len(event.name) < 19 else None,
                details={"event_id": event.name} | ({"class_name": event.category} if event.category else {}),
            )

    def write_tables(self, directory: Path) -> list[Path]:
        """Write nothing: the table is there."""
        return []


def inclusion(weights: Floats, number: int | None) -> Floats:
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
        Exact where that is soon worked out, as for a hundred events of any weights, or thousands of few different ones.
        Else ``1 - exp(-weight * t)`` with the ``t`` that makes them sum to ``number``: Rosén's approximation.

    Notes
    -----
    Draws one after the other are the first arrivals at rates that are the weights. One is among the first so many if,
    when it arrives, fewer of the others have: an integral over its time of a sum of independent events.

    References
    ----------
    B. Rosén, Asymptotic theory for successive sampling with varying probabilities without replacement, I, Annals of
    Mathematical Statistics 43, 373-397 (1972).
    """
    if number is None or number >= len(weights):
        return np.ones(len(weights))
    kinds, which, counts = np.unique(weights, return_inverse=True, return_counts=True)
    if len(kinds) == 1:
        return np.full(len(weights), number / len(weights))
    # From when hardly any has arrived to when all have; both ends are told by the weights alone.
    times = np.exp(np.arange(np.log(1e-7 / weights.sum()), np.log(40.0 / kinds[0]), _STEP))
    if float(len(kinds)) * len(weights) * number * len(times) > _EXACT:
        return _approximate(weights, number)
    exact = [_arrives_early(kinds, counts, kind, number, times) for kind in range(len(kinds))]
    chances: Floats = np.array(exact)[which]
    return chances


def _arrives_early(kinds: Floats, counts: npt.NDArray[np.int64], kind: int, number: int, times: Floats) -> float:
    """Chance that one event of a kind is among the first so many arrivals."""
    others = counts.copy()
    others[kind] -= 1
    arrived = np.zeros((number, len(times)))  # by time, the chances that none, one, ... of the others have
    arrived[0] = 1.0
    for weight, count in zip(kinds, others.tolist(), strict=True):
        there, away = -np.expm1(-weight * times), np.exp(-weight * times)
        for _ in range(count):
            arrived[1:] = arrived[1:] * away + arrived[:-1] * there
            arrived[0] *= away
    own = kinds[kind] * times
    integrand = own * np.exp(-own) * arrived.sum(axis=0)
    whole = _STEP * (integrand.sum() - integrand[[0, -1]].sum() / 2)
    return float(whole - np.expm1(-own[0]))


def _approximate(weights: Floats, number: int) -> Floats:
    low, high = 0.0, 1.0 / weights.mean()
    while -np.expm1(-weights * high).sum() < number:
        high *= 2
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if -np.expm1(-weights * middle).sum() < number:
            low = middle
        else:
            high = middle
    chances: Floats = -np.expm1(-weights * high)
    return chances
