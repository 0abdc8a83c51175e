"""Turns by shares: whose turn it is, so that after any number of turns each has had its share of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

__all__ = ["counts_of", "turns"]

Key = TypeVar("Key", bound=Any)


def turns(shares: Mapping[Key, float]) -> Iterator[Key]:
    """Yield keys in turn, each as often as its share says, as evenly as can be; those that are removed no more.

    After any number of turns each key has had its share of them to within one, as long as none was removed. The first
    turns of many are those of few.
    """
    given = dict.fromkeys(shares, 0)
    while shares:
        key = min(shares, key=lambda k: ((given[k] + 0.5) / shares[k], k))
        given[key] += 1
        yield key


def counts_of(shares: Mapping[Key, float], number: int) -> Counter[Key]:
    """How many of the first so many turns each key has."""
    return Counter(islice(turns(shares), number))
