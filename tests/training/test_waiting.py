"""A step gives its work to the device and waits for none of it: no number is brought to the host in between."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.test_data import tiles_run
from tests.training.test_mixture import mixed_run
from training.meter import Meter
from training.optimizer import parameter_groups
from training.trainer import Trainer

OURS = tuple(str(Path(__file__).parents[2] / name) for name in ("training", "loaders"))


class Waits(TorchDispatchMode):
    """Keeps where in our code a device would be waited for: where a number of a tensor, or a size, is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            frame: Any = sys._getframe()
            while frame is not None and not frame.f_code.co_filename.startswith(OURS):
                frame = frame.f_back
            if frame is not None:
                self.places.add(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
        return func(*args, **(kwargs or {}))


def fused(model: Any, config: Any, rate: float, **_: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=rate, fused=True)


@pytest.mark.parametrize("kind", ["tiles", "mixture"])
def test_no_step_waits_for_the_device(
    kind: str, placed: Path, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.trainer.adamw", fused)  # as it is on GPUs
    config = tiles_run(tmp_path, placed) if kind == "tiles" else mixed_run(tmp_path, placed, cube)
    trainer = Trainer(config)
    meter, ahead = Meter(config.model, trainer.fabric.device, None), trainer._ahead()
    trainer.wrapped.train()
    trainer._step(ahead, meter)  # codes and constants are made once
    batches = [ahead.take() for _ in range(2)]
    monkeypatch.setattr(ahead, "take", batches.pop)
    with Waits() as waits:
        trainer._step(ahead, meter)
        trainer._step(ahead, meter)
    assert waits.places == set()
    loader = trainer.data.train.loader  # type: ignore[attr-defined]
    packed = loader.source.__getitems__([0, 9] if kind == "mixture" else [0, 1])
    with Waits() as waits, torch.no_grad():
        loader.decoder(packed)
    assert waits.places == set()
