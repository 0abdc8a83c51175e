"""Virtual cubes over satellite archives, and the stores built from them.

The names here open things lazily as xarray; ``python -m cube.build`` builds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cube.geostationary.archive_cube import append_cube, describe_cube, make_cube
    from cube.geostationary.icechunk_export import export_icechunk
    from cube.geostationary.open import open_abi
    from cube.geostationary.place import one_tile, pixels_at, reproject, within_bbox
    from cube.geostationary.references import write_references
    from cube.geostationary.tilestore import open_tiles
    from cube.mixing import rgb
    from cube.sentinel2.lazy import open_composites, open_sentinel2

__all__ = [
    "append_cube",
    "describe_cube",
    "export_icechunk",
    "make_cube",
    "one_tile",
    "open_abi",
    "open_composites",
    "open_sentinel2",
    "open_tiles",
    "pixels_at",
    "reproject",
    "rgb",
    "within_bbox",
    "write_references",
]

_HOMES = {
    "append_cube": "cube.geostationary.archive_cube",
    "describe_cube": "cube.geostationary.archive_cube",
    "export_icechunk": "cube.geostationary.icechunk_export",
    "make_cube": "cube.geostationary.archive_cube",
    "one_tile": "cube.geostationary.place",
    "open_abi": "cube.geostationary.open",
    "open_composites": "cube.sentinel2.lazy",
    "open_sentinel2": "cube.sentinel2.lazy",
    "open_tiles": "cube.geostationary.tilestore",
    "pixels_at": "cube.geostationary.place",
    "reproject": "cube.geostationary.place",
    "rgb": "cube.mixing",
    "within_bbox": "cube.geostationary.place",
    "write_references": "cube.geostationary.references",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that the command line starts quickly."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cube' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """All names, for tab completion, though most are not yet imported."""
    return sorted(__all__)
