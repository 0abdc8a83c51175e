"""Run by torchrun: train on a mixture. Arguments: folder, tile store, cube, step to stop at (0: none)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.training.test_mixture import mixed_run
from training.trainer import Trainer


def main() -> None:
    torch.set_num_threads(1)
    folder, store, cube, stop = sys.argv[1:]
    ranks = {"accelerator": "cpu", "devices": int(os.environ["LOCAL_WORLD_SIZE"])}
    config = mixed_run(Path(folder), Path(store), Path(cube), run=ranks, validation={"every_epochs": 1})
    Trainer(config).fit(int(stop) or None)


if __name__ == "__main__":
    main()
