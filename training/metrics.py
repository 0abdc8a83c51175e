"""RMSE, MAE, bias, PSNR and SSIM of each band, on the masked valid pixels, in physical units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

__all__ = ["BandSums", "similarity"]

_WINDOW = 7


class BandSums:
    """Sums over any number of batches, which may be added over ranks.

    Parameters
    ----------
    bands
        Names of the bands.
    span
        Range of each band, in physical units: the peak of PSNR and the dynamic range of SSIM.
    """

    def __init__(self, bands: Sequence[str], span: Sequence[float], device: torch.device) -> None:
        self.bands, self.span = tuple(bands), tuple(span)
        self.sums = torch.zeros(5, len(self.bands), dtype=torch.float64, device=device)

    def add(self, truth: Tensor, estimate: Tensor, wanted: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        truth, estimate
            (batch, frames, bands, height, width), physical; anything where not wanted and not valid, but no NaN.
        wanted
            Same shape, true where a pixel counts.
        """
        difference = (estimate - truth).masked_fill(~wanted, 0.0).double()
        alike = similarity(truth, torch.where(wanted, estimate, truth), self.span).double()
        over = (0, 1, 3, 4)
        self.sums += torch.stack(
            [
                wanted.sum(over).double(),
                difference.sum(over),
                difference.abs().sum(over),
                difference.square().sum(over),
                alike.masked_fill(~wanted, 0.0).sum(over),
            ]
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row a band: band, pixels, rmse, mae, bias, psnr (dB), ssim; null where no pixel was wanted."""
        rows = []
        for band, span, sums in zip(self.bands, self.span, self.sums.T.tolist(), strict=True):
            count, error, absolute, square, alike = sums
            if not count:
                empty = dict.fromkeys(("rmse", "mae", "bias", "psnr", "ssim"))
                rows.append({"band": band, "pixels": 0, **empty})
                continue
            mean_square = square / count
            rows.append(
                {
                    "band": band,
                    "pixels": int(count),
                    "rmse": math.sqrt(mean_square),
                    "mae": absolute / count,
                    "bias": error / count,
                    "psnr": 10 * math.log10(span**2 / mean_square) if mean_square else math.inf,
                    "ssim": alike / count,
                }
            )
        return rows


def similarity(truth: Tensor, estimate: Tensor, span: Sequence[float]) -> Tensor:
    """Structural similarity at each pixel (Wang et al. 2004), in windows of 7 x 7 pixels cut at the borders.

    Parameters
    ----------
    truth, estimate
        (..., bands, height, width).
    span
        Dynamic range of each band.
    """
    shape = truth.shape
    ranges = torch.tensor(span, dtype=torch.float64, device=truth.device)[:, None, None]
    first, second = (0.01 * ranges) ** 2, (0.03 * ranges) ** 2
    x, y = truth.double(), estimate.double()
    centre = _mean(x)  # offsets from it keep the variances exact
    x, y = x - centre.mean((-2, -1), keepdim=True), y - centre.mean((-2, -1), keepdim=True)
    shift = centre.mean((-2, -1), keepdim=True)
    mean_x, mean_y = _mean(x), _mean(y)
    variance_x = (_mean(x * x) - mean_x**2).clamp(min=0)
    variance_y = (_mean(y * y) - mean_y**2).clamp(min=0)
    covariance = _mean(x * y) - mean_x * mean_y
    level_x, level_y = mean_x + shift, mean_y + shift
    luminance = (2 * level_x * level_y + first) / (level_x**2 + level_y**2 + first)
    structure = (2 * covariance + second) / (variance_x + variance_y + second)
    return (luminance * structure).reshape(shape)


def _mean(images: Tensor) -> Tensor:
    flat = images.flatten(0, -4) if images.ndim > 4 else images
    pad = _WINDOW // 2
    return avg_pool2d(flat, _WINDOW, stride=1, padding=pad, count_include_pad=False).reshape(images.shape)
