"""The steps of a head's training, and of an encoder's that is tuned with it; resumable at each checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stratacube.errors import StratacubeError, UsageError
from stratacube.guard import guarded
from training.batches import Batch, Data
from training.checkpoint import Checkpoints, random_state, read_state, set_random_state
from training.config import OptimizerConfig
from training.finetuned import FineTuned, Tuning
from training.labels import Truth
from training.optimizer import Schedule, adamw
from training.stopping import stop_on_signals
from training.watch import refuse_non_finite

__all__ = ["HeadTraining", "StoppedError", "refuse_other"]

_log = logging.getLogger(__name__)

_SLOWER = 0.1
"""Rate of a tuned encoder, relative to that of its head: what it knows is to be kept."""


class StoppedError(StratacubeError):
    """A signal stopped the training, which is saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        """Of the signal."""


class HeadTraining:
    """A head that is being trained: what learns, and where it stands.

    Parameters
    ----------
    tuned
        The encoder and its head.
    data
        To learn from, which stand at their begin.
    tuning
        How.
    asked
        What makes the numbers, in plain values: a checkpoint of something else is not gone on from.
    """

    def __init__(self, tuned: FineTuned, data: Data, tuning: Tuning, asked: Mapping[str, Any]) -> None:
        self.tuned, self.data, self.tuning, self.asked = tuned, data, tuning, dict(asked)
        self.schedule = Schedule(tuning.rate, 0.0, min(tuning.steps // 10, 50), tuning.steps)
        settings = OptimizerConfig(lr=tuning.rate, steps=tuning.steps)
        self.learning: dict[str, nn.Module] = {"head": tuned.head}
        if tuned.encoder == "tuned":
            self.learning["encoder"] = tuned.model
        shares = {"head": 1.0, "encoder": _SLOWER}
        self.optimizers = {name: adamw(part, settings, tuning.rate) for name, part in self.learning.items()}
        self.shares = {name: shares[name] for name in self.learning}
        self.parameters = [p for part in self.learning.values() for p in part.parameters()]
        self.losses: list[float] = []
        """Of the steps that are done."""

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.losses)

    def run(self, checkpoints: Checkpoints | None = None, every: int | None = None) -> float:
        """Train to the end, and return the mean loss of the last tenth of the steps.

        Parameters
        ----------
        checkpoints
            Where to save, and to go on from if some are there.
        every
            Save after so many steps; a tenth of all by default.

        Raises
        ------
        UsageError
            If a checkpoint is of something else.
        StoppedError
            If a signal stopped it, with a checkpoint of where it stands.
        StratacubeError
            If what was learned is not finite.
        """
        tuned, steps = self.tuned, self.tuning.steps
        tenth = max(1, steps // 10)
        for part in (tuned.model, tuned.head):
            part.train(part in self.learning.values())
        with torch.random.fork_rng(devices=[]), stop_on_signals() as request:
            torch.manual_seed(self.tuning.seed)  # of paths that are dropped
            if checkpoints is not None:
                self._go_on(checkpoints.latest())
            for batch in islice(self._batches(), steps - self.step):
                self._step(batch)
                if not self.step % tenth:
                    _log.info("step %d of %d: loss %.4g", self.step, steps, self.losses[-1])
                due = self.step < steps and not self.step % (every or tenth)
                if checkpoints is not None and (due or request):
                    self._save(checkpoints)
                if request:
                    told = f"stopped at step {self.step} of {steps}"
                    kept = "; start the same command again to go on" if checkpoints is not None else ""
                    raise StoppedError(f"{told}{' and saved' if kept else ''}{kept}", request.number)
        tuned.model.eval(), tuned.head.eval()
        last = self.losses[-tenth:]
        mean = sum(last) / len(last)
        if not all(torch.isfinite(p).all() for p in self.parameters) or mean != mean:  # noqa: PLR0124  (nan alone)
            raise StratacubeError(f"the head learned nothing that is finite; take a `rate` below {self.tuning.rate:g}")
        return mean

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield from self.data.train

    def _step(self, batch: Batch) -> None:
        here = batch.to(next(self.tuned.head.parameters()).device)
        loss = self.tuned.head.loss(self.tuned.answer(here), _scaled(self.tuned, self.tuned.head.label.truth(here)))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.shares[name] * self.schedule.rate(self.step)
            if bool(norm.isfinite()):
                optimizer.step()
            optimizer.zero_grad()
        self.losses.append(float(loss.detach()))

    def _save(self, checkpoints: Checkpoints) -> None:
        """Write where the training stands."""
        weights = {name: part.state_dict() for name, part in self.learning.items()}
        refuse_non_finite(weights, self.step, checkpoints.latest())
        state = {
            "step": self.step,
            "asked": self.asked,
            "weights": weights,
            "optimizer": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "ranks": [{"random": random_state(), "loader": dict(self.data.train.state_dict())}],
            "losses": self.losses,
        }
        checkpoints.write(self.step, lambda folder: torch.save(state, folder / "state.pt"))
        checkpoints.drop_old({})

    def _go_on(self, path: Path | None) -> None:
        if path is None:
            return
        state = read_state(path)
        refuse_other(state.get("asked"), self.asked, path)
        with guarded(f"checkpoint {path} cannot be read", "remove it to go on from an older one"):
            own = state["ranks"][0]
            for name, part in self.learning.items():
                part.load_state_dict(state["weights"][name])
                self.optimizers[name].load_state_dict(state["optimizer"][name])
            self.data.train.load_state_dict(own["loader"])
            set_random_state(own["random"])
            self.losses = [float(loss) for loss in state["losses"]]
        _log.info("going on from %s", path)


def refuse_other(before: Any, asked: Mapping[str, Any], path: Path) -> None:
    """Refuse what is not what was asked for.

    Raises
    ------
    UsageError
        With the first difference.
    """
    known = before if isinstance(before, dict) else {}
    differing = [key for key in asked if known.get(key) != asked[key]]
    if differing:
        told = "; ".join(f"{key} {known.get(key)!r} -> {asked[key]!r}" for key in differing)
        raise UsageError(f"{path} was made otherwise ({told}); give another `output_dir`, or remove it")


def _scaled(tuned: FineTuned, truth: Truth) -> Truth:
    if tuned.head.label.kind != "numbers":
        return truth
    return replace(truth, values=(truth.values - tuned.scale[0]) / tuned.scale[1])
