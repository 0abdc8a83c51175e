"""Sentinel-2, as the registry knows it."""

from __future__ import annotations

from cube.plug import Command, SourcePlug

__all__ = ["SOURCE"]

SOURCE = SourcePlug(
    commands={
        "sentinel2": Command(
            "Sentinel-2 median composites",
            "cube.sentinel2.config:Sentinel2Config",
            "cube.sentinel2.run:run_sentinel2",
        ),
        "make-grid": Command("a grid of cells", "cube.sentinel2.config:GridConfig", "cube.sentinel2.run:run_make_grid"),
    },
    inspection="cube.sentinel2.inspect:SENTINEL2",
)
