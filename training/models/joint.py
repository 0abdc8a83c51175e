"""One model of several sources: each has embeddings and heads of its own, and all share the blocks between."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from training.models.mae import MaskedAutoencoder
from training.models.masks import TokenMask
from training.models.settings import ModelConfig

__all__ = ["JointAutoencoder", "make_model"]


class JointAutoencoder(MaskedAutoencoder):
    """Masked autoencoder of samples of several sources, such as an imager's tiles and composites of another.

    It is the model of the first source, with those of the ``others`` beside it.

    Parameters
    ----------
    config
        With ``others``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.others = nn.ModuleDict({name: MaskedAutoencoder(config.part(name), self) for name in config.others})

    def part(self, name: str) -> MaskedAutoencoder:
        """Model of one source: this one itself where no other has the name."""
        found = dict(self.others.items()).get(name, self)
        assert isinstance(found, MaskedAutoencoder)
        return found

    def forward(
        self,
        pixels: Tensor | Mapping[str, Tensor],
        valid: Tensor | Mapping[str, Tensor],
        minutes: Tensor | Mapping[str, Tensor],
        mask: TokenMask | Mapping[str, TokenMask],
    ) -> Tensor:
        """Loss of a batch: the mean over its samples, of whatever source.

        Parameters
        ----------
        pixels, valid, minutes, mask
            As of :meth:`MaskedAutoencoder.reconstruct`, by name of the source.
        """
        if isinstance(pixels, Tensor):
            raise TypeError("give pixels by the name of their source")
        assert isinstance(valid, Mapping)
        assert isinstance(minutes, Mapping)
        assert isinstance(mask, Mapping)
        samples = sum(map(len, pixels.values()))
        loss = torch.zeros((), device=self.mask_token.device)
        for name, images in pixels.items():
            found = self.part(name).reconstruct(images, valid[name], minutes[name], mask[name])
            loss = loss + found.loss * (len(images) / samples)
        # Each weight gets a gradient in each step, though it be 0: ranks wait for those of one another, and moments
        # must not depend on which rank had samples of which source.
        present = [self.part(name) for name in pixels]
        for model in (self, *map(self.part, self.others)):
            if not any(model is one for one in present):
                loss = loss + 0.0 * torch.stack([parameter.sum() for parameter in model.ends()]).sum()
        return loss


def make_model(config: ModelConfig) -> MaskedAutoencoder:
    """Make the model of a configuration: of one source, or of several."""
    return JointAutoencoder(config) if config.others else MaskedAutoencoder(config)
