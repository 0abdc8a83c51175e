"""A head trained on labels, on an encoder that is frozen or tuned with it, and judged on validation samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stratacube.choices import require_least
from stratacube.claim import claimed
from stratacube.errors import UsageError
from stratacube.files import digest_of, remove, remove_strays, write_json
from training.batches import Data, stored_statistics
from training.checkpoint import Checkpoints
from training.compute import make_fabric
from training.config import RunConfig
from training.data import open_data
from training.finetuned import RESULT, FineTuned, Tuning, open_finetuned, read_result, write_finetuned
from training.folders import refuse_foreign
from training.head_scores import Tally
from training.head_training import HeadTraining, StoppedError, refuse_other
from training.heads import Head
from training.labels import Label, Truth, classes_of, labels_of, whole_numbers
from training.models import MaskedAutoencoder
from training.runs import Opened

__all__ = ["FineTuned", "StoppedError", "Tuning", "finetune", "open_finetuned"]

_SAMPLES = 256
"""Training samples of which the labels' mean, spread and classes are taken."""
_UNDER_WAY = "heads"
"""Folder of the checkpoints, until a head is done."""
_COMPARED = ("random", "none")


def finetune(
    opened: Opened, tuning: Tuning, output: Path | None = None, *, compare: bool = False, every: int | None = None
) -> tuple[FineTuned, dict[str, Any]]:
    """Train a head on the run's training samples and judge it on its validation samples.

    What a run that was stopped has done is not done again: the same call goes on from its last checkpoint, to the same
    numbers. Called again when all is done, it tells what was found.

    Parameters
    ----------
    opened
        The model. ``data.label`` of its config names what is to be told.
    tuning
        How.
    output
        Folder to write; none by default.
    compare
        Train the same head on the encoder with random weights, and on the pixels alone, too.
    every
        Save after so many steps; a tenth of all by default.

    Returns
    -------
    finetuned, result
        ``label``, ``kind``, ``classes``, ``tuning``, ``loss`` (mean of the last tenth of the steps), the ``model`` and
        its ``step``, and ``scores``, by ``head``, by what it is compared with and by what is told without looking
        (``commonest class``, of pixels and profiles at each level, or ``mean``); see `training.head_scores.Tally`.

    Raises
    ------
    UsageError
        If the folder holds something else, or samples have no labels.
    StoppedError
        If a signal stopped it, with a checkpoint of where it stands.
    """
    require_least(1, save_every=every)
    with _owned(output) as folder:
        work = _Work.begin(opened, tuning, folder, every)
        done = None if folder is None else _done(folder, work.asked)
        tuned, result = done or work.whole()
        for how in _COMPARED if compare else ():
            if how != tuning.encoder and how not in result["scores"]:
                result["scores"][how] = work.trained(replace(tuning, encoder=how))[1]  # type: ignore[arg-type]
                if folder is not None:
                    write_json(folder / RESULT, result)
        if folder is not None:
            remove(folder / _UNDER_WAY)
    return tuned, result


@contextmanager
def _owned(output: Path | None) -> Iterator[Path | None]:
    """Own the folder, which is new, empty, or of an earlier call."""
    if output is None:
        yield None
        return
    refuse_foreign(output, {RESULT, _UNDER_WAY}, "training.finetune")
    output.mkdir(parents=True, exist_ok=True)
    with claimed(output):
        remove_strays(output)
        yield output


def _done(folder: Path, asked: Mapping[str, Any]) -> tuple[FineTuned, dict[str, Any]] | None:
    """What an earlier call has finished, if it was asked for the same."""
    if not (folder / RESULT).exists():
        return None
    result = read_result(folder)
    refuse_other(result.get("asked"), asked, folder / RESULT)
    return open_finetuned(folder), result


@dataclass(frozen=True)
class _Work:
    """Heads of one model for one label, on the same samples."""

    opened: Opened
    tuning: Tuning
    folder: Path | None
    every: int | None
    data: Data
    device: torch.device
    start: Mapping[str, Any]
    """Where the loader begins for each head."""

    @classmethod
    def begin(cls, opened: Opened, tuning: Tuning, folder: Path | None, every: int | None) -> _Work:
        """Open the data."""
        config = opened.config
        fabric = make_fabric(RunConfig(devices=1, precision="32-true"))
        data = open_data(config, 0, 1, fabric.device, stored=stored_statistics(opened.manifest), strict=False)
        if data.validation is None:
            raise UsageError(f"{config.name} has no validation data; set them in the config's data section")
        return cls(opened, tuning, folder, every, data, fabric.device, dict(data.train.state_dict()))

    @property
    def name(self) -> str:
        """Of the label."""
        return getattr(self.opened.config.data, "label", None) or "label"

    @cached_property
    def asked(self) -> dict[str, Any]:
        """All that makes the numbers, in plain values."""
        return {
            **{"label": self.name, **asdict(self.tuning), "batch_size": self.opened.config.data.batch_size},
            **{"weights": digest_of(self.opened.weights), "data": self.data.fingerprint},
        }

    @cached_property
    def looked(self) -> tuple[Label, list[Truth]]:
        """What labels are, and those of some training samples."""
        found = _look(self.name, self.data, self.opened.config.data.batch_size, self.tuning.task)
        self.data.train.load_state_dict(self.start)
        return found

    def whole(self) -> tuple[FineTuned, dict[str, Any]]:
        """Train the head that was asked for, and write it."""
        label, known = self.looked
        tuned, scores, loss = self._made(self.tuning)
        result = {
            **{"label": label.name, "kind": label.kind, "classes": list(label.classes), "values": list(label.values)},
            **{"levels": label.levels, "tuning": asdict(self.tuning), "loss": loss},
            **{"scores": {"head": scores, **_without_looking(label, known, self.data)}},
            **{"model": self.opened.config.name, "step": self.opened.step, "asked": self.asked},
        }
        if self.folder is not None:
            write_finetuned(self.folder, tuned, self.data.statistics, result)
        return tuned, result

    def trained(self, tuning: Tuning) -> tuple[FineTuned, dict[str, Any]]:
        """Train a head, and judge it."""
        return self._made(tuning)[:2]

    def _made(self, tuning: Tuning) -> tuple[FineTuned, dict[str, Any], float]:
        label, known = self.looked
        self.data.train.load_state_dict(self.start)
        tuned = _begin(self.opened, label, known, tuning, self.device)
        training = HeadTraining(tuned, self.data, tuning, self.asked | {"encoder": tuning.encoder})
        checkpoints = None
        if self.folder is not None:
            checkpoints = Checkpoints(self.folder / _UNDER_WAY / tuning.encoder, 1, 0)
        loss = training.run(checkpoints, self.every)
        return tuned, _judge(tuned, self.data), loss


