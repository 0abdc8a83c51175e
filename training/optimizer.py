"""AdamW with decay on matrices only, a rate that follows the batch, warm-up and cosine per step, and averaging."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.config import OptimizerConfig

__all__ = ["Average", "Schedule", "adamw", "parameter_groups", "step_if"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate of every optimizer step: linear warm-up, then half a cosine down to the lowest rate."""

    peak: float
    lowest: float
    warmup: int
    steps: int

    @classmethod
    def of(cls, config: OptimizerConfig, batch: int, steps_per_epoch: float) -> Schedule:
        """Work out the schedule of a run.

        Parameters
        ----------
        config
            Rates and lengths.
        batch
            Samples of one optimizer step, over all ranks and micro-steps.
        steps_per_epoch
            Optimizer steps of an epoch.
        """
        peak = config.lr if config.lr is not None else (config.base_lr or 0.0) * batch / 256
        steps = config.steps if config.steps is not None else round((config.epochs or 0.0) * steps_per_epoch)
        warmup = config.warmup_steps
        if warmup is None:
            warmup = round((config.warmup_epochs or 0.0) * steps_per_epoch)
        return cls(peak, config.min_lr, min(warmup, steps), max(1, steps))

    def rate(self, step: int) -> float:
        """Rate of step number ``step``, from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lowest + (self.peak - self.lowest) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices; offsets, norms, the mask token and fill values have none."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def adamw(model: nn.Module, config: OptimizerConfig, rate: float, *, scaled: bool = False) -> torch.optim.AdamW:
    """AdamW over a model's parameters, fused where the device can and gradients are not scaled.

    Fabric unscales gradients before it clips them, which a fused step that unscales by itself does not allow.
    """
    fused = next(model.parameters()).is_cuda and not scaled
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True if fused else None)


def step_if(optimizer: torch.optim.Optimizer, counts: Tensor, step: Callable[[], object]) -> None:
    """Make a step if it counts, and leave weights and moments as they are if not.

    Parameters
    ----------
    optimizer
        AdamW. A fused one looks at ``counts`` on the device, so that the host need not wait for it.
    counts
        A scalar, bool.
    step
        Makes the step.
    """
    if all(group.get("fused") for group in optimizer.param_groups):
        optimizer.found_inf = (~counts).float()  # type: ignore[attr-defined]
        step()
    elif bool(counts):
        step()


class Average:
    """Exponential average of a model's parameters.

    Parameters
    ----------
    model
        Whose parameters; its present ones are the start.
    decay
        Share of the old average kept at each step; small at first, so that the start is forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the parameters after step number ``step``, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = [p.detach() for _, p in model.named_parameters()]
        torch._foreach_lerp_(list(self.values.values()), parameters, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within, the model has the averaged parameters."""
        own = {name: p.detach().clone() for name, p in model.named_parameters()}
        self._copy(model, self.values)
        try:
            yield
        finally:
            self._copy(model, own)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, own in self.values.items():
            own.copy_(values[name])

    @torch.no_grad()
    def _copy(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
