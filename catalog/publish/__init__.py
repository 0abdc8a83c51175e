"""Writes the STAC catalogue of what was built: the last step of a run."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catalog.publish.model import BandInfo, Observatory, TileBuild
    from catalog.publish.tiles import publish_tiles

__all__ = ["BandInfo", "Observatory", "TileBuild", "publish_tiles"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: names of files are looked up here by commands that need neither pandas nor shapely.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'tiles' if name == 'publish_tiles' else 'model'}"), name)
