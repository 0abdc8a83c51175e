"""Shuffled, sharded, prefetched and exactly resumable batches of tile stores and cubes, for PyTorch.

``python -m loaders.stats STORE`` takes statistics, ``python -m loaders.bench STORE`` measures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders.apart import Apart
    from loaders.augment import View
    from loaders.batch import Batch, Decoder, PackedBatch
    from loaders.cubes import CubeDataset, cube_loader
    from loaders.datamodule import TileDataModule
    from loaders.loader import Loader, Stream
    from loaders.mixture import Mixture
    from loaders.statistics import Statistics
    from loaders.tiles import TileDataset, tile_loader

__all__ = [
    "Apart",
    "Batch",
    "CubeDataset",
    "Decoder",
    "Loader",
    "Mixture",
    "PackedBatch",
    "Statistics",
    "Stream",
    "TileDataModule",
    "TileDataset",
    "View",
    "cube_loader",
    "tile_loader",
]

_HOMES = {
    "Apart": "apart",
    "Batch": "batch",
    "CubeDataset": "cubes",
    "Decoder": "batch",
    "Loader": "loader",
    "Mixture": "mixture",
    "PackedBatch": "batch",
    "Statistics": "statistics",
    "Stream": "loader",
    "TileDataModule": "datamodule",
    "TileDataset": "tiles",
    "View": "augment",
    "cube_loader": "cubes",
    "tile_loader": "tiles",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: Lightning and xbatcher only by those who need them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'loaders' has no attribute {name!r}")
    return getattr(import_module(f"loaders.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """All names, for tab completion, though most are not yet imported."""
    return sorted(__all__)
