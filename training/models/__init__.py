"""Masked autoencoders for satellite image series, after SatMAE (arXiv 2207.08051) and MAE (arXiv 2111.06377)."""

from __future__ import annotations

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
