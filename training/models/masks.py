"""Which tokens the encoder sees.

Masks are a pure function of (seed, number of the sample): the same for any number of ranks, workers or micro-steps,
and after any resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.models.settings import ModelConfig

__all__ = ["TokenMask", "draw_masks"]


class TokenMask(NamedTuple):
    """Which tokens of each sample are visible."""

    visible: Tensor
    """(batch, visible tokens) int64, numbers of the visible tokens, ascending."""
    masked: Tensor
    """(batch, tokens) bool, true where the encoder sees nothing."""

    def pin_memory(self) -> TokenMask:
        """Copy to page-locked memory."""
        return TokenMask(self.visible.pin_memory(), self.masked.pin_memory())

    def to(self, device: torch.device) -> TokenMask:
        """Copy to a device."""
        return TokenMask(
            self.visible.to(device, non_blocking=True),
            self.masked.to(device, non_blocking=True),
        )


def draw_masks(
    config: ModelConfig, seed: int, numbers: Sequence[int], grid: tuple[int, int] | None = None
) -> TokenMask:
    """Draw the masks of a batch.

    Parameters
    ----------
    config
        The model's tokens, pattern and ratio.
    seed
        Seed of all masks.
    numbers
        A number per sample that no other sample of the run has (position in the stream of samples).
    grid
        Rows and columns of patches, if not the model's.
    """
    rows, columns = grid or config.grid
    frames, groups = config.frames, len(config.group_indices)
    places = rows * columns
    masked = np.empty((len(numbers), frames, groups, places), dtype=bool)
    for sample, number in zip(masked, numbers, strict=True):
        random = np.random.Generator(np.random.Philox(key=[seed & (2**64 - 1), int(number) & (2**64 - 1)]))
        if config.mask == "independent":
            sample[:] = _draw(random, sample.size, config.mask_ratio).reshape(sample.shape)
        elif config.mask == "consistent":
            sample[:] = _draw(random, places, config.mask_ratio)
        else:
            for group in range(groups):
                sample[:, group] = _draw(random, places, config.mask_ratio)
    flat = torch.from_numpy(masked.reshape(len(numbers), -1))
    visible = (~flat).nonzero()[:, 1].reshape(len(numbers), -1)
    return TokenMask(visible, flat)


def _draw(random: np.random.Generator, count: int, ratio: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """True at all but ``max(1, round(count * (1 - ratio)))`` places."""
    masked = np.ones(count, dtype=bool)
    kept = max(1, round(count * (1 - ratio)))
    masked[np.argpartition(random.random(count, dtype=np.float32), kept - 1)[:kept]] = False
    return masked
