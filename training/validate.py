"""Judging a model on fixed masks: reconstructions in physical units, beside what needs no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from stratacube.errors import StratacubeError
from training.baselines import BASELINES
from training.batches import Batch, BatchLoader, Statistics
from training.metrics import BandSums
from training.models import MaskedAutoencoder, TokenMask, draw_masks
from training.models.loss import patch_statistics
from training.models.patches import images_to_patches

__all__ = ["Report", "Restored", "restore", "validate"]

MODEL = "model"


@dataclass(frozen=True)
class Restored:
    """A batch and what the model made of it, normalised, (batch, frames, bands, height, width)."""

    loss: Tensor
    truth: Tensor
    """Zero (the band mean) at invalid pixels."""
    estimate: Tensor
    """Prediction of every pixel, visible ones too."""
    masked: Tensor
    """True where the encoder saw nothing."""
    valid: Tensor


@dataclass(frozen=True)
class Report:
    """Outcome of a validation."""

    loss: float
    samples: int
    rows: list[dict[str, Any]]
    """A row a method and band: method, band, pixels, rmse, mae, bias, psnr, ssim."""

    def of(self, method: str = MODEL) -> list[dict[str, Any]]:
        """Pick the rows of one method, without its name."""
        return [{k: v for k, v in row.items() if k != "method"} for row in self.rows if row["method"] == method]


@torch.no_grad()
def restore(model: MaskedAutoencoder, batch: Batch, mask: TokenMask) -> Restored:
    """Hide tokens of a batch and let the model fill them.

    With ``norm_pix_loss`` a model predicts normalised patches: they are brought back by the mean and deviation of the
    true patch, which the model does not know; its numbers are then too good to set beside other methods.
    """
    config = model.config
    result = model.reconstruct(batch.pixels, batch.valid, batch.minutes, mask)
    patches = [part.float() for part in result.patches]
    truth = batch.pixels.masked_fill(~batch.valid, 0.0)
    if config.norm_pix_loss:
        targets = images_to_patches(truth, config.patch_size, config.group_indices)
        valid = images_to_patches(batch.valid, config.patch_size, config.group_indices)
        for number, (target, usable) in enumerate(zip(targets, valid, strict=True)):
            mean, deviation = patch_statistics(target, usable)
            patches[number] = patches[number] * deviation + mean
    return Restored(result.loss, truth, model.images(patches), _masked_pixels(model, mask), batch.valid)


def validate(
    model: MaskedAutoencoder,
    loader: BatchLoader,
    statistics: Statistics,
    fabric: Fabric,
    *,
    seed: int,
    batches: int | None = None,
    baselines: bool = False,
) -> Report:
    """Judge a model on every sample of a loader, or the first ``batches`` batches of each rank.

    Parameters
    ----------
    model
        The model.
    loader
        Samples in a fixed order.
    statistics
        Physical units.
    fabric
        Device, precision and ranks.
    seed
        Seed of the masks: the same masks each time.
    batches
        Batches of each rank; all if not given.
    baselines
        Judge the baselines too.

    Raises
    ------
    StratacubeError
        If no pixel is masked and valid.
    """
    methods = [MODEL, *(BASELINES if baselines else ())]
    sums = {name: BandSums(statistics.bands, statistics.span, fabric.device) for name in methods}
    totals = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    was_training, start = model.training, loader.state_dict()
    model.eval()
    with torch.no_grad(), fabric.autocast():
        for batch, counts in _in_step(loader, batches, fabric):
            here = batch.to(fabric.device)
            mask = draw_masks(model.config, seed, here.samples.tolist()).to(fabric.device)
            restored = restore(model, here, mask)
            if not counts:
                continue
            totals += torch.stack([restored.loss.double() * len(batch), torch.tensor(len(batch), device=totals.device)])
            _add(sums, restored, here, statistics)
    model.train(was_training)
    loader.load_state_dict(start)
    gathered = [fabric.all_reduce(part, reduce_op="sum") for part in (totals, *(s.sums for s in sums.values()))]
    if fabric.world_size > 1:
        totals = torch.as_tensor(gathered[0])
        for part, total in zip(sums.values(), gathered[1:], strict=True):
            part.sums = torch.as_tensor(total)
    loss, samples = totals.tolist()
    if samples and not bool(sums[MODEL].sums[0].any()):
        raise StratacubeError(
            f"none of the {int(samples)} validation samples has a masked pixel that is valid, so there is nothing to"
            " judge on; check the masks of the store and the choice of validation samples"
        )
    rows = [{"method": name, **row} for name in methods for row in sums[name].rows()]
    return Report(loss / max(1, samples), int(samples), rows)


def _add(sums: dict[str, BandSums], restored: Restored, batch: Batch, statistics: Statistics) -> None:
    truth, wanted = statistics.physical(restored.truth), restored.masked & restored.valid
    visible = restored.valid & ~restored.masked
    for name, part in sums.items():
        estimate = restored.estimate if name == MODEL else BASELINES[name](restored.truth, visible, batch.minutes)
        part.add(truth, statistics.physical(estimate), wanted)


def _in_step(loader: BatchLoader, most: int | None, fabric: Fabric) -> Iterator[tuple[Batch, bool]]:
    """Batches, and whether each counts: all ranks take equally many, as sharded models need, repeating the last."""
    own = len(loader) if most is None else min(most, len(loader))
    longest = own
    if fabric.world_size > 1:
        longest = int(torch.as_tensor(fabric.all_reduce(torch.tensor(own, device=fabric.device), reduce_op="max")))
    last: Batch | None = None
    for last in islice(iter(loader), own):
        yield last, True
    for _ in range(longest - own):
        if last is not None:
            yield last, False


def _masked_pixels(model: MaskedAutoencoder, mask: TokenMask) -> Tensor:
    """The token mask at every pixel of every band."""
    config = model.config
    groups, pixels = config.group_indices, config.patch_size**2
    tokens = mask.masked.reshape(len(mask.masked), config.frames, len(groups), -1)
    parts = [
        tokens[:, :, number, :, None, None].expand(-1, -1, -1, pixels, len(group))
        for number, group in enumerate(groups)
    ]
    return model.images(parts)
