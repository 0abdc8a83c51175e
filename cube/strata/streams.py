"""Streams of candidates, one of each stratum of a build: whole tiles first, and classes held to their quotas."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from cube.strata.base import Candidate
from cube.strata.turns import turns

T = TypeVar("T")

__all__ = ["Drawing", "Stream", "Tally"]

STRICT_TRIES = 2000
"""Candidates refused in a row before tiles with missing channels are taken too."""
SEARCH = 20_000
"""Candidates of other classes, or of other chances, that are passed over in search of one of a class."""

MOST_SHOWN = 2000
"""Refused candidates whose places are kept, of each stratum and class."""


@dataclass(frozen=True)
class Stream:
    """The candidates of one stratum."""

    name: str
    candidates: Callable[[], Iterator[Candidate]]
    """Begins them anew, in the sampler's seeded order."""
    share: float = 1.0
    """Of the turns, relative to the other streams."""
    max_refusals: int | None = 100_000
    """It is given up after so many refusals in a row: some strata propose nearly without end."""
    strict: bool = False
    """Whether whole tiles are looked for first, and others only when there are no more."""
    by_observation: bool = False
    """Whether its times are of when a place was seen."""
    quotas: Callable[[], Mapping[str, float]] = dict
    """Shares of classes that its tiles are held to; asked once its first candidate is drawn; none if empty."""
    proposed: Callable[[], Mapping[str, float]] = dict
    """Shares that classes have among its candidates, as far as it knows."""


@dataclass
class Tally:
    """What was asked of a stratum, or of one class of it, what was found, and what was refused."""

    stratum: str
    category: str = ""
    """The class; empty where classes are not told apart."""
    asked: int = 0
    found: int = 0
    drawn: int = 0
    """Candidates looked at: the tiles and the refused."""
    refused: Counter[str] = field(default_factory=Counter)
    """By reason."""
    gave_up: bool = False
    """Whether ``max_refusals`` ended the search."""
    refused_at: list[tuple[float, float]] = field(default_factory=list)
    """Longitude and latitude of the first that were refused, for a picture."""

    @property
    def name(self) -> str:
        """Of the stratum, and of the class."""
        return f"{self.stratum}.{self.category}" if self.category else self.stratum


class _Feed:
    """A stream's candidates, begun once; those of other classes wait for their class's turn."""

    def __init__(self, stream: Stream) -> None:
        self._left = stream.candidates()
        self._first: Candidate | None = next(self._left, None)
        self.quotas = dict(stream.quotas())
        self._waiting: dict[str, deque[Candidate]] = defaultdict(deque)

    def next(self, category: str) -> Candidate | None:
        """The next candidate, of a class if one is named; None where there is none, or none within the search."""
        if self._waiting[category]:
            return self._waiting[category].popleft()
        for _ in range(SEARCH):
            candidate, self._first = self._first or next(self._left, None), None
            if candidate is None:
                return None
            its = category_of(candidate) if category else ""
            if its == category:
                return candidate
            if its in self.quotas:
                self._waiting[its].append(candidate)
        return None


def category_of(candidate: Candidate) -> str:
    """Class that a stratum says its candidate is of."""
    return str(candidate.details.get("class_name", ""))


class Drawing(Generic[T]):
    """The tiles of one stream, turn by turn.

    Parameters
    ----------
    stream
        Where candidates come from.
    accept
        Makes a tile of one, or says in a word or two why not; told whether only whole tiles will do.
    """

    def __init__(self, stream: Stream, accept: Callable[[Candidate, Stream, bool], T | str]) -> None:
        self.stream, self._accept = stream, accept
        self._feeds: dict[bool, _Feed] = {}
        self._classes: dict[str, _Class] = {}
        self._turns: Iterator[str] | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return bool(self._classes) and all(c.done for c in self._classes.values())

    @property
    def tallies(self) -> list[Tally]:
        """What came of it, by class."""
        return [c.tally for c in self._classes.values()]

    def next(self) -> T | None:
        """Take the next tile; None where nothing is left for this turn."""
        if self._turns is None:
            quotas = self._feed(self.stream.strict).quotas or {"": 1.0}
            self._classes = {name: _Class(self.stream, name) for name in quotas}
            self._turns = turns(quotas)
        of = self._classes[next(self._turns)]
        of.tally.asked += 1
        while not of.done:
            candidate = self._feed(of.strict).next(of.name)
            if candidate is None:
                of.end()
                continue
            found = self._accept(self._chanced(candidate), self.stream, of.strict)
            if not isinstance(found, str):
                of.take()
                return found
            of.refuse(found, candidate)
        return None

    def _feed(self, strict: bool) -> _Feed:
        if strict not in self._feeds:
            self._feeds[strict] = _Feed(self.stream)
        return self._feeds[strict]

    def _chanced(self, candidate: Candidate) -> Candidate:
        """A candidate with the chance that its class's quota gives it."""
        quotas, proposed = self._feed(self.stream.strict).quotas, self.stream.proposed()
        name = category_of(candidate)
        if not quotas or not proposed.get(name):
            return candidate
        factor = quotas[name] / sum(quotas.values()) / (proposed[name] / sum(proposed.values()))
        return replace(candidate, probability=min(1.0, candidate.probability * factor))


class _Class:
    """How far the search for tiles of one class is."""

    def __init__(self, stream: Stream, name: str) -> None:
        self.name, self.strict, self.done = name, stream.strict, False
        self.tally = Tally(stream.name, name)
        self._in_a_row, self._most, self._again = 0, stream.max_refusals, False

    def take(self) -> None:
        self.tally.drawn += 1
        self.tally.found += 1
        self._in_a_row = 0

    def refuse(self, reason: str, candidate: Candidate) -> None:
        self.tally.drawn += 1
        self._in_a_row += 1
        # What was taken when whole tiles were looked for comes by once more.
        if not (self._again and reason == "taken already"):
            self.tally.refused[reason] += 1
            if len(self.tally.refused_at) < MOST_SHOWN:
                self.tally.refused_at.append((candidate.longitude, candidate.latitude))
        if self._in_a_row == (STRICT_TRIES if self.strict else self._most):
            self.tally.gave_up = not self.strict
            self.end()

    def end(self) -> None:
        """Go on to tiles that are not whole, from the first candidate on; or have done."""
        if self.strict:
            self.strict, self._in_a_row, self._again = False, 0, True
            self.tally.refused.clear()  # they are looked at once more
            self.tally.refused_at.clear()
        else:
            self.done = True
