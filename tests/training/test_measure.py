"""The script for GPUs works, here with sizes for a CPU, and measures the presets as they are."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training.config import load_config
from training.models import MaskedAutoencoder, draw_masks

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "gpu" / "measure.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("measure", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_shapes_are_those_of_the_presets() -> None:
    script = _script()
    for name, shape in script.SHAPES.items():
        model, settings = load_config(name).model, script.settings(shape, False)
        for key in ("group_indices", "frames", "patch_size", "grid", "height_width", "mask", "mask_ratio", "tokens"):
            assert getattr(settings, key) == getattr(model, key), (name, key)
        assert settings.visible_tokens == model.visible_tokens
        assert vars(settings.dimensions) == vars(model.dimensions)
        assert settings.has_time_code == model.has_time_code


def test_its_settings_are_all_that_a_model_reads() -> None:
    script = _script()
    config = script.settings(script.SMALL, True)
    pixels = torch.randn(2, config.frames, len(config.bands), *config.height_width)
    minutes = torch.zeros(2, config.frames, dtype=torch.int64)
    model = MaskedAutoencoder(config).train()
    model(pixels, torch.ones_like(pixels, dtype=torch.bool), minutes, draw_masks(config, 0, [0, 1])).backward()
    assert model.mask_token.grad is not None


@pytest.mark.long
def test_every_row_is_measured_with_small_sizes() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["what"] for row in rows] == ["step", "waits", "data", "step", "step", "step", "step"]
    failed = [row for row in rows if "failed" in row]
    assert all(row.get("compile") for row in failed), failed  # a compiler may be missing
    assert all(row["tflop_a_sample"] > 0 for row in rows if row["what"] == "step" and "failed" not in row)
