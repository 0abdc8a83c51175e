"""Looking at a build: how far it is, and whether it holds all that it should."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from cube.abi.layout import TileLayout
from cube.abi.plan import read_plan
from cube.engine import iterate
from cube.folder import BuildFolder
from cube.ledger import Ledger
from stratacube.errors import UsageError

__all__ = ["ABI", "KINDS", "Kind", "status", "verify"]


@dataclass(frozen=True)
class Kind:
    """What is particular to the builds of one source."""

    title: Callable[[Mapping[str, Any]], str]
    """What a configuration makes, in words."""
    tasks: Callable[[BuildFolder, Ledger], tuple[str, list[str]]]
    """What is planned, in words, and the keys that the ledger should have."""
    faults: Callable[[BuildFolder, dict[str, Any], Ledger], Iterator[str]]
    """What is wrong with the products."""


KINDS = {"stratification": "cube.inspect:ABI", "reducer": "cube.sentinel2.inspect:SENTINEL2"}
"""Kinds by a key that only their configuration holds: a new source is one line here."""


def _kind(folder: BuildFolder, config: Mapping[str, Any]) -> Kind:
    for key, place in KINDS.items():
        if key in config:
            module, _, name = place.partition(":")
            kind: Kind = getattr(import_module(module), name)
            return kind
    raise UsageError(f"{folder.config} is of a build that this version does not know; use the version that made it")


def status(root: Path) -> int:
    """Print how far a build is.

    Returns
    -------
    int
        0 when all tasks are done, 1 otherwise.

    Raises
    ------
    UsageError
        If there is no build in the folder.
    """
    folder = BuildFolder(root)
    config = folder.described()
    kind = _kind(folder, config)
    sys.stdout.write(f"{root}: {kind.title(config)}\n")
    if not folder.plan.exists():
        sys.stdout.write("planned    not yet\n")
        return 1
    ledger = Ledger(folder.ledger)
    planned, keys = kind.tasks(folder, ledger)
    states = Counter(ledger.entries[k].status if k in ledger.entries else "to do" for k in keys)
    sys.stdout.write(f"planned    {planned}\n")
    for name in ("done", "partial", "failed", "to do"):
        if states[name]:
            sys.stdout.write(f"{name:10} {states[name]}\n")
    sys.stdout.write(f"published  {'yes' if folder.catalog.exists() else 'not yet'}\n")
    for reason, count in Counter(p.reason for p in ledger.problems()).most_common(10):
        sys.stdout.write(f"{count:6d} x {reason}\n")
    return 0 if states["done"] == len(keys) else 1


def verify(root: Path) -> int:
    """Check that a build holds all that it should, that all of it decodes, and that the catalog's links lead somewhere.

    Returns
    -------
    int
        0 when nothing is wrong, 1 otherwise; each fault is a line.

    Raises
    ------
    UsageError
        If there is no build in the folder.
    """
    folder = BuildFolder(root)
    config = folder.described()
    faults = list(_faults(folder, config))
    for fault in faults:
        sys.stdout.write(f"fault: {fault}\n")
    sys.stdout.write(f"{root}: {len(faults)} faults\n")
    return 1 if faults else 0


def _faults(folder: BuildFolder, config: dict[str, Any]) -> Iterator[str]:
    if not folder.plan.exists():
        yield f"{folder.plan} is missing: the build has not been planned"
        return
    kind, ledger = _kind(folder, config), Ledger(folder.ledger)
    for key in kind.tasks(folder, ledger)[1]:
        if key not in ledger.entries:
            yield f"{key} has not been built"
        elif ledger.entries[key].status != "done":
            yield f"{key} is {ledger.entries[key].status}: {ledger.entries[key].problems[0].reason}"
    yield from kind.faults(folder, config, ledger)
    yield from _link_faults(folder)


def _abi_title(config: Mapping[str, Any]) -> str:
    return f"ABI tiles, {config['stratification']}, {config['satellite']} {config['domain']}"


def _abi_tasks(folder: BuildFolder, _: Ledger) -> tuple[str, list[str]]:
    plan = read_plan(folder.plan).tiles
    shards = [f"shard-{n:06d}" for n in sorted(plan["shard"].unique())]
    return f"{len(plan)} tiles in {len(shards)} shards", shards


def _abi_faults(folder: BuildFolder, config: dict[str, Any], ledger: Ledger) -> Iterator[str]:
    yield from _store_faults(folder, config, read_plan(folder.plan).tiles, ledger)
    yield from _packing_faults(folder, config)


ABI = Kind(_abi_title, _abi_tasks, _abi_faults)


def _store_faults(folder: BuildFolder, config: dict[str, Any], plan: pd.DataFrame, ledger: Ledger) -> Iterator[str]:
    """Every shard of every image array is there and decodes."""
    if not folder.tiles.exists():
        yield f"{folder.tiles} is missing"
        return
    layout = TileLayout.of(config)
    group = zarr.open_group(folder.tiles, mode="r", zarr_format=3)
    names = [f"C{c:02d}" for c in layout.channels] + list(layout.mask_groups())
    remedy = f"remove its line from {folder.ledger.name} and build again"
    for name in iterate(names, "verifying"):
        if name not in group:
            yield f"{folder.tiles}/{name} is missing"
            continue
        array = zarr.open_array(folder.tiles / name, mode="r", zarr_format=3)
        if array.shape[0] != len(plan):
            yield f"{folder.tiles}/{name} has {array.shape[0]} tiles but the plan {len(plan)}"
            continue
        step = (array.shards or array.chunks)[0]
        for first in range(0, array.shape[0], step):
            shard = folder.tiles / name / "c" / "/".join([str(first // step), "0", "0", "0"])
            entry = ledger.entries.get(f"shard-{first // step:06d}")
            if not shard.exists():
                if entry is not None and name in entry.empty:
                    continue
                yield f"{shard} is missing; {remedy}"
                continue
            try:
                array[first : first + step]
            except Exception as error:  # noqa: BLE001  (a codec may raise anything when bytes are wrong)
                yield f"{shard} does not decode ({type(error).__name__}: {str(error)[:120]}); {remedy}"


def _packing_faults(folder: BuildFolder, config: dict[str, Any]) -> Iterator[str]:
    """No pixel is called valid whose packing is not known."""
    if not (folder.tiles / "packing_scale").exists():
        return
    layout = TileLayout.of(config)
    unknown = np.isnan(np.asarray(zarr.open_array(folder.tiles / "packing_scale", mode="r", zarr_format=3)[...], "f8"))
    for name, channels in layout.mask_groups().items():
        masks = zarr.open_array(folder.tiles / name, mode="r", zarr_format=3)
        for channel in channels:
            for tile, step in np.argwhere(unknown[:, :, layout.channels.index(channel)]):
                if (np.asarray(masks[int(tile), int(step)]) >> (channel - 1) & 1).any():
                    yield f"tile {tile} step {step}: C{channel:02d} has valid pixels but no packing; build again"


def _link_faults(folder: BuildFolder) -> Iterator[str]:
    """Every relative link and asset of the catalog leads to something; sources need not be there any more."""
    if not folder.catalog.exists():
        yield f"{folder.catalog} is missing: the build has not been published"
        return
    waiting, seen = [folder.catalog], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        try:
            described = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            yield f"{path} cannot be read ({error})"
            continue
        hrefs = [(link["href"], link["rel"]) for link in described.get("links", []) if link["rel"] != "derived_from"]
        hrefs += [(asset["href"], "asset") for asset in described.get("assets", {}).values()]
        for href, rel in hrefs:
            if "://" in href:
                continue
            target = (path.parent / href).resolve()
            if not target.exists():
                yield f"{path} leads to {href}, which is not there"
            elif rel in ("child", "item") and target not in seen:
                waiting.append(target)
