"""Finding and opening what a run has made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stratacube.errors import UsageError
from training.checkpoint import Checkpoints, read_state
from training.config import PretrainConfig, validate
from training.manifest import read_manifest
from training.models import MaskedAutoencoder, load_model

__all__ = ["Opened", "open_run", "with_changes"]


@dataclass(frozen=True)
class Opened:
    """A trained model and where it comes from."""

    model: MaskedAutoencoder
    config: PretrainConfig
    manifest: dict[str, Any]
    folder: Path
    """Folder of the checkpoint."""
    weights: Path
    """File of the weights: the averaged ones, if the run averaged."""
    step: int


def open_run(path: Path, changes: dict[str, Any] | None = None, *, which: str = "last") -> Opened:
    """Open a checkpoint.

    Parameters
    ----------
    path
        Folder of a run, of a checkpoint, or of a published model.
    changes
        Keys of the config to replace, by section: ``{"data": {"batch_size": 2}}``.
    which
        Of a run: the ``last`` checkpoint, or the ``best`` by validation loss.

    Raises
    ------
    UsageError
        If there is no checkpoint.
    """
    folder = path
    if (path / "checkpoints").is_dir():
        folder = _choose(Checkpoints(path / "checkpoints", 1, 0), which, path)
    weights = next((folder / n for n in ("ema.safetensors", "weights.safetensors") if (folder / n).exists()), None)
    if weights is None or not (folder / "manifest.json").exists():
        raise UsageError(f"{path} holds no checkpoint; give a run's folder, or one of its checkpoints")
    manifest = read_manifest(folder)
    values = with_changes(manifest["config"], changes or {})
    step = int(manifest.get("step", folder.name.removeprefix("step_") if folder.name.startswith("step_") else 0))
    return Opened(load_model(weights), validate(values, str(path)), manifest, folder, weights, step)


def with_changes(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Replace keys, going into sections."""
    merged = dict(values)
    for key, change in changes.items():
        inner = merged.get(key)
        merged[key] = with_changes(inner, change) if isinstance(inner, dict) and isinstance(change, dict) else change
    return merged


def _choose(checkpoints: Checkpoints, which: str, path: Path) -> Path:
    latest = checkpoints.latest()
    if latest is None:
        raise UsageError(f"{path} holds no complete checkpoint yet")
    if which == "last":
        return latest
    losses = read_state(latest)["losses"]
    judged = [step for step in checkpoints.steps() if step in losses]
    if not judged:
        raise UsageError(f"{path} was never validated, so no checkpoint is the best; take the last")
    return checkpoints.path(min(judged, key=lambda step: losses[step]))
