"""Choices in words, and what was perhaps meant where one is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stratacube.errors import UsageError

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

__all__ = ["OneOf", "Told", "Worded", "many", "nearest", "one_of", "require_least"]


def one_of(choices: Sequence[Any]) -> str:
    """Choices in words: ``a, b or c``."""
    *most, last = map(str, choices)
    return f"{', '.join(most)} or {last}" if most else last


def many(number: int, noun: str) -> str:
    """Say so many of something: ``1 scan``, ``2 scans``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def nearest(word: str, known: Sequence[str]) -> str:
    """Say which known word was perhaps meant: `` (did you mean x?)``, or nothing."""
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1)
    return f" (did you mean {lower[near[0]]}?)" if near else ""


def require_least(least: int, **numbers: int | None) -> None:
    """Refuse a parameter, given by its name, that is below the least that makes sense; None is not given.

    Raises
    ------
    UsageError
        If one is.
    """
    for name, number in numbers.items():
        if number is not None and number < least:
            raise UsageError(f"`{name}` is {number}; give {least} or more")


@dataclass(frozen=True)
class OneOf:
    """Marks text (by Annotated) that is one of some names, which are asked for when they are needed.

    Parameters
    ----------
    names
        Tells them.
    failed
        Why some others cannot be used, by name; it may be filled later.
    """

    names: Callable[[], Sequence[str]]
    failed: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic check it."""
        from pydantic_core.core_schema import no_info_after_validator_function  # noqa: PLC0415

        return no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, name: str) -> str:
        known = self.names()
        if name not in known and name in self.failed:
            raise ValueError(self.failed[name])
        if name not in known:
            raise ValueError(f"give {one_of(known)}{nearest(name, known)}")
        return name


@dataclass(frozen=True)
class Told:
    """Marks a parameter (by Annotated) of which help tells more: what is there when it is asked for.

    Parameters
    ----------
    words
        Gives them, as one clause.
    """

    words: Callable[[], str]


@dataclass(frozen=True)
class Worded:
    """Marks a parameter (by Annotated) that a command line takes as a word and more words.

    Parameters
    ----------
    first, more
        What help calls the one and the others.
    """

    first: str
    more: str
