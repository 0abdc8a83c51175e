"""What predictions of ``start: regression`` begin from, and what is learned on top of it.

A linear regression of the hidden bands and frames of a pixel on those that are seen there, and on what is seen around
it, needs no more than means and covariances. The network predicts what it leaves, in units of its deviation: it need
not learn again what a regression knows, and bands that are nearly told by others weigh as much as the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, interpolate

from training.infill import infill
from training.regression import Expected, expected, joint_moments

__all__ = ["Start", "Started"]

_AROUND = 3
"""Side of what a background is the mean of, in patches."""
_DILATIONS = (1, 2, 4, 1)
"""Of the convolutions: they see 17 pixels around each."""


class Started(NamedTuple):
    """What a model with a start predicts, (batch, frames, bands, height, width)."""

    estimate: Tensor
    deviation: Tensor
    """Of what the regression leaves at each pixel: the unit of the loss."""


class Start(nn.Module):
    """Regression, and convolutions for detail beside the tokens.

    Parameters
    ----------
    frames, bands
        Of a sample.
    patch
        Side of a patch, pixels.
    channels
        Width of the convolutions; 0: none.
    ridge
        Of the regression, in variances of the normalised bands.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, frames: int, bands: int, patch: int, channels: int, ridge: float) -> None:
        super().__init__()
        self.bands, self.patch, self.ridge = bands, patch, ridge
        # Of each band and frame: what is seen at the pixel, what is filled in where it is hidden, and the background.
        count = 3 * frames * bands
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("covariance", torch.eye(count))
        self.detail = _Detail(frames * bands, channels) if channels else None

    @torch.no_grad()
    def fit(self, samples: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Take means and covariances.

        Parameters
        ----------
        samples
            Normalised pixels, which are valid, and which of these are visible.
        """

        def seen() -> Iterator[tuple[Tensor, Tensor]]:
            for pixels, valid, visible in samples:
                _, told, known = self._told(pixels.masked_fill(~valid, 0.0), visible)
                yield told, torch.cat([valid, known[:, :, self.bands :]], dim=2)

        mean, covariance = joint_moments(seen(), self.ridge)
        self.mean.copy_(mean)
        self.covariance.copy_(covariance)

    def forward(self, pixels: Tensor, visible: Tensor, tokens: Tensor) -> Started:
        """Put what the network says on top of what the regression says.

        Parameters
        ----------
        pixels, visible
            (batch, frames, bands, height, width): normalised, anything where not visible.
        tokens
            Same shape, of the decoder's tokens, in deviations.
        """
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            seen = pixels.float().masked_fill(~visible, 0.0)
            begin, filled = self._begin(seen, visible)
        learned = tokens.float()
        if self.detail is not None:
            more = self.detail((filled - begin.value) / begin.deviation, begin.value, seen, visible.to(seen.dtype))
            learned = learned + more.float()
        return Started(begin.value + begin.deviation * learned, begin.deviation)

    def _begin(self, pixels: Tensor, visible: Tensor) -> tuple[Expected, Tensor]:
        """What the regression says, and what infilling says."""
        level, told, known = self._told(pixels, visible)
        found = expected(self.mean, self.covariance, told, known, self.bands)
        return found._replace(value=found.value + level), told[:, :, self.bands : 2 * self.bands] + level

    def _told(self, pixels: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Level of each band, all that a regression may take of a pixel as bands side by side, and where it may.

        All is counted from the mean of what is visible of the sample's band: how bands go together within scenes is
        alike by day and by night, and where a band is missing in some of the scenes.
        """
        filled = infill(pixels, visible)
        coarse = avg_pool2d(filled.flatten(0, 1), self.patch)
        coarse = avg_pool2d(coarse, _AROUND, 1, _AROUND // 2, count_include_pad=False)
        background = interpolate(coarse, filled.shape[-2:], mode="bilinear", align_corners=False).reshape(filled.shape)
        some = visible.any(-1, keepdim=True).any(-2, keepdim=True).expand(visible.shape)
        count = visible.sum((1, 3, 4), keepdim=True).clamp(min=1)
        level = pixels.masked_fill(~visible, 0.0).sum((1, 3, 4), keepdim=True) / count
        told = torch.cat([image - level for image in (pixels, filled, background)], dim=2)
        return level, told, torch.cat([visible, some & ~visible, some], dim=2)


class _Detail(nn.Module):
    """Convolutions over all bands and frames at once, which begin as nothing."""

    def __init__(self, images: int, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4 * images, channels, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GELU(),
                nn.Conv2d(channels, channels, 3, padding=step, dilation=step, padding_mode="replicate"),
                nn.GELU(),
                nn.Conv2d(channels, channels, 1),
            )
            for step in _DILATIONS
        )
        self.outer = nn.Conv2d(channels, images, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]

    def forward(self, *images: Tensor) -> Tensor:
        tokens = self.inner(torch.cat([image.flatten(1, 2) for image in images], dim=1))
        for block in self.blocks:
            tokens = tokens + block(tokens)
        added: Tensor = self.outer(gelu(tokens)).unflatten(1, images[0].shape[1:3])
        return added
