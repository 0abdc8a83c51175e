"""Arithmetic of a run: the model works in 16 bits where it may, what it learns from stays in 32.

Lightning's own plugins cast all that goes into a module, the targets of the loss with the pixels: 8 bits of mantissa
leave 0.09 K (rms) of a band that spreads over 20 K. Here inputs are handed through, and the model casts them itself.
"""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins.precision.amp import MixedPrecision
from lightning.fabric.plugins.precision.half import HalfPrecision
from lightning.fabric.plugins.precision.precision import Precision

__all__ = ["precision_of"]


class _Mixed(MixedPrecision):
    """Weights in 32 bits, products in 16."""

    def convert_input(self, data: Any) -> Any:
        """Leave inputs as they are."""
        return data


class _Half(HalfPrecision):
    """Weights in 16 bits."""

    def convert_input(self, data: Any) -> Any:
        """Leave inputs as they are."""
        return data


def precision_of(name: str, device: str) -> Precision:
    """Make the plugin.

    Parameters
    ----------
    name
        Of `RunConfig.precision`.
    device
        Kind of device: cpu, cuda or mps.
    """
    if name in ("16-mixed", "bf16-mixed"):
        return _Mixed(name, device)  # type: ignore[arg-type]
    return _Half("bf16-true") if name == "bf16-true" else Precision()
