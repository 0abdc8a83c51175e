"""One training run of a case, and what it and the baselines make of the pixels hidden from all of them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.learn.scenes import SIDE, Case
from training.baselines import BASELINES, REGRESSION, fit_regression
from training.batches import Data
from training.config import validate as checked
from training.synthetic import MemoryLoader
from training.trainer import Trainer
from training.validate import validate

BATCH = 8
PLAIN = {"start": "none", "detail": 0}
OURS = {"start": "regression", "detail": 32}
Errors = dict[tuple[str, str], dict[str, float]]
"""Of each part and band: the root mean square error by method, in the band's unit."""


@dataclass(frozen=True)
class Run:
    """What a run was, and what came of it."""

    tiles: int
    steps: int
    errors: Errors
    begun: Errors
    """Of the model before its first step; empty where predictions begin from nothing."""


def run(case: Case, *, seed: int, steps: int, variant: dict[str, Any], tiles: int | None = None) -> Run:
    """Train, and judge on masks that are the same for every run of the case.

    Parameters
    ----------
    case
        What is learned.
    seed
        Of weights, order, masks and turns while learning.
    steps
        Of the optimizer.
    variant
        Keys of the model's configuration.
    tiles
        Windows to learn from, drawn by the seed; all if not given.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(case.train))[:tiles]
    train = case.batch([case.train[number] for number in chosen], random)
    with tempfile.TemporaryDirectory() as folder:
        config = checked(_values(case, folder, seed, steps, variant), case.name)
        data = Data(MemoryLoader(train, BATCH, seed=seed), None, case.statistics(), case.name)
        trainer = Trainer(config, data=data)
        begun = judge(case, trainer) if variant["start"] != "none" else {}
        trainer.fit()
        return Run(len(train), steps, judge(case, trainer), begun)


def judge(case: Case, trainer: Trainer) -> Errors:
    """Errors of the model and of every baseline, by part and band, on the hidden valid pixels."""
    rng = torch.get_rng_state()
    spread = case.batch(case.train[:: max(1, len(case.train) // 64)])
    regression = fit_regression([spread])
    found: Errors = {}
    for part, places in case.judged.items():
        report = validate(
            trainer.model,
            MemoryLoader(case.batch(places), BATCH, seed=None),
            trainer.data.statistics,
            trainer.fabric,
            seed=99,
            baselines={**BASELINES, REGRESSION: regression},
        )
        for row in report.rows:
            if row["pixels"] and row["band"] not in case.dark.get(part, ()):
                found.setdefault((part, row["band"]), {})[row["method"]] = row["rmse"]
    torch.set_rng_state(rng)
    return found


def _values(case: Case, folder: str, seed: int, steps: int, variant: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": case.name,
        "output_dir": str(Path(folder) / "run"),
        "seed": seed,
        "model": {"size": "nano", "image_size": SIDE, "patch_size": 8, "mask_ratio": 0.6, **case.model, **variant},
        "data": {"source": "blobs", "batch_size": BATCH},  # in name only: the samples are given
        "optimizer": {"lr": 2e-3, "min_lr": 1e-5, "steps": steps, "warmup_steps": min(20, steps), "clip": 1.0},
        "run": {"accelerator": "cpu", "devices": 1},
        "checkpoints": {"every_epochs": None, "keep_best": 0},
        "validation": {"every_epochs": None},
        "logs": {"every_steps": 50},
    }
