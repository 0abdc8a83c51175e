"""Filling what is hidden from what is seen around it in the same band and frame."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

__all__ = ["infill"]

_ROUNDS = 4
"""Rounds of relaxation on each level of the pyramid; from the level below, so few come near to the solution."""


def infill(pixels: Tensor, visible: Tensor) -> Tensor:
    """Fill hidden pixels so that each is about the mean of its four neighbours (Laplace's equation).

    A pyramid of means over what is visible is gone up and down once (Gortler et al. 1996, "The Lumigraph"), with some
    rounds of relaxation on each level.

    Parameters
    ----------
    pixels
        (batch, frames, bands, height, width); anything where not visible.
    visible
        Same shape, bool.

    Returns
    -------
    Tensor
        Same shape: visible pixels as they are; zero in a band and frame of which nothing is visible.
    """
    value = pixels.masked_fill(~visible, 0.0).flatten(0, 2)[:, None]
    weight = visible.flatten(0, 2)[:, None].to(value.dtype)
    return _filled(value, weight).reshape(pixels.shape)


def _filled(value: Tensor, weight: Tensor) -> Tensor:
    """Means times weights, and weights of 0 to 1, to values everywhere."""
    height, width = value.shape[-2:]
    known = value / weight.clamp(min=1e-6)
    if max(height, width) == 1:
        return known
    even = (0, width % 2, 0, height % 2)  # what is added has no weight
    total, count = (4 * avg_pool2d(pad(part, even), 2) for part in (value, weight))
    coarse = _filled(total / count.clamp(min=1), count.clamp(max=1))
    free = 1 - weight
    around = interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    filled = torch.addcmul(value, free, around)
    for _ in range(_ROUNDS):
        ring = pad(filled, (1, 1, 1, 1), mode="replicate")
        near = ring[..., 1:-1, :-2] + ring[..., 1:-1, 2:] + ring[..., :-2, 1:-1] + ring[..., 2:, 1:-1]
        filled = torch.addcmul(value, free, near, value=0.25)
    return filled
