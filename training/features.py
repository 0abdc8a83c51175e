"""Features of images of any size: overlapping windows, blended by how much of each patch is valid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stratacube.errors import UsageError
from training.models import MaskedAutoencoder
from training.models.patches import images_to_patches

__all__ = ["Grid", "Rows", "Strip", "strips"]


@dataclass(frozen=True)
class Rows:
    """Some rows of an image, as a model takes them."""

    pixels: Tensor
    """(frames, bands, rows, columns), normalised."""
    valid: Tensor
    """Same shape, bool."""
    minutes: Tensor
    """(frames,) int64, minutes since 1970-01-01 UTC."""


@dataclass(frozen=True)
class Strip:
    """Features of some rows of patches."""

    first: int
    """Row of patches."""
    features: Tensor
    """(frames, groups, rows, columns, width) float32; NaN where no pixel of a patch is valid."""
    weight: Tensor
    """(frames, groups, rows, columns): share of valid pixels of each patch."""


@dataclass(frozen=True)
class Grid:
    """How windows lie on an image, in patches."""

    rows: int
    columns: int
    window: tuple[int, int]
    down: tuple[int, ...]
    """First rows of patches of the windows."""
    across: tuple[int, ...]

    @classmethod
    def of(cls, model: MaskedAutoencoder, size: tuple[int, int], overlap: int) -> Grid:
        """Lay windows of the model's own size; of a smaller image its own.

        Parameters
        ----------
        model
            The model.
        size
            Height and width of the image, pixels; what does not fill a patch is left out.
        overlap
            Of neighbouring windows, pixels, rounded down to patches.

        Raises
        ------
        UsageError
            If the image holds no patch, or windows would overlap wholly.
        """
        patch = model.config.patch_size
        rows, columns = (side // patch for side in size)
        if not rows or not columns:
            raise UsageError(f"an image of {size[0]} x {size[1]} pixels holds no patch of {patch}; take a larger one")
        own = model.config.grid
        window = min(own[0], rows), min(own[1], columns)
        if not 0 <= overlap // patch < min(own):
            raise UsageError(
                f"`overlap` is {overlap} pixels, windows have {model.config.height_width}; give less, or 0"
            )
        down, across = (_starts(n, w, overlap // patch) for n, w in zip((rows, columns), window, strict=True))
        return cls(rows, columns, window, down, across)

    def end(self, number: int) -> int:
        """Row of patches after the last of a strip."""
        return self.down[number + 1] if number + 1 < len(self.down) else self.rows

    def reaching(self, number: int) -> int:
        """First row of windows that reaches into a strip: two or more before it if windows overlap by over half."""
        return next(i for i, top in enumerate(self.down) if top + self.window[0] > self.down[number])


@torch.inference_mode()
def strips(
    model: MaskedAutoencoder,
    read: Callable[[int, int], Rows],
    grid: Grid,
    *,
    batch: int = 8,
    begin: int = 0,
    end: int | None = None,
) -> Iterator[Strip]:
    """Encode an image from top to bottom, in the memory of one row of windows.

    Any strips have the same bits, whether those above are wanted too or not.

    Where windows overlap, features are their mean, weighted by the share of valid pixels of the patch and by how far
    it lies from the window's border: at a border a model sees one side only.

    Parameters
    ----------
    model
        The model, where it shall compute.
    read
        Gives the rows of pixels from a first one up to another.
    grid
        Windows.
    batch
        Windows encoded together.
    begin, end
        Number of the row of windows whose features are wanted first, and of the first that is not; all by default.
    """
    patch, device = model.config.patch_size, next(model.parameters()).device
    taper = _ramp(grid.window[0])[:, None] * _ramp(grid.window[1])[None]
    taper = taper.to(device)
    sums: Tensor | None = None
    for number in range(grid.reaching(begin), len(grid.down) if end is None else end):
        top = grid.down[number]
        rows = read(top * patch, (top + grid.window[0]) * patch)
        here = _row_of_windows(model, rows, grid, taper, batch)
        sums = here if sums is None else _stacked(sums, here)
        own = grid.end(number) - top
        done, sums = sums[:, :, :own], sums[:, :, own:]
        if number >= begin:
            yield _strip(top, done)


def _row_of_windows(model: MaskedAutoencoder, rows: Rows, grid: Grid, taper: Tensor, batch: int) -> Tensor:
    """Weighted sums of one row of windows, (frames, groups, rows, columns, width + 2): features, weight, taper."""
    patch, device = model.config.patch_size, taper.device
    height, width = grid.window
    shape = (model.config.frames, len(model.groups), height, grid.columns, model.config.dimensions.embed_dim + 2)
    sums = torch.zeros(shape, device=device)
    for start in range(0, len(grid.across), batch):
        lefts = grid.across[start : start + batch]
        cuts = [slice(left * patch, (left + width) * patch) for left in lefts]
        pixels, valid = (torch.stack([part[..., cut] for cut in cuts]).to(device) for part in (rows.pixels, rows.valid))
        minutes = rows.minutes.to(device).expand(len(lefts), -1)
        encoded = model.encode(pixels, valid, minutes).float()
        shares = _shares(valid, patch, model.groups, grid.window)
        for left, features, share in zip(lefts, encoded, shares, strict=True):
            weight = (share * taper)[..., None]
            edge = taper[..., None].expand(*share.shape, 1)
            sums[:, :, :, left : left + width] += torch.cat([features * weight, weight, edge], dim=-1)
    return sums


def _shares(valid: Tensor, patch: int, groups: tuple[tuple[int, ...], ...], window: tuple[int, int]) -> Tensor:
    """Share of valid pixels of each token, (batch, frames, groups, rows, columns)."""
    parts = [part.float().mean((-2, -1)) for part in images_to_patches(valid, patch, groups)]
    stacked = torch.stack(parts, dim=2)
    return stacked.reshape(*stacked.shape[:-1], *window)


def _stacked(above: Tensor, below: Tensor) -> Tensor:
    """Add what is left of the row of windows above to the next one."""
    below[:, :, : above.shape[2]] += above
    return below


def _strip(first: int, sums: Tensor) -> Strip:
    features, weight, taper = sums[..., :-2], sums[..., -2], sums[..., -1]
    return Strip(first, features / weight.masked_fill(weight == 0, math.nan)[..., None], weight / taper)


def _starts(count: int, window: int, overlap: int) -> tuple[int, ...]:
    """First patches of windows from one end to the other; the last is moved in."""
    starts = list(range(0, count - window + 1, window - min(overlap, window - 1)))
    return tuple(starts if starts[-1] == count - window else [*starts, count - window])


def _ramp(count: int) -> Tensor:
    """From the border to the middle and down again; nowhere 0."""
    place = torch.arange(count)
    return torch.minimum(place + 1, count - place) / math.ceil(count / 2)
