"""Bands of a batch as they are stored, each pixel once; and on the grid, where coarse pixels repeat.

Repeating is copying: it is done where the batch is decoded, so that what is read and moved is what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loaders.travel import Tensors

__all__ = ["StoredPart", "on_grid", "stored_span"]

_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types that torch can work with on every device, by bytes: of unsigned ones it can move little more than the bits."""


@dataclass(frozen=True)
class StoredPart(Tensors):
    """Bands of one pixel, and their masks, as stored; ``B`` samples, ``C`` bands, ``M`` masks, ``T`` frames."""

    values: Tensor
    """(B, C, T, y, x) uint16 counts."""
    mask: Tensor
    """(B, M, T, y, x) unsigned integers."""
    bands: tuple[int, ...]
    """Places of the bands among those of the batch."""
    masks: tuple[int, ...]
    """For each mask, that of the batch which its bits belong to."""
    cut: tuple[tuple[int, int], ...]
    """By sample, rows and columns of the grid that are read before it begins: it need not begin on a whole pixel."""

    @property
    def shape(self) -> tuple[int, ...]:
        """What must agree for parts to be joined."""
        return (*self.values.shape[1:], *self.bands)

    @staticmethod
    def join(parts: Sequence[StoredPart]) -> StoredPart:
        """Put parts of the same shape one after another."""
        first, cut = parts[0], tuple(place for part in parts for place in part.cut)
        values, mask = (torch.cat([getattr(part, name) for part in parts]) for name in ("values", "mask"))
        return StoredPart(values, mask, first.bands, first.masks, cut)


def stored_span(start: int, size: int, times: int, stored: int, align: int) -> tuple[int, int, int]:
    """Stored pixels under some of the grid's: as many for every start, so that samples of a batch have one size.

    Parameters
    ----------
    start, size
        Pixels of the grid that are wanted, along one axis.
    times
        How often a stored pixel repeats.
    stored
        How many there are.
    align
        Starts are multiples of this.

    Returns
    -------
    first, number, cut
        The stored pixels, and how many of the grid's lie before those wanted.
    """
    whole = size % times == 0 and (align % times == 0 or size == stored * times)
    number = min(stored, size // times if whole else (size + 2 * (times - 1)) // times)
    first = min(start // times, stored - number)
    return first, number, start - first * times


def on_grid(parts: Mapping[int, StoredPart], like: Tensor, bands: int, masks: int) -> tuple[Tensor, Tensor]:
    """Repeat and cut parts.

    Parameters
    ----------
    parts
        By how often their pixels repeat.
    like
        Tensor (B, ..., T, Y, X) of the samples' size.
    bands, masks
        How many the batch has.

    Returns
    -------
    values, mask : Tensor
        (B, bands, T, Y, X) and (B, masks, T, Y, X), of the types of the parts.
    """
    first = next(iter(parts.values()))
    samples, (steps, rows, cols) = like.shape[0], like.shape[-3:]
    values = torch.empty((samples, bands, steps, rows, cols), dtype=first.values.dtype, device=first.values.device)
    mask = torch.empty((samples, masks, steps, rows, cols), dtype=first.mask.dtype, device=first.mask.device)
    filled: set[int] = set()
    for times, part in parts.items():
        for c, place in enumerate(part.bands):
            _repeat(part.values[:, c], times, part.cut, values[:, place])
        for m, place in enumerate(part.masks):
            bits = torch.empty_like(mask[:, place]) if place in filled else mask[:, place]
            _repeat(part.mask[:, m], times, part.cut, bits)
            if place in filled:  # each part has the bits of its own bands
                signed = _signed(mask[:, place])
                signed |= _signed(bits)
            filled.add(place)
    return values, mask


def _repeat(stored: Tensor, times: int, cut: Sequence[tuple[int, int]], out: Tensor) -> None:
    """Fill (B, T, Y, X) with (B, T, y, x), each pixel repeated, from where each sample begins."""
    stored, out = _signed(stored), _signed(out)
    rows, cols = out.shape[-2:]
    size = stored.shape[-2] * times, stored.shape[-1] * times
    whole = (rows, cols) == size
    room = out if whole else torch.empty((*stored.shape[:-2], *size), dtype=out.dtype, device=out.device)
    by_row = room.view(*room.shape[:-2], stored.shape[-2], times, size[1])
    for k in range(times):
        by_row[..., 0, k::times] = stored
    for k in range(1, times):  # whole rows copy faster than pixels
        by_row[..., k, :] = by_row[..., 0, :]
    if not whole:
        for sample, (top, left) in enumerate(cut):
            out[sample] = room[sample, :, top : top + rows, left : left + cols]


def _signed(tensor: Tensor) -> Tensor:
    return tensor.view(_SIGNED[tensor.element_size()])
