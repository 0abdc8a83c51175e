"""Masked autoencoders for satellite image series, after SatMAE (arXiv 2207.08051) and MAE (arXiv 2111.06377)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.models.mae import MaskedAutoencoder, Reconstruction
    from training.models.masks import TokenMask, draw_masks
    from training.models.settings import ModelConfig
    from training.models.weights import load_model, save_model

__all__ = [
    "MaskedAutoencoder",
    "ModelConfig",
    "Reconstruction",
    "TokenMask",
    "draw_masks",
    "load_model",
    "save_model",
]

_HOMES = {
    "MaskedAutoencoder": "mae",
    "ModelConfig": "settings",
    "Reconstruction": "mae",
    "TokenMask": "masks",
    "draw_masks": "masks",
    "load_model": "weights",
    "save_model": "weights",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: a configuration is checked without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'training.models' has no attribute {name!r}")
    return getattr(import_module(f"training.models.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """All names, for tab completion, though most are not yet imported."""
    return sorted(__all__)
