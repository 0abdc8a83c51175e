"""Fitting what the predictions of a model begin from, before it learns."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from loaders.order import Share
from training.batches import TrainLoader
from training.models import MaskedAutoencoder, draw_masks

__all__ = ["fit_start"]

_SAMPLES = 64
"""Each has some thousand pixels, and the regressions some hundred numbers."""

_TIMES = 4
"""How often a sample is taken at most, where there are few."""


def fit_start(model: MaskedAutoencoder, loader: TrainLoader, share: Share, first: int, seed: int) -> None:
    """Take means and covariances of the samples that come first, with masks of their own.

    Parameters
    ----------
    model
        On the CPU, with ``start: regression``.
    loader
        Of what is learned from.
    share
        Of one rank alone, so that any number of ranks begins alike.
    first
        Number in the stream at which the run begins.
    seed
        Of the masks.
    """
    assert model.start is not None

    # A sample comes again with other masks, and after some times says nothing new.
    enough = min(_SAMPLES, _TIMES * loader.samples)

    def samples() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        taken = 0
        for batch in loader.stream(share, first):
            pixels, valid = batch.pixels.float().cpu(), batch.valid.cpu()
            mask = draw_masks(model.config, seed, range(taken, taken + len(batch)))
            yield pixels, valid, valid & ~model.hidden(mask)
            taken += len(batch)
            if taken >= enough:
                return

    model.start.fit(samples())
