"""Classes in shares, as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from stratacube.choices import nearest
from stratacube.errors import UsageError

Class = TypeVar("Class")

__all__ = ["shares_among", "word"]


def word(name: str) -> str:
    """One word of a name: small letters, digits and underscores."""
    return "_".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split())


def shares_among(asked: Sequence[str], known: Mapping[str, Class], parameter: str, there: str) -> dict[Class, float]:
    """Shares of classes in the tiles to be drawn.

    Parameters
    ----------
    asked : sequence of str
        ``class`` or ``class=share``; empty for all classes alike.
    known : mapping
        Classes by what they are called.
    parameter : str
        In which they were asked for.
    there : str
        What the classes are introduced by, where one is unknown.

    Raises
    ------
    UsageError
        If a class does not exist, is named twice, or a share is not positive.
    """
    if not asked:
        return dict.fromkeys(known.values(), 1.0)
    shares: dict[Class, float] = {}
    for text in asked:
        name, _, share = text.partition("=")
        if word(name) not in known:
            raise UsageError(
                f"`{parameter}` names {name!r}; {there} {', '.join(known)}{nearest(word(name), list(known))}"
            )
        if known[word(name)] in shares:
            raise UsageError(f"`{parameter}` names class {name!r} twice; name each once")
        try:
            number = float(share or 1)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise UsageError(f"`{parameter}` gives {name!r} the share {share!r}; give a positive number")
        shares[known[word(name)]] = number
    return shares
