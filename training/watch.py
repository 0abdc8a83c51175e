"""What is watched in every step, without waiting for the device: whether it counts, its loss, how much was valid."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from stratacube.errors import StratacubeError

__all__ = ["Watch", "refuse_non_finite"]

_MOST, _MOST_SCALED = 5, 25
"""Steps in a row that may be skipped. A scale of 16-bit gradients begins far too high and is halved by each."""


_ENOUGH = 10
"""Steps without a valid pixel after which there is none: single samples may well have none."""


class Watch:
    """Counts steps that are skipped as their gradient is not finite, and sums up the others.

    Parameters
    ----------
    device
        Where the numbers are kept: they are looked at on the schedules of logging and saving only.
    scaled
        Whether gradients are scaled.
    """

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        self.most = _MOST_SCALED if scaled else _MOST
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        """In all of the run."""
        self.in_a_row = torch.zeros_like(self.skipped)
        self._steps = 0
        self._ever = 0.0
        self._sums = torch.zeros(4, device=device)
        """Loss of steps that count, and how many; share of valid pixels of batches, and how many."""

    def batch(self, valid_share: Tensor) -> None:
        """Take in the share of valid pixels of a batch, a scalar on the device."""
        self._sums[2:] += torch.stack([valid_share, self._sums.new_ones(())])

    def step(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Take in a step, and say whether it counts: a scalar on the device, the same on every rank."""
        self._steps += 1
        counts = torch.isfinite(norm)
        self.skipped += ~counts
        self.in_a_row = torch.where(counts, torch.zeros_like(self.in_a_row), self.in_a_row + 1)
        self._sums[:2] += torch.where(counts, torch.stack([loss.float(), torch.ones_like(self._sums[0])]), 0.0)
        return counts

    def row(self, fabric: Fabric, *, last: bool) -> dict[str, Any]:
        """Mean loss and share of valid pixels since the last row, and steps skipped in all; collective.

        Raises
        ------
        StratacubeError
            If no pixel was valid in any step, at the last or after some.
        """
        sums = torch.as_tensor(fabric.all_reduce(self._sums, reduce_op="sum"))
        loss, steps, valid, batches = sums.tolist()
        self._sums = torch.zeros_like(self._sums)
        self._ever += valid
        if not self._ever and (last or self._steps >= _ENOUGH):
            raise StratacubeError(
                f"no pixel of any sample of {self._steps} steps is valid: there is nothing to learn from; check the"
                " masks of the store, the statistics and data.where"
            )
        return {
            "loss": loss / steps if steps else None,
            "valid_share": valid / batches if batches else None,
            "skipped": int(self.skipped),
        }

    def refuse_lost(self, step: int, newest: object) -> None:
        """End a run that only skips.

        Raises
        ------
        StratacubeError
            If too many steps in a row were skipped.
        """
        skipped = int(self.in_a_row)
        if skipped >= self.most:
            raise StratacubeError(
                f"the gradient is not finite at step {step} and was not in the {skipped} steps up to it, which were"
                f" skipped; lower the rate, set optimizer.clip, or check the data, and go on from {newest}"
            )


def refuse_non_finite(what: dict[str, dict[str, Tensor]], step: int, newest: object) -> None:
    """Refuse to save what is not finite.

    Parameters
    ----------
    what
        Tensors by name, by what they are.
    step
        Steps done.
    newest
        The checkpoint to go on from.

    Raises
    ------
    StratacubeError
        If a tensor holds NaN or infinity.
    """
    for kind, tensors in what.items():
        wrong = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
        if wrong:
            raise StratacubeError(
                f"{kind} are not finite at step {step} ({wrong[0]} and {len(wrong) - 1} more) and were not saved; lower"
                f" the rate or set optimizer.clip, and go on from {newest}"
            )
