"""Linear regression of every band and frame of a pixel on those that are seen there.

Means and covariances of all bands and frames are taken once; the regression on any choice of them follows as the
conditional expectation of a normal distribution, which is what least squares gives for that choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from stratacube.errors import UsageError

__all__ = ["Expected", "expected", "joint_moments"]

_RIDGE = 1e-5
"""Added to every variance, in those of the normalised bands: counts are rounded, and bands may be alike."""
_TOGETHER = 256
"""Choices of what is seen that are solved at once: each takes the square of frames times bands, several times."""
_LEAST = 2e-2
"""Least deviation of what is not explained, in those of the normalised bands."""


class Expected(NamedTuple):
    """What a regression says of every pixel."""

    value: Tensor
    """(batch, frames, bands, height, width) float32, normalised; also where a pixel is seen."""
    deviation: Tensor
    """Same shape: of what the regression does not explain."""


def joint_moments(samples: Iterable[tuple[Tensor, Tensor]], ridge: float = _RIDGE) -> tuple[Tensor, Tensor]:
    """Take mean and covariance of all frames and bands of a pixel, over pixels.

    Parameters
    ----------
    samples
        Pixels (batch, frames, bands, height, width), normalised, and which of them are valid. A covariance is of the
        pixels of which both values are valid, so bands may be missing in some samples.
    ridge
        Added to every variance: the fewer the scenes, the more it takes that what they happen to share is not learned.

    Returns
    -------
    mean, covariance
        (frames * bands,) and (frames * bands, frames * bands), float64; the covariance is positive definite.

    Raises
    ------
    UsageError
        If there is no sample.
    """
    sums: Tensor | None = None
    for pixels, valid in samples:
        flat, known = _by_pixel(pixels.masked_fill(~valid, 0.0)).double(), _by_pixel(valid).double()
        # Of each pair: the count, the sum of one where both are known, and the sum of products.
        found = torch.stack([known.T @ known, flat.T @ known, flat.T @ flat])
        sums = found if sums is None else sums + found
    if sums is None:
        raise UsageError("there is no sample to take the covariances of bands from; give data of at least one")
    count = sums[0].clamp(min=1)
    mean = sums[1].diagonal() / sums[0].diagonal().clamp(min=1)
    covariance = sums[2] / count - (sums[1] / count) * (sums[1].T / count)
    values, axes = torch.linalg.eigh((covariance + covariance.T) / 2)
    # Pairs of different pixels need not go together: what is negative of it is none.
    return mean, axes @ torch.diag(values.clamp(min=0) + ridge) @ axes.T


def expected(mean: Tensor, covariance: Tensor, pixels: Tensor, visible: Tensor, bands: int | None = None) -> Expected:
    """Regress every band and frame of each pixel on those that are visible there.

    Parameters
    ----------
    mean, covariance
        Of `joint_moments`.
    pixels
        (batch, frames, bands, height, width), normalised; anything where not visible.
    visible
        Same shape, bool.
    bands
        Of each frame only the first so many are predicted; all if not given.
    """
    batch, frames, told, height, width = pixels.shape
    wanted = torch.arange(frames * told, device=pixels.device).reshape(frames, told)[:, :bands].flatten()
    shape = batch, frames, bands or told, height, width
    seen = _by_pixel(visible)
    mean = mean.float()
    apart = (_by_pixel(pixels) - mean).masked_fill(~seen, 0.0)
    of_pixel, counts = _alike(seen)
    order = of_pixel.argsort()
    firsts = order[counts.cumsum(0) - counts]
    rows = iter(torch.split(apart[order], counts.tolist()))
    parts, deviations = [], []
    for patterns in torch.split(seen[firsts], _TOGETHER):
        weights, left = _regressions(covariance, patterns, wanted)
        parts += [next(rows) @ weight.T for weight in weights]
        deviations.append(left)
    value = apart.new_empty(len(apart), len(wanted))
    value[order] = torch.cat(parts)
    return Expected(_as_images(value + mean[wanted], shape), _as_images(torch.cat(deviations)[of_pixel], shape))


def _alike(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Number the choices of what is seen: the number of each pixel's, and how many pixels have each."""
    random = torch.Generator().manual_seed(0)
    # Sums of random numbers of 64 bits that wrap: two choices of a batch are taken for one in 1e-10 of batches.
    words = torch.randint(-(2**62), 2**62, (seen.shape[1],), generator=random).to(seen.device)
    names = torch.where(seen, words, 0).sum(1)
    _, numbers, counts = torch.unique(names, return_inverse=True, return_counts=True)
    return numbers, counts


def _regressions(covariance: Tensor, patterns: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """For each choice of what is seen, the matrix that predicts what is wanted, and the deviation of what is left."""
    here = covariance.device
    home = torch.device("cpu") if here.type == "mps" else here  # Metal has no numbers of 64 bits
    covariance = covariance.to(home).double()
    chosen = patterns.to(home).double()
    both = chosen[:, :, None] * chosen[:, None, :]
    inner = covariance * both + torch.diag_embed(1 - chosen)
    across = covariance[wanted.to(home)]
    # covariance (wanted x seen) @ inverse (seen x seen), for all choices at once
    weights = torch.linalg.solve(inner, across.T * chosen[:, :, None]).transpose(1, 2) * chosen[:, None, :]
    left = covariance.diagonal()[wanted.to(home)] - (weights * across).sum(2)
    return weights.float().to(here), left.clamp(min=_LEAST**2).sqrt().float().to(here)


def _by_pixel(images: Tensor) -> Tensor:
    """(batch, frames, bands, height, width) as (pixels, frames * bands)."""
    return images.flatten(1, 2).permute(0, 2, 3, 1).reshape(-1, images.shape[1] * images.shape[2])


def _as_images(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    batch, frames, bands, height, width = shape
    return rows.reshape(batch, height, width, frames, bands).permute(0, 3, 4, 1, 2).contiguous()
