"""Classes of several sources together: each numbers its own, and 0 is not the same of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stratacube.errors import UsageError

__all__ = ["Labelled", "share_classes"]


class Labelled(Protocol):
    """What has labels, such as :class:`loaders.tiles.TileDataset`."""

    classes: dict[str, list[str]]
    """By label, names of the classes in the order of their numbers; none of a label of numbers."""

    def renumber(self, label: str, classes: Sequence[str]) -> None:
        """Number a label's classes by their places in a list that holds them."""


def share_classes(sources: Sequence[Labelled], label: str) -> list[str]:
    """Number the classes of some sources alike, and return their names; none where labels are numbers.

    Raises
    ------
    UsageError
        If the label is text in one source and numbers in another.
    """
    named = [label in source.classes for source in sources]
    if not any(named):
        return []
    if not all(named):
        raise UsageError(f"label {label} is text in one source and numbers in another; give one kind")
    together = sorted({name for source in sources for name in source.classes[label]})
    for source in sources:
        source.renumber(label, together)
    return together
