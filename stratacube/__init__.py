"""From satellite archives to catalogued, training-ready Zarr cubes: the names to import.

``open_*`` open things lazily as xarray, ``build`` makes what ``python -m cube.build`` makes, and the errors are what
all of it raises. The packages below (``cube``, ``catalog``, ``loaders``, ``training``) hold the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cube.build import build
    from cube.geostationary.archive_cube import append_cube, describe_cube, make_cube
    from cube.geostationary.icechunk_export import export_icechunk
    from cube.geostationary.open import open_abi
    from cube.geostationary.place import one_tile, pixels_at, reproject, within_bbox
    from cube.geostationary.references import write_references
    from cube.geostationary.tilestore import open_tiles
    from cube.mixing import rgb
    from cube.sentinel2.lazy import open_composites, open_sentinel2
    from stratacube.errors import EncodingMismatchError, SourceError, StratacubeError, UnavailableError, UsageError

    __version__: str

__all__ = [
    "EncodingMismatchError",
    "SourceError",
    "StratacubeError",
    "UnavailableError",
    "UsageError",
    "__version__",
    "append_cube",
    "build",
    "describe_cube",
    "export_icechunk",
    "make_cube",
    "one_tile",
    "open_abi",
    "open_composites",
    "open_sentinel2",
    "open_tiles",
    "pixels_at",
    "preview",
    "reproject",
    "rgb",
    "within_bbox",
    "write_references",
]

_HOMES = {
    "EncodingMismatchError": "stratacube.errors",
    "SourceError": "stratacube.errors",
    "StratacubeError": "stratacube.errors",
    "UnavailableError": "stratacube.errors",
    "UsageError": "stratacube.errors",
    "append_cube": "cube.geostationary.archive_cube",
    "build": "cube.build",
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
    """Import a name when it is first used: the command line and a worker need few of them."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("stratacube")
    if name == "preview":
        return import_module("stratacube.preview")
    if name not in _HOMES:
        raise AttributeError(f"module 'stratacube' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """All names, for tab completion, though most are not yet imported."""
    return sorted(__all__)
