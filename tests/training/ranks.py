"""Run by torchrun, or forked as its ranks: train a few steps on several ranks, and on rank 0 keep weights and rows.

Arguments: folder, strategy, batch size of a rank, step to stop at (0: none), steps (6 if not given).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.training.small import small_run
from training.trainer import Trainer


def main(folder: Path, strategy: str, batch: int, stop: int = 0, steps: int = 6) -> None:
    config = small_run(
        folder,
        data={"batch_size": batch, "validation_samples": 7},
        optimizer={"steps": steps, "clip": 0.5, "accumulate": 2, "lr": 1e-3, "warmup_steps": 2},
        run={"strategy": strategy, "devices": int(os.environ["LOCAL_WORLD_SIZE"])},
        validation={"every_epochs": 1},
    )
    Trainer(config).fit(stop or None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
