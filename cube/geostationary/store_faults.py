"""Whether a store of tiles holds all that its plan asks for; what is read at once does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cube.geostationary.folder import AbiFolder
from cube.geostationary.layout import TileLayout
from cube.geostationary.plan_table import BLOCK, PlanTable
from cube.geostationary.tiles import shard_key
from cube.job.ledger import Ledger
from stratacube.progress import iterate

__all__ = ["faults_of"]


def faults_of(folder: AbiFolder, config: Mapping[str, Any], ledger: Ledger) -> Iterator[str]:
    """Yield what is wrong: a shard that is not there or does not decode, a pixel that is valid without a packing."""
    store, layout, plan = folder.tiles, TileLayout.of(config), PlanTable(folder.plan)
    if not store.exists():
        yield f"{store} is missing; run the same command again"
        return
    for name in iterate(layout.images, "decoding"):
        if not (store / name / "zarr.json").exists():
            yield f"{store / name} is missing; run the same command again"
            continue
        array = zarr.open_array(store / name, mode="r", zarr_format=3)
        if array.shape[0] != plan.tiles:
            yield f"{store / name} has {array.shape[0]} tiles but the plan {plan.tiles}"
            continue
        step = (array.shards or array.chunks)[0]
        for first in range(0, array.shape[0], step):
            yield from _shard_faults(array, store / name, first, step, name, ledger)
    yield from _packing_faults(store, layout)


def _shard_faults(array: Any, path: Path, first: int, step: int, name: str, ledger: Ledger) -> Iterator[str]:
    shard = path / "c" / "/".join([str(first // step), "0", "0", "0"])
    entry = ledger.entries.get(shard_key(first // step))
    if not shard.exists():
        if entry is not None and name not in entry.empty:
            yield f"{shard} is missing; run the same command again"
        return
    try:
        for start in range(first, min(first + step, array.shape[0]), BLOCK):
            array[start : min(start + BLOCK, first + step)]
    except Exception as error:  # noqa: BLE001  (a codec may raise anything when bytes are wrong)
        told = f"{type(error).__name__}: {str(error)[:120]}"
        yield f"{shard} does not decode ({told}); remove it and run the same command again"


def _packing_faults(store: Path, layout: TileLayout) -> Iterator[str]:
    """No pixel is called valid whose packing is not known."""
    if not (store / "packing_scale" / "zarr.json").exists():
        yield f"{store / 'packing_scale'} is missing; run the same command again"
        return
    if not (store / "packing_scale" / "c").exists():
        yield f"{store / 'packing_scale'} is empty: packings are gathered last; run the same command again to go on"
        return
    packings = zarr.open_array(store / "packing_scale", mode="r", zarr_format=3)
    masks = {
        mask: zarr.open_array(store / mask, mode="r", zarr_format=3)
        for mask in layout.mask_groups()
        if (store / mask / "zarr.json").exists()
    }
    for first in range(0, packings.shape[0], BLOCK):
        unknown = np.isnan(np.asarray(packings[first : first + BLOCK], "f8"))
        if not unknown.any():
            continue
        for mask, array in masks.items():
            for channel in layout.mask_groups()[mask]:
                for tile, step in np.argwhere(unknown[:, :, layout.channels.index(channel)]):
                    if (np.asarray(array[first + int(tile), int(step)]) & layout.mask_bit(channel)).any():
                        name = layout.band(channel).name
                        yield f"tile {first + tile} step {step}: {name} has valid pixels but no packing; build again"
