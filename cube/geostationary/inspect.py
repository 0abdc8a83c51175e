"""What is particular to looking at a build of ABI tiles: see :mod:`cube.job.inspect`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr

from cube.geostationary.dialect import imager_of
from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import TileLayout
from cube.geostationary.plan_table import PlanTable
from cube.geostationary.tiles import shard_key
from cube.job.folder import BuildFolder
from cube.job.ledger import Entry, Ledger
from cube.job.source import Planned
from cube.registry import INSTRUMENTS
from stratacube.errors import UsageError
from stratacube.progress import iterate

__all__ = ["ABI"]


class _Abi:
    """Builds of ABI tiles."""

    folder = AbiFolder
    tasks = "shard-"

    def title(self, config: Mapping[str, Any]) -> str:
        """Say what a configuration makes."""
        satellite = config["satellite"]
        try:
            title = imager_of(satellite.split()[0]).title
        except UsageError as error:
            raise UsageError(
                f"it is of the satellite {satellite!r}, and none of the instruments known here "
                f"({', '.join(INSTRUMENTS.names())}) flies on that; install the package that its instrument came from"
            ) from error
        return f"{title} tiles, {config['stratification']}, {satellite} {config['domain']}"

    def planned(self, folder: BuildFolder) -> Planned:
        """Read what was planned."""
        plan = PlanTable(folder.plan)
        return Planned(len(plan.shard_numbers), plan.words)

    def keys(self, folder: BuildFolder) -> list[str]:
        """Keys of all shards, in order."""
        return [shard_key(n) for n in PlanTable(folder.plan).shard_numbers]

    def joined(self, there: Entry, new: Entry) -> Entry:
        """No two parts tell of one shard."""
        return new

    def expected(self, folder: BuildFolder, config: Mapping[str, Any], entry: Entry) -> Iterator[str]:
        """Shards of an entry of 0.1.0."""
        if entry.key.startswith(self.tasks):
            shard = int(entry.key.removeprefix(self.tasks))
            for name in _images(TileLayout.of(dict(config))):
                if name not in entry.empty:
                    yield f"tiles.zarr/{name}/c/{shard}/0/0/0"

    def faults(self, folder: BuildFolder, config: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
        """Every shard of every image array is there and decodes, and no pixel is valid without a packing."""
        store, layout, plan = AbiFolder(folder.root).tiles, TileLayout.of(dict(config)), PlanTable(folder.plan)
        if not store.exists():
            yield f"{store} is missing; run the same command again"
            return
        for name in iterate(_images(layout), "decoding"):
            if not (store / name / "zarr.json").exists():
                yield f"{store / name} is missing; run the same command again"
                continue
            array = zarr.open_array(store / name, mode="r", zarr_format=3)
            if array.shape[0] != plan.tiles:
                yield f"{store / name} has {array.shape[0]} tiles but the plan {plan.tiles}"
                continue
            step = (array.shards or array.chunks)[0]
            for first in range(0, array.shape[0], step):
                yield from self._shard_faults(array, store / name, first, step, name, ledger)
        yield from _packing_faults(store, layout)

    def _shard_faults(self, array: Any, path: Any, first: int, step: int, name: str, ledger: Ledger) -> Iterator[str]:
        shard = path / "c" / "/".join([str(first // step), "0", "0", "0"])
        entry = ledger.entries.get(f"{self.tasks}{first // step:06d}")
        if not shard.exists():
            if entry is not None and name not in entry.empty:
                yield f"{shard} is missing; run the same command again"
            return
        try:
            array[first : first + step]
        except Exception as error:  # noqa: BLE001  (a codec may raise anything when bytes are wrong)
            told = f"{type(error).__name__}: {str(error)[:120]}"
            yield f"{shard} does not decode ({told}); remove it and run the same command again"


def _images(layout: TileLayout) -> list[str]:
    return [*(layout.band(c).name for c in layout.channels), *layout.mask_groups()]


def _packing_faults(store: Any, layout: TileLayout) -> Iterator[str]:
    """No pixel is called valid whose packing is not known."""
    if not (store / "packing_scale" / "zarr.json").exists():
        yield f"{store / 'packing_scale'} is missing; run the same command again"
        return
    if not (store / "packing_scale" / "c").exists():
        yield f"{store / 'packing_scale'} is empty: packings are gathered last; run the same command again to go on"
        return
    unknown = np.isnan(np.asarray(zarr.open_array(store / "packing_scale", mode="r", zarr_format=3)[...], "f8"))
    for mask, channels in layout.mask_groups().items():
        if not (store / mask / "zarr.json").exists():
            continue
        masks = zarr.open_array(store / mask, mode="r", zarr_format=3)
        for channel in channels:
            for tile, step in np.argwhere(unknown[:, :, layout.channels.index(channel)]):
                if (np.asarray(masks[int(tile), int(step)]) & layout.mask_bit(channel)).any():
                    name = layout.band(channel).name
                    yield f"tile {tile} step {step}: {name} has valid pixels but no packing; build again"


ABI = _Abi()
