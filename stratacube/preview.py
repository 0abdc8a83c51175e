"""Pictures of cubes and of builds, before and after they are built: shown in a notebook, or saved as files.

>>> from stratacube import preview
>>> preview.footprints("build").save("map.svg")  # doctest: +SKIP

Of arrays: ``quicklook``, ``strip``, ``valid_share``. Of the folder of a build: ``footprints``, ``quotas``,
``calendar``, ``throughput``, ``mosaic``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cube.exploring import calendar, footprints, mosaic, quicklook, quotas, strip, throughput, valid_share

__all__ = ["calendar", "footprints", "mosaic", "quicklook", "quotas", "strip", "throughput", "valid_share"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'stratacube.preview' has no attribute {name!r}")
    return getattr(import_module("cube.exploring"), name)


def __dir__() -> list[str]:
    """All names, for tab completion, though none is yet imported."""
    return sorted(__all__)
