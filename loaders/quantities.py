"""What counts are decoded to."""

from __future__ import annotations

from typing import Literal

__all__ = ["UNITS", "Quantity"]

Quantity = Literal["radiance", "reflectance", "brightness_temperature", "mixed"]
"""``mixed``: reflectance of the bands that measure sunlight, brightness temperature of the others."""

UNITS = {"reflectance": "1", "brightness_temperature": "K"}
"""Of the quantities that have one unit wherever they come from."""
