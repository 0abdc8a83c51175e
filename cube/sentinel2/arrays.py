"""The Zarr store of a build: its metadata and coordinates, written once, and once more where its end is later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cube.job.run import Run
from cube.job.store import enlarge_store
from cube.sentinel2.cell_store import store_attributes
from cube.sentinel2.config import Sentinel2Config
from cube.sentinel2.folder import Sentinel2Folder
from cube.sentinel2.layers import layers_of
from cube.sentinel2.plan import Plan
from cube.sentinel2.products import ZarrLayout, create_composites, encoding

__all__ = ["describe_arrays", "told_digest"]


def describe_arrays(run: Run, config: Sentinel2Config, folder: Sentinel2Folder, plan: Plan, layout: ZarrLayout) -> None:
    """Write the store's metadata and coordinates, unless they are there."""
    kind, store = encoding(config.values, config.reducer), folder.store
    layers = layers_of(config.also, config.months_seen())
    images = {*config.bands, "count", *layers}

    def parts() -> Iterator[Path]:
        yield store / "zarr.json"
        for array in sorted(p for p in store.iterdir() if p.is_dir()):
            yield array / "zarr.json" if array.name in images else array

    def make() -> None:
        about, bands = store_attributes(config), config.bands
        if config.periods is not None and store.exists():
            enlarge_store(store, images, len(config.periods))
        create_composites(store, plan.lattice, layout, bands, kind, about, config.codec, config.periods, layers)

    before = told_digest(store / "zarr.json", "attributes", "config_hash")
    run.keep("arrays", make, parts, anew=before is not None and before != config.digest())


def told_digest(path: Path, *keys: str) -> str | None:
    """What a description says under some keys; None where there is none, or it is damaged, which others notice."""
    try:
        told: Any = json.loads(path.read_bytes())
        for key in keys:
            told = told[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(told)
