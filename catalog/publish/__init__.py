"""Writes the STAC catalogue of what was built: the last step of a run."""

from __future__ import annotations

from catalog.publish.model import BandInfo, Observatory, TileBuild
from catalog.publish.tiles import publish_tiles

__all__ = ["BandInfo", "Observatory", "TileBuild", "publish_tiles"]
