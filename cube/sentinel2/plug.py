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
            explain="cube.sentinel2.explain:explain",
        ),
        "sentinel2-adopt": Command(
            "link the imagery of a work dir of S2SR, each file checked (or in two words: sentinel2 adopt)",
            "cube.sentinel2.config:AdoptConfig",
            "cube.sentinel2.adopt:run_adopt",
            positional="old",
        ),
        "make-grid": Command("a grid of cells", "cube.sentinel2.config:GridConfig", "cube.sentinel2.run:run_make_grid"),
    },
    inspection="cube.sentinel2.inspect:SENTINEL2",
    checks="cube.sentinel2.checks:CHECKS",
)
