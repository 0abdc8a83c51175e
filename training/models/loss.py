"""The loss: squared error on masked pixels that are valid, each sample weighing the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["patch_statistics", "reconstruction_loss"]


def reconstruction_loss(
    predictions: Sequence[Tensor],
    targets: Sequence[Tensor],
    valid: Sequence[Tensor],
    masked: Tensor,
    *,
    normalise: bool,
    deviations: Sequence[Tensor] | None = None,
) -> Tensor:
    """Mean over samples of the mean squared error on the sample's masked, valid pixels.

    As each sample has the same weight, the loss of a batch is the mean of the losses of its parts: it does not depend
    on how a batch is spread over ranks and micro-steps. A sample without any valid masked pixel adds zero.

    Parameters
    ----------
    predictions, targets, valid
        For each group (batch, frames, patches, pixels, bands); targets may be anything where not valid.
    masked
        (batch, frames, groups, patches), true where the encoder saw nothing.
    normalise
        Normalise each target patch by the mean and deviation of its valid pixels (MAE's ``norm_pix_loss``).
    deviations
        Of the same shape as the targets: units of the error at each pixel; 1 if not given.
    """
    error = torch.zeros(masked.shape[0], dtype=torch.float32, device=masked.device)  # whatever the default type is
    weight = torch.zeros_like(error)
    for group, (predicted, target, usable) in enumerate(zip(predictions, targets, valid, strict=True)):
        wanted = usable & masked[:, :, group, :, None, None]
        truth = target.float()
        if normalise:
            mean, deviation = patch_statistics(target, usable)
            truth = (truth - mean) / deviation
        difference = predicted.float() - truth
        if deviations is not None:
            difference = difference / deviations[group]
        difference = difference.masked_fill(~wanted, 0.0)
        error = error + difference.square().flatten(1).sum(1)
        weight = weight + wanted.flatten(1).sum(1)
    return (error / weight.clamp(min=1)).mean()


def patch_statistics(target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the valid pixels of each patch over all bands of its group, (..., 1, 1)."""
    target = target.masked_fill(~valid, 0.0).float()
    count = valid.sum((-2, -1), keepdim=True).clamp(min=1)
    mean = target.sum((-2, -1), keepdim=True) / count
    square = (target - mean).masked_fill(~valid, 0.0).square().sum((-2, -1), keepdim=True)
    return mean, (square / (count - 1).clamp(min=1) + 1e-6).sqrt()
