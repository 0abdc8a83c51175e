"""How well a linear classifier on frozen features tells the classes of the samples apart.

Beside the model's features stand those of the same model with random weights, plain statistics of the pixels, and the
commonest class. The classifier is fitted on training samples and judged on validation samples.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stratacube.errors import UsageError
from training.batches import Batch, BatchLoader, stored_statistics
from training.compute import make_fabric
from training.config import RunConfig
from training.data import open_data
from training.models import MaskedAutoencoder
from training.runs import Opened

__all__ = ["probe"]


def probe(opened: Opened, *, batches: int | None = None, decay: float = 1e-3) -> dict[str, Any]:
    """Fit and judge linear classifiers.

    Parameters
    ----------
    opened
        The model.
    batches
        Training batches to fit on; one epoch if not given.
    decay
        Weight of the squared coefficients.

    Returns
    -------
    dict
        ``classes``, numbers of samples, and ``scores``: accuracy and balanced accuracy (mean over classes) by features.

    Raises
    ------
    UsageError
        If samples have no labels, or all one label.
    """
    config = opened.config
    fabric = make_fabric(RunConfig(devices=1, precision="32-true"))
    data = open_data(config, 0, 1, fabric.device, stored=stored_statistics(opened.manifest), strict=False)
    if data.validation is None:
        raise UsageError(f"{config.name} has no validation data; set them in the config's data section")
    trained = opened.model.to(fabric.device).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        untrained = MaskedAutoencoder(trained.config).to(fabric.device).eval()
    extractors: dict[str, Callable[[Batch], Tensor]] = {
        "model": lambda batch: _features(trained, batch),
        "random weights": lambda batch: _features(untrained, batch),
        "pixel statistics": _pixel_statistics,
    }
    fitted, truth = _extract(extractors, data.train, batches, fabric.device)
    judged, expected = _extract(extractors, data.validation, None, fabric.device)
    values, truth, expected = _classes(truth, expected)
    classes = len(values)
    if bool((truth == truth[0]).all()):
        raise UsageError("all training samples have one class; give a label that differs between samples")
    commonest = torch.full_like(expected, int(truth.mode().values))
    scores = {"commonest class": _scores(commonest, expected)}
    for name in extractors:
        scores[name] = _scores(_classify(fitted[name], truth, judged[name], classes, decay), expected)
    names = [data.classes[value] for value in values] if data.classes else [str(value) for value in values]
    return {"classes": names, "fitted_on": len(truth), "judged_on": len(expected), "scores": scores}


def _classes(truth: Tensor, expected: Tensor) -> tuple[list[int], Tensor, Tensor]:
    """Number the classes that occur; labels may be any whole numbers."""
    together = torch.cat([truth, expected])
    if together.is_floating_point() and not bool((together == together.round()).all()):
        raise UsageError(
            f"`label` holds numbers with fractions, such as {float(together[0]):g}, and no classes; give a column of"
            " text or of whole numbers"
        )
    values, places = torch.unique(together, return_inverse=True)
    if len(values) > max(2, len(together) // 2):
        raise UsageError(
            f"`label` has {len(values)} values in {len(together)} samples, so they are no classes; give a column whose"
            " values occur several times"
        )
    return [int(value) for value in values], places[: len(truth)], places[len(truth) :]


def _features(model: MaskedAutoencoder, batch: Batch) -> Tensor:
    """Mean of the tokens over places, for each frame and group."""
    return model.encode(batch.pixels, batch.valid, batch.minutes).mean((3, 4)).flatten(1)


def _pixel_statistics(batch: Batch) -> Tensor:
    """Mean and deviation of each band in each frame."""
    filled = batch.pixels.masked_fill(~batch.valid, 0.0)
    return torch.cat([filled.mean((3, 4)).flatten(1), filled.std((3, 4)).flatten(1)], dim=1)


@torch.no_grad()
def _extract(
    extractors: dict[str, Callable[[Batch], Tensor]], loader: BatchLoader, batches: int | None, device: torch.device
) -> tuple[dict[str, Tensor], Tensor]:
    features: dict[str, list[Tensor]] = {name: [] for name in extractors}
    labels = []
    for batch in islice(iter(loader), batches):
        here = batch.to(device)
        if here.labels is None:
            raise UsageError(
                "the samples have no labels; give `label` (`data.label` of the config), a column of the plan"
            )
        labels.append(here.labels.cpu())
        for name, extract in extractors.items():
            features[name].append(extract(here).float().cpu())
    return {name: torch.cat(parts) for name, parts in features.items()}, torch.cat(labels)


def _classify(features: Tensor, labels: Tensor, unseen: Tensor, classes: int, decay: float) -> Tensor:
    """Fit multinomial logistic regression on standardised features, and predict the class of unseen ones."""
    mean, std = features.mean(0), features.std(0) + 1e-6
    known, unseen = ((part - mean) / std for part in (features, unseen))
    weight = torch.zeros(known.shape[1], classes, requires_grad=True)
    offset = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = cross_entropy(known @ weight + offset, labels) + decay * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return (unseen @ weight + offset).argmax(1).detach()


def _scores(predicted: Tensor, expected: Tensor) -> dict[str, float]:
    right = (predicted == expected).float()
    by_class = [float(right[expected == label].mean()) for label in sorted(set(expected.tolist()))]
    return {"accuracy": float(right.mean()), "balanced": sum(by_class) / len(by_class)}
