"""Where the tiles of a batch are read to: bands of one pixel together, one request for all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from loaders.augment import Placement
from loaders.chunks import Target
from loaders.parts import StoredPart, stored_span
from loaders.store import StoredBand

__all__ = ["lay_out", "masks_of"]

_ALIGN = 64
"""Bytes: a cache line, and a multiple of every integer."""


def masks_of(bands: Sequence[StoredBand]) -> list[str]:
    """Masks of a batch on the grid: one, unless the instrument has more bands than a mask has bits."""
    return list(dict.fromkeys(b.view_mask for b in bands))


def lay_out(
    bands: Sequence[StoredBand],
    tiles: npt.NDArray[np.int64],
    places: Sequence[Placement],
    seen: tuple[int, int, int],
    align: int,
) -> tuple[dict[int, StoredPart], list[tuple[int, Target]]]:
    """Make room for a batch and say what is to be read into it.

    Parameters
    ----------
    bands
        In the order of the batch.
    tiles, places
        Of each sample.
    seen
        Steps, rows and columns of a sample, on the grid.
    align
        Rows and columns of the places are multiples of this.

    Returns
    -------
    parts
        By how often their pixels repeat on the grid, bands and masks, yet to be filled.
    targets
        Samples by number, each several times, and what to read for them.
    """
    groups = [_group(bands, times, places, seen, align) for times in dict.fromkeys(b.repeat for b in bands)]
    kinds = [kind for group in groups for kind in group.kinds(bands[0].mask_dtype)]
    rooms, views = iter(_shared_buffers(*kinds)), masks_of(bands)
    parts: dict[int, StoredPart] = {}
    targets: list[tuple[int, Target]] = []
    for group in groups:
        masks = tuple(views.index(view) for view in group.masks.values())
        part = StoredPart(next(rooms), next(rooms), group.bands, masks, group.cut)
        parts[group.repeat] = part
        for i, tile in enumerate(tiles.tolist()):
            outs = *part.values.numpy()[i], *part.mask.numpy()[i]
            targets += [
                (i, Target(name, tile, out, group.windows[i])) for name, out in zip(group.names, outs, strict=True)
            ]
    return parts, targets


@dataclass(frozen=True)
class _Group:
    """Bands whose pixels repeat as often, and the part of each sample's tile that is read of them."""

    repeat: int
    bands: tuple[int, ...]
    names: tuple[str, ...]
    """Of the bands and of their masks."""
    masks: dict[str, str]
    """Masks as stored, and which they belong to on the grid."""
    size: tuple[int, int, int]
    """Steps, rows and columns of what is read."""
    windows: tuple[tuple[slice, ...] | None, ...]
    """By sample; None for the whole tile."""
    cut: tuple[tuple[int, int], ...]

    def kinds(self, mask_dtype: str) -> list[tuple[tuple[int, ...], str]]:
        """Shapes and types of counts and masks."""
        counts = (len(self.windows), len(self.bands), *self.size), "<u2"
        return [counts, ((len(self.windows), len(self.masks), *self.size), mask_dtype)]


def _group(
    bands: Sequence[StoredBand], repeat: int, places: Sequence[Placement], seen: tuple[int, int, int], align: int
) -> _Group:
    mine = {c: band for c, band in enumerate(bands) if band.repeat == repeat}
    stored = next(iter(mine.values())).stored
    masks = {band.mask: band.view_mask for band in mine.values()}
    spans = [_window(place, seen, repeat, stored, align) for place in places]
    _, rows, cols = (s.stop - s.start for s in spans[0][0])
    size = seen[0], rows, cols
    windows = tuple(None if size == stored else window for window, _ in spans)
    names = *(band.name for band in mine.values()), *masks
    return _Group(repeat, tuple(mine), names, masks, size, windows, tuple(cut for _, cut in spans))


def _window(
    place: Placement, seen: tuple[int, int, int], repeat: int, stored: tuple[int, int, int], align: int
) -> tuple[tuple[slice, ...], tuple[int, int]]:
    """Part of a stored tile under a sample, and how far into it the sample begins."""
    steps, rows, cols = seen
    top, height, above = stored_span(place.row, rows, repeat, stored[1], align)
    left, width, before = stored_span(place.col, cols, repeat, stored[2], align)
    window = slice(place.step, place.step + steps), slice(top, top + height), slice(left, left + width)
    return window, (above, before)


def _shared_buffers(*kinds: tuple[tuple[int, ...], str]) -> tuple[Tensor, ...]:
    """Room for integers, one behind the other; a DataLoader's worker shares it, so that no batch is copied."""
    dtypes = [getattr(torch, np.dtype(dtype).name) for _, dtype in kinds]
    sizes = [math.prod(shape) * dtype.itemsize for (shape, _), dtype in zip(kinds, dtypes, strict=True)]
    starts = [0, *itertools.accumulate(-(-size // _ALIGN) * _ALIGN for size in sizes)]
    if get_worker_info() is None:
        # NumPy asks for huge pages: far fewer faults than torch's.
        whole = torch.from_numpy(np.empty(starts[-1], "u1"))
    else:
        # As torch's own collate does; share_memory_() would write the empty room first, at the cost of decoding.
        storage = torch.UntypedStorage._new_shared(starts[-1])  # type: ignore[no-untyped-call]
        whole = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (starts[-1],))  # type: ignore[call-overload]
    return tuple(
        whole[start : start + size].view(dtype).view(shape)
        for start, size, dtype, (shape, _) in zip(starts, sizes, dtypes, kinds, strict=False)
    )
