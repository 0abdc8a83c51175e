"""How well a head tells labels: a table of what was told for what, and numbers from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.labels import Label

__all__ = ["Tally"]


class Tally:
    """Sums over the samples that are judged.

    Parameters
    ----------
    label
        What is told.
    """

    def __init__(self, label: Label) -> None:
        self.label = label
        count = len(label.classes)
        self.table = torch.zeros(count, count, dtype=torch.int64)
        """Of classes: how often the row's was told to be the column's."""
        self.parts: list[tuple[Tensor, Tensor]] = []

    def add(self, told: Tensor, wanted: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        told
            Classes of any shape, or (batch, numbers).
        wanted
            The same shape; classes below 0 do not count.
        """
        if self.label.kind == "numbers":
            self.parts.append((told.float().cpu(), wanted.float().cpu()))
            return
        known = wanted >= 0
        count = len(self.label.classes)
        pairs = wanted[known].long() * count + told[known].long()
        self.table += torch.bincount(pairs.cpu(), minlength=count * count).reshape(count, count)

    def scores(self) -> dict[str, Any]:
        """Tell how well it went.

        Returns
        -------
        dict
            Of classes ``accuracy``, ``balanced`` accuracy and mean ``iou`` over those that occur, and IoU ``by_class``;
            of numbers ``rmse`` and ``r2`` over all, and RMSE ``by_class``; None where there is nothing to judge.
        """
        return self._of_numbers() if self.label.kind == "numbers" else self._of_classes()

    def _of_classes(self) -> dict[str, Any]:
        right, wanted, told = self.table.diagonal().double(), self.table.sum(1).double(), self.table.sum(0).double()
        there = wanted > 0
        if not bool(there.any()):
            return {"accuracy": None, "balanced": None, "iou": None, "judged": 0, "by_class": {}}
        recall, iou = right[there] / wanted[there], (right / (wanted + told - right))[there]
        names = [name for name, occurs in zip(self.label.classes, there.tolist(), strict=True) if occurs]
        return {
            "accuracy": float(right.sum() / wanted.sum()),
            "balanced": float(recall.mean()),
            "iou": float(iou.mean()),
            "judged": int(wanted.sum()),
            "by_class": dict(zip(names, iou.tolist(), strict=True)),
        }

    def _of_numbers(self) -> dict[str, Any]:
        told, wanted = (torch.cat(parts) for parts in zip(*self.parts, strict=True))
        known = wanted.isfinite()
        error = (told - wanted.nan_to_num()).masked_fill(~known, 0.0).double()
        count = known.sum(0).clamp(min=1)
        mean = wanted.nan_to_num().masked_fill(~known, 0.0).double().sum(0) / count
        spread = (wanted.nan_to_num().double() - mean).masked_fill(~known, 0.0).square().sum()
        by_number = (error.square().sum(0) / count).sqrt().tolist()
        squared = error.square().sum()
        return {
            "rmse": float((squared / known.sum().clamp(min=1)).sqrt()),
            "r2": float(1 - squared / spread) if spread > 0 else None,
            "judged": int(known.any(1).sum()),
            "by_class": dict(zip(self.label.classes, by_number, strict=True)),
        }
