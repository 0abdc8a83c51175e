"""Images to patches and back, per group of bands.

Patches are laid out as (batch, frames, rows, columns, pixels of a patch, bands of the group); tokens of a sample run
over frames, then groups, then rows, then columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["images_to_patches", "patches_to_images"]


def images_to_patches(images: Tensor, patch: int, groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Cut images into patches.

    Parameters
    ----------
    images
        (batch, frames, channels, height, width).
    patch
        Side of a patch, pixels.
    groups
        Channel numbers of each group; they need not be neighbours.

    Returns
    -------
    list[Tensor]
        For each group (batch, frames, rows * columns, patch * patch, bands of the group).
    """
    batch, frames, _, height, width = images.shape
    rows, columns = height // patch, width // patch
    parts = []
    for group in groups:
        chosen = _channels(images, group)
        cut = chosen.reshape(batch, frames, len(group), rows, patch, columns, patch).permute(0, 1, 3, 5, 4, 6, 2)
        parts.append(cut.reshape(batch, frames, rows * columns, patch * patch, len(group)))
    return parts


def patches_to_images(
    patches: Sequence[Tensor], patch: int, groups: Sequence[Sequence[int]], grid: tuple[int, int]
) -> Tensor:
    """Inverse of `images_to_patches`: (batch, frames, channels, height, width)."""
    batch, frames = patches[0].shape[:2]
    rows, columns = grid
    channels = sum(len(group) for group in groups)
    images = torch.empty(
        batch, frames, channels, rows * patch, columns * patch, dtype=patches[0].dtype, device=patches[0].device
    )
    for part, group in zip(patches, groups, strict=True):
        cut = part.reshape(batch, frames, rows, columns, patch, patch, len(group)).permute(0, 1, 6, 2, 4, 3, 5)
        whole = cut.reshape(batch, frames, len(group), rows * patch, columns * patch)
        for place, channel in enumerate(group):
            images[:, :, channel] = whole[:, :, place]
    return images


def _channels(images: Tensor, group: Sequence[int]) -> Tensor:
    """Take some channels; a list as an index would be copied to the device, for which the host waits."""
    first, count = group[0], len(group)
    if list(group) == list(range(first, first + count)):
        return images.narrow(2, first, count)
    return torch.stack([images[:, :, channel] for channel in group], dim=2)