def _look(name: str, data: Data, batch_size: int, task: str | None) -> tuple[Label, list[Truth]]:
    """What labels are, and those of some training samples; of a column of the plan of all."""
    batches = list(islice(iter(data.train), max(1, -(-_SAMPLES // batch_size))))
    if not batches:
        raise UsageError("there is no sample to learn from; choose others in the config's data section")
    every = data.labels or tuple(labels_of(batch) for batch in batches)
    label = Label.of(name, batches[0], data.names, task=task, others=every)
    if not label.dense and not any(bool(part.isfinite().any()) for part in every):
        raise UsageError(f"`label` {name} is not known of any sample; give another")
    if label.kind == "classes" and not label.values:
        label = label.with_values(_values(name, *(data.labels or (torch.cat(every), torch.cat(every)))))
    if label.kind == "classes" and data.labels is not None:
        truths = [Truth(label.numbered(data.labels[0]))]
    else:
        truths = [label.truth(batch) for batch in batches]
    if label.kind != "numbers" and len(set(_counts(label, truths).nonzero()[:, 0].tolist())) < 2:
        raise UsageError(f"training samples have less than two classes of {name}; give a label that differs")
    return label, truths


def _values(name: str, learned: Tensor, judged: Tensor) -> list[int]:
    """Values that occur, of whole numbers without names; what is judged on must be learned from."""
    values, asked = classes_of(whole_numbers(learned)), torch.unique(whole_numbers(judged)).tolist()
    unseen = [int(value) for value in asked if value not in values]
    if unseen:
        told = f"{', '.join(map(str, unseen[:5]))}{', ...' if len(unseen) > 5 else ''}"
        raise UsageError(
            f"validation samples have {name} {told}, which no training sample has, so that no head can tell it; choose"
            " other samples, or give `task=numbers`"
        )
    return values


def _counts(label: Label, truths: list[Truth]) -> Tensor:
    """How often each class is at each level, (classes, levels)."""
    counts = torch.zeros(len(label.classes), label.levels, dtype=torch.int64)
    for truth in truths:
        values = truth.values
        if truth.at is not None:
            values = values.masked_fill(truth.at[..., :1] < 0, -1)
        levels = (
            values.movedim(1, -1) if label.kind == "pixels" else values.reshape(*values.shape[:1], -1, label.levels)
        )
        for level in range(label.levels):
            at = levels[..., level].flatten()
            counts[:, level] += torch.bincount(at[at >= 0].cpu(), minlength=len(label.classes))
    return counts


def _begin(opened: Opened, label: Label, known: list[Truth], tuning: Tuning, device: torch.device) -> FineTuned:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tuning.seed)
        head = Head(opened.model, label, tokens=tuning.encoder != "none").to(device)
        model = MaskedAutoencoder(opened.model.config) if tuning.encoder == "random" else opened.model
    scale = torch.zeros(len(label.classes)), torch.ones(len(label.classes))
    if label.kind == "numbers":
        values = torch.cat([truth.values for truth in known])
        values = values[values.isfinite().all(1)]
        if len(values):
            scale = values.mean(0), values.std(0, correction=0).clamp(min=1e-6)
    return FineTuned(model.to(device), head, (scale[0].to(device), scale[1].to(device)), tuning.encoder)


def _judge(tuned: FineTuned, data: Data) -> dict[str, Any]:
    tally, label = Tally(tuned.head.label), tuned.head.label
    device = next(tuned.head.parameters()).device
    assert data.validation is not None
    for batch in data.validation:
        here = batch.to(device)
        truth = label.truth(here)
        tally.add(tuned.predict(here), _counted(truth))
    return tally.scores()


def _without_looking(label: Label, known: list[Truth], data: Data) -> dict[str, Any]:
    """Scores of the commonest class at each level, or of the mean."""
    assert data.validation is not None
    tally = Tally(label)
    if label.kind == "numbers":
        values = torch.cat([truth.values for truth in known])
        constant = values.nanmean(0)
    else:
        constant = _counts(label, known).argmax(0)
    for batch in data.validation:
        truth = label.truth(batch)
        wanted = _counted(truth).cpu()
        shape = (1, -1, 1, 1) if label.kind == "pixels" else (-1,)
        told = constant.reshape(shape).expand_as(wanted) if label.kind != "classes" else constant.expand_as(wanted)
        tally.add(told, wanted)
    return {"mean" if label.kind == "numbers" else "commonest class": tally.scores()}


def _counted(truth: Truth) -> Tensor:
    return truth.values if truth.at is None else truth.values.masked_fill(truth.at[..., :1] < 0, -1)
