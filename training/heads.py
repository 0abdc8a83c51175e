"""Heads on an encoder: a class or numbers of a sample, or a class at each pixel or profile (segmentation)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from training.batches import Batch
from training.labels import Label, Truth
from training.models import MaskedAutoencoder

__all__ = ["Head"]

_WIDTH = 64
"""Channels of a segmentation head at the size of the pixels; twice that at the size of the tokens."""


class Head(nn.Module):
    """What is told by tokens and pixels.

    A sample's class or numbers are told linearly by the mean of its tokens. Classes of pixels are told by convolutions
    over the tokens, brought to the size of the pixels in steps of two, beside what the pixels themselves show.

    Parameters
    ----------
    model
        Whose tokens it will take.
    label
        What is to be told.
    tokens
        Whether tokens are seen at all; without, the pixels alone tell, which is what an encoder is to be compared with.
    """

    def __init__(self, model: MaskedAutoencoder, label: Label, *, tokens: bool = True) -> None:
        super().__init__()
        config = model.config
        frames, groups, width = config.frames, len(model.groups), config.dimensions.embed_dim
        self.label, self.patch, self.tokens = label, config.patch_size, tokens
        self.outputs = len(label.classes)
        seen = frames * groups * width
        channels = 2 * frames * len(config.bands)  # of each band what it shows and where it is valid
        self.norm = nn.LayerNorm(width)
        if label.dense:
            steps = max(1, math.ceil(math.log2(self.patch)))
            self.bridge = nn.Linear(seen if tokens else 1, 2 * _WIDTH)
            self.ladder = nn.ModuleList(_Rung(2 * _WIDTH if i == 0 else _WIDTH, _WIDTH) for i in range(steps))
            self.stem = nn.Conv2d(channels, _WIDTH, 3, padding=1)
            self.mixing = _Rung(2 * _WIDTH, _WIDTH)
            self.told = nn.Linear(_WIDTH, label.levels * self.outputs)
        else:
            self.told = nn.Linear(seen if tokens else channels, self.outputs)

    def forward(self, tokens: Tensor | None, batch: Batch) -> Tensor:
        """Tell of a batch what is labelled.

        Parameters
        ----------
        tokens
            (batch, frames, groups, rows, columns, width), of the encoder; None for a head without.
        batch
            The same samples.

        Returns
        -------
        Tensor
            (batch, classes or numbers), or logits of classes (batch, height, width, levels, classes), of profiles
            (batch, profiles, levels, classes).
        """
        known = None if tokens is None else self.norm(tokens)
        if not self.label.dense:
            flat = _of_sample(batch) if known is None else known.mean((3, 4)).flatten(1)
            answer: Tensor = self.told(flat)
            return answer
        dense = self._dense(known, batch)
        if self.label.kind == "profiles":
            assert batch.at is not None
            dense = _taken_at(dense, batch.at)
        else:
            dense = dense.permute(0, 2, 3, 1)
        logits: Tensor = self.told(dense)
        return logits.reshape(*logits.shape[:-1], self.label.levels, self.outputs)

    def loss(self, answer: Tensor, truth: Truth) -> Tensor:
        """Mean error over all that is known: of numbers squared, of classes cross entropy; 0 where nothing is."""
        wanted = truth.values.to(answer.device)
        if self.label.kind == "numbers":
            known = wanted.isfinite()
            return (answer - wanted.nan_to_num()).square()[known].sum() / known.sum().clamp(min=1)
        wanted = self.placed(wanted, truth)
        summed = cross_entropy(answer.flatten(0, -2).float(), wanted.flatten(), ignore_index=-1, reduction="sum")
        return summed / (wanted >= 0).sum().clamp(min=1)

    def placed(self, wanted: Tensor, truth: Truth) -> Tensor:
        """Bring classes into the order of the answer, -1 at profiles that do not count."""
        if self.label.kind == "pixels":
            return wanted.permute(0, 2, 3, 1)
        if truth.at is not None:
            return wanted.masked_fill((truth.at.to(wanted.device)[..., :1] < 0), -1)
        return wanted

    def _dense(self, tokens: Tensor | None, batch: Batch) -> Tensor:
        """(batch, channels, height, width)."""
        height, width = batch.pixels.shape[-2:]
        seen = self.stem(_shown(batch))
        if tokens is None:
            below = seen.new_zeros((len(batch), _WIDTH, height, width))
        else:
            flat = tokens.permute(0, 3, 4, 1, 2, 5).flatten(3)
            below = self.bridge(flat).permute(0, 3, 1, 2)
            for number, rung in enumerate(self.ladder):
                last = number == len(self.ladder) - 1
                size = (height, width) if last else tuple(2 * side for side in below.shape[-2:])
                below = rung(interpolate(below, size=size, mode="bilinear", align_corners=False))
        mixed: Tensor = self.mixing(torch.cat([seen, below], dim=1))
        return mixed


class _Rung(nn.Module):
    """A convolution with what goes with it; groups are normalised, so that batches of one sample do."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.layers(images)
        return answer


def _shown(batch: Batch) -> Tensor:
    """Pixels of all frames and bands, 0 where not valid, and whether they are."""
    filled = batch.pixels.masked_fill(~batch.valid, 0.0)
    return torch.cat([filled, batch.valid.to(filled.dtype)], dim=2).flatten(1, 2)


def _of_sample(batch: Batch) -> Tensor:
    """Mean over places of what the pixels show."""
    return _shown(batch).mean((2, 3))


def _taken_at(images: Tensor, at: Tensor) -> Tensor:
    """Channels at places: (batch, channels, height, width) and (batch, places, 2) to (batch, places, channels)."""
    place = (at[..., 0].long() * images.shape[-1] + at[..., 1].long()).clamp(min=0)
    chosen = images.flatten(2).gather(2, place[:, None].expand(-1, images.shape[1], -1))
    return chosen.transpose(1, 2)
