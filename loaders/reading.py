"""Where the tiles of a batch are read to: bands of one pixel together, one request for all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

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
    groups: dict[int, list[int]] = {}
    for c, band in enumerate(bands):
        groups.setdefault(band.repeat, []).append(c)
    masks = masks_of(bands)
    stored = {k: list(dict.fromkeys((bands[c].mask, bands[c].view_mask) for c in g)) for k, g in groups.items()}
    spans = {k: [_window(p, seen, k, bands[g[0]].stored, align) for p in places] for k, g in groups.items()}
    kinds: list[tuple[tuple[int, ...], str]] = []
    for k, group in groups.items():
        size = seen[0], *(s.stop - s.start for s in spans[k][0][0][1:])
        kinds += [((len(tiles), len(group), *size), "<u2"), ((len(tiles), len(stored[k]), *size), bands[0].mask_dtype)]
    rooms = iter(_shared_buffers(*kinds))
    parts: dict[int, StoredPart] = {}
    targets: list[tuple[int, Target]] = []
    for k, group in groups.items():
        values, mask = next(rooms), next(rooms)
        cut = tuple(cut for _, cut in spans[k])
        parts[k] = StoredPart(values, mask, tuple(group), tuple(masks.index(view) for _, view in stored[k]), cut)
        names = [*(bands[c].name for c in group), *(name for name, _ in stored[k])]
        whole = (values.shape[2:], bands[group[0]].stored) if len(tiles) else ()
        for i, tile in enumerate(tiles.tolist()):
            window = None if whole and tuple(whole[0]) == whole[1] else spans[k][i][0]
            outs = [*values.numpy()[i], *mask.numpy()[i]]
            targets += [(i, Target(name, tile, out, window)) for name, out in zip(names, outs, strict=True)]
    return parts, targets


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
