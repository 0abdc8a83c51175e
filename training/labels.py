"""What samples are labelled by: a class or numbers of each, classes of each pixel, or of profiles that cross it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from stratacube.errors import UsageError

if TYPE_CHECKING:
    from training.batches import Batch

__all__ = ["TASKS", "Label", "Truth", "classes_of", "labels_of", "whole_numbers"]

TASKS = ("classes", "numbers")

Kind = Literal["classes", "numbers", "pixels", "profiles"]

_UNKNOWN = {"unknown", "missing"}
"""Names of numbers that say that nothing is known."""


def labels_of(batch: Batch) -> Tensor:
    """Labels of a batch.

    Raises
    ------
    UsageError
        If it has none.
    """
    if batch.labels is None:
        raise UsageError(
            "the samples have no labels; give `label` (`data.label` of the config): a column of the plan, or what"
            " strata say of tiles, such as cloudsat, landcover or system_number"
        )
    return batch.labels


def whole_numbers(labels: Tensor) -> Tensor:
    """Labels that are to be classes: those that are known, which must be whole.

    Raises
    ------
    UsageError
        If some have fractions.
    """
    known = _known(labels)
    fractions = known[known != known.round()] if known.is_floating_point() else known[:0]
    if len(fractions):
        raise UsageError(
            f"`label` holds numbers with fractions, such as {float(fractions[0]):g}, and no classes; give a column of"
            " text or of whole numbers, or `task=numbers`"
        )
    return known


def classes_of(labels: Tensor) -> list[int]:
    """Values of whole numbers that are to be classes, in their order.

    Raises
    ------
    UsageError
        If there are as many as samples, about.
    """
    values = torch.unique(labels)
    if len(values) > max(2, len(labels) // 2):
        raise UsageError(
            f"`label` has {len(values)} values in {len(labels)} samples, so they are no classes; give a column whose"
            " values occur several times, or `task=numbers`"
        )
    return [int(value) for value in values]


def _known(labels: Tensor) -> Tensor:
    return labels[labels.isfinite()] if labels.is_floating_point() else labels


@dataclass(frozen=True)
class Truth:
    """Labels as a head is judged by them."""

    values: Tensor
    """(batch,) int64 classes; (batch, numbers) float32; (batch, levels, height, width) or (batch, profiles, levels)
    int64 classes. -1 where nothing is known."""
    at: Tensor | None = None
    """(batch, profiles, 2): row and column of each profile."""


@dataclass(frozen=True)
class Label:
    """How the labels of a run's samples are to be read."""

    name: str
    kind: Kind
    classes: tuple[str, ...]
    """Names of the classes, or of the numbers."""
    values: tuple[int, ...] = ()
    """The number that stands for each class; empty: whatever is above 0 is the second of two classes."""
    levels: int = 1
    """Classes of one pixel or profile: steps, or bins of height."""

    @classmethod
    def of(
        cls,
        name: str,
        batch: Batch,
        names: Mapping[int, str],
        *,
        task: str | None = None,
        others: Iterable[Tensor] = (),
    ) -> Label:
        """Say what labels are, by a batch of them and the numbers of others.

        Parameters
        ----------
        name
            Of the label.
        batch
            Some samples.
        names
            Of the numbers, where the data tell them; of several numbers a sample, by their place.
        task
            Whether one number a sample is to be told as such, or as a class (`TASKS`); by default as a class where all
            that are known are whole.
        others
            Labels of other samples: those of one batch may be whole by chance, or none may be known.

        Raises
        ------
        UsageError
            If there are no labels.
        """
        labels = labels_of(batch)
        known = {value: told for value, told in sorted(names.items()) if told not in _UNKNOWN}
        whole = all(
            bool((part == part.round()).all()) for part in map(_known, (labels, *others)) if part.is_floating_point()
        )
        if labels.ndim == 1:
            if not whole if task is None else task == "numbers":
                return cls(name, "numbers", (name,))
            return cls(name, "classes", tuple(known.values()), tuple(known))
        if labels.ndim == 2 and len(names) == labels.shape[1]:
            return cls(name, "numbers", tuple(names[place] for place in range(labels.shape[1])))
        kind: Kind = "pixels" if labels.ndim == 4 else "profiles"
        if kind == "profiles" and (batch.at is None or labels.ndim == 2):
            raise UsageError(f"`label` {name} has no places in the tiles; give the name of its group, such as cloudsat")
        if not whole or (kind == "pixels" and batch.pixels.shape[-2:] != labels.shape[-2:]):
            raise UsageError(f"`label` {name} holds no classes of the samples' pixels; give one that does")
        levels = labels.shape[1] if kind == "pixels" else labels.shape[2]
        if known:
            return cls(name, kind, tuple(known.values()), tuple(known), levels)
        return cls(name, kind, ("none", name), (), levels)

    @property
    def dense(self) -> bool:
        """Whether there is a class for places of a sample, and not one for all of it."""
        return self.kind in ("pixels", "profiles")

    def truth(self, batch: Batch) -> Truth:
        """Labels of a batch, numbered from 0."""
        labels = labels_of(batch)
        if self.kind == "numbers":
            return Truth(labels.float().reshape(len(labels), -1))
        return Truth(self.numbered(labels), batch.at if self.kind == "profiles" else None)

    def numbered(self, labels: Tensor) -> Tensor:
        """Classes from 0; -1 where nothing is known, or where it is none of them."""
        known = labels.isfinite()
        labels = labels.masked_fill(~known, 0).long()
        if self.dense and not self.values:
            found = torch.where(labels < 0, -1, (labels > 0).long())
        else:
            found = torch.full_like(labels, -1)
            for place, value in enumerate(self.values):
                found[labels == value] = place
        return found.masked_fill(~known, -1)

    def with_values(self, values: Sequence[int]) -> Label:
        """The same with the values that occur, where the data do not name classes."""
        if self.kind != "classes" or self.values:
            return self
        return Label(self.name, self.kind, tuple(map(str, values)), tuple(values))
