"""Chips, as the registry knows them."""

from __future__ import annotations

from cube.plug import Command, SourcePlug

__all__ = ["SOURCE"]

_HERE = __name__.rpartition(".")[0]

SOURCE = SourcePlug(
    commands={
        "import-chips": Command(
            "SatVision-Pix4D's chips as one store", f"{_HERE}.config:ImportConfig", f"{_HERE}.run:run_import"
        ),
        "export-chips": Command(
            "such chips, of that store or of tiles",
            f"{_HERE}.config:ExportConfig",
            f"{_HERE}.export:run_export",
        ),
    },
    inspection=f"{_HERE}.run:CHIPS",
)
