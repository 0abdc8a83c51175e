"""An encoder with a head: how it is to be trained, what it tells, and its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stratacube.errors import UsageError
from stratacube.files import whole_file, write_json
from stratacube.guard import guarded
from training.batches import Batch, Statistics
from training.heads import Head
from training.labels import TASKS, Label
from training.models import MaskedAutoencoder, load_model, save_model

__all__ = ["ENCODERS", "RESULT", "FineTuned", "Tuning", "open_finetuned", "read_result", "write_finetuned"]

ENCODERS = ("frozen", "tuned", "random", "none")
RESULT = "finetune.json"


@dataclass(frozen=True)
class Tuning:
    """How a head is trained."""

    encoder: Literal["frozen", "tuned", "random", "none"] = "frozen"
    """frozen: as it was trained; tuned: trained on, at a tenth of the rate; random: frozen with random weights; none:
    the pixels alone."""
    steps: int = 500
    rate: float = 1e-3
    seed: int = 0
    task: Literal["classes", "numbers"] | None = None
    """Whether one number a sample is a class or a number; by default a class where all are whole."""

    def __post_init__(self) -> None:
        if self.task not in (None, *TASKS):
            raise UsageError(f"`task` is {self.task}; give one of {', '.join(TASKS)}")
        if self.encoder not in ENCODERS:
            raise UsageError(f"`encoder` is {self.encoder}; give one of {', '.join(ENCODERS)}")
        if self.steps < 1 or not self.rate > 0:
            raise UsageError(f"`steps` is {self.steps} and `rate` {self.rate:g}; both are to be above 0")


@dataclass(frozen=True)
class FineTuned:
    """An encoder with a head."""

    model: MaskedAutoencoder
    head: Head
    scale: tuple[Tensor, Tensor]
    """Mean and deviation of numbers, which the head tells in units of the latter."""
    encoder: str

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """Tell labels: as `Truth` has them, of pixels (batch, levels, height, width)."""
        told = self.answer(batch)
        if self.head.label.kind == "numbers":
            return told * self.scale[1] + self.scale[0]
        classes = told.argmax(-1)
        return classes.permute(0, 3, 1, 2) if self.head.label.kind == "pixels" else classes

    def answer(self, batch: Batch) -> Tensor:
        """What the head says."""
        answer: Tensor = self.head(self.tokens(batch), batch)
        return answer

    def tokens(self, batch: Batch) -> Tensor | None:
        """Of the encoder, which learns if it is tuned and trained."""
        if self.encoder == "none":
            return None
        with torch.set_grad_enabled(self.encoder == "tuned" and torch.is_grad_enabled()):
            return self.model.encode(batch.pixels, batch.valid, batch.minutes)


def open_finetuned(folder: Path) -> FineTuned:
    """Open what `training.finetuning.finetune` wrote.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    with guarded(f"{folder} holds no encoder with a head", "give a folder of training.finetune"):
        told = read_result(folder)
        label = Label(told["label"], told["kind"], tuple(told["classes"]), tuple(told["values"]), int(told["levels"]))
        model, encoder = load_model(folder / "encoder.safetensors").eval(), str(told["tuning"]["encoder"])
        head = Head(model, label, tokens=encoder != "none").eval()
        weights = load_file(folder / "head.safetensors")
        scale = weights.pop("scale.mean"), weights.pop("scale.std")
        head.load_state_dict(weights)
    return FineTuned(model, head, scale, encoder)


def read_result(folder: Path) -> dict[str, Any]:
    """Read what was told of a head that is done."""
    path = folder / RESULT
    with guarded(f"{path} does not tell of a head", "give another folder"):
        told: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(told["scores"], dict) or not isinstance(told["tuning"], dict):
            raise TypeError("it has no scores")
        return told


def write_finetuned(folder: Path, tuned: FineTuned, statistics: Statistics, result: Mapping[str, Any]) -> None:
    """Write all that `open_finetuned` reads; the result comes last, so that who finds it finds the rest."""
    weights = {name: value.cpu().contiguous() for name, value in tuned.head.state_dict().items()}
    weights |= {"scale.mean": tuned.scale[0].cpu(), "scale.std": tuned.scale[1].cpu()}
    with whole_file(folder / "head.safetensors", durable=True) as part:
        save_file(weights, part)
    whole = {name: value.cpu() for name, value in tuned.model.state_dict().items()}
    with whole_file(folder / "encoder.safetensors", durable=True) as part:
        save_model(tuned.model.config, whole, part, encoder_only=True)
    Statistics.stored(statistics.as_dict()).save(folder / "statistics.json")
    write_json(folder / RESULT, result)
