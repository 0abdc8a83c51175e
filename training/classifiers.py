"""What tells how much features hold: a linear model whose penalty is tuned, and nearest neighbours.

Both are fitted on training samples alone. Their one free number (a penalty, how many neighbours) is the best of a few
by cross-validation over blocks of samples that follow one another, so that overlapping ones mostly stay on one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

__all__ = ["FOLDS", "METHODS", "Fitted", "Problem", "judge_classes", "judge_numbers"]

PENALTIES = tuple(10.0**power for power in range(2, -6, -1))
NEIGHBOURS = (50, 20, 10, 5, 3, 1)
FOLDS = 4
_ENOUGH = 2
_BLOCK = 1024
"""Samples whose neighbours are sought together."""


@dataclass(frozen=True)
class Problem:
    """Features and what is to be told by them."""

    features: Tensor
    """(samples, width) float32; samples in the order of their numbers."""
    truth: Tensor
    """(samples,) int64, classes from 0; or (samples, numbers) float32."""
    classes: int
    """How many classes there are; 0 where numbers are to be told."""

    def part(self, chosen: Tensor) -> Problem:
        """Some of the samples."""
        return Problem(self.features[chosen], self.truth[chosen], self.classes)

    def scaled(self, mean: Tensor, std: Tensor) -> Problem:
        """The same with standardised features."""
        return Problem((self.features - mean) / std, self.truth, self.classes)


@dataclass(frozen=True)
class Fitted:
    """What a method says of samples that it has not seen."""

    predicted: Tensor
    """(samples,) int64 classes, or (samples, numbers) float32."""
    tuned: float
    """The penalty, or the number of neighbours."""


Predict = Callable[[Problem, Tensor, float], Tensor]


def linear(known: Problem, unseen: Tensor) -> Fitted:
    """Logistic regression for classes, ridge regression for numbers, on standardised features."""
    return _tuned(known, unseen, _linear, PENALTIES)


def neighbours(known: Problem, unseen: Tensor) -> Fitted:
    """Vote or mean of the nearest samples, by the angle between standardised features."""
    smallest = len(known.truth) - -(-len(known.truth) // FOLDS)
    return _tuned(known, unseen, _neighbours, [n for n in NEIGHBOURS if n <= max(1, smallest)])


METHODS: Mapping[str, Callable[[Problem, Tensor], Fitted]] = {"linear": linear, "neighbours": neighbours}


def judge_classes(predicted: Tensor, expected: Tensor) -> dict[str, float]:
    """Share of samples that are right, and the mean of that over classes."""
    right = (predicted == expected).float()
    by_class = [float(right[expected == label].mean()) for label in sorted(set(expected.tolist()))]
    return {"accuracy": float(right.mean()), "balanced": sum(by_class) / len(by_class)}


def judge_numbers(predicted: Tensor, expected: Tensor) -> dict[str, float]:
    """Root of the mean squared error, and the share of the variance that is explained, over all numbers."""
    error, spread = predicted - expected, expected - expected.mean(0)
    total = float(spread.square().sum())
    explained = 1 - float(error.square().sum()) / total if total > 0 else float("nan")
    return {"rmse": float(error.square().mean().sqrt()), "r2": explained}


def _tuned(known: Problem, unseen: Tensor, predict: Predict, choices: Sequence[float]) -> Fitted:
    best = _best(known, predict, choices) if len(choices) > 1 else choices[0]
    mean, std = _scale(known.features)
    answer = predict(known.scaled(mean, std), (unseen - mean) / std, best)
    return Fitted(answer.argmax(1) if known.classes else answer, best)


def _best(known: Problem, predict: Predict, choices: Sequence[float]) -> float:
    """The choice of the least error on blocks of samples that were left out; of equals the first.

    Choices come from the simplest on; after two in a row that are worse than the best, the rest is not tried.
    """
    places = torch.arange(len(known.truth))
    block = places * FOLDS // len(places)
    folds = []
    for fold in range(min(FOLDS, len(places))):
        fitted, judged = known.part(places[block != fold]), known.part(places[block == fold])
        mean, std = _scale(fitted.features)
        folds.append((fitted.scaled(mean, std), judged.scaled(mean, std)))
    best, least, worse = choices[0], math.inf, 0
    for choice in choices:
        error = sum(_error(predict(fitted, judged.features, choice), judged) for fitted, judged in folds)
        best, least, worse = (choice, error, 0) if error < least else (best, least, worse + 1)
        if worse == _ENOUGH:
            break
    return best


def _scale(features: Tensor) -> tuple[Tensor, Tensor]:
    return features.mean(0), features.std(0).nan_to_num() + 1e-6


def _error(answer: Tensor, judged: Problem) -> float:
    """Sum over samples: of numbers the squared error, of classes the surprise at the right one."""
    if not judged.classes:
        return float((answer - judged.truth).square().sum())
    return float(-answer.clamp(min=1e-4).log().gather(1, judged.truth[:, None]).sum())


def _linear(known: Problem, unseen: Tensor, penalty: float) -> Tensor:
    if not known.classes:
        return _ridge(known, unseen, penalty)
    weight = torch.zeros(known.features.shape[1], known.classes, requires_grad=True)
    offset = torch.zeros(known.classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, offset], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = cross_entropy(known.features @ weight + offset, known.truth) + penalty * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    answer: Tensor = (unseen @ weight + offset).softmax(1).detach()
    return answer


def _ridge(known: Problem, unseen: Tensor, penalty: float) -> Tensor:
    """Closed form, in the smaller of the two spaces: that of the features or of the samples."""
    features, mean = known.features.double(), known.truth.double().mean(0)
    centred, strength = known.truth.double() - mean, penalty * len(features)
    if features.shape[1] <= len(features):
        gram = features.T @ features + strength * torch.eye(features.shape[1], dtype=torch.float64)
        weight = torch.linalg.solve(gram, features.T @ centred)
    else:
        kernel = features @ features.T + strength * torch.eye(len(features), dtype=torch.float64)
        weight = features.T @ torch.linalg.solve(kernel, centred)
    answer: Tensor = (unseen.double() @ weight + mean).float()
    return answer


def _neighbours(known: Problem, unseen: Tensor, count: float) -> Tensor:
    votes = one_hot(known.truth, known.classes).float() if known.classes else known.truth.float()
    directions = normalize(known.features)
    found = []
    for part in torch.split(unseen, _BLOCK):
        nearest = (normalize(part) @ directions.T).topk(min(int(count), len(votes)), dim=1).indices
        found.append(votes[nearest].mean(1))
    return torch.cat(found) if found else votes[:0]
