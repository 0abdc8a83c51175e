"""Small configs shared by the tests of training."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.config import PretrainConfig, validate
from training.models import ModelConfig

BANDS = ("B1", "B2", "B3", "B4", "B5")
GROUPS = (("B1", "B4"), ("B5", "B2"), ("B3",))
"""Non-contiguous, and not in the order of the bands."""

KINDS: dict[str, dict[str, Any]] = {
    "temporal": {"kind": "temporal", "frames": 3},
    "group": {"kind": "group", "groups": GROUPS},
    "temporal_group": {"kind": "temporal_group", "frames": 3, "groups": GROUPS},
}


def small_model(kind: str, /, **changes: Any) -> ModelConfig:
    """A model of 4 x 4 patches that takes milliseconds."""
    small = {"embed_dim": 64, "depth": 2, "heads": 2, "decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 2}
    values = {"bands": BANDS, "size": "nano", "image_size": 16, "patch_size": 4, **small, **KINDS[kind], **changes}
    return ModelConfig.model_validate(values)


def small_run(folder: Path, *, model: dict[str, Any] | None = None, **changes: Any) -> PretrainConfig:
    """A run of a few steps on blobs; ``changes`` are sections merged into the defaults."""
    values: dict[str, Any] = {
        "name": "small-run",
        "output_dir": str(folder),
        "model": small_model("temporal_group", **(model or {})).model_dump(),
        "data": {"source": "blobs", "samples": 24, "validation_samples": 6, "batch_size": 4, "invalid": 0.05},
        "optimizer": {"lr": 1e-3, "steps": 9, "warmup_steps": 2, "clip": 1.0},
        "run": {"accelerator": "cpu", "devices": 1},
        "logs": {"every_steps": 1},
        "checkpoints": {"every_epochs": 100},
        "validation": {"every_epochs": None},
    }
    for section, change in changes.items():
        values[section] = {**values[section], **change} if isinstance(change, dict) else change
    return validate(values, "test")


def write_store() -> Callable[..., Path]:
    """Function that writes the tiny stores of the loaders' tests."""
    path = Path(__file__).parents[1] / "loaders" / "tiny_store.py"
    spec = importlib.util.spec_from_file_location("tiny_store_of_loaders", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_store  # type: ignore[no-any-return]
