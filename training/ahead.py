"""Batches and their masks, brought to the device while it still computes on those before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from training.batches import Batch
from training.mixed import MixedBatch, MixedMask
from training.models.masks import TokenMask

__all__ = ["Ahead"]

Taken = tuple[Batch | MixedBatch, TokenMask | MixedMask]


class Ahead:
    """Hands out batches, with the next one under way on a stream beside that of the computation.

    On a CPU nothing is prepared: there the loader's workers read ahead.

    Parameters
    ----------
    batches
        As the loader gives them; what it decodes on a GPU it decodes on that stream.
    masks
        Draws the masks of a batch, by its number in this run.
    device
        Where to bring them.
    """

    def __init__(self, batches: Iterator[Any], masks: Callable[[int, Any], Any], device: torch.device) -> None:
        self.batches, self.masks, self.device = batches, masks, device
        self.taken = 0
        self._side: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._ready: Taken | None = None

    def take(self) -> Taken:
        """Give the next batch, which the computation may use at once."""
        batch, mask = self._ready or self._fetch()
        self._ready = None
        if self._side is not None:
            main = torch.cuda.current_stream(self.device)
            main.wait_stream(self._side)
            for tensor in _tensors((batch, mask)):  # their memory is not given away while the main stream uses it
                tensor.record_stream(main)
        return batch, mask

    def prepare(self) -> None:
        """Begin to bring the next batch, once the work on the last is given to the device."""
        if self._side is not None and self._ready is None:
            self._ready = self._fetch()

    def _fetch(self) -> Taken:
        number, self.taken = self.taken, self.taken + 1
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            batch = next(self.batches).to(self.device)
            mask = self.masks(number, batch)
            if self._side is not None:
                mask = mask.pin_memory()
            return batch, mask.to(self.device)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Find all tensors of a batch and its masks."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Batch | MixedBatch | MixedMask):
        yield from _tensors(tuple(vars(value).values()))
    elif isinstance(value, tuple | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)
