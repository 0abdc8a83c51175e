"""What a model must beat: the band mean, the last visible frame, interpolation in time, infilling, regression."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor

from training.batches import Batch
from training.infill import infill
from training.regression import expected, joint_moments

__all__ = ["BASELINES", "REGRESSION", "Baseline", "fit_regression"]

Baseline = Callable[[Tensor, Tensor, Tensor], Tensor]

REGRESSION = "regression"
_ENOUGH = 64
"""Samples that a regression is fitted on: of each some thousand pixels."""


def band_mean(_pixels: Tensor, visible: Tensor, _minutes: Tensor) -> Tensor:
    """Predict the band's mean over the training data: zero, as pixels are normalised."""
    return torch.zeros(visible.shape, device=visible.device)


def persistence(pixels: Tensor, visible: Tensor, _minutes: Tensor) -> Tensor:
    """Predict each pixel by the last frame before in which it is visible, else by the next one."""
    before, after = _neighbours(visible)
    return _or_sample_mean(pixels, visible, torch.where(before >= 0, before, after))


def interpolation(pixels: Tensor, visible: Tensor, minutes: Tensor) -> Tensor:
    """Predict each pixel on the line between the frames before and after in which it is visible."""
    before, after = _neighbours(visible)
    frames = visible.shape[1]
    has_before, has_after = before >= 0, after < frames
    first = torch.where(has_before, before, after).clamp(0, frames - 1)
    last = torch.where(has_after, after, before).clamp(0, frames - 1)
    times = (minutes - minutes.amin(1, keepdim=True)).float()[:, :, None, None, None].expand(visible.shape)
    start, end = times.gather(1, first), times.gather(1, last)
    share = ((times - start) / (end - start)).nan_to_num(0.0, 0.0, 0.0)
    filled = pixels.masked_fill(~visible, 0.0)
    line = filled.gather(1, first) * (1 - share) + filled.gather(1, last) * share
    return torch.where(has_before | has_after, line, _sample_mean(pixels, visible))


def spatial_infill(pixels: Tensor, visible: Tensor, _minutes: Tensor) -> Tensor:
    """Predict each pixel from those around it that are visible in its band and frame."""
    return infill(pixels, visible)


BASELINES: dict[str, Baseline] = {
    "band mean": band_mean,
    "persistence": persistence,
    "interpolation": interpolation,
    "spatial infill": spatial_infill,
}
"""Each takes normalised pixels (batch, frames, bands, height, width), which of them are visible, and the frames'
minutes (batch, frames), and predicts every pixel. A pixel never visible gets its band's mean over what is visible of
the sample."""


def fit_regression(batches: Iterable[Batch]) -> Baseline:
    """Fit linear regressions of each band and frame of a pixel on all choices of the others.

    Parameters
    ----------
    batches
        To learn from, and of no others; enough of them are taken.

    Returns
    -------
    Baseline
        Predicts each pixel by what is visible at it, in any band and frame.
    """
    iterator = iter(batches)
    first = next(iterator, None)
    more = _ENOUGH // len(first) if first is not None else 0
    taken = [batch for batch in (first, *islice(iterator, max(0, more - 1))) if batch is not None]
    mean, covariance = joint_moments((batch.pixels.cpu(), batch.valid.cpu()) for batch in taken)

    def predict(pixels: Tensor, visible: Tensor, _minutes: Tensor) -> Tensor:
        device = pixels.device
        return expected(mean.to(device), covariance.to(device), pixels, visible).value

    return predict


def _neighbours(visible: Tensor) -> tuple[Tensor, Tensor]:
    """Last frame up to and first frame from each one in which a pixel is visible; -1 and ``frames`` if none."""
    frames = visible.shape[1]
    number = torch.arange(frames, device=visible.device)[:, None, None, None].expand(visible.shape)
    before = torch.where(visible, number, -1).cummax(1).values
    after = torch.where(visible, number, frames).flip(1).cummin(1).values.flip(1)
    return before, after


def _or_sample_mean(pixels: Tensor, visible: Tensor, frame: Tensor) -> Tensor:
    frames = visible.shape[1]
    known = (frame >= 0) & (frame < frames)
    taken = pixels.masked_fill(~visible, 0.0).gather(1, frame.clamp(0, frames - 1))
    return torch.where(known, taken, _sample_mean(pixels, visible))


def _sample_mean(pixels: Tensor, visible: Tensor) -> Tensor:
    total = pixels.masked_fill(~visible, 0.0).sum((1, 3, 4), keepdim=True)
    return total / visible.sum((1, 3, 4), keepdim=True).clamp(min=1)
