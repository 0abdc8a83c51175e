"""Checkpoints, weights, manifests and configurations of training."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from tests.fuzz.containers import damaged_safetensors
from tests.fuzz.parser import Parser
from tests.fuzz.plain import damaged_bytes, damaged_head, damaged_lines, damaged_text
from tests.fuzz.structured import damaged_json, damaged_yaml

__all__ = ["PARSERS"]

_OLD = Path(__file__).resolve().parents[1] / "old" / "training.tar.xz"
_STEP = Path("training/run/checkpoints/step_00000002")


def _checkpoint(folder: Path) -> Path:
    with tarfile.open(_OLD) as tar:
        tar.extractall(folder, [m for m in tar.getmembers() if m.name.startswith(f"{_STEP}")], filter="data")
    return folder / _STEP


def _weights(folder: Path) -> list[Path]:
    return [_checkpoint(folder) / "ema.safetensors"]


def _manifest(folder: Path) -> list[Path]:
    return [_checkpoint(folder) / "manifest.json"]


def _state(folder: Path) -> list[Path]:
    return [_checkpoint(folder) / "state.pt"]


def _run(folder: Path, _: Path) -> Any:
    from training.runs import open_run  # late, as all of torch

    return open_run(folder / "training" / "run").step


def _read(_: Path, path: Path) -> Any:
    from training.checkpoint import read_state

    return sorted(read_state(path.parent))


def _configured(folder: Path) -> list[Path]:
    with tarfile.open(_OLD) as tar:
        tar.extract("training/config.yaml", folder, filter="data")
    return [folder / "training" / "config.yaml"]


def _config(_: Path, path: Path) -> Any:
    from training.config import load_config

    return load_config(path).digest()


PARSERS = (
    Parser(
        "checkpoint-weights",
        _weights,
        _run,
        (damaged_safetensors, damaged_safetensors, damaged_head, damaged_bytes),
        imports="training.runs",
    ),
    Parser(
        "checkpoint-manifest",
        _manifest,
        _run,
        (damaged_json, damaged_json, damaged_text, damaged_bytes),
        imports="training.runs",
    ),
    Parser("checkpoint-state", _state, _read, (damaged_head, damaged_bytes), imports="training.checkpoint"),
    Parser(
        "config-training", _configured, _config, (damaged_yaml, damaged_yaml, damaged_lines, damaged_text), share=0.5
    ),
)
