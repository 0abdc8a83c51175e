"""Judging a model on fixed masks: reconstructions in physical units, beside what needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from stratacube.errors import StratacubeError
from training.baselines import Baseline
from training.batches import Batch, BatchLoader, Data, Statistics
from training.metrics import BandSums
from training.models import MaskedAutoencoder, TokenMask, draw_masks
from training.models.joint import JointAutoencoder
from training.models.loss import patch_statistics
from training.models.patches import images_to_patches

__all__ = ["Report", "Restored", "restore", "validate", "validate_parts"]

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
    return Restored(result.loss, truth, model.images(patches), model.hidden(mask), batch.valid)


def validate(
    model: MaskedAutoencoder,
    loader: BatchLoader,
    statistics: Statistics,
    fabric: Fabric,
    *,
    seed: int,
    batches: int | None = None,
    baselines: Mapping[str, Baseline] | None = None,
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
        What to judge beside it.

    Raises
    ------
    StratacubeError
        If no pixel is masked and valid.
    """
    beside = baselines or {}
    methods = [MODEL, *beside]
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
            _add(sums, restored, here, statistics, beside)
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


def validate_parts(
    model: MaskedAutoencoder, data: Data, fabric: Fabric, *, seed: int, batches: int | None = None
) -> Report:
    """Judge a model on all that has validation data: one source, or those of a mixture.

    The loss of a mixture is the mean by the shares that are learned from, and its bands are called SOURCE/BAND.

    Parameters
    ----------
    model, fabric, seed, batches
        As of :func:`validate`.
    data
        Of the run; some of it must have validation data.
    """
    was_training = model.training
    model.eval()
    reports: dict[str, Report] = {}
    for name, part in data.judged.items():
        assert part.validation is not None
        alone = model.part(name) if isinstance(model, JointAutoencoder) else model
        reports[name] = validate(alone, part.validation, part.statistics, fabric, seed=seed, batches=batches)
    model.train(was_training)
    if not data.parts:
        return reports[""]
    weights = {name: data.shares[name] for name in reports}
    return Report(
        sum(reports[name].loss * weight for name, weight in weights.items()) / sum(weights.values()),
        sum(report.samples for report in reports.values()),
        [{**row, "band": f"{name}/{row['band']}"} for name, report in reports.items() for row in report.rows],
    )


def _add(
    sums: dict[str, BandSums],
    restored: Restored,
    batch: Batch,
    statistics: Statistics,
    baselines: Mapping[str, Baseline],
) -> None:
    truth, wanted = statistics.physical(restored.truth), restored.masked & restored.valid
    visible = restored.valid & ~restored.masked
    for name, part in sums.items():
        estimate = restored.estimate if name == MODEL else baselines[name](restored.truth, visible, batch.minutes)
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
