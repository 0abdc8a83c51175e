"""Opening what a run reads, with the statistics that it began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric

from loaders.statistics import Statistics as StoredStatistics
from training.batches import Data, stored_statistics
from training.compute import on_first_rank
from training.config import PretrainConfig
from training.data import open_data, write_own
from training.mixed import open_mixture
from training.normalising import OWN
from training.settings_data import BlobsData, MixtureData

__all__ = ["open_run_data"]


def open_run_data(config: PretrainConfig, fabric: Fabric, before: Mapping[str, Any] | None) -> Data:
    """Open the data of a run.

    Parameters
    ----------
    config
        The run.
    fabric
        Its ranks; all must call this.
    before
        Manifest of the checkpoint that it goes on from.
    """
    rank, ranks, device, strict = fabric.global_rank, fabric.world_size, fabric.device, before is None
    if not isinstance(config.data, MixtureData):
        stored = _stored(before)
        if stored is None:
            stored = _own(config, fabric, "statistics.json")
        return open_data(config, rank, ranks, device, stored=stored, strict=strict)
    known: dict[str, StoredStatistics] = {}
    for name in config.data.parts:
        found = _stored(None if before is None else {"statistics": before["parts"][name]["statistics"]})
        if found is None:
            found = _own(config.part(name), fabric, f"statistics-{name}.json")
        if found is not None:
            known[name] = found
    return open_mixture(config, rank, ranks, device, stored=known, strict=strict)


def _stored(manifest: Mapping[str, Any] | None) -> StoredStatistics | None:
    return None if manifest is None else stored_statistics(manifest)


def _own(config: PretrainConfig, fabric: Fabric, name: str) -> StoredStatistics | None:
    """Take statistics of what is learned from, where the config asks for it."""
    if isinstance(config.data, BlobsData | MixtureData) or config.data.statistics != OWN:
        return None
    file: Path = config.output_dir / name
    on_first_rank(fabric, lambda: write_own(config, file))
    return StoredStatistics.load(file)
