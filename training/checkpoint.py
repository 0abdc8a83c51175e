"""Checkpoints: folders that are either complete or not there.

``OUTPUT/checkpoints/step_00000100/`` holds ``weights.safetensors`` (the whole model, whatever the strategy), with
averaging ``ema.safetensors``, ``state.pt`` (optimizer, random states, loader positions) and ``manifest.json``. A folder
is written under another name, flushed to the disk and renamed.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stratacube.files import whole_folder
from stratacube.guard import guarded

__all__ = ["Checkpoints", "own_part", "random_state", "read_state", "set_random_state"]

_NAME = re.compile(r"step_(\d{8})$")


class Checkpoints:
    """The checkpoints of a run.

    Parameters
    ----------
    folder
        ``OUTPUT/checkpoints``.
    keep_last, keep_best
        How many are kept: the newest, and besides those the ones of the lowest validation loss.
    """

    def __init__(self, folder: Path, keep_last: int, keep_best: int) -> None:
        self.folder, self.keep_last, self.keep_best = folder, keep_last, keep_best

    def steps(self) -> list[int]:
        """List the steps of the complete checkpoints, ascending."""
        found = (_NAME.match(path.name) for path in self.folder.glob("step_*"))
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> Path | None:
        """Folder of the newest complete checkpoint."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self.folder / f"step_{step:08d}"

    def write(self, step: int, fill: Callable[[Path], None]) -> Path:
        """Write a checkpoint.

        Parameters
        ----------
        step
            Optimizer steps done.
        fill
            Writes the files into the folder it is given.
        """
        target = self.path(step)
        with whole_folder(target, durable=True) as part:  # replaces: a stop may come right after a regular save
            fill(part)
        return target

    def drop_old(self, losses: Mapping[int, float]) -> None:
        """Remove all but the newest and the best.

        Parameters
        ----------
        losses
            Validation loss by step, where there was one.
        """
        steps = self.steps()
        judged = sorted((losses[step], step) for step in steps if step in losses)
        keep = set(steps[-self.keep_last :]) | {step for _, step in judged[: self.keep_best]}
        for step in set(steps) - keep:
            shutil.rmtree(self.path(step))


def read_state(path: Path) -> dict[str, Any]:
    """Read ``state.pt`` of a checkpoint's folder; plain values and tensors only, no code."""
    with guarded(f"checkpoint {path} cannot be read", "remove it to go on from an older one"):
        state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
        lacking = {"step", "optimizer", "ranks", "losses"} - state.keys()
        if lacking:
            raise ValueError(f"it lacks {min(lacking)}")
        return state


def random_state() -> dict[str, Any]:
    """State of every random generator of this process."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002  (others may draw from it)
    return {
        "python": json.dumps(random.getstate()),
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go back to a `random_state`."""
    version, internal, gauss = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def own_part(parts: Sequence[Any], rank: int, ranks: int) -> Any:
    """Pick this rank's part of what all ranks saved; with another number of ranks, the first one's."""
    return parts[rank] if len(parts) == ranks else parts[0]
