"""How much the frozen features of a model tell of what samples are labelled by: a class, a number, or several.

Beside the model's features stand those of the same model with random weights, plain statistics of the pixels, and the
commonest class (of numbers the mean). Methods are fitted on training samples and judged on validation samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor

from stratacube.choices import require_least
from stratacube.errors import UsageError
from training.batches import Batch, BatchLoader, stored_statistics
from training.classifiers import METHODS, Problem, judge_classes, judge_numbers
from training.compute import make_fabric
from training.config import RunConfig
from training.data import open_data
from training.labels import TASKS, Label, classes_of, labels_of, whole_numbers
from training.models import MaskedAutoencoder
from training.runs import Opened

__all__ = ["TASKS", "probe"]

_Extract = Callable[[Batch], Tensor]


def probe(
    opened: Opened, *, batches: int | None = None, task: Literal["classes", "numbers"] | None = None
) -> dict[str, Any]:
    """Fit and judge linear models and nearest neighbours.

    Parameters
    ----------
    opened
        The model.
    batches
        Training batches to fit on; one epoch if not given.
    task
        Whether one number a sample is a class or a number; by default a class where it is whole.

    Returns
    -------
    dict
        ``task``, ``classes`` (or the names of the numbers), numbers of samples, and ``scores``: by features those of
        the linear model and its tuned ``penalty``, and under ``neighbours`` those of the nearest ones and their
        ``count``. Of classes accuracy and balanced accuracy (mean over classes), of numbers RMSE and R2.

    Raises
    ------
    UsageError
        If samples have no labels, all one label, or one for each pixel.
    """
    require_least(1, batches=batches)
    config = opened.config
    fabric = make_fabric(RunConfig(devices=1, precision="32-true"))
    data = open_data(config, 0, 1, fabric.device, stored=stored_statistics(opened.manifest), strict=False)
    if data.validation is None:
        raise UsageError(f"{config.name} has no validation data; set them in the config's data section")
    trained = opened.model.to(fabric.device).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        untrained = MaskedAutoencoder(trained.config).to(fabric.device).eval()
    extractors: dict[str, _Extract] = {
        "model": lambda batch: _features(trained, batch),
        "random weights": lambda batch: _features(untrained, batch),
        "pixel statistics": _pixel_statistics,
    }
    name = getattr(config.data, "label", None) or "label"
    fitted, known = _extract(extractors, data.train, batches, fabric.device)
    judged, unseen = _extract(extractors, data.validation, None, fabric.device)
    label = Label.of(name, known, data.names, task=task)
    truth, expected = _truth(label, known), _truth(label, unseen)
    if label.kind == "classes":
        values, truth, expected = _classes(truth, expected)
        label = replace(label, classes=tuple(data.names.get(value, str(value)) for value in values))
    if bool((truth == truth[0]).all()):
        kind = "class" if label.kind == "classes" else "number"
        raise UsageError(f"all training samples have one {kind} as {name}; give a label that differs between samples")
    count = len(label.classes) if label.kind == "classes" else 0
    problems = {how: Problem(features, truth, count) for how, features in fitted.items()}
    scores = {_trivial_name(count): _judge(_trivial(truth, expected, count), expected, count)}
    scores |= {how: _scores(problem, judged[how], expected) for how, problem in problems.items()}
    told = {"task": label.kind, "classes": list(label.classes)}
    return {**told, "fitted_on": len(truth), "judged_on": len(expected), "scores": scores}


def _scores(known: Problem, unseen: Tensor, expected: Tensor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method, fit in METHODS.items():
        fitted = fit(known, unseen)
        scores = _judge(fitted.predicted, expected, known.classes)
        found |= (
            {**scores, "penalty": fitted.tuned} if method == "linear" else {method: {**scores, "count": fitted.tuned}}
        )
    return found


def _judge(predicted: Tensor, expected: Tensor, classes: int) -> dict[str, float]:
    return judge_classes(predicted, expected) if classes else judge_numbers(predicted, expected)


def _trivial_name(classes: int) -> str:
    return "commonest class" if classes else "mean"


def _trivial(truth: Tensor, expected: Tensor, classes: int) -> Tensor:
    if classes:
        return torch.full_like(expected, int(truth.mode().values))
    return truth.mean(0).expand_as(expected)


def _classes(truth: Tensor, expected: Tensor) -> tuple[list[int], Tensor, Tensor]:
    """Number the classes that occur; labels may be any whole numbers."""
    together = torch.cat([truth, expected])
    places = torch.unique(together, return_inverse=True)[1]
    return classes_of(together), places[: len(truth)], places[len(truth) :]


def _features(model: MaskedAutoencoder, batch: Batch) -> Tensor:
    """Mean of the tokens over places, for each frame and group."""
    return model.encode(batch.pixels, batch.valid, batch.minutes).mean((3, 4)).flatten(1)


def _pixel_statistics(batch: Batch) -> Tensor:
    """Mean and deviation of each band in each frame."""
    filled = batch.pixels.masked_fill(~batch.valid, 0.0)
    return torch.cat([filled.mean((3, 4)).flatten(1), filled.std((3, 4)).flatten(1)], dim=1)


@torch.no_grad()
def _extract(
    extractors: dict[str, _Extract], loader: BatchLoader, batches: int | None, device: torch.device
) -> tuple[dict[str, Tensor], Batch]:
    """Features of all samples in the order of their numbers, and a batch with the labels of all."""
    features: dict[str, list[Tensor]] = {how: [] for how in extractors}
    labels, samples = [], []
    for batch in islice(iter(loader), batches):
        here = batch.to(device)
        if labels_of(here).ndim > 2:
            raise UsageError(
                "`label` has classes of pixels or profiles, which a head is to be trained for: use training.finetune"
            )
        labels.append(labels_of(here).cpu())
        samples.append(here.samples.cpu())
        for how, extract in extractors.items():
            features[how].append(extract(here).float().cpu())
    if not labels:
        raise UsageError("there is no sample to learn from, or none to judge on; choose others in the config's data")
    numbers, together = torch.cat(samples), torch.cat(labels)
    known = together.isfinite().reshape(len(together), -1).all(1)
    order = numbers.argsort(stable=True)
    order = order[known[order]]
    if not len(order):
        raise UsageError("`label` is not known of any sample; give another")
    found = Batch(batch.pixels[:0], batch.valid[:0], batch.minutes[:0], numbers[order], together[order])
    return {how: torch.cat(parts)[order] for how, parts in features.items()}, found


def _truth(label: Label, labelled: Batch) -> Tensor:
    """Numbers of samples, or whole numbers that are to be classes."""
    return label.truth(labelled).values if label.kind == "numbers" else whole_numbers(labels_of(labelled))
