"""How the bands of a batch are decoded, as they travel with it: small, and equal where the law is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cube.instrument import Instrument

__all__ = ["TORCH", "BandRule", "grid_side", "on_grid", "rule_of"]

_log = logging.getLogger(__name__)


class BandRule(NamedTuple):
    """Where a band's validity lies, and by which laws its counts become quantities."""

    mask: int
    """Which of the batch's masks."""
    bit: int
    """Place in it, 0 for the lowest."""
    laws: tuple[tuple[str, str], ...]
    """Names of quantities (``mixed`` among them) and of their laws in :data:`cube.decode.LAWS`."""

    @property
    def names(self) -> list[str]:
        """What the band can be decoded to."""
        return [name for name, _ in self.laws]

    def law(self, quantity: str) -> str | None:
        """Law of a quantity; None where the band has no such thing."""
        return dict(self.laws).get(quantity)


def rule_of(instrument: Instrument, band: str, mask: int, bit: int) -> BandRule:
    """Make the rule of a band of an instrument."""
    return BandRule(mask, bit, tuple((name, q.law) for name, q in instrument.quantities_of(band).items()))


def grid_side(attributes: Mapping[str, Any]) -> int | None:
    """Pixels along a tile's side on the grid that bands share, by a store's attributes; None where each has its own."""
    return attributes.get("tile_size") if attributes.get("grid") in ("1km", "2km") else None


def on_grid(url: str, sides: Mapping[str, int], side: int | None) -> list[str]:
    """Return the bands that lie on one grid, by name and pixels along a side of a tile; all where none does."""
    finer = [name for name, own in sides.items() if side is not None and own > side]
    if not finer or len(finer) == len(sides):
        return [*sides]
    told = f"their pixels are finer than the grid; give `bands={finer}` to load them"
    _log.warning("%s is read without %s: %s", url, ", ".join(finer), told)
    return [name for name in sides if name not in finer]


class _TorchOps:
    """On torch's tensors, of any device."""

    def log(self, values: Any) -> Any:
        if values.device.type == "mps":  # Apple's GPUs have no double precision: the last bits are theirs
            return torch.log(values)
        return values.double().log_().float()

    def positive(self, values: Tensor) -> Tensor:
        return torch.where(values > 0, values, torch.nan)


TORCH = _TorchOps()
"""See :class:`cube.decode.Ops`."""
