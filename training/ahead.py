"""Batches and their masks, brought to the device while it still computes on those before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from training.batches import Batch
from training.models.masks import TokenMask

__all__ = ["Ahead"]


class Ahead:
    """Hands out batches, with the next one under way on a stream beside that of the computation.

    On a CPU nothing is prepared: there the loader's workers read ahead.

    Parameters
    ----------
    batches
        As the loader gives them; what it decodes on a GPU it decodes on that stream.
    masks
        Draws the masks of batch number n of this run.
    device
        Where to bring them.
    """

    def __init__(self, batches: Iterator[Batch], masks: Callable[[int, int], TokenMask], device: torch.device) -> None:
        self.batches, self.masks, self.device = batches, masks, device
        self.taken = 0
        self._side: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._ready: tuple[Batch, TokenMask] | None = None

    def take(self) -> tuple[Batch, TokenMask]:
        """Give the next batch, which the computation may use at once."""
        batch, mask = self._ready or self._fetch()
        self._ready = None
        if self._side is not None:
            main = torch.cuda.current_stream(self.device)
            main.wait_stream(self._side)
            for tensor in (*vars(batch).values(), *mask):
                if isinstance(tensor, Tensor):  # its memory is not given away while the main stream uses it
                    tensor.record_stream(main)
        return batch, mask

    def prepare(self) -> None:
        """Begin to bring the next batch, once the work on the last is given to the device."""
        if self._side is not None and self._ready is None:
            self._ready = self._fetch()

    def _fetch(self) -> tuple[Batch, TokenMask]:
        number, self.taken = self.taken, self.taken + 1
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            batch = next(self.batches).to(self.device)
            mask = self.masks(number, len(batch))
            if self._side is not None:
                mask = TokenMask(*(part.pin_memory() for part in mask))
            return batch, mask.to(self.device)
