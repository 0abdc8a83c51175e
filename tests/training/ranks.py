"""Run by torchrun: train a few steps on several ranks, and on rank 0 keep weights and rows.

Arguments: folder, strategy, batch size of a rank, step to stop at (0: none).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.training.small import small_run
from training.trainer import Trainer


def main() -> None:
    torch.set_num_threads(1)
    folder, strategy, batch, stop = sys.argv[1:]
    config = small_run(
        Path(folder),
        data={"batch_size": int(batch), "validation_samples": 7},
        optimizer={"steps": 6, "clip": 0.5, "accumulate": 2, "lr": 1e-3, "warmup_steps": 2},
        run={"strategy": strategy, "devices": "auto" if strategy == "auto" else 2},
        validation={"every_epochs": 1},
    )
    Trainer(config).fit(int(stop) or None)


if __name__ == "__main__":
    main()
